//! Copies of the stable arm's requests for the canary: sent when they are complete, their answers dropped.
//!
//! The original never waits for its copy and never fails by it: a copy that is too large, or one too many, is not sent,
//! and a slow canary only fills its own bounded room. What became of the copies is counted here, and nowhere in the arms'
//! counters, which the verdict reads.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, Version};
use http_body_util::BodyExt as _;
use routing::Route;
use routing::mirror::MAX_BODY;
use tokio::task::spawn_local;

use crate::body::RequestBody;
use crate::h1::chunked::{Decoder, Step};
use crate::h1::request;
use crate::upstream::{self, Reuse, SendError, Upstream};
use crate::view::PortView;
use crate::worker::Worker;

/// Copies of one worker that are being made or answered; with [`MAX_BODY`] this bounds their memory to 4 MiB.
const MAX_COPIES: u32 = 64;
/// Time for a copy, from its connection to the end of its answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read before its connection is closed instead.
const MAX_ANSWER: usize = 1024 * 1024;
/// Tells the application that nobody gets its answer.
const MARK: HeaderName = HeaderName::from_static("x-sluice-mirrored");

/// What became of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Answered, with anything but a 5xx.
    Answered,
    /// Answered with a 5xx, or not at all.
    Failed,
    /// Not sent: no endpoint of the canary is ready.
    NoEndpoint,
    /// Not sent: its body has more than [`MAX_BODY`].
    TooLarge,
    /// Not sent: too many others are under way.
    Overflow,
    /// Not sent: the original ended before all of its body had been passed on.
    Incomplete,
}

impl Fate {
    /// Every one, with its name in the metric.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Answered, "answered"),
        (Self::Failed, "failed"),
        (Self::NoEndpoint, "no_endpoint"),
        (Self::TooLarge, "too_large"),
        (Self::Overflow, "overflow"),
        (Self::Incomplete, "incomplete"),
    ];
}

/// The copies of one route, counted by all workers.
#[derive(Debug)]
pub struct Mirrored {
    /// Namespace of the Canary.
    pub namespace: String,
    /// Name of the Canary.
    pub canary: String,
    /// Name of the Service.
    pub service: String,
    counts: [AtomicU64; 6],
}

impl Mirrored {
    /// How many had this fate.
    #[must_use]
    pub fn count(&self, fate: Fate) -> u64 {
        self.counts[fate as usize].load(Relaxed)
    }

    fn add(&self, fate: Fate) {
        self.counts[fate as usize].fetch_add(1, Relaxed);
    }
}

/// The copies of every route that has or had a mirror, by uid; those whose route is gone make room for others.
#[derive(Debug, Default)]
pub struct Counters(Mutex<BTreeMap<String, Arc<Mirrored>>>);

/// Routes whose copies are counted; as many as a proxy may serve.
const MAX_ROUTES: usize = 2_000;

impl Counters {
    /// Where the copies of a route are counted.
    #[must_use]
    pub fn of(&self, route: &Route) -> Arc<Mirrored> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_ROUTES && !all.contains_key(&route.uid) {
            all.retain(|_, mirrored| Arc::strong_count(mirrored) > 1);
        }
        let entry = all.entry(route.uid.clone()).or_insert_with(|| {
            Arc::new(Mirrored {
                namespace: route.namespace.clone(),
                canary: route.canary.clone(),
                service: route.service.clone(),
                counts: Default::default(),
            })
        });
        Arc::clone(entry)
    }

    /// Every one, by uid.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Arc<Mirrored>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// A place among the copies of a worker; when it is given up, the copy has met its fate.
#[derive(Debug)]
struct Place {
    copies: Rc<Cell<u32>>,
    mirrored: Arc<Mirrored>,
    fate: Fate,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.copies.set(self.copies.get() - 1);
        self.mirrored.add(self.fate);
    }
}

/// The copy of one request, in the making until its body is complete.
#[derive(Debug)]
pub struct Copy {
    upstream: Rc<Upstream>,
    version: upstream::Version,
    connect_timeout: Duration,
    parts: Parts,
    body: Vec<u8>,
    /// `body` is as it crosses the wire in HTTP/1.1.
    chunked: bool,
    complete: bool,
    place: Place,
}

impl Copy {
    /// For a request of the stable arm, if the route says so; `parts` is what the endpoint gets.
    #[must_use]
    pub fn begin(
        worker: &Worker,
        view: &PortView,
        version: upstream::Version,
        method: &str,
        parts: impl FnOnce() -> Option<Parts>,
    ) -> Option<Self> {
        let (mirror, mirrored) = (view.port.route.mirror.as_ref()?, view.mirrored.as_ref()?);
        if !mirror.picks(method) {
            return None;
        }
        let Some(upstream) = crate::proxy::pick(worker, &view.canary, &crate::proxy::Tried::default()) else {
            mirrored.add(Fate::NoEndpoint);
            return None;
        };
        let copies = worker.copies();
        if copies.get() >= MAX_COPIES {
            mirrored.add(Fate::Overflow);
            return None;
        }
        let mut parts = parts()?;
        let length = parts.headers.remove(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if length.is_some_and(|length: u64| length > MAX_BODY as u64) {
            mirrored.add(Fate::TooLarge);
            return None;
        }
        copies.set(copies.get() + 1);
        let chunked = parts.headers.remove(header::TRANSFER_ENCODING).is_some();
        // A copy has all of its body, and its trailers were not kept.
        for hop in [header::EXPECT, header::TE, header::TRAILER] {
            parts.headers.remove(hop);
        }
        parts.headers.insert(MARK, HeaderValue::from_static("true"));
        Some(Self {
            upstream,
            version,
            connect_timeout: view.port.route.connect_timeout,
            parts,
            body: Vec::new(),
            chunked,
            complete: false,
            place: Place { copies, mirrored: Arc::clone(mirrored), fate: Fate::Incomplete },
        })
    }

    /// A piece of the body was passed on.
    pub fn piece(&mut self, bytes: &[u8]) {
        // One byte more than may be tells that it is too large, and the rest need not be held.
        let room = (MAX_BODY + 1).saturating_sub(self.body.len());
        self.body.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// The body was passed on to its end.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    /// Sends it, if the original was sent as a whole.
    pub fn send(mut self) {
        if self.body.len() > MAX_BODY {
            self.place.fate = Fate::TooLarge;
        } else if self.complete {
            self.place.fate = Fate::Failed;
            spawn_local(async move {
                let Self { upstream, version, connect_timeout, parts, body, chunked, complete: _, mut place } = self;
                let body = if chunked { decoded(&body) } else { Some(body) };
                let Some(body) = body else { return };
                let request = Request::from_parts(parts, RequestBody::Whole(Some(body.into())));
                let exchange = exchange(&upstream, version, connect_timeout, request);
                let status = tokio::time::timeout(LIMIT, exchange).await.ok().flatten();
                if status.is_some_and(|status| status < 500) {
                    place.fate = Fate::Answered;
                }
            });
        }
    }
}

/// The status of the answer, when all of it was read.
async fn exchange(
    upstream: &Rc<Upstream>,
    version: upstream::Version,
    connect_timeout: Duration,
    mut request: Request<RequestBody>,
) -> Option<u16> {
    for reuse in [Reuse::Surely, Reuse::Never] {
        let mut lease = upstream.lease(version, connect_timeout, reuse).await.ok()?;
        let mut response = match lease.send(request, None).await {
            Ok(response) => response,
            // A pooled connection that the endpoint had closed, or that is full.
            Err(SendError::Unsent(unsent) | SendError::Full(unsent)) => {
                request = *unsent;
                continue;
            }
            Err(SendError::Refused | SendError::Failed(_)) => return None,
        };
        let mut left = MAX_ANSWER;
        while let Some(frame) = response.body_mut().frame().await {
            // Whose answer is large has answered; the rest is nobody's.
            let Some(rest) = left.checked_sub(frame.ok()?.data_ref().map_or(0, Bytes::len)) else { break };
            left = rest;
        }
        return Some(response.status().as_u16());
    }
    None
}

/// The body that these chunks hold.
fn decoded(coded: &[u8]) -> Option<Vec<u8>> {
    let (mut decoder, mut buffer, mut body) = (Decoder::default(), BytesMut::from(coded), Vec::new());
    loop {
        match decoder.step(&buffer).ok()? {
            Step::Data { used, length } => {
                body.extend_from_slice(&buffer[used - length..used]);
                buffer.advance(used);
            }
            Step::Done { .. } => return Some(body),
            Step::More => return None,
        }
    }
}

/// The head that begins `wire`, and its length.
#[must_use]
pub fn head(wire: &[u8]) -> Option<(Parts, usize)> {
    let mut room = request::room();
    let mut parsed = httparse::Request::new(&mut []);
    let Ok(httparse::Status::Complete(length)) = parsed.parse_with_uninit_headers(wire, &mut room) else { return None };
    let mut request = Request::builder().method(parsed.method?).uri(parsed.path?).version(Version::HTTP_11);
    for field in parsed.headers.iter() {
        request = request.header(field.name, field.value);
    }
    Some((request.body(()).ok()?.into_parts().0, length))
}
