//! Walks every state that can be reached and checks the machine's promises on every edge.
//!
//! Time is folded: every timestamp of a state is either "now" or "long ago", and each state is met at both ages; counters
//! are folded to 0 after the edge was checked. That leaves a finite graph, which is walked whole.

use std::collections::{HashSet, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use rollout::verdict::{Advance, Cause, Lane, Wait};
use rollout::{
    CanaryPods, CanarySet, Check, Decision, Failure, Happening, Hold, Judgement, Native, Observation, Paused, Phase,
    Plan, Reason, Revision, Route, Setup, State, Target, TargetView, Template, Verbs, canary_size, check_due_in, step,
};

const REPLICAS: u32 = 4;

fn now() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_000)
}

fn long_ago() -> DateTime<Utc> {
    now() - TimeDelta::hours(2)
}

fn rev(name: &str) -> Revision {
    Revision(name.to_owned())
}

fn plan() -> Plan {
    Plan {
        steps: vec![10, 100],
        interval: TimeDelta::seconds(10),
        threshold: 2,
        step_checks: 1,
        progress_deadline: TimeDelta::hours(1),
        skip_analysis: false,
        suspended: false,
    }
}

/// Targets that the API server can show, of template S (stable at first), X or Y.
fn targets() -> Vec<Target> {
    let mut all = vec![Target::Missing];
    let view = |template: &str, paused, replicas, native, other_pods, restart_only, uid: &str| {
        Target::Present(TargetView {
            uid: uid.to_owned(),
            template: Template { revision: rev(template), restart_only },
            paused,
            replicas,
            max_unavailable: 1,
            native,
            other_pods,
        })
    };
    for template in ["S", "X", "Y"] {
        for paused in [Paused::No, Paused::Held, Paused::ByManifest] {
            for other_pods in [0, REPLICAS] {
                all.push(view(template, paused, REPLICAS, Native::Settled(rev("S")), other_pods, false, "one"));
            }
            all.push(view(template, paused, REPLICAS, Native::Settled(rev(template)), 0, false, "one"));
            all.push(view(template, paused, 0, Native::Settled(rev(template)), 0, false, "one"));
        }
        all.push(view(template, Paused::Held, REPLICAS, Native::Torn, REPLICAS, false, "one"));
        all.push(view(template, Paused::No, REPLICAS, Native::Moving, REPLICAS, false, "one"));
        all.push(view(template, Paused::Held, REPLICAS, Native::Settled(rev("S")), REPLICAS, true, "one"));
        all.push(view(template, Paused::No, REPLICAS, Native::Settled(rev(template)), 0, false, "two"));
    }
    all
}

fn sets() -> Vec<Option<CanarySet>> {
    let set =
        |desired, available, adopted| Some(CanarySet { desired, pods: desired, available, adopted, trouble: None });
    vec![
        None,
        set(1, 0, false),
        set(1, 1, false),
        set(REPLICAS, REPLICAS - 1, false),
        set(REPLICAS, REPLICAS, false),
        set(1, 1, true),
        set(REPLICAS, REPLICAS, true),
    ]
}

fn breach() -> Failure {
    Failure::MetricBreached("too many errors".to_owned())
}

fn checks() -> Vec<Check> {
    let silence = Check::NoEvidence(Reason::NoEvidence("no traffic".to_owned()));
    vec![Check::NotMade, Check::Passed, Check::Failed(breach()), silence]
}

fn worse() -> Failure {
    Failure::Verdict(Cause::Evidence(Lane::ErrorRate), "5 % errors vs 1 %".to_owned())
}

fn collecting(sentence: &str) -> Judgement {
    Judgement::Open(Reason::Verdict(Wait::CollectingData, sentence.to_owned()))
}

/// With the check that each is met beside: the graph must stay small enough to be walked whole.
fn judgements() -> Vec<(Check, Judgement)> {
    vec![
        (Check::Passed, Judgement::Fine(Advance::NonInferior, "fine".to_owned())),
        (Check::Passed, collecting("12 of 390")),
        (Check::NotMade, Judgement::Condemned(worse())),
    ]
}

fn all_verbs() -> Vec<Verbs> {
    let none = Verbs::default;
    let mut all = vec![none()];
    for name in ["X", "Y"] {
        all.push(Verbs { promote: Some(rev(name)), ..none() });
        all.push(Verbs { abort: Some(rev(name)), ..none() });
        all.push(Verbs { pause: Some(rev(name)), ..none() });
        all.push(Verbs { retry: Some(rev(name)), ..none() });
    }
    all
}

fn observations() -> Vec<Observation> {
    let mut all = Vec::new();
    let routes = [(false, 0), (true, 0), (true, REPLICAS)];
    for target in targets() {
        for canary in sets() {
            for (acknowledged, stable_endpoints) in routes {
                let seen = |check: Check, verbs: Verbs, setup: Setup, deleting| Observation {
                    deleting,
                    setup,
                    target: target.clone(),
                    canary: canary.clone(),
                    route: Route { acknowledged, stable_endpoints },
                    check,
                    judgement: Judgement::NotAsked,
                    verbs,
                };
                for check in checks() {
                    all.push(seen(check, Verbs::default(), Setup::Ready, false));
                }
                for (check, judgement) in judgements() {
                    all.push(Observation { judgement, ..seen(check, Verbs::default(), Setup::Ready, false) });
                }
                for verbs in all_verbs() {
                    if verbs.promote == Some(rev("X")) {
                        let judgement = Judgement::Condemned(worse());
                        let condemned = seen(Check::NotMade, verbs.clone(), Setup::Ready, false);
                        all.push(Observation { judgement, ..condemned });
                    }
                    all.push(seen(Check::Passed, verbs, Setup::Ready, false));
                }
                for setup in [Setup::Pending("proxies".to_owned()), Setup::Refused("headless".to_owned())] {
                    all.push(seen(Check::Passed, Verbs::default(), setup, false));
                }
                all.push(seen(Check::NotMade, Verbs::default(), Setup::Ready, true));
            }
        }
    }
    all
}

fn folded(state: &State, age: bool) -> State {
    let fold = |time: Option<DateTime<Utc>>| {
        time.map(|time| if age || time < now() - TimeDelta::hours(1) { long_ago() } else { now() })
    };
    State {
        counter: 0,
        phase_since: fold(state.phase_since),
        effective_since: fold(state.effective_since),
        last_check: fold(state.last_check),
        lacking_since: fold(state.lacking_since),
        ..state.clone()
    }
}

/// Walks the whole graph, calling `check` on every edge; returns the states.
fn walk(plan: &Plan, mut check: impl FnMut(&State, &Observation, &Decision)) -> HashSet<State> {
    let observations = observations();
    let mut known = HashSet::from([State::default()]);
    let mut queue = VecDeque::from([State::default()]);
    while let Some(state) = queue.pop_front() {
        assert!(known.len() < 20_000, "the graph is not finite: {state:?}");
        for seen in &observations {
            // The operator measures only when it is asked to.
            let due = check_due_in(plan, &state, now()).is_some_and(|due| due.is_zero());
            if !due && seen.check != Check::NotMade {
                continue;
            }
            let decision = step(plan, &state, seen, now());
            check(&state, seen, &decision);
            for age in [false, true] {
                let next = folded(&decision.state, age);
                if known.insert(next.clone()) {
                    queue.push_back(next);
                }
            }
        }
    }
    known
}

fn view(seen: &Observation) -> Option<&TargetView> {
    match &seen.target {
        Target::Missing => None,
        Target::Present(view) => Some(view),
    }
}

fn promises(plan: &Plan, state: &State, seen: &Observation, decision: &Decision) {
    let next = &decision.state;
    let told = || format!("\nfrom {state:?}\nsaw  {seen:?}\nto   {decision:?}");

    assert!(next.counter >= state.counter, "the counter fell{}", told());
    let moved = (next.phase, next.weight, next.step, &next.stable, &next.canary)
        != (state.phase, state.weight, state.step, &state.stable, &state.canary);
    assert_eq!(next.counter - state.counter, u64::from(moved), "the counter does not count moves{}", told());
    assert!(next.weight <= 100, "{}", told());

    if next.step > state.step {
        assert_eq!(next.step, state.step + 1, "a step was skipped{}", told());
        assert_eq!(seen.check, Check::Passed, "a step without evidence{}", told());
        let shown = matches!(seen.judgement, Judgement::NotAsked | Judgement::Fine(..));
        assert!(shown, "a step that the verdict has not let end{}", told());
        assert_eq!(next.weight, state.weight, "step and weight in one edge{}", told());
    }
    if next.weight > state.weight {
        let view = view(seen).expect("weight needs a target");
        let available = seen.canary.as_ref().map_or(0, |set| set.available);
        assert_eq!(Some(&view.template.revision), next.canary.as_ref(), "weight for another template{}", told());
        assert!(available >= canary_size(view.replicas, next.weight), "weight before pods{}", told());
        assert_eq!(seen.setup, Setup::Ready, "weight without proxies{}", told());
        assert_eq!(next.failed_checks, state.failed_checks, "{}", told());
        match state.phase {
            Phase::Progressing => assert_eq!(next.weight, state.steps[state.step], "not the step's weight{}", told()),
            Phase::Promoting => assert_eq!(next.weight, 100, "{}", told()),
            _ => panic!("weight rose outside a release{}", told()),
        }
    }
    if state.phase == Phase::Progressing && next.phase == Phase::Promoting {
        let evidence = seen.check == Check::Passed && state.step + 1 == state.steps.len();
        let word = seen.verbs.promote.is_some() && seen.verbs.promote == state.canary;
        assert!(evidence || word || plan.skip_analysis, "promoted without evidence or word{}", told());
    }
    if let CanaryPods::Adopt { .. } = decision.desired.canary {
        assert_eq!((state.phase, state.weight), (Phase::Promoting, 100), "adopted before the full weight{}", told());
        assert!(next.effective_since.is_some(), "adopted before every proxy knew{}", told());
        assert!(seen.verbs.pause.is_none() || seen.verbs.pause != state.canary, "adopted while paused{}", told());
    }
    if next.phase == Phase::Finalising && state.phase != Phase::Finalising {
        assert_eq!(state.phase, Phase::Promoting, "{}", told());
        assert_eq!(next.stable, state.canary, "{}", told());
    }
    if let (Judgement::Condemned(_), Phase::Progressing | Phase::Promoting) = (&seen.judgement, state.phase) {
        let word = seen.verbs.promote.is_some() && seen.verbs.promote == state.canary;
        let adopted = seen.canary.as_ref().is_some_and(|set| set.adopted) && state.phase == Phase::Promoting;
        if state.weight > 0 && !word && !adopted {
            assert_eq!(next.weight, 0, "a condemned version keeps its traffic{}", told());
        }
    }
    if matches!(next.reason, Reason::RolledBack(Failure::Verdict(..))) && next.reason != state.reason {
        assert!(matches!(seen.judgement, Judgement::Condemned(_)) && state.weight > 0, "{}", told());
        assert_eq!(next.phase, Phase::Failed, "{}", told());
    }
    if next.phase == Phase::Failed {
        assert_eq!(next.weight, 0, "a rollback that leaves weight{}", told());
    }
    if state.phase == Phase::Failed && !seen.deleting {
        let same = view(seen).is_some_and(|view| Some(&view.template.revision) == state.canary.as_ref());
        let same_target = view(seen).is_some_and(|view| Some(&view.uid) == state.target_uid.as_ref());
        let asked = seen.verbs.retry == state.canary;
        if same && same_target && !asked {
            assert_eq!(next.phase, Phase::Failed, "a failed revision was revived{}", told());
        }
    }
    if !matches!(next.phase, Phase::Progressing | Phase::Promoting | Phase::Finalising) {
        assert_eq!(next.weight, 0, "weight outside a release{}", told());
    }
    if decision.desired.hold == Hold::Release {
        let view = view(seen).expect("nothing to unpause");
        assert_eq!(view.paused, Paused::Held, "unpaused what is not ours to unpause{}", told());
        let judged = next.stable.as_ref() == Some(&view.template.revision);
        let native = view.template.restart_only || view.replicas == 0 || next.phase == Phase::Initializing;
        assert!(judged || native, "unpaused what was not judged{}", told());
    }
    if matches!(decision.desired.canary, CanaryPods::None) && state.phase.is_release() {
        let gone = matches!(seen.target, Target::Missing);
        assert!(gone || next.weight == 0, "pods deleted under traffic{}", told());
    }
    if let (Some(canary), CanaryPods::None) = (&seen.canary, decision.desired.canary) {
        let drained = seen.route.acknowledged && next.counter == state.counter;
        let waited = next.phase_since == Some(long_ago());
        let gone = matches!(seen.target, Target::Missing);
        assert!(drained || waited || gone || canary.adopted, "pods deleted before the proxies let go{}", told());
    }
    assert!(!decision.requeue_after.is_zero(), "a busy loop{}", told());
}

/// A word for another revision changes nothing.
fn stale_words(plan: &Plan, state: &State, seen: &Observation, decision: &Decision) {
    let canary = state.canary.as_ref();
    let spoken = [&seen.verbs.promote, &seen.verbs.abort, &seen.verbs.pause, &seen.verbs.retry];
    if spoken.iter().all(|word| word.as_ref().is_none_or(|word| Some(word) != canary)) {
        let silent = Observation { verbs: Verbs::default(), ..seen.clone() };
        assert_eq!(&step(plan, state, &silent, now()), decision, "a stale word acted on {state:?}, {seen:?}");
    }
}

#[test]
fn promises_hold_on_every_edge() {
    let plan = plan();
    let mut edges = 0_u64;
    let states = walk(&plan, |state, seen, decision| {
        edges += 1;
        promises(&plan, state, seen, decision);
        stale_words(&plan, state, seen, decision);
    });
    println!("{} states, {edges} edges", states.len());
    for phase in [
        Phase::Initializing,
        Phase::Initialized,
        Phase::Waiting,
        Phase::Progressing,
        Phase::Promoting,
        Phase::Finalising,
        Phase::Succeeded,
        Phase::Failed,
        Phase::Terminating,
    ] {
        assert!(states.iter().any(|state| state.phase == phase), "{phase:?} was not reached");
    }
}

/// A release of X at its first step.
fn mk_running() -> State {
    State {
        phase: Phase::Progressing,
        weight: 10,
        steps: vec![10, 100],
        stable: Some(rev("S")),
        canary: Some(rev("X")),
        target_uid: Some("one".to_owned()),
        effective_since: Some(long_ago()),
        ..State::default()
    }
}

#[test]
fn a_suspended_canary_moves_no_weight() {
    let plan = Plan { suspended: true, ..plan() };
    let running = mk_running();
    for seen in observations().iter().filter(|seen| !seen.deleting) {
        let same =
            view(seen).is_some_and(|view| view.template.revision == rev("X") && view.uid == "one" && view.replicas > 0);
        if same && seen.verbs.abort.is_none() {
            let decision = step(&plan, &running, seen, now());
            assert_eq!(decision.state.weight, 10, "{seen:?}");
        }
    }
}

#[test]
fn an_edit_of_the_steps_does_not_move_a_running_release() {
    let edited = Plan { steps: vec![50], ..plan() };
    let running = mk_running();
    for seen in observations().iter().filter(|seen| seen.check == Check::NotMade) {
        let decision = step(&edited, &running, seen, now());
        assert!(decision.state.weight <= 10, "{seen:?}");
    }
}

/// Lets a world that obeys take a release through, and gives the weights that traffic saw.
fn release(plan: &Plan, check: impl Fn(&State) -> Check) -> (State, Vec<u32>, Vec<Happening>) {
    judged(plan, check, |_, _| Judgement::NotAsked)
}

/// The same, with what the verdict says of a state at a second.
fn judged(
    plan: &Plan,
    check: impl Fn(&State) -> Check,
    judgement: impl Fn(&State, u32) -> Judgement,
) -> (State, Vec<u32>, Vec<Happening>) {
    let mut state = State {
        phase: Phase::Initialized,
        stable: Some(rev("S")),
        target_uid: Some("one".to_owned()),
        ..State::default()
    };
    let (mut time, mut acknowledged, mut set) = (now(), 0, None::<CanarySet>);
    let (mut weights, mut happenings, mut paused) = (Vec::new(), Vec::new(), Paused::Held);
    for second in 0..200 {
        let adopted = set.as_ref().is_some_and(|set| set.adopted);
        let native = if adopted { Native::Settled(rev("X")) } else { Native::Settled(rev("S")) };
        let due = check_due_in(plan, &state, time).is_some_and(|due| due.is_zero());
        let seen = Observation {
            deleting: false,
            setup: Setup::Ready,
            target: Target::Present(TargetView {
                uid: "one".to_owned(),
                template: Template { revision: rev("X"), restart_only: false },
                paused,
                replicas: REPLICAS,
                max_unavailable: 1,
                native,
                other_pods: if adopted { 0 } else { REPLICAS },
            }),
            canary: set.clone(),
            route: Route { acknowledged: acknowledged == state.counter, stable_endpoints: REPLICAS },
            check: if due { check(&state) } else { Check::NotMade },
            judgement: judgement(&state, second),
            verbs: Verbs::default(),
        };
        let decision = step(plan, &state, &seen, time);
        if decision.state.weight != state.weight {
            weights.push(decision.state.weight);
        }
        happenings.extend(decision.happenings.clone());
        let mut resize = |size, adopted| {
            set = Some(CanarySet { desired: size, pods: size, available: size, adopted, trouble: None });
        };
        match decision.desired.canary {
            CanaryPods::Size(size) => resize(size, false),
            CanaryPods::Adopt { replicas, .. } => resize(replicas, true),
            CanaryPods::None if !adopted => set = None,
            CanaryPods::None | CanaryPods::Keep => {}
        }
        if decision.desired.hold == Hold::Release {
            paused = Paused::No;
        }
        state = decision.state;
        acknowledged = state.counter;
        time += TimeDelta::seconds(1);
    }
    (state, weights, happenings)
}

#[test]
fn a_good_version_goes_through_every_weight_and_is_promoted() {
    let plan = Plan { steps: vec![10, 25, 50, 100], ..plan() };
    let (state, weights, happenings) = release(&plan, |_| Check::Passed);
    assert_eq!(state.phase, Phase::Succeeded);
    assert_eq!(state.stable, Some(rev("X")));
    assert_eq!(weights, [10, 25, 50, 100, 0]);
    assert!(happenings.contains(&Happening::Promoted));
}

#[test]
fn a_version_that_fails_at_a_later_step_ends_at_weight_0() {
    let plan = Plan { steps: vec![10, 25, 50, 100], ..plan() };
    let fails_at =
        |weight| move |state: &State| if state.weight >= weight { Check::Failed(breach()) } else { Check::Passed };
    let (state, weights, _) = release(&plan, fails_at(50));
    assert_eq!((state.phase, state.failed_checks), (Phase::Failed, 2));
    assert_eq!(weights, [10, 25, 50, 0]);
    assert_eq!(state.reason, Reason::RolledBack(breach()));
}

#[test]
fn silence_holds_at_the_first_weight() {
    let silence = || Check::NoEvidence(Reason::NoEvidence("no traffic".to_owned()));
    let (state, weights, happenings) = release(&plan(), |_| silence());
    assert_eq!((state.phase, state.weight), (Phase::Progressing, 10));
    assert_eq!(weights, [10]);
    let held = happenings.iter().filter(|happening| matches!(happening, Happening::Held(_))).count();
    assert_eq!(held, 1, "one hold is told once");
}

#[test]
fn a_rollback_by_the_verdict_ends_at_weight_0_before_the_next_check() {
    let plan = Plan { steps: vec![10, 25, 50, 100], interval: TimeDelta::hours(1), ..plan() };
    let condemns = |state: &State, _| match state.weight {
        10 => Judgement::Condemned(worse()),
        _ => collecting("0 of 390"),
    };
    let (state, weights, happenings) = judged(&plan, |_| Check::Passed, condemns);
    assert_eq!((state.phase, state.failed_checks), (Phase::Failed, 0));
    assert_eq!(weights, [10, 0]);
    assert_eq!(state.reason, Reason::RolledBack(worse()));
    assert!(happenings.contains(&Happening::RolledBack(worse())));
}

#[test]
fn a_step_waits_for_the_verdict_and_writes_nothing_meanwhile() {
    let plan = Plan { steps: vec![10, 100], interval: TimeDelta::seconds(5), ..plan() };
    let fine = || Judgement::Fine(Advance::NonInferior, "fine".to_owned());
    let late = |_: &State, second: u32| if second < 60 { collecting(&second.to_string()) } else { fine() };
    let (state, weights, happenings) = judged(&plan, |_| Check::Passed, late);
    assert_eq!((state.phase, weights), (Phase::Succeeded, vec![10, 100, 0]));
    let shown = |happening: &&Happening| matches!(happening, Happening::Shown { .. });
    assert_eq!(happenings.iter().filter(shown).count(), 2, "each step says on what ground it ends");

    let running = State {
        last_check: Some(long_ago()),
        passed_checks: 1,
        phase_since: Some(now()),
        reason: Reason::Verdict(Wait::CollectingData, "1 of 390".to_owned()),
        ..mk_running()
    };
    let seen = observations().into_iter().filter(|seen| {
        let alike = view(seen).is_some_and(|view| view.template.revision == rev("X") && view.replicas > 0);
        let held = view(seen).is_some_and(|view| view.paused == Paused::Held && view.uid == "one");
        let full = seen.canary.as_ref().is_some_and(|set| set.available == REPLICAS && !set.adopted);
        alike && held && full && seen.judgement == collecting("12 of 390")
    });
    let mut met = 0;
    for seen in seen {
        met += 1;
        assert_eq!(step(&plan, &running, &seen, now()).state, running, "{seen:?}");
    }
    assert!(met > 0);
}

#[test]
fn silence_of_the_verdict_is_told_once() {
    let wait = || Judgement::Open(Reason::Verdict(Wait::NoTraffic, "no requests".to_owned()));
    let (state, weights, happenings) = judged(&plan(), |_| Check::Passed, |_, _| wait());
    assert_eq!((state.phase, weights), (Phase::Progressing, vec![10]));
    assert_eq!(state.reason.code(), "NoTraffic");
    let held = happenings.iter().filter(|happening| matches!(happening, Happening::Held(_))).count();
    assert_eq!(held, 1);
}
