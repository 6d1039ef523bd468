//! Where parallel work runs. Core code takes a [`&dyn Parallel`](Parallel), so that it runs on the
//! host's own pool: inside a torch process a second pool beside torch's spinning workers was
//! measured 2 to 8 times slower than torch's.
//!
//! A pool of the program's own:
//!
//! ```
//! use hornbeam_core::ops::linear::{LinearShape, linear};
//! use hornbeam_core::parallel::{Parallel, Serial};
//!
//! /// Threads that live as long as a call.
//! struct Scoped(usize);
//!
//! impl Parallel for Scoped {
//!     fn num_threads(&self) -> usize {
//!         self.0
//!     }
//!
//!     fn run(&self, num_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
//!         std::thread::scope(|scope| {
//!             for first in 0..self.0 {
//!                 scope.spawn(move || (first..num_tasks).step_by(self.0).for_each(task));
//!             }
//!         });
//!     }
//! }
//!
//! let shape = LinearShape { rows: 1, inputs: 256, outputs: 512 };
//! let (x, weight) = (vec![0.5f32; 256], vec![0.25f32; 256 * 512]);
//! let on = |pool: &dyn Parallel| {
//!     let mut out = vec![0.0; 512];
//!     linear(&x, &weight, None, &mut out, shape, &mut Vec::new(), pool).map(|()| out)
//! };
//! assert_eq!(on(&Scoped(2))?, on(&Serial)?); // no bit depends on the pool
//! # Ok::<(), hornbeam_core::Error>(())
//! ```

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Locks, also where a panic of an earlier holder left the lock poisoned. The holder's call has ended with
/// that panic, which its caller has seen as an error; what it left half done is written anew (working memory,
/// results of a call) or stays as it is (a tree, a draft source).
pub fn lock_whole<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a lock holds, after all others are done with it; as [`lock_whole`] otherwise.
pub fn into_whole<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// A pool of threads that runs numbered tasks.
pub trait Parallel: Sync {
    /// How many tasks can run at once; at least 1.
    fn num_threads(&self) -> usize;

    /// Runs `task(i)` once for every `i < num_tasks`, in any order, and returns when all are done.
    fn run(&self, num_tasks: usize, task: &(dyn Fn(usize) + Sync));
}

/// Runs everything on the calling thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct Serial;

impl Parallel for Serial {
    fn num_threads(&self) -> usize {
        1
    }

    fn run(&self, num_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..num_tasks).for_each(task);
    }
}

/// A private rayon pool, built at its first use: for Rust programs, and for a torch without
/// `torch_parallel_for`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rayon;

impl Rayon {
    fn pool(self) -> Option<&'static rayon::ThreadPool> {
        static POOL: OnceLock<Option<rayon::ThreadPool>> = OnceLock::new();
        POOL.get_or_init(|| {
            rayon::ThreadPoolBuilder::new().thread_name(|i| format!("hornbeam-{i}")).build().ok()
        })
        .as_ref()
    }
}

impl Parallel for Rayon {
    fn num_threads(&self) -> usize {
        self.pool().map_or(1, rayon::ThreadPool::current_num_threads)
    }

    fn run(&self, num_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        use rayon::prelude::*;
        match self.pool() {
            Some(pool) => pool.install(|| (0..num_tasks).into_par_iter().with_max_len(1).for_each(task)),
            None => Serial.run(num_tasks, task),
        }
    }
}

/// Runs tasks in any order on all threads, each thread taking the next one when it is free.
pub(crate) fn dynamic(pool: &dyn Parallel, num_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
    let next = AtomicUsize::new(0);
    pool.run(pool.num_threads().min(num_tasks), &|_| {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= num_tasks {
                return;
            }
            task(index);
        }
    });
}
