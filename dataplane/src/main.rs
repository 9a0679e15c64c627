//! `sluice-proxy`: reads its arguments, starts the proxy, and drains it on SIGTERM.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::thread::available_parallelism;

use anyhow::Context;
use clap::Parser;
use dataplane::args::Args;
use dataplane::config::{self, Operator, Updates};
use dataplane::process::{Proxy, Settings};
use dataplane::{admin, listener, telemetry};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    telemetry::install(args.log_format);
    rustls::crypto::ring::default_provider().install_default().ok().context("a TLS provider is installed already")?;
    // The side thread: config stream, admin server, signals. Workers have their own.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let workers = match args.workers {
        Some(workers) => usize::from(workers),
        None => available_parallelism()?.get(),
    };
    // `RandomState` is seeded by the operating system.
    let seed = RandomState::new().hash_one(&args.pod_name);
    let proxy = Proxy::start(&Settings { workers, address: args.listen_address, seed })?;
    let (address, port): (Option<IpAddr>, u16) = match args.admin {
        Some(admin) => (Some(admin.ip()), admin.port()),
        None => (None, proxy_api::PROXY_ADMIN_PORT),
    };
    let admin = listener::bind(address, port, false).with_context(|| format!("cannot bind the admin port {port}"))?;
    tokio::spawn(admin::serve(TcpListener::from_std(admin)?, proxy.shared()));
    tracing::info!(workers, pod = args.pod_name, version = env!("CARGO_PKG_VERSION"), "started");
    let operator = Operator {
        target: args.operator,
        ca: args.ca,
        token: args.token,
        pod: args.pod_name,
        namespace: args.pod_namespace,
        incarnation: seed,
        registry: proxy.shared().registry.clone(),
    };
    let mut updates = Updates::new(args.state_dir, seed);
    updates.restore(&proxy).await;
    tokio::select! {
        () = config::follow(operator, &mut updates, &proxy) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("draining");
    proxy.drain(args.drain_delay, args.drain_deadline).await;
    tracing::info!("drained");
    Ok(())
}
