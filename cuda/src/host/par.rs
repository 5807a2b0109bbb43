//! Work spread over threads: tasks are claimed one by one, and each writes its own part of a shared slice.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs `body(0) .. body(tasks - 1)`, each once, on the threads of the current rayon pool.
///
/// A thread that is free claims the lowest task not yet claimed, so neighbouring tasks run at about the same time and
/// share what they read. Results must not depend on which thread runs a task.
pub fn for_each_task(tasks: usize, body: impl Fn(usize) + Sync) {
    let threads = rayon::current_num_threads().min(tasks);
    if threads <= 1 {
        (0..tasks).for_each(body);
        return;
    }
    let next = AtomicUsize::new(0);
    let claim = || {
        loop {
            let task = next.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                break;
            }
            body(task);
        }
    };
    rayon::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| claim());
        }
        claim();
    });
}

/// A slice that several tasks write to at once, each its own part.
#[derive(Clone, Copy)]
pub struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for `&mut [T]`, which may be sent when `T` may; parts are only reached through the unsafe `part`,
// whose callers promise that no two overlap.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Takes the slice for as long as its parts are in use.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    /// Values `from .. from + len`.
    ///
    /// # Safety
    /// No other part that overlaps these values is alive.
    ///
    /// # Panics
    /// When the part reaches past the end.
    #[inline]
    #[allow(clippy::mut_from_ref, reason = "the callers keep the parts apart")]
    pub unsafe fn part(&self, from: usize, len: usize) -> &mut [T] {
        assert!(from <= self.len && len <= self.len - from, "part {from}+{len} of {}", self.len);
        // SAFETY: inside the slice by the check above; alone by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whatever_the_number_of_threads() {
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for tasks in [0, 1, 2, 97] {
                let mut seen = vec![0u32; tasks];
                let shared = Shared::new(&mut seen);
                pool.install(|| {
                    for_each_task(tasks, |task| {
                        // SAFETY: every task has its own value.
                        let own = unsafe { shared.part(task, 1) };
                        own[0] += 1;
                    });
                });
                assert_eq!(seen, vec![1; tasks]);
            }
        }
    }
}
