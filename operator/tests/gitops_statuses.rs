//! The Canaries that the GitOps scripts are tested on (`e2e/tests/gitops/*.yaml`) are what this operator writes: the same
//! states, through the same `status::encode`. `UPDATE=1` writes the files anew.
//!
//! By hand are only `unobserved` (the API server's default), `waiting-promotion` (no release waits there yet) and the
//! Deployment, which a real control plane wrote.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use chrono::{DateTime, Utc};
use crds::Canary;
use operator::status::encode;
use rollout::{Failure, Phase, Reason, Revision, State};
use serde_json::json;

const STEPS: [u32; 4] = [10, 25, 50, 100];

fn noon() -> DateTime<Utc> {
    "2026-11-24T12:00:00Z".parse().unwrap()
}

fn mk_state(phase: Phase, reason: Reason) -> State {
    let is_tested = !matches!(phase, Phase::Initializing | Phase::Initialized | Phase::Waiting);
    State {
        phase,
        counter: 7,
        stable: (phase != Phase::Initializing).then(|| Revision("694bcb6d5c".to_owned())),
        canary: is_tested.then(|| Revision("7d9f8c6b54".to_owned())),
        phase_since: Some(noon()),
        reason,
        ..State::default()
    }
}

fn mk_release(step: usize, reason: Reason) -> State {
    let phase = if step == STEPS.len() { Phase::Promoting } else { Phase::Progressing };
    let weight = STEPS[step.min(STEPS.len() - 1)];
    State { steps: STEPS.to_vec(), step, weight, ..mk_state(phase, reason) }
}

/// The Canary at `state`, after `change` made it one in whose metadata or spec there is something to see.
fn mk_canary(state: &State, change: impl FnOnce(&mut Canary)) -> Canary {
    let mut canary: Canary = serde_json::from_value(json!({
        "apiVersion": "sluice.dev/v1beta1",
        "kind": "Canary",
        "metadata": {
            "name": "web", "namespace": "shop", "uid": "3f0c6f4e-6a0c-4a52-9d6c-0f7a8b1f2a10", "generation": 1
        },
        "spec": { "targetRef": { "kind": "Deployment", "name": "web" }, "service": { "name": "web", "port": 80 } },
    }))
    .unwrap();
    canary.status = Some(encode(&canary, state, noon()));
    change(&mut canary);
    canary
}

fn cases() -> Vec<(&'static str, Canary)> {
    let plain = |state: State| mk_canary(&state, |_| ());
    let promoted = || mk_state(Phase::Succeeded, Reason::Promoted);
    let sentence = |text: &str| text.to_owned();
    let breach = sentence("request-success-rate was 95.2 %, wanted at least 99");
    let no_port = sentence("spec.service.port: Service web has no port 81; it has 80");
    let no_sample = sentence("request-success-rate: Prometheus has no sample of the canary in the last 10s");
    let failed =
        State { failed_checks: 2, ..mk_state(Phase::Failed, Reason::RolledBack(Failure::MetricBreached(breach))) };
    vec![
        ("initializing", plain(mk_state(Phase::Initializing, Reason::SettingUp(sentence("waiting for the proxies"))))),
        ("refused", plain(mk_state(Phase::Initializing, Reason::Refused(no_port)))),
        ("initialized", plain(mk_state(Phase::Initialized, Reason::Idle))),
        ("waiting", plain(mk_state(Phase::Waiting, Reason::PausedByManifest))),
        ("progressing", plain(mk_release(1, Reason::Judging))),
        ("no-evidence", plain(mk_release(0, Reason::NoEvidence(no_sample)))),
        (
            "paused",
            mk_canary(&mk_release(1, Reason::Paused), |canary| {
                let note = (crds::names::ANNOTATION_PAUSE.to_owned(), "7d9f8c6b54".to_owned());
                canary.metadata.annotations = Some([note].into());
            }),
        ),
        ("promoting", plain(mk_release(STEPS.len(), Reason::HandingOver))),
        ("finalising", plain(mk_state(Phase::Finalising, Reason::OldPodsLeaving))),
        ("succeeded", plain(promoted())),
        ("failed", plain(failed)),
        ("stale", mk_canary(&promoted(), |canary| canary.metadata.generation = Some(2))),
        ("suspended", mk_canary(&promoted(), |canary| canary.spec.suspend = true)),
        (
            "terminating",
            mk_canary(&mk_state(Phase::Terminating, Reason::Deleting), |canary| {
                canary.metadata.finalizers = Some(vec![crds::names::FINALIZER.to_owned()]);
                canary.metadata.deletion_timestamp = serde_json::from_value(json!("2026-11-24T12:00:00Z")).unwrap();
            }),
        ),
    ]
}

#[test]
fn the_statuses_of_the_gitops_tests_are_those_that_the_operator_writes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/tests/gitops");
    for (case, canary) in cases() {
        let path = folder.join(format!("{case}.yaml"));
        let text = serde_yaml_ng::to_string(&canary).unwrap();
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        assert!(
            std::fs::read_to_string(&path).unwrap_or_default() == text,
            "{case}.yaml is stale: run `UPDATE=1 cargo test -p operator --test gitops_statuses`, then the gitops tests of e2e"
        );
    }
}
