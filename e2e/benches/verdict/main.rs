//! The verdict on the local cluster, end to end: from the first weight to weight 0 on every proxy, and releases of the same
//! version in a row. Prints a table, writes `target/verdict.json`, and fails where a bar of issue 5 is missed.
//!
//! `cargo bench -p e2e --bench verdict`; `SLUICE_BENCH_FAULTS=n` (5 releases of each fault) and `SLUICE_BENCH_RELEASES=n` (20
//! of the same version) make it shorter.
#![allow(clippy::print_stdout, reason = "a table for people")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use crds::Phase;
use e2e::cluster::{Cluster, layout};
use e2e::install::{self, Target};
use e2e::manifests::Manifests;
use e2e::world::{Shop, World, message_of, phase_of};
use e2e::{proxies, slack};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const METRICS_SERVER: &str = "http://prometheus.monitoring.svc:9090";
/// Traffic of stable before a release, so that the engine knows it.
const BEFORE: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(420);

fn main() -> Result<()> {
    e2e::cluster::reexec_in_netns()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(bench())
}

async fn bench() -> Result<()> {
    let cluster = Cluster::start_for_tests().await?;
    tokio::task::spawn_blocking(|| install::bring(&Target::Local, METRICS_SERVER)).await??;
    let slack = slack::Receiver::serve(TcpListener::bind((layout::NODE_ADDRESS, 0)).await?)?;
    let client = cluster.client().await?;
    let world = Arc::new(World { client, cluster, slack });
    let number = |name: &str, default| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (runs, releases) = (number("SLUICE_BENCH_FAULTS", 5), number("SLUICE_BENCH_RELEASES", 20));
    // The two faults beside each other, each in a namespace with its own pods and proxies; the releases of the same version
    // alone: latencies of single milliseconds are compared, and what else runs would make the pods differ.
    let (mild, crash) = tokio::try_join!(
        harm(&world, "1 → 5 %", ("1", "5"), 100, runs),
        harm(&world, "0.1 → 50 %", ("0.1", "50"), 100, runs),
    )?;
    let false_rollbacks = same(&world, releases).await?;

    let rows = [("1 → 5 % at 100 rps, weight 10", &mild, 47.0), ("0.1 → 50 % at 100 rps, weight 10", &crash, 12.0)];
    println!("| fault | seconds to weight 0 on every proxy, median | all | bar |\n|---|---|---|---|");
    for (name, times, bar) in rows {
        println!("| {name} | {:.1} | {times:.1?} | ≤ {bar} |", median(times));
    }
    println!("| none, {releases} releases of the same version at 1,000 rps | {false_rollbacks} rolled back | | 0 |");
    let report = json!({ "mild_s": mild, "crash_s": crash, "releases": releases, "false_rollbacks": false_rollbacks });
    let path = e2e::manifests::workspace().join("target/verdict.json");
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&path, serde_json::to_string_pretty(&report)?)?;
    println!("written to {}", path.display());
    for (name, times, bar) in rows {
        ensure!(median(times) <= bar, "{name}: median {:.1} s, bar {bar} s", median(times));
    }
    ensure!(false_rollbacks == 0, "{false_rollbacks} releases of the same version were rolled back");
    Ok(())
}

/// Judged by the verdict alone.
fn manifests(error_rate: &str) -> Result<Manifests> {
    let mut manifests = Manifests::example()?;
    manifests.others.clear();
    manifests.canary["spec"]["analysis"] = json!({
        "interval": "1s",
        "stepWeights": [10, 25, 50, 100],
        "metrics": [{ "name": "request-success-rate", "thresholdRange": { "min": 0 } }],
        "verdict": { "mode": "enforce", "maxStepSeconds": 120 },
    });
    Ok(variant(manifests.version("v1"), "0", error_rate))
}

fn variant(mut git: Manifests, name: &str, error_rate: &str) -> Manifests {
    let env: Value = json!([{ "name": "RELEASE", "value": name }, { "name": "ERROR_RATE", "value": error_rate }]);
    git.deployment["spec"]["template"]["spec"]["containers"][0]["env"] = env;
    git
}

/// Seconds from weight 10 in the status to weight 0 on every proxy, for each of `runs` releases.
async fn harm(world: &Arc<World>, name: &str, rates: (&str, &str), rps: u32, runs: usize) -> Result<Vec<f64>> {
    let shop = Shop::open(world.clone(), "verdict", manifests(rates.0)?).await?;
    let load = shop.load(rps).await?;
    let mut times = Vec::new();
    for run in 1..=runs {
        tokio::time::sleep(BEFORE).await;
        shop.commit(|git| variant(git, &run.to_string(), rates.1)).await?;
        shop.until_weight(10).await?;
        let begun = Instant::now();
        let ended = |canary: &crds::Canary| matches!(phase_of(canary), Phase::Succeeded | Phase::Failed);
        let canary = shop.until("the rollback", LIMIT, ended).await?;
        ensure!(phase_of(&canary) == Phase::Failed, "{name}: not rolled back: {}", message_of(&canary));
        until_zero(&shop).await?;
        times.push(begun.elapsed().as_secs_f64());
        println!("{name}, {run} of {runs}: {:.1} s: {}", begun.elapsed().as_secs_f64(), message_of(&canary));
        shop.commit(|git| variant(git, "0", rates.0)).await?;
        shop.until("the way back", LIMIT, |canary| phase_of(canary) != Phase::Failed).await?;
        shop.until_available().await?;
    }
    load.stop().await;
    shop.remove_canary().await?;
    Ok(times)
}

async fn until_zero(shop: &Shop) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let weights = proxies::weights(shop).await?;
        if !weights.is_empty() && weights.iter().all(|held| *held == Some(0)) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the proxies hold {weights:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Releases of the same version in a row at 1,000 rps; how many were rolled back.
async fn same(world: &Arc<World>, releases: usize) -> Result<usize> {
    let shop = Shop::open(world.clone(), "verdict", manifests("0.1")?).await?;
    let load = shop.load(1_000).await?;
    tokio::time::sleep(BEFORE).await;
    let mut rolled_back = 0;
    for release in 1..=releases {
        let begun = shop.commit(|git| variant(git, &format!("same-{release}"), "0.1")).await?;
        shop.until_weight(10).await?;
        let ended = |canary: &crds::Canary| matches!(phase_of(canary), Phase::Succeeded | Phase::Failed);
        let canary = shop.until("the end of the release", LIMIT, ended).await?;
        println!(
            "same version, {release} of {releases}: {:?} after {:.0} s",
            phase_of(&canary),
            begun.elapsed().as_secs_f64()
        );
        if phase_of(&canary) == Phase::Failed {
            println!("  {}", message_of(&canary));
            rolled_back += 1;
        } else {
            shop.until_available().await?;
        }
    }
    load.stop().await;
    shop.remove_canary().await.context("cannot remove the Canary")?;
    Ok(rolled_back)
}

fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    // None were asked for.
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}
