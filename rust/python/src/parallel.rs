//! Torch's own thread pool as a [`Parallel`]: `torch_parallel_for` of its stable C ABI, looked up
//! at run time, so that the extension links no torch. It obeys `torch.set_num_threads`.

use std::any::Any;
use std::cell::Cell;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use hornbeam_core::parallel::{Parallel, Rayon, Serial, lock_whole};
use pyo3::prelude::*;

use crate::error::{attached, detached};

type Body = unsafe extern "C" fn(i64, i64, *mut c_void);

struct Symbols {
    parallel_for: unsafe extern "C" fn(i64, i64, i64, Body, *mut c_void) -> i32,
    num_threads: unsafe extern "C" fn(*mut u32) -> i32,
    /// OpenMP's own, where torch's pool is one of OpenMP.
    set_openmp_threads: Option<unsafe extern "C" fn(i32)>,
}

#[cfg(unix)]
fn symbols() -> Option<&'static Symbols> {
    use libloading::os::unix::{Library, RTLD_NOW};
    /// glibc's flag: succeed only if the library is loaded already.
    const RTLD_NOLOAD: i32 = if cfg!(target_os = "macos") { 0x10 } else { 0x4 };
    static SYMBOLS: OnceLock<Option<Symbols>> = OnceLock::new();
    let find = || {
        let file = if cfg!(target_os = "macos") { "libtorch_cpu.dylib" } else { "libtorch_cpu.so" };
        // SAFETY: RTLD_NOLOAD runs no initialiser; the handle is leaked, so the symbols stay; the
        // signatures are those of torch/csrc/stable/c/shim.h.
        unsafe {
            let library = Library::open(Some(file), RTLD_NOW | RTLD_NOLOAD).ok()?;
            let symbols = Symbols {
                parallel_for: *library.get(b"torch_parallel_for\0").ok()?,
                num_threads: *library.get(b"torch_get_num_threads\0").ok()?,
                // Found in what torch was linked to.
                set_openmp_threads: library.get(b"omp_set_num_threads\0").ok().map(|found| *found),
            };
            std::mem::forget(library);
            Some(symbols)
        }
    };
    // Not cached while torch is absent: it may be imported later.
    match SYMBOLS.get() {
        Some(found) => found.as_ref(),
        None => {
            let found = find()?;
            SYMBOLS.get_or_init(|| Some(found)).as_ref()
        }
    }
}

#[cfg(not(unix))]
fn symbols() -> Option<&'static Symbols> {
    None
}

thread_local! {
    /// Threads of our operations where torch's own have one on this thread; 0 where both have as many.
    static OWN_THREADS: Cell<usize> = const { Cell::new(0) };
}

/// From now on torch's own operations run on the calling thread alone, and ours on `threads` threads; with
/// `None` both run on as many as before. Whether this torch can do so.
#[pyfunction]
fn split_threads(threads: Option<usize>) -> bool {
    let Some(set) = symbols().and_then(|symbols| symbols.set_openmp_threads) else { return false };
    let before = OWN_THREADS.replace(threads.unwrap_or(0));
    let torch_threads = if threads.is_some() { 1 } else { before };
    if torch_threads > 0 {
        // SAFETY: `omp_set_num_threads`, which the standard defines so; it concerns the calling thread.
        unsafe { set(torch_threads as i32) };
    }
    true
}

/// The pool that operations called from Python run on.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Host;

/// Tasks of one call, and the panic of the first that failed.
struct Tasks<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    failed: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

unsafe extern "C" fn body(begin: i64, end: i64, context: *mut c_void) {
    // SAFETY: `run` passes the address of its tasks, which outlive the loop.
    let tasks = unsafe { &*context.cast::<Tasks<'_>>() };
    for index in begin..end {
        // What other threads have begun ends by itself; the rest of a call that failed is of no use.
        if tasks.failed.load(Ordering::Relaxed) {
            return;
        }
        // A panic must not cross torch's C++ frames: the caller of `run` goes on with it.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (tasks.task)(index as usize))) {
            tasks.failed.store(true, Ordering::Relaxed);
            lock_whole(&tasks.panic).get_or_insert(panic);
        }
    }
}

impl Parallel for Host {
    fn num_threads(&self) -> usize {
        match (OWN_THREADS.get(), symbols()) {
            (own, _) if own > 0 => own,
            (_, Some(symbols)) => {
                let mut count = 1;
                // SAFETY: writes one integer.
                unsafe { (symbols.num_threads)(&raw mut count) };
                count.max(1) as usize
            }
            (_, None) => Rayon.num_threads(),
        }
    }

    fn run(&self, num_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if num_tasks <= 1 {
            return (0..num_tasks).for_each(task);
        }
        match symbols() {
            Some(symbols) => {
                let mut tasks = Tasks { task, failed: AtomicBool::new(false), panic: Mutex::new(None) };
                let own = OWN_THREADS.get();
                let set = |threads: usize| match symbols.set_openmp_threads {
                    // SAFETY: as in `split_threads`.
                    Some(set) if own > 0 => unsafe { set(threads as i32) },
                    _ => {}
                };
                set(own);
                // SAFETY: `body` matches the signature, and the call returns after the last task.
                let status =
                    unsafe { (symbols.parallel_for)(0, num_tasks as i64, 1, body, (&raw mut tasks).cast()) };
                set(1);
                if let Some(panic) = lock_whole(&tasks.panic).take() {
                    resume_unwind(panic);
                }
                assert_eq!(status, 0, "torch_parallel_for failed");
            }
            None => Rayon.run(num_tasks, task),
        }
    }
}

/// Which pool operations run on, and how many threads it has: `("torch", 2)`.
#[pyfunction]
fn thread_pool() -> (&'static str, usize) {
    (if symbols().is_some() { "torch" } else { "rayon" }, Host.num_threads())
}

/// Runs `num_tasks` tasks, of which number `faulty` panics: what becomes of a fault of ours, for tests.
/// `where_` is the pool of this process ("host"), the private one ("rayon"), or none ("attached").
#[pyfunction]
fn run_faulty_tasks(py: Python<'_>, where_: &str, num_tasks: usize, faulty: usize) -> PyResult<usize> {
    let done = AtomicUsize::new(0);
    let task = |index: usize| {
        if index == faulty {
            panic!("task {index} is faulty");
        }
        done.fetch_add(1, Ordering::Relaxed);
    };
    let on = |pool: &dyn Parallel| {
        pool.run(num_tasks, &task);
        Ok(())
    };
    match where_ {
        "host" => detached(py, || on(&Host))?,
        "rayon" => detached(py, || on(&Rayon))?,
        _ => attached(py, || on(&Serial))?,
    }
    Ok(done.into_inner())
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(run_faulty_tasks, m)?)?;
    m.add_function(wrap_pyfunction!(split_threads, m)?)?;
    m.add_function(wrap_pyfunction!(thread_pool, m)?)
}
