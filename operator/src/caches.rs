//! Watch caches of everything that a pass reads, and the wake-ups that their events cause.
//!
//! Every replica holds them, leader or not, so that it can serve routes and take over at once. Each watch has its own
//! stream and its own backoff: one that is forbidden or broken delays none of the others. Reads only.

use std::{fmt::Debug, hash::Hash};

use crds::{
    Canary, MetricTemplate, ProxyPool,
    names::{ARM_LABEL, CANARY_LABEL, POOL_LABEL, POOL_NAME, TABLE},
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
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DynamicObject},
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        reflector::{ObjectRef, Store, store::Writer},
        watcher,
    },
};
use serde::de::DeserializeOwned;

use crate::{pool::CA_CONFIG_MAP, services, wakes::Waker};

/// Seconds after which the server ends a watch; kube's own default, the longest that its idle timeout allows.
const WATCH_TIMEOUT_SECONDS: u32 = 290;
/// Objects per page of a list.
const PAGE_SIZE: u32 = 500;

/// The stores.
#[derive(Clone)]
pub struct Caches {
    pub canaries: Store<Canary>,
    pub deployments: Store<DynamicObject>,
    pub replica_sets: Store<DynamicObject>,
    pub services: Store<Service>,
    pub slices: Store<EndpointSlice>,
    pub tables: Store<ConfigMap>,
    pub pools: Store<ProxyPool>,
    pub proxies: Store<Pod>,
    pub pool_config_maps: Store<ConfigMap>,
    pub pool_accounts: Store<ServiceAccount>,
    pub pool_budgets: Store<PodDisruptionBudget>,
    pub templates: Store<MetricTemplate>,
    pub bindings: Store<MutatingAdmissionPolicyBinding>,
}

/// What an event of one kind wakes.
#[derive(Clone, Copy)]
enum Wakes {
    /// Canaries of the namespace whose target, Service or label the object's name or label is.
    Related,
    /// Every Canary of the namespace.
    Namespace,
    /// Every Canary.
    All,
}

/// Starts every watch. The future runs them all and ends only with the process.
pub fn start(client: &Client, waker: &Waker) -> (Caches, BoxFuture<'static, ()>) {
    let canaries = Writer::<Canary>::default();
    let reader = canaries.as_reader();
    let mut watches: Vec<BoxFuture<'static, ()>> = Vec::new();
    watches.push(Box::pin(watch_canaries(client.clone(), canaries, waker.clone())));

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
                        tracing::warn!(watch = name, error = %crate::telemetry::Chain(&error), "watch failed, retrying")
                    }
                }
            }
        }));
        store
    }
}

/// Like the other watches, but an object that cannot be decoded counts as it was when it last could be: its release
/// freezes, the others go on.
async fn watch_canaries(client: Client, mut writer: Writer<Canary>, waker: Waker) {
    let api = Api::<DeserializeGuard<Canary>>::all(client);
    let mut events = watcher(api, config()).default_backoff().boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => take(event, &mut writer, &waker),
            Err(error) => {
                tracing::warn!(watch = "canaries", error = %crate::telemetry::Chain(&error), "watch failed, retrying")
            }
        }
    }
}

/// Takes one event into the store and wakes whom it concerns. A list that begins anew sends no event for what has gone in
/// the meantime, so its end wakes that, too.
fn take(event: watcher::Event<DeserializeGuard<Canary>>, writer: &mut Writer<Canary>, waker: &Waker) {
    let store = writer.as_reader();
    let Some(event) = decoded(event, &store) else { return };
    let before = if matches!(event, watcher::Event::InitDone) { store.state() } else { Vec::new() };
    writer.apply_watcher_event(&event);
    match &event {
        watcher::Event::Apply(canary) | watcher::Event::Delete(canary) | watcher::Event::InitApply(canary) => {
            waker.wake(&ObjectRef::from_obj(canary));
        }
        watcher::Event::Init => {}
        watcher::Event::InitDone => {
            let keys = before.iter().map(|canary| ObjectRef::from_obj(canary.as_ref()));
            keys.filter(|key| store.get(key).is_none()).for_each(|key| waker.wake(&key));
        }
    }
}

fn decoded(event: watcher::Event<DeserializeGuard<Canary>>, store: &Store<Canary>) -> Option<watcher::Event<Canary>> {
    let object = |guard: DeserializeGuard<Canary>| {
        guard.0.map_or_else(|error| frozen(&error.metadata, &error.error, store), Some)
    };
    match event {
        watcher::Event::Apply(guard) => object(guard).map(watcher::Event::Apply),
        watcher::Event::Delete(guard) => object(guard).map(watcher::Event::Delete),
        watcher::Event::InitApply(guard) => object(guard).map(watcher::Event::InitApply),
        watcher::Event::Init => Some(watcher::Event::Init),
        watcher::Event::InitDone => Some(watcher::Event::InitDone),
    }
}

/// What the store holds of an object that cannot be decoded.
fn frozen(metadata: &ObjectMeta, error: &str, store: &Store<Canary>) -> Option<Canary> {
    let name = metadata.name.as_deref().unwrap_or_default();
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    tracing::error!(k8s.namespace.name = namespace, canary = name, error, "canary cannot be decoded, frozen");
    store.get(&ObjectRef::new(name).within(namespace)).map(|canary| Canary::clone(&canary))
}

/// Managed fields are most of a small object and are never read here.
fn prune<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    if let Some(annotations) = object.meta_mut().annotations.as_mut() {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

fn wake(waker: &Waker, canaries: &Store<Canary>, object: &ObjectMeta, wakes: Wakes) {
    let concerned = canaries.state_filter(|canary| match wakes {
        Wakes::All => true,
        Wakes::Namespace => canary.metadata.namespace == object.namespace,
        Wakes::Related => canary.metadata.namespace == object.namespace && is_related(canary, object),
    });
    for canary in concerned {
        waker.wake(&ObjectRef::from_obj(canary.as_ref()));
    }
}

fn is_related(canary: &Canary, object: &ObjectMeta) -> bool {
    let target = canary.spec.target_ref.name.as_str();
    let service = services::service_name(canary);
    let name = object.name.as_deref().unwrap_or_default();
    let owners = object.owner_references.as_deref().unwrap_or_default();
    let label = object.labels.as_ref().and_then(|labels| labels.get(CANARY_LABEL));
    name == target
        || name == service
        || name == crds::names::POOL_NAME
        || label.is_some_and(|label| *label == canary.name_any())
        || owners.iter().any(|owner| owner.name == target || Some(&owner.uid) == canary.metadata.uid.as_ref())
        // An orphan between the Canary and the Deployment.
        || (owners.is_empty() && name.starts_with(&format!("{target}-")))
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

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use serde_json::{Value, json};

    use super::*;

    fn mk_object(name: &str) -> Value {
        json!({
            "apiVersion": "sluice.dev/v1beta1", "kind": "Canary",
            "metadata": { "name": name, "namespace": "shop", "uid": name },
            "spec": { "targetRef": { "kind": "Deployment", "name": name }, "service": { "port": 80 } }
        })
    }

    fn good(name: &str) -> DeserializeGuard<Canary> {
        serde_json::from_value(mk_object(name)).unwrap()
    }

    fn bad(name: &str) -> DeserializeGuard<Canary> {
        let mut object = mk_object(name);
        object["spec"]["service"]["port"] = json!("eighty");
        serde_json::from_value(object).unwrap()
    }

    struct Watch {
        writer: Writer<Canary>,
        waker: Waker,
        wakes: crate::wakes::Wakes,
    }

    fn mk_watch() -> Watch {
        let (waker, mut wakes) = Waker::new(1);
        Watch { writer: Writer::default(), waker, wakes: wakes.remove(0) }
    }

    impl Watch {
        /// A list of `objects`; whom it wakes.
        fn list(&mut self, objects: Vec<DeserializeGuard<Canary>>) -> Vec<String> {
            let applies = objects.into_iter().map(watcher::Event::InitApply);
            let all: Vec<_> =
                [watcher::Event::Init].into_iter().chain(applies).chain([watcher::Event::InitDone]).collect();
            all.into_iter().flat_map(|event| self.take(event)).collect()
        }

        fn take(&mut self, event: watcher::Event<DeserializeGuard<Canary>>) -> Vec<String> {
            take(event, &mut self.writer, &self.waker);
            std::iter::from_fn(|| self.wakes.next().now_or_never()).map(|key| key.name).collect()
        }

        fn held(&self) -> Vec<String> {
            let mut names: Vec<_> = self.writer.as_reader().state().iter().map(|canary| canary.name_any()).collect();
            names.sort();
            names
        }
    }

    #[test]
    fn a_canary_that_went_between_two_lists_is_woken() {
        let mut watch = mk_watch();
        assert_eq!(watch.list(vec![good("web"), good("api")]), ["web", "api"]);
        assert_eq!(watch.list(vec![good("web")]), ["web", "api"]);
        assert_eq!(watch.held(), ["web"]);
        assert_eq!(watch.list(vec![good("web")]), ["web"]);
    }

    #[test]
    fn a_canary_that_cannot_be_decoded_stays_as_it_was_until_it_goes() {
        let mut watch = mk_watch();
        watch.list(vec![good("web")]);
        watch.take(watcher::Event::Apply(bad("web")));
        assert_eq!(watch.held(), ["web"]);
        watch.list(vec![bad("web"), bad("never-good")]);
        assert_eq!(watch.held(), ["web"], "a new list freezes it as an event does");
        assert_eq!(watch.take(watcher::Event::Delete(bad("web"))), ["web"]);
        assert!(watch.held().is_empty());
    }
}
