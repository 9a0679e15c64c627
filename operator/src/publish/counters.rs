//! What the proxies counted, added up so that no request is ever counted twice. Pure.
//!
//! Proxies send running totals since their start, so a lost message costs nothing, and a message that comes twice or late
//! is known by its sequence number within the stream. A restarted proxy is a new source; the last report of the old one
//! stays in the sum.

use std::collections::BTreeMap;
use std::sync::Arc;

use proxy_api::latency::BUCKETS;
use proxy_api::v1beta1::{Arm, ArmCounters, Counters};

/// Most processes remembered per arm. Only a release with more proxy restarts than this forgets: the sum then falls by
/// the source that was silent longest; it is never too high.
const SOURCES_PER_ARM: usize = 1_024;

/// One process of a proxy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Source {
    /// Namespace and pod.
    pub(super) proxy: Arc<str>,
    /// Random per process start.
    pub(super) incarnation: u64,
}

/// Requests of one arm of one revision, summed over all proxies since they first served that revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests that were given an endpoint, or should have been.
    pub started: u64,
    /// Answered, and neither of the two below.
    pub succeeded: u64,
    /// Answered 4xx.
    pub client_errors: u64,
    /// Answered 5xx, or not at all.
    pub errors: u64,
    /// Part of `errors`: a grpc-status that counts as failure.
    pub grpc_errors: u64,
    /// Part of `errors`: no endpoint was ready.
    pub no_endpoint: u64,
    /// Not yet ended; proxies that have gone count 0.
    pub in_flight: u64,
    /// Time to the last byte; index as in [`proxy_api::latency`], `BUCKETS` long.
    pub latency: Vec<u64>,
}

#[derive(Default)]
pub(super) struct Accumulator {
    /// By uid, then by revision and arm.
    arms: BTreeMap<String, BTreeMap<(String, i32), Reports>>,
    /// Rises with each message taken; orders reports by age.
    tick: u64,
}

type Reports = BTreeMap<Source, Report>;

struct Report {
    sequence: u64,
    tick: u64,
    counters: ArmCounters,
}

impl Accumulator {
    /// Takes the parts of `message` whose (uid, revision) is `known`.
    pub(super) fn record(&mut self, source: &Source, message: Counters, known: impl Fn(&str, &str) -> bool) {
        self.tick += 1;
        let sequence = message.sequence;
        for counters in message.arms {
            if !known(&counters.uid, &counters.revision) {
                continue;
            }
            let arm = (counters.revision.clone(), counters.arm);
            let reports = self.arms.entry(counters.uid.clone()).or_default().entry(arm).or_default();
            // Within one process the numbers only rise with the sequence: anything else is late, doubled or wrong.
            let is_newer = |held: &Report| sequence > held.sequence && counters.started >= held.counters.started;
            if reports.get(source).is_none_or(is_newer) {
                reports.insert(source.clone(), Report { sequence, tick: self.tick, counters });
            }
            if reports.len() > SOURCES_PER_ARM {
                let oldest = reports.iter().min_by_key(|(_, report)| report.tick).map(|(source, _)| source.clone());
                oldest.and_then(|source| reports.remove(&source));
            }
        }
    }

    /// A stream of the process has ended. Its next one numbers its messages anew; until then nothing is in flight.
    pub(super) fn gone(&mut self, source: &Source) {
        for reports in self.arms.values_mut().flat_map(BTreeMap::values_mut) {
            if let Some(report) = reports.get_mut(source) {
                report.counters.in_flight = 0;
                report.sequence = 0;
            }
        }
    }

    /// Forgets the arms of `uid` whose revision is not `wanted`. Nothing is lost if one comes back: it is a running total.
    pub(super) fn retain(&mut self, uid: &str, wanted: impl Fn(&str) -> bool) {
        if let Some(arms) = self.arms.get_mut(uid) {
            arms.retain(|(revision, _), _| wanted(revision));
        }
    }

    /// Forgets everything of `uid`.
    pub(super) fn forget(&mut self, uid: &str) {
        self.arms.remove(uid);
    }

    pub(super) fn totals(&self, uid: &str, revision: &str, arm: Arm) -> Totals {
        let mut totals = Totals { latency: vec![0; BUCKETS as usize], ..Totals::default() };
        let key = (revision.to_owned(), arm as i32);
        let reports = self.arms.get(uid).and_then(|arms| arms.get(&key));
        for report in reports.into_iter().flat_map(BTreeMap::values) {
            totals.add(&report.counters);
        }
        totals
    }
}

impl Totals {
    fn add(&mut self, counters: &ArmCounters) {
        self.started = self.started.saturating_add(counters.started);
        self.succeeded = self.succeeded.saturating_add(counters.succeeded);
        self.client_errors = self.client_errors.saturating_add(counters.client_errors);
        self.errors = self.errors.saturating_add(counters.errors);
        self.grpc_errors = self.grpc_errors.saturating_add(counters.grpc_errors);
        self.no_endpoint = self.no_endpoint.saturating_add(counters.no_endpoint);
        self.in_flight = self.in_flight.saturating_add(counters.in_flight);
        for (&index, &count) in counters.latency_index.iter().zip(&counters.latency_count) {
            if let Some(bucket) = self.latency.get_mut(index as usize) {
                *bucket = bucket.saturating_add(count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "u1";

    fn mk_source(incarnation: u64) -> Source {
        Source { proxy: Arc::from("shop/sluice-proxy-1"), incarnation }
    }

    fn mk_message(sequence: u64, started: u64) -> Counters {
        let counters = ArmCounters {
            uid: UID.to_owned(),
            revision: "new".to_owned(),
            arm: Arm::Canary as i32,
            started,
            succeeded: started,
            in_flight: 1,
            latency_index: vec![3],
            latency_count: vec![started],
            ..ArmCounters::default()
        };
        Counters { sequence, arms: vec![counters], ..Counters::default() }
    }

    fn started(accumulator: &Accumulator) -> u64 {
        accumulator.totals(UID, "new", Arm::Canary).started
    }

    #[test]
    fn doubled_and_late_messages_change_nothing() {
        let mut accumulator = Accumulator::default();
        for (sequence, requests) in [(1, 10), (3, 30), (3, 30), (2, 20)] {
            accumulator.record(&mk_source(7), mk_message(sequence, requests), |_, _| true);
        }
        assert_eq!(started(&accumulator), 30);
    }

    #[test]
    fn a_restart_adds_to_what_was_counted_before() {
        let mut accumulator = Accumulator::default();
        accumulator.record(&mk_source(7), mk_message(9, 30), |_, _| true);
        accumulator.record(&mk_source(8), mk_message(1, 5), |_, _| true);
        let totals = accumulator.totals(UID, "new", Arm::Canary);
        assert_eq!((totals.started, totals.in_flight, totals.latency[3]), (35, 2, 35));
        accumulator.gone(&mk_source(7));
        let totals = accumulator.totals(UID, "new", Arm::Canary);
        assert_eq!((totals.started, totals.in_flight), (35, 1));
    }

    #[test]
    fn a_new_stream_of_the_same_process_goes_on_where_the_old_one_ended() {
        let mut accumulator = Accumulator::default();
        accumulator.record(&mk_source(7), mk_message(900, 30), |_, _| true);
        accumulator.gone(&mk_source(7));
        accumulator.record(&mk_source(7), mk_message(1, 31), |_, _| true);
        assert_eq!(started(&accumulator), 31);
        accumulator.record(&mk_source(7), mk_message(2, 29), |_, _| true);
        assert_eq!(started(&accumulator), 31, "a total that falls is wrong");
    }

    #[test]
    fn arms_and_revisions_are_apart_and_unknown_ones_are_not_taken() {
        let mut accumulator = Accumulator::default();
        accumulator.record(&mk_source(7), mk_message(1, 10), |uid, revision| (uid, revision) == (UID, "other"));
        assert_eq!(started(&accumulator), 0);
        accumulator.record(&mk_source(7), mk_message(2, 10), |_, _| true);
        assert_eq!(accumulator.totals(UID, "new", Arm::Stable).started, 0);
        accumulator.retain(UID, |revision| revision == "old");
        assert_eq!(started(&accumulator), 0);
    }

    #[test]
    fn the_number_of_sources_is_bounded() {
        let mut accumulator = Accumulator::default();
        for incarnation in 0..=SOURCES_PER_ARM as u64 {
            accumulator.record(&mk_source(incarnation), mk_message(1, 1), |_, _| true);
        }
        assert_eq!(started(&accumulator), SOURCES_PER_ARM as u64);
    }

    proptest! {
        /// Whatever is lost, doubled or swapped: the sum is at no time above the truth, never falls, and equals the truth
        /// once each process's last message is there.
        #[test]
        fn no_request_is_counted_twice(
            growth in prop::collection::vec(prop::collection::vec(0_u64..100, 1..8), 1..5),
            order in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..60),
        ) {
            let mut accumulator = Accumulator::default();
            let deliver = |accumulator: &mut Accumulator, incarnation: usize, step: usize| {
                let so_far: u64 = growth[incarnation][..=step].iter().sum();
                let message = mk_message(step as u64 + 1, so_far);
                accumulator.record(&mk_source(incarnation as u64), message, |_, _| true);
            };
            let truth: u64 = growth.iter().flatten().sum();
            let mut seen = 0;
            for (source, step) in order {
                let incarnation = source.index(growth.len());
                deliver(&mut accumulator, incarnation, step.index(growth[incarnation].len()));
                let now = started(&accumulator);
                prop_assert!(seen <= now && now <= truth, "{seen} then {now} of {truth}");
                seen = now;
            }
            for (incarnation, steps) in growth.iter().enumerate() {
                deliver(&mut accumulator, incarnation, steps.len() - 1);
            }
            prop_assert_eq!(started(&accumulator), truth);
        }
    }
}
