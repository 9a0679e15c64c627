//! Counters of what the arms did: written by one worker each, read by the admin server and the config stream.
//!
//! A cell belongs to one worker, which is its only writer, so an increment is a load and a store on a line that no other
//! core writes. Series are kept by `(uid, arm, revision)` and are never reused for another revision. What is counted is in
//! [`cell`], an arm's sum of it in [`series`], who keeps it here.

mod cell;
mod connection;
mod series;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use proxy_api::v1beta1 as api;
use routing::{Arm, Route};

pub use self::cell::{BOUNDS_MICROS, Cell, Totals};
pub(crate) use self::cell::{Buckets, add};
pub use self::connection::OpenConnection;
use self::series::message;
pub use self::series::{Key, Series};
use crate::gate::Gates;
use crate::http2::held::Held;
use crate::limits::InForce;
use crate::mirror;
use crate::pods::{PodCell, Pods};
use crate::sight::Sight;

/// Series per process: beyond it the ones that no route uses are dropped, oldest uid first. 2,000 routes have 4,000.
const MAX_SERIES: usize = 20_000;

/// Every series of the process.
#[derive(Debug)]
pub struct Registry {
    started: Instant,
    workers: usize,
    series: Mutex<BTreeMap<Key, Arc<Series>>>,
    /// Connections accepted and still open, one entry per worker.
    connections: Vec<AtomicU64>,
    limits: InForce,
    refused: AtomicU64,
    /// Requests without a route that were refused, by status.
    rejected: Mutex<BTreeMap<u16, u64>>,
    mirrors: mirror::Counters,
    gates: Gates,
    held: Held,
    sight: OnceLock<Arc<Sight>>,
}

impl Registry {
    /// For a process of `workers` workers that together keep `limits`.
    #[must_use]
    pub fn new(workers: usize, limits: InForce) -> Arc<Self> {
        let connections = (0..workers).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self {
            started: Instant::now(),
            workers,
            series: Mutex::default(),
            connections,
            limits,
            refused: AtomicU64::new(0),
            rejected: Mutex::default(),
            mirrors: mirror::Counters::default(),
            gates: Gates::new(workers),
            held: Held::new(workers),
            sight: OnceLock::new(),
        })
    }

    /// A request was refused with `status` before it was any arm's.
    pub fn reject(&self, status: u16) {
        *self.rejected.lock().unwrap_or_else(PoisonError::into_inner).entry(status).or_default() += 1;
    }

    /// Requests refused before they had a route, by status.
    #[must_use]
    pub fn rejected(&self) -> BTreeMap<u16, u64> {
        self.rejected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes requests visible from now on; only the first call counts.
    pub fn show(&self, sight: Arc<Sight>) {
        // A second one would be a mistake of the caller that harms nobody.
        let _ = self.sight.set(sight);
    }

    /// The access log and traces, if either is on.
    #[must_use]
    pub fn sight(&self) -> Option<&Arc<Sight>> {
        self.sight.get()
    }

    /// The cell of `worker` for an arm of `route`, made if it is the first.
    ///
    /// # Panics
    /// If `worker` is not below the number of workers.
    #[must_use]
    pub fn cell(&self, worker: usize, route: &Route, arm: Arm) -> Arc<Cell> {
        Arc::clone(&self.series(route, arm).cells[worker])
    }

    /// Where `worker` counts what one pod of an arm answers; none if the pod has no name, or there are too many.
    ///
    /// # Panics
    /// If `worker` is not below the number of workers.
    #[must_use]
    pub fn pod(&self, worker: usize, route: &Route, arm: Arm, pod: &str) -> Option<Arc<PodCell>> {
        self.series(route, arm).pods.cell(pod, worker, self.workers)
    }

    fn series(&self, route: &Route, arm: Arm) -> Arc<Series> {
        let revision = match arm {
            Arm::Stable => &route.stable_revision,
            Arm::Canary => &route.canary_revision,
        };
        let key = Key { uid: route.uid.clone(), arm, revision: revision.clone() };
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if series.len() >= MAX_SERIES && !series.contains_key(&key) {
            series.retain(|_, series| series.in_use());
        }
        let entry = series.entry(key).or_insert_with(|| {
            Arc::new(Series {
                namespace: route.namespace.clone(),
                canary: route.canary.clone(),
                service: route.service.clone(),
                cells: (0..self.workers).map(|_| Arc::default()).collect(),
                pods: Pods::default(),
            })
        });
        Arc::clone(entry)
    }

    /// Every series, in the order of uid, arm and revision.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(Key, Arc<Series>)> {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        series.iter().map(|(key, series)| (key.clone(), Arc::clone(series))).collect()
    }

    /// The limits of arms that have any.
    #[must_use]
    pub fn gates(&self) -> &Gates {
        &self.gates
    }

    /// What HTTP/2 leaves in the process.
    #[must_use]
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// What became of copies of requests.
    #[must_use]
    pub fn mirrors(&self) -> &mirror::Counters {
        &self.mirrors
    }

    /// What clients may take, and how often they wanted more.
    #[must_use]
    pub fn limits(&self) -> &InForce {
        &self.limits
    }

    /// When the process began.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Time since the process began: the clock of what its workers decide together.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open_connections(&self) -> u64 {
        self.connections.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// Connections that found too many others.
    #[must_use]
    pub fn refused_connections(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// The same numbers as the config stream carries them.
    #[must_use]
    pub fn arm_counters(&self) -> Vec<api::ArmCounters> {
        let used = self.snapshot().into_iter().filter(|(_, series)| series.used());
        let messages = used.map(|(key, series)| {
            // Pods before their arm: what is read never shows more requests of pods than of the arm.
            let pods = series.pods.counters();
            message(key, series.totals(), pods)
        });
        messages.filter(|message| message.started > 0).collect()
    }
}
