//! `sluice-operator cleanup`: what the chart's uninstall hook runs while the operator is still there.
//!
//! Marks and deletes every Canary and waits until the operator has taken traffic and holds back, then removes the
//! bindings. It decides nothing and touches no workload itself: the mark tells the operator that nobody will hold the
//! targets after this.

use std::time::Duration;

use crds::{
    Canary,
    names::{ANNOTATION_UNINSTALL, HOLD_POLICY, ROUTE_POLICY},
};
use k8s_openapi::api::admissionregistration::v1::MutatingAdmissionPolicyBinding;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::api::{ApiError, call};

/// How often to look whether they are gone.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Canaries were still there at the end, or the API server did not answer.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// So many were there when the time was over.
    #[error("{0} Canaries are still being taken out of the traffic; run the uninstall again, or look at their status")]
    Left(usize),
    /// A call failed.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// Deletes every Canary and waits for their finalizers: at most `timeout`, and the calls about one more Canary.
///
/// # Errors
/// Some are left, or a call failed; running it again goes on from there.
pub async fn run(client: &Client, timeout: Duration) -> Result<(), CleanupError> {
    let all: Api<Canary> = Api::all(client.clone());
    let end = tokio::time::Instant::now() + timeout;
    loop {
        let left = call("list Canaries", all.list(&ListParams::default())).await?.items;
        if left.is_empty() {
            break;
        }
        for canary in &left {
            // Here, too: against a slow API server a round alone may last longer.
            if tokio::time::Instant::now() >= end {
                return Err(CleanupError::Left(left.len()));
            }
            delete(client, canary).await?;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    remove_bindings(client).await
}

/// Marked first, also one that is going already: the operator reads the mark before it lets go of the target.
async fn delete(client: &Client, canary: &Canary) -> Result<(), CleanupError> {
    let namespace = canary.namespace().unwrap_or_default();
    let api: Api<Canary> = Api::namespaced(client.clone(), &namespace);
    let name = canary.name_any();
    if !canary.annotations().contains_key(ANNOTATION_UNINSTALL) {
        let mark = Patch::Merge(json!({ "metadata": { "annotations": { ANNOTATION_UNINSTALL: "true" } } }));
        match call(format!("mark Canary {namespace}/{name}"), api.patch(&name, &PatchParams::default(), &mark)).await {
            Err(error) if error.is_not_found() => return Ok(()),
            marked => marked?,
        };
    }
    if canary.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    match call(format!("delete Canary {namespace}/{name}"), api.delete(&name, &DeleteParams::background())).await {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => {
            tracing::info!(k8s.namespace.name = namespace, canary = name, "deleted");
            Ok(())
        }
    }
}

async fn remove_bindings(client: &Client) -> Result<(), CleanupError> {
    let bindings: Api<MutatingAdmissionPolicyBinding> = Api::all(client.clone());
    for name in [HOLD_POLICY, ROUTE_POLICY] {
        match call(format!("delete binding {name}"), bindings.delete(name, &DeleteParams::default())).await {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}
