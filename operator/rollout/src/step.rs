//! The state machine: a file for each stretch of a release, each reading top-down in the order in which things are asked.
//!
//! `advance` makes the next state (`idle`, `progressing`, `promoting`; `release` is what they share), `stamp` moves the
//! counter, `desired` says what the next state wants of the world. All three are total: every phase meets every observation.

mod desired;
mod idle;
mod progressing;
mod promoting;
mod release;

use chrono::{DateTime, TimeDelta, Utc};

pub use self::desired::desired;
use self::{
    idle::{idle, initializing, start_over},
    progressing::progressing,
    promoting::{finalising, promoting},
    release::Pass,
};
use crate::{
    decision::{Decision, Happening},
    observation::{Observation, Target},
    plan::Plan,
    reason::Reason,
    state::{Phase, State},
    verdict::Wait,
};

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
    let pass = |target| Pass { plan, state, seen, target, now };
    match (&seen.target, state.phase) {
        (_, Phase::Initializing) => initializing(state, seen, happenings),
        (Target::Missing, _) => start_over(state, Reason::TargetMissing),
        (Target::Present(target), _) if state.target_uid.as_ref() != Some(&target.uid) => {
            start_over(state, Reason::NativeRollout)
        }
        (Target::Present(target), Phase::Initialized | Phase::Waiting | Phase::Succeeded | Phase::Failed) => {
            idle(plan, state, seen, target, happenings)
        }
        (Target::Present(target), Phase::Progressing) => progressing(pass(target), happenings),
        (Target::Present(target), Phase::Promoting) => promoting(pass(target), happenings),
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

/// Numbers that move each second are no reason to write: a sentence of the verdict stays until its word changes.
fn keep_sentence(state: &State, next: &mut State) {
    if let (Reason::Verdict(before, _), Reason::Verdict(now, _)) = (&state.reason, &next.reason)
        && before == now
    {
        next.reason = state.reason.clone();
    }
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
