//! Replicas that change in mid-release and inside the adoption window, and commits that land there.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use crds::Phase;
use e2e::world::{RELEASE, SOON, Shop, phase_of};
use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::ResourceExt as _;
use serde_json::json;

use crate::releases::{RPS, ensure_stable_serves, revision_of};
use crate::story::Story;

pub(crate) async fn scale_reaches_both_arms(story: Story) -> Result<()> {
    // Time enough at weight 50 to pause it there.
    let manifests =
        story.manifests()?.replicas(4).analysis("stepWeights", json!([50, 100])).analysis("interval", json!("15s"));
    let shop = story.shop(manifests).await?;
    let load = shop.load(RPS).await?;
    shop.commit(|git| git.version("v2")).await?;
    let canary = shop.until_weight(50).await?;
    let revision = revision_of(&canary).context("no revision")?;
    shop.annotate(crds::names::ANNOTATION_PAUSE, Some(&revision)).await?;
    let before = sizes(&shop, &revision).await?;
    shop.scale(8).await?;
    let after = until_sizes(&shop, &revision, |stable, canary| stable == 8 && canary > before.1).await?;
    story.say(&format!(
        "replicas stable/canary: {}/{} → {}/{} after scaling 4 → 8",
        before.0, before.1, after.0, after.1
    ));
    shop.scale(4).await?;
    until_sizes(&shop, &revision, |stable, _| stable == 4).await?;
    shop.annotate(crds::names::ANNOTATION_PAUSE, None).await?;
    shop.until_phase(Phase::Succeeded).await?;
    shop.until_available().await?;
    let report = load.stop().await;
    ensure!(report.lost() == 0, "lost requests: {report}");
    ensure_stable_serves(&story, &shop, "v2").await
}

pub(crate) async fn scale_in_adoption_window(story: Story) -> Result<()> {
    for (from, to) in [(4, 8), (8, 4)] {
        let shop = story.shop(story.manifests()?.replicas(from)).await?;
        let load = shop.load(RPS).await?;
        shop.commit(|git| git.version("v2")).await?;
        shop.until("the adoption", RELEASE, |canary| phase_of(canary) == Phase::Promoting).await?;
        shop.scale(to).await?;
        shop.until_phase(Phase::Succeeded).await?;
        shop.until_available().await?;
        let report = load.stop().await;
        story.say(&format!("{from} → {to}: {report}"));
        ensure!(report.lost() == 0, "{from} → {to} lost requests: {report}");
        let replicas = shop.deployment().await?.spec.and_then(|spec| spec.replicas);
        ensure!(replicas == Some(to), "the Deployment has {replicas:?} replicas, not {to}");
        ensure_stable_serves(&story, &shop, "v2").await?;
    }
    Ok(())
}

pub(crate) async fn commit_in_adoption_window(story: Story) -> Result<()> {
    let shop = story.shop(story.manifests()?).await?;
    let load = shop.load(RPS).await?;
    let timeline = shop.timeline();
    shop.commit(|git| git.version("v2")).await?;
    let second = shop.until("the adoption", RELEASE, |canary| phase_of(canary) == Phase::Promoting).await?;
    let second = revision_of(&second);
    shop.commit(|git| git.version("errors")).await?;
    // It is judged as any other release, and fails.
    shop.until("the third version is rolled back", RELEASE, |canary| {
        phase_of(canary) == Phase::Failed && revision_of(canary) != second
    })
    .await?;
    let report = load.stop().await;
    let highest = timeline
        .moments()
        .iter()
        .filter(|moment| moment.canary_revision.is_some() && moment.canary_revision != second)
        .map(|moment| moment.weight)
        .max();
    story.say(&format!("the commit inside the window reached weight {highest:?} and was rolled back; {report}"));
    ensure!(highest.is_some_and(|weight| weight < 100), "the third version reached {highest:?}");
    ensure!(report.broken() == 0, "requests broke: {report}");
    until_only_judged_runs(&shop).await?;
    ensure_stable_serves(&story, &shop, "v2").await
}

/// The refused version's pods go when no proxy sends them anything any more, which is a moment after the rollback.
async fn until_only_judged_runs(shop: &Shop) -> Result<()> {
    let deadline = Instant::now() + SOON;
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tick.tick().await;
        let bad = shop.replica_sets().await?.into_iter().find(|set| {
            let replicas = set.status.as_ref().map_or(0, |status| status.replicas);
            replicas > 0 && image_of(set).is_some_and(|image| image.ends_with(":errors"))
        });
        let Some(bad) = bad else { return Ok(()) };
        ensure!(Instant::now() < deadline, "{} still runs pods of the bad version", bad.name_any());
    }
}

fn image_of(set: &ReplicaSet) -> Option<String> {
    set.spec.as_ref()?.template.as_ref()?.spec.as_ref()?.containers.first()?.image.clone()
}

/// Replicas asked for, of the stable sets together and of the canary's.
async fn sizes(shop: &Shop, revision: &str) -> Result<(i32, i32)> {
    let sets = shop.replica_sets().await?;
    let is_canary =
        |set: &&ReplicaSet| set.labels().get(crds::names::POD_TEMPLATE_HASH).is_some_and(|hash| hash == revision);
    let of = |set: &ReplicaSet| set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
    let canary = sets.iter().find(is_canary).map(of).context("there is no canary ReplicaSet")?;
    let stable = sets.iter().filter(|set| !is_canary(set)).map(of).sum();
    Ok((stable, canary))
}

async fn until_sizes(shop: &Shop, revision: &str, wanted: impl Fn(i32, i32) -> bool) -> Result<(i32, i32)> {
    let deadline = Instant::now() + SOON;
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tick.tick().await;
        let (stable, canary) = sizes(shop, revision).await?;
        if wanted(stable, canary) {
            return Ok((stable, canary));
        }
        ensure!(Instant::now() < deadline, "replicas stay at {stable} stable, {canary} canary");
    }
}
