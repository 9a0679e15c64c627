//! The request path, from the client's head to the endpoint's: which arm, which endpoint, and what to do when one cannot
//! be reached. Knows nothing of sockets; the choices themselves are in crate `routing`.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use routing::balance::Balance;
use routing::rules::Decision;
use routing::{Arm, Choice, Flag, Port, Protocol, retry};

use crate::body::{Incoming, Passing, RequestBody, ResponseBody, grpc_status};
use crate::error::ProxyError;
use crate::forward::Client;
use crate::interim::Interims;
use crate::mirror::Copy;
use crate::record::Record;
use crate::replay::Spare;
use crate::retries::{self, Retries};
use crate::sight::{Asked, Detail};
use crate::upgrade::Handshake;
use crate::upstream::{DialError, Lease, Reuse, SendError, Upstream, Version};
use crate::view::{ArmView, PortView, Slot};
use crate::worker::Worker;
use crate::{forward, replay, rules, upgrade};

/// Endpoints of one arm that are tried for one request. Refused connections fail at once; with the default connect
/// timeout, dead nodes cost a client at most this many seconds per arm.
const MAX_ENDPOINTS: usize = 3;
/// Latency that a failed connection counts as, so that an endpoint that fails fast does not attract requests.
pub const FAILURE_LATENCY: Duration = Duration::from_secs(1);
/// Connections to one endpoint that turn out to take no more streams before a request is sent elsewhere: the first says how many
/// it takes, the next ones are chosen by that.
const MAX_FULL: u32 = 4;

/// Answers one request; `interims` gets what an endpoint says before its answer.
pub async fn handle(
    worker: &Worker,
    slot: &Slot,
    client: &Client,
    mut request: Request<Incoming>,
    interims: &Interims,
) -> Response<ResponseBody> {
    let view = slot.current();
    let route = &view.port.route;
    let decision = match &route.rules {
        None => None,
        Some(known) => known.decide(&rules::view(&request), worker.random(), rules::now),
    };
    let answered = decision.as_ref().is_some_and(Decision::answers);
    let detail = if answered { look(worker, &view.port, client, &request, None) } else { None };
    if let Some(own) = rules::own_answer(decision.as_ref()).await {
        return rules::answer(own, detail);
    }
    let fields = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let Choice { arm, told } = view.port.choose(fields, || rules::view(&request), worker.random());
    let fields = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let keyed = view.port.key(fields, client.address(), || worker.random());
    let detail = look(worker, &view.port, client, &request, Some(arm));
    if let Some(detail) = &detail {
        detail.mark(request.headers_mut());
    }
    let mut record = Record::begin(&view.arm(arm).cell, route.counter);
    record.carry(detail);
    let deadline = deadline(&view, decision.as_ref(), &record);
    let handshake = request.extensions().get::<Handshake>().cloned();
    let connects = upgrade::asked(request.extensions());
    let answer = {
        // Pinned here, and so held once: every move of a future is one more copy of it in the futures around it.
        let asker = (client, interims);
        let exchange = pin!(exchange(worker, &view, (arm, keyed.key), decision.as_ref(), asker, request, &mut record));
        match deadline {
            None => exchange.await,
            Some(deadline) => tokio::time::timeout_at(deadline, exchange).await.unwrap_or(Err(ProxyError::Timeout)),
        }
    };
    match answer {
        Err(error) => refuse(error, record),
        Ok((mut response, lease)) => {
            let (from, open) = (response.version(), connects && response.status().is_success());
            forward::response(response.headers_mut(), from);
            if let Some(handshake) = handshake.filter(|_| open) {
                handshake.accepted(&mut response);
            }
            record.status(response.status().as_u16());
            if let Some(status) = grpc_status(response.headers()) {
                record.grpc_status(status);
            }
            if let Some(decision) = &decision {
                rules::edit_response(response.headers_mut(), decision);
            }
            if let (Some(bucket), Some(affinity)) = (told, &route.affinity) {
                set_cookie(response.headers_mut(), |out| affinity.write_cookie(bucket, out));
            }
            if let (Some(told), Some(hash)) = (keyed.told, route.balance.as_deref().and_then(Balance::hash_key)) {
                set_cookie(response.headers_mut(), |out| hash.write_cookie(told, out));
            }
            if open {
                // How long people keep a socket open is not a latency.
                record.complete();
                return response.map(|body| ResponseBody::Endpoint(Box::new(Passing::new(body, None, lease, None))));
            }
            let deadline = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
            response.map(|body| ResponseBody::Endpoint(Box::new(Passing::new(body, Some(record), lease, deadline))))
        }
    }
}

/// The request as the access log and traces name it.
#[must_use]
pub fn asked(request: &Request<Incoming>) -> Asked<'_> {
    let target = request.uri().path_and_query().map_or("*", |target| target.as_str());
    let protocol = if request.version() == http::Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" };
    Asked { method: request.method().as_str(), target, protocol }
}

/// What is to be told of the request when it is over, if anything.
fn look(
    worker: &Worker,
    port: &Arc<Port>,
    client: &Client,
    request: &Request<Incoming>,
    arm: Option<Arm>,
) -> Option<Box<Detail>> {
    let sight = worker.registry().sight()?;
    let fields = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    sight.look(asked(request), || client.address().to_string(), (port, arm), fields, || worker.random())
}

/// When the request must be over.
fn deadline(view: &PortView, decision: Option<&Decision>, record: &Record) -> Option<tokio::time::Instant> {
    let limit = rules::request_timeout(&view.port.route, decision)?;
    Some(tokio::time::Instant::from_std(record.begun() + limit))
}

/// Tells a new client where it belongs.
fn set_cookie(headers: &mut HeaderMap, write: impl FnOnce(&mut Vec<u8>)) {
    let mut value = Vec::new();
    write(&mut value);
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.append(header::SET_COOKIE, value);
    }
}

/// The proxy's own answer; the arm has failed, unless the client is to blame.
fn refuse(error: ProxyError, mut record: Record) -> Response<ResponseBody> {
    let status = error.status();
    record.own_status(status.as_u16());
    if let Some(flag) = error.flag() {
        record.flag(flag);
    }
    if status.is_server_error() {
        record.broken()
    } else {
        record.complete()
    }
    answer(status, &error.to_string())
}

/// An answer in the proxy's own words.
#[must_use]
pub fn answer(status: StatusCode, text: &str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Own(Some(Bytes::from(format!("{text}\n")))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

async fn exchange(
    worker: &Worker,
    view: &PortView,
    (mut arm, key): (Arm, Option<u64>),
    decision: Option<&Decision>,
    (client, interims): (&Client, &Interims),
    request: Request<Incoming>,
    record: &mut Record,
) -> Result<(Response<Incoming>, Lease), ProxyError> {
    let version = match (view.port.protocol, request.version()) {
        (Protocol::Detect, http::Version::HTTP_2) | (Protocol::Http2, _) => Version::Http2,
        (Protocol::Detect | Protocol::Http1 | Protocol::Tcp, _) => Version::Http1,
    };
    let (mut parts, body) = request.into_parts();
    forward::request(&mut parts, client, version.http())?;
    if let Some(decision) = decision {
        rules::edit_request(&mut parts, decision)?;
    }
    let connects = upgrade::asked(&parts.extensions);
    let copy = if arm == Arm::Stable && !connects {
        Copy::begin(worker, view, version, parts.method.as_str(), || Some(parts.clone()))
    } else {
        None
    };
    let (body, socket) = match upgrade::translate(&mut parts, version, || worker.random()) {
        None => (RequestBody::of(body, copy), None),
        Some(accept) => (RequestBody::Empty, Some((accept, body))),
    };
    let mut request = Request::from_parts(parts, body);
    let retries =
        // What a socket says once it is open is not kept to be said again.
        view.port.route.retry.as_ref().filter(|_| !connects).map(|policy| {
            Retries::begin(policy, worker, request.method().is_idempotent(), deadline(view, decision, record))
        });
    let spare = retries.as_ref().map(|retries| Spare::of(&mut request, retries));
    let spare = spare.as_ref();
    let mut tried = Tried::keyed(key);
    record.hold(view.arm(arm).admit()?);
    loop {
        let Some(upstream) = pick(worker, view.arm(arm), &tried) else {
            if fall_back(view, (&mut arm, &mut tried), key, record)? {
                continue;
            }
            let spare = Spare::after(spare, retry::Failure::Unreachable, ProxyError::NoEndpoint, record)?;
            request = spare.next(None, &mut tried).await;
            continue;
        };
        record.attempt(arm, view.arm(arm), &upstream, worker.registry());
        let attempt = pin!(attempt(&upstream, version, view.port.route.connect_timeout, request, interims));
        let answer = Spare::in_time(spare, attempt).await.unwrap_or_else(|| {
            upstream.observe(FAILURE_LATENCY);
            Err(Failure::Final(ProxyError::Timeout))
        });
        if let Some(retries) = retries.as_ref().filter(|_| interims.passed()) {
            retries.spoken();
        }
        let spare = match answer {
            Ok((response, lease)) => {
                let Some(spare) = spare else {
                    let response = match socket {
                        None => response,
                        Some((accept, said)) => accept.answered(response, said)?,
                    };
                    return Ok((response, lease));
                };
                let grpc_status = grpc_status(response.headers());
                let answer = retry::Failure::Answer { status: response.status().as_u16(), grpc_status };
                if !spare.again(answer, record) {
                    return Ok((response, lease));
                }
                spare
            }
            Err(Failure::Unsent(unsent)) => {
                request = *unsent;
                tried.unreachable(upstream.address());
                record.unreached();
                continue;
            }
            Err(Failure::Refused) => Spare::after(spare, retry::Failure::Refused, ProxyError::Reset, record)?,
            Err(Failure::Final(error)) => Spare::after(spare, retries::failure(error).ok_or(error)?, error, record)?,
        };
        request = spare.next(Some(upstream.address()), &mut tried).await;
    }
}

/// Endpoints of one arm that a request has no reason to go to.
#[derive(Debug, Default)]
pub struct Tried {
    key: Option<u64>,
    unreachable: Vec<SocketAddr>,
    failed: Vec<SocketAddr>,
}

impl Tried {
    /// None yet, for a request that belongs where `key` says.
    #[must_use]
    pub fn keyed(key: Option<u64>) -> Self {
        Self { key, ..Self::default() }
    }

    /// No connection to this one.
    pub fn unreachable(&mut self, address: SocketAddr) {
        self.unreachable.push(address);
    }

    /// Another attempt begins; the one before failed at this one, which is asked again only if there is no other.
    pub fn again(&mut self, failed: Option<SocketAddr>) {
        self.unreachable.clear();
        self.failed.extend(failed);
    }
}

/// The next endpoint of an arm for a request; `None` when enough were `tried`.
pub fn pick(worker: &Worker, arm: &ArmView, tried: &Tried) -> Option<Rc<Upstream>> {
    if tried.unreachable.len() >= MAX_ENDPOINTS {
        return None;
    }
    let endpoints = &arm.endpoints;
    let choose = |excluded: &dyn Fn(&Upstream) -> bool| {
        let excluded = |i: usize| excluded(&endpoints[i]);
        arm.choose(worker.random(), tried.key, excluded, || worker.registry().now())
    };
    let unreachable = |upstream: &Upstream| tried.unreachable.contains(&upstream.address());
    let failed = |upstream: &Upstream| tried.failed.contains(&upstream.address());
    let picked = match (&arm.ward, tried.failed.is_empty()) {
        (None, true) => choose(&unreachable),
        (None, false) => choose(&|upstream| unreachable(upstream) || failed(upstream)).or_else(|| choose(&unreachable)),
        (Some(_), _) => {
            let ejected = |upstream: &Upstream| upstream.ejected(|| worker.registry().now());
            choose(&|upstream| unreachable(upstream) || ejected(upstream) || failed(upstream))
                .or_else(|| choose(&|upstream| unreachable(upstream) || ejected(upstream)))
                // An endpoint that fails is better than none, and the arm's requests are the arm's.
                .or_else(|| choose(&unreachable))
        }
    };
    Some(Rc::clone(&endpoints[picked?]))
}

/// No endpoint of the arm is left after those that were tried: what failed on the canary goes to stable. Whether there is
/// an arm to go on with.
///
/// # Errors
/// When stable may have no more requests.
pub fn fall_back(
    view: &PortView,
    (arm, tried): (&mut Arm, &mut Tried),
    key: Option<u64>,
    record: &mut Record,
) -> Result<bool, ProxyError> {
    record.no_endpoint();
    record.flag(if tried.unreachable.is_empty() { Flag::NoHealthyUpstream } else { Flag::UpstreamConnectionFailure });
    if *arm == Arm::Stable {
        return Ok(false);
    }
    // Users are shielded, the verdict is not: the record stays the canary's, as a failure.
    (*arm, *tried) = (Arm::Stable, Tried::keyed(key));
    record.hold(view.arm(*arm).admit()?);
    Ok(true)
}

enum Failure {
    /// The endpoint has seen nothing of it.
    Unsent(Box<Request<RequestBody>>),
    /// The endpoint says that it has not looked at it.
    Refused,
    Final(ProxyError),
}

/// One endpoint: over a pooled connection, and once more over a fresh one if the endpoint had closed the pooled one.
async fn attempt(
    upstream: &Rc<Upstream>,
    version: Version,
    timeout: Duration,
    mut request: Request<RequestBody>,
    interims: &Interims,
) -> Result<(Response<Incoming>, Lease), Failure> {
    let mut reuse = if repeats(&request) { Reuse::Heard } else { Reuse::Surely };
    let mut full = 0;
    loop {
        let mut lease = match upstream.lease(version, timeout, reuse).await {
            Ok(lease) => lease,
            Err(DialError::Overflow) => return Err(Failure::Final(ProxyError::Overflow)),
            Err(error) => {
                tracing::debug!(server.address = %upstream.address(), error = %crate::telemetry::Chain(&error), "endpoint not reached");
                upstream.observe(FAILURE_LATENCY);
                return Err(Failure::Unsent(Box::new(request)));
            }
        };
        let copy = if lease.reused() { replayable(&request) } else { None };
        let begun = Instant::now();
        let error = match lease.send(request, Some(interims)).await {
            Ok(response) => {
                upstream.observe(begun.elapsed());
                return Ok((response, lease));
            }
            Err(error) => error,
        };
        request = match (error, copy) {
            (SendError::Full(unsent), _) if full < MAX_FULL => {
                full += 1;
                request = *unsent;
                continue;
            }
            (SendError::Unsent(unsent), _) if lease.reused() => *unsent,
            (SendError::Unsent(unsent) | SendError::Full(unsent), _) => {
                upstream.observe(FAILURE_LATENCY);
                return Err(Failure::Unsent(unsent));
            }
            (SendError::Failed(ProxyError::BadAnswer), _) => return Err(Failure::Final(ProxyError::BadAnswer)),
            // There is a copy only of what went over a pooled connection.
            (SendError::Refused | SendError::Failed(_), Some(copy)) if !interims.passed() => copy,
            (SendError::Refused, _) => return Err(Failure::Refused),
            (SendError::Failed(error), _) => {
                if error == ProxyError::Reset {
                    upstream.observe(FAILURE_LATENCY);
                }
                return Err(Failure::Final(error));
            }
        };
        reuse = Reuse::Never;
    }
}

/// Whether a request may be sent twice: idempotent (RFC 9110 §9.2.2) and without a body.
fn repeats(request: &Request<RequestBody>) -> bool {
    request.method().is_idempotent() && request.body().is_end_stream()
}

/// A second copy of a request that may be sent twice.
fn replayable(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    repeats(request).then(|| replay::head_of(request).map(|()| RequestBody::Empty))
}
