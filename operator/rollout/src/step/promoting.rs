//! `Promoting` and `Finalising`: everybody sees the canary, the Deployment adopts its pods, the old ones go.
//!
//! The adoption itself is an effect that `desired` asks for; here it is only noticed.

use super::release::{Pass, deadline, ended, held_by_people, may_begin, rolled_back, stopped, supply};
use crate::{
    decision::Happening,
    observation::{Observation, Paused, TargetView},
    reason::Reason,
    state::{Phase, State},
    traffic::FULL_WEIGHT,
};

pub(super) fn promoting(pass: Pass<'_>, happenings: &mut Vec<Happening>) -> State {
    let Pass { plan, state, seen, target, now } = pass;
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
    if let Some(next) = stopped(pass, happenings) {
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

pub(super) fn finalising(
    state: &State,
    seen: &Observation,
    target: &TargetView,
    happenings: &mut Vec<Happening>,
) -> State {
    let available = seen.canary.as_ref().map_or(0, |set| set.available);
    let desired = seen.canary.as_ref().map_or(0, |set| set.desired);
    let others_gone = target.other_pods == 0 && available >= target.replicas;
    let settled = match target.paused {
        Paused::No => others_gone,
        // A newer template is held: the judged set is complete, so the next release can begin from it.
        Paused::Held => others_gone && state.stable.as_ref() != Some(&target.template.revision),
        Paused::ByManifest => others_gone,
    };
    // Pods that are counted no more are behind the Service until its endpoints have followed: traffic that came back to it
    // now would meet them.
    let left = state.weight == 0 || seen.route.other_endpoints == 0;
    let reachable = left && seen.route.stable_endpoints >= available;
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
