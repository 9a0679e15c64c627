//! The image of the demo and the stories: the sample application, and the two helpers that run beside it in the demo.
//!
//! `sample-app` serves; `sample-app load <address> <host> <rps>` puts load on a Service and tells its counts on
//! `/stats`; `sample-app slack` stands in for Slack and tells what it received on `/messages`.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use sample_app::load::{self, Load};
use sample_app::{app, server, slack};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        [] => sample_app().await,
        ["load", address, host, rps] => put_load(address, host, rps).await,
        ["slack"] => stand_in_for_slack().await,
        other => bail!("usage: sample-app [load <address> <host> <rps> | slack], not {other:?}"),
    }
}

async fn sample_app() -> Result<()> {
    let settings = app::Settings::read(|name| std::env::var(name).ok())?;
    if settings.crash {
        bail!("{} crashes on purpose", settings.version);
    }
    let http = listen(app::HTTP_PORT).await?;
    let echo = listen(app::ECHO_PORT).await?;
    app::serve(settings, http, echo, terminated()?).await
}

async fn put_load(address: &str, host: &str, rps: &str) -> Result<()> {
    let address = address.parse().with_context(|| format!("{address} is no address"))?;
    let rps = rps.parse().with_context(|| format!("{rps} is no number of requests per second"))?;
    let settings = load::Settings { timeout: Duration::from_secs(5), ..load::Settings::new(address, host, rps) };
    let load = Arc::new(Load::start(settings));
    let counts = load.clone();
    let _server = server::Server::start(listen(app::HTTP_PORT).await?, move |_| {
        let body = serde_json::to_vec(&counts.report()).unwrap_or_default();
        async { server::json(http::StatusCode::OK, body) }
    })?;
    terminated()?.await;
    Ok(())
}

async fn stand_in_for_slack() -> Result<()> {
    let receiver = slack::Receiver::serve(listen(app::HTTP_PORT).await?)?;
    terminated()?.await;
    drop(receiver);
    Ok(())
}

async fn listen(port: u16) -> Result<TcpListener> {
    let any = Ipv4Addr::UNSPECIFIED;
    TcpListener::bind((any, port)).await.with_context(|| format!("cannot listen on port {port}"))
}

/// Resolves when the kubelet asks the pod to end.
fn terminated() -> Result<impl Future<Output = ()>> {
    let mut signal = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    Ok(async move {
        signal.recv().await;
    })
}
