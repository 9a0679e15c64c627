//! Two workers beside one. Where there are cores for two workers and the load, requests/s; else the instructions that a
//! request takes, counted by callgrind: what workers share shows in them, and cores are not needed.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::Bench;
use crate::guest::Guest;
use crate::load::Load;
use crate::peers::{self, Kind};
use crate::report::{Limit, Report, median};
use crate::setup::{free_port, sluice_arguments, sluice_route};

pub(crate) const NAME: &str = "workers";
/// Cores with which two workers and a load that keeps them busy have room.
const CORES: usize = 4;
/// Requests of the two runs; their difference is free of what start and end cost.
const FEW: u64 = 2_000;
const MANY: u64 = 12_000;
/// Time to end: callgrind writes its file.
const END: Duration = Duration::from_secs(60);

pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    if bench.cores.count >= CORES { speed(bench, report) } else { instructions(bench, report) }
}

fn speed(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut ratios = Vec::new();
    for _ in 0..bench.rounds {
        let rate = |workers: usize| -> Result<f64> {
            let (guest, to) = start(bench, workers, &[])?;
            let time = Duration::from_secs(bench.seconds);
            let rate = bench.tools.run(Load::Small, to, time)?.per_second;
            drop(guest);
            Ok(rate)
        };
        let one = rate(1)?;
        ratios.push(rate(2)? / one);
    }
    report.bar(NAME, "requests/s, two workers × one", Limit::AtLeast(1.8), median(&ratios), "");
    Ok(())
}

fn instructions(bench: &Bench, report: &mut Report) -> Result<()> {
    let valgrind = peers::load_generator("valgrind")?.display().to_string();
    let per_request = |workers: usize| -> Result<f64> {
        let count = |requests: u64| -> Result<u64> {
            let out = format!("--callgrind-out-file={}", bench.folder.join("callgrind.out").display());
            let (mut guest, to) = start(bench, workers, &[&valgrind, "--tool=callgrind", &out])?;
            bench.tools.count(requests, to)?;
            guest.terminate(END)?;
            let text = std::fs::read_to_string(bench.folder.join("workers.log"))?;
            collected(&text).with_context(|| format!("callgrind said: {text}"))
        };
        Ok((count(MANY)? - count(FEW)?) as f64 / (MANY - FEW) as f64)
    };
    let (one, two) = (per_request(1)?, per_request(2)?);
    report.figure(NAME, "instructions per request, one worker", &[(Kind::Sluice, one)]);
    report.figure(NAME, "instructions per request, two workers", &[(Kind::Sluice, two)]);
    let note = "callgrind: too few cores to show it by requests/s";
    report.bar(
        NAME,
        "difference in instructions per request, %",
        Limit::AtMost(3.0),
        Some((two / one - 1.0).abs() * 100.0),
        note,
    );
    Ok(())
}

fn start(bench: &Bench, workers: usize, through: &[&str]) -> Result<(Guest, std::net::SocketAddr)> {
    let peer = bench.peers.iter().find(|peer| peer.kind == Kind::Sluice).context("sluice-proxy is missing")?;
    let port = free_port()?;
    let file = bench.folder.join("workers.yaml");
    let route = sluice_route("web", port, "http", bench.origin.stable, bench.origin.canary);
    std::fs::write(&file, format!("routes:\n{route}"))?;
    let own = sluice_arguments(&file.display().to_string(), free_port()?, workers);
    let mut line: Vec<String> = through.iter().map(|word| (*word).to_owned()).collect();
    line.push(peer.program.display().to_string());
    line.extend(own);
    let log = bench.folder.join("workers.log");
    let mut guest = Guest::start(&bench.cores.proxies, line[0].as_ref(), &line[1..], &log)?;
    let to = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    guest.listens(to, &log)?;
    Ok((guest, to))
}

/// `==77== Collected : 123456`.
fn collected(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
}

/// The processors that two workers get: two where there are enough, else the one.
pub(crate) fn cores(count: usize) -> String {
    if count >= CORES { format!("{},{}", count - 2, count - 1) } else { (count - 1).to_string() }
}
