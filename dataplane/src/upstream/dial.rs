//! New connections to an endpoint, within its arm's limits and in time; and those that are pooled, which come first.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::TcpStream;

use super::lease::{Connection, Lease, Reuse};
use super::{DialError, MAX_SHARED, Plain, STREAMS_PER_CONNECTION, Shared, Streams, Ticket, Upstream, Version};
use crate::gate::{Admitted, Overflow};
use crate::http2::client;
use crate::listener::{keep_alive, keep_little};

/// While a request waits for a stream of an endpoint that has none to spare, the time after which it is looked whether the
/// endpoint says that it takes more. That a request is over is told at once.
const ROOM_STEP: Duration = Duration::from_millis(50);

impl Upstream {
    /// A fresh connection; where the arm's are limited it may be one that was just used, after a wait of `timeout` at most.
    ///
    /// # Errors
    /// When none can be made within `timeout`, or there are too many.
    pub async fn dial_plain(&self, timeout: Duration) -> Result<Plain, DialError> {
        let until = Instant::now() + timeout;
        let permit = loop {
            match self.permit(until).await? {
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
        Ok(Plain { stream, ticket: Ticket::new(permit, &self.open) })
    }

    /// The right to one more connection; none is needed where they are not limited.
    async fn permit(&self, until: Instant) -> Result<Option<Admitted>, DialError> {
        if self.pool.get().max_connections.is_none() {
            return Ok(None);
        }
        let gate = self.gate.borrow().clone();
        let Some(gate) = gate else { return Ok(None) };
        let left = until.saturating_duration_since(Instant::now());
        let admitted = gate.permit((self.worker, self.address), left).await;
        admitted.map(Some).map_err(|Overflow| DialError::Overflow)
    }

    /// A connection for one request: a pooled one where `reuse` allows it, else a new one.
    ///
    /// # Errors
    /// When none can be made within `timeout`.
    pub async fn lease(self: &Rc<Self>, version: Version, timeout: Duration, reuse: Reuse) -> Result<Lease, DialError> {
        // Counted from here on, so that a slow dial makes the endpoint look loaded.
        self.in_flight.set(self.in_flight.get() + 1);
        let mut lease = Lease { upstream: Rc::clone(self), connection: None, reused: false };
        (lease.connection, lease.reused) = match version {
            Version::Http1 => {
                let endpoint = match self.take_pooled(reuse) {
                    Some(endpoint) => endpoint,
                    // Boxed: it is large, and most requests have no use for it.
                    None => Box::pin(self.dial_plain(timeout)).await?,
                };
                let used = endpoint.used();
                (Some(Connection::Http1(Some(endpoint))), used)
            }
            Version::Http2 => {
                let fresh = reuse == Reuse::Never;
                let pooled = if fresh { None } else { self.shared_seat() };
                let reused = pooled.is_some();
                let connection = match pooled {
                    Some(connection) => connection,
                    None => {
                        let dialled = Box::pin(tokio::time::timeout(timeout, self.dial_shared(fresh))).await;
                        dialled.unwrap_or(Err(DialError::Timeout))?
                    }
                };
                (Some(connection), reused)
            }
        };
        if let Some(Connection::Http2(shared, _)) = &lease.connection {
            shared.streams.open.set(shared.streams.open.get() + 1);
            shared.streams.total.set(shared.streams.total.get().saturating_add(1));
        }
        Ok(lease)
    }

    fn take_pooled(&self, reuse: Reuse) -> Option<Plain> {
        match reuse {
            Reuse::Never => None,
            Reuse::Heard => self.take_idle(false),
            Reuse::Surely => self.take_idle(true),
        }
    }

    /// Opens a TCP connection without Nagle's delay, that notices when the other end is gone, or takes what is sent slowly.
    async fn connect(&self) -> Result<TcpStream, DialError> {
        let stream = TcpStream::connect(self.address).await.map_err(DialError::Connect)?;
        stream.set_nodelay(true).map_err(DialError::Connect)?;
        let keepalive = keep_alive(self.pool.get().keepalive);
        let socket = SockRef::from(&stream);
        socket.set_tcp_keepalive(&keepalive).map_err(DialError::Connect)?;
        keep_little(&socket);
        Ok(stream)
    }

    /// A place on one of the HTTP/2 connections.
    fn shared_seat(&self) -> Option<Connection> {
        let mut shared = self.shared.borrow_mut();
        let most = self.pool.get().max_requests_per_connection.unwrap_or(u32::MAX);
        shared.retain_mut(|shared| !shared.sender.is_closed() && shared.streams.total.get() < most);
        shared.iter().find_map(|shared| self.seat(shared))
    }

    /// A place on an HTTP/2 connection that has one. What the endpoint said last holds for one on which it has not said anything
    /// yet, but that one stream is tried.
    fn seat(&self, shared: &Shared) -> Option<Connection> {
        let takes = match shared.sender.takes() {
            Some(takes) => {
                self.takes.set(takes);
                takes
            }
            None => self.takes.get().max(1),
        };
        let seat = shared.sender.seat(takes.min(STREAMS_PER_CONNECTION))?;
        Some(Connection::Http2(shared.clone(), Some(seat)))
    }

    /// A place on one of the HTTP/2 connections; `None` if another connection may be made. Where that would not help, since the
    /// endpoint takes no streams at all, or there are too many, a place is waited for: whoever asks limits the time.
    async fn room(&self, fresh: bool) -> Option<Connection> {
        loop {
            let most = self.shared.borrow().len() >= MAX_SHARED;
            if (!fresh || most)
                && let Some(connection) = self.shared_seat()
            {
                return Some(connection);
            }
            let none = self.shared.borrow().iter().any(|shared| shared.sender.takes() == Some(0));
            if !none && !most {
                return None;
            }
            // Told or not, it is looked again.
            let _ = tokio::time::timeout(ROOM_STEP, self.room.notified()).await;
        }
    }

    /// A place on an HTTP/2 connection, a new one if need be.
    async fn dial_shared(&self, fresh: bool) -> Result<Connection, DialError> {
        let _turn = self.dialling.lock().await;
        if let Some(connection) = self.room(fresh).await {
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
        // Its first place.
        let seat = shared.sender.seat(1);
        Ok(Connection::Http2(shared, seat))
    }
}
