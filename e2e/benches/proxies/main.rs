//! `cargo bench -p e2e --bench proxies`: sluice-proxy beside HAProxy, nginx and Envoy on the same endpoints and load, each
//! pinned to a core of its own, measured by turns. Prints a table, writes `target/bench/proxies.json`, and fails if a bar
//! of `docs/benchmarks.md` is missed. `-- small h2` runs those rows only, `--quick` fewer and shorter rounds.

mod changes;
mod costs;
mod guest;
mod latency;
mod load;
mod memory;
mod operator;
mod origin;
mod peers;
mod report;
mod setup;
mod workers;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use load::Tools;
use origin::Origin;
use peers::{Kind, Peer};
use report::Report;

/// Open files for 10,000 clients and as many connections to endpoints, and then some.
const WANTED_FILES: u64 = 65_536;

/// Measures one row and adds it to the report.
type Measure = fn(&Bench, &mut Report) -> Result<()>;

/// Rows that are no comparison of loads.
const OTHERS: [(&str, Measure); 5] = [
    (latency::NAME, latency::run),
    (memory::NAME, memory::run),
    (changes::WEIGHTS, changes::weights),
    (changes::ROUTES, changes::routes),
    (workers::NAME, workers::run),
];

#[derive(Debug, Parser)]
struct Args {
    /// Rows to measure; all if none is named.
    rows: Vec<String>,
    /// Three rounds of one second, for development: too few to judge by.
    #[arg(long)]
    quick: bool,
    /// Counted rounds per row.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Seconds per proxy and round.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Proxies to measure, besides ours; all if absent.
    #[arg(long, value_delimiter = ',')]
    peers: Option<Vec<String>>,
    /// Measure this sluice-proxy instead of compiling one.
    #[arg(long)]
    sluice: Option<PathBuf>,
    /// Passed by Cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What every row works with.
struct Bench {
    peers: Vec<Peer>,
    origin: Origin,
    tools: Tools,
    cores: Cores,
    folder: PathBuf,
    rounds: usize,
    seconds: u64,
    /// Clients that a proxy can be told to expect: each may need a connection to an endpoint too.
    clients: u64,
}

/// Who runs where, in the form of taskset(1).
struct Cores {
    /// All of them.
    count: usize,
    /// Of a proxy with one worker.
    proxy: String,
    /// Of one with two.
    proxies: String,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(short) if short.is_empty() => ExitCode::SUCCESS,
        Ok(short) => {
            eprintln!("{} bar(s) missed:\n{}", short.len(), short.join("\n"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<Vec<String>> {
    let others = OTHERS.iter().map(|(name, _)| *name);
    let names: Vec<&str> = costs::ROWS.iter().map(|row| row.name).chain(others).collect();
    if let Some(unknown) = args.rows.iter().find(|row| !names.contains(&row.as_str())) {
        bail!("there is no row {unknown}; there are {}", names.join(", "));
    }
    let wanted = |name: &str| args.rows.is_empty() || args.rows.iter().any(|row| row == name);
    let folder = peers::folder()?;
    fs::create_dir_all(&folder)?;
    let peers = find_peers(&args)?;
    let cores = divide_cores()?;
    let files = raise_open_files()?;
    let tools = Tools::find(&folder.join("load"))?;
    let origin = Origin::start()?;
    let (rounds, seconds) = if args.quick { (3, 1) } else { (args.rounds, args.seconds) };
    let mut report = Report::new(machine(), &peers);
    let bench = Bench { peers, origin, tools, cores, folder, rounds, seconds, clients: (files - 200) / 2 };
    for row in costs::ROWS.iter().filter(|row| wanted(row.name)) {
        costs::run(row, &bench, &mut report)?;
    }
    for (_, run) in OTHERS.iter().filter(|(name, _)| wanted(name)) {
        run(&bench, &mut report)?;
    }
    println!("{}", report.table());
    let path = bench.folder.join("proxies.json");
    report.write(&path)?;
    println!("written to {}", path.display());
    Ok(report.short())
}

/// Ours and those that can be had; says in one sentence what cannot.
fn find_peers(args: &Args) -> Result<Vec<Peer>> {
    let wanted = |kind: Kind| args.peers.as_ref().is_none_or(|names| names.iter().any(|name| name == kind.name()));
    let mut found = vec![match &args.sluice {
        Some(program) => Peer { kind: Kind::Sluice, program: program.clone(), version: "given".to_owned() },
        None => peers::install(Kind::Sluice)?,
    }];
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Sluice && wanted(*kind)) {
        match peers::install(kind) {
            Ok(peer) => found.push(peer),
            Err(error) => eprintln!("{error:#}"),
        }
    }
    Ok(found)
}

/// The last core (two, of four or more) is the proxies', the others are ours and the load's.
fn divide_cores() -> Result<Cores> {
    let count = std::thread::available_parallelism()?.get();
    if count < 2 {
        bail!("the benchmark needs two cores: one for the proxy, one for the load");
    }
    let theirs = if count >= 4 { 2 } else { 1 };
    e2e::cores::stay_on(0..count - theirs).context("cannot stay on the load's cores")?;
    Ok(Cores { count, proxy: (count - 1).to_string(), proxies: workers::cores(count) })
}

/// As many open files as this process may have; its children inherit it. Ten thousand clients need as many here, and some
/// proxies two for each client that they are told to expect.
fn raise_open_files() -> Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let most = if setrlimit(Resource::RLIMIT_NOFILE, WANTED_FILES, WANTED_FILES).is_ok() { WANTED_FILES } else { hard };
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the limit of open files")?;
    Ok(most)
}

fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("?", |(_, name)| name);
    let count = cpu.lines().filter(|line| line.starts_with("processor")).count();
    format!("{count} × {model}, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}
