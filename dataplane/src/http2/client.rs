//! HTTP/2 connections to endpoints. A request and its answer belong to the task that asks; only what is read and written
//! goes through the connection's own.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::header::{self, HeaderValue};
use http::{Request, Response};
use http_body::Body as _;
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use super::body::{Broken, Receiving, Sending};
use super::silent;
use crate::body::{Incoming, RequestBody};
use crate::cork::Cork;
use crate::error::ProxyError;
use crate::upstream::SendError;

/// Window of a stream and of a connection, in bytes: what an endpoint may send ahead of a client.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of an answer's head.
const MAX_HEAD: u32 = 64 * 1024;
/// Bytes that may wait in one stream for the endpoint's window.
const SEND_BUFFER: usize = 1024 * 1024;
/// Streams that are opened before the endpoint has said how many it takes.
const FIRST_STREAMS: usize = 100;
/// Streams that may be reset for the endpoint's faults before the connection is given up.
const RESET_STREAMS: usize = 1024;

/// Sends requests on one connection.
#[derive(Clone, Debug)]
pub struct Sender {
    requests: SendRequest<Bytes>,
}

/// Begins HTTP/2 on `stream`; the connection lives until the last [`Sender`] and request are gone. While it is `busy`, the
/// endpoint is asked now and then whether it is there.
///
/// # Errors
/// When it does not begin.
pub async fn connect(stream: TcpStream, busy: impl Fn() -> bool + 'static) -> Result<Sender, h2::Error> {
    let cork = Cork::new(stream, Bytes::new());
    let (requests, mut connection) = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD)
        .max_send_buffer_size(SEND_BUFFER)
        .initial_max_send_streams(FIRST_STREAMS)
        .max_local_error_reset_streams(Some(RESET_STREAMS))
        .enable_push(false)
        .handshake::<_, Bytes>(cork.clone())
        .await?;
    let pings = connection.ping_pong();
    spawn_local(async move {
        // An idle connection is not asked: endpoints take it amiss.
        let silent = silent(&cork, busy, pings);
        tokio::select! {
            biased;
            // What went wrong reaches the requests that were under way, if any.
            _ = cork.drive(connection) => {}
            () = silent => {}
        }
    });
    Ok(Sender { requests })
}

impl Sender {
    /// Whether no more requests can be sent: the connection is closed, or the endpoint has said that it will be.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.requests.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_)))
    }

    /// Sends a request and waits for the head of the answer; what is left of the request's body then is sent while the
    /// answer is read.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, SendError> {
        if poll_fn(|context| self.requests.poll_ready(context)).await.is_err() {
            return Err(SendError::Unsent(Box::new(request)));
        }
        let (mut parts, body) = request.into_parts();
        let end = body.is_end_stream();
        if let Some(length @ 1..) = body.size_hint().exact()
            && !parts.headers.contains_key(header::CONTENT_LENGTH)
        {
            parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        let sent = self.requests.send_request(Request::from_parts(parts, ()), end);
        let (answer, stream) = sent.map_err(|error| failed(&error))?;
        let mut sending = (!end).then(|| Box::new(Sending::new(body, stream)));
        let mut answer = pin!(answer);
        let answer = poll_fn(|context| {
            if let Some(body) = &mut sending
                && let Poll::Ready(sent) = body.poll(context)
            {
                sending = None;
                if sent == Err(Broken::Body) {
                    return Poll::Ready(Err(SendError::Failed(ProxyError::ClientGone)));
                }
            }
            answer.as_mut().poll(context).map_err(|error| failed(&error))
        });
        let (parts, stream) = answer.await?.into_parts();
        let body = Receiving::new(&parts.headers, stream, sending);
        Ok(Response::from_parts(parts, Incoming::Http2(body)))
    }
}

/// Whether the endpoint says that it has not looked at the request: the stream was refused (RFC 9113 §8.7), or came after
/// the last one that it takes on this connection (§6.8).
fn failed(error: &h2::Error) -> SendError {
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) => SendError::Refused,
        Some(h2::Reason::NO_ERROR) if error.is_go_away() && error.is_remote() => SendError::Refused,
        _ => SendError::Failed(ProxyError::Reset),
    }
}
