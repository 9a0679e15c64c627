//! SIGTERM and SIGINT: what says that the process should end, from its first moment on.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What says that the process should end.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on the process is not ended by them.
    pub(super) fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?,
        })
    }

    /// What comes of `work`; none, and it is dropped, if a signal comes before. Start-up waits for the API server without
    /// end, and process 1 of a container is not ended by a signal that it does not listen to.
    pub(super) async fn unless_one_comes<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.next() => None,
        }
    }

    /// Waits for the next one. Cancel safe.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn work_that_never_ends_is_given_up_at_a_signal() {
        let mut signals = Signals::listen().unwrap();
        assert_eq!(signals.unless_one_comes(async { 7 }).await, Some(7));
        for signal in ["TERM", "INT"] {
            let sent =
                std::process::Command::new("kill").args(["-s", signal, &std::process::id().to_string()]).status();
            assert!(sent.unwrap().success());
            let given_up = signals.unless_one_comes(std::future::pending::<()>());
            assert_eq!(tokio::time::timeout(PATIENCE, given_up).await, Ok(None), "{signal}");
        }
    }
}
