//! Bounded pools of named threads for work that blocks: mounts, unlink, fsync, tar, plugins.
//!
//! Each kind of work has a pool of its own, so that a hung volume exhausts its own pool only. A
//! job's result is a plain [`Future`], good under any executor. Threads start on demand up to the
//! pool's limit and end after [`IDLE`] without work: an idle daemon keeps none.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(5);
/// Stack of a pool's thread, in bytes: deep enough for tar and JSON, shallow enough for fifty.
const STACK: usize = 512 * 1024;

type Job = Box<dyn FnOnce() + Send>;

/// A bounded set of threads for one kind of blocking work. Clones share the threads.
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

struct Shared {
    name: &'static str,
    limit: usize,
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("name", &self.0.name)
            .field("limit", &self.0.limit)
            .finish()
    }
}

impl Pool {
    /// Makes a pool of at most `limit` threads, named `name` (15 bytes show in `ps`).
    ///
    /// # Panics
    /// With a limit of 0: no job would ever run.
    #[must_use]
    pub fn new(name: &'static str, limit: usize) -> Self {
        assert!(limit > 0, "a pool needs a thread");
        Self(Arc::new(Shared {
            name,
            limit,
            queue: Mutex::default(),
            wake: Condvar::new(),
        }))
    }

    /// Queues `work`; the future is its result. The work runs to its end even if the future is
    /// dropped. A panic of the work continues in whoever awaits it.
    pub fn run<T, F>(&self, work: F) -> Running<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let slot = Arc::new(Mutex::new(Slot {
            result: None,
            waker: None,
        }));
        let filled = Arc::clone(&slot);
        self.submit(Box::new(move || {
            let result = catch_unwind(AssertUnwindSafe(work));
            let waker = {
                let mut slot = lock(&filled);
                slot.result = Some(result);
                slot.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }));
        Running(slot)
    }

    fn submit(&self, job: Job) {
        let mut queue = lock(&self.0.queue);
        queue.jobs.push_back(job);
        if queue.idle >= queue.jobs.len() || queue.threads >= self.0.limit {
            drop(queue);
            self.0.wake.notify_one();
            return;
        }
        queue.threads += 1;
        drop(queue);
        let shared = Arc::clone(&self.0);
        let started = thread::Builder::new()
            .name(self.0.name.to_owned())
            .stack_size(STACK)
            .spawn(move || shared.serve());
        if started.is_err() {
            // Out of threads: the job stays queued for a thread that exists, and only a pool
            // without any runs it on the caller's.
            let mut queue = lock(&self.0.queue);
            queue.threads -= 1;
            let stranded = if queue.threads == 0 {
                queue.jobs.pop_back()
            } else {
                None
            };
            drop(queue);
            if let Some(job) = stranded {
                job();
            }
        }
    }
}

impl Shared {
    fn serve(&self) {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                job();
                queue = lock(&self.queue);
                continue;
            }
            queue.idle += 1;
            let (woken, waited) = self
                .wake
                .wait_timeout(queue, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            queue = woken;
            queue.idle -= 1;
            if waited.timed_out() && queue.jobs.is_empty() {
                queue.threads -= 1;
                return;
            }
        }
    }
}

struct Slot<T> {
    result: Option<thread::Result<T>>,
    waker: Option<Waker>,
}

/// The result to come of a job given to [`Pool::run`].
pub struct Running<T>(Arc<Mutex<Slot<T>>>);

impl<T> fmt::Debug for Running<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Running")
    }
}

impl<T> Future for Running<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut slot = lock(&self.0);
        match slot.result.take() {
            Some(Ok(value)) => Poll::Ready(value),
            Some(Err(panic)) => {
                drop(slot);
                resume_unwind(panic)
            }
            None => {
                slot.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Nothing that runs under these locks can panic, so a poisoned one holds good data.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::task::Wake;

    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        let waker = Arc::new(Unpark(thread::current())).into();
        loop {
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(value) => return value,
                Poll::Pending => thread::park(),
            }
        }
    }

    #[test]
    fn a_result_arrives() {
        assert_eq!(block_on(Pool::new("test", 2).run(|| 7)), 7);
    }

    #[test]
    fn no_more_threads_than_the_limit_run_at_once() {
        let pool = Pool::new("test", 3);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let jobs: Vec<_> = (0..50)
            .map(|_| {
                let (now, most) = (Arc::clone(&now), Arc::clone(&most));
                pool.run(move || {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    thread::yield_now();
                    now.fetch_sub(1, Ordering::SeqCst);
                })
            })
            .collect();
        jobs.into_iter().for_each(block_on);
        assert!((1..=3).contains(&most.load(Ordering::SeqCst)));
    }

    #[test]
    fn work_goes_on_when_nobody_waits() {
        let (tell, told) = mpsc::channel();
        drop(Pool::new("test", 1).run(move || tell.send(())));
        told.recv().unwrap();
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new("test", 1);
        let bad = catch_unwind(AssertUnwindSafe(|| {
            block_on(pool.run(|| panic!("expected")))
        }));
        assert!(bad.is_err());
        assert_eq!(block_on(pool.run(|| 1)), 1);
    }
}
