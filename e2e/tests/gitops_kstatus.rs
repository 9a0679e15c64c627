//! kstatus, as Flux, Helm 4 and kpt compute it, over the status of every phase: the table of `docs/gitops/flux/README.md`.
//!
//! The rules are those of sigs.k8s.io/cli-utils `pkg/kstatus/status`: generic.go for custom resources, `deploymentConditions`
//! of core.go for the target.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod gitops;

use gitops::{canary, object, read};
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kstatus {
    InProgress,
    Failed,
    Current,
    Terminating,
}

use Kstatus::{Current, Failed, InProgress, Terminating};

fn kstatus(object: &Value) -> Kstatus {
    if let Some(early) = general(object) {
        return early;
    }
    if object["kind"] == "Deployment" { deployment(object) } else { ready(object) }
}

/// What holds for every kind, before its own rules.
fn general(object: &Value) -> Option<Kstatus> {
    if !object["metadata"]["deletionTimestamp"].is_null() {
        return Some(Terminating);
    }
    let generation = object["metadata"]["generation"].as_i64();
    let observed = object["status"]["observedGeneration"].as_i64();
    if let (Some(generation), Some(observed)) = (generation, observed)
        && generation != observed
    {
        return Some(InProgress);
    }
    // In the order of the array: of two that are True the first one wins.
    conditions(object).find_map(|condition| match (condition["type"].as_str(), condition["status"].as_str()) {
        (Some("Reconciling"), Some("True")) => Some(InProgress),
        (Some("Stalled"), Some("True")) => Some(Failed),
        _ => None,
    })
}

/// The rule of kinds that kstatus has no rule for: the first `Ready` decides, and without one an object is current.
fn ready(object: &Value) -> Kstatus {
    match conditions(object).find(|condition| condition["type"] == "Ready").map(|ready| ready["status"].clone()) {
        Some(status) if status == "True" => Current,
        Some(_) => InProgress,
        None => Current,
    }
}

fn deployment(object: &Value) -> Kstatus {
    let has = |kind: &str, key: &str, value: &str| {
        conditions(object).any(|condition| condition["type"] == kind && condition[key] == value)
    };
    if has("Progressing", "reason", "ProgressDeadlineExceeded") {
        return Failed;
    }
    let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
    let count = |field: &str| object["status"][field].as_i64().unwrap_or(0);
    let complete = wanted == count("replicas")
        && wanted <= count("updatedReplicas")
        && count("updatedReplicas") <= count("availableReplicas")
        && wanted <= count("readyReplicas");
    let settled = has("Progressing", "reason", "NewReplicaSetAvailable") && has("Available", "status", "True");
    if complete && settled { Current } else { InProgress }
}

fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    object["status"]["conditions"].as_array().into_iter().flatten()
}

#[test]
fn every_phase_has_the_status_that_the_docs_promise() {
    for (case, wanted) in [
        ("unobserved", InProgress),
        ("stale", InProgress),
        ("initializing", InProgress),
        ("refused", Failed),
        ("initialized", Current),
        ("waiting", InProgress),
        ("progressing", InProgress),
        ("no-evidence", InProgress),
        ("paused", InProgress),
        ("waiting-promotion", InProgress),
        ("promoting", InProgress),
        ("finalising", InProgress),
        ("succeeded", Current),
        ("failed", Failed),
        ("suspended", Current),
        ("terminating", Terminating),
    ] {
        assert_eq!(kstatus(&canary(case)), wanted, "{case}");
    }
}

/// kstatus takes an object without a status for current: a pipeline would go on before the operator has looked.
#[test]
fn a_new_canary_is_in_progress_because_the_api_server_gives_it_a_status() {
    let definition = crds::definitions().into_iter().find(|(file, _)| *file == "canaries.yaml").unwrap().1;
    let schema = definition.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
    let status = schema.properties.as_ref().unwrap()["status"].default.as_ref().unwrap().0.clone();
    let mut new = canary("succeeded");
    new["status"] = status;
    assert_eq!(kstatus(&new), InProgress);
    new.as_object_mut().unwrap().remove("status");
    assert_eq!(kstatus(&new), Current, "the rule that the default is there for");
}

#[test]
fn a_held_deployment_is_in_progress() {
    let mut held = object("held-deployment");
    assert_eq!(kstatus(&held), InProgress);
    held["metadata"]["generation"] = serde_json::json!(3);
    assert_eq!(kstatus(&held), InProgress, "before its controller has looked");
}

#[test]
fn conditions_keep_the_rules_of_kstatus() {
    let cases =
        ["initializing", "refused", "initialized", "waiting", "progressing", "promoting", "succeeded", "failed"];
    for case in cases {
        let canary = canary(case);
        let of = |kind: &str| conditions(&canary).filter(move |condition| condition["type"] == kind).count();
        assert_eq!((of("Ready"), of("Promoted")), (1, 1), "{case}");
        assert!(of("Reconciling") + of("Stalled") <= 1, "{case}: the earlier one would win");
        for condition in conditions(&canary) {
            assert!(condition["observedGeneration"].is_i64(), "{case}");
            assert!(condition["message"].as_str().is_some_and(|message| !message.is_empty()), "{case}");
            let is_abnormal = ["Reconciling", "Stalled"].contains(&condition["type"].as_str().unwrap());
            assert!(!is_abnormal || condition["status"] == "True", "{case}: present only while true");
        }
    }
}

#[test]
fn the_kustomization_waits_for_the_canary_of_the_example() {
    let kustomization: Value = serde_yaml_ng::from_str(&read("flux/kustomization.yaml")).unwrap();
    let canary: Value = serde_yaml_ng::from_str(&read("example/app/canary.yaml")).unwrap();
    let checks = kustomization["spec"]["healthChecks"].as_array().unwrap();
    assert_eq!(checks.len(), 1);
    for key in ["apiVersion", "kind"] {
        assert_eq!(checks[0][key], canary[key], "{key}");
    }
    assert_eq!(checks[0]["name"], canary["metadata"]["name"]);
    assert_eq!(checks[0]["namespace"], kustomization["spec"]["targetNamespace"]);
}

#[test]
fn the_example_lists_every_file_and_names_no_namespace() {
    let kustomization: Value = serde_yaml_ng::from_str(&read("example/app/kustomization.yaml")).unwrap();
    let mut listed: Vec<String> = serde_json::from_value(kustomization["resources"].clone()).unwrap();
    let entries = std::fs::read_dir(gitops::documents().join("example/app")).unwrap();
    let mut there: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    there.retain(|name| name != "kustomization.yaml");
    there.sort();
    listed.sort();
    assert_eq!(listed, there);
    for file in there {
        let object: Value = serde_yaml_ng::from_str(&read(&format!("example/app/{file}"))).unwrap();
        assert!(object["metadata"]["namespace"].is_null(), "{file}");
    }
}
