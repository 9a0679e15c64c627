//! The Canaries of `*.yaml` in this folder: one for each phase, as the operator writes them, read strictly.

// Each of the two tests uses a part.
#![allow(dead_code)]

use std::path::{Path, PathBuf};

use serde_json::Value;

/// Where the scripts and manifests for GitOps tools stand.
pub(crate) fn documents() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/gitops")
}

/// A file below [`documents`].
pub(crate) fn read(relative: &str) -> String {
    let path = documents().join(relative);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// The Canary of one case, as the API server would serve it.
///
/// # Panics
/// When it holds a field that the operator does not write: a script must not be tested on what does not exist.
pub(crate) fn canary(case: &str) -> Value {
    let object = object(case);
    let typed: crds::Canary = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{case}: {error}"));
    let again = serde_json::to_value(typed).unwrap();
    assert_known(&object, &again, case);
    object
}

/// A file of this folder.
pub(crate) fn object(case: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gitops").join(format!("{case}.yaml"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{case}: {error}"))
}

/// Every field of `object` is also in `typed`.
fn assert_known(object: &Value, typed: &Value, path: &str) {
    match (object, typed) {
        (Value::Object(fields), Value::Object(known)) => {
            for (name, value) in fields {
                let path = format!("{path}.{name}");
                assert_known(value, known.get(name).unwrap_or_else(|| panic!("{path} does not exist")), &path);
            }
        }
        (Value::Array(items), Value::Array(known)) => {
            assert_eq!(items.len(), known.len(), "{path}");
            for (item, known) in items.iter().zip(known) {
                assert_known(item, known, path);
            }
        }
        (left, right) => assert_eq!(left, right, "{path}"),
    }
}
