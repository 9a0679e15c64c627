//! Walks every state that can be reached and checks the machine's promises on every edge.
//!
//! Time is folded: every timestamp of a state is either "now" or "long ago", and each state is met at both ages; counters
//! are folded to 0 after the edge was checked. That leaves a finite graph, which is walked whole; of two states that
//! differ only in which of X and Y is which, one is walked, and that the other does the same is looked at on a part of the
//! edges. A release with copies and an audience is walked from where it differs from a plain one to where it no longer does.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use rollout::verdict::{Advance, Cause, Lane, Wait};
use rollout::{
    Audience, CanaryPods, CanarySet, Check, CopiesEnd, Decision, Failure, Happening, Hold, Judgement, Mirror, Native,
    Observation, Paused, Phase, Plan, Reason, Revision, Route, Setup, State, Target, TargetView, Template, Verbs,
    canary_size, check_due_in, step,
};

const REPLICAS: u32 = 4;

/// Computed once: they are asked for on every edge.
static NOW: LazyLock<DateTime<Utc>> = LazyLock::new(|| DateTime::UNIX_EPOCH + TimeDelta::days(20_000));
static LONG_AGO: LazyLock<DateTime<Utc>> = LazyLock::new(|| *NOW - TimeDelta::hours(2));

fn now() -> DateTime<Utc> {
    *NOW
}

fn long_ago() -> DateTime<Utc> {
    *LONG_AGO
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
        mirror_percent: 0,
        audience: None,
        skip_analysis: false,
        suspended: false,
    }
}

/// What is copied in [`formed`].
const COPIED: u32 = 50;
/// Checks of the A/B test in [`formed`].
const ITERATIONS: u32 = 2;

/// Copies first, then an A/B test.
fn formed() -> Plan {
    let audience = Some(Audience { matches: "testers".to_owned(), iterations: Some(ITERATIONS) });
    Plan { steps: vec![100], mirror_percent: COPIED, audience, ..plan() }
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

/// Besides a passed check.
fn measured() -> [Check; 3] {
    let silence = Check::NoEvidence(Reason::NoEvidence("no traffic".to_owned()));
    [Check::NotMade, Check::Failed(breach()), silence]
}

fn worse() -> Failure {
    Failure::Verdict(Cause::Evidence(Lane::ErrorRate), "5 % errors vs 1 %".to_owned())
}

fn collecting(sentence: &str) -> Judgement {
    Judgement::Open(Reason::Verdict(Wait::CollectingData, sentence.to_owned()))
}

/// Besides none and the condemning one.
fn judgements() -> [Judgement; 2] {
    [Judgement::Fine(Advance::NonInferior, "fine".to_owned()), collecting("12 of 390")]
}

fn all_verbs() -> Vec<Verbs> {
    let none = Verbs::default;
    let mut all = Vec::new();
    for name in ["X", "Y"] {
        all.push(Verbs { promote: Some(rev(name)), ..none() });
        all.push(Verbs { abort: Some(rev(name)), ..none() });
        all.push(Verbs { pause: Some(rev(name)), ..none() });
        all.push(Verbs { retry: Some(rev(name)), ..none() });
    }
    all
}

/// One view of the cluster in which everything else varies.
struct Scene {
    /// Without a word: measurements, judgements, set-ups, deletion.
    silent: Vec<Observation>,
    /// With a word, each beside the index of the same observation without it.
    spoken: Vec<(usize, Observation)>,
}

impl Scene {
    /// `due`: the operator measures only when it is asked to; what is not asked for is not met.
    fn new(target: &Target, canary: Option<&CanarySet>, route: Route, due: bool) -> Self {
        let usual = if due { Check::Passed } else { Check::NotMade };
        let seen = |check: Check, judgement: Judgement| Observation {
            deleting: false,
            setup: Setup::Ready,
            target: target.clone(),
            canary: canary.cloned(),
            route,
            check,
            judgement,
            verbs: Verbs::default(),
        };
        let plain = seen(usual, Judgement::NotAsked);
        let condemned = seen(Check::NotMade, Judgement::Condemned(worse()));
        let mut silent = vec![plain.clone(), condemned.clone()];
        silent.extend(judgements().into_iter().map(|judgement| Observation { judgement, ..plain.clone() }));
        if due {
            silent.extend(measured().into_iter().map(|check| Observation { check, ..plain.clone() }));
        }
        for setup in [Setup::Pending("proxies".to_owned()), Setup::Refused("headless".to_owned())] {
            silent.push(Observation { setup, ..plain.clone() });
        }
        silent.push(Observation { deleting: true, ..seen(Check::NotMade, Judgement::NotAsked) });
        let mut spoken: Vec<_> =
            all_verbs().into_iter().map(|verbs| (0, Observation { verbs, ..plain.clone() })).collect();
        for name in ["X", "Y"] {
            let verbs = Verbs { promote: Some(rev(name)), ..Verbs::default() };
            spoken.push((1, Observation { verbs, ..condemned.clone() }));
        }
        Self { silent, spoken }
    }
}

fn scenes(due: bool) -> Vec<Scene> {
    let mut all = Vec::new();
    for target in targets() {
        for canary in sets() {
            for (acknowledged, stable_endpoints, other_endpoints) in
                [(false, 0, REPLICAS), (true, 0, REPLICAS), (true, REPLICAS, REPLICAS), (true, REPLICAS, 0)]
            {
                let route = Route { acknowledged, stable_endpoints, other_endpoints };
                all.push(Scene::new(&target, canary.as_ref(), route, due));
            }
        }
    }
    all
}

/// Those that differ for a release under way: it reads neither what else has pods nor who is behind the stable Service.
fn narrow(due: bool) -> Vec<Scene> {
    let usual = |view: &TargetView| {
        let resting = view.other_pods == 0 && view.native == Native::Settled(rev("S"));
        resting || view.template.restart_only || view.replicas == 0
    };
    let differs = |seen: &Observation| seen.route.stable_endpoints == 0 && view(seen).is_none_or(usual);
    let elsewhere = |seen: &Observation| view(seen).is_some_and(|view| view.uid == "two");
    scenes(due).into_iter().filter(|scene| differs(&scene.silent[0]) || elsewhere(&scene.silent[0])).collect()
}

/// All of them, whether or not a check is due.
fn observations() -> Vec<Observation> {
    let all = [scenes(false), scenes(true)].into_iter().flatten();
    all.flat_map(|scene| scene.silent.into_iter().chain(scene.spoken.into_iter().map(|(_, seen)| seen))).collect()
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

/// X and Y exchanged in a text: nothing else in a state or a decision has these letters.
fn exchanged(text: &str) -> String {
    let other = |letter| match letter {
        'X' => 'Y',
        'Y' => 'X',
        _ => letter,
    };
    text.chars().map(other).collect()
}

fn mirrored(state: &State) -> State {
    let text = serde_json::to_string(state).expect("a state is JSON");
    serde_json::from_str(&exchanged(&text)).expect("the letters X and Y occur in names of revisions only")
}

fn mirrored_observation(seen: &Observation) -> Observation {
    let other = |name: &Revision| Revision(exchanged(&name.0));
    let Verbs { promote, abort, pause, retry } = &seen.verbs;
    let [promote, abort, pause, retry] = [promote, abort, pause, retry].map(|word| word.as_ref().map(other));
    let mut seen = Observation { verbs: Verbs { promote, abort, pause, retry }, ..seen.clone() };
    if let Target::Present(view) = &mut seen.target {
        view.template.revision = other(&view.template.revision);
        if let Native::Settled(name) = &mut view.native {
            *name = other(name);
        }
    }
    seen
}

/// Of a state and its mirror image, the one that names X first.
fn representative(state: State) -> State {
    let first = [&state.stable, &state.canary].into_iter().flatten().find(|name| **name != rev("S"));
    if first == Some(&rev("Y")) { mirrored(&state) } else { state }
}

/// All observations that a state may meet.
struct World {
    plan: Plan,
    idle: Vec<Scene>,
    due: Vec<Scene>,
}

impl World {
    fn new(plan: Plan) -> Self {
        Self { plan, idle: scenes(false), due: scenes(true) }
    }

    /// Checks every edge of a state; returns where they lead and how many there are.
    fn leave(&self, state: &State, turn: usize) -> (Vec<State>, u64) {
        let due = check_due_in(&self.plan, state, now()).is_some_and(|due| due.is_zero());
        let (mut next, mut edges) = (Vec::new(), 0);
        for (at, scene) in if due { &self.due } else { &self.idle }.iter().enumerate() {
            let mut go = |seen: &Observation| {
                let decision = step(&self.plan, state, seen, now());
                promises(&self.plan, state, seen, &decision);
                remember(&mut next, &decision.state);
                edges += 1;
                if (at + turn).is_multiple_of(MIRRORED) {
                    self.has_a_mirror_image(state, seen, &decision);
                }
                decision
            };
            let silent: Vec<Decision> = scene.silent.iter().map(&mut go).collect();
            for (without, seen) in &scene.spoken {
                let decision = go(seen);
                if is_stale(&seen.verbs, state) {
                    assert_eq!(silent[*without], decision, "a stale word acted on {state:?}, {seen:?}");
                }
            }
        }
        (next, edges)
    }

    fn has_a_mirror_image(&self, state: &State, seen: &Observation, decision: &Decision) {
        let image = step(&self.plan, &mirrored(state), &mirrored_observation(seen), now());
        assert_eq!(format!("{image:?}"), exchanged(&format!("{decision:?}")), "names matter: {state:?}, {seen:?}");
    }
}

/// Of so many scenes of a state one is met in the mirror, too.
const MIRRORED: usize = 512;

/// What a walk has seen: a representative of each state, and the number of their edges.
struct Walked {
    states: HashSet<State>,
    edges: u64,
}

/// Walks the whole graph from `first` on, two states at a time, as far as the states are to be left.
fn walk(world: &World, first: State, is_left: impl Fn(&State) -> bool) -> Walked {
    let mut known = HashSet::from([first.clone()]);
    let mut layer = vec![first];
    let mut edges = 0;
    while !layer.is_empty() {
        assert!(known.len() < 20_000, "the graph is not finite: {:?}", layer[0]);
        let turn = AtomicUsize::new(0);
        let work = || {
            let take = || turn.fetch_add(1, Ordering::Relaxed);
            let mine = std::iter::from_fn(|| Some(take())).map_while(|at| Some((at, layer.get(at)?)));
            mine.map(|(at, state)| world.leave(state, at)).collect::<Vec<_>>()
        };
        let left: Vec<_> = std::thread::scope(|scope| {
            let other = scope.spawn(work);
            let mine = work();
            mine.into_iter().chain(other.join().expect("a promise was broken")).collect()
        });
        edges += left.iter().map(|(_, edges)| edges).sum::<u64>();
        let next = left.iter().flat_map(|(next, _)| next).flat_map(|next| [false, true].map(|age| folded(next, age)));
        let new = next.map(representative).filter(|state| known.insert(state.clone()));
        layer = new.filter(|state| is_left(state)).collect();
    }
    Walked { states: known, edges }
}

/// The edges of one state lead to a few others, most of them to the one before.
fn remember(met: &mut Vec<State>, next: &State) {
    if !met.iter().rev().any(|state| state == next) {
        met.push(next.clone());
    }
}

/// A word for another revision changes nothing.
fn is_stale(verbs: &Verbs, state: &State) -> bool {
    let Verbs { promote, abort, pause, retry } = verbs;
    [promote, abort, pause, retry].into_iter().flatten().all(|word| Some(word) != state.canary.as_ref())
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

    copies_are_promised(plan, state, seen, decision, &told);
    an_audience_is_promised(state, seen, decision, &told);
    assert!(next.counter >= state.counter, "the counter fell{}", told());
    let moved = (next.phase, next.weight, next.step, &next.stable, &next.canary)
        != (state.phase, state.weight, state.step, &state.stable, &state.canary)
        || (next.mirror, &next.audience) != (state.mirror, &state.audience);
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
        assert_eq!(state.audience, None, "adopted before everybody saw it{}", told());
        assert!(next.effective_since.is_some(), "adopted before every proxy knew{}", told());
        assert!(seen.verbs.pause.is_none() || seen.verbs.pause != state.canary, "adopted while paused{}", told());
    }
    if next.phase == Phase::Finalising && state.phase != Phase::Finalising {
        assert_eq!(state.phase, Phase::Promoting, "{}", told());
        assert_eq!(next.stable, state.canary, "{}", told());
    }
    if state.phase == Phase::Finalising && next.phase == Phase::Succeeded && state.weight > 0 {
        let empty = view(seen).is_some_and(|view| view.replicas == 0);
        assert!(empty || seen.route.other_endpoints == 0, "traffic comes back to pods that leave{}", told());
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

/// docs/audience.md, "Mirroring".
fn copies_are_promised(plan: &Plan, state: &State, seen: &Observation, decision: &Decision, told: &dyn Fn() -> String) {
    let next = &decision.state;
    let is_told = |happening| decision.happenings.contains(&happening);
    let shown = |end| is_told(Happening::CopiesEnded(end));
    if next.weight > 0 {
        assert!(matches!(next.mirror, Mirror::Off | Mirror::Over(_)), "copies beside a weight{}", told());
    }
    if next.weight > state.weight {
        assert!(matches!(state.mirror, Mirror::Off | Mirror::Over(_)), "copies end as the weight comes{}", told());
    }
    if next.step > state.step || (state.phase == Phase::Progressing && next.phase == Phase::Promoting) {
        let word = plan.skip_analysis || seen.verbs.promote == state.canary;
        assert!(state.weight > 0 || word, "copies counted as a step{}", told());
    }
    let begins = next.mirror.is_copying() && !state.mirror.is_copying();
    assert_eq!(is_told(Happening::CopiesBegan(COPIED)), begins, "copies begin untold{}", told());
    if begins {
        let view = view(seen).expect("copies need a target");
        let available = seen.canary.as_ref().map_or(0, |set| set.available);
        assert!(available >= canary_size(view.replicas, COPIED), "copies before pods{}", told());
        assert_eq!(
            (seen.setup.clone(), next.weight, state.mirror),
            (Setup::Ready, 0, Mirror::Due(COPIED)),
            "{}",
            told()
        );
    }
    let goes_on = next.phase == Phase::Promoting || (next.phase == Phase::Progressing && next.canary == state.canary);
    let ends = state.mirror.is_copying() && !next.mirror.is_copying();
    let ends_told = decision.happenings.iter().any(|happening| matches!(happening, Happening::CopiesEnded(_)));
    assert_eq!(ends_told, ends && goes_on, "copies end untold, or twice{}", told());
    if ends && next.phase == Phase::Progressing && goes_on {
        assert_eq!(next.mirror, Mirror::Over(COPIED), "the pods for the copies go{}", told());
        let passed = seen.check == Check::Passed && state.passed_checks + 1 >= plan.step_checks;
        let passed = passed && shown(CopiesEnd::Passed);
        let unasked = plan.mirror_percent == 0 && shown(CopiesEnd::NotAskedFor);
        assert!(passed || unasked, "copies end without evidence{}", told());
        let counted = (next.weight, next.step, next.passed_checks, next.failed_checks);
        assert_eq!(counted, (0, state.step, 0, state.failed_checks), "copies counted for a weight{}", told());
    }
    if state.mirror.is_copying() && next.phase == Phase::Failed {
        let by_verdict = matches!(next.reason, Reason::RolledBack(Failure::Verdict(..)));
        assert!(!by_verdict, "the verdict knows nothing of copies{}", told());
    }
}

/// docs/audience.md, "A/B tests".
fn an_audience_is_promised(state: &State, seen: &Observation, decision: &Decision, told: &dyn Fn() -> String) {
    let next = &decision.state;
    let Some(audience) = &state.audience else { return };
    if next.step > state.step {
        assert_eq!(
            (state.weight, state.passed_checks + 1 >= ITERATIONS),
            (100, true),
            "an iteration was skipped{}",
            told()
        );
    }
    let adopted = next.phase == Phase::Finalising && seen.canary.as_ref().is_some_and(|set| set.adopted);
    let lifted = next.audience.is_none() && next.weight > 0 && !adopted;
    assert_eq!(decision.happenings.contains(&Happening::Everybody), lifted, "lifted untold{}", told());
    if lifted {
        let view = view(seen).expect("traffic needs a target");
        let available = seen.canary.as_ref().map_or(0, |set| set.available);
        assert!(available >= view.replicas, "everybody before pods{}", told());
        let promoting = state.phase == Phase::Promoting && next.phase == Phase::Promoting;
        assert!(promoting && next.weight == 100, "lifted while it is judged{}", told());
        assert_eq!((next.effective_since, seen.setup.clone()), (None, Setup::Ready), "{}", told());
    } else if next.phase == Phase::Progressing && next.canary == state.canary {
        assert_eq!(next.audience.as_ref(), Some(audience), "{}", told());
    }
}

#[test]
fn promises_hold_on_every_edge_of_copies_and_ab_tests() {
    let plan = formed();
    let is_formed = |state: &State| state.mirror != Mirror::Off || state.audience.is_some();
    // Of names it matters only which are the same, so one release stands for all.
    let before = State {
        phase: Phase::Initialized,
        stable: Some(rev("S")),
        target_uid: Some("one".to_owned()),
        ..State::default()
    };
    let world = World { idle: narrow(false), due: narrow(true), plan: plan.clone() };
    let is_left = |state: &State| *state == before || is_formed(state);
    let Walked { states, edges } = walk(&world, before.clone(), is_left);
    let own = || states.iter().filter(|state| is_formed(state));
    println!("{} states, {} of them plain ones, {edges} edges", states.len(), states.len() - own().count());
    for mirror in [Mirror::Due(COPIED), Mirror::Copying(COPIED), Mirror::Over(COPIED)] {
        assert!(own().any(|state| state.mirror == mirror), "{mirror:?} was not reached");
    }
    for audience in [None, plan.audience.clone()] {
        let at = |phase| states.iter().any(|state| state.phase == phase && state.audience == audience);
        assert!(at(Phase::Promoting), "{audience:?} was not promoted");
    }
    // Where `mirror` is taken out of the spec.
    let unasked = World { plan: Plan { mirror_percent: 0, ..plan }, ..world };
    own().filter(|state| matches!(state.mirror, Mirror::Due(_) | Mirror::Copying(_))).for_each(|state| {
        unasked.leave(state, 0);
    });
}

#[test]
fn promises_hold_on_every_edge() {
    let Walked { states, edges } = walk(&World::new(plan()), State::default(), |_| true);
    let whole: HashSet<State> = states.iter().flat_map(|state| [state.clone(), mirrored(state)]).collect();
    println!("{} states, {edges} edges; with their mirror images {} states", states.len(), whole.len());
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
            route: Route {
                acknowledged: acknowledged == state.counter,
                stable_endpoints: REPLICAS,
                other_endpoints: 0,
            },
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
