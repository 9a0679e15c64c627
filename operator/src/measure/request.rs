//! What is asked: one metric of one Canary, as plain data.

use std::{collections::BTreeMap, time::Duration};

/// One metric of one Canary, as plain data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricRequest {
    /// `metrics[].name`.
    pub metric: String,
    /// Where the query comes from.
    pub source: Source,
    /// What is measured.
    pub subject: Subject,
    /// `metrics[].interval`.
    pub declared_window: Option<Duration>,
    /// `analysis.interval`.
    pub analysis_interval: Duration,
    /// Time since every proxy acknowledged the weight in force.
    pub weight_age: Duration,
    /// For built-ins: fewer requests in the window are [`super::Reading::NoData`].
    pub min_requests: u64,
}

/// Where a query comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Over the proxies' series, at the operator's metrics server.
    BuiltIn(BuiltIn),
    /// `spec` of a `MetricTemplate`.
    Template {
        /// Its name.
        name: String,
        /// `spec.query`.
        query: String,
        /// `spec.provider.address`; the operator's metrics server if absent.
        address: Option<String>,
        /// `metrics[].templateVariables`.
        variables: BTreeMap<String, String>,
    },
    /// `templateRef` names a `MetricTemplate` that is not there.
    Missing {
        /// The name.
        name: String,
    },
}

/// The metrics that need no template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BuiltIn {
    /// Percent of answers that were not 5xx.
    RequestSuccessRate,
    /// 99th percentile in milliseconds, interpolated inside the histogram's buckets.
    RequestDuration,
    /// Percent of the copied requests that were answered, and not with 5xx; what [`Self::RequestSuccessRate`] is while
    /// traffic is mirrored. Copies are in no arm, so nothing else reads them.
    MirroredSuccessRate,
}

impl BuiltIn {
    /// The built-in of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "request-success-rate" => Some(Self::RequestSuccessRate),
            "request-duration" => Some(Self::RequestDuration),
            _ => None,
        }
    }

    /// Unit of its values.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::RequestSuccessRate | Self::MirroredSuccessRate => "%",
            Self::RequestDuration => "ms",
        }
    }

    /// A value for people: `94.81 %`, `182 ms`.
    #[must_use]
    pub fn show(self, value: f64) -> String {
        match self {
            // Cut, not rounded: 99.999 % with a failure must not read as 100 %.
            Self::RequestSuccessRate | Self::MirroredSuccessRate => format!("{:.2} %", (value * 100.0).floor() / 100.0),
            Self::RequestDuration if value < 10.0 => format!("{value:.1} ms"),
            Self::RequestDuration => format!("{value:.0} ms"),
        }
    }
}

/// The release that is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The Canary's namespace.
    pub namespace: String,
    /// The Canary's name.
    pub name: String,
    /// The Deployment's name.
    pub target: String,
    /// The Service's name.
    pub service: String,
    /// Pod-template hash under test.
    pub canary_revision: String,
}
