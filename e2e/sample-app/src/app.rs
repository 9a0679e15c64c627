//! The sample application: what the demo and the stories release.
//!
//! A small HTTP server that says which version it is, fails or dawdles as its environment tells, and ends gently. It
//! decides nothing about releases. Order: [`Settings`], [`serve`], the answers, the echo on the second port.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// Port of the HTTP server in a pod.
pub const HTTP_PORT: u16 = 8080;
/// Port of the TCP echo in a pod.
pub const ECHO_PORT: u16 = 9090;
/// Header of every answer: the version that gave it.
pub const VERSION_HEADER: &str = "x-version";
/// Header of every answer: the pod that gave it.
pub const POD_HEADER: &str = "x-pod";
/// Header by which the proxies mark a copy (`docs/audience.md`).
const COPY_HEADER: &str = "x-sluice-mirrored";
/// How long a pod goes on accepting after SIGTERM: endpoints take about a second to reach every client.
const LINGER: Duration = Duration::from_secs(4);
/// Counter on `/metrics`: copies of requests that a pod got, by `version`.
pub const COPIES_TOTAL: &str = "app_copied_requests_total";
/// How long requests in flight may take after that.
const FINISH: Duration = Duration::from_secs(5);

/// What a version of the application does, from its environment.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `VERSION`: what the application calls itself.
    pub version: String,
    /// `HOSTNAME`: the name of the pod.
    pub pod: String,
    /// `ERROR_RATE`: percent of the requests that are answered with 500, 0 to 100.
    pub error_rate: f64,
    /// `LATENCY_MS`: how long an answer is held back.
    pub latency: Duration,
    /// `CRASH=1`: end at once with an error.
    pub crash: bool,
    /// `NEVER_READY=1`: the readiness probe always fails.
    pub never_ready: bool,
}

impl Settings {
    /// Reads them through `variable`, which is `std::env::var` outside of tests.
    ///
    /// # Errors
    /// When a number does not parse or is out of range; the message names the variable.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let number = |name: &str| -> Result<f64> {
            let text = variable(name).unwrap_or_else(|| "0".to_owned());
            text.parse().with_context(|| format!("{name} must be a number, not {text:?}"))
        };
        let error_rate = number("ERROR_RATE")?;
        if !(0.0..=100.0).contains(&error_rate) {
            bail!("ERROR_RATE must lie between 0 and 100");
        }
        let latency_ms = number("LATENCY_MS")?;
        if !(0.0..=600_000.0).contains(&latency_ms) {
            bail!("LATENCY_MS must lie between 0 and 600000");
        }
        let is_set = |name: &str| variable(name).is_some_and(|value| value == "1");
        Ok(Self {
            version: variable("VERSION").unwrap_or_else(|| "dev".to_owned()),
            pod: variable("HOSTNAME").unwrap_or_else(|| "local".to_owned()),
            error_rate,
            latency: Duration::from_secs_f64(latency_ms / 1_000.0),
            crash: is_set("CRASH"),
            never_ready: is_set("NEVER_READY"),
        })
    }
}

/// Serves both ports until `stop` resolves, then ends gently: goes on accepting for a while, tells clients to close,
/// and waits for what is in flight.
///
/// # Errors
/// When a listener breaks.
pub async fn serve(
    settings: Settings,
    http: TcpListener,
    echo: TcpListener,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let app = Arc::new(App {
        settings,
        requests: AtomicU64::new(0),
        failures: AtomicU64::new(0),
        copies: AtomicU64::new(0),
        leaving: AtomicBool::new(false),
    });
    let (close, closing) = watch::channel(false);
    let connections = TaskTracker::new();
    let mut stop = pin!(async {
        stop.await;
        app.leaving.store(true, Ordering::Relaxed);
        tokio::time::sleep(LINGER).await;
    });
    loop {
        tokio::select! {
            accepted = http.accept() => {
                connections.spawn(connection(accepted.context("cannot accept HTTP")?.0, app.clone(), closing.clone()));
            }
            accepted = echo.accept() => {
                connections.spawn(echo_back(accepted.context("cannot accept TCP")?.0, closing.clone()));
            }
            () = &mut stop => break,
        }
    }
    let _ = close.send(true);
    connections.close();
    // Whoever is still waiting after that long has given up.
    let _ = tokio::time::timeout(FINISH, connections.wait()).await;
    Ok(())
}

struct App {
    settings: Settings,
    requests: AtomicU64,
    failures: AtomicU64,
    /// Of the requests, those that are copies.
    copies: AtomicU64,
    /// After SIGTERM: answers ask the client to close its connection.
    leaving: AtomicBool,
}

async fn connection(stream: TcpStream, app: Arc<App>, mut closing: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let app = app.clone();
        async move { Ok::<_, Infallible>(app.answer(&request).await) }
    });
    let mut served =
        pin!(http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // A client that breaks off is its own affair.
        _ = &mut served => return,
        _ = closing.wait_for(|close| *close) => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}

impl App {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let mut response = match request.uri().path() {
            "/healthz" if self.settings.never_ready => {
                text(StatusCode::SERVICE_UNAVAILABLE, "never ready\n".to_owned())
            }
            "/healthz" => text(StatusCode::OK, "ready\n".to_owned()),
            "/metrics" => text(StatusCode::OK, self.metrics()),
            "/echo" => text(StatusCode::OK, head(request)),
            _ => {
                if request.headers().contains_key(COPY_HEADER) {
                    self.copies.fetch_add(1, Ordering::Relaxed);
                }
                self.work().await
            }
        };
        let headers = response.headers_mut();
        let value =
            |text: &str| HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("unprintable"));
        headers.insert(VERSION_HEADER, value(&self.settings.version));
        headers.insert(POD_HEADER, value(&self.settings.pod));
        if self.leaving.load(Ordering::Relaxed) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    async fn work(&self) -> Response<Full<Bytes>> {
        let Settings { version, pod, error_rate, latency, .. } = &self.settings;
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        if !latency.is_zero() {
            tokio::time::sleep(*latency).await;
        }
        if fails(number, *error_rate) {
            self.failures.fetch_add(1, Ordering::Relaxed);
            return text(StatusCode::INTERNAL_SERVER_ERROR, format!("{version} fails on purpose\n"));
        }
        text(StatusCode::OK, format!("{version} on {pod}\n"))
    }

    fn metrics(&self) -> String {
        let failures = self.failures.load(Ordering::Relaxed);
        let good = self.requests.load(Ordering::Relaxed).saturating_sub(failures);
        let version = &self.settings.version;
        let mut text = String::from("# TYPE app_requests_total counter\n");
        for (code, count) in [(200, good), (500, failures)] {
            let _ = writeln!(text, "app_requests_total{{version=\"{version}\",code=\"{code}\"}} {count}");
        }
        let copies = self.copies.load(Ordering::Relaxed);
        let _ = writeln!(text, "# TYPE {COPIES_TOTAL} counter\n{COPIES_TOTAL}{{version=\"{version}\"}} {copies}");
        text
    }
}

/// Spreads the failures evenly: the share is exact after a few requests, and two runs fail alike.
fn fails(number: u64, percent: f64) -> bool {
    #[allow(clippy::cast_precision_loss, reason = "request counts stay far below 2^52")]
    let quota = |n: u64| (n as f64 * percent / 100.0).floor();
    quota(number + 1) > quota(number)
}

/// The request's head as the pod got it, a line per field.
fn head(request: &Request<Incoming>) -> String {
    let mut text = format!("{} {}\n", request.method(), request.uri());
    for (name, value) in request.headers() {
        let _ = writeln!(text, "{name}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
    text
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Sends back what it receives, until the other side or the pod ends.
async fn echo_back(mut stream: TcpStream, mut closing: watch::Receiver<bool>) {
    let mut buffer = [0; 4_096];
    loop {
        let read = tokio::select! {
            read = stream.read(&mut buffer) => read,
            _ = closing.wait_for(|close| *close) => return,
        };
        let Ok(length) = read else { return };
        if length == 0 || stream.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk(pairs: &[(&str, &str)]) -> Result<Settings> {
        Settings::read(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn five_percent_are_five_in_a_hundred_evenly_spread() {
        let failed: Vec<u64> = (0..100).filter(|n| fails(*n, 5.0)).collect();
        assert_eq!(failed, [19, 39, 59, 79, 99]);
        assert!((0..1_000).all(|n| fails(n, 100.0)));
        assert!(!(0..1_000).any(|n| fails(n, 0.0)));
    }

    #[test]
    fn a_bad_variable_is_named() {
        assert!(format!("{:#}", mk(&[("ERROR_RATE", "much")]).unwrap_err()).contains("ERROR_RATE"));
        assert!(format!("{:#}", mk(&[("LATENCY_MS", "-1")]).unwrap_err()).contains("LATENCY_MS"));
        assert_eq!(mk(&[]).unwrap().version, "dev");
    }
}
