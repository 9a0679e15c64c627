//! Rows that put one load on every proxy in turn: ABCD ABCD …, so that what else the machine does hits all alike. Ratios
//! are taken within a round and their median counts.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use crate::Bench;
use crate::load::{Load, Sample};
use crate::origin::LARGE;
use crate::peers::Kind;
use crate::report::{Limit, Report, median};
use crate::setup::{self, Running};

/// A load, by its name.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    load: Load,
    bars: &'static [Promise],
}

/// Ours against a peer's.
#[derive(Debug)]
struct Promise {
    of: Of,
    peer: Kind,
    limit: Limit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Cpu,
    Rate,
}

const fn cpu(peer: Kind, limit: f64) -> Promise {
    Promise { of: Of::Cpu, peer, limit: Limit::AtMost(limit) }
}

const fn rate(peer: Kind, limit: f64) -> Promise {
    Promise { of: Of::Rate, peer, limit: Limit::AtLeast(limit) }
}

pub(crate) const ROWS: [Row; 7] = [
    Row {
        name: "small",
        load: Load::Small,
        bars: &[
            cpu(Kind::Haproxy, 0.95),
            cpu(Kind::Nginx, 0.65),
            cpu(Kind::NginxMainline, 0.65),
            cpu(Kind::Envoy, 0.5),
            rate(Kind::Haproxy, 1.05),
        ],
    },
    Row { name: "h2", load: Load::Http2, bars: &[cpu(Kind::Envoy, 0.6), cpu(Kind::Haproxy, 1.0)] },
    Row { name: "grpc", load: Load::Grpc, bars: &[cpu(Kind::Envoy, 0.6), cpu(Kind::Haproxy, 1.0)] },
    Row { name: "download", load: Load::Download, bars: &[rate(Kind::Haproxy, 0.95)] },
    Row { name: "upload", load: Load::Upload, bars: &[rate(Kind::Haproxy, 0.95)] },
    Row { name: "h2-download", load: Load::Http2Download, bars: &[rate(Kind::Haproxy, 0.95)] },
    Row { name: "h2-upload", load: Load::Http2Upload, bars: &[rate(Kind::Haproxy, 0.95)] },
];

/// Measures one row and adds it to the report.
pub(crate) fn run(row: &Row, bench: &Bench, report: &mut Report) -> Result<()> {
    let folder = bench.folder.join(row.name);
    let mut running = Vec::new();
    for peer in &bench.peers {
        running.push(setup::start(peer, &bench.origin, &bench.cores.proxy, bench.clients, &folder)?);
    }
    let mut rounds: Vec<BTreeMap<Kind, Sample>> = Vec::new();
    // The first round fills pools and caches, and is not counted.
    for round in 0..=bench.rounds {
        let mut samples = BTreeMap::new();
        for proxy in &running {
            let seconds = if round == 0 { 1 } else { bench.seconds };
            let sample = measure(row.load, bench, proxy, seconds)
                .with_context(|| format!("{} under load {}", proxy.kind.name(), row.name))?;
            samples.insert(proxy.kind, sample);
        }
        if round > 0 {
            rounds.push(samples);
        }
    }
    tell(row, &running, &rounds, report);
    Ok(())
}

fn measure(load: Load, bench: &Bench, proxy: &Running, seconds: u64) -> Result<Sample> {
    let to = match load {
        Load::Small | Load::Download | Load::Upload => proxy.http1,
        Load::Http2 | Load::Http2Download | Load::Http2Upload | Load::Grpc => proxy.http2,
    };
    bench.tools.measure(load, to, &proxy.guest, &bench.origin, std::time::Duration::from_secs(seconds))
}

fn tell(row: &Row, running: &[Running], rounds: &[BTreeMap<Kind, Sample>], report: &mut Report) {
    let of = |kind: Kind, what: &dyn Fn(&Sample) -> f64| {
        median(&rounds.iter().filter_map(|round| round.get(&kind).map(what)).collect::<Vec<_>>())
    };
    let mut figure = |what: &str, value: &dyn Fn(&Sample) -> f64| {
        let values: Vec<_> = running.iter().filter_map(|proxy| Some((proxy.kind, of(proxy.kind, value)?))).collect();
        report.figure(row.name, what, &values);
    };
    figure("CPU, µs per request", &|sample| sample.cpu_micros);
    figure("requests/s", &|sample| sample.done.per_second);
    if matches!(row.load, Load::Download | Load::Upload | Load::Http2Download | Load::Http2Upload) {
        figure("MiB/s", &|sample| sample.done.per_second * LARGE as f64 / 1024.0 / 1024.0);
    }
    figure("share of its core", &|sample| sample.busy);
    figure("canary's share, %", &|sample| sample.canary);
    figure("failed requests", &|sample| sample.done.failed as f64);
    for Promise { of, peer, limit } in row.bars {
        let value = |sample: &Sample| match of {
            Of::Cpu => sample.cpu_micros,
            Of::Rate => sample.done.per_second,
        };
        let ratio = |round: &BTreeMap<Kind, Sample>| Some(value(round.get(&Kind::Sluice)?) / value(round.get(peer)?));
        let ratios: Vec<f64> = rounds.iter().filter_map(ratio).collect();
        let what = match of {
            Of::Cpu => format!("CPU per request × {}", peer.name()),
            Of::Rate => format!("requests/s × {}", peer.name()),
        };
        report.bar(row.name, &what, *limit, median(&ratios), &spread(&ratios));
    }
    let failed: u64 = rounds.iter().filter_map(|round| Some(round.get(&Kind::Sluice)?.done.failed)).sum();
    report.bar(row.name, "failed requests", Limit::AtMost(0.0), Some(failed as f64), "");
}

/// How far the rounds lie apart.
fn spread(ratios: &[f64]) -> String {
    let (least, most) = ratios.iter().fold((f64::INFINITY, 0.0_f64), |(a, b), ratio| (a.min(*ratio), b.max(*ratio)));
    if ratios.is_empty() { "peer is missing".to_owned() } else { format!("rounds: {least:.3}..{most:.3}") }
}
