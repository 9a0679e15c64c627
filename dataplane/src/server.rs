//! One connection from a client: which HTTP it speaks, its limits, and its end when the process drains.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use routing::{Flag, Limit, Protocol};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::body::{self, ResponseBody};
use crate::forward::Client;
use crate::h1::relay;
use crate::http2::{self, frame::PREFACE};
use crate::interim::Interims;
use crate::proxy;
use crate::sight::refused::Refused;
use crate::view::Slot;
use crate::worker::{Phase, Worker};

/// Time that a client has for the head of a request, idle time before it included: longer than the 90 s after which Go's
/// clients close idle connections, so that they and not we close them.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);

/// Serves an HTTP connection until it ends.
pub async fn serve(worker: Rc<Worker>, slot: Rc<Slot>, mut stream: TcpStream, client: IpAddr) {
    let mut start = Vec::with_capacity(PREFACE.len());
    let preface = match tokio::time::timeout(HEAD_TIMEOUT, speaks_http2(&mut stream, &mut start)).await {
        Ok(Ok(preface)) => preface,
        Ok(Err(_)) | Err(_) => return,
    };
    let protocol = slot.current().port.protocol;
    if !preface && protocol != Protocol::Http2 {
        return relay::serve(&worker, &slot, stream, &start, client).await;
    }
    // Boxed: a task is as large as the largest of what it may become, and most serve HTTP/1.1.
    if preface {
        return Box::pin(http2::server::serve(worker, slot, stream, client)).await;
    }
    Box::pin(serve_http1(worker, slot, TokioIo::new(Rewound { start: start.into(), stream }), client)).await;
}

async fn speaks_http2(stream: &mut TcpStream, start: &mut Vec<u8>) -> io::Result<bool> {
    while start.len() < PREFACE.len() {
        let mut room = [0; 24];
        let count = stream.read(&mut room[..PREFACE.len() - start.len()]).await?;
        start.extend_from_slice(&room[..count]);
        if count == 0 || !PREFACE.starts_with(start) {
            return if start.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(false) };
        }
    }
    Ok(true)
}

async fn serve_http1(worker: Rc<Worker>, slot: Rc<Slot>, io: TokioIo<Rewound>, client: IpAddr) {
    let known = Client::new(client);
    let service = service_fn(|request: Request<Incoming>| {
        let (worker, slot, client) = (Rc::clone(&worker), Rc::clone(&slot), known.clone());
        async move { Ok::<_, Infallible>(answer_http1(&worker, &slot, &client, request).await) }
    });
    let limits = worker.registry().limits();
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_headers(limits.headers())
            .max_buf_size(limits.header_bytes())
            .half_close(true)
            .serve_connection(io, service)
            .with_upgrades()
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = worker.reached(Phase::Ending) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        if error.is_parse_too_large() {
            // hyper does not say which of the two it was.
            limits.reach(Limit::HeaderBytes);
            let (view, status) = (slot.current(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE.as_u16());
            let flag = Some(Flag::DownstreamProtocolError);
            worker.reject(Refused { port: &view.port, client, asked: None, status, flag });
        }
        tracing::debug!(client.address = %client, error = %crate::telemetry::Chain(&error), "connection ended");
    }
}

async fn answer_http1(
    worker: &Worker,
    slot: &Slot,
    client: &Client,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let request = request.map(body::Incoming::Http1);
    // hyper cannot send what comes before the answer.
    let interims = Interims::of(&request);
    let mut response = proxy::handle(worker, slot, client, request, &interims).await;
    *response.version_mut() = Version::HTTP_11;
    // The connection stays open for what is already on its way; the client opens its next one elsewhere.
    if worker.current_phase() >= Phase::Draining && response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A stream some of whose bytes were read already.
#[derive(Debug)]
struct Rewound {
    start: Bytes,
    stream: TcpStream,
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.start.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let count = self.start.len().min(buffer.remaining());
        buffer.put_slice(&self.start[..count]);
        self.start.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
