//! Asks Prometheus for the metrics of a release and says what came of it.
//!
//! A [`Reading`] is a number only if there is exactly one, finite and fresh; everything else is told apart by what has
//! to happen next: traffic has to come, a person has to change something, or the server has to come back. No range is
//! compared here and nothing is decided; that is `rollout`'s. Every number, name and query may be wrong: none panics.
//!
//! Order: [`Measurer`], then the window. `request` is what is asked and `reading` what came of it; `builtin` and `template`
//! make queries, `prometheus` asks them, in `turns`.

mod builtin;
mod prometheus;
mod promql;
mod reading;
mod request;
mod template;
mod turns;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future;

use crate::outbound::{self, Outbound};
use prometheus::{Problem, Sample};
pub use reading::{Measurement, Reading};
pub use request::{BuiltIn, MetricRequest, Source, Subject};
pub use template::TemplateError;
use template::Values;
use turns::Turns;

/// Fewer requests of the canary in the window are no evidence, whatever their outcome.
pub const DEFAULT_MIN_REQUESTS: u64 = 3;
/// For one measurement, waiting for a turn included: Prometheus' own default for slow queries would outlast intervals.
const DEADLINE: Duration = Duration::from_secs(5);
/// Shortest window that is chosen without being asked for (DESIGN §10).
const WINDOW_MIN: Duration = Duration::from_secs(10);
/// Scrapes that a window chosen here spans at least, so that one lost scrape does not empty it.
const WINDOW_SCRAPES: u32 = 4;
/// Scrapes after which a weight has evidence of its own.
const EVIDENCE_SCRAPES: u32 = 3;
/// What is the same for all measurements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// URL of the Prometheus that scrapes the proxies (`--metrics-server`).
    pub metrics_server: String,
    /// How often it scrapes them (`--scrape-interval`).
    pub scrape_interval: Duration,
}

/// Checks a template without asking anyone.
///
/// # Errors
/// [`TemplateError`], as at the first measurement.
pub fn check_template(query: &str, variables: &BTreeMap<String, String>) -> Result<(), TemplateError> {
    let (namespace, name, revision, interval) = ("default", "web", "5d9f", "10s");
    let values = Values { namespace, name, target: name, service: name, revision, interval, variables };
    template::render(query, &values).map(drop)
}

/// Measures; clones share connections and limits.
#[derive(Clone, Debug)]
pub struct Measurer {
    outbound: Outbound,
    settings: Arc<Settings>,
    turns: Arc<Turns>,
    deadline: Duration,
}

impl Measurer {
    /// Nothing is asked yet: a wrong address shows in each measurement.
    #[must_use]
    pub fn new(outbound: Outbound, settings: Settings) -> Self {
        Self { outbound, settings: Arc::new(settings), turns: Arc::default(), deadline: DEADLINE }
    }

    /// A weight younger than this has no evidence of its own: a value may fail a check earlier, but must not pass one.
    #[must_use]
    pub fn evidence_after(&self) -> Duration {
        self.settings.scrape_interval * EVIDENCE_SCRAPES
    }

    /// Length of the shortest window of a built-in: what is younger shares it with what was before.
    #[must_use]
    pub fn shortest_window(&self) -> Duration {
        self.settings.scrape_interval * WINDOW_SCRAPES
    }

    /// All of `requests` at once, in their order. Takes at most 5 s; dropping the future ends the queries.
    pub async fn measure_all(&self, requests: &[MetricRequest]) -> Vec<Measurement> {
        future::join_all(requests.iter().map(|request| self.measure(request))).await
    }

    /// Takes at most 5 s; dropping the future ends the query.
    pub async fn measure(&self, request: &MetricRequest) -> Measurement {
        let result = match &request.source {
            Source::BuiltIn(metric) => self.built_in(*metric, request).await,
            Source::Template { name, query, address, variables } => {
                let value = self.template(request, query, address.as_deref(), variables).await;
                value.map(|value| (value, None)).map_err(|problem| problem.about(&format!("MetricTemplate {name}: ")))
            }
            Source::Missing { name } => Err(Problem::Unusable(format!(
                "MetricTemplate {name} does not exist in namespace {}: create it there, or correct metrics[].templateRef",
                request.subject.namespace
            ))),
        };
        let (reading, requests) = match result {
            Ok((value, requests)) => (Reading::Value(value), requests),
            Err(problem) => (problem.about(&format!("metric {}: ", request.metric)).into(), None),
        };
        Measurement { metric: request.metric.clone(), reading, requests }
    }

    async fn built_in(&self, metric: BuiltIn, request: &MetricRequest) -> Result<(f64, Option<f64>), Problem> {
        let scrape_interval = self.settings.scrape_interval;
        let window = built_in_window(request, scrape_interval);
        let query = builtin::query(metric, &request.subject, window, scrape_interval);
        let samples = self.ask(&self.settings.metrics_server, "--metrics-server", &query).await?;
        let find = |reading| {
            let labelled = |sample: &&Sample| sample.label(builtin::READING_LABEL) == Some(reading);
            samples.iter().find(labelled).map(|sample| sample.value)
        };
        // At least one: 0/0 is NaN, and no traffic is not a broken answer.
        let needed = request.min_requests.max(1);
        let requests = find(builtin::READING_REQUESTS);
        let enough = requests.is_some_and(|requests| requests >= needed as f64);
        if metric == BuiltIn::MirroredSuccessRate && !enough {
            return Err(Problem::NoData(no_copies(window)));
        }
        let Some(requests) = requests else {
            return Err(Problem::NoData(format!(
                "Prometheus has no requests of revision {} in the last {}; expected traffic at the canary's weight, and \
                 the proxies scraped every {} (--scrape-interval)",
                request.subject.canary_revision,
                promql::duration(window),
                promql::duration(scrape_interval)
            )));
        };
        if !enough {
            return Err(Problem::NoData(format!(
                "{requests} requests of revision {} in the last {}; expected at least {} (a longer metrics[].interval \
                 collects more)",
                request.subject.canary_revision,
                promql::duration(window),
                needed
            )));
        }
        match find(builtin::READING_VALUE) {
            Some(value) if value.is_finite() => Ok((value, Some(requests))),
            Some(value) if value.is_nan() => {
                Err(Problem::NoData("Prometheus answered NaN: the window holds no latencies yet".to_owned()))
            }
            Some(value) => Err(Problem::not_finite(value)),
            None => Err(Problem::Unusable("Prometheus answered without the value that was asked for".to_owned())),
        }
    }

    async fn template(
        &self,
        request: &MetricRequest,
        query: &str,
        address: Option<&str>,
        variables: &BTreeMap<String, String>,
    ) -> Result<f64, Problem> {
        let subject = &request.subject;
        let values = Values {
            namespace: &subject.namespace,
            name: &subject.name,
            target: &subject.target,
            service: &subject.service,
            revision: &subject.canary_revision,
            interval: &promql::duration(wanted_window(request, self.settings.scrape_interval)),
            variables,
        };
        let query =
            template::render(query, &values).map_err(|error| Problem::Unusable(format!("spec.query, {error}")))?;
        let (address, field) = match address {
            Some(address) => (address, "spec.provider.address"),
            None => (self.settings.metrics_server.as_str(), "--metrics-server"),
        };
        prometheus::single(&self.ask(address, field, &query).await?)
    }

    /// `field` is where the address was written.
    async fn ask(&self, address: &str, field: &str, query: &str) -> Result<Vec<Sample>, Problem> {
        let server = prometheus::endpoint(address)
            .map_err(|problem| Problem::Unusable(format!("{field} '{address}': {problem}")))?;
        let asked = tokio::time::timeout(self.deadline, async {
            let turn = self.turns.take(&server).await;
            let answer = prometheus::query(&self.outbound, &server, query, self.deadline).await;
            drop(turn);
            answer
        });
        asked.await.unwrap_or_else(|_| {
            Err(Problem::Unreachable(format!(
                "no answer from {} within {} s",
                outbound::place(&server),
                self.deadline.as_secs_f64()
            )))
        })
    }
}

fn no_copies(window: Duration) -> String {
    let window = promql::duration(window);
    format!(
        "no copies, or too few, were answered in the last {window}; only GET, HEAD, OPTIONS and TRACE requests are copied \
         (without analysis.mirror the release goes on)"
    )
}

/// The window that was asked for, or the longest of the analysis interval, four scrapes and 10 s.
fn wanted_window(request: &MetricRequest, scrape_interval: Duration) -> Duration {
    let chosen = request.analysis_interval.max(scrape_interval * WINDOW_SCRAPES).max(WINDOW_MIN);
    request.declared_window.unwrap_or(chosen)
}

/// The window of a built-in: as wanted, but not reaching back before the weight in force was acknowledged, so that a
/// light step does not vouch for a heavier one; never below four scrapes, which keeps a young weight from being judged
/// by one sample. Other revisions are kept out by their label, whatever the window.
///
/// Templates get their window whole: their series may be scraped at any interval, which we do not know.
fn built_in_window(request: &MetricRequest, scrape_interval: Duration) -> Duration {
    let floor = scrape_interval * WINDOW_SCRAPES;
    // To the second: equal queries of one step hit Prometheus' caches, and people can read them.
    let age = Duration::from_secs(request.weight_age.as_secs());
    wanted_window(request, scrape_interval).min(age).max(floor)
}

#[cfg(test)]
mod real;
#[cfg(test)]
mod tests;
