//! The local cluster by hand: `cargo run -p e2e --bin cluster -- up`.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use e2e::cluster::{self, Cluster, binaries, lifetime};
use e2e::images::{self, Image};

/// Starts, stops and looks into the local Kubernetes.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Start the cluster, or reuse the one that is up.
    Up,
    /// Stop it and remove everything it left.
    Down,
    /// Which parts run.
    Status,
    /// Print a part's log; `audit` is the audit log.
    Logs { part: String },
    /// Run kubectl.
    #[command(trailing_var_arg = true)]
    Kubectl {
        #[arg(allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run any program in the cluster's network namespace.
    #[command(trailing_var_arg = true)]
    Run {
        program: PathBuf,
        #[arg(allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Import a static binary as an image.
    Load {
        /// For example `sluice.dev/sample-app:v1`.
        name: String,
        binary: PathBuf,
        /// `NAME=value`, baked into the image.
        environment: Vec<String>,
    },
    /// Compile a binary of the workspace and import it as an image.
    Build { package: String, binary: String, name: String, environment: Vec<String> },
    /// Kill every container of a pod with SIGKILL.
    Kill { namespace: String, pod: String },
    /// Copy all logs to a folder.
    Save { folder: PathBuf },
    /// Stop a part: kube-apiserver or prometheus.
    Stop { part: String },
    /// Start it again.
    Start { part: String },
    /// Build helm if need be, and print its path.
    Helm,
    #[command(hide = true, name = lifetime::WATCHDOG)]
    Watchdog,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    match Arguments::parse().verb {
        Verb::Up => up(),
        Verb::Down => cluster::down(),
        Verb::Status => {
            cluster::status().iter().for_each(|line| println!("{line}"));
            Ok(())
        }
        Verb::Logs { part } => {
            print!("{}", cluster::logs::read(&part)?);
            Ok(())
        }
        Verb::Kubectl { arguments } => Err(cluster::kubectl().args(arguments).exec().into()),
        Verb::Run { program, arguments } => {
            let mut command = cluster::network::inside(program);
            command.env("KUBECONFIG", cluster::layout::kubeconfig());
            Err(command.args(arguments).exec().into())
        }
        Verb::Load { name, binary, environment } => load(name, binary, environment),
        Verb::Build { package, binary, name, environment } => {
            load(name, images::build_static(&package, &binary)?, environment)
        }
        Verb::Helm => {
            println!("{}", binaries::helm()?.display());
            Ok(())
        }
        Verb::Kill { namespace, pod } => Cluster::start_or_reuse_blocking()?.kill_pod(&namespace, &pod),
        Verb::Save { folder } => Cluster::start_or_reuse_blocking()?.save_logs(&folder),
        Verb::Stop { part } => cluster::stop(&part),
        Verb::Start { part } => cluster::start_again(&part),
        Verb::Watchdog => lifetime::watch(),
    }
}

fn up() -> Result<()> {
    let cluster = Cluster::start_or_reuse_blocking()?;
    let word = if cluster.was_reused() { "reused" } else { "started" };
    println!("{word}; export KUBECONFIG={}", cluster.kubeconfig().display());
    Ok(())
}

fn load(name: String, binary: PathBuf, environment: Vec<String>) -> Result<()> {
    Image { name, binary, environment }.load()
}
