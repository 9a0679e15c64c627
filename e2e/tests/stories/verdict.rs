//! The verdict on real traffic: what is the same is let through, what is broken is taken off with its sentence. The
//! declared metric lets everything pass, so that whatever ends a release here is the verdict.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use crds::Phase;
use e2e::manifests::Manifests;
use e2e::world::{message_of, phase_of, weight_of};
use serde_json::json;

use crate::releases::{reason_of, until_proxies_hold};
use crate::story::Story;

const RPS: u32 = 1_000;
/// Requests that the verdict has seen of stable before a release, as it would have in life.
const BEFORE: u64 = 20_000;

/// Judged by the verdict alone; a step that is undecided after 20 s goes on, so that the story ends.
fn manifests(story: &Story) -> Result<Manifests> {
    let metrics = json!([{ "name": "request-success-rate", "thresholdRange": { "min": 0 } }]);
    let manifests = story.manifests()?.analysis("metrics", metrics);
    Ok(manifests.analysis("verdict", json!({ "mode": "enforce", "maxStepSeconds": 20 })))
}

/// The same image with another environment: another version that does the same, or does it worse.
fn variant(mut git: Manifests, name: &str, error_rate: &str) -> Manifests {
    let env = json!([{ "name": "RELEASE", "value": name }, { "name": "ERROR_RATE", "value": error_rate }]);
    git.deployment["spec"]["template"]["spec"]["containers"][0]["env"] = env;
    git
}

pub(crate) async fn the_same_is_never_rolled_back(story: Story) -> Result<()> {
    let shop = story.shop(variant(manifests(&story)?, "first", "0.1")).await?;
    let load = shop.load(RPS).await?;
    for release in ["second", "third"] {
        let committed = shop.commit(|git| variant(git, release, "0.1")).await?;
        shop.until_weight(10).await?;
        let ended = |canary: &crds::Canary| matches!(phase_of(canary), Phase::Succeeded | Phase::Failed);
        let canary = shop.until("the end of the release", e2e::world::RELEASE, ended).await?;
        story.say(&format!("{release}: {:?} after {:.1} s", phase_of(&canary), committed.elapsed().as_secs_f64()));
        ensure!(phase_of(&canary) == Phase::Succeeded, "a version like the one before: {}", message_of(&canary));
        let said = canary.status.and_then(|status| status.verdict).context("no verdict in the status")?;
        ensure!(said.lanes.len() == 4, "{said:?}");
        ensure!(said.lanes.iter().any(|lane| lane.stable != "0/0"), "nothing was counted: {said:?}");
        shop.until_available().await?;
    }
    let report = load.stop().await;
    // One answer in a thousand is an error of the application's own; none may be lost on the way.
    ensure!(report.broken() == 0, "requests broke: {report}");
    Ok(())
}

pub(crate) async fn what_is_broken_goes_at_once(story: Story) -> Result<()> {
    let shop = story.shop(variant(manifests(&story)?, "good", "0.1")).await?;
    let load = shop.load(RPS).await?;
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(100));
    while load.report().requests < BEFORE {
        tick.tick().await;
    }
    shop.commit(|git| variant(git, "broken", "50")).await?;
    shop.until_weight(10).await?;
    let weighted = Instant::now();
    let canary = shop.until_phase(Phase::Failed).await?;
    until_proxies_hold(&shop, 0).await?;
    let took = weighted.elapsed();
    let report = load.stop().await;
    let message = message_of(&canary);
    story.say(&format!("weight 10 → weight 0 on every proxy: {:.1} s; said: {message}", took.as_secs_f64()));
    ensure!(weight_of(&canary) == 0, "the weight is {}", weight_of(&canary));
    ensure!(matches!(reason_of(&canary).as_str(), "Crash" | "ErrorRateWorse"), "{}: {message}", reason_of(&canary));
    ensure!(message.starts_with("weight 10%: canary ") && message.contains("chance if healthy <= 1 in"), "{message}");
    let status = canary.status.context("no status")?;
    let said = status.verdict.context("no verdict in the status")?;
    ensure!(said.evidence == "100%" && said.journal.is_none(), "{said:?}");
    let lane = said.lanes.iter().find(|lane| lane.name == "crash").context("no crash lane")?;
    let (bad, all) = lane.canary.split_once('/').context("no counts")?;
    let (bad, all): (u64, u64) = (bad.parse()?, all.parse()?);
    ensure!(bad * 10 > all * 3 && bad * 10 < all * 7, "half of the canary's requests fail: {lane:?}");
    // As many as were seen to fail, and those under way while it was decided.
    story.say(&format!("{} of {} requests failed in all", report.server_errors, report.requests));
    ensure!(report.broken() == 0, "requests broke: {report}");
    let told = shop.events().await?.into_iter().any(|(_, note)| note.contains("chance if healthy"));
    ensure!(told, "no Event has the sentence");
    Ok(())
}
