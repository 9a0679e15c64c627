//! `sluice-proxy`: reads its arguments, starts the proxy, and drains it on SIGTERM.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::available_parallelism;

use anyhow::Context;
use clap::Parser;
use dataplane::args::Args;
use dataplane::config::{self, Operator, Updates};
use dataplane::process::{Proxy, Settings};
use dataplane::sight::{self, Counts, Sight};
use dataplane::{admin, listener, standalone, telemetry};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use routing::Table;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// glibc's costs a tenth of the proxy's own time, and its heap grows with the mix of sizes that bodies bring.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let (true, Some(path)) = (args.check, &args.config) {
        let snapshot = standalone::read(path, args.listen.map(|listen| listen.port()), 1)?;
        println!("{} is valid: {} route(s)", path.display(), snapshot.routes.len());
        return Ok(());
    }
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
    let address = args.listen.map(|listen| listen.ip()).or(args.listen_address);
    let possible_connections = possible_connections();
    let proxy = Proxy::start(&Settings {
        workers,
        address,
        max_connections: args.max_connections,
        max_held_bytes: args.max_held_bytes,
        possible_connections,
        seed,
    })?;
    if let Some(sight) = sight(&args)? {
        proxy.shared().registry.show(sight);
    }
    let (address, port): (Option<IpAddr>, u16) = match args.admin {
        Some(admin) => (Some(admin.ip()), admin.port()),
        None => (None, proxy_api::PROXY_ADMIN_PORT),
    };
    let admin = listener::bind(address, port, false).with_context(|| format!("cannot bind the admin port {port}"))?;
    tokio::spawn(admin::serve(TcpListener::from_std(admin)?, proxy.shared()));
    tracing::info!(workers, pod = args.pod_name.as_str(), version = env!("CARGO_PKG_VERSION"), "started");
    tokio::select! {
        result = configure(&args, seed, &proxy) => result?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("draining");
    proxy.drain(args.drain_delay, args.drain_deadline).await;
    tracing::info!("drained");
    Ok(())
}

/// The access log and traces, if the arguments ask for either.
fn sight(args: &Args) -> anyhow::Result<Option<Arc<Sight>>> {
    let counts = Arc::new(Counts::default());
    let log = match args.access_log {
        None => None,
        Some(logged) => Some((logged, sight::log::start(std::io::stdout(), Arc::clone(&counts))?)),
    };
    let traces = match &args.tracing_endpoint {
        None => None,
        Some(endpoint) => {
            let mut resource = vec![("service.name", "sluice-proxy".to_owned())];
            for (key, value) in [("k8s.pod.name", &args.pod_name), ("k8s.namespace.name", &args.pod_namespace)] {
                if !value.is_empty() {
                    resource.push((key, value.clone()));
                }
            }
            let collector = sight::otlp::Collector { endpoint: endpoint.clone(), resource };
            Some((args.tracing_ratio, sight::otlp::start(collector, Arc::clone(&counts))?))
        }
    };
    let on = log.is_some() || traces.is_some();
    Ok(on.then(|| Arc::new(Sight { log, traces, counts })))
}

/// Keeps the proxy configured, from a file or from the operator; ends only when it cannot begin.
async fn configure(args: &Args, seed: u64, proxy: &Proxy) -> anyhow::Result<()> {
    let table = Table::new(seed).in_zone(&args.zone);
    if let Some(path) = &args.config {
        return Ok(standalone::follow(path, args.listen.map(|listen| listen.port()), table, proxy).await?);
    }
    let operator = Operator {
        target: args.operator.clone().context("--operator or --config must be given")?,
        ca: args.ca.clone(),
        token: args.token.clone(),
        pod: args.pod_name.clone(),
        namespace: args.pod_namespace.clone(),
        incarnation: seed,
        registry: proxy.shared().registry.clone(),
    };
    let mut updates = Updates::new(args.state_dir.clone(), table);
    updates.restore(proxy).await;
    config::follow(operator, &mut updates, proxy).await;
    Ok(())
}

/// Raises the limit of open files as far as it goes. Each client may need a connection to an endpoint besides its own.
fn possible_connections() -> u64 {
    const OWN_FILES: u64 = 128;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return u64::MAX };
    let limit = if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    (limit.saturating_sub(OWN_FILES) / 2).max(1)
}
