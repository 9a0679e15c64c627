//! Releases that are more than weights: copies before the first one, and A/B tests. What they do in a world that obeys, and
//! what they promise in one that does anything.

use chrono::{DateTime, TimeDelta, Utc};
use rollout::{
    Audience, CanaryPods, CanarySet, Check, Decision, Failure, Hold, Judgement, Mirror, Native, Observation, Paused,
    Phase, Plan, Reason, Revision, Route, Setup, State, Target, TargetView, Template, Verbs, canary_size, check_due_in,
    step, step_label,
};

const REPLICAS: u32 = 4;

fn rev(name: &str) -> Revision {
    Revision(name.to_owned())
}

fn breach() -> Failure {
    Failure::MetricBreached("too many errors".to_owned())
}

fn weighted(mirror_percent: u32) -> Plan {
    Plan {
        steps: vec![10, 100],
        interval: TimeDelta::seconds(1),
        threshold: 2,
        step_checks: 1,
        progress_deadline: TimeDelta::minutes(10),
        mirror_percent,
        audience: None,
        skip_analysis: false,
        suspended: false,
    }
}

fn ab(iterations: u32) -> Plan {
    let audience = Some(Audience { matches: "testers".to_owned(), iterations: Some(iterations) });
    Plan { steps: vec![100], step_checks: iterations, audience, ..weighted(0) }
}

/// A cluster that does what it is told at once.
struct World {
    time: DateTime<Utc>,
    state: State,
    set: Option<CanarySet>,
    acknowledged: u64,
    paused: Paused,
}

impl World {
    fn new() -> Self {
        let state = State {
            phase: Phase::Initialized,
            stable: Some(rev("S")),
            target_uid: Some("one".to_owned()),
            ..State::default()
        };
        let time = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        Self { time, state, set: None, acknowledged: 0, paused: Paused::Held }
    }

    fn seen(&self, check: Check, replicas: u32) -> Observation {
        let adopted = self.set.as_ref().is_some_and(|set| set.adopted);
        Observation {
            deleting: false,
            setup: Setup::Ready,
            target: Target::Present(TargetView {
                uid: "one".to_owned(),
                template: Template { revision: rev("X"), restart_only: false },
                paused: self.paused,
                replicas,
                max_unavailable: 1,
                native: Native::Settled(rev(if adopted { "X" } else { "S" })),
                other_pods: if adopted { 0 } else { replicas },
            }),
            canary: self.set.clone(),
            route: Route {
                acknowledged: self.acknowledged == self.state.counter,
                stable_endpoints: replicas,
                other_endpoints: 0,
            },
            check,
            judgement: Judgement::NotAsked,
            verbs: Verbs::default(),
        }
    }

    /// One second.
    fn pass(&mut self, plan: &Plan, check: impl Fn(&State) -> Check) -> Decision {
        let due = check_due_in(plan, &self.state, self.time).is_some_and(|due| due.is_zero());
        let seen = self.seen(if due { check(&self.state) } else { Check::NotMade }, REPLICAS);
        self.obey(plan, &seen)
    }

    fn obey(&mut self, plan: &Plan, seen: &Observation) -> Decision {
        let decision = step(plan, &self.state, seen, self.time);
        let adopted = self.set.as_ref().is_some_and(|set| set.adopted);
        let set =
            |size, adopted| Some(CanarySet { desired: size, pods: size, available: size, adopted, trouble: None });
        match decision.desired.canary {
            CanaryPods::Size(size) => self.set = set(size, false),
            CanaryPods::Adopt { replicas, .. } => self.set = set(replicas, true),
            CanaryPods::None if !adopted => self.set = None,
            CanaryPods::None | CanaryPods::Keep => {}
        }
        if decision.desired.hold == Hold::Release {
            self.paused = Paused::No;
        }
        self.state = decision.state.clone();
        self.acknowledged = self.state.counter;
        self.time += TimeDelta::seconds(1);
        decision
    }

    /// Until nothing changes any more; what traffic saw: the mirror, the weight, and whether it is a share of everybody.
    fn run(&mut self, plan: &Plan, check: impl Fn(&State) -> Check) -> Vec<(Mirror, u32, bool)> {
        let traffic = |state: &State| (state.mirror, state.weight, state.audience.is_none());
        let mut seen = vec![traffic(&self.state)];
        for _ in 0..100 {
            self.pass(plan, &check);
            if seen.last() != Some(&traffic(&self.state)) {
                seen.push(traffic(&self.state));
            }
        }
        seen
    }
}

#[test]
fn copies_are_judged_before_the_first_weight_and_keep_their_pods() {
    let (mut world, plan) = (World::new(), weighted(60));
    let seen = world.run(&plan, |_| Check::Passed);
    let all = |mirror, weight| (mirror, weight, true);
    let wanted = [
        all(Mirror::Off, 0),
        all(Mirror::Due(60), 0),
        all(Mirror::Copying(60), 0),
        all(Mirror::Over(60), 0),
        all(Mirror::Over(60), 10),
        all(Mirror::Over(60), 100),
        all(Mirror::Off, 0),
    ];
    assert_eq!((world.state.phase, seen.as_slice()), (Phase::Succeeded, &wanted[..]));

    let mut world = World::new();
    while !world.state.mirror.is_copying() {
        let decision = world.pass(&plan, |_| Check::Passed);
        assert_eq!(decision.desired.canary, CanaryPods::Size(canary_size(REPLICAS, 60)));
    }
    assert_eq!(step_label(&world.state), "mirror");
    while world.state.weight == 0 {
        assert_ne!(world.state.reason, Reason::Judging, "copies are no step");
        world.pass(&plan, |_| Check::Passed);
    }
    let decision = world.pass(&plan, |_| Check::NotMade);
    assert_eq!(decision.desired.canary, CanaryPods::Size(3), "no pod goes as the first weight comes");
}

#[test]
fn iterations_are_of_the_audience_and_not_of_the_copies_before() {
    let (mut world, plan) = (World::new(), Plan { mirror_percent: 60, step_checks: 1, ..ab(5) });
    let checks = std::cell::Cell::new((0, 0));
    world.run(&plan, |state| {
        let (copies, shown) = checks.get();
        checks.set(if state.mirror.is_copying() { (copies + 1, shown) } else { (copies, shown + 1) });
        Check::Passed
    });
    assert_eq!((world.state.phase, checks.get()), (Phase::Succeeded, (1, 5)));
}

#[test]
fn a_version_that_fails_on_copies_is_never_given_weight() {
    let mut world = World::new();
    let seen = world.run(&weighted(100), |_| Check::Failed(breach()));
    assert_eq!((world.state.phase, world.state.failed_checks), (Phase::Failed, 2));
    assert!(seen.iter().all(|(_, weight, _)| *weight == 0), "{seen:?}");
    assert_eq!(world.state.reason, Reason::RolledBack(breach()));
}

#[test]
fn without_evidence_copies_go_on_until_nobody_asks_for_them() {
    let silence = |_: &State| Check::NoEvidence(Reason::NoEvidence("no copies".to_owned()));
    let mut world = World::new();
    world.run(&weighted(100), silence);
    assert_eq!((world.state.mirror, world.state.weight), (Mirror::Copying(100), 0));
    assert_eq!(world.state.reason.code(), "NoEvidence");
    world.run(&weighted(0), |_| Check::Passed);
    assert_eq!(world.state.phase, Phase::Succeeded);
}

#[test]
fn an_ab_test_shows_the_canary_to_its_audience_until_all_iterations_passed() {
    let (mut world, plan) = (World::new(), ab(3));
    let mut labels = Vec::new();
    for _ in 0..100 {
        let before = world.state.clone();
        world.pass(&plan, |_| Check::Passed);
        if before.audience.is_some() && world.state.audience.is_none() {
            assert_eq!((before.phase, before.weight), (Phase::Promoting, 100), "lifted too early");
            assert_eq!(world.state.effective_since, None, "every proxy is asked again");
        }
        let label = step_label(&world.state);
        if labels.last() != Some(&label) {
            labels.push(label);
        }
    }
    assert_eq!((world.state.phase, &world.state.stable), (Phase::Succeeded, &Some(rev("X"))));
    assert_eq!(labels, ["1/3 match", "2/3 match", "3/3 match", "1/1", ""]);
}

#[test]
fn an_ab_test_that_fails_is_seen_by_nobody_else() {
    let mut world = World::new();
    let fails = |state: &State| if state.passed_checks == 2 { Check::Failed(breach()) } else { Check::Passed };
    let seen = world.run(&ab(5), fails);
    assert_eq!(world.state.phase, Phase::Failed);
    assert!(seen.iter().all(|(_, weight, everybody)| *weight == 0 || !everybody), "{seen:?}");
    assert_eq!(world.state.audience, None);
}

#[test]
fn an_edit_in_mid_release_neither_opens_an_ab_test_nor_makes_one() {
    let mut world = World::new();
    while world.state.weight == 0 {
        world.pass(&ab(3), |_| Check::Passed);
    }
    let pinned = world.state.audience.clone();
    for _ in 0..20 {
        // The spec has lost `match`, and has weights instead.
        world.pass(&Plan { step_checks: 1_000, ..weighted(0) }, |_| Check::NotMade);
    }
    assert_eq!((world.state.weight, &world.state.audience), (100, &pinned));
    let edited = Plan { audience: Some(Audience { matches: "others".to_owned(), iterations: Some(1) }), ..ab(3) };
    world.pass(&edited, |_| Check::Passed);
    assert_eq!(world.state.audience, pinned);

    let mut world = World::new();
    while world.state.weight == 0 {
        world.pass(&weighted(0), |_| Check::Passed);
    }
    world.pass(&ab(3), |_| Check::NotMade);
    assert_eq!(world.state.audience, None);
}

#[test]
fn an_audience_goes_through_weights_and_everybody_sees_the_canary_at_the_last_one() {
    let audience = Some(Audience { matches: "testers".to_owned(), iterations: None });
    let (mut world, plan) = (World::new(), Plan { steps: vec![20, 50], step_checks: 2, audience, ..weighted(0) });
    let mut labels = Vec::new();
    for _ in 0..100 {
        let before = world.state.clone();
        world.pass(&plan, |_| Check::Passed);
        let next = &world.state;
        assert!(next.step <= before.step || before.passed_checks == 1, "{before:?}\n{next:?}");
        let shown = (next.weight, step_label(next), next.audience.is_none());
        if next.weight > before.weight || labels.last().is_some_and(|last| *last != shown) {
            labels.push(shown);
        }
    }
    let at = |weight, label: &str, everybody| (weight, label.to_owned(), everybody);
    let wanted = [
        at(20, "1/2 match", false),
        at(20, "2/2 match", false),
        at(50, "2/2 match", false),
        at(100, "2/2", true),
        at(100, "", true),
        at(0, "", true),
    ];
    assert_eq!((world.state.phase, labels.as_slice()), (Phase::Succeeded, &wanted[..]));
}

/// As `rand` would, the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[test]
fn what_is_promised_holds_whatever_the_world_does() {
    let mut dice = Dice(1);
    let (mut copied, mut lifted, mut adopted) = (0, 0, 0);
    for round in 0..2_000 {
        let mut world = World::new();
        let plan = Plan { mirror_percent: if round % 2 == 0 { 50 } else { 0 }, ..ab(2) };
        for _ in 0..60 {
            let check = match dice.roll(6) {
                _ if check_due_in(&plan, &world.state, world.time).is_none_or(|due| !due.is_zero()) => Check::NotMade,
                0 => Check::Failed(breach()),
                1 => Check::NoEvidence(Reason::NoEvidence("silence".to_owned())),
                _ => Check::Passed,
            };
            let mut seen = world.seen(check, REPLICAS);
            if dice.roll(4) == 0 {
                seen.route.acknowledged = false;
            }
            if let Some(set) = seen.canary.as_mut().filter(|_| dice.roll(5) == 0) {
                set.available = set.available.saturating_sub(1);
            }
            if dice.roll(8) == 0 {
                seen.setup = Setup::Pending("proxies".to_owned());
            }
            if dice.roll(40) == 0 {
                seen.verbs.promote = Some(rev("X"));
            }
            let before = world.state.clone();
            let decision = world.obey(&plan, &seen);
            let next = &decision.state;
            let told = || format!("round {round}\nfrom {before:?}\nsaw {seen:?}\nto {decision:?}");
            let traffic = |state: &State| (state.phase, state.weight, state.step, state.mirror, state.audience.clone());
            assert_eq!(next.counter - before.counter, u64::from(traffic(&before) != traffic(next)), "{}", told());
            let available = seen.canary.as_ref().map_or(0, |set| set.available);
            if next.mirror.is_copying() && !before.mirror.is_copying() {
                copied += 1;
                assert!(available >= canary_size(REPLICAS, 50) && seen.setup == Setup::Ready, "{}", told());
                assert_eq!(next.weight, 0, "{}", told());
            }
            if next.phase == Phase::Progressing && next.weight > 0 {
                assert!(next.audience.is_some() && !next.mirror.is_copying(), "shown to everybody: {}", told());
            }
            if before.audience.is_some() && next.audience.is_none() && next.weight > 0 {
                lifted += 1;
                let word = before.phase == Phase::Promoting && seen.setup == Setup::Ready;
                assert!(word && available >= REPLICAS, "{}", told());
            }
            if matches!(decision.desired.canary, CanaryPods::Adopt { .. }) {
                adopted += 1;
                let everybodys = before.weight == 100 && before.audience.is_none();
                assert!(everybodys && seen.route.acknowledged, "adopted before everybody saw it: {}", told());
            }
        }
    }
    assert!(copied > 100 && lifted > 100 && adopted > 100, "{copied} {lifted} {adopted}");
}
