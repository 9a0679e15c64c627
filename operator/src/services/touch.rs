//! Has the route policy rewrite the user's Service.
//!
//! An empty merge patch stores nothing by itself and makes us no field's manager, but admission runs on it, and what the
//! policy changes is stored. The API server's own cache of the table lags a few milliseconds behind, so the answer is
//! looked at and the patch repeated, a bounded number of times.

use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};

use super::{is_restored, is_routed};
use crate::{
    api::{ApiError, call},
    table::Table,
};

/// Waits between touches; the sum is how long the API server's cache may lag before the pass is given up.
const PAUSES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
];

/// How a Service should leave admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    /// To the pool, by the table.
    Routed,
    /// To its own pods.
    Restored,
}

/// Why a Service is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The policy has not taken notice of the table or of its binding yet; look again later.
    #[error("the route policy has not rewritten Service {service} yet")]
    NotYet {
        /// Its name.
        service: String,
    },
    /// The request failed.
    #[error("the Service cannot be rewritten")]
    Api(#[from] ApiError),
}

/// Touches the Service until the policy has rewritten it, at most five times in 0.75 s; no request when it is right
/// already. Before [`Routing::Routed`] the binding must name the namespace; before [`Routing::Restored`] the table must
/// have let the Service go, and the binding must still be there.
///
/// # Errors
/// [`ServiceError::NotYet`] is to be tried again by the next pass.
pub async fn touch(
    client: &Client,
    service: &Service,
    table: &Table,
    wanted: Routing,
) -> Result<Service, ServiceError> {
    let name = service.name_any();
    let api = Api::<Service>::namespaced(client.clone(), &service.namespace().unwrap_or_default());
    let mut latest = service.clone();
    for pause in PAUSES {
        if is_as(&latest, table, wanted) {
            return Ok(latest);
        }
        tokio::time::sleep(pause).await;
        let empty = Patch::Merge(serde_json::json!({}));
        latest = call(format!("touch Service {name}"), api.patch(&name, &PatchParams::default(), &empty)).await?;
    }
    if is_as(&latest, table, wanted) { Ok(latest) } else { Err(ServiceError::NotYet { service: name }) }
}

fn is_as(service: &Service, table: &Table, wanted: Routing) -> bool {
    match wanted {
        Routing::Routed => is_routed(service, table),
        Routing::Restored => is_restored(service),
    }
}
