//! Takes a Canary out of the traffic, in the order that loses nothing: canary pods gone, Service back on its own
//! selector, proxies drained, table and pool gone, target unpaused if that ships nothing, finalizer off. At an uninstall
//! a target with an unjudged template is reverted first, so that it need not stay paused.
//!
//! Every stage is recognised from the objects alone, so a restart goes on where it was. Bounded: a proxy that is out of
//! reach delays it by 30 s, a missing Service or Deployment by nothing.

use std::time::Duration;

use crds::{
    Canary,
    canary::Severity,
    names::{ANNOTATION_UNINSTALL, FINALIZER, POD_TEMPLATE_HASH},
};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
    runtime::reflector::ObjectRef,
};
use rollout::{Paused, State};
use serde_json::json;

use crate::{
    api::{ApiError, call},
    controller::Context,
    observe::{World, paused},
    pool, routes, services,
    services::{Routing, ServiceError},
    setup,
    table::{self, Table, TableError},
    template,
    workload::{self, WorkloadError},
};

/// How long the proxies go on serving after the Service has its own selector back: kube-proxy needs about a second to
/// move new connections, clients need a while to let go of the old ones.
const DRAIN: Duration = Duration::from_secs(10);
/// How soon to look again.
const AGAIN: Duration = Duration::from_millis(500);

/// A stage that could not be completed in this pass; the next one goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum TeardownError {
    /// Another call failed: about pods, bindings, the pool or the finalizer.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The table could not be written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The Service could not be given back.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The target could not be reverted.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
}

impl TeardownError {
    /// Something has changed since it was read: look again at once.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Api(error)
            | Self::Table(TableError::Api(error))
            | Self::Service(ServiceError::Api(error))
            | Self::Workload(WorkloadError::Api(error)) => error.is_conflict(),
            Self::Table(TableError::Retry) | Self::Workload(WorkloadError::Stale { .. }) => true,
            Self::Table(TableError::Taken { .. } | TableError::Full) | Self::Service(ServiceError::NotYet { .. }) => {
                false
            }
        }
    }

    /// As [`ApiError::is_leaving`].
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        match self {
            Self::Api(error) | Self::Service(ServiceError::Api(error)) | Self::Workload(WorkloadError::Api(error)) => {
                error.is_leaving()
            }
            Self::Table(error) => error.is_leaving(),
            Self::Service(ServiceError::NotYet { .. }) | Self::Workload(WorkloadError::Stale { .. }) => false,
        }
    }
}

/// Does the next stage; the time after which to look again, or none when the finalizer is off.
///
/// # Errors
/// A call failed; a later pass goes on from there.
pub async fn run(context: &Context, world: &World, state: &State) -> Result<Option<Duration>, TeardownError> {
    if world.canary_owned().next().is_some() || canary_pods_left(context, world, state).await? {
        return Ok(Some(AGAIN));
    }
    let table = Table::parse(world.table.as_deref());
    let canary = &world.canary;
    let routed = world.service.as_deref().filter(|service| is_left_routed(&table, canary, service));
    let lost = world.table.is_none() && routed.is_some();
    if lost || table.held.values().any(|holder| *holder == canary.name_any()) {
        return match table::release(&context.client, &world.namespace, world.table.as_deref(), canary, routed).await {
            // The table went first and is not let in again; the Service that it would give back goes too.
            Err(error) if error.is_leaving() => Ok(Some(AGAIN)),
            released => released.map(|_| Some(Duration::ZERO)).map_err(Into::into),
        };
    }
    if let Some(service) = routed {
        match services::touch(&context.client, service, &table, Routing::Restored).await {
            Ok(_) | Err(ServiceError::NotYet { .. }) => return Ok(Some(AGAIN)),
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(left) = context.drain_left(canary, DRAIN) {
        return Ok(Some(left));
    }
    if is_held_at_stable(world, state) {
        // `desired.hold` is being carried out; the cache shows it in a moment.
        return Ok(Some(AGAIN));
    }
    if revert_at_uninstall(context, world, state).await? {
        return Ok(Some(AGAIN));
    }
    let last = table::forget(&context.client, &world.namespace, world.table.as_deref(), canary).await?;
    if last {
        pool::remove(&context.client, &world.namespace, world.pool.as_deref()).await?;
    }
    setup::ensure_bindings(context, Some(canary)).await?;
    tell_of_hold(context, world);
    finish(context, world).await?;
    Ok(None)
}

/// A Service that the table gives to another Canary is that one's affair: this one was refused.
fn is_left_routed(table: &Table, canary: &Canary, service: &Service) -> bool {
    let others = table.owners.get(&service.name_any()).is_some_and(|owner| *owner != canary.name_any());
    !others && !services::is_restored(service)
}

/// Deleting a ReplicaSet leaves its pods ready for about a second, and the Service's own selector names them too. The
/// cached endpoints say when it is worth while to list them, so that once is enough.
async fn canary_pods_left(context: &Context, world: &World, state: &State) -> Result<bool, ApiError> {
    let Some(canary) = state.canary.as_ref().filter(|canary| Some(*canary) != state.stable.as_ref()) else {
        return Ok(false);
    };
    if context.is_cleared(&world.canary) {
        return Ok(false);
    }
    if routes::has_ready(&world.canary_slices) {
        return Ok(true);
    }
    let selector: Vec<String> = world
        .selector()
        .into_iter()
        .chain([(POD_TEMPLATE_HASH.to_owned(), canary.0.clone())])
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &world.namespace);
    let pods = call("list canary pods", api.list(&ListParams::default().labels(&selector.join(",")))).await?;
    let left = pods.items.iter().any(|pod| pod.metadata.deletion_timestamp.is_none());
    if !left {
        context.cleared(&world.canary);
    }
    Ok(left)
}

fn is_held_at_stable(world: &World, state: &State) -> bool {
    let Some(deployment) = &world.deployment else { return false };
    let stable = state.stable.as_ref().and_then(|stable| world.replica_set(stable));
    let equal = match (world.template(), stable.and_then(|set| set.data.pointer("/spec/template"))) {
        (Some(left), Some(right)) => template::equal(left, right),
        _ => false,
    };
    paused(deployment) == Paused::Held && equal
}

/// When Sluice goes, nobody is left to release a hold: the Deployment gets its stable template back and is unpaused.
/// Tells whether there was anything to do.
async fn revert_at_uninstall(context: &Context, world: &World, state: &State) -> Result<bool, TeardownError> {
    let canary = &world.canary;
    let stable = state.stable.as_ref().and_then(|stable| world.replica_set(stable));
    let held = world.deployment.as_ref().filter(|deployment| paused(deployment) == Paused::Held);
    let (Some(deployment), Some(stable), true) =
        (held, stable, canary.annotations().contains_key(ANNOTATION_UNINSTALL))
    else {
        return Ok(false);
    };
    match workload::revert(&context.client, world, deployment, stable).await {
        // The next pass reads it again.
        Err(WorkloadError::Stale { .. }) => return Ok(true),
        reverted => reverted?,
    }
    let note = format!(
        "Deployment {name} has the template of its stable pods again, because the newest one was never promoted and \
         nothing is left to judge it; apply the manifest to ship it",
        name = deployment.name_any()
    );
    context.desk.event(canary, Severity::Warn, "Reverted", "Deleting", &note);
    Ok(true)
}

/// What was not judged stays paused; the way to ship it is said aloud.
fn tell_of_hold(context: &Context, world: &World) {
    let Some(deployment) = world.deployment.as_ref().filter(|deployment| paused(deployment) == Paused::Held) else {
        return;
    };
    let name = deployment.name_any();
    let note = format!(
        "Deployment {name} stays paused on its stable pods, because its template was never promoted; \
         `kubectl rollout resume deployment/{name}` ships it"
    );
    context.desk.event(&world.canary, Severity::Warn, "StillHeld", "Deleting", &note);
}

async fn finish(context: &Context, world: &World) -> Result<(), ApiError> {
    let canary = &world.canary;
    let rest: Vec<_> = canary.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).cloned().collect();
    let patch = json!({ "metadata": { "resourceVersion": canary.resource_version(), "finalizers": rest } });
    let api = context.canaries(&world.namespace);
    let name = canary.name_any();
    match call(format!("let go of Canary {name}"), api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)))
        .await
    {
        Err(error) if !error.is_not_found() => Err(error),
        _ => {
            context.forget(canary);
            context.publisher.remove(&canary.uid().unwrap_or_default());
            tracing::debug!(canary = %ObjectRef::from_obj(canary.as_ref()), "finalizer off");
            Ok(())
        }
    }
}
