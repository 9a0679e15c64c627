//! Everything that one pass reads, from the caches, and how to read the objects that have no type here.

use std::{collections::BTreeMap, sync::Arc};

use crds::{
    Canary, ProxyPool,
    names::{ARM_LABEL, CANARY_LABEL, POD_TEMPLATE_HASH, POOL_DEFAULT, POOL_NAME, TABLE},
};
use k8s_openapi::api::{
    core::v1::{ConfigMap, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Resource, ResourceExt,
    api::{ApiResource, DynamicObject},
    core::GroupVersionKind,
    runtime::reflector::ObjectRef,
};
use rollout::Revision;
use serde_json::Value;

use crate::{caches::Caches, services};

/// Everything that one pass reads, taken from the caches at one moment.
pub struct World {
    /// The newer of the cached one and the one that we wrote last.
    pub canary: Arc<Canary>,
    /// Its namespace.
    pub namespace: String,
    /// The target; none: deleted, or not created yet.
    pub deployment: Option<Arc<DynamicObject>>,
    /// ReplicaSets of the Deployment, of the Canary, and orphans between the two.
    pub replica_sets: Vec<Arc<DynamicObject>>,
    /// The user's Service.
    pub service: Option<Arc<Service>>,
    /// Ours of the stable arm.
    pub primary_service: Option<Arc<Service>>,
    /// Ours of the canary arm.
    pub canary_service: Option<Arc<Service>>,
    /// Endpoints of the stable arm.
    pub stable_slices: Vec<Arc<EndpointSlice>>,
    /// Endpoints of the canary arm.
    pub canary_slices: Vec<Arc<EndpointSlice>>,
    /// ConfigMap of the admission table.
    pub table: Option<Arc<ConfigMap>>,
    /// The namespace's ProxyPool.
    pub pool: Option<Arc<ProxyPool>>,
    /// The Deployment of its proxies.
    pub pool_deployment: Option<Arc<DynamicObject>>,
    /// Proxies of the pool that are ready and not going: those that must acknowledge.
    pub live_proxies: Vec<Arc<Pod>>,
}

/// The resource of `apps/v1` with this kind.
#[must_use]
pub fn apps(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", kind))
}

impl World {
    /// Reads the caches for one Canary.
    #[must_use]
    pub fn read(caches: &Caches, canary: Arc<Canary>) -> Self {
        let namespace = canary.namespace().unwrap_or_default();
        let dynamic = |name: &str| ObjectRef::new_with(name, apps("Deployment")).within(&namespace);
        let deployment = caches.deployments.get(&dynamic(&canary.spec.target_ref.name));
        let service = |name: &str| caches.services.get(&ObjectRef::new(name).within(&namespace));
        let slices = |arm: &str| {
            caches.slices.state_filter(|slice| {
                slice.metadata.namespace.as_deref() == Some(namespace.as_str())
                    && slice.labels().get(CANARY_LABEL) == canary.metadata.name.as_ref()
                    && slice.labels().get(ARM_LABEL).map(String::as_str) == Some(arm)
            })
        };
        Self {
            replica_sets: replica_sets(caches, &canary, &namespace, deployment.as_deref()),
            service: service(services::service_name(&canary)),
            primary_service: service(&services::primary_name(&canary)),
            canary_service: service(&services::canary_name(&canary)),
            stable_slices: slices(proxy_api::metrics::ARM_STABLE),
            canary_slices: slices(proxy_api::metrics::ARM_CANARY),
            table: caches.tables.get(&ObjectRef::new(TABLE).within(&namespace)),
            pool: caches.pools.get(&ObjectRef::new(POOL_DEFAULT).within(&namespace)),
            pool_deployment: caches.deployments.get(&dynamic(POOL_NAME)),
            live_proxies: caches
                .proxies
                .state_filter(|pod| pod.metadata.namespace.as_deref() == Some(namespace.as_str()) && is_live(pod)),
            deployment,
            namespace,
            canary,
        }
    }

    /// The Deployment's template, raw.
    #[must_use]
    pub fn template(&self) -> Option<&Value> {
        self.deployment.as_ref()?.data.pointer("/spec/template")
    }

    /// The Deployment's `spec.selector.matchLabels`.
    #[must_use]
    pub fn selector(&self) -> BTreeMap<String, String> {
        self.deployment.as_ref().map(|deployment| match_labels(deployment)).unwrap_or_default()
    }

    /// The ReplicaSet that carries `revision`, whoever owns it.
    #[must_use]
    pub fn replica_set(&self, revision: &Revision) -> Option<&Arc<DynamicObject>> {
        self.replica_sets.iter().find(|set| hash(set) == Some(revision.0.as_str()))
    }

    /// ReplicaSets that the Canary owns.
    pub fn canary_owned(&self) -> impl Iterator<Item = &Arc<DynamicObject>> {
        self.replica_sets.iter().filter(|set| self.owned_by_canary(set))
    }

    /// ReplicaSets that the Deployment owns.
    pub fn deployment_owned(&self) -> impl Iterator<Item = &Arc<DynamicObject>> {
        let uid = self.deployment.as_ref().and_then(|deployment| deployment.uid());
        self.replica_sets.iter().filter(move |set| uid.is_some() && controller(set) == uid.as_deref())
    }

    pub(super) fn owned_by_canary(&self, set: &DynamicObject) -> bool {
        controller(set).is_some() && controller(set) == self.canary.metadata.uid.as_deref()
    }
}

/// `pod-template-hash` of a ReplicaSet.
#[must_use]
pub fn hash(set: &DynamicObject) -> Option<&str> {
    set.metadata.labels.as_ref()?.get(POD_TEMPLATE_HASH).map(String::as_str)
}

/// A number of an object, 0 where it is absent (as the API omits zeroes).
#[must_use]
pub fn number(object: &DynamicObject, pointer: &str) -> u32 {
    object.data.pointer(pointer).and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok()).unwrap_or(0)
}

/// Replicas that a Deployment or ReplicaSet asks for; the API's default is 1.
#[must_use]
pub fn replicas(object: &DynamicObject) -> u32 {
    match object.data.pointer("/spec/replicas") {
        Some(_) => number(object, "/spec/replicas"),
        None => 1,
    }
}

fn match_labels(deployment: &DynamicObject) -> BTreeMap<String, String> {
    let labels = deployment.data.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
    labels.into_iter().flatten().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

fn controller(set: &DynamicObject) -> Option<&str> {
    let owners = set.metadata.owner_references.as_deref()?;
    owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

fn replica_sets(
    caches: &Caches,
    canary: &Canary,
    namespace: &str,
    deployment: Option<&DynamicObject>,
) -> Vec<Arc<DynamicObject>> {
    let deployment_uid = deployment.and_then(|deployment| deployment.metadata.uid.as_deref());
    let selector = deployment.map(match_labels).unwrap_or_default();
    caches.replica_sets.state_filter(|set| {
        if set.metadata.namespace.as_deref() != Some(namespace) || set.metadata.deletion_timestamp.is_some() {
            return false;
        }
        match controller(set) {
            Some(uid) => Some(uid) == deployment_uid || Some(uid) == canary.metadata.uid.as_deref(),
            None => {
                let labels = set.metadata.labels.clone().unwrap_or_default();
                !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            }
        }
    })
}

fn is_live(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    pod.meta().deletion_timestamp.is_none()
        && conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
