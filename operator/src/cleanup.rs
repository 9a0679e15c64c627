//! `sluice-operator cleanup`: what the chart's uninstall hook runs while the operator is still there.
//!
//! Deletes every Canary and waits until the operator has taken traffic and holds back, then removes the bindings. It
//! decides nothing and touches no workload itself.

use std::time::Duration;

use crds::{
    Canary,
    names::{HOLD_POLICY, ROUTE_POLICY},
};
use k8s_openapi::api::admissionregistration::v1::MutatingAdmissionPolicyBinding;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams},
};

use crate::api::{ApiError, call};

/// How often to look whether they are gone.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Canaries were still there at the end, or the API server did not answer.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    #[error("{0} Canaries are still being taken out of the traffic; run the uninstall again, or look at their status")]
    Left(usize),
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// Deletes every Canary and waits at most `timeout` for their finalizers.
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
        for canary in left.iter().filter(|canary| canary.metadata.deletion_timestamp.is_none()) {
            let api: Api<Canary> = Api::namespaced(client.clone(), &canary.namespace().unwrap_or_default());
            match call("delete a Canary", api.delete(&canary.name_any(), &DeleteParams::background())).await {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => tracing::info!(k8s.namespace.name = canary.namespace(), canary = canary.name_any(), "deleted"),
            }
        }
        if tokio::time::Instant::now() >= end {
            return Err(CleanupError::Left(left.len()));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let bindings: Api<MutatingAdmissionPolicyBinding> = Api::all(client.clone());
    for name in [HOLD_POLICY, ROUTE_POLICY] {
        match call(format!("delete binding {name}"), bindings.delete(name, &DeleteParams::default())).await {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}
