//! The proxies of a namespace: objects built from its ProxyPool, and the few writes that keep them so.
//!
//! `build` and `limits` are pure, `status` says how far the pool is. The effects compare with the cached objects first: an idle pool costs no request.
//! The pool may not be taken away while a Service still sends traffic to it; the order is the caller's.

mod build;
mod limits;
mod status;

use std::collections::BTreeMap;

use crds::{
    ProxyPool, ProxyPoolSpec,
    names::{FIELD_MANAGER, FINALIZER, POOL_DEFAULT, POOL_NAME},
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, ServiceAccount},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};

pub use self::build::{CA_CONFIG_MAP, build};
pub use self::limits::limits;
pub use self::status::{is_ready, mirror};
use crate::api::{self, ApiError, call};

/// On each object of the pool: digest of what we applied. It shows a change that the comparison of fields cannot see: a
/// field that we no longer set.
const ANNOTATION_APPLIED: &str = "sluice.dev/applied";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// What the operator's own flags say about proxies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// Image of the proxies.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`; Kubernetes' default if absent.
    pub image_pull_policy: Option<String>,
    /// `host:port` under which proxies find every operator replica.
    pub operator: String,
    /// The operator's CA certificates, PEM.
    pub ca_bundle: String,
    /// Put the `prometheus.io/*` annotations on the proxies.
    pub scrape: bool,
}

/// The objects of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolObjects {
    /// Identity of the proxies; it has no rights, and no token of the API server is mounted.
    pub service_account: ServiceAccount,
    /// The operator's CA.
    pub config_map: ConfigMap,
    /// The proxies.
    pub deployment: Deployment,
    /// Lets a drained node take one proxy at a time.
    pub disruption_budget: PodDisruptionBudget,
}

/// The objects of a pool as cached.
#[derive(Clone, Copy, Debug, Default)]
pub struct PoolSeen<'a> {
    /// ServiceAccount `sluice-proxy`.
    pub service_account: Option<&'a ServiceAccount>,
    /// ConfigMap [`CA_CONFIG_MAP`].
    pub config_map: Option<&'a ConfigMap>,
    /// Deployment `sluice-proxy`.
    pub deployment: Option<&'a Deployment>,
    /// PodDisruptionBudget `sluice-proxy`.
    pub disruption_budget: Option<&'a PodDisruptionBudget>,
}

/// Sees to ProxyPool `default`: created if there is none (`seen` is the cached one), and with our finalizer, because
/// its deletion would take the proxies from under routed Services.
///
/// # Errors
/// As [`api::call`]; a conflict means that the cache is behind: start over.
pub async fn ensure_default(client: &Client, namespace: &str, seen: Option<&ProxyPool>) -> Result<ProxyPool, ApiError> {
    let pools = Api::<ProxyPool>::namespaced(client.clone(), namespace);
    let Some(seen) = seen else {
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        return call("create ProxyPool default", pools.create(&params, &default_pool(namespace))).await;
    };
    if seen.finalizers().iter().any(|finalizer| finalizer == FINALIZER) || seen.metadata.deletion_timestamp.is_some() {
        return Ok(seen.clone());
    }
    set_finalizers(&pools, seen, &[seen.finalizers(), &[FINALIZER.to_owned()]].concat()).await
}

fn default_pool(namespace: &str) -> ProxyPool {
    // The schema's own defaults speak for the fields that are left out.
    let spec = serde_json::from_value::<ProxyPoolSpec>(serde_json::json!({})).expect("every field has a default");
    ProxyPool {
        metadata: ObjectMeta {
            name: Some(POOL_DEFAULT.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(BTreeMap::from([(MANAGED_BY.to_owned(), FIELD_MANAGER.to_owned())])),
            finalizers: Some(vec![FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    }
}

async fn set_finalizers(
    pools: &Api<ProxyPool>,
    pool: &ProxyPool,
    finalizers: &[String],
) -> Result<ProxyPool, ApiError> {
    let patch = serde_json::json!({
        "metadata": { "resourceVersion": pool.resource_version(), "finalizers": finalizers }
    });
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    call("set the finalizer of ProxyPool default", pools.patch(POOL_DEFAULT, &params, &Patch::Merge(patch))).await
}

/// Applies the objects of a pool that are not as they should be, the identity first. True if something was written.
///
/// # Errors
/// As [`api::call`].
pub async fn ensure(client: &Client, objects: &PoolObjects, seen: &PoolSeen<'_>) -> Result<bool, ApiError> {
    let PoolObjects { service_account, config_map, deployment, disruption_budget } = objects;
    let account = ensure_one(client, service_account, seen.service_account).await?;
    let ca = ensure_one(client, config_map, seen.config_map).await?;
    let proxies = ensure_one(client, deployment, seen.deployment).await?;
    let budget = ensure_one(client, disruption_budget, seen.disruption_budget).await?;
    Ok(account || ca || proxies || budget)
}

async fn ensure_one<K>(client: &Client, desired: &K, seen: Option<&K>) -> Result<bool, ApiError>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    if seen.is_some_and(|seen| !is_outdated(desired, seen)) {
        return Ok(false);
    }
    let namespace = desired.namespace().unwrap_or_default();
    api::apply(&Api::<K>::namespaced(client.clone(), &namespace), desired).await?;
    Ok(true)
}

/// Quantities are compared by the digest alone: the API server rewrites `1000m` to `1`, and it would be written for ever.
fn is_outdated<K: Resource + Serialize>(desired: &K, seen: &K) -> bool {
    let applied = |object: &K| object.annotations().get(ANNOTATION_APPLIED).cloned();
    applied(desired) != applied(seen) || api::differs(&without_resources(desired), seen)
}

fn without_resources(object: &impl Serialize) -> serde_json::Value {
    let mut value = serde_json::to_value(object).expect("a Kubernetes object has a JSON form");
    let containers = value.pointer_mut("/spec/template/spec/containers").and_then(serde_json::Value::as_array_mut);
    for container in containers.into_iter().flatten() {
        container.as_object_mut().and_then(|container| container.remove("resources"));
    }
    value
}

/// Takes the pool away; for the namespace's last Canary, after the drain; `seen` is the cached ProxyPool. One that a user
/// wrote stays, without proxies. Idempotent.
///
/// # Errors
/// As [`api::call`]; a later pass goes on from there.
pub async fn remove(client: &Client, namespace: &str, seen: Option<&ProxyPool>) -> Result<(), ApiError> {
    let Some(pool) = seen else { return Ok(()) };
    let pools = Api::<ProxyPool>::namespaced(client.clone(), namespace);
    if pool.labels().get(MANAGED_BY).is_some_and(|manager| manager == FIELD_MANAGER) {
        // The garbage collector takes what it owns.
        api::delete(&pools, Some(pool)).await?;
    } else {
        remove_owned::<PodDisruptionBudget>(client, pool, POOL_NAME).await?;
        remove_owned::<Deployment>(client, pool, POOL_NAME).await?;
        remove_owned::<ConfigMap>(client, pool, CA_CONFIG_MAP).await?;
        remove_owned::<ServiceAccount>(client, pool, POOL_NAME).await?;
    }
    let others: Vec<_> = pool.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).cloned().collect();
    if others.len() < pool.finalizers().len() {
        drop_finalizer(&pools, &others).await?;
    }
    Ok(())
}

async fn remove_owned<K>(client: &Client, pool: &ProxyPool, name: &str) -> Result<(), ApiError>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let objects = Api::<K>::namespaced(client.clone(), &pool.namespace().unwrap_or_default());
    let found = call(format!("read {} {name}", K::kind(&())), objects.get_opt(name)).await?;
    let ours =
        found.filter(|found| found.owner_references().iter().any(|owner| Some(&owner.uid) == pool.uid().as_ref()));
    api::delete(&objects, ours.as_ref()).await?;
    Ok(())
}

/// Without a test of the version: the deletion just before has changed it.
async fn drop_finalizer(pools: &Api<ProxyPool>, others: &[String]) -> Result<(), ApiError> {
    let patch = Patch::Merge(serde_json::json!({ "metadata": { "finalizers": others } }));
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    match call("drop the finalizer of ProxyPool default", pools.patch(POOL_DEFAULT, &params, &patch)).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        build::fixtures::{mk_pool, mk_seen, mk_settings},
        *,
    };

    #[test]
    fn a_hand_edit_and_a_changed_setting_are_written_over_and_defaults_are_not() {
        let wanted = build(&mk_pool(json!({})), &mk_settings()).deployment;
        let container = "/spec/template/spec/containers/0";
        let defaulted = mk_seen(|value| {
            value["spec"]["revisionHistoryLimit"] = json!(10);
            value["spec"]["template"]["spec"]["dnsPolicy"] = json!("ClusterFirst");
            value.pointer_mut(container).unwrap()["resources"]["requests"]["cpu"] = json!("0.1");
        });
        assert!(!is_outdated(&wanted, &defaulted));
        let edited = mk_seen(|value| value.pointer_mut(container).unwrap()["image"] = json!("evil"));
        assert!(is_outdated(&wanted, &edited));
        let larger = build(&mk_pool(json!({ "resources": { "requests": { "cpu": "2" } } })), &mk_settings()).deployment;
        assert!(is_outdated(&larger, &mk_seen(|_| ())));
    }

    #[test]
    fn the_default_pool_has_two_proxies_and_our_mark() {
        let pool = default_pool("shop");
        assert_eq!(pool.spec.replicas, 2);
        assert_eq!(pool.labels()[MANAGED_BY], FIELD_MANAGER);
    }
}
