//! Living with what is there: adopting, removing, GitOps tools, pauses, webhooks and other ports.

use std::time::Duration;

use anyhow::{Result, ensure};
use crds::Phase;
use e2e::install::{self, Target};
use e2e::kubectl::{self, Side};
use e2e::manifests::Manifests;
use e2e::watching;
use e2e::webhook::TagWebhook;
use e2e::world::{RELEASE, SOON, Shop, message_of, phase_of, weight_of};
use k8s_openapi::api::apps::v1::DeploymentSpec;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use serde_json::json;

use crate::releases::{RPS, ensure_stable_serves, reason_of};
use crate::story::Story;

pub(crate) async fn adopt_and_remove(story: Story) -> Result<()> {
    let shop = story.bare_shop(story.manifests()?).await?;
    let load = shop.load(200).await?;
    let pods = shop.watch_pods().await?;
    let before = (pods.live(), pods.seen());
    shop.adopt().await?;
    let routed = shop.load(50).await?;
    watching_requests(&routed, 100).await;
    shop.remove_canary().await?;
    let after_removal = shop.load(50).await?;
    watching_requests(&after_removal, 100).await;
    let mut reports = Vec::new();
    for load in [load, routed, after_removal] {
        reports.push(load.stop().await);
    }
    ensure!((pods.live(), pods.seen()) == before, "pods moved: before {before:?}, after {:?}", pods.seen());
    story.say(&format!("0 pods moved by adoption and removal; {}", reports[0]));
    let lost: u64 = reports.iter().map(e2e::load::Report::lost).sum();
    ensure!(lost == 0, "lost requests: {reports:?}");
    let service = kubectl::kubectl(&["get", "service", &shop.name, "-n", &shop.namespace, "-o", "json"]).await?;
    let service: serde_json::Value = serde_json::from_str(&service)?;
    ensure!(
        service["spec"]["selector"] == json!({ "app": shop.name }),
        "the selector is {}",
        service["spec"]["selector"]
    );
    ensure!(!shop.is_paused().await?, "the Deployment is held without a Canary");
    Ok(())
}

pub(crate) async fn apply_and_diff_show_nothing(story: Story) -> Result<()> {
    for side in [Side::Client, Side::Server] {
        let shop = story.shop(story.manifests()?).await?;
        if side == Side::Server {
            // From now on Git is applied by the server; taking over the fields of the first apply is its one change.
            kubectl::run(
                &[
                    "apply",
                    "-n",
                    &shop.namespace,
                    "-f",
                    "-",
                    "--server-side",
                    "--field-manager=git",
                    "--force-conflicts",
                ],
                &shop.git().all(),
            )
            .await?;
        }
        nothing_changes(&shop, side, "Initialized").await?;
        let load = shop.load(RPS).await?;
        shop.commit_as(side, |git| git.version("v2")).await?;
        for weight in [10, 50] {
            shop.until_weight(weight).await?;
            nothing_changes(&shop, side, "Progressing").await?;
        }
        shop.until("handing over", RELEASE, |canary| {
            matches!(phase_of(canary), Phase::Promoting | Phase::Finalising | Phase::Succeeded)
        })
        .await?;
        nothing_changes(&shop, side, "Promoting").await?;
        shop.until_phase(Phase::Succeeded).await?;
        nothing_changes(&shop, side, "Succeeded").await?;
        shop.commit_as(side, |git| git.version("errors")).await?;
        shop.until_phase(Phase::Failed).await?;
        nothing_changes(&shop, side, "Failed").await?;
        load.stop().await;
    }
    Ok(())
}

/// `kubectl diff` reads an object twice and `state` does too: what the operator or a controller writes in between looks
/// like a difference once. What Git and the cluster disagree about is there each time.
async fn nothing_changes(shop: &Shop, side: Side, phase: &str) -> Result<()> {
    const ATTEMPTS: usize = 4;
    let mut attempt = 1;
    loop {
        match nothing_changed(shop, side).await {
            Err(error) if attempt == ATTEMPTS => return Err(error.context(format!("{phase}, {ATTEMPTS} times"))),
            Err(_) => attempt += 1,
            unchanged => return unchanged,
        }
    }
}

async fn nothing_changed(shop: &Shop, side: Side) -> Result<()> {
    let manifests = shop.git().all();
    let diff = kubectl::diff(&shop.namespace, &manifests, side).await?;
    ensure!(diff.is_empty(), "kubectl diff ({side:?}) shows\n{diff}");
    let before = state(shop).await?;
    kubectl::apply(&shop.namespace, &manifests, side).await?;
    let after = state(shop).await?;
    ensure!(before == after, "kubectl apply ({side:?}) changed something: {before:?} → {after:?}");
    Ok(())
}

/// What an apply could change and nothing else does meanwhile: the Service as a whole, the Deployment's spec but for the
/// hold, which the operator may take away at any time, and the generation of the Canary.
async fn state(shop: &Shop) -> Result<(String, Option<DeploymentSpec>, Option<i64>)> {
    let service = ["get", "service", &shop.name, "-n", &shop.namespace, "-o", "jsonpath={.metadata.resourceVersion}"];
    let service = kubectl::kubectl(&service).await?;
    let deployment = shop.deployment().await?.spec.map(|spec| DeploymentSpec { paused: None, ..spec });
    Ok((service, deployment, shop.canary().await?.metadata.generation))
}

pub(crate) async fn second_port(story: Story) -> Result<()> {
    let manifests = with_echo_port(story.manifests()?);
    let shop = story.bare_shop(manifests).await?;
    let address = shop.address(9090).await?;
    let probe = e2e::echo::Probe::start(address);
    shop.adopt().await?;
    let load = shop.load(RPS).await?;
    shop.commit(|git| git.version("v2")).await?;
    shop.until_weight(25).await?;
    let mut fresh = e2e::echo::Probe::start(address);
    fresh.rounds(20).await?;
    shop.until_phase(Phase::Succeeded).await?;
    shop.until_available().await?;
    fresh.rounds(20).await?;
    shop.remove_canary().await?;
    let report = load.stop().await;
    let (rounds, broken) = probe.stop().await;
    story.say(&format!("{rounds} echoes on the second port, {broken} failed; {report}"));
    ensure!(rounds > 20, "only {rounds} echoes");
    ensure!(broken == 0, "{broken} echoes failed");
    ensure!(report.lost() == 0, "lost requests: {report}");
    Ok(())
}

pub(crate) fn with_echo_port(mut manifests: Manifests) -> Manifests {
    let ports = &mut manifests.service["spec"]["ports"];
    let is_there = ports.as_array().is_some_and(|ports| ports.iter().any(|port| port["port"] == 9090));
    if let (false, Some(ports)) = (is_there, ports.as_array_mut()) {
        ports.push(json!({ "name": "echo", "port": 9090, "targetPort": 9090 }));
    }
    manifests
}

pub(crate) async fn native_restart(story: Story) -> Result<()> {
    let shop = story.shop(story.manifests()?).await?;
    let load = shop.load(RPS).await?;
    let timeline = shop.timeline();
    let pods = shop.watch_pods().await?;
    let before = pods.live();
    kubectl::kubectl(&["rollout", "restart", "deployment", &shop.name, "-n", &shop.namespace]).await?;
    kubectl::kubectl(&["rollout", "status", "deployment", &shop.name, "-n", &shop.namespace, "--timeout=90s"]).await?;
    shop.until_available().await?;
    let restarted = shop.app_pods().await?.iter().filter_map(|pod| pod.metadata.name.clone()).collect::<Vec<_>>();
    ensure!(restarted.iter().all(|pod| !before.contains(pod)), "not every pod was restarted");
    ensure!(timeline.weights().iter().all(|weight| *weight == 0), "a release ran: {:?}", timeline.moments());
    let report = load.stop().await;
    ensure!(report.lost() == 0, "lost requests: {report}");
    // The next change is judged again.
    let load = shop.load(RPS).await?;
    shop.commit(|git| git.version("v2")).await?;
    shop.until_weight(10).await?;
    load.stop().await;
    Ok(())
}

pub(crate) async fn younger_canary_is_refused(story: Story) -> Result<()> {
    let shop = story.shop(story.manifests()?).await?;
    let mut second = shop.git().canary;
    second["metadata"]["name"] = json!("younger");
    kubectl::apply(&shop.namespace, &second.to_string(), Side::Client).await?;
    let refused = |canary: &crds::Canary| reason_of(canary) == "Refused";
    let canary =
        watching::until(shop.canaries(), "younger", "refused", SOON, refused, |canary| format!("{:?}", canary.status))
            .await?;
    let message = message_of(&canary);
    story.say(&format!("said: {message}"));
    ensure!(message.contains(&shop.name), "the message does not name the older Canary: {message}");
    let stalled = canary.status.iter().flat_map(|status| &status.conditions);
    ensure!(stalled.into_iter().any(|c| c.type_ == "Stalled" && c.status == "True"), "no condition Stalled");
    // The older one goes on undisturbed.
    let load = shop.load(RPS).await?;
    shop.commit(|git| git.version("v2")).await?;
    shop.until_phase(Phase::Succeeded).await?;
    load.stop().await;
    Ok(())
}

pub(crate) async fn paused_by_git(story: Story) -> Result<()> {
    let shop = story.shop(story.manifests()?).await?;
    let load = shop.load(RPS).await?;
    let paused = |mut git: Manifests| {
        git.deployment["spec"]["paused"] = json!(true);
        git.version("v2")
    };
    shop.commit(paused).await?;
    let canary = shop.until("said", SOON, |canary| reason_of(canary) == "PausedByManifest").await?;
    story.say(&format!("said: {}", message_of(&canary)));
    ensure!(shop.is_paused().await?, "the Deployment was unpaused");
    ensure!(weight_of(&canary) == 0, "a paused target got traffic");
    // Git lets go, and the release runs.
    shop.commit(|mut git| {
        if let Some(spec) = git.deployment["spec"].as_object_mut() {
            spec.remove("paused");
        }
        git
    })
    .await?;
    shop.until_phase(Phase::Succeeded).await?;
    let report = load.stop().await;
    ensure!(report.lost() == 0, "lost requests: {report}");
    Ok(())
}

pub(crate) async fn webhook_edit_is_held(story: Story) -> Result<()> {
    let shop = story.shop(story.manifests()?).await?;
    let load = shop.load(RPS).await?;
    let timeline = shop.timeline();
    let pods = shop.watch_pods().await?;
    let before = pods.live();
    // From now on every write of a Deployment in this namespace gets an environment variable into its template.
    let webhook = TagWebhook::install(&shop, "edited-by-webhook").await?;
    shop.commit(|mut git| {
        git.deployment["metadata"]["labels"]["touched"] = json!("yes");
        git
    })
    .await?;
    let deployment = shop.deployment().await?;
    let edited = serde_json::to_string(&deployment.spec)?.contains("edited-by-webhook");
    ensure!(edited, "the webhook did not edit the template");
    ensure!(shop.is_paused().await?, "the webhook's edit was not held");
    ensure!(before.is_subset(&pods.live()), "the webhook's edit moved pods");
    shop.until_phase(Phase::Succeeded).await?;
    ensure!(timeline.weights().starts_with(&[0, 10, 25, 50, 100]), "weights went {:?}", timeline.weights());
    webhook.remove().await?;
    let report = load.stop().await;
    ensure!(report.lost() == 0, "lost requests: {report}");
    ensure_stable_serves(&story, &shop, "v1").await
}

/// Waits until a load has sent so many requests.
pub(crate) async fn watching_requests(load: &e2e::load::Load, requests: u64) {
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    while load.report().requests < requests {
        tick.tick().await;
    }
}

pub(crate) async fn namespace_goes(story: Story) -> Result<()> {
    let shop = story.shop(story.manifests()?).await?;
    shop.commit(|git| git.version("v2")).await?;
    shop.until_phase(Phase::Progressing).await?;
    kubectl::kubectl(&["delete", "namespace", &shop.namespace, "--wait=false"]).await?;
    let namespaces: Api<Namespace> = Api::all(story.world.client.clone());
    e2e::watching::gone(namespaces, &shop.namespace, RELEASE).await?;
    let logs = e2e::operator::logs().await?;
    let loud: Vec<&str> = logs
        .lines()
        .filter(|line| line.contains(&shop.namespace) && (line.contains("WARN") || line.contains("ERROR")))
        .collect();
    story.say(&format!("the operator complained {} times", loud.len()));
    // A write may cross with the deletion of what it is about, once; every pass must not.
    ensure!(loud.len() <= 3, "the operator complained {} times: {}", loud.len(), loud[..5.min(loud.len())].join("\n"));
    Ok(())
}

pub(crate) async fn uninstall_leaves_nothing(story: Story) -> Result<()> {
    let idle = story.shop(story.manifests()?).await?;
    let failed = story.shop(story.manifests()?).await?;
    let busy = story.shop(story.manifests()?).await?;
    let load = failed.load(RPS).await?;
    failed.commit(|git| git.version("errors")).await?;
    failed.until_phase(Phase::Failed).await?;
    let rolled_back = load.stop().await;
    let shops = [&idle, &failed, &busy];
    let mut loads = Vec::new();
    for shop in shops {
        loads.push(shop.load(RPS).await?);
    }
    let pods = failed.watch_pods().await?;
    let before = pods.seen();
    busy.commit(|git| git.version("v2")).await?;
    busy.until_weight(10).await?;
    tokio::task::spawn_blocking(|| install::uninstall_chart(&Target::Local)).await??;
    let left = left_alone(&shops).await;
    let mut lost = 0;
    for (shop, load) in shops.iter().zip(loads) {
        let report = load.stop().await;
        story.say(&format!("{}: {report}", shop.namespace));
        lost += report.lost();
    }
    // The stories after this one need it, whatever was found.
    tokio::task::spawn_blocking(|| install::install_chart(&Target::Local, crate::story::METRICS_SERVER)).await??;
    left?;
    ensure!(lost == 0, "lost requests");
    ensure!(pods.seen() == before, "uninstalling shipped what was not judged: {rolled_back}, then {:?}", pods.seen());
    Ok(())
}

/// What users find after an uninstall: their Services' own selectors, and no Deployment paused.
async fn left_alone(shops: &[&Shop]) -> Result<()> {
    for shop in shops {
        let service = ["get", "service", &shop.name, "-n", &shop.namespace, "-o", "jsonpath={.spec.selector}"];
        let selector = kubectl::kubectl(&service).await?;
        ensure!(selector == format!("{{\"app\":\"{}\"}}", shop.name), "the selector is {selector}");
        ensure!(!shop.is_paused().await?, "a Deployment is held without an operator");
    }
    Ok(())
}
