//! Connections to one endpoint, of one worker: HTTP/1.1 ones are lent to one request at a time, last in first out, whatever its
//! client speaks; HTTP/2 ones are shared. Nothing here knows of routes, but every route has its own. New ones are made in [`dial`], a
//! request holds one as a [`Lease`].

mod dial;
mod lease;

use std::cell::{Cell, RefCell};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use routing::balance::{PeakEwma, hash};
use routing::outlier::Health;
use routing::pool::{IDLE_TIMEOUT, Pool};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::Notify;

pub use self::lease::{Lease, Reuse, SendError};
use crate::gate::{Gate, Permit};
use crate::http2::client;
use crate::pods::PodCell;

/// Idle connections kept per endpoint and worker; more are closed when they come back.
const MAX_IDLE: usize = 256;
/// Requests under way on one HTTP/2 connection before another is opened.
pub const STREAMS_PER_CONNECTION: u32 = 100;
/// HTTP/2 connections to one endpoint, of one worker: more than anybody needs whose endpoints take a hundred streams, and a bound
/// for those that take one, or refuse them all.
const MAX_SHARED: usize = 128;

/// One endpoint as one worker sees it.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    identity: u64,
    worker: usize,
    started: Instant,
    /// HTTP/1.1 connections without a request, and since when.
    idle: RefCell<Vec<(Plain, Instant)>>,
    shared: RefCell<Vec<Shared>>,
    /// Serialises dialling of HTTP/2 connections: a burst of requests needs one, not one each.
    dialling: tokio::sync::Mutex<()>,
    /// Told when a request over HTTP/2 is over.
    room: Notify,
    /// Streams that it takes on one connection, by what it said last.
    takes: Cell<u32>,
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

/// An HTTP/1.1 or TCP connection, open for as long as the value lives.
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

impl Ticket {
    fn new(permit: Option<Permit>, open: &Rc<Cell<u32>>) -> Self {
        Self { served: 0, permit, _open: Open::begin(open) }
    }
}

impl Plain {
    /// Whether other requests went over it before.
    fn used(&self) -> bool {
        self.ticket.served > 0
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
    /// The arm has as many connections as it may have, and no endpoint was asked.
    #[error("too many connections to the arm")]
    Overflow,
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
            shared: RefCell::default(),
            dialling: tokio::sync::Mutex::default(),
            room: Notify::new(),
            takes: Cell::new(u32::MAX),
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
        self.idle.borrow().len()
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
            let Some(idle) = self.idle.borrow_mut().pop() else { return };
            drop(idle);
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
        self.shared.borrow_mut().clear();
    }

    /// Closes what has been idle for too long.
    pub fn sweep(&self) {
        let limit = self.idle_timeout();
        self.idle.borrow_mut().retain(|(_, since)| since.elapsed() < limit);
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
        let mut idle = self.idle.borrow_mut();
        while let Some((endpoint, since)) = idle.pop() {
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
        if !self.retired.get() && self.idle.borrow().len() < MAX_IDLE && self.may_idle(&mut endpoint.ticket) {
            self.idle.borrow_mut().push((endpoint, Instant::now()));
        }
    }

    /// Whether a connection that was used may be used again.
    fn may_idle(&self, ticket: &mut Ticket) -> bool {
        ticket.served = ticket.served.saturating_add(1);
        let worn = self.pool.get().max_requests_per_connection.is_some_and(|most| ticket.served >= most);
        let seat = (self.worker, self.address);
        !worn && ticket.permit.as_ref().and_then(Permit::gate).is_none_or(|gate| gate.may_idle(seat))
    }
}
