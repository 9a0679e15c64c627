//! HTTP/2 connections to endpoints. A request and its answer belong to the task that asks; only what is read and written
//! goes through the connection's own.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Request, Response};
use http_body::Body as _;
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use super::body::{Broken, Receiving, Sending};
use super::connection::{Config, Connection, Opens, Role};
use super::driver::{Driver, silent};
use super::flow;
use super::frame::Reason;
use super::head::Protocol;
use super::link::{Link, Opener, Seat};
use super::stream::Error;
use crate::body::{Incoming, RequestBody};
use crate::error::ProxyError;
use crate::interim::Interims;
use crate::patience::UploadFault;
use crate::upstream::{STREAMS_PER_CONNECTION, SendError};

/// What an endpoint may do: send ahead on all streams of a connection, so that clients who take nothing hold up nobody else,
/// and a head of 64 KiB.
const CONFIG: Config = Config {
    stream_window: flow::FIRST,
    growth: flow::GROWTH,
    window: flow::window(STREAMS_PER_CONNECTION),
    field_list: 64 * 1024,
    // It opens none.
    streams: 0,
    connects: false,
    faults: 1024,
};

/// Time for an endpoint's first settings, where they decide.
const FIRST_SETTINGS: Duration = Duration::from_secs(5);

/// Sends requests on one connection.
#[derive(Clone, Debug)]
pub struct Sender {
    requests: Opener,
}

/// Begins HTTP/2 on `stream`; the connection lives until the last [`Sender`] and request are gone. While it is `busy`, the
/// endpoint is asked now and then whether it is there.
pub fn connect(stream: TcpStream, busy: impl Fn() -> bool + 'static) -> Sender {
    let link = Link::new(Connection::new(Role::Client, CONFIG).into());
    let requests = Opener::new(&link);
    spawn_local(async move {
        let mut driver = Driver::new(stream, Rc::clone(&link));
        // An idle connection is not asked: endpoints take it amiss.
        let mut silent = pin!(silent(&link, busy));
        poll_fn(|context| {
            // What went wrong reaches the requests that were under way, if any.
            if driver.poll(context, |_| {}).is_ready() {
                return Poll::Ready(());
            }
            silent.as_mut().poll(context)
        })
        .await;
        link.borrow_mut().disconnect();
    });
    Sender { requests }
}

impl Sender {
    /// Whether no more requests can be sent: the connection is closed, or the endpoint has said that it will be.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.requests.closed()
    }

    /// Streams that the endpoint takes at a time, if it has said anything yet.
    #[must_use]
    pub fn takes(&self) -> Option<u32> {
        self.requests.takes()
    }

    /// A place for a request, if there are fewer than `most`, under way or about to be.
    #[must_use]
    pub fn seat(&self, most: u32) -> Option<Seat> {
        self.requests.seat(most)
    }

    /// Whether a stream can be opened; an endpoint that never says how many it takes takes no other.
    async fn opens(&self) -> Opens {
        if let Some(opens) = self.requests.opens() {
            return opens;
        }
        let said = poll_fn(|context| self.requests.poll_opens(context));
        tokio::time::timeout(FIRST_SETTINGS, said).await.unwrap_or(Opens::Full)
    }

    /// Whether the endpoint takes an extended CONNECT: its settings say so, which come first (RFC 9113 §3.4).
    async fn connects(&self) -> bool {
        let said = poll_fn(|context| self.requests.poll_connects(context));
        tokio::time::timeout(FIRST_SETTINGS, said).await.unwrap_or(false)
    }

    /// Sends a request and waits for the head of the answer, of which `interims` gets what comes before it; what is left of
    /// the request's body then is sent while the answer is read. Its `seat` is given up as soon as it is under way.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn send(
        &self,
        request: Request<RequestBody>,
        seat: Option<Seat>,
        interims: Option<&Interims>,
    ) -> Result<Response<Incoming>, SendError> {
        if request.extensions().get::<Protocol>().is_some() && !self.connects().await && !self.requests.closed() {
            return Err(SendError::Failed(ProxyError::NotSpoken));
        }
        match self.opens().await {
            Opens::Now => {}
            Opens::Full => return Err(SendError::Full(Box::new(request))),
            Opens::Never => return Err(SendError::Unsent(Box::new(request))),
        }
        let (mut parts, body) = request.into_parts();
        let end = body.is_end_stream();
        if let Some(length @ 1..) = body.size_hint().exact()
            && !parts.headers.contains_key(header::CONTENT_LENGTH)
        {
            parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        let (reader, writer) = self.requests.open(&Request::from_parts(parts, ()), end);
        drop(seat);
        let mut sending = (!end).then(|| Box::new(Sending::new(body, writer)));
        let answer = poll_fn(|context| {
            if let Some(body) = &mut sending
                && let Poll::Ready(sent) = body.poll(context)
            {
                sending = None;
                match sent {
                    Ok(()) | Err(Broken::Peer) => {}
                    Err(Broken::Body | Broken::Client(UploadFault::Broken)) => {
                        return Poll::Ready(Err(SendError::Failed(ProxyError::ClientGone)));
                    }
                    Err(Broken::Client(UploadFault::Slow)) => {
                        return Poll::Ready(Err(SendError::Failed(ProxyError::TooSlow)));
                    }
                }
            }
            loop {
                let head = ready!(reader.poll_head(context)).map_err(failed)?;
                if !head.status().is_informational() {
                    return Poll::Ready(Ok(head));
                }
                if let Some(interims) = interims {
                    interims.pass(head);
                }
            }
        });
        let (parts, ()) = answer.await?.into_parts();
        let body = Receiving::new(&parts.headers, reader, sending);
        Ok(Response::from_parts(parts, Incoming::Http2(body)))
    }
}

/// Whether the endpoint says that it has not looked at the request: the stream was refused (RFC 9113 §8.7), or came after
/// the last one that it takes on this connection (§6.8).
fn failed(error: Error) -> SendError {
    match error {
        Error::Reset(Reason::REFUSED_STREAM) | Error::Unprocessed => SendError::Refused,
        // What it sent is no answer.
        Error::Fault(_) => SendError::Failed(ProxyError::BadAnswer),
        Error::Reset(_) | Error::Held | Error::Closed => SendError::Failed(ProxyError::Reset),
    }
}
