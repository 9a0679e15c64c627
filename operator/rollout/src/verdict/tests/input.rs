//! Reports as proxies send them: each request is counted once, or for neither arm.

use super::*;

/// A proxy that counts.
#[derive(Clone)]
struct Proxy {
    report: Report,
}

impl Proxy {
    fn new(name: &str) -> Self {
        let arm = |arm, revision: &str| ArmCounters {
            counter: 7,
            revision: revision.into(),
            arm: Some(arm),
            ..ArmCounters::default()
        };
        let arms = vec![arm(Arm::Stable, "old"), arm(Arm::Canary, "new")];
        Self { report: Report { proxy: name.into(), incarnation: 1, sequence: 1, arms } }
    }

    fn serve(&mut self, canary: (u64, u64), stable: (u64, u64)) -> &Report {
        self.report.sequence += 1;
        for (arm, (n, k)) in self.report.arms.iter_mut().zip([stable, canary]) {
            arm.started += n;
            arm.succeeded += n - k;
            arm.errors += k;
            arm.latency = vec![(53, arm.succeeded + arm.errors)];
        }
        &self.report
    }
}

struct World {
    engine: Engine,
    unix_ms: u64,
    weight: u8,
    since: u64,
}

impl World {
    /// A release on trial for one second, with proxies that have reported before.
    fn new(proxies: &mut [Proxy]) -> Self {
        let mut world = Self { engine: mk_engine(Config::default()), unix_ms: 1_000_000_000_000, weight: 0, since: 7 };
        world.engine.begin(mk_release());
        for proxy in proxies.iter_mut() {
            world.second(&[proxy.serve((0, 0), (1, 0)).clone()]);
        }
        world.weight = 10;
        world
    }

    fn second(&mut self, reports: &[Report]) {
        self.unix_ms += 1_000;
        self.engine.observe(&Second {
            unix_ms: self.unix_ms,
            weight_percent: self.weight,
            audience: false,
            since_counter: self.since,
            canary_pods: 1,
            stable_pods: 4,
            proxies: 1,
            reports,
        });
    }

    /// Requests judged so far, open strata included after they close.
    fn settle(&mut self, proxy: &mut Proxy) -> Facts {
        for _ in 0..60 {
            self.second(&[proxy.serve((0, 0), (0, 0)).clone()]);
        }
        self.engine.verdict().facts
    }
}

#[test]
fn a_report_counts_once_however_often_and_late_it_comes() {
    let mut proxy = Proxy::new("a");
    let mut world = World::new(std::slice::from_mut(&mut proxy));
    let first = proxy.serve((5, 0), (45, 1)).clone();
    let second = proxy.serve((5, 1), (45, 0)).clone();
    world.second(&[first.clone(), second.clone(), second.clone(), first.clone()]);
    world.second(&[first, second]);
    let facts = world.settle(&mut proxy);
    assert_eq!(facts.canary, Counted { bad: 1, total: 10 });
    assert_eq!(facts.stable, Counted { bad: 1, total: 90 });
}

#[test]
fn a_lost_report_is_made_up_for_by_the_next() {
    let mut proxy = Proxy::new("a");
    let mut world = World::new(std::slice::from_mut(&mut proxy));
    proxy.serve((5, 1), (45, 0));
    world.second(&[]);
    world.second(&[proxy.serve((5, 0), (45, 0)).clone()]);
    let facts = world.settle(&mut proxy);
    assert_eq!((facts.canary.total, facts.canary.bad, facts.stable.total), (10, 1, 90));
}

#[test]
fn a_restarted_proxy_begins_with_a_baseline() {
    let mut proxy = Proxy::new("a");
    let mut world = World::new(std::slice::from_mut(&mut proxy));
    world.second(&[proxy.serve((5, 0), (45, 0)).clone()]);
    let mut proxy = Proxy::new("a");
    proxy.report.incarnation = 2;
    proxy.report.sequence = 0;
    world.second(&[proxy.serve((5, 5), (45, 0)).clone()]);
    world.second(&[proxy.serve((5, 0), (45, 0)).clone()]);
    let facts = world.settle(&mut proxy);
    assert_eq!((facts.canary.total, facts.canary.bad), (10, 0), "the second of the restart counts for neither arm");
}

#[test]
fn counters_that_fall_hold_the_release_and_move_nothing() {
    let mut proxy = Proxy::new("a");
    let mut world = World::new(std::slice::from_mut(&mut proxy));
    world.second(&[proxy.serve((5, 0), (45, 0)).clone()]);
    let mut fallen = proxy.serve((5, 5), (45, 0)).clone();
    fallen.arms[0].succeeded = 1;
    let before = world.engine.evidence();
    world.second(&[fallen]);
    assert_eq!(world.engine.decision(), Decision::Wait(Wait::BrokenCounters));
    assert_eq!(world.engine.evidence(), before);
    let facts = world.settle(&mut proxy);
    assert_eq!(facts.canary, Counted { bad: 0, total: 5 });
}

#[test]
fn impossible_numbers_hold_the_release() {
    let breakers: [fn(&mut Report); 3] = [
        |r| r.arms[0].latency.push((4_000_000, 1)),
        |r| r.arms[1].errors = u64::MAX,
        |r| r.arms[1].latency.push((53, u64::MAX)),
    ];
    for broken in breakers {
        let mut proxy = Proxy::new("a");
        let mut world = World::new(std::slice::from_mut(&mut proxy));
        let mut report = proxy.serve((5, 0), (45, 0)).clone();
        broken(&mut report);
        world.second(&[report]);
        assert_eq!(world.engine.decision(), Decision::Wait(Wait::BrokenCounters));
        let facts = world.settle(&mut proxy);
        assert_eq!(facts.canary.bad, 0);
    }
}

#[test]
fn seconds_across_a_leap_of_the_clock_count_for_nothing() {
    for leap in [3_600_000_i64, -3_600_000, -2_000] {
        let mut proxy = Proxy::new("a");
        let mut world = World::new(std::slice::from_mut(&mut proxy));
        world.unix_ms = world.unix_ms.checked_add_signed(leap).unwrap();
        world.second(&[proxy.serve((20, 20), (180, 0)).clone()]);
        assert_eq!(world.engine.decision(), Decision::Wait(Wait::ClockJumped), "{leap}");
        let facts = world.settle(&mut proxy);
        assert_eq!(facts.canary.total, 0, "{leap}");
    }
}

#[test]
fn counters_of_an_older_config_wait_for_the_weight() {
    let mut proxy = Proxy::new("a");
    let mut world = World::new(std::slice::from_mut(&mut proxy));
    world.weight = 25;
    world.since = 8;
    world.second(&[proxy.serve((20, 20), (180, 0)).clone()]);
    assert_eq!(world.engine.decision(), Decision::Wait(Wait::StaleConfig));
    proxy.report.arms[0].counter = 8;
    world.second(&[proxy.serve((20, 20), (180, 0)).clone()]);
    world.second(&[proxy.serve((50, 0), (150, 0)).clone()]);
    let facts = world.settle(&mut proxy);
    assert_eq!(facts.canary, Counted { bad: 0, total: 50 }, "only what both reports saw under the weight");
}

#[test]
fn a_second_across_a_change_of_weight_counts_for_neither_arm() {
    let mut proxy = Proxy::new("a");
    let mut world = World::new(std::slice::from_mut(&mut proxy));
    world.second(&[proxy.serve((0, 0), (0, 0)).clone()]);
    world.weight = 25;
    world.since = 8;
    proxy.report.arms[0].counter = 8;
    world.second(&[proxy.serve((20, 20), (180, 0)).clone()]);
    world.second(&[proxy.serve((50, 0), (150, 0)).clone()]);
    let facts = world.settle(&mut proxy);
    assert_eq!(facts.canary, Counted { bad: 0, total: 50 });
}

#[test]
fn a_foreign_revision_is_not_counted() {
    let mut proxy = Proxy::new("a");
    let mut world = World::new(std::slice::from_mut(&mut proxy));
    proxy.report.arms[1].revision = "older".into();
    world.second(&[proxy.serve((20, 20), (180, 0)).clone()]);
    let facts = world.settle(&mut proxy);
    assert_eq!(facts.canary.total, 0);
}

#[test]
fn a_silent_proxy_keeps_the_last_verdict() {
    let mut proxy = Proxy::new("a");
    let mut world = World::new(std::slice::from_mut(&mut proxy));
    for _ in 0..600 {
        world.second(&[]);
    }
    assert_eq!(world.engine.decision(), Decision::Wait(Wait::MetricsUnavailable));
    assert!(world.engine.evidence() <= 1.0);
    let sentence = world.engine.verdict().sentence();
    assert_eq!(sentence, "1 of 1 proxies silent for 10m; last verdict kept");
}

#[test]
fn a_proxy_that_is_gone_holds_nothing_up() {
    let mut proxies = [Proxy::new("a"), Proxy::new("b")];
    let mut world = World::new(&mut proxies);
    for _ in 0..60 {
        let reports = proxies.each_mut().map(|proxy| proxy.serve((50, 0), (450, 0)).clone());
        world.second(&reports);
    }
    // One of the two is replaced: only the other one is connected, and reports.
    let [mut left, _] = proxies;
    for _ in 0..20 {
        world.second(&[left.serve((100, 0), (900, 0)).clone()]);
        assert_ne!(world.engine.decision(), Decision::Wait(Wait::MetricsUnavailable));
    }
}

#[test]
fn without_any_proxy_nothing_is_known_and_no_policy_of_no_traffic_applies() {
    let mut engine = mk_engine(Config { no_traffic: Policy::Advance, ..Config::default() });
    engine.begin(mk_release());
    let observe = |engine: &mut Engine, second: u64, reports: &[Report]| {
        engine.observe(&Second {
            unix_ms: 1_000 * second,
            weight_percent: 10,
            audience: false,
            since_counter: 7,
            canary_pods: 1,
            stable_pods: 4,
            proxies: reports.len() as u32,
            reports,
        });
    };
    for second in 0..4_000 {
        observe(&mut engine, second, &[]);
    }
    assert_eq!(engine.decision(), Decision::Wait(Wait::MetricsUnavailable));
    assert_eq!(engine.verdict().sentence(), "no proxy is connected; last verdict kept");
    assert!(engine.evidence() <= 1.0);
    observe(&mut engine, 4_000, &[Proxy::new("a").report]);
    assert_eq!(engine.decision(), Decision::Wait(Wait::CollectingData), "not heard of is not idle");
}

#[test]
fn a_canary_without_pods_holds_and_moves_nothing() {
    let mut engine = mk_engine(Config::default());
    engine.begin(mk_release());
    for _ in 0..100 {
        engine.absorb(&mk_delta((20, 20), (180, 0)), Circumstances { canary_pods: 0, ..mk_now(10) });
    }
    assert_eq!(engine.decision(), Decision::Wait(Wait::NoEndpoints));
    assert!(engine.evidence() <= 1.0);
}

#[test]
fn proxies_are_bounded() {
    let mut world = World::new(&mut []);
    for at in 0..1_000 {
        world.second(&[Proxy::new(&format!("proxy-{at}")).report]);
    }
    assert!(format!("{:?}", world.engine).matches("incarnation").count() <= PROXIES);
}
