//! `cargo bench -p e2e --bench abuse`: each attack of `e2e::abuse` for five minutes. Prints a table, writes
//! `target/bench/abuse.json`, and fails if a bar is missed: honest clients' p99 at most twice what it is at rest and nothing
//! lost, memory at most twice what it is at rest plus bounded buffers, both back afterwards. `-- "rapid reset"` runs that
//! one only, `--seconds 30` or `SLUICE_ABUSE_SECONDS=30` shorter.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use e2e::abuse::{self, ATTACKS, Force, Harm};
use e2e::cores;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Below this a percentile is the timer's and the scheduler's, not the proxy's.
const GRAIN_MS: f64 = 2.0;

#[derive(Debug, Parser)]
struct Args {
    /// Attacks by name; all if none is named.
    attacks: Vec<String>,
    /// Of each attack.
    #[arg(long, env = "SLUICE_ABUSE_SECONDS", default_value_t = 300)]
    seconds: u64,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    // The proxy needs two files per client, and some of its own.
    let idle = usize::try_from(hard / 2).unwrap_or(usize::MAX).saturating_sub(500).min(10_000);
    let time = Duration::from_secs(args.seconds);
    let force = Force { time, calm: time.min(Duration::from_secs(20)), rps: 200, idle, core: leave_core()? };
    let (mut harms, mut faults) = (Vec::new(), Vec::new());
    println!(
        "{:<24}{:>8}{:>28}{:>24}{:>24}  ends",
        "attack", "lost", "p99 ms (rest/during/after)", "directly", "KiB (rest/most/after)"
    );
    for attack in
        ATTACKS.iter().filter(|attack| args.attacks.is_empty() || args.attacks.iter().any(|name| name == attack.name))
    {
        let harm = abuse::run(attack, &force).await?;
        print(&harm);
        faults.extend(harm.faults(attack));
        faults.extend(slow(&harm));
        harms.push(harm);
    }
    let folder =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from).join("bench");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("abuse.json");
    std::fs::write(&path, serde_json::to_vec_pretty(&harms)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    for fault in &faults {
        println!("MISSED {fault}");
    }
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The last core is the proxy's; this thread and those that it starts leave it. `None` if there is only one.
fn leave_core() -> Result<Option<usize>> {
    let last = std::thread::available_parallelism()?.get() - 1;
    if last == 0 {
        return Ok(None);
    }
    cores::stay_on(0..last)?;
    Ok(Some(last))
}

fn print(harm: &Harm) {
    let times = |[rest, during, after]: [f64; 3]| format!("{rest:.2}/{during:.2}/{after:.2}");
    let [idle, most, end] = harm.resident_kib;
    let (through, direct) = (times(harm.p99_ms), times(harm.direct_p99_ms));
    let memory = format!("{idle}/{most}/{end}");
    println!("{:<24}{:>8}{through:>28}{direct:>24}{memory:>24}  {:?}", harm.name, harm.lost, harm.ends);
}

fn slow(harm: &Harm) -> Vec<String> {
    let [rest, during, after] = harm.p99_ms;
    let limit = rest.max(GRAIN_MS) * 2.0;
    let late = |when: &str, value: f64| {
        (value > limit).then(|| format!("{}: p99 {when} is {value:.2} ms, {limit:.2} ms allowed", harm.name))
    };
    [late("meanwhile", during), late("afterwards", after)].into_iter().flatten().collect()
}
