//! The bindings of the two admission policies: they name the managed namespaces, so that no other namespace of the
//! cluster is touched and none needs a label.
//!
//! The policies come with the chart; only the bindings change while Sluice runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crds::names::{HOLD_POLICY, ROUTE_POLICY, TABLE};
use k8s_openapi::{
    api::admissionregistration::v1::{
        MatchResources, MutatingAdmissionPolicyBinding, MutatingAdmissionPolicyBindingSpec, ParamRef,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta},
};
use kube::{Api, Client, ResourceExt};
use tokio::sync::Mutex;

use crate::api::{self, ApiError};

/// Short for `MutatingAdmissionPolicyBinding`.
pub type Binding = MutatingAdmissionPolicyBinding;

/// Label that Kubernetes puts on every namespace.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

/// The bindings as this process last wrote them. Passes of many Canaries want the same two objects written at the same
/// time, each from a cache that does not show the others' writes yet: without this they refuse each other for seconds.
#[derive(Debug, Default)]
pub struct Bindings(Mutex<BTreeMap<&'static str, Binding>>);

impl Bindings {
    /// Makes both policies apply to exactly the namespaces that `managed` gives; it and `cached` (a binding by its name) are
    /// asked when it is this pass's turn. With no managed namespace the bindings are deleted (an empty list is refused by
    /// the API server). True if something was written. Cancelling it loses nothing that the cache does not bring back.
    ///
    /// # Errors
    /// As [`api::call`]; a conflict means that someone else has changed a binding: start over.
    pub async fn ensure(
        &self,
        client: &Client,
        managed: impl FnOnce() -> BTreeSet<String>,
        cached: impl Fn(&str) -> Option<Arc<Binding>>,
    ) -> Result<bool, ApiError> {
        // Held over the two writes on purpose: they are what it puts in a row, and each is bounded.
        let mut written = self.0.lock().await;
        let managed = managed();
        let mut any = false;
        for policy in [HOLD_POLICY, ROUTE_POLICY] {
            let cached = cached(policy);
            let seen = newer(cached.as_deref(), written.get(policy));
            match ensure_one(client, policy, &managed, seen).await {
                Ok(Outcome::Unchanged) => continue,
                Ok(Outcome::Written(binding)) => written.insert(policy, *binding),
                Ok(Outcome::Deleted) => written.remove(policy),
                Err(error) => {
                    // What was written is not what is there: the cache has the last word in the next pass.
                    written.remove(policy);
                    return Err(error);
                }
            };
            any = true;
        }
        Ok(any)
    }
}

/// What became of one binding.
enum Outcome {
    Unchanged,
    Written(Box<Binding>),
    Deleted,
}

fn newer<'a>(cached: Option<&'a Binding>, written: Option<&'a Binding>) -> Option<&'a Binding> {
    // Comparable from Kubernetes 1.35 on (KEP-5504); the policies need 1.36.
    let version = |binding: &Binding| binding.resource_version().and_then(|version| version.parse::<u64>().ok());
    match (cached, written) {
        (Some(cached), Some(written)) if version(written) > version(cached) => Some(written),
        (Some(cached), _) => Some(cached),
        // Gone, or not in the cache yet; if it is gone, an apply of its old version is refused.
        (None, written) => written,
    }
}

async fn ensure_one(
    client: &Client,
    policy: &str,
    managed: &BTreeSet<String>,
    seen: Option<&Binding>,
) -> Result<Outcome, ApiError> {
    let bindings = Api::<Binding>::all(client.clone());
    if managed.is_empty() {
        return Ok(if api::delete(&bindings, seen).await? { Outcome::Deleted } else { Outcome::Unchanged });
    }
    let mut wanted = build(policy, managed);
    if seen.is_some_and(|seen| !api::differs(&wanted, seen)) {
        return Ok(Outcome::Unchanged);
    }
    wanted.metadata.resource_version = seen.and_then(ResourceExt::resource_version);
    Ok(Outcome::Written(Box::new(api::apply(&bindings, &wanted).await?)))
}

fn build(policy: &str, managed: &BTreeSet<String>) -> Binding {
    let in_managed = LabelSelectorRequirement {
        key: NAMESPACE_LABEL.to_owned(),
        operator: "In".to_owned(),
        values: Some(managed.iter().cloned().collect()),
    };
    Binding {
        metadata: ObjectMeta { name: Some(policy.to_owned()), ..ObjectMeta::default() },
        spec: Some(MutatingAdmissionPolicyBindingSpec {
            policy_name: Some(policy.to_owned()),
            param_ref: Some(ParamRef {
                name: Some(TABLE.to_owned()),
                parameter_not_found_action: Some("Allow".to_owned()),
                ..ParamRef::default()
            }),
            match_resources: Some(MatchResources {
                namespace_selector: Some(LabelSelector {
                    match_expressions: Some(vec![in_managed]),
                    ..LabelSelector::default()
                }),
                ..MatchResources::default()
            }),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_names_the_namespaces_and_the_table() {
        let managed = BTreeSet::from(["web".to_owned(), "shop".to_owned()]);
        assert_eq!(
            serde_json::to_value(build(HOLD_POLICY, &managed)).unwrap(),
            serde_json::json!({
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "MutatingAdmissionPolicyBinding",
                "metadata": { "name": "sluice-hold" },
                "spec": {
                    "policyName": "sluice-hold",
                    "paramRef": { "name": "sluice-table", "parameterNotFoundAction": "Allow" },
                    "matchResources": { "namespaceSelector": { "matchExpressions": [
                        { "key": "kubernetes.io/metadata.name", "operator": "In", "values": ["shop", "web"] }
                    ] } }
                }
            })
        );
    }
}
