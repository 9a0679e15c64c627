use reqwest::Url;

use super::{turns::CONCURRENT_PER_SERVER, *};
use crate::outbound::{
    Policy,
    fault::{Fault, FaultServer},
};

pub(super) fn mk_measurer(metrics_server: String) -> Measurer {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let outbound = Outbound::new(Policy { loopback: true, ..Policy::default() }).unwrap();
    Measurer::new(outbound, Settings { metrics_server, scrape_interval: Duration::from_secs(1) })
}

pub(super) fn mk_request(source: Source) -> MetricRequest {
    let metric = match &source {
        Source::BuiltIn(BuiltIn::RequestSuccessRate | BuiltIn::MirroredSuccessRate) => "request-success-rate",
        Source::BuiltIn(BuiltIn::RequestDuration) => "request-duration",
        Source::Template { .. } | Source::Missing { .. } => "errors",
    };
    MetricRequest {
        metric: metric.to_owned(),
        source,
        subject: Subject {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            target: "web".to_owned(),
            service: "web".to_owned(),
            canary_revision: "5d9f".to_owned(),
        },
        declared_window: None,
        analysis_interval: Duration::from_secs(1),
        weight_age: Duration::from_secs(60),
        min_requests: DEFAULT_MIN_REQUESTS,
    }
}

fn mk_template(query: &str, address: Option<&str>) -> Source {
    let variables = [("code".to_owned(), "404".to_owned())].into();
    let address = address.map(str::to_owned);
    Source::Template { name: "not-found".to_owned(), query: query.to_owned(), address, variables }
}

fn now() -> f64 {
    chrono::Utc::now().timestamp_millis() as f64 / 1_000.0
}

/// An answer with `(reading, value)` series, as the built-ins' queries give.
fn labelled(series: &[(&str, &str)]) -> Fault {
    let element = |(reading, value): &(&str, &str)| {
        format!(r#"{{"metric":{{"reading":"{reading}"}},"value":[{},"{value}"]}}"#, now())
    };
    let elements: Vec<_> = series.iter().map(element).collect();
    let result = elements.join(",");
    Fault::json(200, &format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[{result}]}}}}"#))
}

async fn measured(source: Source, fault: Fault) -> Measurement {
    let server = FaultServer::start([fault]).await;
    let mut measurer = mk_measurer(server.url());
    measurer.deadline = Duration::from_millis(500);
    measurer.measure(&mk_request(source)).await
}

#[tokio::test]
async fn built_ins_need_requests_and_a_finite_value() {
    let success = Source::BuiltIn(BuiltIn::RequestSuccessRate);
    let good = measured(success.clone(), labelled(&[("value", "99.5"), ("requests", "200")])).await;
    assert_eq!((good.reading, good.requests), (Reading::Value(99.5), Some(200.0)));

    type Case<'a> = (&'a [(&'a str, &'a str)], &'static str, &'a str);
    let cases: [Case<'_>; 6] = [
        (
            &[],
            "NoMetricData",
            "metric request-success-rate: Prometheus has no requests of revision 5d9f in the last 10s",
        ),
        (
            &[("value", "NaN"), ("requests", "0")],
            "NoMetricData",
            "0 requests of revision 5d9f in the last 10s; expected at least 3",
        ),
        (&[("value", "100"), ("requests", "2")], "NoMetricData", "2 requests of revision 5d9f"),
        (&[("value", "NaN"), ("requests", "9")], "NoMetricData", "answered NaN"),
        (&[("value", "+Inf"), ("requests", "9")], "MetricUnusable", "answered +Inf; expected one finite number"),
        (&[("requests", "9")], "MetricUnusable", "without the value that was asked for"),
    ];
    for (series, reason, expected) in cases {
        let measurement = measured(success.clone(), labelled(series)).await;
        let why = measurement.reading.why().unwrap_or_default();
        assert_eq!(measurement.reading.reason(), reason, "{series:?}: {why}");
        assert!(why.contains(expected), "{series:?}: {why}");
    }
}

#[tokio::test]
async fn every_fault_of_a_server_is_a_reading_that_names_the_template() {
    let page = Fault::Answer { status: 200, headers: "content-type: text/html\r\n", body: b"<html>".to_vec() };
    for (fault, reason, expected) in [
        (page, "MetricUnusable", "answered with a web page"),
        (Fault::Endless { bytes: 5 << 20 }, "MetricUnusable", "longer than 1048576 bytes"),
        (Fault::json(200, &" ".repeat(5 << 20)), "MetricUnusable", "longer than 1048576 bytes"),
        (Fault::json(404, ""), "MetricUnusable", "status 404"),
        (Fault::json(500, "{}"), "MetricsUnreachable", "status 500"),
        (Fault::Hang, "MetricsUnreachable", "within 0.5 s"),
        (Fault::Drip, "MetricsUnreachable", "within 0.5 s"),
        (Fault::Close, "MetricsUnreachable", "broke off"),
        (Fault::json(302, ""), "MetricUnusable", "redirect"),
    ] {
        let shown: String = format!("{fault:?}").chars().take(60).collect();
        let measurement = measured(mk_template("up", None), fault).await;
        let why = measurement.reading.why().unwrap_or_default();
        assert_eq!(measurement.reading.reason(), reason, "{shown}: {why}");
        assert!(why.starts_with("metric errors: MetricTemplate not-found: "), "{shown}: {why}");
        assert!(why.contains(expected), "{shown}: {why}");
    }
}

#[tokio::test]
async fn what_is_wrong_before_asking_asks_nobody() {
    let server = FaultServer::start([labelled(&[("", "1")])]).await;
    let measurer = mk_measurer(server.url());
    for (source, expected) in [
        (
            mk_template("{{ nope }}", None),
            "metric errors: MetricTemplate not-found: spec.query, line 1: 'nope' is not defined",
        ),
        (mk_template("up", Some("ftp://x")), "spec.provider.address 'ftp://x': the address is not usable"),
        (mk_template("up", Some("http://169.254.169.254")), "169.254.169.254, an address that Sluice does not call"),
        (Source::Missing { name: "gone".to_owned() }, "MetricTemplate gone does not exist in namespace shop"),
    ] {
        let reading = measurer.measure(&mk_request(source)).await.reading;
        assert_eq!(reading.reason(), "MetricUnusable", "{reading:?}");
        assert!(reading.why().is_some_and(|why| why.contains(expected)), "{reading:?}");
    }
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn a_template_is_rendered_sent_and_read() {
    let server = FaultServer::start([labelled(&[("", "0.5")])]).await;
    let measurer = mk_measurer("http://127.0.0.1:1".to_owned());
    let query = r#"sum(rate(x{ns="{{ namespace }}",code="{{ variables.code }}"}[{{ interval }}]))"#;
    let mut request = mk_request(mk_template(query, Some(&server.url())));
    request.declared_window = Some(Duration::from_secs(90));
    assert_eq!(measurer.measure(&request).await.reading, Reading::Value(0.5));
    let sent = server.requests().join("");
    let form = sent.split_once("\r\n\r\n").unwrap().1;
    let pairs: BTreeMap<_, _> = Url::parse(&format!("form:?{form}")).unwrap().query_pairs().into_owned().collect();
    assert_eq!(pairs["query"], r#"sum(rate(x{ns="shop",code="404"}[90s]))"#);
}

#[tokio::test]
async fn a_hanging_server_does_not_hold_up_another() {
    let hanging = FaultServer::start([Fault::Hang]).await;
    let fine = FaultServer::start([labelled(&[("", "1")])]).await;
    let measurer = mk_measurer(fine.url());
    let stuck: Vec<_> = vec![mk_request(mk_template("up", Some(&hanging.url()))); 4 * CONCURRENT_PER_SERVER];
    let request = mk_request(mk_template("up", None));
    tokio::select! {
        _ = measurer.measure_all(&stuck) => panic!("the hanging server answered first"),
        measurement = measurer.measure(&request) => {
            assert_eq!(measurement.reading, Reading::Value(1.0));
        }
    }
}

#[test]
fn windows_follow_the_weight_and_the_scrape_interval() {
    let seconds = Duration::from_secs;
    let mut request = mk_request(Source::BuiltIn(BuiltIn::RequestDuration));
    for (declared, interval, age, scrape, built_in, template) in [
        (None, 1, 60, 1, 10, 10),
        (None, 30, 60, 1, 30, 30),
        (None, 1, 600, 15, 60, 60),
        (None, 10, 6, 1, 6, 10),
        (None, 10, 0, 1, 4, 10),
        (Some(60), 10, 600, 1, 60, 60),
        (Some(60), 10, 7, 1, 7, 60),
        (Some(1), 10, 600, 1, 4, 1),
    ] {
        request.declared_window = declared.map(seconds);
        request.analysis_interval = seconds(interval);
        request.weight_age = seconds(age);
        let case = format!("{declared:?} {interval} {age} {scrape}");
        assert_eq!(built_in_window(&request, seconds(scrape)), seconds(built_in), "{case}");
        assert_eq!(wanted_window(&request, seconds(scrape)), seconds(template), "{case}");
    }
}

#[test]
fn values_are_shown_without_flattering() {
    assert_eq!(BuiltIn::RequestSuccessRate.show(99.9999), "99.99 %");
    assert_eq!(BuiltIn::RequestSuccessRate.show(100.0), "100.00 %");
    assert_eq!(BuiltIn::RequestDuration.show(182.4), "182 ms");
    assert_eq!(BuiltIn::RequestDuration.show(1.25), "1.2 ms");
}
