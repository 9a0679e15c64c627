//! Rows about configuration: weights that change under load lose no request and bend no share, many routes cost what one
//! does, and one of many is changed in no time. Only `sluice-proxy` is measured.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use proxy_api::v1beta1 as api;

use crate::Bench;
use crate::guest::Guest;
use crate::load::{CONCURRENCY, Load};
use crate::operator::Operator;
use crate::peers::{Kind, Peer};
use crate::report::{Limit, Report, median};
use crate::setup::free_port;

pub(crate) const WEIGHTS: &str = "weights";
pub(crate) const ROUTES: &str = "routes";
/// Changes of the weight.
const CHANGES: u64 = 1_000;
/// Routes of one pool.
const MANY: u16 = 2_000;
/// Changes of one route among many.
const PUSHES: u64 = 100;

/// A proxy under an operator of its own.
struct Configured {
    guest: Guest,
    operator: Operator,
}

fn start(bench: &Bench, name: &str, routes: &[api::Route]) -> Result<Configured> {
    let peer: &Peer = bench.peers.iter().find(|peer| peer.kind == Kind::Sluice).context("sluice-proxy is missing")?;
    let operator = Operator::start()?;
    let admin = format!("127.0.0.1:{}", free_port()?);
    let operator_address = operator.address.to_string();
    let arguments = ["--operator", &operator_address, "--plaintext", "--admin", &admin, "--workers", "1"];
    let more = ["--listen-address", "127.0.0.1"];
    let arguments: Vec<String> = arguments.iter().chain(&more).map(|argument| (*argument).to_owned()).collect();
    let log = bench.folder.join(format!("{name}.log"));
    let mut guest = Guest::start(&bench.cores.proxy, &peer.program, &arguments, &log)?;
    operator.snapshot(routes)?;
    guest.listens(address(&routes[0]), &log)?;
    Ok(Configured { guest, operator })
}

fn route(bench: &Bench, number: u16, port: u16) -> api::Route {
    let endpoint = |address: SocketAddr| api::Endpoint {
        address: address.ip().to_string(),
        port: address.port().into(),
        ..Default::default()
    };
    api::Route {
        uid: format!("route-{number}"),
        counter: 1,
        namespace: "bench".to_owned(),
        service: format!("web-{number}"),
        canary: format!("web-{number}"),
        weight: 10,
        stable_revision: "old".to_owned(),
        canary_revision: "new".to_owned(),
        listeners: vec![api::Listener {
            port: port.into(),
            service_port: 80,
            protocol: api::Protocol::Http.into(),
            split: true,
            stable: vec![endpoint(bench.origin.stable)],
            canary: vec![endpoint(bench.origin.canary)],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn address(route: &api::Route) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], route.listeners[0].port as u16))
}

/// A thousand weights, each under a revision of its own: so the proxy's counters tell how many requests each of them was
/// applied to, and the share that is owed is known exactly.
pub(crate) fn weights(bench: &Bench, report: &mut Report) -> Result<()> {
    let route = route(bench, 0, free_port()?);
    let proxy = start(bench, WEIGHTS, std::slice::from_ref(&route))?;
    let time = Duration::from_secs(bench.seconds * 5);
    let before = bench.origin.counts();
    let (done, took) = std::thread::scope(|scope| -> Result<_> {
        let load = scope.spawn(|| bench.tools.run(Load::Small, address(&route), time));
        let mut took = Vec::new();
        let mut changed = route.clone();
        let begun = Instant::now();
        for change in 1..=CHANGES {
            (changed.counter, changed.weight) = (change + 1, weight(change));
            changed.stable_revision = format!("old-{change}");
            changed.canary_revision = format!("new-{change}");
            took.push(proxy.operator.push(&changed)?.as_secs_f64() * 1e3);
            // Spread over the load, its last tenth excepted.
            let due = time.mul_f64(0.9 * change as f64 / CHANGES as f64);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
        let done = load.join().ok().context("the load has panicked")??;
        Ok((done, took))
    })?;
    let counters = proxy.operator.settled()?;
    let (owed, canary, all) = shares(&counters);
    let reached = bench.origin.counts()[1] - before[1];
    // Those that were under way when the load ended may have got no further than the proxy.
    if canary.abs_diff(reached) > CONCURRENCY as u64 {
        bail!("{canary} requests are counted for the canary, {reached} have reached it");
    }
    report.figure(WEIGHTS, "requests", &[(Kind::Sluice, all as f64)]);
    report.figure(WEIGHTS, "change in force after, ms (median)", &[(Kind::Sluice, median(&took).unwrap_or(0.0))]);
    let note = format!("{CHANGES} changes, {all} requests, {canary} to the canary");
    report.bar(WEIGHTS, "failed requests", Limit::AtMost(0.0), Some(done.failed as f64), &note);
    let error = (canary as f64 - owed).abs();
    report.bar(WEIGHTS, "requests off the share that is owed", Limit::AtMost(2.0), Some(error), "one worker");
    Ok(())
}

/// Some order in which every weight from 0 to 100 comes again and again.
fn weight(change: u64) -> u32 {
    (change * 37 % 101) as u32
}

/// What the canary was owed, what it got, and all requests.
fn shares(counters: &api::Counters) -> (f64, u64, u64) {
    let (mut owed, mut canary, mut all) = (0.0, 0, 0);
    for arm in &counters.arms {
        let change = arm.revision.rsplit('-').next().and_then(|number| number.parse().ok());
        let weight = change.map_or(10, weight);
        owed += arm.started as f64 * f64::from(weight) / 100.0;
        all += arm.started;
        if arm.arm() == api::Arm::Canary {
            canary += arm.started;
        }
    }
    (owed, canary, all)
}

/// One route beside two thousand.
pub(crate) fn routes(bench: &Bench, report: &mut Report) -> Result<()> {
    let single = [route(bench, 0, free_port()?)];
    let base = free_ports()?;
    let many: Vec<api::Route> = (0..MANY).map(|number| route(bench, number, base + number)).collect();
    let (one, all) = (start(bench, "one-route", &single)?, start(bench, "many-routes", &many)?);
    let middle = &many[usize::from(MANY / 2)];
    let mut ratios = Vec::new();
    for round in 0..=bench.rounds {
        let time = Duration::from_secs(bench.seconds);
        let cost = |proxy: &Configured, route: &api::Route| {
            bench.tools.measure(Load::Small, address(route), &proxy.guest, &bench.origin, time)
        };
        let (single, among_many) = (cost(&one, &single[0])?, cost(&all, middle)?);
        if round > 0 {
            ratios.push(among_many.cpu_micros / single.cpu_micros);
        }
    }
    let mut took = Vec::new();
    let mut changed = middle.clone();
    for push in 1..=PUSHES {
        (changed.counter, changed.weight) = (push + 1, weight(push));
        took.push(all.operator.push(&changed)?.as_secs_f64() * 1e3);
    }
    took.sort_by(f64::total_cmp);
    let note = format!("median of {}", ratios.len());
    report.bar(ROUTES, "CPU per request, 2,000 routes × 1 route", Limit::AtMost(1.05), median(&ratios), &note);
    let note = format!("median of {PUSHES}; slowest {:.2} ms", took.last().copied().unwrap_or(0.0));
    report.bar(ROUTES, "push of one route in force, ms", Limit::AtMost(5.0), median(&took), &note);
    Ok(())
}

/// The first of [`MANY`] ports in a row that nobody uses; below the range that connections take theirs from.
fn free_ports() -> Result<u16> {
    let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    let bases = (10..30).map(|thousand| thousand * 1_000);
    bases.into_iter().find(|base| (*base..base + MANY).all(free)).context("no 2,000 free ports in a row")
}
