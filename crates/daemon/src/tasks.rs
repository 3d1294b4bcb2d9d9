//! Shutdown as a value, and tasks that have an owner.
//!
//! Every task of a process belongs to [`Tasks`] (or to a part that awaits its own). A task that should live as long as the process and
//! ends earlier ends the process, which its supervisor then restarts: better than a server of which half is dead.

use std::error::Error as StdError;
use std::future::Future;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinError, JoinSet};

/// Asks everything that holds a clone to finish.
pub type Stop = tokio_util::sync::CancellationToken;

type BoxError = Box<dyn StdError + Send + Sync>;

/// The tasks of a process.
#[derive(Debug)]
pub struct Tasks {
    stop: Stop,
    set: JoinSet<(&'static str, Result<(), BoxError>)>,
}

/// Why a process ends other than by request.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A task gave up.
    #[error("{task} failed")]
    Failed {
        /// Name of the task.
        task: &'static str,
        /// Its error.
        #[source]
        source: BoxError,
    },
    /// A task returned although nobody asked it to.
    #[error("{task} ended by itself")]
    Ended {
        /// Name of the task.
        task: &'static str,
    },
    /// A task panicked.
    #[error("a task panicked")]
    Panicked(#[source] JoinError),
    /// Tasks still ran when the time for finishing was over.
    #[error("{left} tasks did not finish within {grace:?}")]
    Unfinished {
        /// How many.
        left: usize,
        /// The time they had.
        grace: Duration,
    },
}

impl Tasks {
    /// No tasks yet; `stop` is requested when one ends early.
    pub fn new(stop: Stop) -> Self {
        Self { stop, set: JoinSet::new() }
    }

    /// The value that ends all tasks.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Starts a task that ends after [`Stop`] was requested, not before.
    pub fn spawn<E: Into<BoxError>>(
        &mut self,
        task: &'static str,
        future: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.set.spawn(async move { (task, future.await.map_err(Into::into)) });
    }

    /// Requests [`Stop`] when the process gets SIGTERM or SIGINT. The handlers are in place when this returns.
    pub fn stop_on_signals(&mut self) -> std::io::Result<()> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stop = self.stop.clone();
        self.spawn("signals", async move {
            tokio::select! {
                _ = terminate.recv() => tracing::info!(signal = "SIGTERM", "stopping"),
                _ = interrupt.recv() => tracing::info!(signal = "SIGINT", "stopping"),
                () = stop.cancelled() => {}
            }
            stop.cancel();
            Ok::<_, std::convert::Infallible>(())
        });
        Ok(())
    }

    /// Waits until stop is requested or a task ends, then gives the others `grace` to finish. The first failure is returned.
    pub async fn run(mut self, grace: Duration) -> Result<(), TaskError> {
        self.watch(grace).await
    }

    /// As [`Self::run`]; but as soon as `over` is requested all tasks are dropped where they are. None is left afterwards.
    pub async fn run_unless(mut self, over: &Stop, grace: Duration) -> Result<(), TaskError> {
        let outcome = over.run_until_cancelled(self.watch(grace)).await;
        self.stop.cancel();
        self.set.shutdown().await;
        outcome.unwrap_or(Ok(()))
    }

    async fn watch(&mut self, grace: Duration) -> Result<(), TaskError> {
        let mut outcome = Ok(());
        let stop = self.stop.clone();
        while let Some(Some(ended)) = stop.run_until_cancelled(self.set.join_next()).await {
            keep_first(&mut outcome, self.judge(ended));
            if outcome.is_err() {
                break;
            }
        }
        self.stop.cancel();
        let rest = tokio::time::timeout(grace, async {
            while let Some(ended) = self.set.join_next().await {
                let verdict = self.judge(ended);
                keep_first(&mut outcome, verdict);
            }
        });
        if rest.await.is_err() {
            keep_first(&mut outcome, Err(TaskError::Unfinished { left: self.set.len(), grace }));
        }
        outcome
    }

    fn judge(&self, ended: Result<(&'static str, Result<(), BoxError>), JoinError>) -> Result<(), TaskError> {
        match ended {
            Ok((task, Err(source))) => Err(TaskError::Failed { task, source }),
            Ok((task, Ok(()))) if !self.stop.is_cancelled() => Err(TaskError::Ended { task }),
            Ok((_, Ok(()))) => Ok(()),
            Err(error) => Err(TaskError::Panicked(error)),
        }
    }
}

fn keep_first(outcome: &mut Result<(), TaskError>, verdict: Result<(), TaskError>) {
    if outcome.is_ok() {
        *outcome = verdict;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::io;

    const GRACE: Duration = Duration::from_secs(5);

    async fn patient(stop: Stop) -> Result<(), Infallible> {
        stop.cancelled().await;
        Ok(())
    }

    #[tokio::test]
    async fn a_requested_stop_is_no_failure() {
        let mut tasks = Tasks::new(Stop::new());
        tasks.spawn("a", patient(tasks.stop()));
        tasks.spawn("b", patient(tasks.stop()));
        tasks.stop().cancel();
        assert!(tasks.run(GRACE).await.is_ok());
    }

    #[tokio::test]
    async fn a_task_that_ends_early_ends_the_others() {
        let mut tasks = Tasks::new(Stop::new());
        let stop = tasks.stop();
        tasks.spawn("patient", patient(stop.clone()));
        tasks.spawn("hasty", async { Ok::<_, Infallible>(()) });
        assert_eq!(tasks.run(GRACE).await.unwrap_err().to_string(), "hasty ended by itself");
        assert!(stop.is_cancelled());
    }

    #[tokio::test]
    async fn the_first_failure_is_the_one_reported() {
        let mut tasks = Tasks::new(Stop::new());
        let stop = tasks.stop();
        tasks.spawn("server", async { Err(io::Error::other("address in use")) });
        tasks.spawn("late", async move {
            stop.cancelled().await;
            Err(io::Error::other("also"))
        });
        let error = tasks.run(GRACE).await.unwrap_err();
        assert_eq!(crate::Chain(&error).to_string(), "server failed: address in use");
    }

    #[tokio::test]
    async fn tasks_are_dropped_when_their_time_is_over() {
        let mut tasks = Tasks::new(Stop::new());
        let held = std::sync::Arc::new(());
        let mine = held.clone();
        tasks.spawn("deaf", async move {
            let _mine = mine;
            std::future::pending::<Result<(), Infallible>>().await
        });
        let over = Stop::new();
        let run = tokio::spawn({
            let over = over.clone();
            async move { tasks.run_unless(&over, GRACE).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(std::sync::Arc::strong_count(&held), 2);
        over.cancel();
        run.await.unwrap().unwrap();
        assert_eq!(std::sync::Arc::strong_count(&held), 1, "nothing is left of the task");
    }

    #[tokio::test]
    async fn tasks_that_do_not_finish_are_counted() {
        let mut tasks = Tasks::new(Stop::new());
        tasks.spawn("deaf", std::future::pending::<Result<(), Infallible>>());
        tasks.stop().cancel();
        tasks.spawn("patient", patient(tasks.stop()));
        let error = tasks.run(Duration::from_millis(10)).await.unwrap_err();
        assert!(matches!(error, TaskError::Unfinished { left: 1, .. }), "{error}");
    }
}
