//! What is written to the workload, as objects and patches. Pure.

use crds::{
    Canary,
    names::{ANNOTATION_DESIRED_REPLICAS, ANNOTATION_HELD, ANNOTATION_MAX_REPLICAS, CANARY_LABEL, POD_TEMPLATE_HASH},
};
use kube::{Resource, ResourceExt, api::DynamicObject};
use rollout::Revision;
use serde_json::{Value, json};

use crate::{observe::apps, template};

pub(super) fn same_template(deployment: &DynamicObject, set: &DynamicObject) -> bool {
    let template = |object: &DynamicObject| object.data.pointer("/spec/template").cloned();
    match (template(deployment), template(set)) {
        (Some(left), Some(right)) => template::equal(&left, &right),
        _ => false,
    }
}

/// The set under test: the Deployment's template, raw, with a hash of ours.
pub(super) fn canary_set(canary: &Canary, deployment: &DynamicObject, revision: &Revision, size: u32) -> DynamicObject {
    let spec = &deployment.data["spec"];
    let template = template::labelled(&spec["template"], &revision.0);
    let mut labels = template["metadata"]["labels"].clone();
    labels[CANARY_LABEL] = Value::from(canary.name_any());
    let mut selector = spec["selector"].clone();
    selector["matchLabels"][POD_TEMPLATE_HASH] = Value::from(revision.0.as_str());
    let mut set = DynamicObject::new(&format!("{}-{revision}", deployment.name_any()), &apps("ReplicaSet"));
    set.metadata.namespace = deployment.namespace();
    set.metadata.labels = serde_json::from_value(labels).ok();
    // kube sets no `blockOwnerDeletion`: it would need a right on our own finalizers, and stall a foreground deletion.
    set.metadata.owner_references = canary.controller_owner_ref(&()).map(|owner| vec![owner]);
    set.data = json!({
        "spec": {
            "replicas": size,
            "minReadySeconds": spec.get("minReadySeconds").cloned().unwrap_or(Value::from(0)),
            "selector": selector,
            "template": template,
        }
    });
    set
}

/// The patch that takes a hold off the very Deployment that was read.
pub(super) fn unpause(deployment: &DynamicObject) -> [Value; 3] {
    [
        json!({ "op": "test", "path": "/metadata/resourceVersion", "value": deployment.resource_version() }),
        json!({ "op": "remove", "path": "/spec/paused" }),
        json!({ "op": "remove", "path": format!("/metadata/annotations/{}", escape(ANNOTATION_HELD)) }),
    ]
}

/// The patch behind `revert`: to the Deployment controller the stable set is the new one again, and there is nothing to
/// roll.
pub(super) fn reversion(deployment: &DynamicObject, stable: &DynamicObject) -> Value {
    let mut patch = unpause(deployment).to_vec();
    let template = template::comparable(&stable.data["spec"]["template"]);
    patch.push(json!({ "op": "replace", "path": "/spec/template", "value": template }));
    Value::Array(patch)
}

/// The patch that leaves `set` without an owner, saturated in the Deployment controller's eyes.
pub(super) fn adoption(set: &DynamicObject, replicas: u32, max_replicas: u32) -> Value {
    let mut patch = vec![json!({ "op": "test", "path": "/metadata/resourceVersion", "value": set.resource_version() })];
    if set.metadata.annotations.is_none() {
        patch.push(json!({ "op": "add", "path": "/metadata/annotations", "value": {} }));
    }
    for (name, value) in [(ANNOTATION_DESIRED_REPLICAS, replicas), (ANNOTATION_MAX_REPLICAS, max_replicas)] {
        let path = format!("/metadata/annotations/{}", escape(name));
        patch.push(json!({ "op": "add", "path": path, "value": value.to_string() }));
    }
    if set.labels().contains_key(CANARY_LABEL) {
        patch.push(json!({ "op": "remove", "path": format!("/metadata/labels/{}", escape(CANARY_LABEL)) }));
    }
    patch.push(json!({ "op": "remove", "path": "/metadata/ownerReferences" }));
    Value::Array(patch)
}

/// A key as a token of a JSON Pointer (RFC 6901 §3).
fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_escaped_for_json_pointers() {
        assert_eq!(escape("sluice.dev/held"), "sluice.dev~1held");
        assert_eq!(escape("a~b/c"), "a~0b~1c");
    }

    #[test]
    fn a_reverted_deployment_has_its_stable_template_and_no_hold() {
        let mut deployment = DynamicObject::new("web", &apps("Deployment"));
        deployment.metadata.resource_version = Some("7".to_owned());
        deployment.metadata.annotations = Some([(ANNOTATION_HELD.to_owned(), "true".to_owned())].into());
        deployment.data = json!({ "spec": { "paused": true, "template": { "spec": { "image": "bad" } } } });
        let mut stable = DynamicObject::new("web-a", &apps("ReplicaSet"));
        let labels = json!({ "app": "web", POD_TEMPLATE_HASH: "a" });
        stable.data =
            json!({ "spec": { "template": { "metadata": { "labels": labels }, "spec": { "image": "good" } } } });
        let patch: json_patch::Patch = serde_json::from_value(reversion(&deployment, &stable)).unwrap();
        let mut whole = serde_json::to_value(&deployment).unwrap();
        json_patch::patch(&mut whole, &patch).unwrap();
        let wanted = json!({ "template": { "metadata": { "labels": { "app": "web" } }, "spec": { "image": "good" } } });
        assert_eq!(whole["spec"], wanted);
        assert_eq!(whole["metadata"]["annotations"], json!({}));
        whole["metadata"]["resourceVersion"] = json!("8");
        assert!(json_patch::patch(&mut whole, &patch).is_err(), "of the very object that was read");
    }

    #[test]
    fn an_adopted_set_loses_its_owner_only_as_it_was_read() {
        let mut set = DynamicObject::new("web-x", &apps("ReplicaSet"));
        set.metadata.resource_version = Some("7".to_owned());
        let patch = adoption(&set, 4, 5);
        assert_eq!(patch[0]["value"], "7");
        let paths: Vec<_> = patch.as_array().expect("a list").iter().map(|op| op["path"].as_str().unwrap()).collect();
        assert_eq!(paths.last(), Some(&"/metadata/ownerReferences"));
        assert!(patch.to_string().contains("desired-replicas"));
    }
}
