//! The operator's series. Labels are fixed words only: no object names, no paths, no error texts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::lock;

/// Prefix of every series of the operator.
const PREFIX: &str = "sluice_operator";

/// Every series of the operator, and the registry others add theirs to. Cheap to clone; one per process.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    reconciles: Family<Outcome, Counter>,
    reconcile_seconds: Histogram,
    releases: Family<Outcome, Counter>,
    api_errors: Family<Class, Counter>,
    api_requests: Family<ApiRequest, Counter>,
    leader: Gauge,
    pub(crate) route_acknowledged_seconds: Histogram,
    pub(crate) proxies: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Class {
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApiRequest {
    verb: Verb,
    code: u16,
}

/// What a request to the API server does. A get and a list look alike by method and are counted as `get`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are the label values")]
pub(super) enum Verb {
    get,
    watch,
    create,
    update,
    patch,
    delete,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry with the operator's series, all at zero.
    #[must_use]
    pub fn new() -> Self {
        // 1 ms to 16 s for a reconcile, 1 ms to 4 s for an acknowledgement, whose bar is 250 ms.
        let reconcile_seconds = Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let route_acknowledged_seconds =
            Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.175, 0.25, 0.5, 1.0, 2.0, 4.0]);
        let metrics = Self {
            registry: Arc::new(Mutex::new(Registry::with_prefix(PREFIX))),
            reconciles: Family::default(),
            reconcile_seconds,
            releases: Family::default(),
            api_errors: Family::default(),
            api_requests: Family::default(),
            leader: Gauge::default(),
            route_acknowledged_seconds,
            proxies: Gauge::default(),
        };
        metrics.register(|registry| metrics.describe(registry));
        metrics
    }

    fn describe(&self, registry: &mut Registry) {
        registry.register("reconciles", "Reconciles by outcome", self.reconciles.clone());
        registry.register("reconcile_seconds", "Time of a reconcile", self.reconcile_seconds.clone());
        registry.register("releases", "Releases ended, by outcome", self.releases.clone());
        registry.register("api_errors", "Failed calls of the API server, by class", self.api_errors.clone());
        registry.register("api_requests", "Requests to the API server (code 0: no answer)", self.api_requests.clone());
        registry.register("leader", "1 while this replica decides", self.leader.clone());
        let ack = "Time from a route's new counter to the acknowledgement of every connected proxy";
        registry.register("route_acknowledged_seconds", ack, self.route_acknowledged_seconds.clone());
        registry.register("proxies", "Proxies with an open config stream", self.proxies.clone());
    }

    /// Adds series of another module; their names get the prefix `sluice_operator_`.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut lock(&self.registry));
    }

    /// One reconcile ended: `outcome` is a fixed word such as `done`, `conflict`, `error`, `panic`.
    pub fn reconciled(&self, outcome: &'static str, took: Duration) {
        self.reconciles.get_or_create(&Outcome { outcome }).inc();
        self.reconcile_seconds.observe(took.as_secs_f64());
    }

    /// One release ended: `promoted`, `rolled_back`, …
    pub fn release(&self, outcome: &'static str) {
        self.releases.get_or_create(&Outcome { outcome }).inc();
    }

    /// A call of the API server failed for good, by the caller's classification.
    pub fn api_error(&self, class: &'static str) {
        self.api_errors.get_or_create(&Class { class }).inc();
    }

    /// Whether this replica decides.
    pub fn leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// One request was answered with `code`, 0 if it was not answered.
    pub(super) fn api_request(&self, verb: Verb, code: u16) {
        self.api_requests.get_or_create(&ApiRequest { verb, code }).inc();
    }

    /// All series in the OpenMetrics text format.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &lock(&self.registry)).expect("writing to a string cannot fail");
        text
    }
}
