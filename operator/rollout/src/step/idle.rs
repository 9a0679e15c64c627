//! Between releases: from set-up to the moment in which a held template becomes a release.
//!
//! Reads the template against what serves, and asks in that order: is it refused, is it the stable one, is it shipped
//! already, may a release begin.

use super::release::{ended, started};
use crate::{
    decision::Happening,
    observation::{Native, Observation, Paused, Setup, Target, TargetView},
    plan::Plan,
    reason::Reason,
    state::{Phase, State},
};

pub(super) fn initializing(state: &State, seen: &Observation, happenings: &mut Vec<Happening>) -> State {
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
pub(super) fn start_over(state: &State, reason: Reason) -> State {
    State { phase: Phase::Initializing, stable: None, canary: None, target_uid: None, reason, ..ended(state) }
}

pub(super) fn idle(
    plan: &Plan,
    state: &State,
    seen: &Observation,
    target: &TargetView,
    happenings: &mut Vec<Happening>,
) -> State {
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
