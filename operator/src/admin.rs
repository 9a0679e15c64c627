//! The operator's own state for kubelet and Prometheus: `/livez`, `/readyz`, `/metrics`.
//!
//! Others report here through [`Gate`] (ready or not) and [`Beat`] (still moving); this module only collects and
//! answers. A restart must help: a beat stands for a loop of this process, never for a server that is away.

mod client;
mod metrics;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use client::{ClientLayer, client, observe_client};
pub use metrics::Metrics;

/// A watch that was not opened anew for this long is stuck: the server ends each one after 290 s at the latest, and
/// kube-runtime gives up on a silent one 5 s later (`kube_runtime::watcher`, idle timeout). Twice that.
const WATCH_LIMIT: Duration = Duration::from_secs(600);

/// What the probes answer from. Cheap to clone.
#[derive(Clone, Default)]
pub struct Health {
    parts: Arc<Mutex<Parts>>,
}

#[derive(Default)]
struct Parts {
    gates: BTreeMap<&'static str, Arc<AtomicBool>>,
    beats: BTreeMap<&'static str, Pulse>,
}

struct Pulse {
    limit: Duration,
    last: Arc<Mutex<Instant>>,
}

/// One condition of readiness; closed at first.
#[derive(Clone)]
pub struct Gate(Arc<AtomicBool>);

/// A loop's sign of life.
#[derive(Clone)]
pub struct Beat(Arc<Mutex<Instant>>);

impl Health {
    /// Healthy, and ready as soon as a gate is asked for and opened.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A condition of readiness by this name, closed unless it is there and open already.
    #[must_use]
    pub fn gate(&self, name: &'static str) -> Gate {
        Gate(Arc::clone(self.parts().gates.entry(name).or_default()))
    }

    /// A loop that must call [`Beat::touch`] at least every `limit`, or `/livez` fails. The first beat is now.
    #[must_use]
    pub fn beat(&self, name: &'static str, limit: Duration) -> Beat {
        let last = Arc::new(Mutex::new(Instant::now()));
        self.parts().beats.insert(name, Pulse { limit, last: Arc::clone(&last) });
        Beat(last)
    }

    /// `/livez` fails when no watch of `plural` (`canaries`) was asked of the API server for ten minutes. Needs a client
    /// made by [`client`]. Not for a watch that is ended on purpose.
    pub fn watch(&self, plural: &'static str) {
        drop(self.beat(plural, WATCH_LIMIT));
    }

    /// A watch of `plural` is being asked for.
    fn watch_opened(&self, plural: &str) {
        if let Some(pulse) = self.parts().beats.get(plural) {
            Beat(Arc::clone(&pulse.last)).touch();
        }
    }

    /// Names of the loops that have been silent for too long.
    #[must_use]
    pub fn silent(&self) -> Vec<&'static str> {
        let now = Instant::now();
        let is_silent = |pulse: &Pulse| now.saturating_duration_since(*lock(&pulse.last)) > pulse.limit;
        self.parts().beats.iter().filter(|(_, pulse)| is_silent(pulse)).map(|(name, _)| *name).collect()
    }

    /// Names of the gates that are closed; `start` before the first gate is made.
    #[must_use]
    pub fn closed(&self) -> Vec<&'static str> {
        let parts = self.parts();
        if parts.gates.is_empty() {
            return vec!["start"];
        }
        parts.gates.iter().filter(|(_, open)| !open.load(Ordering::Relaxed)).map(|(name, _)| *name).collect()
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        lock(&self.parts)
    }
}

impl Gate {
    /// This condition is met.
    pub fn open(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// This condition is met no longer.
    pub fn close(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Beat {
    /// The loop has come round.
    pub fn touch(&self) {
        *lock(&self.0) = Instant::now();
    }
}

/// A poisoned lock holds a map or a time that is whole at every instruction.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves the three paths until `stop`.
pub async fn serve(listener: TcpListener, health: Health, metrics: Metrics, stop: CancellationToken) {
    let service = TowerToHyperService::new(router(health, metrics));
    stop.run_until_cancelled_owned(admin_server::serve(listener, service)).await;
}

fn router(health: Health, metrics: Metrics) -> Router {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let live = health.clone();
    Router::new()
        .route("/livez", get(move || async move { answer("silent", &live.silent()) }))
        .route("/readyz", get(move || async move { answer("not ready", &health.closed()) }))
        .route("/metrics", get(move || async move { ([(header::CONTENT_TYPE, OPEN_METRICS)], metrics.encode()) }))
}

fn answer(what: &str, missing: &[&'static str]) -> (StatusCode, String) {
    if missing.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("{what}: {}\n", missing.join(", ")))
}

#[cfg(test)]
mod tests;
