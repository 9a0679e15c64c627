//! The access log: one JSON object per line, written by a thread of its own, so that a pipe that nobody reads stops no
//! worker.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::time::Duration;

use jiff::Timestamp;
use routing::Arm;
use serde::Serialize;

use super::{Counts, Entry};

/// Lines that may wait; about 2 MiB.
const QUEUE: usize = 4096;

/// A line as it is written. Names are those of `docs/observability.md`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    time: String,
    namespace: &'a str,
    service: &'a str,
    port: u16,
    canary: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    arm: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    revision: &'a str,
    client: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    protocol: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    method: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    path: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<u16>,
    flags: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<&'a str>,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_ms: Option<f64>,
    total_ms: f64,
    bytes_sent: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
}

/// Starts the writer; it ends when the last sender is gone.
///
/// # Errors
/// When the thread cannot be made.
pub fn start(out: impl Write + Send + 'static, counts: Arc<Counts>) -> io::Result<mpsc::SyncSender<Box<Entry>>> {
    let (queue, waiting) = mpsc::sync_channel(QUEUE);
    std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write(out, &waiting, &counts))?;
    Ok(queue)
}

fn write(out: impl Write, waiting: &mpsc::Receiver<Box<Entry>>, counts: &Counts) {
    let mut out = io::BufWriter::with_capacity(64 * 1024, out);
    while let Ok(first) = waiting.recv() {
        let mut written = line(&mut out, &first);
        // What is waiting goes out together.
        while let Ok(next) = waiting.try_recv() {
            written = written.and(line(&mut out, &next));
        }
        if written.and_then(|()| out.flush()).is_err() {
            counts.lines_dropped.fetch_add(1, Relaxed);
        }
    }
}

fn line(out: &mut impl Write, entry: &Entry) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &Line::of(entry))?;
    out.write_all(b"\n")
}

fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

impl<'a> Line<'a> {
    fn of(entry: &'a Entry) -> Self {
        let Entry { begun, port, arm, method, path, protocol, client, endpoint, attempts, upstream, span, ended } =
            entry;
        let route = &port.route;
        let revision = match arm {
            None => "",
            Some(Arm::Stable) => route.stable_revision.as_str(),
            Some(Arm::Canary) => route.canary_revision.as_str(),
        };
        let target = port.stable.iter().chain(&port.canary).find(|target| Some(target.address) == *endpoint);
        Self {
            time: Timestamp::try_from(*begun).map(|time| format!("{time:.3}")).unwrap_or_default(),
            namespace: &route.namespace,
            service: &route.service,
            port: port.service_port,
            canary: &route.canary,
            arm: arm.map_or("", Arm::name),
            revision,
            client,
            protocol,
            method,
            path,
            status: ended.status,
            grpc_status: ended.grpc_status,
            flags: ended.flags.to_string(),
            endpoint: endpoint.map(|address| address.to_string()),
            pod: target.map(|target| target.pod.as_str()).filter(|pod| !pod.is_empty()),
            attempts: *attempts,
            upstream_ms: upstream.map(millis),
            total_ms: millis(ended.took),
            bytes_sent: ended.bytes,
            trace_id: span.map(|span| format!("{:032x}", span.trace_id)),
        }
    }
}
