//! The newest counters of each proxy, for the verdict. Pure.
//!
//! Proxies send running totals, so only the newest message of each matters: a lost one costs nothing, and one that comes
//! twice or late is known by its sequence number. What is handed on is numbered by its arrival here, which only rises; a
//! restarted proxy is a new source. What is new in a report is worked out by `rollout::verdict`, once.

use std::collections::BTreeMap;
use std::sync::Arc;

use proxy_api::v1beta1::{Arm, ArmCounters, Counters};
use rollout::verdict;

/// One process of a proxy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Source {
    /// Namespace and pod.
    pub(super) proxy: Arc<str>,
    /// Random per process start.
    pub(super) incarnation: u64,
}

/// The newest message of every connected proxy.
#[derive(Default)]
pub(super) struct Inbox {
    newest: BTreeMap<Source, Held>,
    /// Rises with each message and acknowledgement: what is older than what.
    clock: u64,
}

struct Held {
    sequence: u64,
    received: u64,
    /// By uid of the Canary.
    arms: BTreeMap<String, Vec<ArmCounters>>,
}

impl Inbox {
    /// Takes a message, without what it says of Canaries that are not `known`; a doubled or late one changes nothing.
    pub(super) fn record(&mut self, source: &Source, message: Counters, known: impl Fn(&str) -> bool) {
        if self.newest.get(source).is_some_and(|held| message.sequence <= held.sequence) {
            return;
        }
        let mut arms: BTreeMap<String, Vec<ArmCounters>> = BTreeMap::new();
        for counters in message.arms {
            if known(&counters.uid) {
                arms.entry(counters.uid.clone()).or_default().push(counters);
            }
        }
        let received = self.tick();
        self.newest.insert(source.clone(), Held { sequence: message.sequence, received, arms });
    }

    /// The next number of the order in which things arrive.
    pub(super) fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// The process has no stream any more: it has nothing in flight that would be heard of.
    pub(super) fn gone(&mut self, source: &Source) {
        self.newest.remove(source);
    }

    /// What `source` said of `uid` since `after`. `acked`: the counter that it acknowledged, and when; from then on its
    /// numbers are those of that configuration, even if no request has come since.
    pub(super) fn report(&self, source: &Source, uid: &str, after: u64, acked: (u64, u64)) -> Option<verdict::Report> {
        let held = self.newest.get(source).filter(|held| held.received > after)?;
        let in_force = if acked.1 <= held.received { acked.0 } else { 0 };
        // An arm without requests is said to have none: that is different from nothing being heard.
        let mut arms: Vec<verdict::ArmCounters> =
            held.arms.get(uid).into_iter().flatten().map(|counters| arm(counters, in_force)).collect();
        if arms.is_empty() {
            arms.push(verdict::ArmCounters { counter: in_force, ..Default::default() });
        }
        Some(verdict::Report {
            proxy: source.proxy.to_string(),
            incarnation: source.incarnation,
            sequence: held.received,
            arms,
        })
    }

    /// The number of the newest message.
    pub(super) const fn now(&self) -> u64 {
        self.clock
    }
}

fn arm(counters: &ArmCounters, in_force: u64) -> verdict::ArmCounters {
    verdict::ArmCounters {
        counter: counters.counter.max(in_force),
        revision: counters.revision.clone(),
        arm: match Arm::try_from(counters.arm) {
            Ok(Arm::Stable) => Some(verdict::Arm::Stable),
            Ok(Arm::Canary) => Some(verdict::Arm::Canary),
            Err(_) => None,
        },
        started: counters.started,
        succeeded: counters.succeeded,
        client_errors: counters.client_errors,
        errors: counters.errors,
        in_flight: counters.in_flight,
        latency: pairs(&counters.latency_index, &counters.latency_count),
        pods: counters
            .pods
            .iter()
            .map(|pod| verdict::PodCounters {
                pod: pod.pod.clone(),
                completed: pod.completed,
                errors: pod.errors,
                latency: pairs(&pod.latency_index, &pod.latency_count),
            })
            .collect(),
    }
}

fn pairs(index: &[u32], count: &[u64]) -> Vec<(u32, u64)> {
    index.iter().copied().zip(count.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "u1";

    fn mk_source(incarnation: u64) -> Source {
        Source { proxy: Arc::from("shop/sluice-proxy-1"), incarnation }
    }

    fn mk_message(sequence: u64, started: u64) -> Counters {
        let counters = ArmCounters {
            uid: UID.to_owned(),
            counter: 4,
            revision: "new".to_owned(),
            arm: Arm::Canary as i32,
            started,
            succeeded: started,
            latency_index: vec![3],
            latency_count: vec![started],
            ..ArmCounters::default()
        };
        Counters { sequence, arms: vec![counters], ..Counters::default() }
    }

    #[test]
    fn only_the_newest_message_counts_and_is_handed_on_once() {
        let mut inbox = Inbox::default();
        for (sequence, requests) in [(1, 10), (3, 30), (3, 30), (2, 20)] {
            inbox.record(&mk_source(7), mk_message(sequence, requests), |_| true);
        }
        let report = inbox.report(&mk_source(7), UID, 0, (4, 0)).expect("there is news");
        assert_eq!((report.arms[0].started, report.arms[0].latency.as_slice()), (30, [(3, 30)].as_slice()));
        assert_eq!(inbox.report(&mk_source(7), UID, inbox.now(), (4, 0)), None);
    }

    #[test]
    fn reports_are_numbered_by_arrival_whatever_the_streams_say() {
        let mut inbox = Inbox::default();
        inbox.record(&mk_source(7), mk_message(900, 30), |_| true);
        let before = inbox.report(&mk_source(7), UID, 0, (0, 0)).expect("there is news").sequence;
        inbox.gone(&mk_source(7));
        inbox.record(&mk_source(7), mk_message(1, 31), |_| true);
        let after = inbox.report(&mk_source(7), UID, before, (0, 0)).expect("there is news");
        assert!(after.sequence > before);
        assert_eq!(after.arms[0].started, 31);
    }

    #[test]
    fn counters_are_those_of_the_configuration_acknowledged_before() {
        let mut inbox = Inbox::default();
        inbox.record(&mk_source(7), mk_message(1, 30), |_| true);
        let acked = (9, inbox.tick());
        assert_eq!(inbox.report(&mk_source(7), UID, 0, acked).expect("there is news").arms[0].counter, 4);
        inbox.record(&mk_source(7), mk_message(2, 30), |_| true);
        assert_eq!(inbox.report(&mk_source(7), UID, 0, acked).expect("there is news").arms[0].counter, 9);
        let silent = inbox.report(&mk_source(7), "no traffic", 0, acked).expect("there is news");
        assert_eq!((silent.arms[0].counter, silent.arms[0].arm), (9, None));
    }

    #[test]
    fn unknown_canaries_are_not_taken() {
        let mut inbox = Inbox::default();
        inbox.record(&mk_source(7), mk_message(1, 30), |uid| uid != UID);
        assert_eq!(inbox.report(&mk_source(7), UID, 0, (0, 0)).expect("the proxy is there").arms[0].started, 0);
    }
}
