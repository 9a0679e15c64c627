//! How every write to the API server is made: with a deadline, without retries, and only when it would change something.
//!
//! `call` bounds one request, `apply` is a server-side apply by our field manager, `differs` tells whether it is needed.
//! Retries belong to the reconcile, which looks at the world again first.

use std::{fmt::Debug, future::Future, time::Duration};

use crds::names::FIELD_MANAGER;
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Longest time that one request to the API server may take. Linkerd bounds its status patches alike; a stuck request
/// must give the reconcile back long before the lease (15 s) is lost.
pub const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// Objects in which a key that we do not set must not be there either; everywhere else the API server adds defaults.
const EXACT: [&str; 4] = ["data", "matchLabels", "nodeSelector", "selector"];

/// A request to the API server that failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The API server refused it, or could not be reached.
    #[error("cannot {act}")]
    Kube {
        /// What was attempted, as in `apply Service web-primary`.
        act: String,
        /// The answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// No answer within [`CALL_DEADLINE`]; it may have been carried out all the same.
    #[error("cannot {act}: no answer within {} s", CALL_DEADLINE.as_secs())]
    Deadline {
        /// What was attempted.
        act: String,
    },
}

impl ApiError {
    /// The object has changed since it was read, or exists already: read again, decide again.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// The object, or its namespace, is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// The object would not be valid, or a test of the JSON patch has failed: read again, decide again.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        self.code() == Some(422)
    }

    /// The namespace is being deleted, and nothing new is let into it: a retry helps nobody, and there is nobody to help.
    /// The cause is that of the admission plugin `NamespaceLifecycle`.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        let details = self.status().filter(|status| status.code == 403).and_then(|status| status.details.as_ref());
        details.is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
    }

    fn code(&self) -> Option<u16> {
        self.status().map(|status| status.code)
    }

    fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Kube { source, .. } => match &**source {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::Deadline { .. } => None,
        }
    }
}

/// Makes one request; `act` says what it does, for the error. Not cancelled on the server when dropped.
///
/// # Errors
/// [`ApiError`]; whether a retry helps is told by its predicates.
pub async fn call<T>(act: impl Into<String>, request: impl Future<Output = kube::Result<T>>) -> Result<T, ApiError> {
    match tokio::time::timeout(CALL_DEADLINE, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(ApiError::Kube { act: act.into(), source: Box::new(source) }),
        Err(_) => Err(ApiError::Deadline { act: act.into() }),
    }
}

/// Server-side apply by [`FIELD_MANAGER`], by force: for objects that are ours alone. With `metadata.resourceVersion`
/// set it is a compare-and-swap.
///
/// # Errors
/// As [`call`].
pub async fn apply<K>(api: &Api<K>, object: &K) -> Result<K, ApiError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let name = object.name_any();
    let params = PatchParams::apply(FIELD_MANAGER).force();
    call(format!("apply {} {name}", K::kind(&())), api.patch(&name, &params, &Patch::Apply(object))).await
}

/// Deletes `seen`, and no other object of its name; that it is gone already is well. False: nothing was there.
///
/// # Errors
/// As [`call`].
pub async fn delete<K>(api: &Api<K>, seen: Option<&K>) -> Result<bool, ApiError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let Some(seen) = seen.filter(|seen| seen.meta().deletion_timestamp.is_none()) else { return Ok(false) };
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: seen.uid(), resource_version: None }),
        ..DeleteParams::background()
    };
    let name = seen.name_any();
    match call(format!("delete {} {name}", K::kind(&())), api.delete(&name, &params)).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether some field of `desired` is missing from `seen` or has another value there. Fields that only `seen` has are
/// the API server's defaults or someone else's, except in maps that we own whole (selectors, `data`).
///
/// # Panics
/// Never: Kubernetes objects have a JSON form.
#[must_use]
pub fn differs(desired: &impl Serialize, seen: &impl Serialize) -> bool {
    let desired = serde_json::to_value(desired).expect("a Kubernetes object has a JSON form");
    let seen = serde_json::to_value(seen).expect("a Kubernetes object has a JSON form");
    value_differs(&desired, &seen, false)
}

fn value_differs(desired: &Value, seen: &Value, exact: bool) -> bool {
    match (desired, seen) {
        (Value::Object(desired), Value::Object(seen)) => {
            let extra = exact && seen.keys().any(|key| !desired.contains_key(key));
            extra
                || desired.iter().any(|(key, value)| {
                    value_differs(value, seen.get(key).unwrap_or(&Value::Null), EXACT.contains(&key.as_str()))
                })
        }
        (Value::Array(desired), Value::Array(seen)) => {
            desired.len() != seen.len()
                || desired.iter().zip(seen).any(|(left, right)| value_differs(left, right, false))
        }
        (Value::Object(desired), Value::Null) => !desired.is_empty(),
        (desired, seen) => desired != seen,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_error(status: serde_json::Value) -> ApiError {
        let status = serde_json::from_value(status).unwrap();
        ApiError::Kube { act: "create".to_owned(), source: Box::new(kube::Error::Api(Box::new(status))) }
    }

    #[test]
    fn a_namespace_that_goes_is_told_from_a_right_that_is_lacking() {
        // As Kubernetes 1.37 answers.
        let leaving = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 403, "reason": "Forbidden",
            "message": "configmaps \"sluice-table\" is forbidden: unable to create new content in namespace shop because \
                        it is being terminated",
            "details": { "name": "sluice-table", "kind": "configmaps", "causes": [{ "reason": "NamespaceTerminating",
                "message": "namespace shop is being terminated", "field": "metadata.namespace" }] },
        });
        assert!(mk_error(leaving).is_leaving());
        let forbidden = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 403, "reason": "Forbidden",
            "message": "User cannot create resource", "details": { "kind": "configmaps" },
        });
        assert!(!mk_error(forbidden).is_leaving());
        assert!(!ApiError::Deadline { act: "create".to_owned() }.is_leaving());
    }

    #[test]
    fn defaults_of_the_server_are_no_difference() {
        let desired =
            json!({ "spec": { "ports": [{ "port": 80 }], "selector": { "app": "web" }, "securityContext": {} } });
        let seen = json!({ "metadata": { "uid": "1" }, "spec": { "ports": [{ "port": 80, "protocol": "TCP" }],
            "selector": { "app": "web" }, "clusterIP": "198.19.0.1" } });
        assert!(!differs(&desired, &seen));
    }

    #[test]
    fn a_key_too_many_in_a_selector_is_a_difference() {
        let wide = json!({ "spec": { "selector": { "app": "web" } } });
        let narrow = json!({ "spec": { "selector": { "app": "web", "pod-template-hash": "abc" } } });
        assert!(differs(&wide, &narrow));
        assert!(differs(&narrow, &wide));
    }

    #[test]
    fn a_list_that_grew_or_shrank_is_a_difference() {
        let one = json!({ "ports": [{ "port": 80 }] });
        let two = json!({ "ports": [{ "port": 80 }, { "port": 90 }] });
        assert!(differs(&one, &two));
        assert!(differs(&two, &one));
    }
}
