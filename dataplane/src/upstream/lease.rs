//! A connection that one request may use, of either version, and what becomes of the request and of it.

use std::rc::Rc;
use std::time::Instant;

use http::{Request, Response, StatusCode, header};
use hyper::client::conn::http1;

use super::{Idle, MAX_IDLE, Shared, Ticket, Upstream};
use crate::body::{Incoming, RequestBody};
use crate::error::ProxyError;
use crate::gate::Kind;
use crate::http2::link::Seat;
use crate::interim::{Heard, Interims};
use crate::patience::UploadFault;

/// A connection that one request may use.
#[derive(Debug)]
pub struct Lease {
    pub(super) upstream: Rc<Upstream>,
    pub(super) connection: Option<Connection>,
    pub(super) reused: bool,
}

#[derive(Debug)]
pub(super) enum Connection {
    Http1(http1::SendRequest<RequestBody>, Ticket),
    /// With a place for the request, until it is under way.
    Http2(Shared, Option<Seat>),
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
        match self.connection.as_mut().expect("a lease has a connection until it is given back") {
            Connection::Http1(sender, _) => send_http1(sender, request, interims).await,
            Connection::Http2(shared, seat) => shared.sender.send(request, seat.take(), interims).await,
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

async fn send_http1(
    sender: &mut http1::SendRequest<RequestBody>,
    mut request: Request<RequestBody>,
    interims: Option<&Interims>,
) -> Result<Response<Incoming>, SendError> {
    let switches = request.headers().contains_key(header::UPGRADE);
    let answer = match interims {
        None => sender.try_send_request(request).await,
        Some(interims) => {
            let heard = Heard::of(&mut request);
            let answer = heard.until(sender.try_send_request(request), interims).await;
            answer.ok_or(SendError::Failed(ProxyError::BadAnswer))?
        }
    };
    match answer {
        // Nobody has asked for it.
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS && !switches => {
            Err(SendError::Failed(ProxyError::BadAnswer))
        }
        Ok(response) => Ok(response.map(Incoming::Http1)),
        Err(mut error) => Err(match error.take_message() {
            Some(unsent) => SendError::Unsent(Box::new(unsent)),
            None if error.error().is_parse() => SendError::Failed(ProxyError::BadAnswer),
            None if UploadFault::behind(error.error()) == Some(UploadFault::Slow) => {
                SendError::Failed(ProxyError::TooSlow)
            }
            None if error.error().is_user() => SendError::Failed(ProxyError::ClientGone),
            None => SendError::Failed(ProxyError::Reset),
        }),
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
