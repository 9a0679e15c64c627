//! What the load generator counts. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use proxy_api::latency;
use serde::{Deserialize, Serialize};

/// Why a request got no complete answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Failure {
    /// No connection could be opened.
    Connect,
    /// The connection broke before the answer was complete.
    Reset,
    /// No complete answer in time.
    Timeout,
}

/// Counts since the start of a load, or between two moments of it ([`Report::since`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Requests that a connection took up; those in flight at a moment are these less the ones that have ended.
    pub begun: u64,
    /// Requests that ended: answered or lost.
    pub requests: u64,
    /// Complete answers with 500 or above.
    pub server_errors: u64,
    /// Those by the version that gave them; empty for answers that no version gave.
    pub errors_by_version: BTreeMap<String, u64>,
    /// Requests without a complete answer, by kind.
    pub failures: BTreeMap<Failure, u64>,
    /// Complete answers, whatever their status, by the version that gave them.
    pub by_version: BTreeMap<String, u64>,
    /// Sent again on a new connection, because the old one was closed before anything was written.
    pub returned: u64,
    /// Never sent, because the generator itself was too slow.
    pub skipped: u64,
    /// Time from due to complete, by bucket of [`proxy_api::latency`].
    pub latency: BTreeMap<u32, u64>,
}

impl Report {
    pub(super) fn count(&mut self, answer: Result<(u16, String), Failure>, took: Duration) {
        self.requests += 1;
        match answer {
            Ok((status, version)) => {
                if status >= 500 {
                    self.server_errors += 1;
                    *self.errors_by_version.entry(version.clone()).or_default() += 1;
                }
                *self.by_version.entry(version).or_default() += 1;
                let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                *self.latency.entry(latency::index(micros)).or_default() += 1;
            }
            Err(failure) => *self.failures.entry(failure).or_default() += 1,
        }
    }

    /// Requests without a complete answer below 500.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.server_errors + self.broken()
    }

    /// Requests without a complete answer: what a release must never cause, whatever the version answers.
    #[must_use]
    pub fn broken(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Requests without a complete answer for one reason.
    #[must_use]
    pub fn failed(&self, failure: Failure) -> u64 {
        self.failures.get(&failure).copied().unwrap_or(0)
    }

    /// Complete answers of one version.
    #[must_use]
    pub fn of(&self, version: &str) -> u64 {
        self.by_version.get(version).copied().unwrap_or(0)
    }

    /// Percent of the complete answers that `version` gave; 0 without any.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "request counts stay far below 2^52")]
    pub fn share(&self, version: &str) -> f64 {
        let all: u64 = self.by_version.values().sum();
        if all == 0 { 0.0 } else { 100.0 * self.of(version) as f64 / all as f64 }
    }

    /// Percent of the complete answers of `version` that were below 500; `None` without any.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "request counts stay far below 2^52")]
    pub fn success_percent(&self, version: &str) -> Option<f64> {
        let (all, failed) = (self.of(version), self.errors_by_version.get(version).copied().unwrap_or(0));
        (all > 0).then(|| 100.0 * (all - failed) as f64 / all as f64)
    }

    /// The latency that `percent` of the complete answers stayed below; zero without any.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "request counts stay far below 2^52")]
    pub fn quantile(&self, percent: f64) -> Duration {
        let all: u64 = self.latency.values().sum();
        let wanted = all as f64 * percent / 100.0;
        let mut seen = 0;
        for (bucket, count) in &self.latency {
            seen += count;
            if seen as f64 >= wanted {
                return Duration::from_micros(latency::lower_bound(bucket + 1));
            }
        }
        Duration::ZERO
    }

    /// What was counted after `earlier`, a report of the same load.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            begun: self.begun - earlier.begun,
            requests: self.requests - earlier.requests,
            server_errors: self.server_errors - earlier.server_errors,
            errors_by_version: difference(&self.errors_by_version, &earlier.errors_by_version),
            failures: difference(&self.failures, &earlier.failures),
            by_version: difference(&self.by_version, &earlier.by_version),
            returned: self.returned - earlier.returned,
            skipped: self.skipped - earlier.skipped,
            latency: difference(&self.latency, &earlier.latency),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            begun: _,
            requests,
            server_errors,
            errors_by_version,
            failures,
            by_version,
            returned,
            skipped,
            latency: _,
        } = self;
        write!(out, "{requests} requests, {} lost", self.lost())?;
        if self.lost() > 0 {
            write!(out, " ({server_errors} answers ≥ 500: {errors_by_version:?}, {failures:?})")?;
        }
        write!(out, ", p50 {:.1?}, p99 {:.1?}, by version {by_version:?}", self.quantile(50.0), self.quantile(99.0))?;
        if *returned > 0 || *skipped > 0 {
            write!(out, ", {returned} returned, {skipped} skipped")?;
        }
        Ok(())
    }
}

fn difference<K: Clone + Ord>(later: &BTreeMap<K, u64>, earlier: &BTreeMap<K, u64>) -> BTreeMap<K, u64> {
    let change = |key: &K, count: &u64| count - earlier.get(key).copied().unwrap_or(0);
    later.iter().map(|(key, count)| (key.clone(), change(key, count))).filter(|(_, count)| *count > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(report: &mut Report, status: u16, version: &str, millis: u64) {
        report.count(Ok((status, version.to_owned())), Duration::from_millis(millis));
    }

    #[test]
    fn lost_counts_5xx_and_broken_but_not_4xx() {
        let mut report = Report::default();
        answer(&mut report, 200, "v1", 1);
        answer(&mut report, 404, "v1", 1);
        answer(&mut report, 503, "", 1);
        report.count(Err(Failure::Reset), Duration::ZERO);
        assert_eq!((report.requests, report.lost(), report.broken()), (4, 2, 1));
    }

    #[test]
    fn shares_and_quantiles_follow_the_counts() {
        let mut report = Report::default();
        for n in 0..100 {
            answer(&mut report, 200, if n < 10 { "v2" } else { "v1" }, if n < 98 { 1 } else { 500 });
        }
        assert!((report.share("v2") - 10.0).abs() < 1e-9);
        assert!(report.quantile(50.0) < Duration::from_millis(2));
        assert!(report.quantile(99.0) >= Duration::from_millis(500));
    }

    #[test]
    fn a_difference_leaves_out_what_was_before() {
        let mut report = Report::default();
        answer(&mut report, 200, "v1", 1);
        let earlier = report.clone();
        answer(&mut report, 500, "v2", 1);
        let difference = report.since(&earlier);
        assert_eq!(difference.success_percent("v2"), Some(0.0));
        assert_eq!((difference.requests, difference.lost(), difference.of("v1"), difference.of("v2")), (1, 1, 0, 1));
    }
}
