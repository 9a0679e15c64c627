//! What a pass writes: the finalizer, the journal, then the objects that follow from it.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use crds::{Canary, names::FINALIZER};
use k8s_openapi::api::core::v1::Service;
use kube::{
    ResourceExt,
    api::{Patch, PatchParams, PostParams},
    runtime::controller::Action,
};
use rollout::{Reason, State, verdict::Decision};
use serde_json::json;

use super::{Context, Error};
use crate::{api::call, feed, observe::World, services, status, table::Table, workload};

/// The first write about a Canary: from here on it does not go without being taken out of the traffic.
pub(super) async fn add_finalizer(context: &Context, canary: &Canary) -> Result<Action, Error> {
    let finalizers: Vec<String> = canary.finalizers().iter().cloned().chain([FINALIZER.to_owned()]).collect();
    let patch = json!({ "metadata": { "resourceVersion": canary.resource_version(), "finalizers": finalizers } });
    let api = context.canaries(&canary.namespace().unwrap_or_default());
    let act = format!("add the finalizer to Canary {}", canary.name_any());
    match call(act, api.patch(&canary.name_any(), &PatchParams::default(), &Patch::Merge(patch))).await {
        Ok(written) => {
            context.remember(canary).written = Some(Arc::new(written));
            Ok(Action::requeue(Duration::ZERO))
        }
        Err(error) if error.is_not_found() => Ok(Action::await_change()),
        Err(error) if error.is_conflict() => Err(Error::Conflict(error)),
        Err(error) => Err(error.into()),
    }
}

/// Writes the journal by compare-and-swap, if it says anything new, and lets the proxies have it at once.
pub(super) async fn persist(context: &Context, mut world: World, state: &State) -> Result<World, Error> {
    let now = Utc::now();
    let due = context.verdicts.is_due(&world.canary, state);
    if !due && world.canary.status.as_ref() == Some(&status::encode(&world.canary, state, now)) {
        return Ok(world);
    }
    let mut status = status::encode(&world.canary, &with_numbers(context, &world.canary, state), now);
    if let Some(said) = context.verdicts.status(&world.canary, state) {
        status.verdict = Some(said);
    }
    let mut wanted = Canary::clone(&world.canary);
    wanted.status = Some(status);
    let api = context.canaries(&world.namespace);
    let name = wanted.name_any();
    let act = format!("write the status of Canary {name}");
    let written = match call(act, api.replace_status(&name, &PostParams::default(), &wanted)).await {
        Ok(written) => Arc::new(written),
        Err(error) if error.is_conflict() || error.is_not_found() => return Err(Error::Conflict(error)),
        Err(error) => return Err(error.into()),
    };
    context.verdicts.written(&written);
    context.remember(&written).written = Some(written.clone());
    world.canary = written;
    if let Some(route) = feed::route(&world) {
        context.publisher.set(route);
    }
    Ok(world)
}

/// `state` with the verdict's numbers of this moment: they move each second, and are written when something is.
fn with_numbers(context: &Context, canary: &Canary, state: &State) -> State {
    let Reason::Verdict(wait, _) = state.reason else { return state.clone() };
    match context.verdicts.verdict(canary, state).filter(|verdict| verdict.decision == Decision::Wait(wait)) {
        Some(verdict) => State { reason: Reason::Verdict(wait, verdict.sentence()), ..state.clone() },
        None => state.clone(),
    }
}

/// A Canary that was refused must not fight for the arms of the one that has the Service.
fn owns_arms(world: &World, service: &Service) -> bool {
    let table = Table::parse(world.table.as_deref());
    world.canary.metadata.deletion_timestamp.is_none() && table.is_owner(&world.canary.name_any(), &service.name_any())
}

/// Makes Services and workload what `decision` wants of them.
pub(super) async fn carry_out(
    context: &Context,
    world: &World,
    decision: &rollout::Decision,
    drained: bool,
) -> Result<(), Error> {
    if let Some(service) = world.service.as_deref().filter(|service| owns_arms(world, service)) {
        let arms = services::arms(&world.canary, &world.selector(), service, world.primary_service.as_deref());
        services::ensure(&context.client, &arms.primary, world.primary_service.as_deref())
            .await
            .map_err(Error::Services)?;
        match &arms.canary {
            Some(canary) => {
                services::ensure(&context.client, canary, world.canary_service.as_deref())
                    .await
                    .map_err(Error::Services)?;
            }
            None => {
                let seen = world.canary_service.as_deref();
                services::delete(&context.client, &world.namespace, seen).await.map_err(Error::Services)?;
            }
        }
    }
    workload::ensure(&context.client, world, &decision.desired, decision.state.canary.as_ref(), drained).await?;
    Ok(())
}
