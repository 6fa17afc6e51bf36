//! Threads that serve connections: each has a runtime of its own, and a connection stays on one
//! for life.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::thread::CpuSet;
use tokio::sync::{mpsc, oneshot};

/// Becomes the future a worker drives, there: what it opens belongs to that worker's runtime.
pub(crate) type Job = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

enum Order {
    Run(Job, Place),
    End,
}

/// A connection's place on a worker: the worker counts it until this is dropped.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(connections: &Arc<AtomicUsize>) -> Place {
        connections.fetch_add(1, Ordering::Relaxed);
        Place(Arc::clone(connections))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Worker {
    orders: mpsc::UnboundedSender<Order>,
    connections: Arc<AtomicUsize>,
    /// Dropped by the thread when it ends.
    ended: oneshot::Receiver<()>,
}

/// The workers of a server. Dropped, they end at once, and their connections with them.
pub(crate) struct Workers {
    workers: Vec<Worker>,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("count", &self.workers.len()).finish()
    }
}

impl Workers {
    /// Starts `count` threads, with `pin` each on a CPU of its own.
    ///
    /// # Errors
    /// If a thread or its runtime cannot be had, or there are fewer CPUs than threads to pin.
    pub(crate) fn start(count: usize, pin: bool) -> io::Result<Workers> {
        let cpus = if pin { Some(cpus_for(count)?) } else { None };
        let start = |number: usize| {
            let cpu = cpus.as_ref().map(|cpus| cpus[number]);
            Worker::start(number, cpu).map_err(|error| {
                io::Error::new(error.kind(), format!("worker {number} of {count}: {error}"))
            })
        };
        Ok(Workers { workers: (0..count).map(start).collect::<io::Result<_>>()? })
    }

    /// Runs a job on the worker that has the fewest.
    ///
    /// # Errors
    /// Gives the job back if no worker is left alive.
    pub(crate) fn run(&self, job: Job) -> Result<(), Job> {
        let mut alive: Vec<&Worker> =
            self.workers.iter().filter(|worker| !worker.orders.is_closed()).collect();
        alive.sort_by_key(|worker| worker.connections.load(Ordering::Relaxed));
        let mut job = job;
        for worker in alive {
            match worker.orders.send(Order::Run(job, Place::take(&worker.connections))) {
                Ok(()) => return Ok(()),
                // It died just now.
                Err(mpsc::error::SendError(Order::Run(back, _))) => job = back,
                Err(mpsc::error::SendError(Order::End)) => unreachable!("an order to run was sent"),
            }
        }
        Err(job)
    }

    /// Ends the workers, whose jobs are done; ready when the threads have ended.
    pub(crate) async fn end(self) {
        for worker in &self.workers {
            // An error: it has ended already.
            let _ = worker.orders.send(Order::End);
        }
        for worker in self.workers {
            let _ = worker.ended.await;
        }
    }
}

impl Worker {
    fn start(number: usize, cpu: Option<usize>) -> io::Result<Worker> {
        let (orders, inbox) = mpsc::unbounded_channel();
        let (alive, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (report, pinned) = std::sync::mpsc::channel();
        std::thread::Builder::new().name(format!("rdma-rpc-{number}")).spawn(move || {
            // Whoever waits has seen the thread start.
            let _ = report.send(cpu.map_or(Ok(()), pin_to));
            work(&runtime, inbox);
            // Handlers may have left work that blocks; the server does not wait for it.
            runtime.shutdown_background();
            drop::<oneshot::Sender<()>>(alive);
        })?;
        match pinned.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(io::Error::other("the thread ended at once")),
        }
        Ok(Worker { orders, connections: Arc::default(), ended })
    }
}

/// The life of a worker.
fn work(runtime: &tokio::runtime::Runtime, mut inbox: mpsc::UnboundedReceiver<Order>) {
    runtime.block_on(async {
        // In a task of its own: the future given to `block_on` is served less often.
        let orders = tokio::spawn(async move {
            while let Some(Order::Run(job, place)) = inbox.recv().await {
                tokio::spawn(async move {
                    job().await;
                    drop(place);
                });
            }
        });
        // It does nothing that could panic.
        let _ = orders.await;
    });
}

/// The CPUs this process may use, as many as are wanted.
fn cpus_for(count: usize) -> io::Result<Vec<usize>> {
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let cpus: Vec<usize> =
        (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).take(count).collect();
    if cpus.len() == count {
        return Ok(cpus);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!(
            "{count} workers cannot be pinned to a CPU each: this process may use {} (taskset, \
             cgroup cpusets); start fewer, or set pin_workers = false",
            cpus.len()
        ),
    ))
}

/// Keeps this thread on one CPU.
fn pin_to(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).map_err(|errno| {
        let error = io::Error::from(errno);
        io::Error::new(error.kind(), format!("cannot be pinned to CPU {cpu}: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use std::thread::ThreadId;
    use std::time::Duration;

    use super::*;

    fn job<F: Future<Output = ()> + Send + 'static>(
        make: impl FnOnce() -> F + Send + 'static,
    ) -> Job {
        Box::new(move || Box::pin(make()))
    }

    /// Runs a job that says where it is and stays until it is let go.
    async fn settle(workers: &Workers) -> (ThreadId, oneshot::Sender<()>) {
        let (told, here) = oneshot::channel();
        let (let_go, stay) = oneshot::channel::<()>();
        let made = job(move || async move {
            told.send(std::thread::current().id()).unwrap();
            let _ = stay.await;
        });
        assert!(workers.run(made).is_ok());
        (within(here).await.unwrap(), let_go)
    }

    async fn within<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time")
    }

    fn counts(workers: &Workers) -> Vec<usize> {
        workers.workers.iter().map(|worker| worker.connections.load(Ordering::Relaxed)).collect()
    }

    #[tokio::test]
    async fn each_job_goes_where_the_fewest_are() {
        let workers = Workers::start(3, false).unwrap();
        let mut held = Vec::new();
        for _ in 0..9 {
            held.push(settle(&workers).await);
        }
        assert_eq!(counts(&workers), [3, 3, 3]);
        let (gone, let_go) = held.swap_remove(4);
        let_go.send(()).unwrap();
        within(async {
            while counts(&workers).iter().sum::<usize>() == 9 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        assert_eq!(settle(&workers).await.0, gone, "the freed place is taken");
        drop(held);
        within(workers.end()).await;
    }

    #[tokio::test]
    async fn a_dead_worker_is_passed_over_and_without_any_the_job_comes_back() {
        let mut workers = Workers::start(2, false).unwrap();
        let (dead, _) = settle(&workers).await;
        assert!(workers.workers[0].orders.send(Order::End).is_ok());
        within(&mut workers.workers[0].ended).await.unwrap_err();
        for _ in 0..4 {
            assert_ne!(settle(&workers).await.0, dead);
        }
        assert!(workers.workers[1].orders.send(Order::End).is_ok());
        within(&mut workers.workers[1].ended).await.unwrap_err();
        assert!(workers.run(job(|| async {})).is_err());
    }

    #[tokio::test]
    async fn a_job_that_panics_ends_alone() {
        let workers = Workers::start(1, false).unwrap();
        assert!(workers.run(job(|| async { panic!("a job's own") })).is_ok());
        settle(&workers).await;
        within(async {
            while counts(&workers) != [0] {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    #[tokio::test]
    async fn dropped_workers_drop_their_jobs() {
        let workers = Workers::start(2, false).unwrap();
        let (_, mut let_go) = settle(&workers).await;
        drop(workers);
        within(let_go.closed()).await;
    }

    #[tokio::test]
    async fn pinned_workers_stay_on_cpus_of_their_own_and_too_many_are_refused() {
        let allowed = rustix::thread::sched_getaffinity(None).unwrap();
        let count = allowed.count() as usize;
        let workers = Workers::start(count, true).unwrap();
        let mut seen = Vec::new();
        for _ in 0..count {
            let (told, here) = oneshot::channel();
            let made = job(move || async move {
                told.send(rustix::thread::sched_getaffinity(None).unwrap()).unwrap();
                std::future::pending().await
            });
            assert!(workers.run(made).is_ok());
            let set = within(here).await.unwrap();
            assert_eq!(set.count(), 1);
            let cpu = (0..CpuSet::MAX_CPU).find(|&cpu| set.is_set(cpu)).unwrap();
            assert!(allowed.is_set(cpu) && !seen.contains(&cpu), "{cpu} of {seen:?}");
            seen.push(cpu);
        }
        let error = Workers::start(count + 1, true).unwrap_err().to_string();
        assert!(error.contains(&format!("may use {count}")), "{error}");
    }
}
