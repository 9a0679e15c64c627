//! The writes of table, pool and Services against an API server in memory: what is asked of it, in which order, and
//! that a pass which was cut off is completed by the next.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod model;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crds::{Canary, ProxyPool};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use operator::{
    api::ApiError,
    pool::{self, PoolSeen, PoolSettings},
    services::{self, Routing, ServiceError},
    table::{self, Binding, Bindings, Entries, Table, TableError},
};
use serde_json::{Value, json};

use crate::model::Model;

const TABLE: &str = "/api/v1/namespaces/shop/configmaps/sluice-table";
const CONFIG_MAPS: &str = "/api/v1/namespaces/shop/configmaps";
const WEB: &str = "/api/v1/namespaces/shop/services/web";
const POOL: &str = "/apis/sluice.dev/v1beta1/namespaces/shop/proxypools/default";
const PROXIES: &str = "/apis/apps/v1/namespaces/shop/deployments/sluice-proxy";
const ACCOUNT: &str = "/api/v1/namespaces/shop/serviceaccounts/sluice-proxy";
const CA: &str = "/api/v1/namespaces/shop/configmaps/sluice-ca";
const BUDGET: &str = "/apis/policy/v1/namespaces/shop/poddisruptionbudgets/sluice-proxy";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings";

fn mk_canary(name: &str) -> Canary {
    serde_json::from_value(json!({
        "apiVersion": "sluice.dev/v1beta1", "kind": "Canary",
        "metadata": { "name": name, "namespace": "shop", "uid": name },
        "spec": { "targetRef": { "kind": "Deployment", "name": name }, "service": { "port": 80 } }
    }))
    .unwrap()
}

fn mk_service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "shop" },
        "spec": { "selector": { "app": name }, "ports": [{ "port": 80, "protocol": "TCP", "targetPort": 8080 }] }
    })
}

fn entries(name: &str) -> Entries {
    Entries::of(&mk_canary(name), &serde_json::from_value(mk_service(name)).unwrap())
}

fn live() -> BTreeSet<String> {
    BTreeSet::from(["web".to_owned(), "api".to_owned()])
}

async fn ensure_table(model: &Model, name: &str, cached: Option<&ConfigMap>) -> Result<Table, TableError> {
    table::ensure(&model.client(), "shop", cached, &[], &live(), &entries(name)).await
}

fn settings() -> PoolSettings {
    PoolSettings {
        image: "proxy".to_owned(),
        image_pull_policy: None,
        operator: "operator:9443".to_owned(),
        ca_bundle: "PEM".to_owned(),
        scrape: true,
    }
}

/// With a cache that is up to date.
async fn ensure_bindings(model: &Model, bindings: &Bindings, managed: &[&str]) -> Result<bool, ApiError> {
    let managed = || managed.iter().map(|name| (*name).to_owned()).collect();
    let cached = |name: &str| model.get::<Binding>(&format!("{BINDINGS}/{name}")).map(Arc::new);
    bindings.ensure(&model.client(), managed, cached).await
}

/// The route policy of the chart, in short: follows the table from the `since`th write on.
fn follow_table(model: &Model, since: usize) {
    model.set_policy(move |service, objects, write| {
        // Without its parameter a policy is not asked (`parameterNotFoundAction: Allow`).
        let Some(map) = objects.get(TABLE) else { return };
        let port = map["data"]["route.web.80.TCP"].as_str().and_then(|port| port.parse::<u16>().ok());
        let metadata = service["metadata"].clone();
        if metadata["name"] != "web" || write < since {
            return;
        }
        let (selector, target, annotations) = match port {
            Some(port) => (
                json!({ "sluice.dev/pool": "default" }),
                json!(port),
                json!({ "sluice.dev/selector": "app=web", "sluice.dev/target-ports": "80/TCP=8080" }),
            ),
            None => (json!({ "app": "web" }), json!(8080), json!({})),
        };
        service["spec"]["selector"] = selector;
        service["spec"]["ports"][0]["targetPort"] = target;
        service["metadata"]["annotations"] = annotations;
    });
}

#[tokio::test]
async fn two_operators_with_the_same_old_cache_never_give_one_port_twice() {
    let model = Model::default();
    let first = ensure_table(&model, "web", None).await.unwrap();
    assert!(matches!(ensure_table(&model, "api", None).await, Err(TableError::Retry)));
    let cached = model.get::<ConfigMap>(TABLE);
    let second = ensure_table(&model, "api", cached.as_ref()).await.unwrap();
    let stale = ensure_table(&model, "web", None).await;
    assert!(matches!(stale, Err(TableError::Retry)));
    assert_eq!(first.ports_of("web").values().collect::<Vec<_>>(), [&15_000]);
    assert_eq!(second.ports_of("web"), first.ports_of("web"));
    assert_eq!(second.ports_of("api").values().collect::<Vec<_>>(), [&15_001]);
    let stale_map = ensure_table(&model, "web", cached.as_ref()).await.unwrap();
    assert!(stale_map.ports_of("api").is_empty(), "an old cache that asks for nothing new writes nothing");
    assert_eq!(Table::parse(model.get::<ConfigMap>(TABLE).as_ref()), second);
}

#[tokio::test]
async fn a_namespace_that_goes_is_recognised_at_every_write_of_set_up() {
    let model = Model::default();
    model.put(WEB, mk_service("web"));
    model.leave();
    let client = model.client();
    let service: Service = model.get(WEB).unwrap();
    assert!(pool::ensure_default(&client, "shop", None).await.unwrap_err().is_leaving());
    let settings = pool::build(&ProxyPool::new("default", serde_json::from_value(json!({})).unwrap()), &settings());
    assert!(pool::ensure(&client, &settings, &PoolSeen::default()).await.unwrap_err().is_leaving());
    assert!(ensure_table(&model, "web", None).await.unwrap_err().is_leaving());
    let arms = services::arms(&mk_canary("web"), &BTreeMap::new(), &service, None);
    assert!(services::ensure(&client, &arms.primary, None).await.unwrap_err().is_leaving());
    assert_eq!(model.requests().len(), 4, "none is tried twice");
}

#[tokio::test]
async fn a_second_pass_asks_nothing_of_the_api_server() {
    let model = Model::default();
    model.put(WEB, mk_service("web"));
    let client = model.client();
    let service: Service = model.get(WEB).unwrap();
    let pool = pool::ensure_default(&client, "shop", None).await.unwrap();
    let objects = pool::build(&pool, &settings());
    let arms = services::arms(&mk_canary("web"), &BTreeMap::new(), &service, None);
    let table = ensure_table(&model, "web", None).await.unwrap();
    assert!(pool::ensure(&client, &objects, &PoolSeen::default()).await.unwrap());
    assert!(pool::mirror(&client, &pool, &table, None).await.unwrap());
    assert!(services::ensure(&client, &arms.primary, None).await.unwrap());
    assert!(ensure_bindings(&model, &Bindings::default(), &["shop"]).await.unwrap());
    assert_eq!(model.requests().len(), 10);

    let pool: ProxyPool = model.get(POOL).unwrap();
    let (account, ca, proxies, budget) = (model.get(ACCOUNT), model.get(CA), model.get(PROXIES), model.get(BUDGET));
    let seen = PoolSeen {
        service_account: account.as_ref(),
        config_map: ca.as_ref(),
        deployment: proxies.as_ref(),
        disruption_budget: budget.as_ref(),
    };
    let primary: Option<Service> = model.get(&format!("{WEB}-primary"));
    ensure_table(&model, "web", model.get::<ConfigMap>(TABLE).as_ref()).await.unwrap();
    assert_eq!(pool::ensure_default(&client, "shop", Some(&pool)).await.unwrap(), pool);
    assert!(!pool::ensure(&client, &pool::build(&pool, &settings()), &seen).await.unwrap());
    assert!(!pool::mirror(&client, &pool, &table, proxies.as_ref()).await.unwrap());
    assert!(!services::ensure(&client, &arms.primary, primary.as_ref()).await.unwrap());
    assert!(!ensure_bindings(&model, &Bindings::default(), &["shop"]).await.unwrap());
    assert_eq!(model.requests(), [""; 0]);
}

#[tokio::test]
async fn bindings_are_written_once_though_the_cache_lags() {
    let (model, bindings) = (Model::default(), Bindings::default());
    let lagging = |managed: &'static [&str]| {
        let (client, bindings) = (model.client(), &bindings);
        let managed = move || managed.iter().map(|name| (*name).to_owned()).collect();
        async move { bindings.ensure(&client, managed, |_| None).await }
    };
    let (first, second) = tokio::join!(lagging(&["shop"]), lagging(&["shop"]));
    assert_eq!((first.unwrap(), second.unwrap()), (true, false));
    assert!(lagging(&["shop", "web"]).await.unwrap());
    assert_eq!(model.requests().len(), 4);
    // Taken away by someone else: one conflict, then made anew.
    model.remove(&format!("{BINDINGS}/sluice-hold"));
    assert!(lagging(&["shop"]).await.is_err());
    assert!(lagging(&["shop"]).await.unwrap());
    assert!(model.get::<Binding>(&format!("{BINDINGS}/sluice-hold")).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_touch_is_repeated_until_the_policy_has_seen_the_table() {
    let model = Model::default();
    model.put(WEB, mk_service("web"));
    let table = ensure_table(&model, "web", None).await.unwrap();
    // Writes so far: the table. The first two touches meet an API server whose cache lags.
    follow_table(&model, 3);
    model.requests();
    let service: Service = model.get(WEB).unwrap();
    let routed = services::touch(&model.client(), &service, &table, Routing::Routed).await.unwrap();
    assert!(services::is_routed(&routed, &table));
    assert_eq!(model.requests(), [format!("PATCH {WEB}"), format!("PATCH {WEB}"), format!("PATCH {WEB}")]);
    services::touch(&model.client(), &routed, &table, Routing::Routed).await.unwrap();
    assert_eq!(model.requests(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_touch_without_a_policy_gives_up_in_time() {
    let model = Model::default();
    model.put(WEB, mk_service("web"));
    let table = ensure_table(&model, "web", None).await.unwrap();
    model.requests();
    let service: Service = model.get(WEB).unwrap();
    let error = services::touch(&model.client(), &service, &table, Routing::Routed).await.unwrap_err();
    assert!(matches!(error, ServiceError::NotYet { .. }));
    assert_eq!(model.requests().len(), 5);
}

/// One pass of a removal, from fresh reads.
async fn remove(model: &Model) -> Result<(), Box<dyn std::error::Error>> {
    let client = model.client();
    let canary = mk_canary("web");
    let service = model.get::<Service>(WEB);
    let table = table::release(&client, "shop", model.get(TABLE).as_ref(), &canary, service.as_ref()).await?;
    services::touch(&client, &model.get(WEB).unwrap(), &table, Routing::Restored).await?;
    if table::forget(&client, "shop", model.get(TABLE).as_ref(), &canary).await? {
        pool::remove(&client, "shop", model.get(POOL).as_ref()).await?;
    }
    ensure_bindings(model, &Bindings::default(), &[]).await?;
    Ok(())
}

/// A namespace with one Canary, set up and routed.
async fn adopted() -> Model {
    let model = Model::default();
    follow_table(&model, 0);
    model.put(WEB, mk_service("web"));
    let client = model.client();
    pool::ensure_default(&client, "shop", None).await.unwrap();
    let table = ensure_table(&model, "web", None).await.unwrap();
    ensure_bindings(&model, &Bindings::default(), &["shop"]).await.unwrap();
    let routed = services::touch(&client, &model.get(WEB).unwrap(), &table, Routing::Routed).await.unwrap();
    assert!(services::is_routed(&routed, &table));
    model
}

#[tokio::test(start_paused = true)]
async fn a_removal_is_completed_whichever_answer_was_lost() {
    let writes = 8;
    for lost in 0..=writes {
        let model = adopted().await;
        model.lose_answer_of_write(lost);
        let first = remove(&model).await;
        assert_eq!(first.is_err(), lost < writes, "write {lost}: {first:?}");
        remove(&model).await.unwrap();
        let service: Service = model.get(WEB).unwrap();
        assert!(services::is_restored(&service), "write {lost}");
        assert_eq!(service.spec.unwrap().selector, Some(BTreeMap::from([("app".to_owned(), "web".to_owned())])));
        for gone in [TABLE, POOL, &format!("{BINDINGS}/sluice-hold"), &format!("{BINDINGS}/sluice-route")] {
            assert_eq!(model.get::<Value>(gone), None, "write {lost}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_removal_is_completed_though_the_table_was_lost() {
    let model = adopted().await;
    model.remove(TABLE);
    remove(&model).await.unwrap();
    assert!(services::is_restored(&model.get(WEB).unwrap()));
    assert_eq!(model.get::<Value>(TABLE), None);
}

#[tokio::test]
async fn the_table_outlives_one_of_two_canaries() {
    let model = Model::default();
    ensure_table(&model, "web", None).await.unwrap();
    ensure_table(&model, "api", model.get::<ConfigMap>(TABLE).as_ref()).await.unwrap();
    let last = table::forget(&model.client(), "shop", model.get(TABLE).as_ref(), &mk_canary("web")).await.unwrap();
    assert!(!last);
    let left = model.get::<ConfigMap>(TABLE);
    assert_eq!(left.as_ref().unwrap().metadata.finalizers.as_deref(), Some(&["sluice.dev/finalizer".to_owned()][..]));
    assert_eq!(Table::parse(left.as_ref()).held.keys().collect::<Vec<_>>(), ["api"]);
}

#[tokio::test]
async fn a_canary_that_comes_while_the_last_one_goes_keeps_its_table() {
    let model = Model::default();
    ensure_table(&model, "web", None).await.unwrap();
    let cached = model.get::<ConfigMap>(TABLE);
    ensure_table(&model, "api", cached.as_ref()).await.unwrap();
    let forget = |cached: Option<ConfigMap>| {
        let client = model.client();
        async move { table::forget(&client, "shop", cached.as_ref(), &mk_canary("web")).await }
    };
    assert!(matches!(forget(cached.clone()).await, Err(TableError::Retry)));
    // The same between the two writes of the last one's going.
    let both = model.get::<Value>(TABLE).unwrap();
    model.put(TABLE, serde_json::to_value(&cached).unwrap());
    model.put_before_write(1, TABLE, both);
    assert!(matches!(forget(model.get(TABLE)).await, Err(TableError::Retry)));
    assert!(Table::parse(model.get::<ConfigMap>(TABLE).as_ref()).held.contains_key("api"));
}

#[tokio::test]
async fn a_pool_that_a_user_wrote_stays_without_proxies() {
    let model = Model::default();
    let client = model.client();
    model.put(
        POOL,
        json!({
            "apiVersion": "sluice.dev/v1beta1", "kind": "ProxyPool",
            "metadata": { "name": "default", "namespace": "shop" }, "spec": { "replicas": 3 }
        }),
    );
    let written = model.get::<ProxyPool>(POOL);
    let pool = pool::ensure_default(&client, "shop", written.as_ref()).await.unwrap();
    assert_eq!(pool.metadata.finalizers.as_deref(), Some(&["sluice.dev/finalizer".to_owned()][..]));
    pool::ensure(&client, &pool::build(&pool, &settings()), &PoolSeen::default()).await.unwrap();
    pool::remove(&client, "shop", Some(&pool)).await.unwrap();
    let left = model.get::<ProxyPool>(POOL).unwrap();
    assert_eq!((left.spec.replicas, left.metadata.finalizers), (3, Some(Vec::new())));
    for gone in [PROXIES, ACCOUNT, CA, BUDGET] {
        assert_eq!(model.get::<Value>(gone), None, "{gone}");
    }
    let others =
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "sluice-ca", "namespace": "shop" } });
    model.put(&format!("{CONFIG_MAPS}/sluice-ca"), others);
    pool::remove(&client, "shop", Some(&pool)).await.unwrap();
    assert!(model.get::<ConfigMap>(CA).is_some(), "what the pool does not own is someone else's");
}
