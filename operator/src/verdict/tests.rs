//! What comes of counters on their way from the proxies' streams to a pass.

use kube::ResourceExt;
use proxy_api::v1beta1::{Ack, Arm, ArmCounters, Counters, Endpoint, Listener, Match};
use rollout::{Phase as Stage, Revision, verdict::Cause};
use serde_json::json;

use super::*;
use crate::{admin::Metrics, identity::Proxy, publish::testing::Peer};

/// A proxy, a Canary and the second that it is.
struct Bed {
    verdicts: Verdicts,
    publisher: Publisher,
    proxy: Peer,
    canary: Canary,
    weight: u32,
    /// Of whom the weight is a share; none: of everybody.
    audience: Vec<Match>,
    counter: u64,
    second: u64,
    sequence: u64,
    /// Per arm: requests, failures.
    totals: [(u64, u64); 2],
}

impl Bed {
    fn new(verdict: serde_json::Value) -> Self {
        let canary = json!({
            "apiVersion": "sluice.dev/v1beta1", "kind": "Canary",
            "metadata": { "name": "web", "namespace": "shop", "uid": "u1", "generation": 1 },
            "spec": { "targetRef": { "kind": "Deployment", "name": "web" }, "service": { "port": 80 },
                "analysis": { "interval": "5s", "verdict": verdict } },
            "status": { "phase": "Progressing" },
        });
        let publisher = Publisher::new(&Metrics::new());
        publisher.synced();
        let proxy = Peer::connect(&publisher, Proxy { namespace: "shop".to_owned(), pod: "p1".to_owned() }, 7);
        let mut bed = Self {
            verdicts: Verdicts::default(),
            publisher,
            proxy,
            canary: serde_json::from_value(canary).expect("a Canary"),
            weight: 0,
            audience: Vec::new(),
            counter: 1,
            second: 1_000_000,
            sequence: 0,
            totals: [(0, 0); 2],
        };
        bed.set(0, 1);
        bed
    }

    /// A new weight, acknowledged at once.
    fn set(&mut self, weight: u32, pods: usize) {
        self.counter += 1;
        self.weight = weight;
        let endpoint = |i: usize| Endpoint {
            address: format!("10.0.0.{i}"),
            port: 80,
            pod: format!("pod-{i}"),
            zone: String::new(),
        };
        self.publisher.set(Route {
            uid: "u1".to_owned(),
            counter: self.counter,
            namespace: "shop".to_owned(),
            canary: "web".to_owned(),
            weight,
            audience: self.audience.clone(),
            stable_revision: "old".to_owned(),
            canary_revision: "new".to_owned(),
            listeners: vec![Listener {
                split: true,
                stable: (0..3).map(endpoint).collect(),
                canary: (0..pods).map(endpoint).collect(),
                ..Listener::default()
            }],
            ..Route::default()
        });
        self.proxy.ack(Ack { uid: "u1".to_owned(), counter: self.counter, error: String::new() });
    }

    /// One second with these requests and failures of stable and of the canary; whether a pass was woken.
    fn pass(&mut self, stable: (u64, u64), canary: (u64, u64)) -> bool {
        for (total, new) in self.totals.iter_mut().zip([stable, canary]) {
            *total = (total.0 + new.0, total.1 + new.1);
        }
        self.sequence += 1;
        self.proxy.count(self.message());
        self.tick()
    }

    fn message(&self) -> Counters {
        let arms = [(Arm::Stable, "old"), (Arm::Canary, "new")].into_iter().zip(self.totals);
        let arms = arms.map(|((arm, revision), (requests, errors))| ArmCounters {
            uid: "u1".to_owned(),
            counter: 1,
            revision: revision.to_owned(),
            arm: arm.into(),
            started: requests,
            succeeded: requests - errors,
            errors,
            // As real ones are spread: one of twenty takes 26 ms and more.
            latency_index: [5, 7, 9, 12, 18, 26, 40, 70].map(|ms| latency::index(ms * 1_000)).to_vec(),
            latency_count: [10, 20, 30, 20, 15, 2, 2, 1].map(|percent| requests * percent / 100).to_vec(),
            ..ArmCounters::default()
        });
        Counters { incarnation: 7, sequence: self.sequence, arms: arms.collect(), ..Counters::default() }
    }

    fn tick(&mut self) -> bool {
        self.second += 1;
        self.verdicts.feed(&self.canary, &self.publisher, self.second * 1_000)
    }

    fn state(&self) -> State {
        State {
            phase: Stage::Progressing,
            counter: self.counter,
            weight: self.weight,
            steps: vec![10, 25, 50, 100],
            stable: Some(Revision("old".to_owned())),
            canary: Some(Revision("new".to_owned())),
            ..State::default()
        }
    }

    fn judgement(&self) -> Judgement {
        self.verdicts.judgement(&self.canary, &self.state())
    }

    /// The reason of an open judgement.
    fn waits_for(&self) -> &'static str {
        match self.judgement() {
            Judgement::Open(reason) => reason.code(),
            other => panic!("not open: {other:?}"),
        }
    }

    /// A minute of healthy traffic, then the first weight.
    fn release(verdict: serde_json::Value) -> Self {
        let mut bed = Self::new(verdict);
        for _ in 0..60 {
            bed.pass((100, 0), (0, 0));
        }
        bed.set(10, 1);
        bed
    }
}

#[test]
fn a_canary_that_fails_is_condemned_in_seconds_and_its_pass_is_woken() {
    let mut bed = Bed::release(json!({}));
    let woken = (0..30).find(|_| bed.pass((90, 0), (10, 5)) && matches!(bed.judgement(), Judgement::Condemned(_)));
    assert!(woken.expect("condemned within 30 s, and told at that second") <= 15, "{woken:?}");
    let Judgement::Condemned(Failure::Verdict(cause, sentence)) = bed.judgement() else { panic!() };
    assert!(matches!(cause, Cause::Evidence(_)), "{cause:?}");
    assert!(sentence.starts_with("weight 10%: canary ") && sentence.contains("chance if healthy"), "{sentence}");
}

#[test]
fn a_canary_like_stable_gets_its_evidence_and_a_new_weight_begins_anew() {
    let mut bed = Bed::release(json!({}));
    let fine = (0..240).find(|_| {
        bed.pass((90, 0), (10, 0));
        matches!(bed.judgement(), Judgement::Fine(..))
    });
    assert!(fine.is_some(), "{:?}", bed.judgement());
    bed.set(25, 1);
    assert_eq!(bed.waits_for(), "CollectingData", "what was shown at one weight counts for no other");
    bed.pass((75, 0), (25, 0));
    assert_eq!(bed.waits_for(), "CollectingData");
}

#[test]
fn off_and_warn_hold_nothing_and_warn_tells() {
    let mut off = Bed::release(json!({ "mode": "off" }));
    let mut warn = Bed::release(json!({ "mode": "warn" }));
    for bed in [&mut off, &mut warn] {
        for _ in 0..30 {
            bed.pass((90, 0), (10, 5));
        }
        assert_eq!(bed.judgement(), Judgement::NotAsked);
    }
    assert!(off.verdicts.verdict(&off.canary, &off.state()).is_none());
    let told = warn.verdicts.verdict(&warn.canary, &warn.state()).expect("a verdict");
    assert!(matches!(told.decision, Decision::Rollback(_)) && !told.enforced());
}

#[test]
fn no_traffic_holds_and_says_so() {
    let mut bed = Bed::release(json!({}));
    for _ in 0..40 {
        bed.pass((0, 0), (0, 0));
    }
    assert_eq!(bed.waits_for(), "NoTraffic");
}

#[test]
fn an_arm_that_gets_nothing_is_a_fault_of_the_routing() {
    let mut bed = Bed::release(json!({}));
    for _ in 0..60 {
        bed.pass((100, 0), (0, 0));
    }
    assert_eq!(bed.waits_for(), "TrafficSplitMismatch");
}

#[test]
fn an_audience_that_few_belong_to_is_no_fault_of_the_routing() {
    let mut bed = Bed::release(json!({}));
    bed.audience = vec![Match::default()];
    bed.set(20, 1);
    let fine = (0..240).find(|_| {
        bed.pass((980, 0), (20, 0));
        matches!(bed.judgement(), Judgement::Fine(..))
    });
    assert!(fine.is_some(), "{:?}", bed.judgement());
    // Now the share is one of everybody.
    bed.audience = Vec::new();
    bed.set(20, 1);
    for _ in 0..60 {
        bed.pass((980, 0), (20, 0));
    }
    assert_eq!(bed.waits_for(), "TrafficSplitMismatch");
}

#[test]
fn silent_proxies_hold() {
    let mut bed = Bed::release(json!({}));
    bed.pass((90, 0), (10, 0));
    for _ in 0..9 {
        bed.tick();
    }
    assert_eq!(bed.waits_for(), "MetricsUnavailable");
}

#[test]
fn a_canary_without_endpoint_holds() {
    let mut bed = Bed::release(json!({}));
    bed.set(25, 0);
    for _ in 0..5 {
        bed.pass((75, 0), (25, 25));
    }
    assert_eq!(bed.waits_for(), "NoEndpoints");
}

#[test]
fn a_clock_that_jumps_holds_and_moves_nothing() {
    for jump in [3_600_i64, -3_600] {
        let mut bed = Bed::release(json!({}));
        for _ in 0..5 {
            bed.pass((90, 0), (10, 0));
        }
        bed.second = bed.second.saturating_add_signed(jump);
        bed.pass((90, 0), (10, 10));
        assert_eq!(bed.waits_for(), "ClockJumped", "{jump}");
        let verdict = bed.verdicts.verdict(&bed.canary, &bed.state()).expect("a verdict");
        assert_eq!(verdict.evidence_percent(), 0, "{jump}");
    }
}

#[test]
fn counters_that_fall_hold_and_move_nothing() {
    let mut bed = Bed::release(json!({}));
    for _ in 0..5 {
        bed.pass((90, 0), (10, 0));
    }
    bed.totals = [(50, 0), (5, 5)];
    bed.pass((0, 0), (0, 0));
    assert_eq!(bed.waits_for(), "BrokenCounters");
}

#[test]
fn doubled_and_late_messages_move_nothing() {
    let mut bed = Bed::release(json!({}));
    for _ in 0..5 {
        bed.pass((90, 0), (10, 0));
    }
    let before = bed.verdicts.verdict(&bed.canary, &bed.state()).expect("a verdict").facts.canary;
    for _ in 0..30 {
        let mut late = bed.message();
        late.sequence -= 1;
        late.arms[1].errors += 100;
        late.arms[1].started += 100;
        bed.proxy.count(late);
        bed.proxy.count(bed.message());
        bed.tick();
    }
    assert!(!matches!(bed.judgement(), Judgement::Condemned(_)));
    let after = bed.verdicts.verdict(&bed.canary, &bed.state()).expect("a verdict").facts.canary;
    assert!(after.total <= before.total + 50 && after.bad == 0, "{before:?} {after:?}");
}

#[test]
fn a_proxy_that_holds_an_older_configuration_keeps_the_weight_before() {
    let mut bed = Bed::release(json!({}));
    for _ in 0..5 {
        bed.pass((90, 0), (10, 0));
    }
    // Written, and not acknowledged.
    let route = (*bed.publisher.get("u1").expect("held")).clone();
    bed.counter += 1;
    bed.weight = 25;
    bed.publisher.set(Route { counter: bed.counter, weight: 25, ..route });
    for _ in 0..5 {
        bed.pass((90, 0), (10, 0));
    }
    assert_eq!(bed.waits_for(), "CollectingData");
    assert!(!bed.verdicts.is_at(&bed.canary, &bed.state()));
}

#[test]
fn a_new_leader_goes_on_with_the_evidence_of_the_journal() {
    let mut bed = Bed::release(json!({}));
    for _ in 0..8 {
        bed.pass((90, 1), (10, 1));
    }
    let said = bed.verdicts.status(&bed.canary, &bed.state()).expect("on trial");
    assert!(said.journal.is_some() && said.lanes.len() == 4 && said.needed.contains('/'), "{said:?}");
    let evidence = said.evidence.clone();
    bed.canary.status.as_mut().expect("a status").verdict = Some(said);
    bed.verdicts = Verdicts::default();
    bed.pass((90, 0), (10, 0));
    let restored = bed.verdicts.status(&bed.canary, &bed.state()).expect("on trial");
    assert_eq!(restored.evidence, evidence);
    assert_eq!(bed.canary.name_any(), "web");
}

#[test]
fn the_journal_is_due_in_a_release_only() {
    let bed = Bed::release(json!({}));
    let idle = State { phase: Stage::Initialized, ..bed.state() };
    assert!(!bed.verdicts.is_due(&bed.canary, &idle));
}
