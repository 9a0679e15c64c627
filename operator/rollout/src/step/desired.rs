//! The world that a state wants: hold, pods under test, selector of the `-primary` Service. Asserted on every pass, so it says
//! the same for as long as the state does.

use chrono::{DateTime, TimeDelta, Utc};

use super::{DRAIN_WITHOUT_ACK, release::held_by_people};
use crate::{
    decision::{CanaryPods, Desired, Hold},
    observation::{Native, Observation, Paused, Target, TargetView},
    reason::Reason,
    state::{Phase, Revision, State},
    traffic::{FULL_WEIGHT, canary_size},
};

/// Exact availability may be missing this long before a set with `maxUnavailable` pods missing is adopted.
const ADOPT_EXACT_FOR: TimeDelta = TimeDelta::seconds(30);

/// The world that `next` wants; `state` is what `seen` was read for.
#[must_use]
pub fn desired(state: &State, next: &State, seen: &Observation, now: DateTime<Utc>) -> Desired {
    let Target::Present(target) = &seen.target else {
        return Desired { hold: Hold::Keep, canary: CanaryPods::None, keep_only: None };
    };
    Desired {
        hold: desired_hold(next, target),
        canary: desired_canary(state, next, seen, target, now),
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
