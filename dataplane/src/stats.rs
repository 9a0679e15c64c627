//! Counters of what the arms did: written by one worker each, read by the admin server and the config stream.
//!
//! A cell belongs to one worker, which is its only writer, so an increment is a load and a store on a line that no other
//! core writes. Series are kept by `(uid, arm, revision)` and are never reused for another revision.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use proxy_api::latency;
use proxy_api::v1beta1 as api;
use routing::flag::FLAGS;
use routing::trace::Span;
use routing::{Arm, Flag, Flags, Limit, Outcome, Route};

use crate::exemplars::{Exemplar, Exemplars, Shown};
use crate::gate::Gates;
use crate::limits::{InForce, PortConnections};
use crate::mirror;
use crate::pods::{PodCell, Pods};
use crate::sight::Sight;

/// Upper bounds of the Prometheus histogram, in microseconds. Denser than OpenTelemetry's advice from 25 ms to 1 s,
/// where thresholds are set.
pub const BOUNDS_MICROS: [u64; 24] = [
    500, 1_000, 2_500, 5_000, 7_500, 10_000, 25_000, 50_000, 75_000, 100_000, 150_000, 200_000, 250_000, 300_000,
    400_000, 500_000, 750_000, 1_000_000, 1_500_000, 2_500_000, 5_000_000, 7_500_000, 10_000_000, 30_000_000,
];
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
    sight: OnceLock<Arc<Sight>>,
}

/// Identity of a series.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Of the Canary.
    pub uid: String,
    /// Which version.
    pub arm: Arm,
    /// Pod-template hash that the arm had.
    pub revision: String,
}

/// One arm under one revision.
#[derive(Debug)]
pub struct Series {
    /// Namespace of the Canary.
    pub namespace: String,
    /// Name of the Canary.
    pub canary: String,
    /// Name of the Service.
    pub service: String,
    cells: Vec<Arc<Cell>>,
    pods: Pods,
}

/// One worker's share of a series.
#[derive(Debug, Default)]
pub struct Cell {
    config: AtomicU64,
    started: AtomicU64,
    succeeded: AtomicU64,
    client_errors: AtomicU64,
    errors: AtomicU64,
    grpc_errors: AtomicU64,
    no_endpoint: AtomicU64,
    retries: AtomicU64,
    retries_denied: AtomicU64,
    recovered: AtomicU64,
    in_flight: AtomicU64,
    sum_micros: AtomicU64,
    latency: Buckets<{ latency::BUCKETS as usize }>,
    bounds: Buckets<{ BOUNDS_MICROS.len() + 1 }>,
    /// By hundred, made when first needed: most series see one or two of the classes.
    codes: [OnceLock<Box<Buckets<100>>>; 6],
    /// By response flag, made when first needed.
    flags: OnceLock<Box<Buckets<{ FLAGS.len() }>>>,
    /// Made with the first request whose span is exported.
    exemplars: OnceLock<Box<Exemplars>>,
    active_connections: AtomicU64,
    idle_connections: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct Buckets<const N: usize>(pub(crate) [AtomicU64; N]);

impl<const N: usize> Default for Buckets<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

/// The sum over all workers at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Newest `counter` of the route that a request was routed by.
    pub config: u64,
    /// Requests begun.
    pub started: u64,
    /// Requests that ended well.
    pub succeeded: u64,
    /// 4xx, and clients that went away.
    pub client_errors: u64,
    /// Failures, gRPC ones and missing endpoints included.
    pub errors: u64,
    /// Failures by `grpc-status`.
    pub grpc_errors: u64,
    /// The arm had no endpoint that could be reached.
    pub no_endpoint: u64,
    /// Attempts after the first.
    pub retries: u64,
    /// Attempts that were not made because the route's budget was spent.
    pub retries_denied: u64,
    /// Requests that ended well after their first attempt had failed; counted as failures of the arm.
    pub recovered: u64,
    /// Begun and not over.
    pub in_flight: u64,
    /// Connections to endpoints with a request, or a spliced one, as of the last second.
    pub active_connections: u64,
    /// Connections to endpoints without one, likewise.
    pub idle_connections: u64,
    /// Sum of all durations.
    pub sum_micros: u64,
    /// Log-linear histogram, see `proxy_api::latency`.
    pub latency: BTreeMap<u32, u64>,
    /// Requests per entry of [`BOUNDS_MICROS`], and one for those above.
    pub bounds: Vec<u64>,
    /// Requests by status code; 0: none was sent.
    pub codes: BTreeMap<u16, u64>,
    /// Requests by response flag; a request may have several.
    pub flags: Vec<(Flag, u64)>,
}

// Single writer: no read-modify-write instruction is needed.
pub(crate) fn add(counter: &AtomicU64, value: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(value), Relaxed);
}

impl Cell {
    /// A request was given to this arm under the route's `counter`.
    pub fn begin(&self, counter: u64) {
        self.config.store(counter, Relaxed);
        add(&self.started, 1);
        add(&self.in_flight, 1);
    }

    /// The request is over. `code` is the status that counts, 0 if none was sent.
    pub fn end(&self, code: u16, outcome: Outcome, no_endpoint: bool, took: Duration) {
        add(&self.in_flight, u64::MAX);
        match outcome {
            Outcome::Success => add(&self.succeeded, 1),
            Outcome::ClientError => add(&self.client_errors, 1),
            Outcome::Error => add(&self.errors, 1),
            Outcome::GrpcError => {
                add(&self.errors, 1);
                add(&self.grpc_errors, 1);
            }
        }
        if no_endpoint {
            add(&self.no_endpoint, 1);
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        add(&self.sum_micros, micros);
        add(&self.latency.0[latency::index(micros) as usize], 1);
        add(&self.bounds.0[BOUNDS_MICROS.partition_point(|bound| *bound < micros)], 1);
        let class = usize::from(code / 100).min(5);
        let codes = self.codes[class].get_or_init(Box::default);
        add(&codes.0[usize::from(code % 100)], 1);
    }

    /// The request had these flags, at least one.
    pub fn flagged(&self, flags: Flags) {
        let counts = self.flags.get_or_init(Box::default);
        for flag in flags.iter() {
            add(&counts.0[flag as usize], 1);
        }
    }

    /// A request of `code` that is over is part of a trace that can be looked at.
    pub fn sampled(&self, code: u16, span: &Span, took: Duration) {
        let (trace_id, span_id, ended) = (span.trace_id, span.span_id, SystemTime::now());
        self.exemplars.get_or_init(Box::default).note(code, Exemplar { trace_id, span_id, took, ended });
    }

    /// As many connections to endpoints are open now.
    pub fn connections(&self, active: u64, idle: u64) {
        self.active_connections.store(active, Relaxed);
        self.idle_connections.store(idle, Relaxed);
    }

    /// A request is tried again.
    pub fn retry(&self) {
        add(&self.retries, 1);
    }

    /// A request would have been tried again, but for the budget.
    pub fn retry_denied(&self) {
        add(&self.retries_denied, 1);
    }

    /// A request ended well by a later attempt.
    pub fn recovered(&self) {
        add(&self.recovered, 1);
    }

    fn add_to(&self, totals: &mut Totals) {
        totals.config = totals.config.max(self.config.load(Relaxed));
        // Ended ones before started ones: what is read never shows more ends than beginnings.
        totals.succeeded += self.succeeded.load(Relaxed);
        totals.client_errors += self.client_errors.load(Relaxed);
        totals.grpc_errors += self.grpc_errors.load(Relaxed);
        totals.no_endpoint += self.no_endpoint.load(Relaxed);
        totals.retries += self.retries.load(Relaxed);
        totals.retries_denied += self.retries_denied.load(Relaxed);
        totals.recovered += self.recovered.load(Relaxed);
        totals.errors += self.errors.load(Relaxed);
        totals.in_flight += self.in_flight.load(Relaxed);
        totals.active_connections += self.active_connections.load(Relaxed);
        totals.idle_connections += self.idle_connections.load(Relaxed);
        totals.started += self.started.load(Relaxed);
        totals.sum_micros += self.sum_micros.load(Relaxed);
        for (index, count) in (0..).zip(&self.latency.0) {
            match count.load(Relaxed) {
                0 => {}
                count => *totals.latency.entry(index).or_default() += count,
            }
        }
        totals.bounds.resize(BOUNDS_MICROS.len() + 1, 0);
        for (sum, count) in totals.bounds.iter_mut().zip(&self.bounds.0) {
            *sum += count.load(Relaxed);
        }
        if let Some(flags) = self.flags.get() {
            totals.flags.resize_with(FLAGS.len(), || (FLAGS[0].0, 0));
            for ((sum, (flag, _)), count) in totals.flags.iter_mut().zip(FLAGS).zip(&flags.0) {
                *sum = (flag, sum.1 + count.load(Relaxed));
            }
        }
        for (class, codes) in (0..).zip(&self.codes) {
            for (code, count) in (0..).zip(codes.get().into_iter().flat_map(|codes| &codes.0)) {
                match count.load(Relaxed) {
                    0 => {}
                    count => *totals.codes.entry(class * 100 + code).or_default() += count,
                }
            }
        }
    }
}

impl Series {
    /// The sum over all workers.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for cell in &self.cells {
            cell.add_to(&mut totals);
        }
        totals
    }

    /// The newest sampled requests of all workers.
    #[must_use]
    pub fn exemplars(&self) -> Shown {
        let mut shown = Shown::default();
        self.cells.iter().filter_map(|cell| cell.exemplars.get()).for_each(|kept| kept.add_to(&mut shown));
        shown
    }

    /// Whether it has counted a request.
    fn used(&self) -> bool {
        self.cells.iter().any(|cell| cell.started.load(Relaxed) > 0)
    }

    fn in_use(&self) -> bool {
        self.cells.iter().any(|cell| Arc::strong_count(cell) > 1)
    }
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
        // Of thousands of routes few are used: an unused series costs a look, not a sum.
        let used = self.snapshot().into_iter().filter(|(_, series)| series.used());
        let messages = used.map(|(key, series)| {
            // Pods before their arm: what is read never shows more requests of pods than of the arm.
            let pods = series.pods.counters();
            message(key, series.totals(), pods)
        });
        messages.filter(|message| message.started > 0).collect()
    }
}

fn message(key: Key, totals: Totals, pods: Vec<api::PodCounters>) -> api::ArmCounters {
    let (latency_index, latency_count) = totals.latency.into_iter().unzip();
    let arm = match key.arm {
        Arm::Stable => api::Arm::Stable,
        Arm::Canary => api::Arm::Canary,
    };
    api::ArmCounters {
        uid: key.uid,
        counter: totals.config,
        revision: key.revision,
        arm: arm.into(),
        started: totals.started,
        succeeded: totals.succeeded,
        client_errors: totals.client_errors,
        errors: totals.errors,
        grpc_errors: totals.grpc_errors,
        no_endpoint: totals.no_endpoint,
        in_flight: totals.in_flight,
        latency_index,
        latency_count,
        pods,
    }
}

/// Counts an open connection of one worker for as long as it lives.
#[derive(Debug)]
pub struct OpenConnection {
    registry: Arc<Registry>,
    worker: usize,
    port: Arc<PortConnections>,
}

impl OpenConnection {
    /// One more to `port` on `worker`; `None`, and counted as refused, if there are too many.
    #[must_use]
    pub fn admit(registry: &Arc<Registry>, worker: usize, port: &Arc<PortConnections>) -> Option<Self> {
        let limits = &registry.limits;
        let room = if registry.open_connections() < limits.connections() {
            limits.enter(port)
        } else {
            limits.reach(Limit::Connections);
            false
        };
        if !room {
            registry.refused.fetch_add(1, Relaxed);
            return None;
        }
        registry.connections[worker].fetch_add(1, Relaxed);
        Some(Self { registry: Arc::clone(registry), worker, port: Arc::clone(port) })
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.registry.connections[self.worker].fetch_sub(1, Relaxed);
        self.port.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_filed_by_code_outcome_and_duration() {
        let cell = Cell::default();
        for (code, outcome) in [(200, Outcome::Success), (404, Outcome::ClientError), (503, Outcome::Error)] {
            cell.begin(7);
            cell.end(code, outcome, code == 503, Duration::from_micros(2_500));
        }
        cell.begin(8);
        let mut totals = Totals::default();
        cell.add_to(&mut totals);
        assert_eq!((totals.started, totals.succeeded, totals.client_errors, totals.errors), (4, 1, 1, 1));
        assert_eq!((totals.in_flight, totals.no_endpoint, totals.config), (1, 1, 8));
        assert_eq!(totals.codes.into_iter().collect::<Vec<_>>(), [(200, 1), (404, 1), (503, 1)]);
        assert_eq!(totals.bounds[2], 3, "2.5 ms belongs to the bucket of at most 2.5 ms");
        assert_eq!(totals.sum_micros, 7_500);
    }
}
