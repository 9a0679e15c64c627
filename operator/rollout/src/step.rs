//! The state machine: one function per phase, each reading top-down in the order in which things are asked.
//!
//! `advance` makes the next state, `stamp` moves the counter, `desired` says what the next state wants of the world. All
//! three are total: every phase meets every observation.

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    decision::{CanaryPods, CopiesEnd, Decision, Desired, Happening, Hold, PrimarySelector},
    observation::{CanarySet, Check, Judgement, Native, Observation, Paused, Setup, Target, TargetView},
    plan::Plan,
    reason::{self, Failure, Reason},
    state::{Mirror, Phase, Revision, State},
    traffic::{FULL_WEIGHT, canary_size},
    verdict::Wait,
};

/// Exact availability may be missing this long before a set with `maxUnavailable` pods missing is adopted.
const ADOPT_EXACT_FOR: TimeDelta = TimeDelta::seconds(30);
/// Proxies may withhold the acknowledgement of weight 0 this long before the canary's pods go all the same: a proxy
/// that is cut off from every operator must not keep a failed version alive.
const DRAIN_WITHOUT_ACK: TimeDelta = TimeDelta::seconds(30);
/// Passes come from watch events; this one is for events that were lost.
const REQUEUE_IDLE: TimeDelta = TimeDelta::seconds(300);
/// The same while something is expected to happen soon.
const REQUEUE_BUSY: TimeDelta = TimeDelta::seconds(1);

/// Decides what is next.
#[must_use]
pub fn step(plan: &Plan, state: &State, seen: &Observation, now: DateTime<Utc>) -> Decision {
    let mut happenings = Vec::new();
    let mut next = advance(plan, state, seen, now, &mut happenings);
    keep_sentence(state, &mut next);
    stamp(state, &mut next, now);
    if next.reason.code() != state.reason.code() && is_hold(&next.reason) {
        happenings.push(Happening::Held(next.reason.clone()));
    }
    let desired = desired(state, &next, seen, now);
    let requeue_after = requeue_after(plan, &next, now);
    Decision { state: next, desired, happenings, requeue_after }
}

/// Time until the next check of the metrics, zero when it is due; none when the state asks for no check.
#[must_use]
pub fn check_due_in(plan: &Plan, state: &State, now: DateTime<Utc>) -> Option<TimeDelta> {
    if state.phase != Phase::Progressing || plan.suspended || plan.skip_analysis {
        return None;
    }
    if state.weight != state.step_weight() && !state.mirror.is_copying() {
        return None;
    }
    let start = state.effective_since?;
    let last = state.last_check.unwrap_or(start).max(start);
    Some((last + plan.interval - now).max(TimeDelta::zero()))
}

fn advance(
    plan: &Plan,
    state: &State,
    seen: &Observation,
    now: DateTime<Utc>,
    happenings: &mut Vec<Happening>,
) -> State {
    if seen.deleting || state.phase == Phase::Terminating {
        return State { phase: Phase::Terminating, weight: 0, reason: Reason::Deleting, ..state.clone() };
    }
    match (&seen.target, state.phase) {
        (_, Phase::Initializing) => initializing(state, seen, happenings),
        (Target::Missing, _) => start_over(state, Reason::TargetMissing),
        (Target::Present(target), _) if state.target_uid.as_ref() != Some(&target.uid) => {
            start_over(state, Reason::NativeRollout)
        }
        (Target::Present(target), Phase::Initialized | Phase::Waiting | Phase::Succeeded | Phase::Failed) => {
            idle(plan, state, seen, target, happenings)
        }
        (Target::Present(target), Phase::Progressing) => progressing(plan, state, seen, target, now, happenings),
        (Target::Present(target), Phase::Promoting) => promoting(plan, state, seen, target, now, happenings),
        (Target::Present(target), Phase::Finalising) => finalising(state, seen, target, happenings),
        (_, Phase::Terminating) => state.clone(),
    }
}

/// Moves the counter and the phase's clock where something changed that the proxies or people go by.
fn stamp(state: &State, next: &mut State, now: DateTime<Utc>) {
    let moved = next.phase != state.phase
        || next.weight != state.weight
        || next.step != state.step
        || next.mirror != state.mirror
        || next.audience != state.audience
        || next.stable != state.stable
        || next.canary != state.canary;
    next.counter = state.counter + u64::from(moved);
    if next.phase != state.phase || state.phase_since.is_none() {
        next.phase_since = Some(now);
    }
}

const fn is_hold(reason: &Reason) -> bool {
    match reason {
        Reason::Refused(_)
        | Reason::TargetMissing
        | Reason::Suspended
        | Reason::PausedByManifest
        | Reason::Paused
        | Reason::NoEvidence(_) => true,
        // The normal state of a step is no news.
        Reason::Verdict(wait, _) => !matches!(wait, Wait::Off | Wait::Idle | Wait::CollectingData),
        Reason::Unobserved
        | Reason::SettingUp(_)
        | Reason::NativeRollout
        | Reason::Idle
        | Reason::Reverted
        | Reason::ScaledToZero
        | Reason::WaitingForPods(_)
        | Reason::WaitingForProxies
        | Reason::Judging
        | Reason::Mirroring
        | Reason::HandingOver
        | Reason::OldPodsLeaving
        | Reason::Promoted
        | Reason::RolledBack(_)
        | Reason::Deleting => false,
    }
}

fn initializing(state: &State, seen: &Observation, happenings: &mut Vec<Happening>) -> State {
    let wait = |reason| State { reason, ..state.clone() };
    let Target::Present(target) = &seen.target else { return wait(Reason::TargetMissing) };
    match (&seen.setup, &target.native) {
        (Setup::Refused(why), _) => wait(Reason::Refused(why.clone())),
        (Setup::Pending(why), _) => wait(Reason::SettingUp(why.clone())),
        (Setup::Ready, Native::Moving | Native::Torn) => wait(Reason::NativeRollout),
        (Setup::Ready, Native::Settled(revision)) => {
            happenings.push(Happening::Initialized);
            State {
                phase: Phase::Initialized,
                stable: Some(revision.clone()),
                target_uid: Some(target.uid.clone()),
                reason: Reason::Idle,
                ..ended(state)
            }
        }
    }
}

/// The target is gone or another one: nothing that is known of revisions holds any more.
fn start_over(state: &State, reason: Reason) -> State {
    State { phase: Phase::Initializing, stable: None, canary: None, target_uid: None, reason, ..ended(state) }
}

/// `state` with no release running: no weight, no clocks.
fn ended(state: &State) -> State {
    State {
        weight: 0,
        step: 0,
        mirror: Mirror::Off,
        audience: None,
        passed_checks: 0,
        effective_since: None,
        last_check: None,
        lacking_since: None,
        ..state.clone()
    }
}

fn idle(plan: &Plan, state: &State, seen: &Observation, target: &TargetView, happenings: &mut Vec<Happening>) -> State {
    let template = &target.template.revision;
    let at = |phase, reason| State { phase, reason, ..state.clone() };
    let rested = if state.canary.is_some() { Phase::Succeeded } else { Phase::Initialized };
    if state.phase == Phase::Failed && state.canary.as_ref() == Some(template) && seen.verbs.retry != state.canary {
        return state.clone();
    }
    if let Setup::Refused(why) = &seen.setup {
        return State { reason: Reason::Refused(why.clone()), ..state.clone() };
    }
    if target.paused == Paused::ByManifest {
        return at(Phase::Waiting, Reason::PausedByManifest);
    }
    if state.stable.as_ref() == Some(template) {
        return back_at_stable(state, rested, happenings);
    }
    if target.paused == Paused::No {
        return match &target.native {
            Native::Settled(revision) if revision == template => {
                State { phase: rested, stable: Some(revision.clone()), reason: Reason::Idle, ..state.clone() }
            }
            Native::Settled(_) | Native::Moving | Native::Torn => at(state.phase, Reason::NativeRollout),
        };
    }
    if target.template.restart_only || target.native == Native::Torn {
        return at(state.phase, Reason::NativeRollout);
    }
    if target.replicas == 0 {
        return at(rested, Reason::ScaledToZero);
    }
    if plan.suspended {
        return at(Phase::Waiting, Reason::Suspended);
    }
    if let Setup::Pending(why) = &seen.setup {
        return at(Phase::Waiting, Reason::SettingUp(why.clone()));
    }
    happenings.push(Happening::Started { canary: template.clone() });
    started(plan, state, template)
}

/// The template is the stable one: whatever was held or failed is settled.
fn back_at_stable(state: &State, rested: Phase, happenings: &mut Vec<Happening>) -> State {
    match state.phase {
        Phase::Failed | Phase::Waiting => {
            if state.phase == Phase::Failed {
                happenings.push(Happening::Reverted);
            }
            State { phase: rested, reason: Reason::Reverted, ..state.clone() }
        }
        _ => match state.reason {
            Reason::Promoted | Reason::Reverted | Reason::Idle => state.clone(),
            _ => State { reason: Reason::Idle, ..state.clone() },
        },
    }
}

fn started(plan: &Plan, state: &State, canary: &Revision) -> State {
    State {
        phase: Phase::Progressing,
        canary: Some(canary.clone()),
        steps: plan.steps.clone(),
        mirror: Mirror::due(plan.mirror_percent),
        audience: plan.audience.clone(),
        failed_checks: 0,
        reason: Reason::WaitingForPods(format!("pods of revision {canary} are being created")),
        ..ended(state)
    }
}

fn rolled_back(state: &State, failure: Failure, happenings: &mut Vec<Happening>) -> State {
    happenings.push(Happening::RolledBack(failure.clone()));
    State { phase: Phase::Failed, reason: Reason::RolledBack(failure), ..ended(state) }
}

/// What ends a release from outside, in either of its phases before the adoption.
fn interrupted(
    plan: &Plan,
    state: &State,
    seen: &Observation,
    target: &TargetView,
    happenings: &mut Vec<Happening>,
) -> Option<State> {
    let template = &target.template.revision;
    if state.canary.as_ref() != Some(template) {
        if state.stable.as_ref() == Some(template) || target.template.restart_only {
            happenings.push(Happening::Reverted);
            return Some(State { phase: Phase::Succeeded, reason: Reason::Reverted, ..ended(state) });
        }
        happenings.push(Happening::Restarted { canary: template.clone() });
        return Some(started(plan, state, template));
    }
    if target.replicas == 0 {
        return Some(State { phase: Phase::Succeeded, reason: Reason::ScaledToZero, ..ended(state) });
    }
    if seen.verbs.abort.is_some() && seen.verbs.abort == state.canary {
        return Some(rolled_back(state, Failure::Aborted, happenings));
    }
    None
}

/// The canary's pods against what a weight needs.
struct Supply {
    lacking: bool,
    sentence: String,
}

fn supply(state: &State, set: Option<&CanarySet>, needed: u32) -> Supply {
    let available = set.map_or(0, |set| set.available);
    let trouble = set.and_then(|set| set.trouble.as_deref());
    let sentence = match &state.canary {
        Some(canary) => reason::pods(available, needed, canary, trouble),
        None => String::new(),
    };
    Supply { lacking: available < needed, sentence }
}

/// Keeps the progress deadline's clock; a failure when it has run out.
fn deadline(plan: &Plan, next: &mut State, supply: &Supply, now: DateTime<Utc>) -> Option<Failure> {
    if !supply.lacking {
        next.lacking_since = None;
        return None;
    }
    let since = *next.lacking_since.get_or_insert(now);
    (now - since >= plan.progress_deadline).then(|| Failure::ProgressDeadlineExceeded(supply.sentence.clone()))
}

fn progressing(
    plan: &Plan,
    state: &State,
    seen: &Observation,
    target: &TargetView,
    now: DateTime<Utc>,
    happenings: &mut Vec<Happening>,
) -> State {
    if let Some(next) = stopped(plan, state, seen, target, happenings) {
        return next;
    }
    let mut next = state.clone();
    if plan.skip_analysis || (seen.verbs.promote.is_some() && seen.verbs.promote == state.canary) {
        if state.mirror.is_copying() {
            happenings.push(Happening::CopiesEnded(CopiesEnd::Overruled));
        }
        return State { phase: Phase::Promoting, mirror: Mirror::Off, reason: Reason::HandingOver, ..next };
    }
    let weight = state.step_weight();
    let supply = supply(state, seen.canary.as_ref(), canary_size(target.replicas, state.load_percent()));
    if let Some(failure) = deadline(plan, &mut next, &supply, now) {
        return rolled_back(state, failure, happenings);
    }
    let hold = held_by_people(state, seen, target);
    match state.mirror {
        // Nobody asks for copies any more.
        Mirror::Due(percent) | Mirror::Copying(percent) if plan.mirror_percent == 0 => {
            return copies_over(next, percent, CopiesEnd::NotAskedFor, happenings);
        }
        Mirror::Due(percent) => {
            if may_begin(&mut next, &supply, hold, &seen.setup) {
                next.mirror = Mirror::Copying(percent);
                happenings.push(Happening::CopiesBegan(percent));
            }
            return next;
        }
        Mirror::Off | Mirror::Over(_) if state.weight != weight => {
            if may_begin(&mut next, &supply, hold, &seen.setup) {
                next.weight = weight;
                happenings.push(Happening::Weight(weight));
            }
            return next;
        }
        Mirror::Off | Mirror::Over(_) | Mirror::Copying(_) => {}
    }
    if state.effective_since.is_none() {
        if seen.route.acknowledged {
            next.effective_since = Some(now);
        }
        next.reason = hold.unwrap_or(if seen.route.acknowledged { judging(state) } else { Reason::WaitingForProxies });
        return next;
    }
    judge(plan, next, seen, &supply, hold, now, happenings)
}

fn held_by_people(state: &State, seen: &Observation, target: &TargetView) -> Option<Reason> {
    if target.paused == Paused::ByManifest {
        return Some(Reason::PausedByManifest);
    }
    (seen.verbs.pause.is_some() && seen.verbs.pause == state.canary).then_some(Reason::Paused)
}

/// What is being judged.
const fn judging(state: &State) -> Reason {
    if state.mirror.is_copying() { Reason::Mirroring } else { Reason::Judging }
}

/// Whether other traffic may be given to the canary now: it gets pods before it gets weight. If so the clocks start anew, else
/// the reason says what is awaited.
fn may_begin(next: &mut State, supply: &Supply, hold: Option<Reason>, setup: &Setup) -> bool {
    let wait = match setup {
        _ if hold.is_some() => hold,
        Setup::Refused(why) => Some(Reason::Refused(why.clone())),
        Setup::Pending(why) => Some(Reason::SettingUp(why.clone())),
        Setup::Ready => supply.lacking.then(|| Reason::WaitingForPods(supply.sentence.clone())),
    };
    if let Some(reason) = wait {
        next.reason = reason;
        return false;
    }
    next.passed_checks = 0;
    next.effective_since = None;
    next.last_check = None;
    next.reason = Reason::WaitingForProxies;
    true
}

/// What a release under way does before anything else: gives way, stands still, or ends.
fn stopped(
    plan: &Plan,
    state: &State,
    seen: &Observation,
    target: &TargetView,
    happenings: &mut Vec<Happening>,
) -> Option<State> {
    if let Some(next) = interrupted(plan, state, seen, target, happenings) {
        return Some(next);
    }
    if plan.suspended {
        return Some(State { reason: Reason::Suspended, ..state.clone() });
    }
    condemned(plan, state, seen).map(|failure| rolled_back(state, failure, happenings))
}

/// The verdict may end a release at any moment, whatever the interval of the checks. People who asked for a version to be
/// promoted unjudged get it.
fn condemned(plan: &Plan, state: &State, seen: &Observation) -> Option<Failure> {
    let unjudged = plan.skip_analysis || (seen.verbs.promote.is_some() && seen.verbs.promote == state.canary);
    match judgement(state, seen) {
        Judgement::Condemned(failure) if !unjudged => Some(failure.clone()),
        Judgement::Condemned(_) | Judgement::NotAsked | Judgement::Fine(..) | Judgement::Open(_) => None,
    }
}

/// The verdict speaks of weights; of copies it knows nothing.
const fn judgement<'a>(state: &State, seen: &'a Observation) -> &'a Judgement {
    if state.weight == 0 { &Judgement::NotAsked } else { &seen.judgement }
}

/// Checks that must pass before the step ends; an A/B test's iterations are of its audience, not of copies.
fn checks_needed(plan: &Plan, state: &State) -> u32 {
    let iterations = state.audience.as_ref().and_then(|audience| audience.iterations);
    iterations.filter(|_| !state.mirror.is_copying()).unwrap_or(plan.step_checks)
}

fn judge(
    plan: &Plan,
    mut next: State,
    seen: &Observation,
    supply: &Supply,
    hold: Option<Reason>,
    now: DateTime<Utc>,
    happenings: &mut Vec<Happening>,
) -> State {
    let enough = checks_needed(plan, &next);
    match &seen.check {
        Check::NotMade => {}
        Check::NoEvidence(reason) => next.reason = reason.clone(),
        Check::Passed => {
            // Enough have passed and the verdict is open: one more is nothing to write down, and the next one is due
            // whenever the verdict may have changed.
            let waits = next.passed_checks >= enough && matches!(judgement(&next, seen), Judgement::Open(_));
            if !waits {
                next.last_check = Some(now);
            }
            next.passed_checks = next.passed_checks.saturating_add(1).min(enough);
            next.reason = judging(&next);
        }
        Check::Failed(failure) => {
            next.last_check = Some(now);
            next.failed_checks = next.failed_checks.saturating_add(1);
            next.reason = judging(&next);
            if next.failed_checks >= plan.threshold {
                return rolled_back(&next, failure.clone(), happenings);
            }
            happenings.push(Happening::CheckFailed { failure: failure.clone(), failed_checks: next.failed_checks });
        }
    }
    if let Some(reason) = hold {
        next.reason = reason;
    } else if supply.lacking {
        next.reason = Reason::WaitingForPods(supply.sentence.clone());
    } else if let Some(open) = open(seen, &next) {
        next.reason = open;
    } else if seen.check == Check::Passed && next.passed_checks >= enough {
        if let Judgement::Fine(ground, sentence) = judgement(&next, seen) {
            happenings.push(Happening::Shown { ground: *ground, sentence: sentence.clone() });
        }
        return next_step(next, happenings);
    } else if is_released_hold(&next.reason) {
        next.reason = judging(&next);
    }
    next
}

/// What the verdict waits for, unless the metrics lack their evidence already.
fn open(seen: &Observation, next: &State) -> Option<Reason> {
    match (judgement(next, seen), &next.reason) {
        (Judgement::Open(_), Reason::NoEvidence(_)) => Some(next.reason.clone()),
        (Judgement::Open(reason), _) => Some(reason.clone()),
        (Judgement::NotAsked | Judgement::Fine(..) | Judgement::Condemned(_), _) => None,
    }
}

/// Numbers that move each second are no reason to write: a sentence of the verdict stays until its word changes.
fn keep_sentence(state: &State, next: &mut State) {
    if let (Reason::Verdict(before, _), Reason::Verdict(now, _)) = (&state.reason, &next.reason)
        && before == now
    {
        next.reason = state.reason.clone();
    }
}

/// A reason that no longer holds once nothing holds.
const fn is_released_hold(reason: &Reason) -> bool {
    matches!(
        reason,
        Reason::Paused
            | Reason::PausedByManifest
            | Reason::Suspended
            | Reason::WaitingForPods(_)
            | Reason::Verdict(..)
            | Reason::WaitingForProxies
    )
}

/// The pods for `percent` of the requests stay; nothing else is left of the copies.
fn copies_over(mut next: State, percent: u32, end: CopiesEnd, happenings: &mut Vec<Happening>) -> State {
    if next.mirror.is_copying() {
        happenings.push(Happening::CopiesEnded(end));
    }
    next.mirror = Mirror::Over(percent);
    next.passed_checks = 0;
    next.last_check = None;
    next
}

fn next_step(mut next: State, happenings: &mut Vec<Happening>) -> State {
    if let Mirror::Copying(percent) = next.mirror {
        return copies_over(next, percent, CopiesEnd::Passed, happenings);
    }
    next.passed_checks = 0;
    next.last_check = None;
    next.step += 1;
    if next.step >= next.steps.len() {
        next.phase = Phase::Promoting;
        next.reason = Reason::HandingOver;
    }
    next
}

fn promoting(
    plan: &Plan,
    state: &State,
    seen: &Observation,
    target: &TargetView,
    now: DateTime<Utc>,
    happenings: &mut Vec<Happening>,
) -> State {
    if seen.canary.as_ref().is_some_and(|set| set.adopted) {
        return State {
            phase: Phase::Finalising,
            audience: None,
            stable: state.canary.clone(),
            lacking_since: None,
            reason: Reason::OldPodsLeaving,
            ..state.clone()
        };
    }
    if let Some(next) = stopped(plan, state, seen, target, happenings) {
        return next;
    }
    let mut next = state.clone();
    let supply = supply(state, seen.canary.as_ref(), target.replicas);
    if let Some(failure) = deadline(plan, &mut next, &supply, now) {
        return rolled_back(state, failure, happenings);
    }
    let hold = held_by_people(state, seen, target);
    if state.weight != FULL_WEIGHT || state.audience.is_some() {
        if may_begin(&mut next, &supply, hold, &seen.setup) {
            next.weight = FULL_WEIGHT;
            let audience = next.audience.take();
            happenings.push(if audience.is_some() { Happening::Everybody } else { Happening::Weight(FULL_WEIGHT) });
        }
        return next;
    }
    if state.effective_since.is_none() && seen.route.acknowledged {
        next.effective_since = Some(now);
    }
    next.reason = match hold {
        Some(reason) => reason,
        None if next.effective_since.is_none() => Reason::WaitingForProxies,
        None if supply.lacking => Reason::WaitingForPods(supply.sentence),
        None => Reason::HandingOver,
    };
    next
}

fn finalising(state: &State, seen: &Observation, target: &TargetView, happenings: &mut Vec<Happening>) -> State {
    let available = seen.canary.as_ref().map_or(0, |set| set.available);
    let desired = seen.canary.as_ref().map_or(0, |set| set.desired);
    let others_gone = target.other_pods == 0 && available >= target.replicas;
    let settled = match target.paused {
        Paused::No => others_gone,
        // A newer template is held: the judged set is complete, so the next release can begin from it.
        Paused::Held => others_gone && state.stable.as_ref() != Some(&target.template.revision),
        Paused::ByManifest => others_gone,
    };
    let reachable = seen.route.stable_endpoints >= available;
    if target.replicas == 0 || (settled && reachable) {
        happenings.push(Happening::Promoted);
        return State { phase: Phase::Succeeded, reason: Reason::Promoted, ..ended(state) };
    }
    // The adopted set was cut (the paused controller scales proportionally): let the ready pods of both serve.
    if desired < target.replicas && state.weight > 0 && seen.route.stable_endpoints > 0 {
        return State { weight: 0, effective_since: None, ..state.clone() };
    }
    state.clone()
}

/// The world that `next` wants; `state` is what `seen` was read for.
#[must_use]
pub fn desired(state: &State, next: &State, seen: &Observation, now: DateTime<Utc>) -> Desired {
    let Target::Present(target) = &seen.target else {
        return Desired { hold: Hold::Keep, canary: CanaryPods::None, primary: PrimarySelector::Wide, keep_only: None };
    };
    Desired {
        hold: desired_hold(next, target),
        canary: desired_canary(state, next, seen, target, now),
        primary: if next.phase.is_release() { PrimarySelector::Narrow } else { PrimarySelector::Wide },
        keep_only: keep_only(next, target),
    }
}

fn desired_hold(next: &State, target: &TargetView) -> Hold {
    if target.paused != Paused::Held {
        return Hold::Keep;
    }
    let at_stable = next.stable.as_ref() == Some(&target.template.revision);
    match next.phase {
        Phase::Initialized | Phase::Waiting | Phase::Succeeded | Phase::Failed => {
            let native = target.template.restart_only || target.replicas == 0;
            if at_stable || native { Hold::Release } else { Hold::Keep }
        }
        Phase::Finalising | Phase::Terminating => {
            if at_stable {
                Hold::Release
            } else {
                Hold::Keep
            }
        }
        // Not ours to judge yet: a hold that met a rollout half way would keep it half way.
        Phase::Initializing => match target.native {
            Native::Settled(_) => Hold::Keep,
            Native::Moving | Native::Torn => Hold::Release,
        },
        Phase::Progressing | Phase::Promoting => Hold::Keep,
    }
}

fn desired_canary(
    state: &State,
    next: &State,
    seen: &Observation,
    target: &TargetView,
    now: DateTime<Utc>,
) -> CanaryPods {
    let fresh = next.counter == state.counter;
    match next.phase {
        Phase::Progressing => CanaryPods::Size(canary_size(target.replicas, next.load_percent())),
        Phase::Promoting => adoption(next, seen, target, fresh, now).unwrap_or(CanaryPods::Size(target.replicas)),
        Phase::Finalising => CanaryPods::Keep,
        Phase::Initializing
        | Phase::Initialized
        | Phase::Waiting
        | Phase::Succeeded
        | Phase::Failed
        | Phase::Terminating => {
            let overdue = next.phase_since.is_some_and(|since| now - since >= DRAIN_WITHOUT_ACK);
            if (fresh && seen.route.acknowledged) || overdue { CanaryPods::None } else { CanaryPods::Keep }
        }
    }
}

fn adoption(
    next: &State,
    seen: &Observation,
    target: &TargetView,
    fresh: bool,
    now: DateTime<Utc>,
) -> Option<CanaryPods> {
    let set = seen.canary.as_ref()?;
    let people_hold = held_by_people(next, seen, target).is_some() || next.reason == Reason::Suspended;
    let everybodys = next.weight == FULL_WEIGHT && next.audience.is_none();
    // Acknowledged: further ports of the Service have left the pods that are about to go.
    if !fresh || !seen.route.acknowledged || !everybodys || next.effective_since.is_none() || people_hold {
        return None;
    }
    let lacking_long = next.lacking_since.is_some_and(|since| now - since >= ADOPT_EXACT_FOR);
    let available =
        if lacking_long { target.replicas.saturating_sub(target.max_unavailable).max(1) } else { target.replicas };
    (set.desired == target.replicas && set.available >= available)
        .then_some(CanaryPods::Adopt { replicas: target.replicas, available })
}

/// The hold met a rollout half way: everything but the revision that last served well goes, and the paused Deployment
/// fills the one that is left.
fn keep_only(next: &State, target: &TargetView) -> Option<Revision> {
    let stable = next.stable.as_ref()?;
    let held = target.paused == Paused::Held && stable != &target.template.revision;
    let torn = match next.phase {
        Phase::Finalising => target.other_pods > 0,
        Phase::Initialized | Phase::Waiting | Phase::Succeeded | Phase::Failed => {
            target.native == Native::Torn && !target.template.restart_only
        }
        Phase::Initializing | Phase::Progressing | Phase::Promoting | Phase::Terminating => false,
    };
    (held && torn).then(|| stable.clone())
}

fn requeue_after(plan: &Plan, next: &State, now: DateTime<Utc>) -> TimeDelta {
    match next.phase {
        Phase::Initialized | Phase::Waiting | Phase::Succeeded | Phase::Failed => {
            let settling = next.phase_since.is_some_and(|since| now - since < DRAIN_WITHOUT_ACK + REQUEUE_BUSY);
            if settling { REQUEUE_BUSY } else { REQUEUE_IDLE }
        }
        Phase::Progressing => match check_due_in(plan, next, now) {
            Some(due) if due > TimeDelta::zero() => due,
            Some(_) => plan.interval,
            None => REQUEUE_BUSY,
        },
        Phase::Initializing | Phase::Promoting | Phase::Finalising | Phase::Terminating => REQUEUE_BUSY,
    }
}
