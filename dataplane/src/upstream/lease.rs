//! A connection that one request may use, of either version, and what becomes of the request and of it.

use std::rc::Rc;
use std::time::Instant;

use http::{Request, Response};

use super::{Plain, Shared, Upstream};
use crate::body::{Incoming, RequestBody};
use crate::error::ProxyError;
use crate::h1::client;
use crate::http2::link::Seat;
use crate::interim::Interims;

/// A connection that one request may use.
#[derive(Debug)]
pub struct Lease {
    pub(super) upstream: Rc<Upstream>,
    pub(super) connection: Option<Connection>,
    pub(super) reused: bool,
}

#[derive(Debug)]
pub(super) enum Connection {
    /// Until the request is sent: then it belongs to that and its answer, which gives it back.
    Http1(Option<Plain>),
    /// With a place for the request, until it is under way.
    Http2(Shared, Option<Seat>),
}

/// Whether a request may go over a connection that was used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Not if there is a choice.
    Never,
    /// If the endpoint has not closed it, as far as was heard: the request may be sent twice.
    Heard,
    /// If the endpoint has surely not closed it yet.
    Surely,
}

/// Why a request was not answered.
#[derive(Debug)]
pub enum SendError {
    /// None of it was sent.
    Unsent(Box<Request<RequestBody>>),
    /// None of it was sent: the endpoint takes no more streams on this connection.
    Full(Box<Request<RequestBody>>),
    /// The endpoint says that it has not looked at it.
    Refused,
    /// Anything else.
    Failed(ProxyError),
}

impl Lease {
    /// Whether other requests went over this connection before.
    #[must_use]
    pub fn reused(&self) -> bool {
        self.reused
    }

    /// Sends the request and waits for the head of the answer, of which `interims` gets what comes before it.
    ///
    /// # Errors
    /// With the request inside if none of it was sent.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
        interims: Option<&Interims>,
    ) -> Result<Response<Incoming>, SendError> {
        match self.connection.as_mut().expect("a lease has a connection once it is made") {
            Connection::Http1(endpoint) => {
                let endpoint = endpoint.take().expect("a lease is for one request");
                client::send(endpoint, &self.upstream, request, interims).await
            }
            Connection::Http2(shared, seat) => shared.sender.send(request, seat.take(), interims).await,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.upstream.in_flight.set(self.upstream.in_flight.get() - 1);
        if let Some(Connection::Http2(shared, _)) = &self.connection {
            self.upstream.room.notify_one();
            shared.streams.open.set(shared.streams.open.get() - 1);
            if self.upstream.pool.get().idle_timeout.is_some() {
                shared.streams.idle_since.set(Instant::now());
            }
        }
    }
}
