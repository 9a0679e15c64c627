//! Releases that end well, releases that end badly, and what Git may do in between.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use crds::Phase;
use e2e::load::Report;
use e2e::prometheus;
use e2e::watching::Moment;
use e2e::world::{RELEASE, Shop, message_of, phase_of, weight_of};
use serde_json::json;

use crate::story::Story;

/// Requests per second where the rate itself is not the point.
pub(crate) const RPS: u32 = 60;

pub(crate) async fn promoted(story: Story) -> Result<()> {
    // With everything on that is on by default.
    // How long latencies take to be told apart depends on how they vary on this machine; what is promised here does not.
    let verdict = json!({ "mode": "enforce", "maxStepSeconds": 20 });
    let shop = story.shop(story.manifests()?.analysis("verdict", verdict)).await?;
    let load = shop.load(500).await?;
    let (timeline, pods) = (shop.timeline(), shop.watch_pods().await?);
    let committed = shop.commit(|git| git.version("v2")).await?;
    let canary = shop.until_phase(Phase::Succeeded).await?;
    let took = committed.elapsed();
    shop.until_available().await?;
    let revision = canary.status.and_then(|status| status.canary_revision).context("no canary revision")?;

    let weights = timeline.weights();
    ensure!(weights.starts_with(&[0, 10, 25, 50, 100]), "weights went {weights:?}");
    let judged: BTreeSet<String> =
        pods.seen().into_iter().filter(|(_, hash)| *hash == revision).map(|(name, _)| name).collect();
    let serving: BTreeSet<String> = pods.live();
    ensure!(judged == serving, "judged were {judged:?}, serving are {serving:?}");
    ensure!(!shop.is_paused().await?, "the Deployment is still held");

    let first = timeline.first(|moment| moment.weight == 10).context("no weight")?;
    let ready = pods.first_ready(&revision).context("no canary pod became ready")?;
    let lag = first.at.saturating_duration_since(ready);
    let report = load.stop().await;
    story.say(&format!("{report}"));
    story.say(&format!(
        "first weight {:.2} s after the commit, {:.2} s after the first canary pod was ready (bar 1 s); promoted after {:.1} s",
        (first.at - committed).as_secs_f64(),
        lag.as_secs_f64(),
        took.as_secs_f64()
    ));
    ensure!(report.lost() == 0, "lost requests: {report}");
    ensure!(lag <= Duration::from_secs(1), "the first weight came {lag:?} after the pod was ready");
    Ok(())
}

pub(crate) async fn longest_names(story: Story) -> Result<()> {
    // As long as a Service's name and a label's value may be: `-primary` and the ReplicaSets' hashes find no room.
    let name = format!("web{}", "x".repeat(crds::names::LABEL_MAX - 3));
    let shop = story.shop(story.manifests()?.named(&name)).await?;
    let load = shop.load(RPS).await?;
    shop.commit(|git| git.version("v2")).await?;
    shop.until_phase(Phase::Succeeded).await?;
    shop.until_available().await?;
    ensure_stable_serves(&story, &shop, "v2").await?;
    shop.remove_canary().await?;
    let report = load.stop().await;
    story.say(&format!("{report}"));
    ensure!(report.lost() == 0, "lost requests: {report}");
    Ok(())
}

pub(crate) async fn errors_roll_back(story: Story) -> Result<()> {
    let shop = story.shop(story.manifests()?.analysis("threshold", json!(1))).await?;
    let load = shop.load(200).await?;
    let timeline = shop.timeline();
    shop.commit(|git| git.version("errors")).await?;
    // The query that the operator asks, watched from outside.
    let query = prometheus::success_rate(&shop.namespace, &shop.name);
    let breach = prometheus::first(&query, RELEASE, |percent| percent < 99.0).await?;
    let cleared = all_proxies_at_zero(&shop).await?;
    let canary = shop.until_phase(Phase::Failed).await?;
    let lag = cleared.saturating_duration_since(breach);
    let report = load.stop().await;
    story.say(&format!(
        "breach visible → weight 0 on every proxy: {:.2} s (bar: interval 1 s + 2 s)",
        lag.as_secs_f64()
    ));
    story.say(&format!("{report}"));
    story.say(&format!("said: {}", message_of(&canary)));
    ensure!(lag <= Duration::from_secs(3), "weight 0 came {lag:?} after the breach");
    ensure!(weight_of(&canary) == 0, "the weight is {}", weight_of(&canary));
    ensure!(report.broken() == 0, "requests broke: {report}");
    let highest = timeline.weights().into_iter().max().unwrap_or(0);
    ensure!(highest < 100, "a version with 5 % errors got all traffic");
    ensure_stable_serves(&story, &shop, "v1").await
}

pub(crate) async fn latency_rolls_back(story: Story) -> Result<()> {
    let range = json!([{ "name": "request-duration", "thresholdRange": { "max": 500 } }]);
    let shop = story.shop(story.manifests()?.analysis("metrics", range)).await?;
    let load = shop.load(RPS).await?;
    shop.commit(|git| git.version("slow")).await?;
    let canary = shop.until_phase(Phase::Failed).await?;
    let report = load.stop().await;
    story.say(&format!("said: {}", message_of(&canary)));
    ensure!(message_of(&canary).contains("request-duration"), "the reason names no metric: {}", message_of(&canary));
    ensure!(report.lost() == 0, "lost requests: {report}");
    ensure_stable_serves(&story, &shop, "v1").await
}

pub(crate) async fn crash_looping(story: Story) -> Result<()> {
    never_gets_traffic(story, "crash", &["crash", "CrashLoopBackOff", "Error", "exit"]).await
}

pub(crate) async fn never_ready(story: Story) -> Result<()> {
    never_gets_traffic(story, "unready", &["ready", "Ready", "readiness"]).await
}

pub(crate) async fn unpullable(story: Story) -> Result<()> {
    never_gets_traffic(story, "missing", &["ImagePull", "pull"]).await
}

async fn never_gets_traffic(story: Story, tag: &str, words: &[&str]) -> Result<()> {
    const DEADLINE_SECONDS: u64 = 15;
    let manifests = story.manifests()?.canary_spec("progressDeadlineSeconds", json!(DEADLINE_SECONDS));
    let shop = story.shop(manifests).await?;
    let load = shop.load(RPS).await?;
    let timeline = shop.timeline();
    // From before the commit: kubectl may take its time to return.
    let committed = Instant::now();
    shop.commit(|git| git.version(tag)).await?;
    let canary = shop.until_phase(Phase::Failed).await?;
    let took = committed.elapsed();
    let report = load.stop().await;
    let message = message_of(&canary);
    story.say(&format!("rolled back {:.1} s after the commit: {message}", took.as_secs_f64()));
    ensure!(timeline.weights().iter().all(|weight| *weight == 0), "weights went {:?}", timeline.weights());
    ensure!(report.lost() == 0 && report.of(tag) == 0, "{report}");
    ensure!(words.iter().any(|word| message.contains(word)), "the reason does not say what is wrong: {message}");
    ensure!(took >= Duration::from_secs(DEADLINE_SECONDS), "rolled back before the deadline");
    ensure!(took <= Duration::from_secs(DEADLINE_SECONDS + 15), "rolled back {took:?} after the commit");
    ensure_stable_serves(&story, &shop, "v1").await
}

pub(crate) async fn revert_while_held(story: Story) -> Result<()> {
    let shop = story.shop(story.manifests()?).await?;
    let load = shop.load(RPS).await?;
    let pods = shop.watch_pods().await?;
    let before = pods.live();
    shop.commit(|git| git.version("v2")).await?;
    shop.until_weight(10).await?;
    shop.commit(|git| git.version("v1")).await?;
    shop.until("the revert", RELEASE, |canary| reason_of(canary) == "Reverted").await?;
    until_unpaused(&shop).await?;
    shop.until_available().await?;
    let report = load.stop().await;
    let left: BTreeSet<String> = shop.app_pods().await?.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
    ensure!(before.is_subset(&left), "stable pods were moved: before {before:?}, after {left:?}");
    ensure!(report.lost() == 0, "lost requests: {report}");
    Ok(())
}

pub(crate) async fn newest_template_wins(story: Story) -> Result<()> {
    let shop = story.shop(story.manifests()?).await?;
    let load = shop.load(RPS).await?;
    let timeline = shop.timeline();
    shop.commit(|git| git.version("v2")).await?;
    let first = shop.until_weight(10).await?;
    let first = first.status.and_then(|status| status.canary_revision).context("no canary revision")?;
    shop.commit(|git| git.version("v3")).await?;
    let canary = shop.until_phase(Phase::Succeeded).await?;
    shop.until_available().await?;
    let last = canary.status.and_then(|status| status.canary_revision).context("no canary revision")?;
    ensure!(first != last, "the first template was promoted");
    let fresh: Vec<Moment> =
        timeline.moments().into_iter().filter(|moment| moment.canary_revision.as_ref() == Some(&last)).collect();
    let mut weights: Vec<i32> = fresh.iter().map(|moment| moment.weight).collect();
    weights.dedup();
    ensure!(weights.starts_with(&[0, 10]), "the newest template went {weights:?}");
    let report = load.stop().await;
    ensure!(report.lost() == 0, "lost requests: {report}");
    ensure_stable_serves(&story, &shop, "v3").await
}

pub(crate) async fn two_quick_commits(story: Story) -> Result<()> {
    let shop = story.shop(story.manifests()?).await?;
    let load = shop.load(RPS).await?;
    shop.commit(|git| git.version("v2")).await?;
    shop.commit(|git| git.version("v3")).await?;
    let wanted = shop.git().deployment["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    shop.until_phase(Phase::Succeeded).await?;
    shop.until_available().await?;
    for pod in shop.app_pods().await? {
        let images = pod.spec.map(|spec| spec.containers).unwrap_or_default();
        let image = images.first().and_then(|container| container.image.clone());
        ensure!(image.as_deref() == wanted.as_str(), "a pod runs {image:?}");
    }
    let report = load.stop().await;
    ensure!(report.lost() == 0, "lost requests: {report}");
    Ok(())
}

pub(crate) async fn split_is_exact(story: Story) -> Result<()> {
    // One long step: the weight stays where it is while the requests are counted.
    let manifests = story.manifests()?.analysis("stepWeights", json!([10])).analysis("interval", json!("60s"));
    let shop = story.shop(manifests).await?;
    shop.commit(|git| git.version("v2")).await?;
    shop.until_weight(10).await?;
    until_proxies_hold(&shop, 10).await?;
    // The load begins at this weight and every answer is waited for: one still under way would be missed on its arm.
    let load = shop.load(200).await?;
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    while load.report().requests < 1_000 {
        tick.tick().await;
    }
    let report = load.stop().await;
    let off = (report.share("v2") - 10.0).abs();
    story.say(&format!("off by {off:.2} points after {} requests at weight 10 (bar 0.2)", report.requests));
    ensure!(off <= 0.2, "the split is off by {off} points: {report}");
    ensure!(report.lost() == 0, "lost requests: {report}");
    Ok(())
}

/// The next `requests` requests, and as many as it takes to notice.
async fn sample(load: &e2e::load::Load, requests: u64) -> Report {
    let before = load.report();
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    loop {
        tick.tick().await;
        let since = load.report().since(&before);
        if since.requests >= requests {
            return since;
        }
    }
}

/// When every proxy of the pool has gone back to weight 0 after it had more.
async fn all_proxies_at_zero(shop: &Shop) -> Result<Instant> {
    until_proxies_hold(shop, 0).await?;
    Ok(Instant::now())
}

/// Waits until every proxy of the pool reports this weight.
pub(crate) async fn until_proxies_hold(shop: &Shop, weight: i32) -> Result<()> {
    let deadline = Instant::now() + RELEASE;
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    loop {
        tick.tick().await;
        let weights = e2e::proxies::weights(shop).await?;
        if !weights.is_empty() && weights.iter().all(|held| *held == Some(weight)) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the proxies hold {weights:?}, not {weight}");
    }
}

/// After a release: the Deployment's pods all run `version`, and so do answers.
pub(crate) async fn ensure_stable_serves(story: &Story, shop: &Shop, version: &str) -> Result<()> {
    let load = shop.load(RPS).await?;
    let report = sample(&load, 60).await;
    let rest = load.stop().await;
    ensure!(report.of(version) == report.requests, "not only {version} serves: {report}");
    ensure!(rest.lost() == 0, "lost requests: {rest}");
    let phase = phase_of(&shop.canary().await?);
    story.say(&format!("{version} serves, phase {phase:?}"));
    Ok(())
}

/// Waits until the Deployment is no longer held.
pub(crate) async fn until_unpaused(shop: &Shop) -> Result<()> {
    let is_running = |deployment: &k8s_openapi::api::apps::v1::Deployment| {
        !deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false)
    };
    let api = shop.deployments();
    e2e::watching::until(api, &shop.name, "the hold is gone", RELEASE, is_running, |_| "paused".to_owned()).await?;
    Ok(())
}

pub(crate) fn reason_of(canary: &crds::Canary) -> String {
    canary.status.as_ref().map(|status| status.reason.clone()).unwrap_or_default()
}

pub(crate) fn revision_of(canary: &crds::Canary) -> Option<String> {
    canary.status.as_ref().and_then(|status| status.canary_revision.clone())
}
