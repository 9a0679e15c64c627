//! One client connection, request after request, each over a pooled connection to an endpoint. In the common case (no
//! body, or one that came with its head) everything happens in order; a body that is still coming is passed on while the
//! answer is awaited.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use http::StatusCode;
use routing::rules::{Answer, Decision};
use routing::{Arm, Choice};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::error::ProxyError;
use crate::h1::answer::{self, AnswerError, Answered, Context};
use crate::h1::request::{self, Facts, Framing, Reject};
use crate::h1::response;
use crate::h1::text::{HeadScan, field};
use crate::h1::upload::{Upload, UploadError};
use crate::mirror::{self, Copy};
use crate::proxy::{FAILURE_LATENCY, Tried, pick, unreached};
use crate::record::Record;
use crate::retries::{self, Retries};
use crate::rules;
use crate::sight::{Asked, Detail};
use crate::splice;
use crate::upstream::{Upstream, Version};
use crate::view::{PortView, Slot};
use crate::watch::{Stage, Watch};
use crate::worker::{Phase, Worker};

/// Seconds between two requests: longer than the 90 s after which Go's clients close idle connections, so that they and
/// not we close them.
const IDLE_SECONDS: u64 = 120;
/// Seconds for a head, from its first byte.
const HEAD_SECONDS: u64 = 10;
/// Bodies up to this size are sent together with their head, and again on another connection if need be.
const REPLAY: u64 = 64 * 1024;
/// First room of a connection's read buffer: most heads fit.
const ROOM: usize = 4 * 1024;
/// What is read and thrown away of a client that goes on sending after its connection was given up, and how long.
const LINGER_BYTES: usize = 256 * 1024;
const LINGER: Duration = Duration::from_secs(1);

/// Serves a client that speaks HTTP/1, of which `start` was read already.
pub async fn serve(worker: &Worker, slot: &Slot, stream: TcpStream, start: &[u8], client: IpAddr) {
    let watch = worker.watches().watch();
    let mut connection = Connection {
        worker,
        slot,
        watch: &watch,
        client: client.to_string(),
        stream,
        buffer: BytesMut::from(start),
        out: Vec::new(),
        scratch: Vec::new(),
        added: Vec::new(),
        copy: None,
        answered: Cell::new(false),
    };
    if watch.guard(connection.run()).await.is_none() && watch.stage() == Stage::Head {
        // One attempt: the watch has done its work, and a client that reads as slowly as it writes is not waited for.
        worker.registry().reject(StatusCode::REQUEST_TIMEOUT.as_u16());
        let mut answer = Vec::new();
        answer::own(&mut answer, StatusCode::REQUEST_TIMEOUT, "request head took too long", true, false);
        let _ = connection.stream.try_write(&answer);
    }
}

struct Connection<'a> {
    worker: &'a Worker,
    slot: &'a Slot,
    watch: &'a Watch,
    client: String,
    stream: TcpStream,
    /// Read from the client and not used yet.
    buffer: BytesMut,
    /// The request as the endpoint gets it, for as long as it may have to be sent again.
    out: Vec<u8>,
    /// Room for what is written to the client.
    scratch: Vec<u8>,
    /// Header lines that the endpoint's answer gets in addition.
    added: Vec<u8>,
    /// Of the request, for the canary, while its body is coming.
    copy: Option<Box<Copy>>,
    /// The head of the answer is on its way: no other answer can be given.
    answered: Cell<bool>,
}

/// A request whose head was read.
struct Opened {
    facts: Facts,
    view: Rc<PortView>,
    decision: Option<Decision>,
    arm: Arm,
    detail: Option<Box<Detail>>,
}

/// What becomes of the client's connection.
enum Next {
    Request,
    /// Closed with care: the client may be sending still.
    Linger,
    Close,
}

/// An exchange that came to an end.
struct Served {
    keep: bool,
    switched: Option<(TcpStream, BytesMut)>,
}

/// Why an endpoint did not serve a request.
enum Failure {
    /// It may be sent again.
    Unsent,
    /// It was answered, and the route says to try another endpoint.
    Again,
    Final(ProxyError),
}

impl Connection<'_> {
    async fn run(&mut self) {
        loop {
            let next = match self.read_head().await {
                Ok(Some(length)) => match self.open(length) {
                    Ok(opened) => self.exchange(opened).await,
                    Err(reject) => self.reject(reject).await,
                },
                Ok(None) => Next::Close,
                Err(reject) => self.reject(reject).await,
            };
            match next {
                Next::Request => {}
                Next::Linger => return self.linger().await,
                Next::Close => return,
            }
        }
    }

    /// Reads until a whole head is in the buffer; `None` if the client is done.
    async fn read_head(&mut self) -> Result<Option<usize>, Reject> {
        let mut scan = HeadScan::default();
        self.watch.enter(Stage::Idle, IDLE_SECONDS);
        loop {
            if !self.buffer.is_empty() && self.watch.stage() == Stage::Idle {
                self.watch.enter(Stage::Head, HEAD_SECONDS);
            }
            match scan.advance(&self.buffer).map_err(|_| request::BARE_LF)? {
                // An empty line before a request line is skipped (RFC 9112 §2.2).
                Some(2) => {
                    self.buffer.advance(2);
                    scan = HeadScan::default();
                    continue;
                }
                Some(length) if length <= request::MAX_HEAD => return Ok(Some(length)),
                None if self.buffer.len() <= request::MAX_HEAD => {}
                Some(_) | None => return Err(request::TOO_LARGE),
            }
            if self.buffer.is_empty() {
                if self.worker.current_phase() >= Phase::Ending {
                    return Ok(None);
                }
                // An idle connection holds no memory for what may never come.
                self.buffer = BytesMut::new();
                (self.out, self.scratch) = (Vec::new(), Vec::new());
                if self.stream.readable().await.is_err() {
                    return Ok(None);
                }
            }
            self.buffer.reserve(ROOM);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) => {}
            }
        }
    }

    /// Parses the head, leaves in `out` what the endpoint gets of it, and picks the arm.
    fn open(&mut self, length: usize) -> Result<Opened, Reject> {
        let mut room = response::room();
        let head = request::parse(&self.buffer[..length], &mut room)?;
        let (facts, view) = (head.facts, self.slot.current());
        let known = view.port.route.rules.as_ref();
        let decision = known.and_then(|known| known.decide(&head.view(), self.worker.random(), rules::now));
        self.out.clear();
        head.write(&self.client, decision.as_ref(), &mut self.out);
        let Choice { arm, told } = match &decision {
            // No arm's: it must not move the split.
            Some(Decision { answer: Some(_), .. }) => Choice { arm: Arm::Stable, told: None },
            _ => {
                let fields = head.headers.iter().map(|header| (header.name, header.value));
                view.port.choose(fields, || head.view(), self.worker.random())
            }
        };
        self.added.clear();
        if let (Some(bucket), Some(affinity)) = (told, &view.port.route.affinity) {
            self.added.extend_from_slice(b"set-cookie: ");
            affinity.write_cookie(bucket, &mut self.added);
            self.added.extend_from_slice(b"\r\n");
        }
        for (name, value) in decision.iter().flat_map(Decision::written) {
            field(&mut self.added, name.as_str().as_bytes(), value.as_bytes());
        }
        let detail = self.worker.registry().sight().and_then(|sight| {
            let asked = Asked { method: head.method, target: head.target, protocol: "HTTP/1.1" };
            let fields = head.headers.iter().map(|header| (header.name, header.value));
            let random = || self.worker.random();
            sight.look(asked, || self.client.clone(), (&view.port, arm), fields, random)
        });
        if let Some(detail) = &detail {
            detail.mark_head(&mut self.out);
        }
        self.buffer.advance(length);
        Ok(Opened { facts, view, decision, arm, detail })
    }

    async fn exchange(&mut self, Opened { mut facts, view, decision, arm, detail }: Opened) -> Next {
        if let Framing::Length(length) = facts.framing
            && length <= REPLAY
            && length <= self.buffer.len() as u64
        {
            let body = self.buffer.split_to(length as usize);
            self.out.extend_from_slice(&body);
            facts.framing = Framing::None;
        }
        self.watch.busy();
        self.answered.set(false);
        if let Some(answer) = rules::own_answer(decision.as_ref()).await {
            return self.answer_itself(answer, facts).await;
        }
        let route = &view.port.route;
        let mut record = Record::begin(&view.arm(arm).cell, route.counter);
        record.carry(detail);
        self.watch.taken();
        let deadline = rules::request_timeout(route, decision.as_ref())
            .map(|limit| tokio::time::Instant::from_std(record.begun() + limit));
        if arm == Arm::Stable && view.mirrored.is_some() && !facts.websocket {
            self.begin_copy(&view, facts);
        }
        let retries =
            route.retry.as_ref().map(|policy| Retries::begin(policy, self.worker, facts.idempotent, deadline));
        let upload = Upload::new(facts.framing, retries.as_ref());
        let served = self.forward(&view, arm, decision.as_ref(), facts, upload, &mut record);
        let served = match deadline {
            None => served.await,
            Some(deadline) => tokio::time::timeout_at(deadline, served).await.unwrap_or(Err(ProxyError::Timeout)),
        };
        if let Some(copy) = self.copy.take() {
            copy.send();
        }
        record.sent(self.watch.taken());
        match served {
            Ok(Served { switched: Some((endpoint, rest)), .. }) => {
                // Ends with the handshake: how long people keep a socket open is not a latency.
                record.complete();
                drop((record, view));
                self.tunnel(endpoint, &rest).await;
                Next::Close
            }
            Ok(Served { keep, .. }) => {
                record.complete();
                if keep { Next::Request } else { Next::Linger }
            }
            Err(error) => self.fail(error, facts, record).await,
        }
    }

    /// Sends a copy of the request in `out` to the canary, if the route says so, or begins one if its body is coming still.
    fn begin_copy(&mut self, view: &PortView, facts: Facts) {
        let method = self.out.split(|byte| *byte == b' ').next().unwrap_or_default();
        let method = std::str::from_utf8(method).unwrap_or_default();
        let mut start = 0;
        let copy = Copy::begin(self.worker, view, Version::Http1, method, || {
            let (parts, length) = mirror::head(&self.out)?;
            start = length;
            Some(parts)
        });
        let Some(mut copy) = copy else { return };
        if facts.framing == Framing::None {
            copy.piece(&self.out[start..]);
            copy.complete();
            copy.send();
        } else {
            self.copy = Some(Box::new(copy));
        }
    }

    /// Answers in the proxy's own words, if it is not too late for that.
    async fn fail(&mut self, error: ProxyError, facts: Facts, mut record: Record) -> Next {
        if error == ProxyError::ClientGone {
            return Next::Close;
        }
        let status = error.status();
        if let Some(flag) = error.flag() {
            record.flag(flag);
        }
        if self.answered.get() {
            // The client sees that the answer is incomplete by the end of the connection.
            record.broken();
            return Next::Close;
        }
        record.status(status.as_u16());
        if status.is_server_error() {
            record.broken()
        } else {
            record.complete()
        }
        drop(record);
        let keep = self.may_keep(facts);
        self.out.clear();
        answer::own(&mut self.out, status, &error.to_string(), !keep, facts.head_method);
        self.say(keep).await
    }

    /// Answers instead of an endpoint, because a rule says so.
    async fn answer_itself(&mut self, own: &Answer, facts: Facts) -> Next {
        let keep = self.may_keep(facts);
        self.out.clear();
        answer::by_rule(&mut self.out, own, !keep, facts.head_method);
        self.say(keep).await
    }

    /// Whether the connection can go on after an answer that is not an endpoint's: no body is left to be read.
    fn may_keep(&self, facts: Facts) -> bool {
        facts.framing == Framing::None && facts.keep_alive && self.worker.current_phase() < Phase::Draining
    }

    /// Sends the answer of the proxy's own that is in `out`.
    async fn say(&mut self, keep: bool) -> Next {
        let (_, mut to) = self.stream.split();
        match answer::write(&mut to, self.watch, &self.out).await {
            Ok(()) if keep => Next::Request,
            Ok(()) => Next::Linger,
            Err(_) => Next::Close,
        }
    }

    async fn forward(
        &mut self,
        view: &PortView,
        mut arm: Arm,
        decision: Option<&Decision>,
        facts: Facts,
        mut upload: Upload<'_>,
        record: &mut Record,
    ) -> Result<Served, ProxyError> {
        let mut tried = Tried::default();
        loop {
            let (upstream, error) = match pick(self.worker, view.arm(arm), &tried) {
                Some(upstream) => {
                    record.attempt(&upstream);
                    if arm == Arm::Stable {
                        record.sent_to(&upstream);
                    }
                    let timeout = view.port.route.connect_timeout;
                    match self.attempt(&upstream, timeout, decision, facts, &mut upload, record).await {
                        Ok(served) => return Ok(served),
                        Err(Failure::Unsent) => {
                            tried.unreachable(upstream.address());
                            continue;
                        }
                        Err(Failure::Again) => (Some(upstream), None),
                        Err(Failure::Final(error)) => (Some(upstream), Some(error)),
                    }
                }
                None => {
                    record.no_endpoint();
                    record.flag(unreached(&tried));
                    if arm == Arm::Canary {
                        // Users are shielded, the verdict is not: the record stays the canary's, as a failure.
                        (arm, tried) = (Arm::Stable, Tried::default());
                        continue;
                    }
                    (None, Some(ProxyError::NoEndpoint))
                }
            };
            let Some(retries) = upload.retries() else { return Err(error.unwrap_or(ProxyError::Reset)) };
            if let Some(error) = error {
                let failure = retries::failure(error).filter(|_| !self.answered.get());
                if !failure.is_some_and(|failure| retries.again(failure, record)) {
                    return Err(error);
                }
            }
            retries.pause().await;
            tried.again(upstream.map(|upstream| upstream.address()));
        }
    }

    /// One endpoint: over a pooled connection, and once more over a fresh one if the endpoint had closed the pooled one.
    async fn attempt(
        &mut self,
        upstream: &Rc<Upstream>,
        timeout: Duration,
        decision: Option<&Decision>,
        facts: Facts,
        upload: &mut Upload<'_>,
        record: &mut Record,
    ) -> Result<Served, Failure> {
        let _busy = upstream.busy();
        if let Some(endpoint) = upstream.take_idle(!facts.idempotent) {
            match self.send(endpoint, upstream, decision, facts, upload, record).await {
                Err(Failure::Unsent) => {}
                served => return served,
            }
        }
        let endpoint = match upstream.dial_plain(timeout).await {
            Ok(endpoint) => endpoint,
            Err(error) => {
                let error = crate::telemetry::Chain(&error).to_string();
                tracing::debug!(server.address = %upstream.address(), error, "endpoint not reached");
                upstream.observe(FAILURE_LATENCY);
                return Err(Failure::Unsent);
            }
        };
        self.send(endpoint, upstream, decision, facts, upload, record).await.map_err(|failure| match failure {
            // A fresh connection was not closed for being idle: the endpoint has the request, and does not answer it.
            Failure::Unsent => {
                upstream.observe(FAILURE_LATENCY);
                Failure::Final(ProxyError::Reset)
            }
            Failure::Again => Failure::Again,
            Failure::Final(error) => Failure::Final(error),
        })
    }

    /// Sends `out` and what is left of the body, and the answer back.
    async fn send(
        &mut self,
        mut endpoint: TcpStream,
        upstream: &Rc<Upstream>,
        decision: Option<&Decision>,
        facts: Facts,
        upload: &mut Upload<'_>,
        record: &mut Record,
    ) -> Result<Served, Failure> {
        let begun = Instant::now();
        // Idempotent, and nothing of it was sent but what `out` holds: it may be sent again.
        let again = facts.idempotent && (facts.framing == Framing::None || upload.kept());
        let silent = if again { Failure::Unsent } else { Failure::Final(ProxyError::Reset) };
        let sent = match endpoint.write(&self.out).await {
            Ok(sent) => sent,
            // Not a byte of it was taken.
            Err(_) => return Err(Failure::Unsent),
        };
        if endpoint.write_all(&self.out[sent..]).await.is_err() {
            return Err(silent);
        }
        let retries = upload.retries();
        let uploaded = Cell::new(upload.done());
        let context = Context {
            facts,
            added: &self.added,
            decision,
            watch: self.watch,
            answered: &self.answered,
            uploaded: &uploaded,
            worker: self.worker,
            retries,
        };
        let mut received = BytesMut::new();
        let mut answer_out = std::mem::take(&mut self.scratch);
        let answered = {
            let (mut from, mut to) = endpoint.split();
            let (mut client_from, mut client_to) = self.stream.split();
            let first_byte = || upstream.observe(begun.elapsed());
            let relay =
                answer::relay(&context, &mut from, &mut received, &mut client_to, &mut answer_out, record, first_byte);
            if uploaded.get() && retries.is_none() {
                relay.await
            } else {
                let pump = upload.pump(
                    &mut client_from,
                    &mut self.buffer,
                    &mut to,
                    &mut self.out,
                    self.watch,
                    self.copy.as_deref_mut(),
                );
                let relay = alongside(pump, relay, &uploaded);
                match retries.and_then(Retries::per_try_timeout) {
                    None => relay.await,
                    Some(limit) => in_time(relay, limit, &uploaded, &self.answered).await,
                }
            }
        };
        self.scratch = answer_out;
        match answered {
            Err(AnswerError::Silent) => Err(silent),
            Err(AnswerError::Again { keep_endpoint }) => {
                if keep_endpoint && uploaded.get() {
                    upstream.give_idle(endpoint);
                }
                Err(Failure::Again)
            }
            Err(AnswerError::Other(error)) => {
                if error == ProxyError::Timeout {
                    upstream.observe(FAILURE_LATENCY);
                }
                Err(Failure::Final(error))
            }
            Ok(Answered { switched: true, .. }) => Ok(Served { keep: false, switched: Some((endpoint, received)) }),
            Ok(answered) => {
                if answered.keep_endpoint && received.is_empty() && uploaded.get() {
                    upstream.give_idle(endpoint);
                }
                Ok(Served { keep: answered.keep_client, switched: None })
            }
        }
    }

    /// After a 101: bytes both ways, those first that came with the heads.
    async fn tunnel(&mut self, mut endpoint: TcpStream, rest: &[u8]) {
        self.watch.busy();
        let ahead = std::mem::take(&mut self.buffer);
        if self.stream.write_all(rest).await.is_ok() && endpoint.write_all(&ahead).await.is_ok() {
            splice::both(&mut self.stream, &mut endpoint).await;
        }
    }

    async fn reject(&mut self, reject: Reject) -> Next {
        if reject == request::NOT_HTTP {
            return Next::Linger;
        }
        self.worker.registry().reject(reject.status.as_u16());
        self.refuse(reject.status, reject.reason).await
    }

    /// Answers a request that cannot be read; where the next one would begin is not known.
    async fn refuse(&mut self, status: StatusCode, reason: &str) -> Next {
        self.out.clear();
        answer::own(&mut self.out, status, reason, true, false);
        self.say(false).await
    }

    /// Closes without a reset, which could destroy the answer before the client has read it (RFC 9112 §9.6).
    async fn linger(&mut self) {
        self.watch.busy();
        if self.stream.shutdown().await.is_err() {
            return;
        }
        let drained = async {
            let mut room = [0; 4096];
            let mut left = LINGER_BYTES;
            while let Ok(count @ 1..) = self.stream.read(&mut room).await {
                left = left.saturating_sub(count);
                if left == 0 {
                    return;
                }
            }
        };
        // Not closed by the client in time: it is closed by us.
        let _ = tokio::time::timeout(LINGER, drained).await;
    }
}

/// Limits the time from the end of the request to the head of the answer.
async fn in_time(
    relay: impl Future<Output = Result<Answered, AnswerError>>,
    limit: Duration,
    uploaded: &Cell<bool>,
    answered: &Cell<bool>,
) -> Result<Answered, AnswerError> {
    let mut relay = pin!(relay);
    loop {
        let waited_from_the_end = uploaded.get();
        if let Ok(result) = tokio::time::timeout(limit, relay.as_mut()).await {
            return result;
        }
        if answered.get() {
            return relay.await;
        }
        if waited_from_the_end {
            return Err(ProxyError::Timeout.into());
        }
    }
}

/// Awaits the answer while the body is passed on. An endpoint may answer early and take no more; a client that breaks
/// its body off ends the exchange.
async fn alongside(
    pump: impl Future<Output = Result<(), UploadError>>,
    relay: impl Future<Output = Result<Answered, AnswerError>>,
    uploaded: &Cell<bool>,
) -> Result<Answered, AnswerError> {
    let (mut pump, mut relay) = (pin!(pump), pin!(relay));
    let mut pumping = true;
    poll_fn(|context| {
        if pumping && let Poll::Ready(pumped) = pump.as_mut().poll(context) {
            pumping = false;
            match pumped {
                Ok(()) => uploaded.set(true),
                Err(UploadError::Endpoint) => {}
                Err(UploadError::Client(error)) => return Poll::Ready(Err(error.into())),
            }
        }
        relay.as_mut().poll(context)
    })
    .await
}
