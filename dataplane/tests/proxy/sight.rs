//! What people see of a request: response flags, access log, traces, limits, the admin port.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dataplane::sight::otlp::wire;
use dataplane::sight::{self, Counts, Logged, Sight};
use http::{Request, Version};
use http_body_util::{BodyExt, Empty};
use proxy_api::v1beta1 as api;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::{Bed, Origin, dead, eventually, http2_client, raw_origin, read_head, speaks, stable, within};

/// A port whose endpoints speak HTTP/1.1 whatever the client speaks.
fn translated(route: &mut api::Route) {
    speaks(route, api::Protocol::Http);
}

fn call(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://web{path}")).version(Version::HTTP_2).body(Empty::new()).unwrap()
}

/// Sends one request in each of both protocols and says which flags were counted for each.
async fn flags(change: impl Fn(&mut api::Route)) -> [Vec<String>; 2] {
    let mut seen = [Vec::new(), Vec::new()];
    for (http2, seen) in [false, true].into_iter().zip(&mut seen) {
        let bed = Bed::new(|route| {
            change(route);
            translated(route);
        })
        .await;
        if http2 {
            if let Ok(answer) = within(http2_client(bed.port).await.send_request(call("/"))).await {
                let _ = within(answer.into_body().collect()).await;
            }
        } else {
            let mut client = bed.connect().await.0;
            client.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await.unwrap();
            let _ = within(client.read_to_end(&mut Vec::new())).await;
        }
        bed.counters(api::Arm::Stable);
        *seen = flags_of(&bed.metrics());
    }
    seen
}

/// `<arm> <flag> <count>` of each series.
fn flags_of(metrics: &str) -> Vec<String> {
    let series = metrics.lines().filter_map(|line| line.strip_prefix("sluice_proxy_response_flags_total{"));
    let label = |series: &str, name: &str| {
        let (_, rest) = series.split_once(&format!("{name}=\"")).unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    };
    series
        .map(|series| {
            let count = series.rsplit(' ').next().unwrap();
            format!("{} {} {count}", label(series, "arm"), label(series, "flag"))
        })
        .collect()
}

#[tokio::test]
async fn the_flag_says_why_no_endpoint_answered() {
    assert_eq!(flags(|_| {}).await, [["stable UH 1"], ["stable UH 1"]]);
    let gone = dead().await;
    assert_eq!(flags(|route| stable(route, gone)).await, [["stable UF 1"], ["stable UF 1"]]);
    let closes = raw_origin(|_, mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 20").await.unwrap();
        stream.shutdown().await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    assert_eq!(flags(|route| stable(route, closes)).await, [["stable UC 1"], ["stable UC 1"]]);
    let breaks_off = raw_origin(|_, mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await.unwrap();
        stream.shutdown().await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    assert_eq!(flags(|route| stable(route, breaks_off)).await, [["stable UC 1"], ["stable UC 1"]]);
    let babbles = raw_origin(|_, mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 what\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    assert_eq!(flags(|route| stable(route, babbles)).await, [["stable UPE 1"], ["stable UPE 1"]]);
    let silent = raw_origin(|_, mut stream| async move {
        read_head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let hurried = |route: &mut api::Route| {
        stable(route, silent);
        route.http = Some(api::HttpPolicy { request_timeout_ms: 50, ..Default::default() });
    };
    assert_eq!(flags(hurried).await, [["stable UT 1"], ["stable UT 1"]]);
}

#[tokio::test]
async fn what_the_client_sends_wrong_is_its_own_fault() {
    let origin = Origin::text("ok").await;
    let mk_bed = || {
        Bed::new(|route| {
            stable(route, origin.address);
            translated(route);
        })
    };
    let bed = mk_bed().await;
    let head = "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(bed.connect().await.send(&format!("{head}no length\r\n")).await.status, 400);
    eventually("it is flagged", || flags_of(&bed.metrics()) == ["stable DPE 1"]).await;
    let bed = mk_bed().await;
    let tunnel = Request::connect("web:80").version(Version::HTTP_2).body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(within(http2_client(bed.port).await.send_request(tunnel)).await.unwrap().status(), 400);
    eventually("it is flagged", || flags_of(&bed.metrics()) == ["stable DPE 1"]).await;
}

#[tokio::test]
async fn an_arm_without_endpoint_is_flagged_although_the_other_one_answered() {
    let origin = Origin::text("stable").await;
    let bed = Bed::new(|route| {
        stable(route, origin.address);
        route.weight = 100;
    })
    .await;
    assert_eq!(bed.get("/").await.status, 200);
    bed.counters(api::Arm::Canary);
    assert_eq!(flags_of(&bed.metrics()), ["canary UH 1"]);
}

#[tokio::test]
async fn a_good_request_has_no_flag_and_a_client_that_left_has_one() {
    let (asked, mut heard) = tokio::sync::mpsc::channel(1);
    let silent = raw_origin(move |_, mut stream| {
        let asked = asked.clone();
        async move {
            read_head(&mut stream).await;
            asked.send(()).await.unwrap();
            std::future::pending::<()>().await;
        }
    })
    .await;
    let origin = Origin::text("ok").await;
    let bed = Bed::new(|route| {
        stable(route, origin.address);
        translated(route);
    })
    .await;
    assert_eq!(bed.get("/").await.status, 200);
    bed.counters(api::Arm::Stable);
    assert_eq!(flags_of(&bed.metrics()), Vec::<String>::new());

    let bed = Bed::new(|route| {
        stable(route, silent);
        translated(route);
    })
    .await;
    let mut client = http2_client(bed.port).await;
    let mut waiting = Box::pin(client.send_request(call("/")));
    tokio::select! {
        _ = &mut waiting => panic!("nobody answers"),
        heard = within(heard.recv()) => heard.unwrap(),
    }
    drop((waiting, client));
    eventually("the client's end is flagged", || flags_of(&bed.metrics()) == ["stable DC 1"]).await;
}

/// What a writer was given.
#[derive(Clone, Default)]
pub struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Written {
    pub fn lines(&self) -> Vec<serde_json::Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

pub fn log(bed: &Bed, logged: Logged) -> Written {
    let (written, counts) = (Written::default(), Arc::<Counts>::default());
    let queue = sight::log::start(written.clone(), Arc::clone(&counts)).unwrap();
    let log = Some((logged, queue));
    bed.proxy.shared().registry.show(Arc::new(Sight { log, traces: None, counts }));
    written
}

#[tokio::test]
async fn the_access_log_has_a_line_for_each_request_of_both_protocols() {
    let origin = Origin::text("hello").await;
    let bed = Bed::new(|route| {
        stable(route, origin.address);
        translated(route);
    })
    .await;
    let written = log(&bed, Logged::Share(1.0));
    assert_eq!(bed.get("/a\"b?token=secret").await.status, 200);
    let answer = within(http2_client(bed.port).await.send_request(call("/c"))).await.unwrap();
    within(answer.into_body().collect()).await.unwrap();
    eventually("both lines are written", || written.lines().len() == 2).await;
    let lines = written.lines();
    let one = lines.iter().find(|line| line["protocol"] == "HTTP/1.1").unwrap();
    assert_eq!((&one["path"], &one["method"], &one["status"]), (&json!("/a\"b"), &json!("GET"), &json!(200)));
    assert_eq!((&one["arm"], &one["revision"], &one["flags"]), (&json!("stable"), &json!("old"), &json!("-")));
    assert_eq!((&one["endpoint"], &one["attempts"]), (&json!(origin.address.to_string()), &json!(1)));
    assert!(one["upstreamMs"].as_f64().unwrap() <= one["totalMs"].as_f64().unwrap());
    assert!(one["bytesSent"].as_u64().unwrap() > 5 && one["time"].as_str().unwrap().ends_with('Z'));
    let two = lines.iter().find(|line| line["protocol"] == "HTTP/2").unwrap();
    assert_eq!((&two["path"], &two["bytesSent"], &two["client"]), (&json!("/c"), &json!(5), &json!("127.0.0.1")));
}

#[tokio::test]
async fn a_log_of_errors_has_no_others() {
    let origin = Origin::new(|request: Request<hyper::body::Incoming>| async move {
        let mut answer = http::Response::new("".into());
        if request.uri().path() == "/bad" {
            *answer.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        }
        answer
    })
    .await;
    let bed = Bed::new(|route| stable(route, origin.address)).await;
    let written = log(&bed, Logged::Errors);
    for path in ["/good", "/bad", "/good"] {
        bed.get(path).await;
    }
    eventually("the error is written", || !written.lines().is_empty()).await;
    bed.counters(api::Arm::Stable);
    assert_eq!(written.lines().iter().map(|line| line["path"].clone()).collect::<Vec<_>>(), ["/bad"]);
}

#[tokio::test]
async fn an_answer_of_the_proxys_own_has_no_upstream_time() {
    let babbles = raw_origin(|_, mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 what\r\n\r\n").await.unwrap();
    })
    .await;
    for (endpoint, status, attempts) in [(None, 503, 0), (Some(babbles), 502, 1)] {
        let bed = Bed::new(|route| {
            endpoint.into_iter().for_each(|endpoint| stable(route, endpoint));
            translated(route);
        })
        .await;
        let written = log(&bed, Logged::Errors);
        assert_eq!(bed.get("/").await.status, status);
        assert_eq!(within(http2_client(bed.port).await.send_request(call("/"))).await.unwrap().status(), status);
        eventually("both lines are written", || written.lines().len() == 2).await;
        for line in written.lines() {
            assert_eq!((&line["status"], &line["attempts"]), (&json!(status), &json!(attempts)), "{line}");
            assert!(line.get("upstreamMs").is_none(), "{line}");
        }
    }
}

#[tokio::test]
async fn without_tracing_trace_fields_pass_untouched() {
    let (origin, heard) = listening().await;
    let bed = Bed::new(|route| stable(route, origin.address)).await;
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request =
        format!("GET / HTTP/1.1\r\nHost: web\r\ntraceparent: {traceparent}\r\nb3: 0\r\ntracestate: a=b\r\n\r\n");
    bed.connect().await.send(&request).await;
    let heard = heard.lock().unwrap()[0].clone();
    for (name, value) in [("traceparent", traceparent), ("b3", "0"), ("tracestate", "a=b")] {
        assert_eq!(heard[name], value);
    }
}

#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<wire::Span>>>);

#[tonic::async_trait]
impl wire::trace_service_server::TraceService for Spans {
    async fn export(
        &self,
        request: tonic::Request<wire::ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<wire::ExportTraceServiceResponse>, tonic::Status> {
        let resources = request.into_inner().resource_spans;
        let scopes = resources.into_iter().flat_map(|resource| resource.scope_spans);
        self.0.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
        Ok(tonic::Response::new(wire::ExportTraceServiceResponse {}))
    }
}

#[tokio::test]
async fn with_tracing_a_span_is_exported_and_the_endpoint_gets_it_as_parent() {
    let (origin, heard) = listening().await;
    let bed = Bed::new(|route| {
        stable(route, origin.address);
        translated(route);
    })
    .await;
    let (spans, counts) = (Spans::default(), Arc::<Counts>::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let service = wire::trace_service_server::TraceServiceServer::new(spans.clone());
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    let collector = sight::otlp::Collector { endpoint, resource: Vec::new() };
    let queue = sight::otlp::start(collector, Arc::clone(&counts)).unwrap();
    let traces = Some((0.0, queue));
    bed.proxy.shared().registry.show(Arc::new(Sight { log: None, traces, counts: Arc::clone(&counts) }));

    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let sampled = format!("00-{trace}-00f067aa0ba902b7-01");
    let fields = format!("traceparent: {sampled}\r\nX-B3-TraceId: {trace}\r\nX-B3-SpanId: 00f067aa0ba902b7");
    bed.connect().await.send(&format!("GET /one?q HTTP/1.1\r\nHost: web\r\n{fields}\r\n\r\n")).await;
    let mut request = call("/two");
    request.headers_mut().insert("traceparent", sampled.parse().unwrap());
    let answer = within(http2_client(bed.port).await.send_request(request)).await.unwrap();
    within(answer.into_body().collect()).await.unwrap();
    // Not sampled: the ratio is 0.
    bed.get("/three").await;

    eventually("both spans are exported", || counts.spans_exported.load(SeqCst) == 2).await;
    let spans = spans.0.lock().unwrap().clone();
    assert_eq!(spans.len(), 2);
    let heard = heard.lock().unwrap().clone();
    for (span, heard) in spans.iter().zip(&heard) {
        let id: String = span.span_id.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(heard["traceparent"], *format!("00-{trace}-{id}-01"));
        assert_eq!(span.parent_span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
        assert!(span.end_time_unix_nano > span.start_time_unix_nano);
    }
    assert_eq!(heard[0]["x-b3-parentspanid"], "00f067aa0ba902b7");
    assert_eq!(heard[0].get_all("x-b3-spanid").iter().count(), 1);
    assert!(heard[2]["traceparent"].to_str().unwrap().ends_with("-00"), "the decision goes on");
    let path = spans[0].attributes.iter().find(|attribute| attribute.key == "url.path").unwrap();
    let text = wire::any_value::Value::StringValue("/one".into());
    assert_eq!(path.value.as_ref().unwrap().value, Some(text));
}

/// An endpoint and the fields of what it was asked.
async fn listening() -> (Origin, Arc<Mutex<Vec<http::HeaderMap>>>) {
    let heard = Arc::<Mutex<Vec<http::HeaderMap>>>::default();
    let notes = Arc::clone(&heard);
    let origin = Origin::new(move |request: Request<hyper::body::Incoming>| {
        notes.lock().unwrap().push(request.headers().clone());
        async { http::Response::new("".into()) }
    })
    .await;
    (origin, heard)
}

#[tokio::test]
async fn the_admin_port_shows_endpoints_and_totals() {
    let origin = Origin::text("ok").await;
    let bed = Bed::new(|route| stable(route, origin.address)).await;
    assert_eq!(bed.get("/").await.status, 200);
    bed.counters(api::Arm::Stable);
    let ask = async |path: &str| bed.admin(path).await;
    let clusters = ask("/clusters").await;
    assert_eq!((&clusters["workers"], &clusters["next"]), (&json!(2), &json!(null)));
    let endpoint = &clusters["ports"][0]["stable"][0];
    assert_eq!((&endpoint["address"], &endpoint["inFlight"]), (&json!(origin.address.to_string()), &json!(0)));
    assert!(endpoint["latencyMs"].as_f64().unwrap() > 0.0);
    let stats = ask("/stats").await;
    assert_eq!((&stats["requests"]["started"], &stats["routes"]), (&json!(1), &json!(1)));
    let config = ask("/config?after=1").await;
    assert_eq!(config["ports"][0]["service"], "web");
    assert_eq!(ask(&format!("/config?after={}", bed.port)).await["ports"], json!([]));
}

#[tokio::test]
async fn what_is_refused_before_it_has_a_route_is_counted() {
    let bed = Bed::new(|_| {}).await;
    let long = "a".repeat(40_000);
    let answer = bed.connect().await.send(&format!("GET / HTTP/1.1\r\nHost: web\r\nX: {long}\r\n\r\n")).await;
    assert_eq!(answer.status, 431);
    assert_eq!(bed.connect().await.send("GET / HTTP/1.1\r\n\r\n").await.status, 400);
    let metrics = bed.metrics();
    for code in [400, 431] {
        assert!(metrics.contains(&format!("sluice_proxy_rejected_total{{code=\"{code}\"}} 1\n")), "{metrics}");
    }
}
