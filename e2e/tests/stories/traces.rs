//! From a number to the request behind it, through all real parts: a request's span reaches the collector of a ProxyPool,
//! and Prometheus keeps that span's ids beside what it scraped.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::{Buf as _, Bytes};
use e2e::cluster::layout::NODE_ADDRESS;
use e2e::kubectl::{self, Side};
use e2e::prometheus;
use e2e::visitor::Visitor;
use e2e::world::SOON;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use proxy_api::metrics::{LABEL_NAMESPACE, REQUEST_DURATION_SECONDS};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::story::Story;

/// A trace that a caller began and decided to keep, and the caller's span.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

pub(crate) async fn numbers_lead_to_spans(story: Story) -> Result<()> {
    let collector = Collector::start().await?;
    let shop = story.bare_shop(story.manifests()?).await?;
    let pool = json!({
        "apiVersion": "sluice.dev/v1beta1", "kind": "ProxyPool", "metadata": { "name": "default" },
        "spec": { "tracing": { "endpoint": format!("http://{}", collector.address), "samplingRatio": 1.0 } },
    });
    kubectl::apply(&shop.namespace, &pool.to_string(), Side::Client).await?;
    shop.adopt().await?;

    let mut visitor = Visitor::of(&shop).await?;
    visitor.get("/kept", &[("traceparent", &format!("00-{TRACE}-{CALLER}-01"))]).await?;
    let kept = collector.until("the caller's trace has a span", |span| span.trace == TRACE).await?;
    ensure!(kept.parent == CALLER, "{kept:?} is not the caller's child");

    let query = format!("{REQUEST_DURATION_SECONDS}_bucket{{{LABEL_NAMESPACE}=\"{}\"}}", shop.namespace);
    let deadline = Instant::now() + SOON;
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    let shown = loop {
        tick.tick().await;
        // Buckets keep their newest request, so there is one to be seen by the next scrape.
        visitor.get("/", &[]).await?;
        let shown = prometheus::exemplars(&query).await?;
        if !shown.is_empty() {
            break shown;
        }
        ensure!(Instant::now() < deadline, "Prometheus has no exemplar of {query}");
    };
    for exemplar in &shown {
        let (trace, span) = (&exemplar["trace_id"], &exemplar["span_id"]);
        let found = |told: &Told| told.trace == *trace && told.span == *span;
        collector.until(&format!("the span of {exemplar:?} is exported"), found).await?;
    }
    story.say(&format!("{} exemplars, each with its span; {} spans in all", shown.len(), collector.count()));
    Ok(())
}

/// A span, its ids in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Told {
    trace: String,
    span: String,
    parent: String,
}

/// Takes spans by OTLP over gRPC, without TLS, until it is dropped.
struct Collector {
    address: std::net::SocketAddr,
    told: Arc<Mutex<BTreeSet<Told>>>,
    _task: AbortOnDropHandle<()>,
}

impl Collector {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind((NODE_ADDRESS, 0)).await?;
        let address = listener.local_addr()?;
        let told: Arc<Mutex<BTreeSet<Told>>> = Arc::default();
        let task = tokio::spawn(serve(listener, Arc::clone(&told)));
        Ok(Self { address, told, _task: AbortOnDropHandle::new(task) })
    }

    fn count(&self) -> usize {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    async fn until(&self, what: &str, wanted: impl Fn(&Told) -> bool) -> Result<Told> {
        let deadline = Instant::now() + SOON;
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        loop {
            tick.tick().await;
            let found =
                self.told.lock().unwrap_or_else(PoisonError::into_inner).iter().find(|told| wanted(told)).cloned();
            if let Some(found) = found {
                return Ok(found);
            }
            ensure!(Instant::now() < deadline, "did not come true among {} spans: {what}", self.count());
        }
    }
}

async fn serve(listener: TcpListener, told: Arc<Mutex<BTreeSet<Told>>>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let told = Arc::clone(&told);
        connections.spawn(async move {
            let service = service_fn(move |request| take(request, Arc::clone(&told)));
            let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type Answer = Response<
    http_body_util::combinators::WithTrailers<Full<Bytes>, std::future::Ready<Option<Result<HeaderMap, Infallible>>>>,
>;

/// `TraceService.Export`: one length-prefixed message, answered by an empty one.
async fn take(request: Request<Incoming>, told: Arc<Mutex<BTreeSet<Told>>>) -> Result<Answer> {
    let mut body = request.into_body().collect().await?.to_bytes();
    ensure!(body.remaining() >= 5 && body.get_u8() == 0, "not one plain message");
    let length = body.get_u32() as usize;
    let export = wire::Export::decode(body.get(..length).context("the message is cut")?)?;
    let spans = export.resources.into_iter().flat_map(|resource| resource.scopes).flat_map(|scope| scope.spans);
    told.lock().unwrap_or_else(PoisonError::into_inner).extend(spans.map(|span| Told {
        trace: hex(&span.trace),
        span: hex(&span.span),
        parent: hex(&span.parent),
    }));
    let trailers =
        HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static("0"))]);
    let empty = Full::new(Bytes::from_static(&[0; 5])).with_trailers(std::future::ready(Some(Ok(trailers))));
    Ok(Response::builder().header("content-type", "application/grpc").body(empty)?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The part of OpenTelemetry's messages that is looked at (opentelemetry-proto 1.x, numbers of the original).
mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Export {
        #[prost(message, repeated, tag = "1")]
        pub(super) resources: Vec<Resource>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Resource {
        #[prost(message, repeated, tag = "2")]
        pub(super) scopes: Vec<Scope>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Scope {
        #[prost(message, repeated, tag = "2")]
        pub(super) spans: Vec<Span>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Span {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) trace: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) span: Vec<u8>,
        #[prost(bytes = "vec", tag = "4")]
        pub(super) parent: Vec<u8>,
    }
}
