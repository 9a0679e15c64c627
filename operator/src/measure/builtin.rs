//! The built-in metrics: PromQL over the proxies' own series, for one revision in the canary arm.
//!
//! `rate()` and `increase()` are not used. They see nothing of a counter's first sample, so the errors that a counter
//! was born with would be lost, and they extrapolate, each series by its own factor, so that a young error counter and
//! an old success counter cannot be compared. [`requests_since`] counts exactly what was added inside the window.
//!
//! Older releases cannot leak in: `revision` is one of the labels. Both the value and the number of requests come from
//! one evaluation.

use std::{fmt::Write as _, time::Duration};

use proxy_api::metrics as series;

use super::{BuiltIn, Subject, promql};

/// Label by which the two numbers of one answer are told apart.
pub(super) const READING_LABEL: &str = "reading";
/// The metric's value.
pub(super) const READING_VALUE: &str = "value";
/// Requests in the window.
pub(super) const READING_REQUESTS: &str = "requests";

/// How far back a series must have been seen for it to count as resumed, not born: covers an outage of Prometheus.
const RESUMED_LOOKBACK: &str = "1h";
/// Scrapes that may fall out between the window and the sample that it is compared with.
const BASELINE_SCRAPES: u32 = 3;

/// The query for `metric`, answered with at most two series, labelled [`READING_LABEL`].
pub(super) fn query(metric: BuiltIn, subject: &Subject, window: Duration, scrape_interval: Duration) -> String {
    let since = |name: &str, matchers: &str| {
        requests_since(&selector(name, subject, matchers), window, scrape_interval * BASELINE_SCRAPES)
    };
    let (value, requests) = match metric {
        BuiltIn::RequestSuccessRate => {
            // `0`: the client went away before an answer, which speaks neither for nor against the version.
            let all = format!(r#"{}!="0""#, series::LABEL_CODE);
            let failed = format!(r#"{}=~"5..""#, series::LABEL_CODE);
            let all = since(series::REQUESTS_TOTAL, &all);
            let failed = since(series::REQUESTS_TOTAL, &failed);
            // Failures are subtracted from all: a version that answers nothing but 5xx reads 0 %, not nothing.
            (format!("100 - 100 * (sum({failed}) or vector(0)) / sum({all})"), format!("sum({all})"))
        }
        BuiltIn::MirroredSuccessRate => {
            let copies = |result: &str| {
                let result = format!("{}=~{}", series::LABEL_RESULT, promql::literal(result));
                let copies = copies(subject, &result);
                format!("sum({})", requests_since(&copies, window, scrape_interval * BASELINE_SCRAPES))
            };
            let (all, failed) = (copies("answered|failed"), copies("failed"));
            (format!("100 - 100 * ({failed} or vector(0)) / {all}"), all)
        }
        BuiltIn::RequestDuration => {
            let buckets = since(&format!("{}_bucket", series::REQUEST_DURATION_SECONDS), "");
            let count = since(&format!("{}_count", series::REQUEST_DURATION_SECONDS), "");
            (format!("1000 * histogram_quantile(0.99, sum by (le) ({buckets}))"), format!("sum({count})"))
        }
    };
    format!("{}\nor\n{}", labelled(&value, READING_VALUE), labelled(&requests, READING_REQUESTS))
}

/// What each counter of `selector` gained in the last `window`, exactly: its last value less its last value before the
/// window, looked for within `guard`.
///
/// Without a value to compare with, a counter that was never seen is taken whole: it was born inside the window. One
/// that was reset, or was not scraped for a while, counts from its first sample inside the window, so that what
/// happened during the gap is not taken for recent.
fn requests_since(selector: &str, window: Duration, guard: Duration) -> String {
    let (window, guard) = (promql::duration(window), promql::duration(guard));
    let last = format!("last_over_time({selector}[{window}])");
    format!(
        "(({last} - last_over_time({selector}[{guard}] offset {window})) >= 0 \
         or ({last} - min_over_time({selector}[{window}])) \
         and present_over_time({selector}[{RESUMED_LOOKBACK}] offset {window}) \
         or {last})"
    )
}

/// Copies know no revision: the window reaches back to the first of this release at most.
fn copies(subject: &Subject, matcher: &str) -> String {
    let (namespace, canary) = (promql::literal(&subject.namespace), promql::literal(&subject.name));
    format!(
        "{}{{{}={namespace},{}={canary},{matcher}}}",
        series::MIRRORED_REQUESTS_TOTAL,
        series::LABEL_NAMESPACE,
        series::LABEL_CANARY
    )
}

fn selector(name: &str, subject: &Subject, matchers: &str) -> String {
    let mut text = format!("{name}{{");
    for (label, value) in [
        (series::LABEL_NAMESPACE, subject.namespace.as_str()),
        (series::LABEL_CANARY, &subject.name),
        (series::LABEL_ARM, series::ARM_CANARY),
        (series::LABEL_REVISION, &subject.canary_revision),
    ] {
        let _ = write!(text, "{label}={},", promql::literal(value));
    }
    text.push_str(matchers);
    text.push('}');
    text
}

fn labelled(expression: &str, reading: &str) -> String {
    format!(r#"label_replace({expression}, "{READING_LABEL}", "{reading}", "", "")"#)
}
