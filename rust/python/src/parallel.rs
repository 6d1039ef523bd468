//! Torch's own thread pool as a [`Parallel`]: `torch_parallel_for` of its stable C ABI, looked up
//! at run time, so that the extension links no torch. It obeys `torch.set_num_threads`.

use std::ffi::c_void;
use std::sync::OnceLock;

use hornbeam_core::parallel::{Parallel, Rayon};
use pyo3::prelude::*;

type Body = unsafe extern "C" fn(i64, i64, *mut c_void);

struct Symbols {
    parallel_for: unsafe extern "C" fn(i64, i64, i64, Body, *mut c_void) -> i32,
    num_threads: unsafe extern "C" fn(*mut u32) -> i32,
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

/// The pool that operations called from Python run on.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Host;

type Task<'a> = &'a (dyn Fn(usize) + Sync);

unsafe extern "C" fn body(begin: i64, end: i64, context: *mut c_void) {
    // SAFETY: `run` passes the address of its task, which outlives the loop.
    let task = unsafe { &*context.cast::<Task<'_>>() };
    // A panic must not cross torch's C++ frames: it ends the process with its message instead.
    let guard = Abort;
    (begin..end).for_each(|i| task(i as usize));
    std::mem::forget(guard);
}

struct Abort;

impl Drop for Abort {
    fn drop(&mut self) {
        std::process::abort();
    }
}

impl Parallel for Host {
    fn num_threads(&self) -> usize {
        match symbols() {
            Some(symbols) => {
                let mut count = 1;
                // SAFETY: writes one integer.
                unsafe { (symbols.num_threads)(&raw mut count) };
                count.max(1) as usize
            }
            None => Rayon.num_threads(),
        }
    }

    fn run(&self, num_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if num_tasks <= 1 {
            return (0..num_tasks).for_each(task);
        }
        match symbols() {
            Some(symbols) => {
                let mut task: Task<'_> = task;
                // SAFETY: `body` matches the signature, and the call returns after the last task.
                let status =
                    unsafe { (symbols.parallel_for)(0, num_tasks as i64, 1, body, (&raw mut task).cast()) };
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

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(thread_pool, m)?)
}
