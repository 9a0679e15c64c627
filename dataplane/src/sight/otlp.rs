//! Spans to a collector: OTLP over gRPC, in batches, from a bounded queue on the side thread. The schema is the part of
//! OpenTelemetry's that is used, over the gRPC client that is there already: the SDK has a runtime, a queue and a span
//! store of its own, which a worker's thread would have to lock.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};

use super::{Counts, Entry};
use crate::telemetry::Chain;
use wire::any_value::Value;
use wire::trace_service_client::TraceServiceClient;

/// The messages and the client, generated.
pub mod wire {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/opentelemetry.proto.collector.trace.v1.rs"));
}

/// Spans that may wait.
const QUEUE: usize = 2048;
/// Spans in one message.
const BATCH: usize = 512;
/// How long a span waits for company.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time for a collector to take a batch; one that does not is not asked again for it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Not `http://host:port`.
    #[error("collector {0:?} must be http://HOST:PORT")]
    Address(String),
}

/// Where spans go and whose they are.
#[derive(Clone, Debug)]
pub struct Collector {
    /// `http://host:port`, gRPC.
    pub endpoint: String,
    /// Resource attributes: name and value.
    pub resource: Vec<(&'static str, String)>,
}

/// Starts the export on the current runtime; it ends when the last sender is gone.
///
/// # Errors
/// When the address is not one.
pub fn start(collector: Collector, counts: Arc<Counts>) -> Result<mpsc::Sender<Arc<Entry>>, ExportError> {
    let address = || ExportError::Address(collector.endpoint.clone());
    let endpoint = Endpoint::from_shared(collector.endpoint.clone()).map_err(|_| address())?;
    if endpoint.uri().scheme_str() != Some("http") || endpoint.uri().authority().is_none() {
        return Err(address());
    }
    let channel = endpoint.connect_timeout(TIMEOUT).timeout(TIMEOUT).connect_lazy();
    let (queue, waiting) = mpsc::channel(QUEUE);
    tokio::spawn(export(TraceServiceClient::new(channel), collector, waiting, counts));
    Ok(queue)
}

async fn export(
    mut client: TraceServiceClient<Channel>,
    collector: Collector,
    mut waiting: mpsc::Receiver<Arc<Entry>>,
    counts: Arc<Counts>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let until = tokio::time::Instant::now() + INTERVAL;
        while batch.len() < BATCH {
            let room = BATCH - batch.len();
            match tokio::time::timeout_at(until, waiting.recv_many(&mut batch, room)).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
        let count = batch.len() as u64;
        let sent = tokio::time::timeout(TIMEOUT, client.export(message(&collector, &batch))).await;
        batch.clear();
        match sent {
            Ok(Ok(_)) => counts.spans_exported.fetch_add(count, Relaxed),
            Ok(Err(error)) => {
                tracing::warn!(error = %Chain(&error), spans = count, "collector did not take spans");
                counts.spans_dropped.fetch_add(count, Relaxed)
            }
            Err(_) => counts.spans_dropped.fetch_add(count, Relaxed),
        };
    }
}

fn message(collector: &Collector, batch: &[Arc<Entry>]) -> wire::ExportTraceServiceRequest {
    let attributes = collector.resource.iter().map(|(key, value)| text(key, value.clone())).collect();
    let spans = batch.iter().filter_map(|entry| span(entry)).collect();
    wire::ExportTraceServiceRequest {
        resource_spans: vec![wire::ResourceSpans {
            resource: Some(wire::Resource { attributes }),
            scope_spans: vec![wire::ScopeSpans { spans }],
        }],
    }
}

/// Names of attributes: OpenTelemetry's semantic conventions for HTTP where there is one, ours else.
fn span(entry: &Entry) -> Option<wire::Span> {
    let span = entry.span?;
    let route = &entry.port.route;
    let start = entry.begun.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let mut attributes = vec![
        text("http.request.method", entry.method.clone()),
        text("url.path", entry.path.clone()),
        text("client.address", entry.client.clone()),
        text("sluice.route", format!("{}/{}", route.namespace, route.service)),
        text("sluice.canary", route.canary.clone()),
        number("sluice.attempts", entry.attempts.into()),
        number("http.response.status_code", entry.ended.status.into()),
    ];
    attributes.extend(entry.arm.map(|arm| text("sluice.arm", arm.name().to_owned())));
    attributes.extend(entry.endpoint.map(|address| text("network.peer.address", address.to_string())));
    if !entry.ended.flags.is_empty() {
        attributes.push(text("sluice.response_flags", entry.ended.flags.to_string()));
    }
    let failed = entry.ended.failed.then_some(wire::Status { code: wire::StatusCode::Error.into() });
    Some(wire::Span {
        trace_id: span.trace_id.to_be_bytes().to_vec(),
        span_id: span.span_id.to_be_bytes().to_vec(),
        parent_span_id: span.parent.map(|parent| parent.to_be_bytes().to_vec()).unwrap_or_default(),
        name: format!("{} {}/{}", entry.method, route.namespace, route.service),
        kind: wire::SpanKind::Server.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start + entry.ended.took.as_nanos() as u64,
        attributes,
        status: failed,
    })
}

fn text(key: &str, value: String) -> wire::KeyValue {
    wire::KeyValue { key: key.to_owned(), value: Some(wire::AnyValue { value: Some(Value::StringValue(value)) }) }
}

fn number(key: &str, value: i64) -> wire::KeyValue {
    wire::KeyValue { key: key.to_owned(), value: Some(wire::AnyValue { value: Some(Value::IntValue(value)) }) }
}
