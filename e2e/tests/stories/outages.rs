//! Parts that go away: the operator, proxies, Prometheus, the API server, Slack, the traffic itself.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use crds::Phase;
use e2e::kubectl::{self, Side};
use e2e::load::Failure;
use e2e::slack::Behaviour;
use e2e::watching::{self, is_ready};
use e2e::world::{RELEASE, SOON, Shop, message_of, phase_of, weight_of};
use e2e::{operator, processes, proxies};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;

use crate::adoption::watching_requests;
use crate::releases::{RPS, ensure_stable_serves, reason_of};
use crate::story::Story;

pub(crate) async fn operator_killed(story: Story) -> Result<()> {
    let shop = story.shop(story.manifests()?).await?;
    let load = shop.load(RPS).await?;
    shop.commit(|git| git.version("v2")).await?;
    for (what, wanted) in MILESTONES {
        shop.until(what, RELEASE, wanted).await?;
        let killed = operator::kill_all().await?;
        story.say(&format!("killed {killed} processes: {what}"));
    }
    shop.until_phase(Phase::Succeeded).await?;
    shop.until_available().await?;
    ensure_stable_serves(&story, &shop, "v2").await?;
    // A rollback survives it too.
    shop.commit(|git| git.version("errors")).await?;
    shop.until_weight(10).await?;
    operator::kill_all().await?;
    shop.until_phase(Phase::Failed).await?;
    operator::kill_all().await?;
    let report = load.stop().await;
    story.say(&format!("{report}"));
    ensure!(report.broken() == 0, "requests broke: {report}");
    // And so does a removal.
    kubectl::kubectl(&["delete", "canary", &shop.name, "-n", &shop.namespace, "--wait=false"]).await?;
    operator::kill_all().await?;
    // A lease that nobody gave back is waited for, then the proxies drain.
    e2e::watching::gone(shop.canaries(), &shop.name, RELEASE).await?;
    ensure_stable_serves_without_canary(&shop).await
}

type Wanted = fn(&crds::Canary) -> bool;

const MILESTONES: [(&str, Wanted); 6] = [
    ("the release has begun", |canary| phase_of(canary) != Phase::Initialized),
    ("weight 10", |canary| weight_of(canary) >= 10),
    ("weight 50", |canary| weight_of(canary) >= 50),
    ("weight 100", |canary| weight_of(canary) >= 100),
    ("handing over", |canary| matches!(phase_of(canary), Phase::Promoting | Phase::Finalising | Phase::Succeeded)),
    ("the old pods are going", |canary| matches!(phase_of(canary), Phase::Finalising | Phase::Succeeded)),
];

async fn ensure_stable_serves_without_canary(shop: &Shop) -> Result<()> {
    let load = shop.load(RPS).await?;
    watching_requests(&load, 60).await;
    let report = load.stop().await;
    ensure!(report.lost() == 0, "lost requests: {report}");
    Ok(())
}

pub(crate) async fn operator_away(story: Story) -> Result<()> {
    const AWAY: Duration = Duration::from_secs(60);
    let shop = story.shop(story.manifests()?).await?;
    let load = shop.load(RPS).await?;
    operator::scale(0).await?;
    let gone = Instant::now();
    let pods = shop.watch_pods().await?;
    let before = pods.live();
    shop.commit(|git| git.version("v2")).await?;
    ensure!(shop.is_paused().await?, "a commit was not held while the operator was away");
    // Git applies again, as tools do each few minutes.
    kubectl::apply(&shop.namespace, &shop.git().all(), Side::Client).await?;
    tokio::time::sleep_until((gone + AWAY).into()).await;
    ensure!(pods.live() == before, "pods moved while the operator was away");
    ensure!(shop.is_paused().await?, "the hold did not last");
    let away = load.report();
    operator::scale(2).await?;
    shop.until_phase(Phase::Succeeded).await?;
    let report = load.stop().await;
    story.say(&format!("60 s without an operator: {away}; with the release after it: {report}"));
    ensure!(report.lost() == 0, "lost requests: {report}");
    Ok(())
}

pub(crate) async fn proxies_killed_and_rolled(story: Story) -> Result<()> {
    let shop = story.shop(story.manifests()?).await?;
    let load = shop.load(200).await?;
    watching_requests(&load, 200).await;
    // Deleted, as a node drain does it.
    let first = shop.proxies().await?.first().map(ResourceExt::name_any).context("there is no proxy")?;
    kubectl::kubectl(&["delete", "pod", &first, "-n", &shop.namespace, "--wait=true"]).await?;
    operator::until_pool_ready(&shop).await?;
    let killed = load.report();
    kubectl::kubectl(&["rollout", "restart", "deployment", crds::names::POOL_NAME, "-n", &shop.namespace]).await?;
    let pool = ["rollout", "status", "deployment", crds::names::POOL_NAME, "-n", &shop.namespace, "--timeout=120s"];
    kubectl::kubectl(&pool).await?;
    watching_requests(&load, load.report().requests + 400).await;
    let report = load.stop().await;
    story.say(&format!("a proxy ended: {killed}; pool rolled too: {report}"));
    ensure!(report.lost() == 0, "lost requests: {report}");
    Ok(())
}

/// What dies with a process cannot be saved, and is counted: the requests that it was carrying. Connections are refused
/// until the cluster leaves the pod out or the kubelet has restarted it; nothing was sent on those, but the load does not
/// try again, so they count too.
pub(crate) async fn proxy_killed(story: Story) -> Result<()> {
    let mut manifests = story.manifests()?;
    // At 100 requests a second some twenty are always under way.
    manifests.deployment["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{ "name": "LATENCY_MS", "value": "200" }]);
    let shop = story.shop(manifests).await?;
    let load = shop.load(100).await?;
    watching_requests(&load, 200).await;
    let victim = proxies::busiest(&shop).await?;
    let before = load.report();
    processes::kill_in_pod("/sluice-proxy", &victim).await?;
    // A timer fires after the sockets that became ready before it: from here on every connection knows.
    tokio::time::sleep(Duration::from_millis(10)).await;
    let in_flight = load.report().begun - before.requests;
    let killed = Instant::now();
    let is_back = |pod: &Pod| is_ready(pod) && restarts(pod) > 0;
    let shown = |pod: &Pod| format!("restarted {} times", restarts(pod));
    watching::until(shop.pods(), &victim, "the proxy is back", SOON, is_back, shown).await?;
    let after = until_nothing_is_lost(&load).await?;
    let settled = killed.elapsed();
    load.stop().await;

    let harm = after.since(&before);
    let broken = harm.failed(Failure::Reset) + harm.failed(Failure::Timeout);
    story.say(&format!(
        "of {in_flight} requests in flight at the kill {broken} broke, {} connections were refused until the pod was out \
         or back, nothing after that ({:.1} s with the look at it): {harm}",
        harm.failed(Failure::Connect),
        settled.as_secs_f64()
    ));
    ensure!(broken > 0, "nothing was in flight in the process that was killed: this story shows nothing");
    ensure!(broken <= in_flight, "{broken} requests broke, only {in_flight} were in flight: {harm}");
    ensure!(harm.server_errors == 0, "a proxy answered for one that is dead: {harm}");
    Ok(())
}

fn restarts(pod: &Pod) -> i32 {
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    containers.iter().map(|container| container.restart_count).sum()
}

/// The first report after which 400 requests in a row are answered.
async fn until_nothing_is_lost(load: &e2e::load::Load) -> Result<e2e::load::Report> {
    let deadline = Instant::now() + SOON;
    loop {
        let from = load.report();
        watching_requests(load, from.requests + 400).await;
        let lost = load.report().since(&from);
        if lost.lost() == 0 {
            return Ok(from);
        }
        ensure!(Instant::now() < deadline, "requests are still lost: {lost}");
    }
}

pub(crate) async fn leader_hands_over(story: Story) -> Result<()> {
    operator::scale(2).await?;
    let shop = story.shop(story.manifests()?).await?;
    let load = shop.load(RPS).await?;
    let timeline = shop.timeline();
    shop.commit(|git| git.version("v2")).await?;
    shop.until_weight(10).await?;
    let old = operator::leader(&story.world).await?.context("nobody leads")?;
    kubectl::kubectl(&["delete", "pod", &old.pod, "-n", crds::names::SYSTEM_NAMESPACE, "--wait=false"]).await?;
    let new = operator::next_leader(&story.world, &old.pod).await?;
    let handed_over = Instant::now();
    shop.until_phase(Phase::Succeeded).await?;
    operator::scale(2).await?;
    let report = load.stop().await;
    story.say(&format!(
        "{} leads {:.1} s before the lease of {} would have run out; {report}",
        new.pod,
        (old.until_ms - new.since_ms) as f64 / 1_000.0,
        old.pod
    ));
    // The old one may have renewed after it was looked at, so that its lease ran even longer.
    ensure!(new.since_ms < old.until_ms, "the lease was not handed over, it ran out");
    let full = timeline.first(|moment| moment.weight == 100).context("no full weight")?;
    ensure!(full.at > handed_over, "the release was over before the lease was handed over");
    let weights = timeline.weights();
    ensure!(weights.starts_with(&[0, 10, 25, 50, 100]), "weights went {weights:?}");
    ensure!(report.lost() == 0, "lost requests: {report}");
    Ok(())
}

pub(crate) async fn prometheus_away(story: Story) -> Result<()> {
    const AWAY: Duration = Duration::from_secs(120);
    let shop = story.shop(story.manifests()?).await?;
    let load = shop.load(RPS).await?;
    let timeline = shop.timeline();
    shop.commit(|git| git.version("v2")).await?;
    shop.until_weight(10).await?;
    story.world.cluster.stop_prometheus();
    let gone = Instant::now();
    let canary = shop.until("it says so", SOON, |canary| reason_of(canary) == "NoEvidence").await?;
    let held_at = weight_of(&canary);
    story.say(&format!("said: {}", message_of(&canary)));
    tokio::time::sleep_until((gone + AWAY).into()).await;
    let canary = shop.canary().await?;
    let outcome = (phase_of(&canary), weight_of(&canary));
    story.world.cluster.start_prometheus()?;
    ensure!(outcome == (Phase::Progressing, held_at), "without Prometheus it went to {outcome:?}");
    shop.until_phase(Phase::Succeeded).await?;
    let report = load.stop().await;
    story.say(&format!("held at weight {held_at} for 120 s, then {:?}; {report}", timeline.weights()));
    ensure!(report.lost() == 0, "lost requests: {report}");
    Ok(())
}

pub(crate) async fn no_traffic_holds(story: Story) -> Result<()> {
    const QUIET: Duration = Duration::from_secs(20);
    let shop = story.shop(story.manifests()?).await?;
    shop.commit(|git| git.version("v2")).await?;
    let canary = shop.until("it says so", RELEASE, |canary| reason_of(canary) == "NoEvidence").await?;
    story.say(&format!("said: {}", message_of(&canary)));
    let weight = weight_of(&canary);
    tokio::time::sleep(QUIET).await;
    let canary = shop.canary().await?;
    let outcome = (phase_of(&canary), weight_of(&canary));
    ensure!(outcome == (Phase::Progressing, weight), "without traffic it went to {outcome:?}");
    ensure!(weight == 10, "without traffic the weight rose to {weight}");
    let load = shop.load(RPS).await?;
    shop.until_phase(Phase::Succeeded).await?;
    load.stop().await;
    Ok(())
}

pub(crate) async fn hanging_slack(story: Story) -> Result<()> {
    let receiver =
        e2e::slack::Receiver::serve(tokio::net::TcpListener::bind((e2e::cluster::layout::NODE_ADDRESS, 0)).await?)?;
    receiver.behave(Behaviour::Hang);
    let mut manifests = story
        .manifests()?
        .analysis("alerts", json!([{ "name": "team", "severity": "info", "providerRef": { "name": "team" } }]));
    manifests.others.push(json!({
        "apiVersion": "sluice.dev/v1beta1", "kind": "AlertProvider", "metadata": { "name": "team" },
        "spec": { "type": "slack", "channel": "#releases", "address": format!("http://{}/hang", receiver.address()) },
    }));
    let shop = story.shop(manifests).await?;
    let load = shop.load(RPS).await?;
    let committed = shop.commit(|git| git.version("v2")).await?;
    shop.until_phase(Phase::Succeeded).await?;
    let hung = committed.elapsed();
    ensure!(!receiver.messages().is_empty(), "nothing was sent to Slack");
    receiver.behave(Behaviour::Take);
    let committed = shop.commit(|git| git.version("v3")).await?;
    shop.until("the next release", RELEASE, |canary| phase_of(canary) == Phase::Progressing).await?;
    shop.until_phase(Phase::Succeeded).await?;
    let free = committed.elapsed();
    story.say(&format!(
        "a release took {:.1} s with Slack hanging, {:.1} s with it answering",
        hung.as_secs_f64(),
        free.as_secs_f64()
    ));
    // Were messages waited for, seven of them would take five seconds each.
    ensure!(hung <= free + Duration::from_secs(20), "a hanging Slack delayed the release: {hung:?} against {free:?}");
    let report = load.stop().await;
    ensure!(report.lost() == 0, "lost requests: {report}");
    Ok(())
}

pub(crate) async fn api_server_restarts(story: Story) -> Result<()> {
    let shop = story.shop(story.manifests()?).await?;
    let load = shop.load(RPS).await?;
    let pods = shop.watch_pods().await?;
    let before = pods.live();
    let next = shop.git().version("v2");
    let texts = (next.deployment.to_string(), next.service.to_string());
    let world = story.world.clone();
    tokio::task::spawn_blocking(move || world.cluster.restart_apiserver()).await??;
    // At once: the policies and their parameters are barely loaded.
    let deployment = kubectl::apply(&shop.namespace, &texts.0, Side::Client).await;
    let service = kubectl::apply(&shop.namespace, &texts.1, Side::Server).await;
    deployment.context("the Deployment was refused")?;
    if let Err(error) = service {
        ensure!(format!("{error:#}").contains("conflict"), "the Service was refused: {error:#}");
    }
    ensure!(shop.is_paused().await?, "the template change was not held");
    let service: serde_json::Value = serde_json::from_str(
        &kubectl::kubectl(&["get", "service", &shop.name, "-n", &shop.namespace, "-o", "json"]).await?,
    )?;
    ensure!(
        service["spec"]["selector"][crds::names::POOL_LABEL].is_string(),
        "the Service is not routed: {}",
        service["spec"]["selector"]
    );
    ensure!(before.is_subset(&pods.live()), "stable pods moved");
    shop.until_phase(Phase::Succeeded).await?;
    let report = load.stop().await;
    story.say(&format!("{report}"));
    ensure!(report.lost() == 0, "lost requests: {report}");
    Ok(())
}
