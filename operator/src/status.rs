//! `CanaryStatus` ⇄ `rollout::State`, and the conditions that follow from a state. Pure.

use chrono::{DateTime, TimeDelta, Utc};
use crds::{
    Canary, CanaryStatus, Phase,
    conditions::{PROMOTED, READY, RECONCILING, STALLED},
    verdict::{VerdictLane, VerdictStatus},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use rollout::{
    Reason, State,
    verdict::{Counted, Verdict},
};

/// Longest message in a condition; the API server allows 32,768, people read less.
const MESSAGE_MAX: usize = 1_024;
/// A Canary without a journal that is older than this has lost it (restored from a backup).
const YOUNG: TimeDelta = TimeDelta::minutes(1);

/// The journal cannot be read: written by a newer operator, or damaged.
#[derive(Debug, thiserror::Error)]
#[error("cannot read status.journal: the release is frozen")]
pub struct Unreadable(#[source] serde_json::Error);

/// The state that the status holds.
///
/// # Errors
/// The journal is there but cannot be read; a retry helps only after the object has changed.
pub fn decode(canary: &Canary, now: DateTime<Utc>) -> Result<State, Unreadable> {
    match canary.status.as_ref().and_then(|status| status.journal.clone()) {
        Some(journal) => serde_json::from_value(journal).map_err(Unreadable),
        None => Ok(State { counter: first_counter(canary, now), ..State::default() }),
    }
}

/// Proxies refuse a counter lower than the one they hold, so one that was lost must not begin at 0 again. Seconds since
/// 1970 are above any counter that rose by less than one a second.
fn first_counter(canary: &Canary, now: DateTime<Utc>) -> u64 {
    let created = canary.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
    let age = TimeDelta::seconds(now.timestamp() - created);
    if age < YOUNG { 0 } else { u64::try_from(now.timestamp()).unwrap_or(0) }
}

/// The status that says `state`. Timestamps of conditions move only when a condition's status does.
///
/// # Panics
/// Never: a state always has a JSON form.
#[must_use]
pub fn encode(canary: &Canary, state: &State, now: DateTime<Utc>) -> CanaryStatus {
    let old = canary.status.clone().unwrap_or_default();
    let generation = canary.metadata.generation.unwrap_or_default();
    CanaryStatus {
        observed_generation: generation,
        phase: phase(state.phase),
        canary_weight: i32::try_from(state.weight).unwrap_or(i32::MAX),
        step: rollout::step_label(state),
        reason: state.reason.code().to_owned(),
        message: message(&state.reason),
        failed_checks: i32::try_from(state.failed_checks).unwrap_or(i32::MAX),
        last_transition_time: state.phase_since,
        counter: i64::try_from(state.counter).unwrap_or(i64::MAX),
        stable_revision: state.stable.as_ref().map(ToString::to_string),
        canary_revision: state.canary.as_ref().map(ToString::to_string),
        journal: Some(serde_json::to_value(state).expect("a state has a JSON form")),
        verdict: remembered(old.verdict, state),
        conditions: conditions(state)
            .into_iter()
            .map(|wanted| dated(wanted, &old.conditions, generation, now))
            .collect(),
    }
}

/// What was said of this release, or of the last one; nothing before a release has traffic. Evidence is remembered for
/// as long as it can be added to.
fn remembered(old: Option<VerdictStatus>, state: &State) -> Option<VerdictStatus> {
    match (state.phase.is_release(), state.weight) {
        (true, 0) => None,
        (true, _) => old,
        (false, _) => old.map(|said| VerdictStatus { journal: None, ..said }),
    }
}

/// What the verdict says, as the status shows it.
#[must_use]
pub fn verdict(verdict: &Verdict, journal: Option<serde_json::Value>) -> VerdictStatus {
    let counted = |counted: Counted| format!("{}/{}", counted.bad, counted.total);
    let rounded = |number: f64| (number * 100.0).round() / 100.0;
    let lanes = verdict.lanes().iter().map(|lane| VerdictLane {
        name: lane.name.clone(),
        canary: counted(lane.canary),
        stable: counted(lane.stable),
        evidence: format!("{}%", lane.share_percent),
        margin: rounded(lane.margin),
        dispersion: rounded(lane.dispersion),
    });
    VerdictStatus {
        reason: verdict.reason().to_owned(),
        message: verdict.sentence(),
        evidence: format!("{}%", verdict.evidence_percent()),
        needed: verdict.needed().map(|(seen, needed)| format!("{seen}/{needed}")).unwrap_or_default(),
        lanes: lanes.collect(),
        journal,
    }
}

/// The phase as the CRD names it.
#[must_use]
pub const fn phase(phase: rollout::Phase) -> Phase {
    match phase {
        rollout::Phase::Initializing => Phase::Initializing,
        rollout::Phase::Initialized => Phase::Initialized,
        rollout::Phase::Waiting => Phase::Waiting,
        rollout::Phase::Progressing => Phase::Progressing,
        rollout::Phase::Promoting => Phase::Promoting,
        rollout::Phase::Finalising => Phase::Finalising,
        rollout::Phase::Succeeded => Phase::Succeeded,
        rollout::Phase::Failed => Phase::Failed,
        rollout::Phase::Terminating => Phase::Terminating,
    }
}

fn message(reason: &Reason) -> String {
    let text = reason.to_string();
    match text.char_indices().nth(MESSAGE_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

struct Wanted {
    kind: &'static str,
    status: &'static str,
    reason: String,
    message: String,
}

/// Which conditions a state has: the table of `research/rollouts-gitops.md` §5.4. `Reconciling` and `Stalled` are left
/// out where they would be False, as kstatus recommends.
fn conditions(state: &State) -> Vec<Wanted> {
    let stalled = matches!(state.reason, Reason::Refused(_));
    let (ready, reconciling, stalled, promoted) = match state.phase {
        rollout::Phase::Initialized | rollout::Phase::Succeeded if !stalled => ("True", false, false, "True"),
        rollout::Phase::Initialized | rollout::Phase::Succeeded => ("False", false, true, "True"),
        rollout::Phase::Failed => ("False", false, true, "False"),
        rollout::Phase::Initializing if stalled => ("False", false, true, "Unknown"),
        rollout::Phase::Waiting if stalled => ("False", false, true, "Unknown"),
        rollout::Phase::Initializing
        | rollout::Phase::Waiting
        | rollout::Phase::Progressing
        | rollout::Phase::Promoting
        | rollout::Phase::Finalising => ("Unknown", true, false, "Unknown"),
        rollout::Phase::Terminating => ("Unknown", true, false, "Unknown"),
    };
    let wanted =
        |kind, status| Wanted { kind, status, reason: state.reason.code().to_owned(), message: message(&state.reason) };
    let mut list = vec![wanted(READY, ready)];
    if reconciling {
        list.push(wanted(RECONCILING, "True"));
    }
    if stalled {
        list.push(wanted(STALLED, "True"));
    }
    list.push(Wanted { reason: format!("{:?}", state.phase), ..wanted(PROMOTED, promoted) });
    list
}

fn dated(wanted: Wanted, old: &[Condition], generation: i64, now: DateTime<Utc>) -> Condition {
    let Wanted { kind, status, reason, message } = wanted;
    let unchanged = old.iter().find(|condition| condition.type_ == kind && condition.status == status);
    let since = unchanged.map_or_else(|| time(now), |condition| condition.last_transition_time.clone());
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason,
        message,
        last_transition_time: since,
        observed_generation: Some(generation),
    }
}

/// `chrono` → the time type of k8s-openapi, to the second, as the API server stores it.
fn time(now: DateTime<Utc>) -> Time {
    Time(jiff::Timestamp::from_second(now.timestamp()).unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::canary::{CanaryService, CanarySpec, TargetRef};
    use rollout::{Failure, Phase as RolloutPhase, Revision};

    fn mk_canary() -> Canary {
        let target_ref =
            TargetRef { api_version: "apps/v1".to_owned(), kind: "Deployment".to_owned(), name: "web".to_owned() };
        let service =
            CanaryService { name: None, port: 80, timeout: None, rules: None, retries: None, traffic_policy: None };
        let mut canary = Canary::new(
            "web",
            CanarySpec {
                target_ref,
                service,
                analysis: None,
                progress_deadline_seconds: 600,
                skip_analysis: false,
                suspend: false,
            },
        );
        canary.metadata.generation = Some(3);
        canary
    }

    fn mk_state() -> State {
        State {
            phase: RolloutPhase::Failed,
            counter: 7,
            stable: Some(Revision("a".to_owned())),
            canary: Some(Revision("b".to_owned())),
            reason: Reason::RolledBack(Failure::MetricBreached("too many errors".to_owned())),
            ..State::default()
        }
    }

    #[test]
    fn a_state_survives_the_status() {
        let now = Utc::now();
        let mut canary = mk_canary();
        let state = mk_state();
        canary.status = Some(encode(&canary, &state, now));
        assert_eq!(decode(&canary, now).expect("readable"), state);
    }

    #[test]
    fn an_unknown_journal_freezes_instead_of_starting_over() {
        let mut canary = mk_canary();
        canary.status = Some(CanaryStatus {
            journal: Some(serde_json::json!({"phase": "Teleporting"})),
            ..CanaryStatus::default()
        });
        assert!(decode(&canary, Utc::now()).is_err());
    }

    #[test]
    fn transition_times_move_only_with_the_status() {
        let mut canary = mk_canary();
        let (first, later) = (Utc::now(), Utc::now() + TimeDelta::seconds(90));
        canary.status = Some(encode(&canary, &mk_state(), first));
        let again = encode(&canary, &mk_state(), later);
        assert_eq!(canary.status.as_ref().map(|status| &status.conditions), Some(&again.conditions));
        let progressing = State { phase: RolloutPhase::Progressing, reason: Reason::Judging, ..mk_state() };
        let moved = encode(&canary, &progressing, later);
        assert_eq!(moved.conditions[0].last_transition_time, time(later));
    }

    #[test]
    fn a_lost_journal_never_lowers_the_counter() {
        let now = Utc::now();
        let mut canary = mk_canary();
        canary.metadata.creation_timestamp = Some(time(now - TimeDelta::days(1)));
        assert!(decode(&canary, now).expect("fresh").counter > 1_000_000_000);
        canary.metadata.creation_timestamp = Some(time(now));
        assert_eq!(decode(&canary, now).expect("fresh").counter, 0);
    }
}
