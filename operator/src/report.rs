//! Happenings → Kubernetes Events and alerts, off the reconcile's path. Changes no state; a failure here delays nothing.

use chrono::{DateTime, Utc};
use crds::{Canary, canary::Severity};
use kube::{
    Client, Resource, ResourceExt,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use rollout::{CopiesEnd, Happening, State};
use tokio::sync::mpsc;

use crate::{
    alerts::{DeliveryReport, Fact, Kind, Message, MessageId, Outbox, Outcome},
    api::call,
    validate,
};

/// Events that may wait to be written; past it the newest is dropped, and counted in the log.
const EVENT_QUEUE: usize = 1_024;
/// Longest note that the Events API takes.
const NOTE_MAX: usize = 1_000;

/// Takes happenings and lets them go their ways.
#[derive(Clone)]
pub struct Desk {
    events: mpsc::Sender<Outgoing>,
    outbox: Outbox,
}

struct Outgoing {
    canary: Box<Canary>,
    event: Event,
}

impl Desk {
    /// A reporter and the task that writes its Events.
    pub fn new(client: Client, pod: &str, outbox: Outbox) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (events, mut queue) = mpsc::channel::<Outgoing>(EVENT_QUEUE);
        let reporter = Reporter { controller: "sluice-operator".to_owned(), instance: Some(pod.to_owned()) };
        let recorder = Recorder::new(client, reporter);
        let write = async move {
            while let Some(Outgoing { canary, event }) = queue.recv().await {
                let reference = canary.object_ref(&());
                let (namespace, name) = (canary.namespace().unwrap_or_default(), canary.name_any());
                if let Err(error) = call("write an Event", recorder.publish(&event, &reference)).await
                    // Its Events go with a namespace, and nobody reads new ones.
                    && !error.is_leaving()
                {
                    let error = crate::telemetry::Chain(&error);
                    tracing::warn!(k8s.namespace.name = namespace, canary = name, reason = event.reason, %error, "event not written");
                }
            }
        };
        (Self { events, outbox }, write)
    }

    /// Tells one happening of a release.
    pub fn tell(&self, canary: &Canary, state: &State, happening: &Happening, facts: &[Fact], now: DateTime<Utc>) {
        let told = Told::of(state, happening);
        tracing::info!(reason = told.reason, weight = state.weight, message = told.note, at = %now, "canary");
        self.event(canary, told.kind.severity(), told.reason, &told.action, &told.note);
        // The weight that follows is told anyway.
        let is_silent = matches!(happening, Happening::Shown { .. });
        let alerts = validate::analysis(&canary.spec).alerts.unwrap_or_default();
        if !alerts.is_empty() && !is_silent {
            self.outbox.offer(message(canary, state, &told, facts), &alerts);
        }
    }

    /// Writes an Event that is not a happening of a release.
    pub fn event(&self, canary: &Canary, severity: Severity, reason: &str, action: &str, note: &str) {
        let type_ = if severity == Severity::Info { EventType::Normal } else { EventType::Warning };
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note.chars().take(NOTE_MAX).collect()),
            // Part of the key by which the recorder folds repetitions: the weight keeps steps apart.
            action: action.to_owned(),
            secondary: None,
        };
        if self.events.try_send(Outgoing { canary: Box::new(canary.clone()), event }).is_err() {
            let (namespace, name) = (canary.namespace().unwrap_or_default(), canary.name_any());
            tracing::warn!(k8s.namespace.name = namespace, canary = name, reason, "event queue full, event dropped");
        }
    }

    /// Tells that an alert could not be delivered.
    pub fn delivery(&self, canary: &Canary, report: &DeliveryReport) {
        let (reason, why) = match &report.outcome {
            Outcome::Delivered { .. } => return,
            Outcome::Failed { why } => ("AlertFailed", why),
            Outcome::Dropped { why } => ("AlertDropped", why),
        };
        self.event(canary, Severity::Warn, reason, &format!("Alert{:?}", report.kind), why);
    }
}

struct Told {
    kind: Kind,
    reason: &'static str,
    action: String,
    /// For an Event, which stands alone.
    note: String,
    /// For a message whose headline says already what happened to which revision.
    why: String,
}

impl Told {
    fn of(state: &State, happening: &Happening) -> Self {
        let told = |kind, reason, note: String| Self {
            kind,
            reason,
            action: format!("{reason}{}", state.counter),
            why: note.clone(),
            note,
        };
        match happening {
            Happening::Initialized => told(
                Kind::Initialized,
                "Initialized",
                "traffic goes through the proxies; the next change of the pod template is released step by step"
                    .to_owned(),
            ),
            Happening::Started { canary } => {
                told(Kind::Started, "ReleaseStarted", format!("release of revision {canary} begins"))
            }
            Happening::Restarted { canary } => told(
                Kind::Restarted,
                "ReleaseRestarted",
                format!("the pod template changed again: release of revision {canary} begins"),
            ),
            Happening::CopiesBegan(percent) => told(
                Kind::CopiesBegan,
                "CopiesBegan",
                format!(
                    "{percent} % of the stable version's requests are copied to revision {}; no client gets its answers",
                    tested(state)
                ),
            ),
            Happening::CopiesEnded(end) => told(Kind::CopiesEnded, "CopiesEnded", copies_ended(*end).to_owned()),
            Happening::Weight(weight) => {
                let of_whom = if state.audience.is_some() { " of the requests that match" } else { "" };
                let step = rollout::step_label(state);
                told(Kind::Weight, "WeightChanged", format!("weight {weight} %{of_whom}, step {step}"))
            }
            Happening::Everybody => told(
                Kind::Weight,
                "WeightChanged",
                format!("everybody sees revision {} now, not only those who match", tested(state)),
            ),
            Happening::Held(reason) => told(Kind::Held, reason.code(), reason.to_string()),
            Happening::CheckFailed { failure, failed_checks } => {
                told(Kind::CheckFailed, failure.code(), format!("{failure} (failed check {failed_checks})"))
            }
            Happening::Shown { ground, sentence } => {
                told(Kind::Weight, rollout::verdict::Decision::Advance(*ground).reason(), sentence.clone())
            }
            Happening::Promoted => Self {
                why: "every step passed; the pods that were judged serve".to_owned(),
                ..told(
                    Kind::Promoted,
                    "Promoted",
                    format!("revision {} is promoted: the pods that were judged serve", tested(state)),
                )
            },
            Happening::RolledBack(failure) => Self {
                why: failure.to_string(),
                ..told(
                    Kind::RolledBack,
                    failure.code(),
                    format!("revision {} is rolled back: {failure}", tested(state)),
                )
            },
            Happening::Reverted => {
                told(Kind::Reverted, "Reverted", "Git is back at the stable template; no pod was moved".to_owned())
            }
        }
    }
}

const fn copies_ended(end: CopiesEnd) -> &'static str {
    match end {
        CopiesEnd::Passed => "the copies of requests passed their checks; the first weight follows",
        CopiesEnd::NotAskedFor => {
            "analysis.mirror was taken out: no more requests are copied, and the first weight follows"
        }
        CopiesEnd::Overruled => "no more requests are copied: the version is promoted unjudged, as was asked for",
    }
}

fn tested(state: &State) -> &str {
    state.canary.as_ref().map_or("unknown", |canary| canary.0.as_str())
}

fn message(canary: &Canary, state: &State, told: &Told, facts: &[Fact]) -> Message {
    Message {
        id: MessageId {
            canary_uid: canary.metadata.uid.clone().unwrap_or_default(),
            counter: i64::try_from(state.counter).unwrap_or(i64::MAX),
            kind: told.kind,
        },
        namespace: canary.metadata.namespace.clone().unwrap_or_default(),
        canary: canary.metadata.name.clone().unwrap_or_default(),
        severity: told.kind.severity(),
        stable_revision: state.stable.as_ref().map(ToString::to_string),
        canary_revision: state.canary.as_ref().map(ToString::to_string),
        weight_percent: i32::try_from(state.weight).unwrap_or(i32::MAX),
        of_audience: state.audience.is_some(),
        step: rollout::step_label(state),
        reason: told.why.clone(),
        facts: facts.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use rollout::{
        Audience, Failure, Revision,
        verdict::{Cause, Lane},
    };

    use super::*;

    #[test]
    fn a_rollback_by_the_verdict_is_told_in_its_sentence_everywhere() {
        let sentence = "weight 10%: canary 5.1% errors (18/355) vs stable 1.1% (34/3145)".to_owned();
        let failure = Failure::Verdict(Cause::Evidence(Lane::ErrorRate), sentence.clone());
        let told = Told::of(&State::default(), &Happening::RolledBack(failure));
        assert_eq!((told.reason, &told.why), ("ErrorRateWorse", &sentence));
        assert!(told.note.ends_with(&sentence), "{}", told.note);
        assert_eq!(message(&mk_canary(), &State::default(), &told, &[]).reason, sentence);
    }

    fn mk_canary() -> Canary {
        let spec =
            serde_json::json!({ "targetRef": { "kind": "Deployment", "name": "web" }, "service": { "port": 80 } });
        Canary::new("web", serde_json::from_value(spec).expect("a spec"))
    }

    #[test]
    fn a_weight_says_whose_it_is() {
        let everybodys = State {
            phase: rollout::Phase::Progressing,
            canary: Some(Revision("5d9f".to_owned())),
            steps: vec![20, 50],
            weight: 20,
            ..State::default()
        };
        let audience = Some(Audience { matches: "[]".to_owned(), iterations: None });
        let audiences = State { audience, ..everybodys.clone() };
        let note = |state: &State, happening| Told::of(state, &happening).note;
        assert_eq!(note(&everybodys, Happening::Weight(20)), "weight 20 %, step 1/2");
        assert_eq!(note(&audiences, Happening::Weight(20)), "weight 20 % of the requests that match, step 1/2 match");
        assert_eq!(
            note(&everybodys, Happening::Everybody),
            "everybody sees revision 5d9f now, not only those who match"
        );
        let told = Told::of(&audiences, &Happening::Weight(20));
        assert!(message(&mk_canary(), &audiences, &told, &[]).of_audience);
    }

    #[test]
    fn copies_are_told_as_they_begin_and_as_they_end() {
        let state = State { canary: Some(Revision("5d9f".to_owned())), ..State::default() };
        let told = |happening| {
            let Told { reason, note, .. } = Told::of(&state, &happening);
            format!("{reason}: {note}")
        };
        assert_eq!(
            told(Happening::CopiesBegan(20)),
            "CopiesBegan: 20 % of the stable version's requests are copied to revision 5d9f; no client gets its answers"
        );
        for end in [CopiesEnd::Passed, CopiesEnd::NotAskedFor, CopiesEnd::Overruled] {
            assert!(told(Happening::CopiesEnded(end)).starts_with("CopiesEnded: "), "{end:?}");
        }
    }
}
