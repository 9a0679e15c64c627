//! `/metrics` in OpenMetrics: strictly well-formed, the same series as in the text format, and exemplars that lead to traces
//! that somebody can open.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use dataplane::exposition::page::Format;
use dataplane::sight::{Counts, Entry, Sight};
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use proxy_api::v1beta1 as api;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::common::{Bed, Client, Origin, canary, eventually, http2_client, speaks, stable, within};

/// Names and values.
type Labels = Vec<(String, String)>;

/// One sample of a text.
#[derive(Debug)]
struct Sample {
    series: String,
    value: f64,
    exemplar: Option<Exemplar>,
}

#[derive(Debug)]
struct Exemplar {
    labels: Labels,
    value: f64,
}

/// Splits `{…}` off a text: its pairs, and what follows.
fn labels(text: &str) -> Result<(Labels, &str), String> {
    let (mut rest, mut pairs) = (text.strip_prefix('{').ok_or("no {")?, Vec::new());
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((pairs, after));
        }
        let (name, after) = rest.split_once("=\"").ok_or(format!("no label in {rest}"))?;
        let legal = |at: usize, c: char| c == '_' || c.is_ascii_alphabetic() || (at > 0 && c.is_ascii_digit());
        if name.is_empty() || !name.chars().enumerate().all(|(at, c)| legal(at, c)) {
            return Err(format!("label name {name:?}"));
        }
        let (mut value, mut escaped, mut end) = (String::new(), false, None);
        for (at, c) in after.char_indices() {
            match (escaped, c) {
                (true, 'n' | '\\' | '"') | (false, '\n') => value.push(c),
                (true, _) => return Err(format!("escape \\{c}")),
                (false, '\\') => {}
                (false, '"') => {
                    end = Some(at + 1);
                    break;
                }
                (false, _) => value.push(c),
            }
            escaped = !escaped && c == '\\';
        }
        pairs.push((name.to_owned(), value));
        rest = &after[end.ok_or("no closing quote")?..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

fn sample(line: &str) -> Result<(String, Labels, Sample), String> {
    let end = line.find(['{', ' ']).ok_or(format!("no value: {line}"))?;
    let (name, rest) = line.split_at(end);
    let (mut pairs, rest) = if rest.starts_with('{') { labels(rest)? } else { (Vec::new(), rest) };
    let rest = rest.strip_prefix(' ').ok_or(format!("no space before the value: {line}"))?;
    let (value, exemplar) = match rest.split_once(" # ") {
        None => (rest, None),
        Some((value, exemplar)) => {
            let (labels, rest) = labels(exemplar)?;
            let numbers: Vec<f64> =
                rest.trim_start().split(' ').map(str::parse).collect::<Result<_, _>>().map_err(|_| rest.to_owned())?;
            let [number, timestamp] = numbers[..] else { return Err(format!("exemplar's numbers: {rest}")) };
            if timestamp < 1e9 {
                return Err(format!("exemplar's time: {timestamp}"));
            }
            (value, Some(Exemplar { labels, value: number }))
        }
    };
    let value = value.parse().map_err(|_| format!("value {value:?}"))?;
    pairs.sort();
    Ok((name.to_owned(), pairs.clone(), Sample { series: format!("{name}{pairs:?}"), value, exemplar }))
}

/// The samples of an OpenMetrics text, if it is one; the rules are those of the specification's sections of this name.
fn parse(text: &str) -> Result<Vec<Sample>, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("no EOF")?;
    let (mut families, mut series, mut samples) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    let (mut family, mut kind, mut sampled) = (String::new(), String::new(), false);
    // Of a histogram: its labels, the last bound and what was below it.
    let mut ladder: Option<(Labels, f64, f64)> = None;
    for line in body.split_terminator('\n') {
        if let Some(meta) = line.strip_prefix("# ") {
            let parts: Vec<&str> = meta.splitn(3, ' ').collect();
            let [word, name, text] = parts[..] else { return Err(format!("metadata {line:?}")) };
            if name != family || sampled {
                if !families.insert(name.to_owned()) {
                    return Err(format!("family {name} twice"));
                }
                (family, kind, sampled) = (name.to_owned(), String::new(), false);
            }
            match word {
                "TYPE" => kind = text.to_owned(),
                "UNIT" if name.ends_with(&format!("_{text}")) => {}
                "HELP" => {}
                _ => return Err(format!("metadata {line:?}")),
            }
            continue;
        }
        let (name, mut pairs, sample) = sample(line)?;
        sampled = true;
        let suffix = name.strip_prefix(family.as_str()).ok_or(format!("{name} within family {family}"))?;
        match (kind.as_str(), suffix) {
            ("counter", "_total") | ("gauge", "") | ("histogram", "_bucket" | "_sum" | "_count") => {}
            _ => return Err(format!("{name} in {kind} {family}")),
        }
        if !series.insert(sample.series.clone()) {
            return Err(format!("twice: {}", sample.series));
        }
        let mut within = (f64::NEG_INFINITY, f64::INFINITY);
        if suffix == "_bucket" {
            let at = pairs.iter().position(|(name, _)| name == "le").ok_or("bucket without le")?;
            let text = pairs.remove(at).1;
            let bound: f64 = text.parse().map_err(|_| format!("bound {text}"))?;
            if bound.is_finite() && format!("{bound:?}") != text {
                return Err(format!("bound {text} is not canonical"));
            }
            let (before, below) = match &ladder {
                Some((labels, before, below)) if *labels == pairs => (*before, *below),
                _ => (f64::NEG_INFINITY, 0.0),
            };
            if bound <= before || sample.value < below {
                return Err(format!("bucket {bound} after {before}"));
            }
            within = (before, bound);
            ladder = Some((pairs, bound, sample.value));
        } else if suffix == "_count" {
            match &ladder {
                Some((labels, bound, below)) if *labels == pairs && bound.is_infinite() && *below == sample.value => {}
                other => return Err(format!("count {} after {other:?}", sample.value)),
            }
        }
        if let Some(Exemplar { labels, value }) = &sample.exemplar {
            let length: usize = labels.iter().map(|(name, value)| name.chars().count() + value.chars().count()).sum();
            let may = matches!(suffix, "_bucket" | "_total");
            if !may || length > 128 || *value <= within.0 || *value > within.1 {
                return Err(format!("exemplar {:?} of {}", sample.exemplar, sample.series));
            }
        }
        samples.push(sample);
    }
    Ok(samples)
}

/// A proxy whose sampled spans go to a queue that the test holds.
fn traced(bed: &Bed) -> mpsc::Receiver<Arc<Entry>> {
    let (queue, spans) = mpsc::channel(16);
    let sight = Sight { log: None, traces: Some((0.0, queue)), counts: Arc::<Counts>::default() };
    bed.proxy.shared().registry.show(Arc::new(sight));
    spans
}

async fn bed() -> Bed {
    let origin = Origin::new(|request: Request<hyper::body::Incoming>| async move {
        let mut answer = http::Response::new("ok".into());
        *answer.status_mut() = request.uri().path()[1..].parse().unwrap();
        answer
    })
    .await;
    let address = origin.address;
    // Until the runtime of the test ends.
    tokio::spawn(async move {
        let _origin = origin;
        std::future::pending::<()>().await;
    });
    Bed::new(|route| {
        stable(route, address);
        canary(route, address);
        speaks(route, api::Protocol::Http);
        let connection_pool = Some(api::ConnectionPool { max_connections: 9, max_requests: 8, ..Default::default() });
        let outlier_detection = Some(api::OutlierDetection { consecutive_5xx_errors: Some(5), ..Default::default() });
        route.traffic_policy = Some(api::TrafficPolicy { connection_pool, outlier_detection, ..Default::default() });
    })
    .await
}

fn traceparent(trace: u128, sampled: bool) -> String {
    format!("00-{trace:032x}-00f067aa0ba902b7-{:02x}", u8::from(sampled))
}

async fn by_http1(bed: &Bed, path: &str, traceparent: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: web\r\ntraceparent: {traceparent}\r\n\r\n");
    bed.connect().await.send(&request).await;
    bed.counters(api::Arm::Stable);
}

async fn by_http2(bed: &Bed, path: &str, traceparent: &str) {
    let mut client = http2_client(bed.port).await;
    let request = Request::get(format!("http://web{path}")).version(Version::HTTP_2).header("traceparent", traceparent);
    let answer = within(client.send_request(request.body(Full::<Bytes>::default()).unwrap())).await.unwrap();
    within(answer.into_body().collect()).await.unwrap();
    bed.counters(api::Arm::Stable);
}

/// Series and trace of each exemplar of a counter, and the traces of the histogram's.
fn exemplars(samples: &[Sample]) -> (Labels, BTreeSet<String>) {
    let (mut counters, mut buckets) = (Vec::new(), BTreeSet::new());
    for Sample { series, exemplar, .. } in samples {
        let Some(Exemplar { labels, .. }) = exemplar else { continue };
        let [(trace, id), (span, _)] = &labels[..] else { panic!("{labels:?}") };
        assert_eq!((trace.as_str(), span.as_str()), ("trace_id", "span_id"));
        let code = series.split("\"code\", \"").nth(1).map(|rest| rest[..3].to_owned());
        match code {
            Some(code) => counters.push((code, id.clone())),
            None => drop(buckets.insert(id.clone())),
        }
    }
    (counters, buckets)
}

#[tokio::test]
async fn a_sampled_request_of_either_protocol_stands_for_its_bucket_and_its_code() {
    let bed = bed().await;
    let mut spans = traced(&bed);
    by_http1(&bed, "/404", &traceparent(0xa, true)).await;
    by_http2(&bed, "/200", &traceparent(0xb, true)).await;
    by_http1(&bed, "/503", &traceparent(0xc, false)).await;
    by_http2(&bed, "/503", &traceparent(0xd, false)).await;
    // A request is counted a moment before it is an exemplar.
    let shown = || exemplars(&parse(&bed.series(Format::OpenMetrics)).unwrap()).0.len();
    eventually("both have an exemplar", || shown() == 2).await;
    assert_eq!(bed.counters(api::Arm::Stable).started, 4);
    let text = bed.series(Format::OpenMetrics);
    let samples = parse(&text).unwrap();
    let id = |trace: u128| format!("{trace:032x}");
    let (counters, buckets) = exemplars(&samples);
    assert_eq!(counters, [("200".to_owned(), id(0xb)), ("404".to_owned(), id(0xa))]);
    // Of one bucket, if both took as long; the newest then.
    assert!(
        buckets.contains(&id(0xb)) && buckets.iter().all(|trace| [id(0xa), id(0xb)].contains(trace)),
        "{buckets:?}"
    );
    for trace in [0xa, 0xb] {
        let span = within(spans.recv()).await.unwrap().span.unwrap();
        assert_eq!(span.trace_id, trace, "what is pointed to is exported");
        assert!(text.contains(&format!("{{trace_id=\"{}\",span_id=\"{:016x}\"}}", id(trace), span.span_id)));
    }
    assert!(!bed.metrics().contains(" # {"), "the text format has no exemplars");
    assert!(!bed.metrics().contains("# EOF"));
}

#[tokio::test]
async fn a_span_that_is_lost_is_no_exemplar() {
    let bed = bed().await;
    drop(traced(&bed));
    by_http1(&bed, "/200", &traceparent(0xa, true)).await;
    by_http2(&bed, "/200", &traceparent(0xb, true)).await;
    let samples = parse(&bed.series(Format::OpenMetrics)).unwrap();
    assert!(samples.iter().all(|sample| sample.exemplar.is_none()));
}

#[tokio::test]
async fn both_formats_have_the_same_series() {
    let bed = bed().await;
    let _spans = traced(&bed);
    by_http1(&bed, "/200", &traceparent(0xa, false)).await;
    let open = bed.series(Format::OpenMetrics);
    let names = |text: &str| -> BTreeSet<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| sample(line).unwrap().2.series).collect()
    };
    assert_eq!(names(&open), names(&bed.metrics()));
    assert!(open.contains("# TYPE sluice_proxy_requests counter\n"), "{open}");
    assert!(open.contains("# UNIT sluice_proxy_request_duration_seconds seconds\n"));
    assert!(bed.metrics().contains("# TYPE sluice_proxy_requests_total counter\n"));
    parse(&open).unwrap();
}

#[tokio::test]
async fn the_admin_port_answers_in_the_format_that_is_asked_for() {
    let bed = bed().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(dataplane::admin::serve(listener, bed.proxy.shared()));
    let ask = async |accept: &str| {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n");
        Client::connect(port).await.send(&request).await
    };
    let open = ask("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1").await;
    let wanted = Some("application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert_eq!((open.header("content-type"), parse(&open.body).is_ok()), (wanted, true));
    let text = ask("text/plain").await;
    assert_eq!(text.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(!text.body.contains("# EOF"));
    task.abort();
}

/// Debian's `prometheus` has it; where it is not installed there is nothing to ask.
#[tokio::test]
async fn promtool_reads_the_text() {
    let bed = bed().await;
    by_http1(&bed, "/200", &traceparent(0xa, false)).await;
    let text = bed.metrics();
    let checked = tokio::task::spawn_blocking(move || {
        use std::io::Write as _;
        let piped = std::process::Stdio::piped;
        let mut promtool = std::process::Command::new("promtool");
        let promtool = promtool.args(["check", "metrics"]).stdin(piped()).stderr(piped()).spawn();
        let mut promtool = promtool.ok()?;
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        Some(promtool.wait_with_output().unwrap())
    });
    let Some(output) = checked.await.unwrap() else { return };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let faults: Vec<_> = said.lines().filter(|line| !line.contains("use base unit \"ratio\"")).collect();
    assert_eq!(faults, Vec::<&str>::new());
}

#[test]
fn the_parser_is_strict() {
    let good = "# HELP a x\n# TYPE a counter\na_total{b=\"c\\\"\"} 1 # {trace_id=\"0\"} 1 1700000000.5\n# EOF\n";
    assert_eq!(parse(good).unwrap().len(), 1);
    let histogram = |buckets: &str| format!("# TYPE h histogram\n{buckets}# EOF\n");
    assert!(parse(&histogram("h_bucket{le=\"1.0\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n")).is_ok());
    for bad in [
        good.replace("# EOF\n", ""),
        good.replace("a_total", "a"),
        good.replace("counter", "gauge"),
        good.replace("# EOF", "\n# EOF"),
        good.replace("# EOF", "a_total{b=\"c\\\"\"} 1\n# EOF"),
        good.replace("# EOF", "# TYPE b gauge\nb 1\n# TYPE a counter\n# EOF"),
        good.replace("c\\\"", "c\\x"),
        good.replace("trace_id=\"0", &format!("trace_id=\"{}", "0".repeat(121))),
        histogram("h_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_count 2\n"),
        histogram("h_bucket{le=\"1.0\"} 3\nh_bucket{le=\"+Inf\"} 2\nh_count 2\n"),
        histogram("h_bucket{le=\"1.0\"} 1\nh_count 1\n"),
        histogram("h_bucket{le=\"1.0\"} 1 # {a=\"b\"} 1.5 1700000000.5\nh_bucket{le=\"+Inf\"} 2\nh_count 2\n"),
        histogram("h_bucket{le=\"+Inf\"} 2\nh_sum 3 # {a=\"b\"} 1.5 1700000000.5\nh_count 2\n"),
    ] {
        assert!(parse(&bad).is_err(), "{bad}");
    }
}
