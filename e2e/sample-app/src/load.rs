//! The load generator: open loop, its own honest count.
//!
//! Requests are due at fixed times, whatever becomes of the earlier ones; each is timed from when it was due, so a stall
//! shows in the latency instead of hiding ("coordinated omission", Gil Tene). A bounded number of connections carry
//! them; each connection is given up after a while, so that new ones go through the Service anew. *Lost* is a request
//! without a complete answer below 500. [`report`] counts, [`connection`] sends.

pub mod connection;
pub mod report;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use report::{Failure, Report};

/// Connections at most; a request that finds them all busy and [`QUEUE`] full is counted as `skipped`.
const CONNECTIONS: usize = 48;
/// Requests that may be due and wait for a connection.
const QUEUE: usize = 512;

/// What is sent where, how often.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address of the Service.
    pub address: SocketAddr,
    /// `Host` of every request.
    pub host: String,
    /// Requests per second, at least 1.
    pub rps: u32,
    /// After this long a request counts as lost.
    pub timeout: Duration,
    /// A connection is closed and opened anew after so many requests, at least 1.
    pub requests_per_connection: u32,
}

impl Settings {
    /// The usual load on `address`: 2 s deadline, 50 requests per connection.
    #[must_use]
    pub fn new(address: SocketAddr, host: &str, rps: u32) -> Self {
        Self { address, host: host.to_owned(), rps, timeout: Duration::from_secs(2), requests_per_connection: 50 }
    }
}

/// A running load. Dropping it stops it without waiting.
#[derive(Debug)]
pub struct Load {
    report: Arc<Mutex<Report>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Load {
    /// Starts it on the current runtime.
    #[must_use]
    pub fn start(settings: Settings) -> Self {
        let report = Arc::new(Mutex::new(Report::default()));
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let (due, queue) = mpsc::channel(QUEUE);
        let queue = Arc::new(tokio::sync::Mutex::new(queue));
        for _ in 0..CONNECTIONS {
            tasks.spawn(connection::run(settings.clone(), queue.clone(), report.clone()));
        }
        tasks.spawn(tick(settings.rps.max(1), due, report.clone(), stop.clone()));
        tasks.close();
        Self { report, stop, tasks }
    }

    /// The counts so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends no more, waits for what is in flight, and returns the final counts.
    pub async fn stop(self) -> Report {
        self.stop.cancel();
        self.tasks.wait().await;
        self.report()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Says when each request is due. Ends by dropping the sender, which ends the connections once the queue is empty.
async fn tick(rps: u32, due: mpsc::Sender<Instant>, report: Arc<Mutex<Report>>, stop: CancellationToken) {
    let period = Duration::from_secs(1) / rps;
    let mut next = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(next.into()) => {}
        }
        // Timers have a grain of 1 ms; what came due meanwhile goes out together.
        let now = Instant::now();
        while next <= now {
            if due.try_send(next).is_err() {
                report.lock().unwrap_or_else(PoisonError::into_inner).skipped += 1;
            }
            next += period;
        }
    }
}
