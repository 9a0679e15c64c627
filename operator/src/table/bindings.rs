//! The bindings of the two admission policies: they name the managed namespaces, so that no other namespace of the
//! cluster is touched and none needs a label.
//!
//! The policies come with the chart; only the bindings change while Sluice runs.

use std::collections::BTreeSet;

use crds::names::{HOLD_POLICY, ROUTE_POLICY, TABLE};
use k8s_openapi::{
    api::admissionregistration::v1::{
        MatchResources, MutatingAdmissionPolicyBinding, MutatingAdmissionPolicyBindingSpec, ParamRef,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta},
};
use kube::{Api, Client, ResourceExt};

use crate::api::{self, ApiError};

/// Short for `MutatingAdmissionPolicyBinding`.
pub type Binding = MutatingAdmissionPolicyBinding;

/// Label that Kubernetes puts on every namespace.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

/// Makes both policies apply to exactly the `managed` namespaces; `hold` and `route` are the bindings as cached. With no
/// managed namespace the bindings are deleted (an empty list is refused by the API server). True if something was written.
///
/// # Errors
/// As [`api::call`]; a conflict means that a binding has changed since it was read: start over.
pub async fn ensure_bindings(
    client: &Client,
    managed: &BTreeSet<String>,
    hold: Option<&Binding>,
    route: Option<&Binding>,
) -> Result<bool, ApiError> {
    let held = ensure_one(client, HOLD_POLICY, managed, hold).await?;
    let routed = ensure_one(client, ROUTE_POLICY, managed, route).await?;
    Ok(held || routed)
}

async fn ensure_one(
    client: &Client,
    policy: &str,
    managed: &BTreeSet<String>,
    seen: Option<&Binding>,
) -> Result<bool, ApiError> {
    let bindings = Api::<Binding>::all(client.clone());
    if managed.is_empty() {
        return api::delete(&bindings, seen).await;
    }
    let wanted = Binding {
        metadata: ObjectMeta {
            resource_version: seen.and_then(ResourceExt::resource_version),
            ..build(policy, managed).metadata
        },
        ..build(policy, managed)
    };
    if seen.is_some_and(|seen| !api::differs(&wanted, seen)) {
        return Ok(false);
    }
    api::apply(&bindings, &wanted).await?;
    Ok(true)
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
