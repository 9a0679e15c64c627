//! HTTP/2 connections from clients: a task for each stream, and the end of the connection when the process drains.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body::Body as _;
use routing::Limit;
use tokio::task::spawn_local;

use super::body::{Receiving, Sending};
use super::resets::Resets;
use super::silent;
use crate::body::{Incoming, ResponseBody};
use crate::cork::Cork;
use crate::forward::Client;
use crate::proxy;
use crate::view::Slot;
use crate::worker::{Phase, Worker};

/// What `h2` is told that a field list may be, in multiples of the limit: what is past the limit is answered, and counted,
/// by us, and what is past this by `h2`, which counts nothing. Both say 431.
const LIST_SCALE: usize = 2;
/// Window of a stream and of a connection, in bytes: what a client may send ahead of the endpoints.
const WINDOW: u32 = 1024 * 1024;
/// Bytes that may wait in one stream for the client's window.
const SEND_BUFFER: usize = 400 * 1024;
/// Streams that a client may reset before they were looked at (CVE-2023-44487).
const RESET_BY_CLIENT: usize = 20;
/// Streams that may be reset for the client's faults before the connection is given up.
const RESET_BY_US: usize = 128;

/// Serves a client that speaks HTTP/2 until its connection ends.
pub async fn serve(worker: Rc<Worker>, slot: Rc<Slot>, cork: Cork, client: IpAddr) {
    let ended = cork.drive(run(&worker, &slot, &cork, client)).await;
    worker.registry().limits().reach_often(Limit::Streams, cork.refused());
    if let Err(error) = ended {
        tracing::debug!(client.address = %client, error = %crate::telemetry::Chain(&error), "connection ended");
    }
}

async fn run(worker: &Rc<Worker>, slot: &Rc<Slot>, cork: &Cork, client: IpAddr) -> Result<(), h2::Error> {
    let limits = worker.registry().limits().now();
    let mut connection = Builder::new()
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.header_bytes * LIST_SCALE).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESET_BY_CLIENT)
        .max_local_error_reset_streams(Some(RESET_BY_US))
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .handshake::<_, Bytes>(cork.clone())
        .await?;
    let mut silent = pin!(silent(cork, || true, connection.ping_pong()));
    let mut draining = pin!(worker.reached(Phase::Draining));
    let (client, mut drains) = (Client::new(client), false);
    let (resets, mut calmed) = (Rc::new(Resets::new(Instant::now())), false);
    poll_fn(|context| {
        worker.registry().limits().reach_often(Limit::Streams, cork.refused());
        if resets.over() && !calmed {
            calmed = true;
            worker.registry().limits().reach(Limit::Resets);
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        }
        if silent.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if !drains && draining.as_mut().poll(context).is_ready() {
            drains = true;
            connection.graceful_shutdown();
        }
        while let Some((request, respond)) = ready!(connection.poll_accept(context)).transpose()? {
            let (worker, slot, client) = (Rc::clone(worker), Rc::clone(slot), client.clone());
            let resets = Rc::clone(&resets);
            resets.open();
            // Boxed: a task moves its future several times, and this one is large.
            spawn_local(Box::pin(async move { answer(&worker, &slot, &client, request, respond, &resets).await }));
        }
        Poll::Ready(Ok(()))
    })
    .await
}

/// One stream.
async fn answer(
    worker: &Worker,
    slot: &Slot,
    client: &Client,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    resets: &Resets,
) {
    let (parts, stream) = request.into_parts();
    let body = Incoming::Http2(Receiving::new(&parts.headers, stream, None));
    let request = Request::from_parts(parts, body);
    let handled = async {
        match too_large(worker, &request) {
            None => proxy::handle(worker, slot, client, request).await,
            Some(refusal) => refusal,
        }
    };
    let mut answer = pin!(handled);
    let answer = poll_fn(|context| match respond.poll_reset(context) {
        // Nobody waits for the answer any more.
        Poll::Ready(_) => Poll::Ready(None),
        Poll::Pending => answer.as_mut().poll(context).map(Some),
    });
    let Some(answer) = answer.await else { return resets.reset(Instant::now()) };
    let (mut parts, body) = answer.into_parts();
    parts.version = Version::HTTP_2;
    // Without a meaning in an answer, and not allowed in HTTP/2 (RFC 9113 §8.2.2).
    parts.headers.remove(header::TE);
    if let ResponseBody::Own(Some(bytes)) = &body {
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    }
    let end = body.is_end_stream();
    match respond.send_response(Response::from_parts(parts, ()), end) {
        Ok(stream) if !end => {
            let mut sending = Sending::new(body, stream);
            // How it ended was told to whom it concerns: the stream, and the record within the body.
            let _ = poll_fn(|context| sending.poll(context)).await;
        }
        Ok(_) => {}
        Err(_) => respond.send_reset(Reason::INTERNAL_ERROR),
    }
}

/// The answer to a request whose head is past a limit.
fn too_large(worker: &Worker, request: &Request<Incoming>) -> Option<Response<ResponseBody>> {
    let limits = worker.registry().limits();
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let limit = limits.exceeded(target, request.headers())?;
    limits.reach(limit);
    let (status, text) = (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "request head is too large");
    worker.registry().reject(status.as_u16());
    Some(proxy::answer(status, text))
}
