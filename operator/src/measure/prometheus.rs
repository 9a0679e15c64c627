//! Asks one Prometheus one instant query, and reads the answer strictly.
//!
//! The crate `prometheus-http-query` is not used: it reads the whole body before looking at it, so its size cannot be
//! bounded, and it has no strings, histograms or short sample arrays, which a broken answer may well hold. What remains
//! of the protocol is one form and one JSON shape.
//!
//! Bodies are not repeated in sentences, but for one thing that people need: where a query does not parse.

use std::{collections::BTreeMap, time::Duration};

use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;

use super::promql;
use crate::outbound::{self, Limits, Outbound, OutboundError};
use crate::telemetry::Chain;

/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// An answer dated further from our clock than this is a cache's, or one of the clocks is wrong.
const ANSWER_AGE_MAX_SECONDS: f64 = 30.0;
/// Longest position and cause of a parse error that is shown.
const PARSE_ERROR_CHARS_MAX: usize = 160;

/// Why there is no number, with a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// See `Reading::NoData`.
    NoData(String),
    /// See `Reading::Unusable`.
    Unusable(String),
    /// See `Reading::Unreachable`.
    Unreachable(String),
}

impl Problem {
    /// The same, with `prefix` in front of the sentence.
    pub(super) fn about(self, prefix: &str) -> Self {
        match self {
            Self::NoData(why) => Self::NoData(format!("{prefix}{why}")),
            Self::Unusable(why) => Self::Unusable(format!("{prefix}{why}")),
            Self::Unreachable(why) => Self::Unreachable(format!("{prefix}{why}")),
        }
    }

    pub(super) fn not_finite(value: f64) -> Self {
        let shown = if value.is_sign_negative() { "-Inf" } else { "+Inf" };
        Self::Unusable(format!("Prometheus answered {shown}; expected one finite number"))
    }
}

/// One series of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    labels: BTreeMap<String, String>,
    time_seconds: f64,
    pub(super) value: f64,
}

impl Sample {
    pub(super) fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }
}

/// Where queries of the server at `address` go.
pub(super) fn endpoint(address: &str) -> Result<Url, OutboundError> {
    let mut url = outbound::parse_address(address)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(OutboundError::Address { problem: "expected a URL without '?' and '#'" });
    }
    let path = format!("{}/api/v1/query", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

/// Asks; every series of the answer is finite or NaN or infinite, but one number and fresh.
pub(super) async fn query(
    outbound: &Outbound,
    endpoint: &Url,
    query: &str,
    deadline: Duration,
) -> Result<Vec<Sample>, Problem> {
    let timeout = promql::duration(deadline);
    let mut form = Url::parse("form:").expect("a constant URL");
    form.query_pairs_mut().append_pair("query", query).append_pair("timeout", &timeout);
    let body = form.query().unwrap_or_default().as_bytes().to_vec();
    let limits = Limits { deadline, answer_bytes: ANSWER_BYTES_MAX };
    let answer = outbound.post(endpoint, "application/x-www-form-urlencoded", body, limits).await.map_err(|error| {
        tracing::debug!(server.address = outbound::place(endpoint), error = %Chain(&error), "prometheus query failed");
        if error.passing() {
            Problem::Unreachable(error.to_string())
        } else {
            Problem::Unusable(format!("{error}; expected the answer of a Prometheus"))
        }
    })?;
    let now_seconds = chrono::Utc::now().timestamp_millis() as f64 / 1_000.0;
    read(answer.status, &answer.body, now_seconds)
        .map_err(|problem| problem.about(&format!("server {}: ", outbound::place(endpoint))))
}

/// The one number of an answer that should hold one.
pub(super) fn single(samples: &[Sample]) -> Result<f64, Problem> {
    match samples {
        [] => Err(Problem::NoData(
            "the query has no result at present; expected exactly one number: is there traffic, and do the labels match?"
                .to_owned(),
        )),
        [Sample { value, .. }] if value.is_nan() => Err(Problem::NoData(
            "Prometheus answered NaN, as 0/0 does without traffic; expected one finite number".to_owned(),
        )),
        [Sample { value, .. }] if value.is_infinite() => Err(Problem::not_finite(*value)),
        [Sample { value, .. }] => Ok(*value),
        several => Err(Problem::Unusable(format!(
            "the query has {} series as its result; expected exactly one, as an outer sum(…) gives",
            several.len()
        ))),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    status: String,
    data: Option<Data>,
    error_type: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    result: Value,
}

/// Reads the answer to an instant query (Prometheus HTTP API, "Expression query result formats").
pub(super) fn read(status: u16, body: &[u8], now_seconds: f64) -> Result<Vec<Sample>, Problem> {
    let Ok(envelope) = serde_json::from_slice::<Envelope>(body) else {
        return Err(not_an_answer(status, body));
    };
    let data = match envelope {
        Envelope { status: word, data: Some(data), .. } if word == "success" && (200..300).contains(&status) => data,
        Envelope { status: word, error_type: Some(kind), error, .. } if word == "error" => {
            return Err(refused(&kind, error.as_deref().unwrap_or_default()));
        }
        _ => return Err(not_an_answer(status, body)),
    };
    let samples = match (data.result_type.as_str(), data.result) {
        ("vector", Value::Array(elements)) => elements.into_iter().map(element).collect::<Result<Vec<_>, _>>()?,
        ("scalar", value) => vec![sample(BTreeMap::new(), &value)?],
        ("matrix", _) => return Err(expected_number("a range of samples (matrix)")),
        ("string", _) => return Err(expected_number("a string")),
        _ => return Err(Problem::Unusable("the answer has a result type that Prometheus does not have".to_owned())),
    };
    samples.into_iter().map(|sample| fresh(sample, now_seconds)).collect()
}

fn fresh(sample: Sample, now_seconds: f64) -> Result<Sample, Problem> {
    let age_seconds = now_seconds - sample.time_seconds;
    // Written so that a time that is no number fails, too.
    if age_seconds.abs() <= ANSWER_AGE_MAX_SECONDS {
        return Ok(sample);
    }
    let direction = if age_seconds < 0.0 { "ahead of our clock" } else { "old" };
    Err(Problem::Unreachable(format!(
        "the answer is {:.0} s {direction}; expected at most {ANSWER_AGE_MAX_SECONDS} s: is a cache in between, or a \
         clock wrong?",
        age_seconds.abs()
    )))
}

fn element(mut element: Value) -> Result<Sample, Problem> {
    if element.get("value").is_none() && element.get("histogram").is_some() {
        return Err(expected_number("a histogram"));
    }
    let labels = element.get_mut("metric").map(Value::take).unwrap_or_default();
    sample(serde_json::from_value(labels).unwrap_or_default(), element.get("value").unwrap_or(&Value::Null))
}

/// `[ <seconds>, "<number>" ]`
fn sample(labels: BTreeMap<String, String>, value: &Value) -> Result<Sample, Problem> {
    let pair = match value.as_array().map(Vec::as_slice) {
        Some([time, Value::String(number)]) => time.as_f64().zip(number.parse().ok()),
        _ => None,
    };
    pair.map(|(time_seconds, value)| Sample { labels, time_seconds, value })
        .ok_or_else(|| Problem::Unusable("the answer holds a sample that is not a pair of time and number".to_owned()))
}

fn expected_number(found: &str) -> Problem {
    Problem::Unusable(format!("the query has {found} as its result; expected one number"))
}

/// `status: error`. The kinds are those of Prometheus' `web/api/v1`.
fn refused(kind: &str, error: &str) -> Problem {
    match kind {
        "bad_data" => Problem::Unusable(match parse_error(error) {
            Some(place) => format!("the query does not parse: {place}"),
            None => "the query does not parse".to_owned(),
        }),
        "execution" => Problem::Unusable(
            "the query cannot be evaluated; expected vectors whose labels match one to one".to_owned(),
        ),
        "timeout" => Problem::Unreachable("the query took too long".to_owned()),
        "canceled" | "internal" | "unavailable" => {
            Problem::Unreachable("Prometheus could not evaluate the query just now".to_owned())
        }
        _ => Problem::Unusable("Prometheus refused the query".to_owned()),
    }
}

/// `1:13: parse error: unexpected end of input`: text about the user's own query. Anything of another form stays
/// unrepeated: an address in a template may lead to a server whose answers are not for the template's author.
fn parse_error(error: &str) -> Option<String> {
    let text = error.strip_prefix("invalid parameter \"query\": ").unwrap_or(error);
    let (line, rest) = text.split_once(':')?;
    let (column, rest) = rest.split_once(':')?;
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let shape = number(line) && number(column) && rest.starts_with(" parse error: ");
    let readable = |c: &char| !c.is_control();
    shape.then(|| text.chars().filter(readable).take(PARSE_ERROR_CHARS_MAX).collect())
}

fn not_an_answer(status: u16, body: &[u8]) -> Problem {
    let html = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'<');
    match status {
        200..=299 if html => {
            Problem::Unusable("answered with a web page; expected the JSON of a Prometheus".to_owned())
        }
        200..=299 => Problem::Unusable("the answer is not the JSON of a Prometheus".to_owned()),
        401 | 403 => Problem::Unusable(format!(
            "access was refused (status {status}); expected a Prometheus that can be asked without credentials"
        )),
        408 | 429 | 500..=599 => Problem::Unreachable(format!("status {status}")),
        _ => Problem::Unusable(format!("status {status}; expected a Prometheus, with /api/v1/query below its address")),
    }
}

#[cfg(test)]
mod tests;
