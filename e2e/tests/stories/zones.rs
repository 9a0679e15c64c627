//! Zone preference through all real parts: the node's label reaches the proxies by their own pods, and the endpoints by their
//! slices. There is one node, so its zone changes under the pods that run already.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use crds::names::POD_TEMPLATE_HASH;
use e2e::cluster::layout::NODE_NAME;
use e2e::proxies;
use e2e::visitor::Visitor;
use e2e::world::{SOON, Shop};
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::releases::until_proxies_hold;
use crate::story::Story;

pub(crate) async fn both_or_neither(story: Story) -> Result<()> {
    let told = tell(&story).await;
    // Whatever came of it: nobody else's pods are in a zone.
    put_node_in_zone(&story, None).await?;
    told
}

async fn tell(story: &Story) -> Result<()> {
    put_node_in_zone(story, Some("east")).await?;
    let mut manifests = story.manifests()?.analysis("stepWeights", json!([50])).analysis("interval", json!("60s"));
    manifests.canary["spec"]["service"]["trafficPolicy"] =
        json!({ "loadBalancer": { "localityLbSetting": { "enabled": true } } });
    let shop = story.shop(manifests).await?;
    until(&shop, "stable serves zone east", |port| {
        let locality = &port["locality"];
        (&locality["zone"], &locality["inForce"]) == (&json!("east"), &json!(true))
            && locality["stablePercent"] == 100.0
            && zones(port, "stable").iter().all(|zone| zone == "east")
    })
    .await?;

    shop.commit(|git| git.version("v2")).await?;
    let canary = shop.until_weight(50).await?;
    until_proxies_hold(&shop, 50).await?;
    until(&shop, "both versions serve zone east", |port| {
        let (locality, tested) = (&port["locality"], zones(port, "canary"));
        locality["stablePercent"] == 100.0
            && locality["canaryPercent"] == 100.0
            && !tested.is_empty()
            && tested.iter().all(|zone| zone == "east")
    })
    .await?;
    answers(&shop).await?;

    // A pod of the canary comes back in another zone, where no proxy is: what cannot stay in one version does not in the other.
    put_node_in_zone(story, Some("west")).await?;
    let revision = canary.status.and_then(|status| status.canary_revision).context("no canary revision")?;
    let pods = shop.app_pods().await?;
    let tested =
        pods.iter().find(|pod| pod.labels().get(POD_TEMPLATE_HASH) == Some(&revision)).context("no canary pod")?;
    shop.pods().delete(&tested.name_any(), &DeleteParams::default()).await?;
    until(&shop, "neither version prefers its zone", |port| {
        port["locality"]["inForce"] == false && zones(port, "canary").iter().any(|zone| zone == "west")
    })
    .await?;
    answers(&shop).await
}

/// Both versions answer, and well.
async fn answers(shop: &Shop) -> Result<()> {
    let mut visitor = Visitor::of(shop).await?;
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        let answer = visitor.get("/", &[]).await?;
        ensure!(answer.status.is_success(), "{answer:?}");
        seen.insert(answer.version().to_owned());
    }
    ensure!(seen.len() == 2, "only {seen:?} serve");
    Ok(())
}

/// The zones of an arm's endpoints.
fn zones(port: &Value, arm: &str) -> Vec<String> {
    let endpoints = port[arm].as_array().into_iter().flatten();
    endpoints.map(|endpoint| endpoint["zone"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Waits until every proxy says so of the port that is split.
async fn until(shop: &Shop, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<()> {
    let deadline = Instant::now() + SOON;
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    loop {
        tick.tick().await;
        let said = proxies::clusters(shop).await;
        let split = |ports: &Vec<Value>| ports.iter().find(|port| !port["locality"].is_null()).cloned();
        let said = said.map(|all| all.iter().map(split).collect::<Vec<_>>());
        let holds = |port: &Option<Value>| port.as_ref().is_some_and(&wanted);
        if said.as_ref().is_ok_and(|said| !said.is_empty() && said.iter().all(holds)) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "did not come true: {what}; the proxies say {said:?}");
    }
}

async fn put_node_in_zone(story: &Story, zone: Option<&str>) -> Result<()> {
    let nodes: Api<Node> = Api::all(story.world.client.clone());
    let patch = json!({ "metadata": { "labels": { "topology.kubernetes.io/zone": zone } } });
    nodes.patch(NODE_NAME, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}
