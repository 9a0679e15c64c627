//! What people see of single requests: the access log and traces. Off, a request pays for one branch; on, it carries a
//! [`Detail`] in its record, which goes into bounded queues when the record ends. Nothing here waits, and what finds a
//! queue full is dropped and counted. [`log`] writes lines on a thread of its own, [`otlp`] exports spans; [`refused`] is
//! what has no record.

pub mod log;
pub mod otlp;
pub mod refused;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{HeaderMap, HeaderValue};
use routing::trace::{FIELDS, Span};
use routing::{Arm, Flag, Flags, Outcome, Port};

/// Which requests get a line in the access log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Logged {
    /// Those that failed or have a response flag.
    Errors,
    /// This share of all, 0..=1.
    Share(f64),
}

/// Where requests are made visible; one per process, shared by the workers.
#[derive(Debug)]
pub struct Sight {
    /// The access log, if it is on.
    pub log: Option<(Logged, mpsc::SyncSender<Box<Entry>>)>,
    /// Tracing, if it is on: the share of new traces that is sampled, 0..=1.
    pub traces: Option<(f64, tokio::sync::mpsc::Sender<Arc<Entry>>)>,
    /// What became of lines and spans.
    pub counts: Arc<Counts>,
}

/// Totals since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Lines that found the queue full or could not be written.
    pub lines_dropped: AtomicU64,
    /// Spans that a collector took.
    pub spans_exported: AtomicU64,
    /// Spans that found the queue full or that no collector took.
    pub spans_dropped: AtomicU64,
    /// Lines for what was refused, in this second.
    pub refusals: refused::Meter,
}

/// What is known of a request that may be logged or traced, while it is under way.
#[derive(Debug)]
pub struct Detail {
    sight: Arc<Sight>,
    line: Line,
    attempt_begun: Option<Instant>,
    entry: Entry,
}

/// When a request gets a line in the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Always,
    IfItFails,
    Never,
}

/// A request that is over.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When it began.
    pub begun: SystemTime,
    /// Its port and route.
    pub port: Arc<Port>,
    /// The version that it was given to; none if the proxy refused it, or a rule answered.
    pub arm: Option<Arm>,
    /// As sent; empty if that was not read.
    pub method: String,
    /// Without the query, which may hold what is nobody else's business.
    pub path: String,
    /// `HTTP/1.1` or `HTTP/2`; empty where that is not known.
    pub protocol: &'static str,
    /// Address of the client.
    pub client: String,
    /// Tried last.
    pub endpoint: Option<SocketAddr>,
    /// Endpoints that were tried.
    pub attempts: u32,
    /// From the last attempt to the head of its answer.
    pub upstream: Option<Duration>,
    /// Its span, if traces are on.
    pub span: Option<Span>,
    /// How it ended.
    pub ended: Ended,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ended {
    /// What the client got, 0 if nothing.
    pub status: u16,
    /// `grpc-status`, if there was one.
    pub grpc_status: Option<u16>,
    /// Counts against the arm.
    pub failed: bool,
    /// Why.
    pub flags: Flags,
    /// To the last byte of the answer.
    pub took: Duration,
    /// Sent to the client: over HTTP/1 with the head, over HTTP/2 without.
    pub bytes: u64,
}

/// A request as its protocol has it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// As sent.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'static str,
}

impl<'a> Asked<'a> {
    fn path(&self) -> &'a str {
        self.target.split('?').next().unwrap_or_default()
    }
}

impl Sight {
    /// What `request`'s record carries, if anything; without `arm`, what its answer by a rule is told by.
    pub fn look<'a>(
        self: &Arc<Self>,
        asked: Asked<'_>,
        client: impl FnOnce() -> String,
        (port, arm): (&Arc<Port>, Option<Arm>),
        fields: impl Iterator<Item = (&'a str, &'a [u8])>,
        mut random: impl FnMut() -> u64,
    ) -> Option<Box<Detail>> {
        let span = self.traces.as_ref().map(|(ratio, _)| Span::begin(fields, [random(), random(), random()], *ratio));
        let line = match &self.log {
            Some((Logged::Errors, _)) => Line::IfItFails,
            Some((Logged::Share(share), _)) if drawn(*share, random()) => Line::Always,
            Some((Logged::Share(_), _)) | None => Line::Never,
        };
        if line == Line::Never && span.is_none() {
            return None;
        }
        let entry = Entry {
            begun: SystemTime::now(),
            port: Arc::clone(port),
            arm,
            method: asked.method.to_owned(),
            path: asked.path().to_owned(),
            protocol: asked.protocol,
            client: client(),
            endpoint: None,
            attempts: 0,
            upstream: None,
            span,
            ended: Ended::default(),
        };
        Some(Box::new(Detail { sight: Arc::clone(self), line, attempt_begun: None, entry }))
    }
}

impl Detail {
    /// An endpoint is tried.
    pub fn attempt(&mut self, endpoint: SocketAddr) {
        self.entry.endpoint = Some(endpoint);
        self.entry.attempts += 1;
        self.attempt_begun = Some(Instant::now());
    }

    /// The head of an answer is there.
    pub fn answered(&mut self) {
        self.entry.upstream = self.attempt_begun.map(|begun| begun.elapsed());
    }

    /// The answer is not an endpoint's.
    pub fn unanswered(&mut self) {
        self.entry.upstream = None;
    }

    /// Writes the proxy's span into an HTTP/1 head that ends in an empty line.
    pub fn mark_head(&self, head: &mut Vec<u8>) {
        let Some(span) = &self.entry.span else { return };
        let mut marked = Vec::with_capacity(head.len() + 160);
        for line in head.split_inclusive(|byte| *byte == b'\n') {
            if line == b"\r\n" {
                for (name, value) in span.fields() {
                    crate::h1::text::field(&mut marked, name.as_bytes(), value.as_bytes());
                }
            }
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
            if !std::str::from_utf8(name).is_ok_and(Span::replaces) {
                marked.extend_from_slice(line);
            }
        }
        *head = marked;
    }

    /// Writes the proxy's span into the fields of a request.
    pub fn mark(&self, headers: &mut HeaderMap) {
        let Some(span) = &self.entry.span else { return };
        for name in FIELDS {
            headers.remove(name);
        }
        for (name, value) in span.fields() {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
    }

    /// A rule has answered with `status` and `bytes`.
    pub fn answered_by_rule(mut self, status: u16, flag: Option<Flag>, bytes: usize) {
        let took = self.entry.begun.elapsed().unwrap_or_default();
        let failed = status >= 500;
        let ended = Ended { status, grpc_status: None, failed, flags: flag.into(), took, bytes: bytes as u64 };
        if self.line == Line::IfItFails && ended.bad() && !self.sight.may_tell(SystemTime::now()) {
            self.line = Line::Never;
        }
        // No arm's: its span is exemplary of nothing that is counted.
        let _ = self.end(ended);
    }

    /// The request is over. Its span, if it is sampled and will be exported unless the collector fails.
    pub fn end(mut self, ended: Ended) -> Option<Span> {
        self.entry.ended = ended;
        let Sight { log, traces, counts } = &*self.sight;
        if let Some((_, queue)) = log
            && (self.line == Line::Always || (self.line == Line::IfItFails && ended.bad()))
            && queue.try_send(Box::new(self.entry.clone())).is_err()
        {
            counts.lines_dropped.fetch_add(1, Relaxed);
        }
        let span = self.entry.span.filter(|span| span.sampled);
        let ((_, queue), span) = (traces.as_ref()?, span?);
        if queue.try_send(Arc::new(self.entry)).is_err() {
            counts.spans_dropped.fetch_add(1, Relaxed);
            return None;
        }
        Some(span)
    }
}

/// Whether a request is of the `share`, 0..=1, that is logged.
fn drawn(share: f64, random: u64) -> bool {
    (random as f64) < share * u64::MAX as f64
}

impl Ended {
    /// Fit for a log of errors.
    fn bad(&self) -> bool {
        self.failed || !self.flags.is_empty()
    }
}

/// Whether an outcome counts against the arm.
#[must_use]
pub fn failed(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Error | Outcome::GrpcError)
}
