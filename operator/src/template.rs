//! Pod templates as raw JSON: comparing them and naming them. Pure.
//!
//! Raw, because a typed round trip drops fields that this build does not know, and the comparison that the Deployment
//! controller makes later would then fail.

use crds::names::{ANNOTATION_RESTARTED_AT, POD_TEMPLATE_HASH};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Length of a revision in characters: 27^10 values, so that two templates of one Deployment never meet by chance.
const REVISION_LENGTH: usize = 10;
/// Letters that cannot spell a word, as Kubernetes' own `rand.SafeEncodeString` has them.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// `template` without the label that tells ReplicaSets apart: what the Deployment controller compares.
#[must_use]
pub fn comparable(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(POD_TEMPLATE_HASH);
    }
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        // The API server writes `creationTimestamp: null` in one object and leaves it out of the other.
        metadata.retain(|key, value| key != "creationTimestamp" && !is_empty(value));
    }
    template
}

/// Whether the Deployment controller would take the two templates for equal.
#[must_use]
pub fn equal(left: &Value, right: &Value) -> bool {
    comparable(left) == comparable(right)
}

/// Whether the two differ in nothing but the mark of `kubectl rollout restart`.
#[must_use]
pub fn differ_by_restart_only(left: &Value, right: &Value) -> bool {
    !equal(left, right) && equal(&without_restart(left), &without_restart(right))
}

/// The revision that a ReplicaSet of ours with this template carries as its `pod-template-hash`.
#[must_use]
pub fn revision(template: &Value) -> String {
    // serde_json's map is sorted by key, so equal templates have equal text.
    let text = comparable(template).to_string();
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(REVISION_LENGTH).map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

/// `template` with our `pod-template-hash` among its labels.
#[must_use]
pub fn labelled(template: &Value, revision: &str) -> Value {
    let mut template = template.clone();
    if !template.get("metadata").is_some_and(Value::is_object) {
        template["metadata"] = Value::Object(serde_json::Map::new());
    }
    if !template["metadata"].get("labels").is_some_and(Value::is_object) {
        template["metadata"]["labels"] = Value::Object(serde_json::Map::new());
    }
    template["metadata"]["labels"][POD_TEMPLATE_HASH] = Value::from(revision);
    template
}

fn without_restart(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(annotations) = template.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION_RESTARTED_AT);
    }
    template
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mk_template(image: &str) -> Value {
        json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"image": image, "later": 1}]}})
    }

    #[test]
    fn the_hash_label_and_empty_metadata_make_no_difference() {
        let bare = mk_template("a");
        let set = labelled(&bare, "x");
        assert_eq!(set["metadata"]["labels"]["pod-template-hash"], "x");
        assert!(equal(&bare, &set));
        assert_eq!(revision(&bare), revision(&set));
        let mut stamped = bare.clone();
        stamped["metadata"]["creationTimestamp"] = Value::Null;
        assert!(equal(&bare, &stamped));
    }

    #[test]
    fn unknown_fields_make_a_difference() {
        let mut other = mk_template("a");
        other["spec"]["containers"][0]["later"] = json!(2);
        assert!(!equal(&mk_template("a"), &other));
        assert_ne!(revision(&mk_template("a")), revision(&other));
    }

    #[test]
    fn restart_is_told_from_a_change() {
        let mut restarted = mk_template("a");
        restarted["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/restartedAt": "now"});
        assert!(differ_by_restart_only(&mk_template("a"), &restarted));
        assert!(!differ_by_restart_only(&mk_template("b"), &restarted));
        assert!(!differ_by_restart_only(&restarted, &restarted));
    }
}
