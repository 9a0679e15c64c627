//! What the phases of a release share: how one begins and ends, what stops it from outside, and what has to be there before
//! the canary is given other traffic.

use chrono::{DateTime, Utc};

use crate::{
    decision::Happening,
    observation::{CanarySet, Judgement, Observation, Paused, Setup, TargetView},
    plan::Plan,
    reason::{self, Failure, Reason},
    state::{Mirror, Phase, Revision, State},
};

/// What one pass over a release goes by.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) plan: &'a Plan,
    /// Where the release stands.
    pub(super) state: &'a State,
    pub(super) seen: &'a Observation,
    /// The Deployment of `seen`.
    pub(super) target: &'a TargetView,
    pub(super) now: DateTime<Utc>,
}

impl Pass<'_> {
    /// People want the version promoted whatever is measured.
    pub(super) fn is_overruled(&self) -> bool {
        self.plan.skip_analysis || is_for(self.seen.verbs.promote.as_ref(), self.state)
    }
}

/// Whether a verb is for the revision under test; one for another revision says nothing.
fn is_for(verb: Option<&Revision>, state: &State) -> bool {
    verb.is_some() && verb == state.canary.as_ref()
}

pub(super) fn started(plan: &Plan, state: &State, canary: &Revision) -> State {
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

/// `state` with no release running: no weight, no clocks.
pub(super) fn ended(state: &State) -> State {
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

pub(super) fn rolled_back(state: &State, failure: Failure, happenings: &mut Vec<Happening>) -> State {
    happenings.push(Happening::RolledBack(failure.clone()));
    State { phase: Phase::Failed, reason: Reason::RolledBack(failure), ..ended(state) }
}

/// What a release under way does before anything else: gives way, stands still, or ends.
pub(super) fn stopped(pass: Pass<'_>, happenings: &mut Vec<Happening>) -> Option<State> {
    if let Some(next) = interrupted(pass, happenings) {
        return Some(next);
    }
    if pass.plan.suspended {
        return Some(State { reason: Reason::Suspended, ..pass.state.clone() });
    }
    condemned(pass).map(|failure| rolled_back(pass.state, failure, happenings))
}

/// What ends a release from outside, in either of its phases before the adoption.
fn interrupted(pass: Pass<'_>, happenings: &mut Vec<Happening>) -> Option<State> {
    let Pass { plan, state, seen, target, now: _ } = pass;
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
    if is_for(seen.verbs.abort.as_ref(), state) {
        return Some(rolled_back(state, Failure::Aborted, happenings));
    }
    None
}

/// The verdict may end a release at any moment, whatever the interval of the checks. People who asked for a version to be
/// promoted unjudged get it.
fn condemned(pass: Pass<'_>) -> Option<Failure> {
    match judgement(pass.state, pass.seen) {
        Judgement::Condemned(failure) if !pass.is_overruled() => Some(failure.clone()),
        Judgement::Condemned(_) | Judgement::NotAsked | Judgement::Fine(..) | Judgement::Open(_) => None,
    }
}

/// The verdict speaks of weights; of copies it knows nothing.
pub(super) const fn judgement<'a>(state: &State, seen: &'a Observation) -> &'a Judgement {
    if state.weight == 0 { &Judgement::NotAsked } else { &seen.judgement }
}

pub(super) fn held_by_people(state: &State, seen: &Observation, target: &TargetView) -> Option<Reason> {
    if target.paused == Paused::ByManifest {
        return Some(Reason::PausedByManifest);
    }
    is_for(seen.verbs.pause.as_ref(), state).then_some(Reason::Paused)
}

/// The canary's pods against what a weight needs.
pub(super) struct Supply {
    pub(super) lacking: bool,
    pub(super) sentence: String,
}

pub(super) fn supply(state: &State, set: Option<&CanarySet>, needed: u32) -> Supply {
    let available = set.map_or(0, |set| set.available);
    let trouble = set.and_then(|set| set.trouble.as_deref());
    let sentence = match &state.canary {
        Some(canary) => reason::pods(available, needed, canary, trouble),
        None => String::new(),
    };
    Supply { lacking: available < needed, sentence }
}

/// Keeps the progress deadline's clock; a failure when it has run out.
pub(super) fn deadline(plan: &Plan, next: &mut State, supply: &Supply, now: DateTime<Utc>) -> Option<Failure> {
    if !supply.lacking {
        next.lacking_since = None;
        return None;
    }
    let since = *next.lacking_since.get_or_insert(now);
    (now - since >= plan.progress_deadline).then(|| Failure::ProgressDeadlineExceeded(supply.sentence.clone()))
}

/// Whether other traffic may be given to the canary now: it gets pods before it gets weight. If so the clocks start anew, else
/// the reason says what is awaited.
pub(super) fn may_begin(next: &mut State, supply: &Supply, hold: Option<Reason>, setup: &Setup) -> bool {
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
