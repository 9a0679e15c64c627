//! The load generator and the sample application against each other on loopback.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::SocketAddr;
use std::time::Duration;

use e2e::app::{self, Settings};
use e2e::load::{self, Failure, Load};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

struct App {
    http: SocketAddr,
    echo: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<anyhow::Result<()>>,
}

async fn mk_app(variables: &[(&str, &str)]) -> App {
    let settings =
        Settings::read(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()));
    let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (stop, stopped) = oneshot::channel();
    let addresses = (http.local_addr().unwrap(), echo.local_addr().unwrap());
    let stop_signal = async move {
        let _ = stopped.await;
    };
    let ended = tokio::spawn(app::serve(settings.unwrap(), http, echo, stop_signal));
    App { http: addresses.0, echo: addresses.1, stop, ended }
}

/// Runs `rps` until `enough` requests ended.
async fn run(address: SocketAddr, rps: u32, enough: u64) -> load::Report {
    let load = Load::start(load::Settings::new(address, "app", rps));
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    while load.report().requests < enough {
        tick.tick().await;
    }
    load.stop().await
}

#[tokio::test]
async fn every_answer_is_counted_with_its_version() {
    let app = mk_app(&[("VERSION", "v2"), ("ERROR_RATE", "5")]).await;
    let report = run(app.http, 500, 400).await;
    assert_eq!(report.of("v2"), report.requests, "{report}");
    assert_eq!(report.broken(), 0, "{report}");
    assert_eq!(report.server_errors, report.requests / 20, "{report}");
}

#[tokio::test]
async fn latency_of_the_application_is_seen() {
    let app = mk_app(&[("LATENCY_MS", "80")]).await;
    let report = run(app.http, 100, 50).await;
    assert!(report.quantile(50.0) >= Duration::from_millis(80), "{report}");
}

#[tokio::test]
async fn nobody_listening_is_a_connect_failure() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let report = run(free, 100, 20).await;
    assert_eq!(report.failures.get(&Failure::Connect), Some(&report.requests), "{report}");
    assert_eq!(report.lost(), report.requests);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_a_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1_024]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
        }
    });
    let report = run(address, 100, 20).await;
    assert_eq!(report.failures.get(&Failure::Reset), Some(&report.requests), "{report}");
}

#[tokio::test]
async fn a_version_that_is_stopped_finishes_what_it_was_given() {
    let app = mk_app(&[("LATENCY_MS", "20")]).await;
    let load = Load::start(load::Settings::new(app.http, "app", 200));
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    while load.report().requests < 100 {
        tick.tick().await;
    }
    app.stop.send(()).unwrap();
    while load.report().requests < 300 {
        tick.tick().await;
    }
    let report = load.stop().await;
    app.ended.await.unwrap().unwrap();
    assert_eq!(report.lost(), 0, "{report}");
}

#[tokio::test]
async fn the_second_port_echoes() {
    let app = mk_app(&[]).await;
    let mut stream = TcpStream::connect(app.echo).await.unwrap();
    stream.write_all(b"sluice").await.unwrap();
    let mut buffer = [0; 6];
    stream.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"sluice");
}
