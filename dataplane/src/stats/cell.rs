//! What one worker counts of an arm, and the sum over all workers. A request costs a handful of loads and stores.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use proxy_api::latency;
use routing::flag::FLAGS;
use routing::trace::Span;
use routing::{Flag, Flags, Outcome};

use crate::exemplars::{Exemplar, Exemplars};

/// Upper bounds of the Prometheus histogram, in microseconds. Denser than OpenTelemetry's advice from 25 ms to 1 s,
/// where thresholds are set.
pub const BOUNDS_MICROS: [u64; 24] = [
    500, 1_000, 2_500, 5_000, 7_500, 10_000, 25_000, 50_000, 75_000, 100_000, 150_000, 200_000, 250_000, 300_000,
    400_000, 500_000, 750_000, 1_000_000, 1_500_000, 2_500_000, 5_000_000, 7_500_000, 10_000_000, 30_000_000,
];
/// One worker's share of a series.
#[derive(Debug, Default)]
pub struct Cell {
    config: AtomicU64,
    pub(super) started: AtomicU64,
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
    pub(super) exemplars: OnceLock<Box<Exemplars>>,
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

    pub(super) fn add_to(&self, totals: &mut Totals) {
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
