//! What the operator costs the API server, counted in the audit log; and how quick its weights are.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use crds::Phase;
use e2e::cluster::audit::Entry;
use e2e::operator;
use e2e::world::{RELEASE, phase_of};
use serde_json::json;

use crate::releases::RPS;
use crate::story::Story;

/// Seconds of the idle story; the whole bar is 600.
const IDLE_SECONDS: &str = "SLUICE_IDLE_SECONDS";

/// How long idleness is watched.
pub(crate) fn idle_seconds() -> u32 {
    std::env::var(IDLE_SECONDS).ok().and_then(|text| text.parse().ok()).unwrap_or(60)
}

pub(crate) async fn idle_costs_nothing(story: Story) -> Result<()> {
    let seconds = idle_seconds();
    let shop = story.shop(story.manifests()?).await?;
    let other = story.shop(story.manifests()?).await?;
    operator::until_quiet(&story.world).await?;
    let mut audit = story.world.cluster.audit();
    tokio::time::sleep(Duration::from_secs(u64::from(seconds))).await;
    let entries = audit.read_of(operator::USER)?;
    let unwanted: Vec<&Entry> = entries.iter().filter(|entry| !is_allowed_when_idle(entry)).collect();
    let rate = f64::from(u32::try_from(entries.len())?) / f64::from(seconds);
    story.say(&format!(
        "{rate:.2} API requests/s by both replicas over {seconds} s with 2 Canaries (bar 0.3): {:?}",
        counts(&entries)
    ));
    ensure!(unwanted.is_empty(), "idle, and yet: {unwanted:?}");
    // Watches run out after 290 s, those of one replica together: a window shorter than the bar's may hold all of them
    // or none. What does not come in bursts is held to the rate that leaves them their share of 0.3/s.
    let steady = entries.iter().filter(|entry| entry.verb != "watch").count();
    let steady = f64::from(u32::try_from(steady)?) / f64::from(seconds);
    ensure!(steady <= 0.2, "{steady:.2} requests/s beside the watches when idle");
    ensure!(seconds < 600 || rate <= 0.3, "{rate:.2} requests/s when idle");
    drop((shop, other));
    Ok(())
}

/// A watch that ran out is begun again; the leader renews its lease, the other reads it.
fn is_allowed_when_idle(entry: &Entry) -> bool {
    entry.verb == "watch" || entry.resource == "leases"
}

pub(crate) async fn calls_per_step(story: Story) -> Result<()> {
    // With the verdict on: steps are longer, and its journal is written, too.
    let verdict = json!({ "mode": "enforce", "maxStepSeconds": 30 });
    let shop = story.shop(story.manifests()?.analysis("verdict", verdict)).await?;
    let load = shop.load(500).await?;
    operator::until_quiet(&story.world).await?;
    let timeline = shop.timeline();
    let mut audit = story.world.cluster.audit();
    shop.commit(|git| git.version("v2")).await?;
    shop.until_phase(Phase::Succeeded).await?;
    operator::until_quiet(&story.world).await?;
    load.stop().await;
    let mut entries = audit.read_of(operator::USER)?;
    entries.retain(|entry| entry.verb != "watch" && entry.resource != "leases");
    // Steps are the weights that were written, and the hand-over at the end.
    let steps = timeline.weights().len();
    let per_step = entries.len() as f64 / steps as f64;
    story.say(&format!(
        "{} API calls for {steps} steps: {per_step:.1} a step (bar 12): {:?}",
        entries.len(),
        counts(&entries)
    ));
    ensure!(per_step <= 12.0, "{per_step:.1} calls a step");
    Ok(())
}

pub(crate) async fn weights_are_acknowledged(story: Story) -> Result<()> {
    let shop = story.shop(story.manifests()?).await?;
    let load = shop.load(RPS).await?;
    operator::until_quiet(&story.world).await?;
    let before = operator::acknowledgements().await?;
    for version in ["v2", "v3"] {
        shop.commit(|git| git.version(version)).await?;
        shop.until("begun", RELEASE, |canary| phase_of(canary) == Phase::Progressing).await?;
        shop.until_phase(Phase::Succeeded).await?;
    }
    load.stop().await;
    let (count, p99) = operator::acknowledgement_p99(&before, &operator::acknowledgements().await?)?;
    story.say(&format!(
        "weight written → acknowledged by every proxy: p99 ≤ {:.0} ms of {count} writes (bar 250 ms)",
        p99 * 1_000.0
    ));
    ensure!(count >= 8, "only {count} writes were measured");
    Ok(())
}

fn counts(entries: &[Entry]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for entry in entries {
        let slash = if entry.subresource.is_empty() { "" } else { "/" };
        let key = format!("{} {}{slash}{}", entry.verb, entry.resource, entry.subresource);
        *counts.entry(key).or_default() += 1;
    }
    counts
}
