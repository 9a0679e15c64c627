//! `sluice-operator`.

use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use operator::{
    args::{Args, Command},
    cleanup, run, telemetry,
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    telemetry::init(args.run.log_format);
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        anyhow::bail!("another crypto provider is installed");
    }
    match args.command {
        None => run::run(args.run).await,
        Some(Command::Cleanup { timeout_seconds }) => {
            let client = kube::Client::try_default().await.context("cannot find the API server")?;
            cleanup::run(&client, Duration::from_secs(timeout_seconds)).await.context("cannot clean up")
        }
    }
}
