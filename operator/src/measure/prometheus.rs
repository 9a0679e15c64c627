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
        tracing::debug!(error = ?error, "prometheus query failed");
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
mod tests {
    use super::*;

    const NOW: f64 = 1_000_000.0;

    fn success(kind: &str, result: &str) -> String {
        format!(r#"{{"status":"success","data":{{"resultType":"{kind}","result":{result}}}}}"#)
    }

    fn one(number: &str) -> String {
        success("vector", &format!(r#"[{{"metric":{{}},"value":[999999.5,"{number}"]}}]"#))
    }

    fn reading(status: u16, body: &str) -> Result<f64, Problem> {
        single(&read(status, body.as_bytes(), NOW)?)
    }

    #[test]
    fn a_single_finite_number_is_read() {
        assert_eq!(reading(200, &one("0.25")), Ok(0.25));
        assert_eq!(reading(200, &one("-0")), Ok(0.0));
        assert_eq!(reading(200, &one("1e308")), Ok(1e308));
        assert_eq!(reading(200, &success("scalar", r#"[1000000,"7"]"#)), Ok(7.0));
        let warned = r#"{"status":"success","warnings":["w"],"data":{"resultType":"scalar","result":[1000000,"7"]}}"#;
        assert_eq!(reading(200, warned), Ok(7.0));
    }

    #[test]
    fn every_other_answer_is_told_apart_and_explained() {
        let two =
            success("vector", r#"[{"metric":{"a":"1"},"value":[1e6,"1"]},{"metric":{"a":"2"},"value":[1e6,"2"]}]"#);
        let error = |kind: &str, text: &str| format!(r#"{{"status":"error","errorType":"{kind}","error":"{text}"}}"#);
        let parse = r#"invalid parameter \"query\": 1:5: parse error: unexpected end of input"#;
        type Case<'a> = (&'a str, u16, String, fn(String) -> Problem, &'a str);
        let cases: Vec<Case<'_>> = vec![
            ("empty vector", 200, success("vector", "[]"), Problem::NoData, "no result at present"),
            ("NaN", 200, one("NaN"), Problem::NoData, "expected one finite number"),
            ("+Inf", 200, one("+Inf"), Problem::Unusable, "answered +Inf; expected one finite number"),
            ("-Inf", 200, one("-Inf"), Problem::Unusable, "answered -Inf"),
            ("1e999", 200, one("1e999"), Problem::Unusable, "answered +Inf"),
            ("two series", 200, two, Problem::Unusable, "2 series as its result; expected exactly one"),
            ("string", 200, success("string", r#"[1000000,"hi"]"#), Problem::Unusable, "a string as its result"),
            ("matrix", 200, success("matrix", "[]"), Problem::Unusable, "(matrix)"),
            ("new type", 200, success("tensor", "[]"), Problem::Unusable, "result type"),
            ("word", 200, one("many"), Problem::Unusable, "not a pair of time and number"),
            ("number not quoted", 200, success("scalar", "[1000000,7]"), Problem::Unusable, "not a pair"),
            (
                "value of one",
                200,
                success("vector", r#"[{"metric":{},"value":[1000000]}]"#),
                Problem::Unusable,
                "not a pair",
            ),
            ("value of none", 200, success("vector", r#"[{"metric":{},"value":[]}]"#), Problem::Unusable, "not a pair"),
            ("value of three", 200, success("scalar", r#"[1000000,"1","2"]"#), Problem::Unusable, "not a pair"),
            ("no value", 200, success("vector", r#"[{"metric":{}}]"#), Problem::Unusable, "not a pair"),
            ("element not an object", 200, success("vector", "[7]"), Problem::Unusable, "not a pair"),
            ("vector not an array", 200, success("vector", "7"), Problem::Unusable, "result type"),
            ("null", 200, success("vector", "null"), Problem::Unusable, "result type"),
            (
                "histogram",
                200,
                success("vector", r#"[{"metric":{},"histogram":[1000000,{}]}]"#),
                Problem::Unusable,
                "a histogram",
            ),
            ("no data", 200, r#"{"status":"success"}"#.to_owned(), Problem::Unusable, "not the JSON of a Prometheus"),
            ("other JSON", 200, "[]".to_owned(), Problem::Unusable, "not the JSON of a Prometheus"),
            ("nothing", 200, String::new(), Problem::Unusable, "not the JSON of a Prometheus"),
            ("cut short", 200, one("1")[..40].to_owned(), Problem::Unusable, "not the JSON of a Prometheus"),
            ("HTML", 200, "\n<!doctype html><p>Sign in".to_owned(), Problem::Unusable, "web page; expected the JSON"),
            (
                "old",
                200,
                success("scalar", r#"[999900,"1"]"#),
                Problem::Unreachable,
                "100 s old; expected at most 30 s",
            ),
            ("ahead", 200, success("scalar", r#"[1000100,"1"]"#), Problem::Unreachable, "100 s ahead of our clock"),
            (
                "parse error",
                400,
                error("bad_data", parse),
                Problem::Unusable,
                "does not parse: 1:5: parse error: unexpected end",
            ),
            ("error with secrets", 400, error("bad_data", "password=hunter2"), Problem::Unusable, "does not parse"),
            (
                "many to many",
                422,
                error("execution", "found duplicate series"),
                Problem::Unusable,
                "labels match one to one",
            ),
            ("too slow", 503, error("timeout", "query timed out"), Problem::Unreachable, "took too long"),
            ("starting", 503, error("unavailable", "starting up"), Problem::Unreachable, "just now"),
            ("error under 200", 200, error("bad_data", parse), Problem::Unusable, "1:5: parse error"),
            ("success under 500", 500, one("1"), Problem::Unreachable, "status 500"),
            ("404", 404, "not found".to_owned(), Problem::Unusable, "/api/v1/query below its address"),
            ("401", 401, "who?".to_owned(), Problem::Unusable, "access was refused"),
            ("500", 500, "boom".to_owned(), Problem::Unreachable, "status 500"),
            ("502 of a proxy", 502, "<html>".to_owned(), Problem::Unreachable, "status 502"),
            ("429", 429, String::new(), Problem::Unreachable, "status 429"),
        ];
        for (name, status, body, kind, expected) in cases {
            let problem = reading(status, &body).expect_err(name);
            let why = match &problem {
                Problem::NoData(why) | Problem::Unusable(why) | Problem::Unreachable(why) => why.clone(),
            };
            assert_eq!(problem, kind(why.clone()), "{name}");
            assert!(why.contains(expected), "{name}: {why}");
            assert!(!why.contains("hunter2") && !why.contains("duplicate"), "{name} repeats the body: {why}");
        }
        let garbage = read(200, &[0xff, 0xfe, b'{'], NOW);
        assert!(matches!(garbage, Err(Problem::Unusable(_))), "not UTF-8: {garbage:?}");
        let deep = "[".repeat(200_000);
        assert!(matches!(read(200, deep.as_bytes(), NOW), Err(Problem::Unusable(_))), "nested without end");
    }

    #[test]
    fn addresses_keep_their_path_prefix() {
        let path = |address| endpoint(address).map(|url| url.to_string()).map_err(|error| error.to_string());
        assert_eq!(path("http://p:9090"), Ok("http://p:9090/api/v1/query".to_owned()));
        assert_eq!(path("https://p/prometheus/"), Ok("https://p/prometheus/api/v1/query".to_owned()));
        assert!(path("http://p/?tenant=1").is_err());
    }
}
