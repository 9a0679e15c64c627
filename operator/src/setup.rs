//! Brings a Canary's traffic through the proxies, once, in the only order that loses nothing: pool, table, arms, route
//! acknowledged, bindings, and the Service last. Afterwards it finds everything in place and makes no call.

use std::{collections::BTreeSet, sync::Arc};

use crds::{
    Canary,
    names::{ANNOTATION_RESTARTED_AT, FINALIZER, HOLD_POLICY, POOL_NAME, ROUTE_POLICY},
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, ResourceExt,
    api::{DynamicObject, Patch, PatchParams},
    runtime::reflector::ObjectRef,
};
use rollout::{Phase, Setup, State};
use serde_json::{Value, json};

use crate::{
    api::{ApiError, call},
    controller::Context,
    feed,
    observe::{World, apps},
    pool::{self, PoolSeen},
    routes,
    services::{self, Routing, ServiceError},
    table::{self, Entries, Table, TableError},
};

/// Set-up that could not go on in this pass.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Another call failed: about bindings, the pool or the hold.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The table could not be written.
    #[error(transparent)]
    Table(TableError),
    /// The Service could not be routed.
    #[error(transparent)]
    Service(ServiceError),
}

impl SetupError {
    /// As [`ApiError::is_leaving`].
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        match self {
            Self::Api(error) | Self::Service(ServiceError::Api(error)) => error.is_leaving(),
            Self::Table(error) => error.is_leaving(),
            Self::Service(ServiceError::NotYet { .. }) => false,
        }
    }
}

/// Does what is missing and says how far it is.
///
/// # Errors
/// A call failed; a later pass goes on from there.
pub async fn ensure(context: &Context, world: &World, state: &State) -> Result<Setup, SetupError> {
    if let Some(why) = rival(context, &world.canary) {
        return Ok(Setup::Refused(why));
    }
    let name = services::service_name(&world.canary);
    let Some(service) = &world.service else {
        return Ok(Setup::Pending(format!(
            "Service {name} does not exist: create it, or name yours in spec.service.name"
        )));
    };
    let Some(template) = world.template() else {
        let target = &world.canary.spec.target_ref.name;
        return Ok(Setup::Pending(format!(
            "Deployment {target} does not exist: create it, and this goes on by itself"
        )));
    };
    if let Some(why) = services::refusal(service, &world.canary, &pod_labels(template)) {
        return Ok(Setup::Refused(why));
    }
    context.warn_once(&world.canary, services::warnings(service, &world.canary));
    let pool_ready = ensure_pool(context, world).await?;
    let table = match ensure_table(context, world, service).await {
        Err(TableError::Taken { what, by }) => {
            return Ok(Setup::Refused(format!("{what} is managed by Canary {by}; one of the two has to go")));
        }
        other => other.map_err(SetupError::Table)?,
    };
    if services::is_routed(service, &table) {
        return routed(context, world, state).await;
    }
    if !pool_ready || world.live_proxies.is_empty() {
        return Ok(Setup::Pending(format!("the proxies are starting: see Deployment {POOL_NAME}")));
    }
    if !context.acknowledged(world, state.counter) {
        return Ok(Setup::Pending("waiting until every proxy has acknowledged the route".to_owned()));
    }
    let reachable = feed::route(world).map_or(0, |route| routes::stable_ready(&route));
    if reachable == 0 {
        return Ok(Setup::Pending(format!("no pod that Service {name} selects is ready yet")));
    }
    ensure_bindings(context, None).await?;
    match services::touch(&context.client, service, &table, Routing::Routed).await {
        Ok(_) => Ok(Setup::Pending("the Service has just been routed to the proxies".to_owned())),
        Err(ServiceError::NotYet { .. }) => Ok(Setup::Pending(not_in_force(ROUTE_POLICY))),
        Err(error) => Err(SetupError::Service(error)),
    }
}

/// The Service is routed; before the first release the hold must have been seen to work.
async fn routed(context: &Context, world: &World, state: &State) -> Result<Setup, SetupError> {
    ensure_bindings(context, None).await?;
    if world.live_proxies.is_empty() {
        return Ok(Setup::Pending(format!("no proxy is ready: see Deployment {POOL_NAME}")));
    }
    if state.phase == Phase::Initializing && !hold_works(context, world).await? {
        return Ok(Setup::Pending(not_in_force(HOLD_POLICY)));
    }
    Ok(Setup::Ready)
}

/// The API server takes notice of a binding within a second or two; after that it is the policy that is missing.
fn not_in_force(policy: &str) -> String {
    format!("MutatingAdmissionPolicy {policy} is not in force yet; if this stays, look whether it is installed")
}

/// Another Canary that was there first and wants the same Deployment or Service.
fn rival(context: &Context, canary: &Canary) -> Option<String> {
    let age = |canary: &Canary| {
        let created = canary.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second());
        (created, canary.metadata.uid.clone())
    };
    let older = context.caches.canaries.find(|other| {
        other.metadata.namespace == canary.metadata.namespace
            && other.metadata.uid != canary.metadata.uid
            && age(other) < age(canary)
            && (other.spec.target_ref.name == canary.spec.target_ref.name
                || services::service_name(other) == services::service_name(canary))
    })?;
    let same_target = older.spec.target_ref.name == canary.spec.target_ref.name;
    let what = if same_target {
        format!("Deployment {}", canary.spec.target_ref.name)
    } else {
        format!("Service {}", services::service_name(canary))
    };
    Some(format!("{what} is managed by the older Canary {}; delete one of the two", older.name_any()))
}

fn pod_labels(template: &Value) -> std::collections::BTreeMap<String, String> {
    template
        .pointer("/metadata/labels")
        .and_then(|labels| serde_json::from_value(labels.clone()).ok())
        .unwrap_or_default()
}

async fn ensure_pool(context: &Context, world: &World) -> Result<bool, SetupError> {
    let client = &context.client;
    let pool = pool::ensure_default(client, &world.namespace, world.pool.as_deref()).await?;
    let objects = pool::build(&pool, &context.pool_settings());
    let cached = PoolCached::read(context, world);
    pool::ensure(client, &objects, &cached.seen()).await?;
    pool::mirror(client, &pool, &Table::parse(world.table.as_deref()), cached.deployment.as_ref()).await?;
    Ok(pool::is_ready(cached.deployment.as_ref(), &objects))
}

/// The pool's objects as the caches have them.
struct PoolCached {
    account: Option<Arc<ServiceAccount>>,
    config_map: Option<Arc<ConfigMap>>,
    budget: Option<Arc<PodDisruptionBudget>>,
    deployment: Option<Deployment>,
}

impl PoolCached {
    fn read(context: &Context, world: &World) -> Self {
        let namespace = world.namespace.as_str();
        Self {
            account: context.caches.pool_accounts.get(&ObjectRef::new(POOL_NAME).within(namespace)),
            config_map: context.caches.pool_config_maps.get(&ObjectRef::new(pool::CA_CONFIG_MAP).within(namespace)),
            budget: context.caches.pool_budgets.get(&ObjectRef::new(POOL_NAME).within(namespace)),
            deployment: world.pool_deployment.as_deref().and_then(typed),
        }
    }

    fn seen(&self) -> PoolSeen<'_> {
        PoolSeen {
            service_account: self.account.as_deref(),
            config_map: self.config_map.as_deref(),
            deployment: self.deployment.as_ref(),
            disruption_budget: self.budget.as_deref(),
        }
    }
}

fn typed(object: &DynamicObject) -> Option<Deployment> {
    serde_json::from_value(serde_json::to_value(object).ok()?).ok()
}

async fn ensure_table(context: &Context, world: &World, service: &Service) -> Result<Table, TableError> {
    let here = |namespace: Option<String>| namespace.as_deref() == Some(world.namespace.as_str());
    let canaries = context.caches.canaries.state_filter(|canary| here(canary.metadata.namespace.clone()));
    let live: BTreeSet<String> = canaries.iter().map(|canary| canary.name_any()).collect();
    let services: Vec<Arc<Service>> = if world.table.is_none() {
        context.caches.services.state_filter(|service| here(service.metadata.namespace.clone()))
    } else {
        Vec::new()
    };
    let services: Vec<&Service> = services.iter().map(AsRef::as_ref).collect();
    let entries = Entries::of(&world.canary, service);
    table::ensure(&context.client, &world.namespace, world.table.as_deref(), &services, &live, &entries).await
}

/// The bindings name every namespace with a Canary that has begun its set-up, but for `leaving` where it is the last.
///
/// # Errors
/// A call failed.
pub async fn ensure_bindings(context: &Context, leaving: Option<&Canary>) -> Result<(), ApiError> {
    let managed = || {
        let managed = context.caches.canaries.state_filter(|canary| {
            canary.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
                && leaving.is_none_or(|leaving| leaving.metadata.uid != canary.metadata.uid)
        });
        managed.iter().filter_map(|canary| canary.namespace()).collect()
    };
    let cached = |policy: &str| context.caches.bindings.get(&ObjectRef::new(policy));
    context.bindings.ensure(&context.client, managed, cached).await?;
    Ok(())
}

/// Asks the API server, without storing anything, whether a template change would come back paused.
async fn hold_works(context: &Context, world: &World) -> Result<bool, ApiError> {
    let Some(deployment) = &world.deployment else { return Ok(false) };
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &world.namespace, &apps("Deployment"));
    let probe = json!({
        "spec": { "template": { "metadata": { "annotations": { ANNOTATION_RESTARTED_AT: "sluice-probe" } } } }
    });
    let params = PatchParams { dry_run: true, ..PatchParams::default() };
    let act = format!("try the hold on Deployment {}", deployment.name_any());
    let answer = call(act, api.patch(&deployment.name_any(), &params, &Patch::Merge(probe))).await?;
    let paused = answer.data.pointer("/spec/paused").and_then(Value::as_bool).unwrap_or(false);
    let opted_out = deployment.annotations().get(crds::names::ANNOTATION_HOLD).map(String::as_str) == Some("off");
    Ok(paused || opted_out)
}
