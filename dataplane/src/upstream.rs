//! Connections to one endpoint, of one worker: HTTP/1.1 ones are lent to one request at a time, last in first out;
//! HTTP/2 ones are shared. Nothing here knows of routes, but every route has its own.

use std::cell::{Cell, RefCell};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use routing::balance::{PeakEwma, hash};
use routing::outlier::Health;
use routing::pool::{IDLE_TIMEOUT, Pool};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use crate::body::{Incoming, RequestBody};
use crate::error::ProxyError;
use crate::gate::{Admitted, Gate, Kind, Overflow, Permit};
use crate::http2::client;
use crate::listener::keep_alive;
use crate::pods::PodCell;

/// Idle connections kept per endpoint and worker; more are closed when they come back.
const MAX_IDLE: usize = 256;
/// Requests under way on one HTTP/2 connection before another is opened.
pub const STREAMS_PER_CONNECTION: u32 = 100;

/// One endpoint as one worker sees it.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    identity: u64,
    worker: usize,
    started: Instant,
    idle: RefCell<Vec<Idle>>,
    /// Connections of our own codec.
    plain: RefCell<Vec<(Plain, Instant)>>,
    shared: RefCell<Vec<Shared>>,
    /// Serialises dialling of HTTP/2 connections: a burst of requests needs one, not one each.
    dialling: tokio::sync::Mutex<()>,
    latency: Cell<PeakEwma>,
    in_flight: Cell<u32>,
    open: Rc<Cell<u32>>,
    retired: Cell<bool>,
    pool: Cell<Pool>,
    /// Its arm's limits, if it has any.
    gate: RefCell<Option<Arc<Gate>>>,
    /// Whether it is left out, if its route looks for endpoints that go on failing.
    health: RefCell<Option<Arc<Health>>>,
    /// Where its pod's requests are counted, if it serves as stable.
    pod: RefCell<Option<Arc<PodCell>>>,
}

#[derive(Debug)]
struct Idle {
    sender: http1::SendRequest<RequestBody>,
    ticket: Ticket,
    since: Instant,
}

/// An HTTP/1.1 or TCP connection of our own codec, open for as long as the value lives.
#[derive(Debug)]
pub struct Plain {
    /// The connection itself.
    pub stream: TcpStream,
    ticket: Ticket,
}

/// What a connection carries through its life.
#[derive(Debug)]
struct Ticket {
    /// Requests that were answered over it.
    served: u32,
    /// Its place among the arm's connections, if they are limited.
    permit: Option<Permit>,
    _open: Open,
}

/// One more open connection of its endpoint, HTTP/2 aside.
#[derive(Debug)]
struct Open(Rc<Cell<u32>>);

impl Open {
    fn begin(count: &Rc<Cell<u32>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[derive(Clone, Debug)]
struct Shared {
    sender: client::Sender,
    streams: Rc<Streams>,
}

/// What is under way on an HTTP/2 connection.
#[derive(Debug)]
struct Streams {
    open: Cell<u32>,
    /// All that were ever opened.
    total: Cell<u32>,
    /// When the last one ended, or the connection began.
    idle_since: Cell<Instant>,
}

/// A connection that one request may use.
#[derive(Debug)]
pub struct Lease {
    upstream: Rc<Upstream>,
    connection: Option<Connection>,
    reused: bool,
}

#[derive(Debug)]
enum Connection {
    Http1(http1::SendRequest<RequestBody>, Ticket),
    Http2(Shared),
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.upstream.in_flight.set(self.upstream.in_flight.get() - 1);
        if let Some(Connection::Http2(shared)) = &self.connection {
            shared.streams.open.set(shared.streams.open.get() - 1);
            if self.upstream.pool.get().idle_timeout.is_some() {
                shared.streams.idle_since.set(Instant::now());
            }
        }
    }
}

/// One request under way at an endpoint.
#[derive(Debug)]
pub struct Busy(Rc<Upstream>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

/// Which protocol an endpoint is spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS, by prior knowledge.
    Http2,
}

impl Version {
    /// The same as crate `http` names it.
    #[must_use]
    pub fn http(self) -> http::Version {
        match self {
            Self::Http1 => http::Version::HTTP_11,
            Self::Http2 => http::Version::HTTP_2,
        }
    }
}

/// One endpoint as one worker sees it at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Glance {
    /// Requests under way.
    pub in_flight: u32,
    /// Idle HTTP/1.1 connections.
    pub idle: usize,
    /// HTTP/2 connections.
    pub shared: usize,
    /// Weighted latency, in microseconds; fades while nothing is observed.
    pub micros: f64,
    /// Since the worker first heard of it.
    pub age: Duration,
}

/// Why no connection could be made; the endpoint has seen nothing.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Refused, unreachable, or no socket.
    #[error("cannot connect to endpoint")]
    Connect(#[source] std::io::Error),
    /// Nothing within the connect timeout.
    #[error("endpoint did not accept a connection in time")]
    Timeout,
    /// Connected, and then the protocol did not start.
    #[error("cannot start HTTP on the connection to endpoint")]
    Handshake(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The arm has as many connections as it may have, and no endpoint was asked.
    #[error("too many connections to the arm")]
    Overflow,
}

/// Why a request was not answered.
#[derive(Debug)]
pub enum SendError {
    /// None of it was sent.
    Unsent(Box<Request<RequestBody>>),
    /// The endpoint says that it has not looked at it.
    Refused,
    /// Anything else.
    Failed(ProxyError),
}

impl Upstream {
    /// No connection yet, among others whose latencies are weighed at `peers` microseconds.
    #[must_use]
    pub fn new(address: SocketAddr, pool: Pool, worker: usize, peers: &mut [f64]) -> Self {
        Self {
            address,
            identity: hash::identity(address),
            worker,
            started: Instant::now(),
            idle: RefCell::default(),
            plain: RefCell::default(),
            shared: RefCell::default(),
            dialling: tokio::sync::Mutex::default(),
            latency: Cell::new(PeakEwma::among(peers, Duration::ZERO)),
            in_flight: Cell::new(0),
            open: Rc::default(),
            retired: Cell::new(false),
            pool: Cell::new(pool),
            gate: RefCell::default(),
            health: RefCell::default(),
            pod: RefCell::default(),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cost of one more request, lower is better.
    #[must_use]
    pub fn load(&self) -> f64 {
        self.latency.get().load(self.in_flight.get(), self.started.elapsed())
    }

    /// [`hash::identity`] of where it listens.
    #[must_use]
    pub fn identity(&self) -> u64 {
        self.identity
    }

    /// Requests, or spliced connections, under way.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// Since this worker first heard of it.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// The latency as it is weighed now, in microseconds.
    #[must_use]
    pub fn micros(&self) -> f64 {
        self.latency.get().micros(self.started.elapsed())
    }

    /// What a look at the worker says of this endpoint.
    #[must_use]
    pub fn glance(&self) -> Glance {
        let idle = self.idle_count();
        let (shared, micros, age) = (self.shared.borrow().len(), self.micros(), self.age());
        Glance { in_flight: self.in_flight.get(), idle, shared, micros, age }
    }

    /// Connections with a request under way, or spliced, and those without.
    #[must_use]
    pub fn connections(&self) -> (u64, u64) {
        let idle = self.idle_count();
        let active = u64::from(self.open.get()).saturating_sub(idle as u64);
        let shared = self.shared.borrow();
        let used = shared.iter().filter(|shared| shared.streams.open.get() > 0).count();
        (active + used as u64, (idle + shared.len() - used) as u64)
    }

    /// HTTP/1.1 connections without a request.
    fn idle_count(&self) -> usize {
        self.plain.borrow().len() + self.idle.borrow().len()
    }

    /// An answer (or a failure that counts as slow) took `latency`.
    pub fn observe(&self, latency: Duration) {
        let mut ewma = self.latency.get();
        ewma.observe(latency, self.started.elapsed());
        self.latency.set(ewma);
    }

    /// What it serves is counted in `pod` from here on.
    pub fn count_in(&self, pod: Option<Arc<PodCell>>) {
        *self.pod.borrow_mut() = pod;
    }

    /// Its arm's limits from here on.
    pub fn set_gate(&self, gate: Option<Arc<Gate>>) {
        *self.gate.borrow_mut() = gate;
    }

    /// Closes what is idle for those of its arm who wait for a connection.
    pub fn make_room(&self) {
        let gate = self.gate.borrow().clone();
        let Some(gate) = gate else { return };
        while gate.waited_for() {
            let plain = self.plain.borrow_mut().pop();
            if plain.is_none() && self.idle.borrow_mut().pop().is_none() {
                return;
            }
        }
    }

    /// What is known of it, to all workers, from here on.
    pub fn set_health(&self, health: Option<Arc<Health>>) {
        *self.health.borrow_mut() = health;
    }

    /// What is known of it to all workers, if its route looks for endpoints that go on failing.
    #[must_use]
    pub fn health(&self) -> Option<Arc<Health>> {
        self.health.borrow().clone()
    }

    /// Whether it is left out now.
    #[must_use]
    pub fn ejected(&self, now: impl FnOnce() -> Duration) -> bool {
        self.health.borrow().as_ref().is_some_and(|health| health.ejected(now))
    }

    /// A request that it was given is over.
    pub fn count(&self, failed: bool, took: Duration) {
        if let Some(pod) = &*self.pod.borrow() {
            pod.end(failed, took);
        }
    }

    /// What its route says of connections from here on; those that are open stay.
    pub fn set_pool(&self, pool: Pool) {
        self.pool.set(pool);
    }

    /// Idle time after which an HTTP/1.1 connection is closed.
    fn idle_timeout(&self) -> Duration {
        self.pool.get().idle_timeout.unwrap_or(IDLE_TIMEOUT)
    }

    /// In no arm any more: idle connections go now, the others when their request is over.
    pub fn retire(&self) {
        self.retired.set(true);
        self.idle.borrow_mut().clear();
        self.plain.borrow_mut().clear();
        self.shared.borrow_mut().clear();
    }

    /// Closes what has been idle for too long.
    pub fn sweep(&self) {
        let limit = self.idle_timeout();
        self.plain.borrow_mut().retain(|(_, since)| since.elapsed() < limit);
        self.idle.borrow_mut().retain(|idle| idle.since.elapsed() < limit && !idle.sender.is_closed());
        let limit = self.pool.get().idle_timeout;
        let used = |streams: &Streams| {
            streams.open.get() > 0 || limit.is_none_or(|limit| streams.idle_since.get().elapsed() < limit)
        };
        self.shared.borrow_mut().retain_mut(|shared| !shared.sender.is_closed() && used(&shared.streams));
    }

    /// Counts one more request as under way for as long as the value lives.
    #[must_use]
    pub fn busy(self: &Rc<Self>) -> Busy {
        self.in_flight.set(self.in_flight.get() + 1);
        Busy(Rc::clone(self))
    }

    /// A pooled connection, the one that was used last, that the endpoint has neither closed nor sent anything on, as far
    /// as the runtime has heard; the kernel is asked if `surely`, for a request that cannot be sent twice.
    #[must_use]
    pub fn take_idle(&self, surely: bool) -> Option<Plain> {
        let would_block = |error: std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
        let mut plain = self.plain.borrow_mut();
        while let Some((endpoint, since)) = plain.pop() {
            let stream = &endpoint.stream;
            let mut quiet = stream.try_read(&mut [0]).is_err_and(would_block);
            if quiet && surely {
                quiet = SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]).is_err_and(would_block);
            }
            if quiet && since.elapsed() < self.idle_timeout() {
                return Some(endpoint);
            }
        }
        None
    }

    /// The request is over and the connection is in order: the next one may use it.
    pub fn give_idle(&self, mut endpoint: Plain) {
        if !self.retired.get()
            && self.plain.borrow().len() < MAX_IDLE
            && self.may_idle(Kind::Plain, &mut endpoint.ticket)
        {
            self.plain.borrow_mut().push((endpoint, Instant::now()));
        }
    }

    /// Whether a connection that was used may be used again.
    fn may_idle(&self, kind: Kind, ticket: &mut Ticket) -> bool {
        ticket.served = ticket.served.saturating_add(1);
        let worn = self.pool.get().max_requests_per_connection.is_some_and(|most| ticket.served >= most);
        let seat = (kind, self.worker, self.address);
        !worn && ticket.permit.as_ref().and_then(Permit::gate).is_none_or(|gate| gate.may_idle(seat))
    }

    /// A fresh connection; where the arm's are limited it may be one that was just used, after a wait of `timeout` at most.
    ///
    /// # Errors
    /// When none can be made within `timeout`, or there are too many.
    pub async fn dial_plain(&self, timeout: Duration) -> Result<Plain, DialError> {
        let until = Instant::now() + timeout;
        let permit = loop {
            match self.permit(Kind::Plain, until).await? {
                None => break None,
                Some(Admitted::Open(permit)) => break Some(permit),
                Some(Admitted::Idle) => {
                    if let Some(endpoint) = self.take_idle(true) {
                        return Ok(endpoint);
                    }
                }
            }
        };
        let stream = tokio::time::timeout(timeout, self.connect()).await.unwrap_or(Err(DialError::Timeout))?;
        Ok(Plain { stream, ticket: Ticket { served: 0, permit, _open: Open::begin(&self.open) } })
    }

    /// The right to one more connection; none is needed where they are not limited.
    async fn permit(&self, kind: Kind, until: Instant) -> Result<Option<Admitted>, DialError> {
        if self.pool.get().max_connections.is_none() {
            return Ok(None);
        }
        let gate = self.gate.borrow().clone();
        let Some(gate) = gate else { return Ok(None) };
        let left = until.saturating_duration_since(Instant::now());
        let admitted = gate.permit((kind, self.worker, self.address), left).await;
        admitted.map(Some).map_err(|Overflow| DialError::Overflow)
    }

    /// A connection for one request: a pooled one unless `fresh`, else a new one.
    ///
    /// # Errors
    /// When none can be made within `timeout`.
    pub async fn lease(self: &Rc<Self>, version: Version, timeout: Duration, fresh: bool) -> Result<Lease, DialError> {
        // Counted from here on, so that a slow dial makes the endpoint look loaded.
        self.in_flight.set(self.in_flight.get() + 1);
        let mut lease = Lease { upstream: Rc::clone(self), connection: None, reused: false };
        let pooled = if fresh { None } else { self.pooled(version) };
        lease.reused = pooled.is_some();
        lease.connection = Some(match pooled {
            Some(connection) => connection,
            // Boxed: it is large, and most requests have no use for it.
            None => {
                let (connection, reused) = Box::pin(self.dial_within(version, timeout, fresh)).await?;
                lease.reused = reused;
                connection
            }
        });
        if let Some(Connection::Http2(shared)) = &lease.connection {
            shared.streams.open.set(shared.streams.open.get() + 1);
            shared.streams.total.set(shared.streams.total.get().saturating_add(1));
        }
        Ok(lease)
    }

    /// Opens a TCP connection without Nagle's delay, that notices when the other end is gone.
    async fn connect(&self) -> Result<TcpStream, DialError> {
        let stream = TcpStream::connect(self.address).await.map_err(DialError::Connect)?;
        stream.set_nodelay(true).map_err(DialError::Connect)?;
        let keepalive = keep_alive(self.pool.get().keepalive);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(DialError::Connect)?;
        Ok(stream)
    }

    fn pooled(&self, version: Version) -> Option<Connection> {
        match version {
            Version::Http1 => {
                let mut idle = self.idle.borrow_mut();
                while let Some(Idle { sender, ticket, since }) = idle.pop() {
                    if sender.is_ready() && since.elapsed() < self.idle_timeout() {
                        return Some(Connection::Http1(sender, ticket));
                    }
                }
                None
            }
            Version::Http2 => {
                let mut shared = self.shared.borrow_mut();
                let most = self.pool.get().max_requests_per_connection.unwrap_or(u32::MAX);
                shared.retain_mut(|shared| !shared.sender.is_closed() && shared.streams.total.get() < most);
                let free = shared.iter().find(|shared| shared.streams.open.get() < STREAMS_PER_CONNECTION);
                free.cloned().map(Connection::Http2)
            }
        }
    }

    /// A connection within `timeout`, and whether it is one that was just used.
    async fn dial_within(
        &self,
        version: Version,
        timeout: Duration,
        fresh: bool,
    ) -> Result<(Connection, bool), DialError> {
        let until = Instant::now() + timeout;
        let permit = loop {
            let asked = if version == Version::Http1 { self.permit(Kind::Hyper, until).await? } else { None };
            match asked {
                None => break None,
                Some(Admitted::Open(permit)) => break Some(permit),
                Some(Admitted::Idle) => {
                    if let Some(connection) = self.pooled(version) {
                        return Ok((connection, true));
                    }
                }
            }
        };
        let dialled = tokio::time::timeout(timeout, self.dial(version, fresh, permit)).await;
        Ok((dialled.unwrap_or(Err(DialError::Timeout))?, false))
    }

    async fn dial(&self, version: Version, fresh: bool, permit: Option<Permit>) -> Result<Connection, DialError> {
        match version {
            Version::Http1 => {
                let io = TokioIo::new(self.connect().await?);
                let (sender, connection) =
                    http1::Builder::new().max_headers(128).handshake(io).await.map_err(handshake)?;
                spawn_local(async move {
                    // What went wrong reaches the request that was under way, if any.
                    let _ = connection.with_upgrades().await;
                });
                Ok(Connection::Http1(sender, Ticket { served: 0, permit, _open: Open::begin(&self.open) }))
            }
            Version::Http2 => {
                let _turn = self.dialling.lock().await;
                if !fresh && let Some(connection) = self.pooled(version) {
                    return Ok(connection);
                }
                let streams =
                    Rc::new(Streams { open: Cell::new(0), total: Cell::new(0), idle_since: Cell::new(Instant::now()) });
                let counted = Rc::clone(&streams);
                let busy = move || counted.open.get() > 0;
                let sender = client::connect(self.connect().await?, busy);
                let shared = Shared { sender, streams };
                if !self.retired.get() {
                    self.shared.borrow_mut().push(shared.clone());
                }
                Ok(Connection::Http2(shared))
            }
        }
    }
}

fn handshake(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> DialError {
    DialError::Handshake(error.into())
}

impl Lease {
    /// Whether other requests went over this connection before.
    #[must_use]
    pub fn reused(&self) -> bool {
        self.reused
    }

    /// Sends the request and waits for the head of the answer.
    ///
    /// # Errors
    /// With the request inside if none of it was sent.
    pub async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, SendError> {
        match self.connection.as_mut().expect("a lease has a connection until it is given back") {
            Connection::Http1(sender, _) => match sender.try_send_request(request).await {
                Ok(response) => Ok(response.map(Incoming::Http1)),
                Err(mut error) => Err(match error.take_message() {
                    Some(unsent) => SendError::Unsent(Box::new(unsent)),
                    None if error.error().is_parse() => SendError::Failed(ProxyError::BadAnswer),
                    None if error.error().is_user() => SendError::Failed(ProxyError::ClientGone),
                    None => SendError::Failed(ProxyError::Reset),
                }),
            },
            Connection::Http2(shared) => shared.sender.send(request).await,
        }
    }

    /// The request is over and the connection is in order: the next one may use it.
    pub fn give_back(mut self) {
        if self.upstream.retired.get() {
            return;
        }
        if let Some(Connection::Http1(..)) = &self.connection
            && let Some(Connection::Http1(sender, mut ticket)) = self.connection.take()
            && self.upstream.idle.borrow().len() < MAX_IDLE
            && !sender.is_closed()
            && self.upstream.may_idle(Kind::Hyper, &mut ticket)
        {
            self.upstream.idle.borrow_mut().push(Idle { sender, ticket, since: Instant::now() });
        }
    }
}
