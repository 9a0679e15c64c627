//! Drives the verdict engine with synthetic traffic beside a model of Flagger's rule, prints the tables and the bars.
//!
//! `cargo run --release -p rollout --example verdict_bench`; `-- --help` names the options. Everything is seeded; the
//! seed is printed. Pure computation: it reads nothing but its own memory use, and writes only where `--plots` says.

#![allow(clippy::disallowed_methods, reason = "the crate is pure; what measures it needs a clock and writes plots")]

mod bars;
mod catalogue;
mod plot;
mod random;
mod results;
mod run;
mod tables;
mod world;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use results::Results;

const HELP: &str = "\
verdict_bench: the verdict engine and Flagger's rule on synthetic traffic

  --tables ABCDER   which tables (R: restarts), default all; REDUCED: the set of the tests
  --runs PERCENT    share of the runs, 1 to 100, default 100
  --threads N       default: all cores
  --seed N          default 5
  --plots DIR       also write the SVG plots there
";

/// In place of table names: the set that the tests run.
const REDUCED: &str = "REDUCED";

struct Options {
    tables: String,
    percent: u32,
    threads: usize,
    seed: u64,
    plots: Option<PathBuf>,
}

fn options() -> Result<Option<Options>, String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options { tables: "ABCDER".into(), percent: 100, threads: cores, seed: 5, plots: None };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        if name == "--help" {
            return Ok(None);
        }
        let value = args.next().ok_or_else(|| format!("{name} needs a value; see --help"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{name} needs a number, not {value}"));
        match name.as_str() {
            "--tables" => options.tables = value.to_uppercase(),
            "--runs" => options.percent = number()?.clamp(1, 100) as u32,
            "--threads" => options.threads = number()?.clamp(1, 256) as usize,
            "--seed" => options.seed = number()?,
            "--plots" => options.plots = Some(value.into()),
            _ => return Err(format!("unknown option {name}; see --help")),
        }
    }
    Ok(Some(options))
}

/// Tells on the terminal how far the work is: in place, or a line each tenth where output is a file.
struct Progress {
    began: Instant,
    last: Mutex<(Instant, usize)>,
    live: bool,
}

impl Progress {
    fn new() -> Self {
        let now = Instant::now();
        Self { began: now, last: Mutex::new((now, 0)), live: std::io::stderr().is_terminal() }
    }

    fn show(&self, done: usize, total: usize) {
        let Ok(mut last) = self.last.lock() else { return };
        let tenth = done * 10 / total.max(1);
        let due = if self.live { last.0.elapsed() > Duration::from_millis(200) } else { tenth > last.1 };
        if !due && done != total {
            return;
        }
        *last = (Instant::now(), tenth);
        let elapsed = self.began.elapsed().as_secs_f64();
        let left = elapsed * (total - done) as f64 / done.max(1) as f64;
        let (start, end) = if self.live { ("\r", if done == total { "\n" } else { "" }) } else { ("", "\n") };
        eprint!(
            "{start}{:3} %  {done} of {total} runs, {elapsed:.0} s, about {left:.0} s left   {end}",
            100 * done / total.max(1)
        );
        let _ = std::io::stderr().flush();
    }
}

/// CPU time of this process and its threads in seconds, where Linux tells it: what the run would take is known on a busy
/// machine, too.
fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name, which may hold blanks, from the third field on; user and system time are the 14th and 15th, in
    // hundredths of a second (proc_pid_stat(5)).
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at - 3)?.parse::<f64>().ok();
    Some((ticks(14)? + ticks(15)?) / 100.0)
}

fn on_two_cores(cpu_s: f64) -> String {
    format!("; {cpu_s:.0} s of CPU, {:.0} s on two free cores", cpu_s / 2.0)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::FAILURE;
        }
    };
    let buckets = world::buckets();
    let chosen = if options.tables == REDUCED { catalogue::reduced() } else { catalogue::cells(&options.tables) };
    let cells: Vec<_> = chosen.into_iter().map(|(cell, runs)| (cell, (runs * options.percent).div_ceil(100))).collect();
    println!(
        "seed {}, {} cells, {} thread(s), {} % of the runs\n",
        options.seed,
        cells.len(),
        options.threads,
        options.percent
    );
    let progress = Progress::new();
    let results =
        Results::compute(&cells, options.seed, options.threads, &buckets, |done, total| progress.show(done, total));
    type Table = fn(&Results) -> String;
    let tables: [(char, Table); 5] = [
        ('A', tables::table_a),
        ('B', tables::table_b),
        ('C', tables::table_c),
        ('D', tables::table_d),
        ('E', tables::table_e),
    ];
    for (name, table) in tables {
        if options.tables != REDUCED && options.tables.contains(name) {
            println!("{}", table(&results));
        }
    }
    println!("### Bars\n");
    let bars = bars::bars(&results, &buckets);
    for bar in &bars {
        println!("{} {:4} {}: {}", if bar.passed { "pass" } else { "FAIL" }, bar.id, bar.demand, bar.seen);
    }
    println!("\n{:.0} s{}", progress.began.elapsed().as_secs_f64(), cpu_seconds().map_or(String::new(), on_two_cores));
    if let Some(folder) = &options.plots
        && let Err(error) = plot::write_all(folder, &results)
    {
        eprintln!("cannot write plots to {}: {error}", folder.display());
        return ExitCode::FAILURE;
    }
    if bars.iter().all(|bar| bar.passed) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
