//! What came of a query: a number, or why there is none.

use super::prometheus::Problem;

/// What one query came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// One finite, fresh number.
    Value(f64),
    /// The query is fine, there was nothing to measure: no traffic, or too little.
    NoData {
        /// One sentence for people.
        why: String,
    },
    /// A person has to change the metric, the template or the address.
    Unusable {
        /// One sentence for people: what was wrong and what was expected.
        why: String,
    },
    /// The server could not be asked; it may answer later.
    Unreachable {
        /// One sentence for people.
        why: String,
    },
}

impl Reading {
    /// The number, if it is one.
    #[must_use]
    pub const fn value(&self) -> Option<f64> {
        match self {
            Self::Value(value) => Some(*value),
            Self::NoData { .. } | Self::Unusable { .. } | Self::Unreachable { .. } => None,
        }
    }

    /// Why there is no number.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Value(_) => None,
            Self::NoData { why } | Self::Unusable { why } | Self::Unreachable { why } => Some(why),
        }
    }

    /// One word for conditions, Events and metric labels.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Value(_) => "Measured",
            Self::NoData { .. } => "NoMetricData",
            Self::Unusable { .. } => "MetricUnusable",
            Self::Unreachable { .. } => "MetricsUnreachable",
        }
    }
}

/// A reading and what it rests on.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// `metrics[].name`.
    pub metric: String,
    /// What the query came to.
    pub reading: Reading,
    /// Requests of the canary in the window, for built-ins that Prometheus answered.
    pub requests: Option<f64>,
}

impl From<Problem> for Reading {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::NoData(why) => Self::NoData { why },
            Problem::Unusable(why) => Self::Unusable { why },
            Problem::Unreachable(why) => Self::Unreachable { why },
        }
    }
}
