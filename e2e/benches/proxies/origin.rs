//! The endpoints behind every proxy: two arms, each HTTP/1.1 and h2c on one port, on a thread of the benchmark. HTTP/1.1
//! is served with next to no work (a proxy's cost is measured, not this one's); requests are counted per arm.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

/// Size of the small answer's body.
pub(crate) const SMALL: usize = 1024;
/// Size of the answer to [`LARGE_PATH`].
pub(crate) const LARGE: usize = 1024 * 1024;
pub(crate) const LARGE_PATH: &str = "/large";
/// Room for one read: an upload of [`LARGE`] comes in a few of them.
const ROOM: usize = 256 * 1024;

/// The arms, and what they were asked.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) stable: SocketAddr,
    pub(crate) canary: SocketAddr,
    counts: Arc<[AtomicU64; 2]>,
}

impl Origin {
    /// Starts it; it serves until the process ends.
    pub(crate) fn start() -> Result<Self> {
        Self::beside(std::future::pending)
    }

    /// Starts it on a thread that does `work` besides, and serves until that is done.
    pub(crate) fn beside<W: Future<Output = ()>>(work: impl FnOnce() -> W + Send + 'static) -> Result<Self> {
        let listeners = [std::net::TcpListener::bind("127.0.0.1:0")?, std::net::TcpListener::bind("127.0.0.1:0")?];
        let (stable, canary) = (listeners[0].local_addr()?, listeners[1].local_addr()?);
        let counts: Arc<[AtomicU64; 2]> = Arc::default();
        let counted = Arc::clone(&counts);
        std::thread::Builder::new().name("origin".to_owned()).spawn(move || run(listeners, &counted, work))?;
        Ok(Self { stable, canary, counts })
    }

    /// Requests so far: to the stable arm, to the canary.
    pub(crate) fn counts(&self) -> [u64; 2] {
        [self.counts[0].load(Relaxed), self.counts[1].load(Relaxed)]
    }
}

fn run<W: Future<Output = ()>>(
    listeners: [std::net::TcpListener; 2],
    counts: &Arc<[AtomicU64; 2]>,
    work: impl FnOnce() -> W,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let served = LocalSet::new().block_on(&runtime, async {
        let [stable, canary] = listeners;
        let served = async { tokio::try_join!(accept(stable, counts, 0), accept(canary, counts, 1)).map(|_| ()) };
        tokio::select! {
            served = served => served,
            () = work() => Ok(()),
        }
    });
    if let Err(error) = served {
        eprintln!("origin: {error:#}");
        std::process::exit(1);
    }
}

async fn accept(listener: std::net::TcpListener, counts: &Arc<[AtomicU64; 2]>, arm: usize) -> Result<Infallible> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let answers = Arc::new(Answers::new());
    loop {
        let (stream, _) = listener.accept().await.context("cannot accept")?;
        stream.set_nodelay(true)?;
        let (answers, counts) = (Arc::clone(&answers), Arc::clone(counts));
        tokio::spawn(async move {
            // Ends with its client.
            let _ = serve(stream, &answers, counts, arm).await;
        });
    }
}

struct Answers {
    small: Vec<u8>,
    large: Vec<u8>,
}

impl Answers {
    fn new() -> Self {
        let answer = |length: usize| {
            let mut answer = format!(
                "HTTP/1.1 200 OK\r\ndate: Tue, 24 Nov 2026 07:00:00 GMT\r\ncontent-type: application/json\r\n\
                 cache-control: no-store\r\nx-version: v1\r\ncontent-length: {length}\r\n\r\n"
            )
            .into_bytes();
            answer.resize(answer.len() + length, b'x');
            answer
        };
        Self { small: answer(SMALL), large: answer(LARGE) }
    }
}

async fn serve(
    mut stream: TcpStream,
    answers: &Answers,
    counts: Arc<[AtomicU64; 2]>,
    arm: usize,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.readable().await?;
    let mut start = [0; 3];
    if stream.peek(&mut start).await? == 3 && &start == b"PRI" {
        let service = service_fn(move |request| answer_http2(request, Arc::clone(&counts), arm));
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.max_concurrent_streams(1_000).initial_connection_window_size(1024 * 1024);
        return Ok(builder.serve_connection(TokioIo::new(stream), service).await?);
    }
    let mut buffer = Vec::with_capacity(ROOM);
    loop {
        let Some(large) = next_request(&mut stream, &mut buffer).await? else { return Ok(()) };
        counts[arm].fetch_add(1, Relaxed);
        stream.write_all(if large { &answers.large } else { &answers.small }).await?;
    }
}

/// Reads one request to the end of its body; whether it asks for the large answer, or `None` at the end.
async fn next_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<bool>> {
    let (head, large) = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break (end + 4, buffer.starts_with(b"GET /large "));
        }
        if read(stream, buffer).await? == 0 {
            return Ok(None);
        }
    };
    if buffer[0] == b'G' {
        buffer.drain(..head);
        return Ok(Some(large));
    }
    let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
    let length = text.split("content-length:").nth(1).and_then(|rest| rest.split("\r\n").next()?.trim().parse().ok());
    buffer.drain(..head);
    let Some(mut left): Option<usize> = length else {
        // Chunked by the proxy: its end is told by the last chunk, which no body of `x` contains.
        while !buffer.ends_with(b"0\r\n\r\n") {
            let keep = buffer.len().saturating_sub(5);
            buffer.drain(..keep);
            if read(stream, buffer).await? == 0 {
                return Ok(None);
            }
        }
        buffer.clear();
        return Ok(Some(false));
    };
    while buffer.len() < left {
        left -= buffer.len();
        buffer.clear();
        if read(stream, buffer).await? == 0 {
            return Ok(None);
        }
    }
    buffer.drain(..left);
    Ok(Some(false))
}

async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    use tokio::io::AsyncReadExt as _;
    buffer.reserve(1);
    stream.read_buf(buffer).await
}

type Body = BoxBody<Bytes, Infallible>;

/// As over HTTP/1.1, once the body has come; or a unary gRPC call's: the message back, `grpc-status` in the trailers.
async fn answer_http2(
    request: Request<Incoming>,
    counts: Arc<[AtomicU64; 2]>,
    arm: usize,
) -> Result<Response<Body>, hyper::Error> {
    counts[arm].fetch_add(1, Relaxed);
    let grpc = request.headers().get(header::CONTENT_TYPE).is_some_and(|value| value == "application/grpc");
    if !grpc {
        let large = request.uri().path() == LARGE_PATH;
        let mut sent = request.into_body();
        while let Some(frame) = sent.frame().await {
            frame?;
        }
        let body: &[u8] = if large { &[b'x'; LARGE] } else { &[b'x'; SMALL] };
        let body = Full::new(Bytes::from_static(body)).boxed();
        return Ok(Response::builder().header(header::CONTENT_TYPE, "application/json").body(body).expect("valid"));
    }
    let message = request.into_body().collect().await?.to_bytes();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Ok::<_, Infallible>(Frame::data(message)), Ok(Frame::trailers(trailers))];
    let body = StreamBody::new(stream::iter(frames)).boxed();
    Ok(Response::builder().header(header::CONTENT_TYPE, "application/grpc").body(body).expect("valid"))
}
