//! HTTP/2 connections from clients: a task for each stream, and the end of the connection when the process drains.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use routing::{Flag, Limit, Protocol};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use super::body::{Receiving, Sending, Taking};
use super::connection::{Accepted, Config, Connection, Role};
use super::driver::{Driver, silent};
use super::flow;
use super::frame::Reason;
use super::head;
use super::link::{self, Link, Writer};
use super::resets::Resets;
use super::stream::Error;
use crate::body::{Incoming, ResponseBody};
use crate::forward::Client;
use crate::interim::Interims;
use crate::record::cut;
use crate::sight::refused::Refused;
use crate::view::Slot;
use crate::worker::{Phase, Worker};
use crate::{forward, proxy};

/// What of a field list is kept, in multiples of the limit: a limit that is raised holds for connections that are open.
const LIST_SCALE: usize = 2;
/// Streams that may be reset for the client's faults before the connection is given up (CVE-2025-8671).
const FAULTS: u32 = 128;

/// Looks at a connection within the time that it may be idle; it is one or two of them late.
const IDLE_LOOKS: u32 = 60;

/// Serves a client that speaks HTTP/2, whose first bytes (RFC 9113 §3.4) were read, until its connection ends.
pub async fn serve(worker: Rc<Worker>, slot: Rc<Slot>, stream: TcpStream, client: IpAddr) {
    let limits = worker.registry().limits().now();
    let config = Config {
        // Uploads that do not get on leave room for others.
        stream_window: flow::FIRST,
        growth: flow::GROWTH,
        window: flow::window(limits.streams),
        field_list: limits.header_bytes * LIST_SCALE,
        streams: limits.streams,
        connects: true,
        faults: FAULTS,
    };
    let link = Link::new(Connection::new(Role::Server, config).into());
    let ended = run(&worker, &slot, &link, stream, client).await;
    link.borrow_mut().disconnect();
    if let Err(error) = ended {
        tracing::debug!(client.address = %client, error = %crate::telemetry::Chain(&error), "connection ended");
    }
}

async fn run(worker: &Rc<Worker>, slot: &Rc<Slot>, link: &Link, stream: TcpStream, client: IpAddr) -> io::Result<()> {
    let mut driver = Driver::new(stream, Rc::clone(link));
    let mut silent = pin!(silent(link, || true));
    let mut draining = pin!(worker.reached(Phase::Draining));
    let mut idle = pin!(idle(link, worker.registry().limits().idle()));
    let (client, mut drains) = (Client::new(client), false);
    let resets = Rc::new(Resets::new(Instant::now()));
    let received = |link: &Link| {
        let seen = std::mem::take(&mut link.borrow_mut().seen);
        worker.refuse_streams(slot, client.address(), Limit::Streams, seen.refused.into());
        let malformed = seen.malformed + u32::from(seen.violated.is_some());
        worker.reject_unanswered(slot, client.address(), Flag::DownstreamProtocolError, malformed);
        if let Some(reason) = seen.violated {
            tracing::debug!(client.address = %client.address(), %reason, "HTTP/2 connection given up");
        }
        for _ in 0..seen.retracted {
            resets.open();
            resets.reset(Instant::now());
        }
        if resets.over() && !link.borrow_mut().ending() {
            worker.refuse_streams(slot, client.address(), Limit::Resets, 1);
            link.borrow_mut().end(Reason::ENHANCE_YOUR_CALM);
        }
        loop {
            let Some(accepted) = link.borrow_mut().accept() else { return };
            let (worker, slot, client) = (Rc::clone(worker), Rc::clone(slot), client.clone());
            let (resets, link) = (Rc::clone(&resets), Rc::clone(link));
            resets.open();
            // Boxed: a task moves its future several times, and this one is large.
            spawn_local(Box::pin(async move { answer(&worker, &slot, &client, accepted, &link, &resets).await }));
        }
    };
    poll_fn(|context| {
        if !drains && (draining.as_mut().poll(context).is_ready() || idle.as_mut().poll(context).is_ready()) {
            drains = true;
            link.borrow_mut().drain();
        }
        if let Poll::Ready(ended) = driver.poll(context, received) {
            return Poll::Ready(ended);
        }
        silent.as_mut().poll(context).map(Ok)
    })
    .await
}

/// Waits until no stream was open for `limit`. A client that answers pings would otherwise hold its connection without end.
async fn idle(link: &Link, limit: Duration) {
    let (mut looks, mut before) = (0, None);
    while looks < IDLE_LOOKS {
        tokio::time::sleep(limit / IDLE_LOOKS).await;
        let now = link.borrow().rests_after();
        looks = if now.is_some() && now == before { looks + 1 } else { 0 };
        before = now;
    }
}

/// One stream.
async fn answer(worker: &Worker, slot: &Slot, client: &Client, accepted: Accepted, link: &Link, resets: &Resets) {
    let Accepted { stream, request, too_large } = accepted;
    let (reader, writer) = link::halves(link, stream);
    let (parts, ()) = request.into_parts();
    let bodiless = parts.method == Method::HEAD;
    let patience = worker.registry().limits().patience();
    let body = Incoming::Http2(Receiving::new(&parts.headers, reader, None).paced(patience));
    let request = Request::from_parts(parts, body);
    let interims = Interims::of(&request);
    let inform = |context: &mut Context<'_>| {
        // Who does not take them any more is told of elsewhere.
        interims.poll_each(|head| writer.poll_inform(context, head).map(drop))
    };
    let handled = async {
        match refusal(worker, slot, client, &request, too_large) {
            None => proxy::handle(worker, slot, client, request, &interims).await,
            Some(refusal) => refusal,
        }
    };
    let (mut handled, mut begun) = (pin!(Some(handled)), false);
    let answer = poll_fn(|context| match writer.poll_reset(context) {
        // Nobody waits for the answer any more.
        Poll::Ready(error) => Poll::Ready(Err(error)),
        Poll::Pending => {
            begun = true;
            let polled = handled.as_mut().as_pin_mut().expect("it is dropped after this").poll(context);
            // Those that find no room now do below, or when this task is woken for it.
            let _ = inform(context);
            polled.map(Ok)
        }
    });
    match (answer.await, begun) {
        (Ok(answer), _) => {
            poll_fn(inform).await;
            send(writer, answer, bodiless, patience).await;
        }
        (Err(error), begun) => {
            if error != Error::Held {
                resets.reset(Instant::now());
            }
            match (error, begun) {
                // It had something to hold, so somebody had begun with it.
                (Error::Held, _) => cut(Flag::OverloadManager, || handled.set(None)),
                (Error::Fault(_), true) => cut(Flag::DownstreamProtocolError, || handled.set(None)),
                (Error::Fault(_), false) => {
                    worker.reject_unanswered(slot, client.address(), Flag::DownstreamProtocolError, 1);
                }
                (Error::Reset(_) | Error::Unprocessed | Error::Closed, _) => {}
            }
        }
    }
}

/// `bodiless`: the answer is to HEAD. The client must take something of it within `patience`.
async fn send(writer: Writer, answer: Response<ResponseBody>, bodiless: bool, patience: Duration) {
    let (mut parts, body) = answer.into_parts();
    parts.version = Version::HTTP_2;
    // Without a meaning in an answer, and not allowed in HTTP/2 (RFC 9113 §8.2.2).
    parts.headers.remove(header::TE);
    if let ResponseBody::Own(Some(bytes)) = &body {
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    }
    // What an endpoint answers to HEAD has no body; ours has the length that another request would get.
    let end = body.is_end_stream() || bodiless && matches!(body, ResponseBody::Own(_));
    if writer.respond(&Response::from_parts(parts, ()), end).is_ok() && !end {
        let (mut sending, mut taking) = (Sending::new(body, writer), Taking::new(patience));
        // How it ended was told to whom it concerns: the stream, and the record within the body.
        let _ = poll_fn(|context| match sending.poll(context) {
            Poll::Pending => sending.poll_taken(context, &mut taking).map(Err),
            ended => ended,
        })
        .await;
        if let Some(flag) = sending.faulted() {
            cut(flag, || drop(sending));
        }
    }
}

/// The answer to a request that cannot be passed on, because its head is past a limit or asks for another protocol.
fn refusal(
    worker: &Worker,
    slot: &Slot,
    client: &Client,
    request: &Request<Incoming>,
    too_large: bool,
) -> Option<Response<ResponseBody>> {
    let view = slot.current();
    let untranslated =
        request.extensions().get::<head::Protocol>().is_some() && !forward::connects(request.extensions());
    let (status, text) = if untranslated && view.port.protocol == Protocol::Http1 {
        (StatusCode::NOT_IMPLEMENTED, "only WebSockets are passed on to endpoints of HTTP/1")
    } else {
        past_limit(worker, request, too_large)?;
        (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "request head is too large")
    };
    // What is much too large was not kept, and has no name.
    let asked = Some(proxy::asked(request)).filter(|_| !too_large);
    let flag = Some(Flag::DownstreamProtocolError);
    let refused = Refused { port: &view.port, client: client.address(), asked, status: status.as_u16(), flag };
    worker.reject(refused);
    Some(proxy::answer(status, text))
}

/// The limit that the head is past, which is counted.
fn past_limit(worker: &Worker, request: &Request<Incoming>, too_large: bool) -> Option<Limit> {
    let limits = worker.registry().limits();
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let limit = if too_large { Limit::HeaderBytes } else { limits.exceeded(target, request.headers())? };
    limits.reach(limit);
    Some(limit)
}
