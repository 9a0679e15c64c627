//! Watch caches of everything that a pass reads, and the wake-ups that their events cause.
//!
//! Every replica holds them, leader or not, so that it can serve routes and take over at once. Each watch has its own
//! stream and its own backoff: one that is forbidden or broken delays none of the others. Reads only. The watch of Canaries is in
//! `canaries`, whom the events of other objects concern in `concerned`.

mod canaries;
mod concerned;

use std::{fmt::Debug, hash::Hash};

use crds::{
    Canary, MetricTemplate, ProxyPool,
    names::{ARM_LABEL, POOL_LABEL, POOL_NAME, TABLE},
};
use futures::{StreamExt, future::BoxFuture};
use k8s_openapi::{
    api::{
        admissionregistration::v1::MutatingAdmissionPolicyBinding,
        core::v1::{ConfigMap, Pod, Service, ServiceAccount},
        discovery::v1::EndpointSlice,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject},
    runtime::{
        WatchStreamExt,
        reflector::{Store, store::Writer},
        watcher,
    },
};
use serde::de::DeserializeOwned;

use self::concerned::{Wakes, wake};
use crate::{pool::CA_CONFIG_MAP, telemetry::Chain, wakes::Waker};

/// Seconds after which the server ends a watch; kube's own default, the longest that its idle timeout allows.
const WATCH_TIMEOUT_SECONDS: u32 = 290;
/// Objects per page of a list.
const PAGE_SIZE: u32 = 500;

/// The stores.
#[derive(Clone)]
pub struct Caches {
    /// Of all namespaces, as every store.
    pub canaries: Store<Canary>,
    /// As raw JSON, so that no field of a template is lost.
    pub deployments: Store<DynamicObject>,
    /// As raw JSON, too.
    pub replica_sets: Store<DynamicObject>,
    /// The users' and ours.
    pub services: Store<Service>,
    /// Of the Services of arms only.
    pub slices: Store<EndpointSlice>,
    /// The admission tables, one a namespace.
    pub tables: Store<ConfigMap>,
    /// Those that users wrote, too.
    pub pools: Store<ProxyPool>,
    /// Pods of the pools.
    pub proxies: Store<Pod>,
    /// The CA as the pools have it.
    pub pool_config_maps: Store<ConfigMap>,
    /// Service accounts of the pools.
    pub pool_accounts: Store<ServiceAccount>,
    /// PodDisruptionBudgets of the pools.
    pub pool_budgets: Store<PodDisruptionBudget>,
    /// Users' own queries.
    pub templates: Store<MetricTemplate>,
    /// Every binding of the cluster; ours are two.
    pub bindings: Store<MutatingAdmissionPolicyBinding>,
}

/// Starts every watch. The future runs them all and ends only with the process.
pub fn start(client: &Client, waker: &Waker) -> (Caches, BoxFuture<'static, ()>) {
    let canaries = Writer::<Canary>::default();
    let reader = canaries.as_reader();
    let mut watches: Vec<BoxFuture<'static, ()>> = Vec::new();
    watches.push(Box::pin(canaries::watch(client.clone(), canaries, waker.clone())));

    let mut start = Start { client, waker, canaries: &reader, watches: &mut watches };
    let apps = |kind: &str| ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk("apps", "v1", kind));
    let labelled = |label: &str| config().labels(label);
    // By name: RBAC can limit a watch to a name, not to a label.
    let named = |name: &str| config().fields(&format!("metadata.name={name}"));
    let caches = Caches {
        canaries: reader.clone(),
        deployments: start.dynamic("deployments", &apps("Deployment"), config(), Wakes::Related),
        replica_sets: start.dynamic("replicasets", &apps("ReplicaSet"), config(), Wakes::Related),
        services: start.typed("services", config(), Wakes::Related),
        slices: start.typed("endpointslices", labelled(ARM_LABEL), Wakes::Related),
        tables: start.typed("tables", named(TABLE), Wakes::Namespace),
        pools: start.typed("proxypools", config(), Wakes::Namespace),
        proxies: start.typed("proxies", labelled(POOL_LABEL), Wakes::Namespace),
        pool_config_maps: start.typed("pool configmaps", named(CA_CONFIG_MAP), Wakes::Namespace),
        pool_accounts: start.typed("pool serviceaccounts", named(POOL_NAME), Wakes::Namespace),
        pool_budgets: start.typed("pool poddisruptionbudgets", named(POOL_NAME), Wakes::Namespace),
        templates: start.typed("metrictemplates", config(), Wakes::Namespace),
        bindings: start.typed("bindings", config(), Wakes::All),
    };
    (caches, Box::pin(async move { drop(futures::future::join_all(watches).await) }))
}

impl Caches {
    /// Waits until every store has been filled once.
    pub async fn ready(&self) {
        let Self {
            canaries,
            deployments,
            replica_sets,
            services,
            slices,
            tables,
            pools,
            proxies,
            pool_config_maps,
            pool_accounts,
            pool_budgets,
            templates,
            bindings,
        } = self;
        // A dropped writer means that the process is going down; the caller's select ends then.
        let filled: Vec<BoxFuture<'_, bool>> = vec![
            Box::pin(filled(canaries)),
            Box::pin(filled(deployments)),
            Box::pin(filled(replica_sets)),
            Box::pin(filled(services)),
            Box::pin(filled(slices)),
            Box::pin(filled(tables)),
            Box::pin(filled(pools)),
            Box::pin(filled(proxies)),
            Box::pin(filled(pool_config_maps)),
            Box::pin(filled(pool_accounts)),
            Box::pin(filled(pool_budgets)),
            Box::pin(filled(templates)),
            Box::pin(filled(bindings)),
        ];
        futures::future::join_all(filled).await;
    }
}

async fn filled<K>(store: &Store<K>) -> bool
where
    K: Resource + Clone + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    store.wait_until_ready().await.is_ok()
}

fn config() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_TIMEOUT_SECONDS).page_size(PAGE_SIZE)
}

struct Start<'a> {
    client: &'a Client,
    waker: &'a Waker,
    canaries: &'a Store<Canary>,
    watches: &'a mut Vec<BoxFuture<'static, ()>>,
}

impl Start<'_> {
    fn typed<K>(&mut self, name: &'static str, config: watcher::Config, wakes: Wakes) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        self.add(name, Api::all(self.client.clone()), Writer::default(), config, wakes)
    }

    fn dynamic(
        &mut self,
        name: &'static str,
        resource: &ApiResource,
        config: watcher::Config,
        wakes: Wakes,
    ) -> Store<DynamicObject> {
        let api = Api::all_with(self.client.clone(), resource);
        self.add(name, api, Writer::new(resource.clone()), config, wakes)
    }

    fn add<K>(
        &mut self,
        name: &'static str,
        api: Api<K>,
        mut writer: Writer<K>,
        config: watcher::Config,
        wakes: Wakes,
    ) -> Store<K>
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        K::DynamicType: Eq + Hash + Clone + Send + Sync,
    {
        let store = writer.as_reader();
        let (waker, canaries) = (self.waker.clone(), self.canaries.clone());
        self.watches.push(Box::pin(async move {
            let mut events = watcher(api, config).modify(prune).default_backoff().boxed();
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => {
                        writer.apply_watcher_event(&event);
                        match &event {
                            watcher::Event::Apply(object)
                            | watcher::Event::Delete(object)
                            | watcher::Event::InitApply(object) => wake(&waker, &canaries, object.meta(), wakes),
                            watcher::Event::Init => {}
                            // Of what has gone since the list before there is no other sign.
                            watcher::Event::InitDone => wake(&waker, &canaries, &ObjectMeta::default(), Wakes::All),
                        }
                    }
                    Err(error) => {
                        tracing::warn!(watch = name, error = %Chain(&error), "watch failed, retrying")
                    }
                }
            }
        }));
        store
    }
}

/// Managed fields are most of a small object and are never read here.
fn prune<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    if let Some(annotations) = object.meta_mut().annotations.as_mut() {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

/// Resources that are watched, as the health check names them.
pub const WATCHED: [&str; 10] = [
    "canaries",
    "configmaps",
    "deployments",
    "endpointslices",
    "metrictemplates",
    "mutatingadmissionpolicybindings",
    "pods",
    "proxypools",
    "replicasets",
    "services",
];
