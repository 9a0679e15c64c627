//! The built-in queries against a real Prometheus that scrapes an exporter of the test each second.

mod server;

use std::{fmt::Write as _, sync::atomic::Ordering};

use proxy_api::metrics as series;

use self::server::{Exporter, Prometheus};
use super::{
    tests::{mk_measurer, mk_request},
    *,
};

const WINDOW: Duration = Duration::from_secs(8);
/// Scrapes that surely span the window and the search for a value before it.
const LONG: usize = 13;

fn labels(revision: &str) -> String {
    format!(
        r#"{}="shop",{}="web",service="web",{}="canary",{}="{revision}""#,
        series::LABEL_NAMESPACE,
        series::LABEL_CANARY,
        series::LABEL_ARM,
        series::LABEL_REVISION
    )
}

fn requests(revision: &str, code: u16, count: u64) -> String {
    format!("{}{{{},{}=\"{code}\"}} {count}\n", series::REQUESTS_TOTAL, labels(revision), series::LABEL_CODE)
}

fn copies(result: &str, count: u64) -> String {
    let name = series::MIRRORED_REQUESTS_TOTAL;
    let labels = format!(r#"{}="shop",{}="web",service="web""#, series::LABEL_NAMESPACE, series::LABEL_CANARY);
    format!("{name}{{{labels},{}=\"{result}\"}} {count}\n", series::LABEL_RESULT)
}

fn durations(revision: &str, buckets: &[(&str, u64)]) -> String {
    let mut text = String::new();
    let name = series::REQUEST_DURATION_SECONDS;
    for (bound, count) in buckets {
        writeln!(text, "{name}_bucket{{{},le=\"{bound}\"}} {count}", labels(revision)).unwrap();
    }
    let total = buckets.last().map_or(0, |(_, count)| *count);
    writeln!(text, "{name}_count{{{}}} {total}", labels(revision)).unwrap();
    text
}

async fn measure(measurer: &Measurer, metric: BuiltIn, revision: &str) -> Measurement {
    let mut request = mk_request(Source::BuiltIn(metric));
    request.declared_window = Some(WINDOW);
    request.subject.canary_revision = revision.to_owned();
    measurer.measure(&request).await
}

#[tokio::test]
async fn built_ins_count_exactly_what_happened_inside_the_window() {
    let (steady, gappy) = (Exporter::start().await, Exporter::start().await);
    let prometheus = Prometheus::start(&[&steady, &gappy]).await;
    let measurer = mk_measurer(prometheus.url.clone());
    let success = |revision: &'static str| measure(&measurer, BuiltIn::RequestSuccessRate, revision);

    // Long before the window: what happened then must not count.
    let slow_before = durations("mixed", &[("0.1", 0), ("0.25", 0), ("10", 5_000), ("+Inf", 5_000)]);
    steady.show(&[
        requests("mixed", 200, 1_000),
        requests("mixed", 500, 900),
        requests("reset", 200, 1_000),
        copies("answered", 1_000),
        copies("failed", 500),
        slow_before,
    ]);
    gappy.show(&[requests("gap", 200, 1_000)]);
    steady.scraped(LONG).await;

    gappy.status.store(500, Ordering::SeqCst);
    let show = |reset: String, broken: u64| {
        steady.show(&[
            reset,
            requests("broken", 500, broken),
            requests("mixed", 200, 1_080),
            requests("mixed", 404, 10), // Born inside the window.
            requests("mixed", 500, 905),
            requests("mixed", 503, 5),   // Born inside the window.
            requests("mixed", 0, 1_000), // Clients that went away speak neither for nor against.
            copies("answered", 1_090),
            copies("failed", 510),
            copies("overflow", 70), // Not sent.
            requests("born", 200, 90),
            requests("born", 502, 10),
            durations("mixed", &[("0.1", 90), ("0.25", 100), ("10", 5_100), ("+Inf", 5_100)]),
        ]);
    };
    show(requests("reset", 200, 7), 40);
    steady.scraped(2).await;
    show(requests("reset", 200, 16) + &requests("reset", 500, 1), 44);
    steady.scraped(2).await;

    let mixed = success("mixed").await;
    assert_eq!((mixed.reading, mixed.requests), (Reading::Value(90.0), Some(100.0)), "80 + 10 good, 5 + 5 bad");
    let broken = success("broken").await;
    assert_eq!((broken.reading, broken.requests), (Reading::Value(0.0), Some(44.0)), "only 5xx reads 0 %, not nothing");
    let born = success("born").await;
    assert_eq!((born.reading, born.requests), (Reading::Value(90.0), Some(100.0)), "a counter's first sample counts");
    let reset = success("reset").await;
    assert_eq!((reset.reading, reset.requests), (Reading::Value(90.0), Some(10.0)), "a restarted proxy counts on");
    let copied = measure(&measurer, BuiltIn::MirroredSuccessRate, "mixed").await;
    assert_eq!(
        (copied.reading, copied.requests),
        (Reading::Value(90.0), Some(100.0)),
        "90 of 100 copies were answered"
    );
    let absent = success("absent").await.reading;
    assert_eq!(absent.reason(), "NoMetricData", "{absent:?}");
    let slow = measure(&measurer, BuiltIn::RequestDuration, "mixed").await;
    let Reading::Value(p99_ms) = slow.reading else { panic!("{slow:?}") };
    assert!((p99_ms - 235.0).abs() < 0.01, "99 of 100 lie at 9/10 between 100 and 250 ms: {p99_ms}");
    assert_eq!(slow.requests, Some(100.0));

    // Nothing more happens: no traffic is no evidence, neither good nor bad.
    steady.scraped(LONG).await;
    for metric in [BuiltIn::RequestSuccessRate, BuiltIn::RequestDuration] {
        let idle = measure(&measurer, metric, "mixed").await.reading;
        assert_eq!(idle.reason(), "NoMetricData", "{idle:?}");
        assert!(idle.why().is_some_and(|why| why.contains("0 requests of revision mixed in the last 8s")), "{idle:?}");
    }

    let idle = measure(&measurer, BuiltIn::MirroredSuccessRate, "mixed").await.reading;
    assert!(idle.why().is_some_and(|why| why.contains("no copies")), "{idle:?}");

    // Prometheus sees nothing of 4,000 good requests; then come 10 bad ones.
    gappy.show(&[requests("gap", 200, 5_000)]);
    gappy.status.store(200, Ordering::SeqCst);
    gappy.scraped(2).await;
    gappy.show(&[requests("gap", 200, 5_000), requests("gap", 500, 10)]);
    gappy.scraped(2).await;
    let gap = success("gap").await;
    assert_eq!((gap.reading, gap.requests), (Reading::Value(0.0), Some(10.0)), "the gap's traffic is not recent");
}

#[tokio::test]
async fn a_real_refusal_shows_where_the_query_does_not_parse() {
    let prometheus = Prometheus::start(&[]).await;
    let measurer = mk_measurer(prometheus.url.clone());
    let ask = |query: &str| {
        let variables = [("v".to_owned(), "x\"} or vector(9) # \\ ' \n`é".to_owned())].into();
        let source = Source::Template { name: "t".to_owned(), query: query.to_owned(), address: None, variables };
        let request = mk_request(source);
        let measurer = measurer.clone();
        async move { measurer.measure(&request).await.reading }
    };
    assert_eq!(ask("40 + 2").await, Reading::Value(42.0));
    for quote in ['"', '\''] {
        let query = format!("label_replace(vector(3), {quote}a{quote}, {quote}{{{{ variables.v }}}}{quote}, '', '')");
        assert_eq!(ask(&query).await, Reading::Value(3.0), "the real lexer takes {query} for one literal");
    }
    for (query, reason, expected) in [
        ("sum(", "MetricUnusable", "the query does not parse: 1:5: parse error: "),
        ("absent_series", "NoMetricData", "no result at present"),
        ("0/0", "NoMetricData", "answered NaN"),
        ("1/0", "MetricUnusable", "answered +Inf"),
        ("\"text\"", "MetricUnusable", "a string"),
        ("vector(1)[5s:1s]", "MetricUnusable", "(matrix)"),
        (r#"label_replace(vector(1),"a","b","","") or vector(2)"#, "MetricUnusable", "2 series"),
    ] {
        let reading = ask(query).await;
        assert_eq!(reading.reason(), reason, "{query}: {reading:?}");
        assert!(reading.why().is_some_and(|why| why.contains(expected)), "{query}: {reading:?}");
    }
}
