//! Wires the parts together and keeps them until a signal or the loss of the lease.

mod signals;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use kube::{Client, runtime::reflector::ObjectRef};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use self::signals::Signals;
use crate::{
    admin::{self, Health, Metrics},
    alerts,
    args::RunArgs,
    authority::Authority,
    caches::{self, Caches},
    controller::{self, Context},
    feed,
    identity::Identities,
    lease::{Lease, Timing},
    measure::{Measurer, Settings},
    outbound::{Outbound, Policy},
    pool::PoolSettings,
    publish::{self, ConnectionLimits, Publisher},
    report::Desk,
    wakes::{Waker, Wakes},
};

/// Longest time that letting the lease go may take; above the deadline of one call about it.
const DRAIN: Duration = Duration::from_secs(5);
/// How often the controller shows that its task is not blocked, and after what silence `/livez` says so.
const CONTROLLER_BEAT: Duration = Duration::from_secs(5);
const CONTROLLER_LIMIT: Duration = Duration::from_secs(60);

/// Runs the operator until SIGTERM or SIGINT, which it obeys from its first moment on.
///
/// # Errors
/// A part could not be started, or the lease was lost: the process has to end, and Kubernetes starts it anew.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let stop = CancellationToken::new();
    let Some(parts) = signals.unless_one_comes(start(&args, &stop)).await.transpose()? else {
        tracing::info!("stopping before every cache was filled");
        return Ok(());
    };
    let publisher = parts.publisher.clone();
    lead(&args, parts, &mut signals, &stop).await?;
    publisher.shutdown();
    Ok(())
}

/// What runs on every replica, and what a leader needs besides.
struct Parts {
    client: Client,
    health: Health,
    metrics: Metrics,
    publisher: Publisher,
    context: Arc<Context>,
    wakes: Wakes,
    waker: Waker,
}

/// Starts everything that a replica does, leader or not; waits until the caches are complete.
async fn start(args: &RunArgs, stop: &CancellationToken) -> anyhow::Result<Parts> {
    let (health, metrics) = (Health::new(), Metrics::new());
    let config = kube::Config::infer().await.context("cannot find the API server")?;
    let client = admin::client(config, &health, &metrics).context("cannot make a client for the API server")?;
    let admin_listener = listen("the admin server", proxy_api::OPERATOR_ADMIN_PORT).await?;
    tokio::spawn(admin::serve(admin_listener, health.clone(), metrics.clone(), stop.clone()));

    let authority = Authority::open(&client, &args.pod_namespace).await.context("cannot open the CA")?;
    tokio::spawn(authority.clone().run(stop.clone()));
    let publisher = Publisher::new(&metrics);
    serve_proxies(&client, &authority, &publisher, &health, stop).await?;

    let (waker, mut receivers) = Waker::new(2);
    let (caches, watches) = caches::start(&client, &waker);
    tokio::spawn(watches);
    caches::WATCHED.into_iter().for_each(|plural| health.watch(plural));
    let synced = health.gate("caches");
    caches.ready().await;
    synced.open();
    let (wakes, feed_wakes) = (receivers.pop().expect("two were made"), receivers.pop().expect("two were made"));
    tokio::spawn(feed::run(caches.clone(), publisher.clone(), feed_wakes));
    tokio::spawn(wake_on_acks(caches.clone(), publisher.clone(), waker.clone()));

    let context = context(args, &client, caches, publisher.clone(), metrics.clone(), authority, stop)?;
    Ok(Parts { client, health, metrics, publisher, context, wakes, waker })
}

async fn serve_proxies(
    client: &Client,
    authority: &Authority,
    publisher: &Publisher,
    health: &Health,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let listener = listen("the config stream", proxy_api::OPERATOR_CONFIG_PORT).await?;
    let (limits, tls) = (ConnectionLimits::default(), Some(authority.server_config()));
    let identities = Identities::new(client.clone());
    let served = publish::serve(listener, limits, tls, identities, publisher.clone(), stop.clone());
    let streaming = health.gate("stream");
    streaming.open();
    tokio::spawn(async move {
        if let Err(error) = served.await {
            tracing::error!(error = %crate::telemetry::Chain(&error), "the config stream ended");
        }
        // A replica that serves no proxy must not count as ready.
        streaming.close();
    });
    Ok(())
}

async fn listen(what: &str, port: u16) -> anyhow::Result<TcpListener> {
    TcpListener::bind(("0.0.0.0", port)).await.with_context(|| format!("cannot listen for {what} on port {port}"))
}

fn context(
    args: &RunArgs,
    client: &Client,
    caches: Caches,
    publisher: Publisher,
    metrics: Metrics,
    authority: Authority,
    stop: &CancellationToken,
) -> anyhow::Result<Arc<Context>> {
    let policy =
        Policy { loopback: args.outbound_allow_loopback, denied: args.outbound_deny.clone(), ..Policy::default() };
    let outbound = Outbound::new(policy).context("cannot set up outbound HTTP")?;
    let settings = Settings {
        metrics_server: args.metrics_server.clone(),
        scrape_interval: Duration::from_secs(args.scrape_interval),
    };
    let measurer = Measurer::new(outbound.clone(), settings);
    let (outbox, sender, mut deliveries) = alerts::outbox(client.clone(), outbound);
    metrics.register(|registry| registry.register_collector(Box::new(outbox.clone())));
    tokio::spawn(sender.run(stop.clone()));
    let (desk, events) = Desk::new(client.clone(), &args.pod_name, outbox);
    tokio::spawn(events);
    let (canaries, delivery_desk) = (caches.canaries.clone(), desk.clone());
    tokio::spawn(async move {
        while let Some(report) = deliveries.recv().await {
            if let Some(canary) = canaries.get(&ObjectRef::new(&report.canary).within(&report.namespace)) {
                delivery_desk.delivery(&canary, &report);
            }
        }
    });
    let pool = PoolSettings {
        image: args.proxy_image.clone(),
        image_pull_policy: Some(args.proxy_image_pull_policy.clone()),
        operator: format!(
            "{}.{}.svc:{}",
            crds::names::OPERATOR_SERVICE,
            args.pod_namespace,
            proxy_api::OPERATOR_CONFIG_PORT
        ),
        ca_bundle: String::new(),
        scrape: true,
    };
    Ok(Arc::new(Context::new(client.clone(), caches, publisher, measurer, desk, metrics, authority, pool)))
}

/// Acknowledgements and connections move releases on, so they wake their passes.
async fn wake_on_acks(caches: Caches, publisher: Publisher, waker: Waker) {
    let mut changes = Box::pin(publisher.changes());
    while let Some(change) = futures::StreamExt::next(&mut changes).await {
        let key = ObjectRef::new(&change.canary).within(&change.namespace);
        if caches.canaries.get(&key).is_some() {
            waker.wake(&key);
        }
    }
}

/// Reconciles while this replica holds the lease; ends on a signal, or with an error when the lease is lost.
async fn lead(
    args: &RunArgs,
    Parts { client, health, metrics, context, mut wakes, waker, publisher: _ }: Parts,
    signals: &mut Signals,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let (sender, mut leading) = watch::channel(false);
    let lease = Lease {
        client,
        namespace: args.pod_namespace.clone(),
        name: crds::names::LEASE.to_owned(),
        pod: args.pod_name.clone(),
        timing: Timing::default(),
    };
    let release = CancellationToken::new();
    let mut election = tokio::spawn(lease.run(metrics, release.clone(), sender));
    let reconciles = async {
        tokio::select! {
            // An error means that the election has ended, which the select below sees.
            _ = leading.wait_for(|leading| *leading) => {}
            // The first pass of a leader is for every Canary there is.
            () = wakes.discard() => {}
        }
        tracing::info!("leading");
        // In one task with the controller: a pass that blocks it stops the beat, too.
        let beat = health.beat("controller", CONTROLLER_LIMIT);
        let beats = async {
            let mut every = tokio::time::interval(CONTROLLER_BEAT);
            loop {
                every.tick().await;
                beat.touch();
            }
        };
        tokio::select! {
            () = controller::run(Arc::clone(&context), wakes) => {}
            () = context.verdicts.run(&context.caches, &context.publisher, &waker) => {}
            () = beats => {}
        }
    };
    tokio::select! {
        ended = &mut election => {
            ended.context("the election panicked")?.context("leadership is lost")?;
            anyhow::bail!("the election ended by itself");
        }
        () = reconciles => anyhow::bail!("the controller ended by itself"),
        () = signals.next() => {}
    }
    tracing::info!("stopping");
    // Passes were dropped with `reconciles`; a write that was sent may still arrive, and the next leader's
    // compare-and-swap finds it.
    release.cancel();
    let released = tokio::time::timeout(DRAIN, election).await;
    stop.cancel();
    released
        .context("the lease was not released in time")?
        .context("the election panicked")?
        .context("cannot release the lease")
}
