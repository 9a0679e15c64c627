//! `Progressing`: copies first, if there are any, then weight by weight, each with its own evidence.
//!
//! A pass either gives the canary other traffic, or waits for every proxy to have it, or judges. Failed checks are counted over
//! the release, passed ones at each step.

use super::release::{Pass, Supply, deadline, held_by_people, judgement, may_begin, rolled_back, stopped, supply};
use crate::{
    decision::{CopiesEnd, Happening},
    observation::{Check, Judgement, Observation},
    plan::Plan,
    reason::Reason,
    state::{Mirror, Phase, State},
    traffic::canary_size,
};

pub(super) fn progressing(pass: Pass<'_>, happenings: &mut Vec<Happening>) -> State {
    if let Some(next) = stopped(pass, happenings) {
        return next;
    }
    let Pass { plan, state, seen, target, now } = pass;
    let mut next = state.clone();
    if pass.is_overruled() {
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
    judge(pass, &supply, hold, next, happenings)
}

/// What is being judged.
const fn judging(state: &State) -> Reason {
    if state.mirror.is_copying() { Reason::Mirroring } else { Reason::Judging }
}

/// `next` as it is after the check of this pass, if one was made, and after what the verdict says.
fn judge(
    pass: Pass<'_>,
    supply: &Supply,
    hold: Option<Reason>,
    mut next: State,
    happenings: &mut Vec<Happening>,
) -> State {
    let Pass { plan, seen, now, state: _, target: _ } = pass;
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

/// Checks that must pass before the step ends; an A/B test's iterations are of its audience, not of copies.
fn checks_needed(plan: &Plan, state: &State) -> u32 {
    let iterations = state.audience.as_ref().and_then(|audience| audience.iterations);
    iterations.filter(|_| !state.mirror.is_copying()).unwrap_or(plan.step_checks)
}

/// What the verdict waits for, unless the metrics lack their evidence already.
fn open(seen: &Observation, next: &State) -> Option<Reason> {
    match (judgement(next, seen), &next.reason) {
        (Judgement::Open(_), Reason::NoEvidence(_)) => Some(next.reason.clone()),
        (Judgement::Open(reason), _) => Some(reason.clone()),
        (Judgement::NotAsked | Judgement::Fine(..) | Judgement::Condemned(_), _) => None,
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
