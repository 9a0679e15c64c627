//! The whole proxy: its workers, the table in force, and its life from start to drained. Tests run it in-process.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use routing::{Limits, Table};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::limits::InForce;
use crate::stats::Registry;
use crate::upstream::Glance;
use crate::view::Place;
use crate::worker::{self, Command, Handle, Phase};

/// Time that a worker has to take a table over. It takes microseconds; a worker that is stuck must not stop the others
/// from being acknowledged about, so it counts as failed.
const APPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// Time that workers have to say how their endpoints are.
const GLANCE_TIMEOUT: Duration = Duration::from_millis(500);
/// After the listeners are closed: time for clients to use their idle connections a last time and be told to close.
const LINGER: Duration = Duration::from_secs(5);
/// How often the drain looks whether connections are left.
const DRAIN_POLL: Duration = Duration::from_millis(50);

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    workers: Vec<Handle>,
    shared: Arc<Shared>,
    phase: watch::Sender<Phase>,
}

/// What the admin server and the config stream see of the proxy.
#[derive(Debug)]
pub struct Shared {
    /// Counters.
    pub registry: Arc<Registry>,
    table: ArcSwap<Table>,
    configured: AtomicBool,
    phase: watch::Receiver<Phase>,
    heartbeats: Vec<Arc<AtomicU64>>,
    /// Weak: a worker ends when the process lets go of it.
    commands: Vec<mpsc::WeakSender<Command>>,
}

/// How to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Worker threads, at least one.
    pub workers: usize,
    /// Address to listen on; all of both families if absent.
    pub address: Option<IpAddr>,
    /// Connections from clients at a time, all workers together, unless the configuration says otherwise.
    pub max_connections: u64,
    /// Bytes of HTTP/2 that all connections leave in the proxy.
    pub max_held_bytes: u64,
    /// Connections that the open files allow, whatever the configuration says.
    pub possible_connections: u64,
    /// Distinguishes this process's random numbers.
    pub seed: u64,
}

impl Proxy {
    /// Starts the workers; they listen nowhere until a table is applied.
    ///
    /// # Errors
    /// When a thread cannot be made.
    pub fn start(settings: &Settings) -> io::Result<Self> {
        let limits =
            Limits { connections: settings.max_connections, held_bytes: settings.max_held_bytes, ..Limits::default() };
        let registry = Registry::new(settings.workers, InForce::new(limits, settings.possible_connections));
        let (phase, receiver) = watch::channel(Phase::Serving);
        let workers = (0..settings.workers)
            .map(|i| worker::spawn(i, Arc::clone(&registry), settings.address, receiver.clone(), settings.seed))
            .collect::<io::Result<Vec<_>>>()?;
        let heartbeats = workers.iter().map(|worker| Arc::clone(&worker.heartbeat)).collect();
        let commands = workers.iter().map(|worker| worker.commands.downgrade()).collect();
        let table = ArcSwap::from_pointee(Table::new(settings.seed));
        let configured = AtomicBool::new(false);
        let shared = Arc::new(Shared { registry, table, configured, phase: receiver, heartbeats, commands });
        Ok(Self { workers, shared, phase })
    }

    /// For those who look on.
    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Brings a table into force on every worker and returns when it is, with the ports that could not be opened.
    pub async fn apply(&self, table: Table) -> BTreeMap<u16, String> {
        let table = Arc::new(table);
        self.shared.table.store(Arc::clone(&table));
        let mut replies = Vec::with_capacity(self.workers.len());
        for worker in &self.workers {
            let (applied, reply) = oneshot::channel();
            // A full queue means a stuck worker: its missing reply tells.
            let _ = worker.commands.try_send(Command::Apply(Arc::clone(&table), applied));
            replies.push(reply);
        }
        let mut errors = BTreeMap::new();
        for reply in replies {
            match tokio::time::timeout(APPLY_TIMEOUT, reply).await {
                Ok(Ok(failed)) => errors.extend(failed),
                Ok(Err(_)) | Err(_) => {
                    errors.extend(table.ports().keys().map(|port| (*port, "a worker does not answer".to_owned())));
                }
            }
        }
        self.shared.configured.store(true, Relaxed);
        errors
    }

    /// Ends the proxy without losing a request: not ready at once, `delay` for that to reach everybody who sends here,
    /// then until all connections are closed, at the latest `deadline` after that.
    pub async fn drain(self, delay: Duration, deadline: Duration) {
        self.phase.send_replace(Phase::Draining);
        tokio::time::sleep(delay).await;
        self.phase.send_replace(Phase::Closing);
        let end = Instant::now() + deadline;
        self.wait_for_connections((Instant::now() + LINGER).min(end)).await;
        self.phase.send_replace(Phase::Ending);
        self.wait_for_connections(end).await;
        let left = self.shared.registry.open_connections();
        if left > 0 {
            tracing::warn!(connections = left, "drain deadline is over, closing what is open");
        }
        for worker in self.workers {
            worker.join();
        }
    }

    async fn wait_for_connections(&self, until: Instant) {
        while self.shared.registry.open_connections() > 0 && Instant::now() < until {
            tokio::time::sleep(DRAIN_POLL).await;
        }
    }
}

impl Shared {
    /// The table in force.
    #[must_use]
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Whether requests may be sent here: a table was applied and the proxy is not draining.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.configured.load(Relaxed) && *self.phase.borrow() == Phase::Serving
    }

    /// The endpoints as each worker sees them, of those that answer within [`GLANCE_TIMEOUT`].
    pub async fn glances(&self) -> Vec<HashMap<Place, Glance>> {
        let ask = |worker: &mpsc::WeakSender<Command>| {
            let (wanted, answer) = oneshot::channel();
            worker.upgrade()?.try_send(Command::Glance(wanted)).ok()?;
            Some(answer)
        };
        let asked: Vec<_> = self.commands.iter().filter_map(ask).collect();
        let until = Instant::now() + GLANCE_TIMEOUT;
        let mut seen = Vec::with_capacity(asked.len());
        for answer in asked {
            seen.extend(tokio::time::timeout_at(until, answer).await.into_iter().flatten());
        }
        seen
    }

    /// Heartbeats of the workers; each rises every second.
    #[must_use]
    pub fn heartbeats(&self) -> Vec<u64> {
        self.heartbeats.iter().map(|beat| beat.load(Relaxed)).collect()
    }
}
