//! The operator's end of the config stream, as far as a benchmark needs it: says routes, takes acknowledgements and
//! counters. One proxy, one stream, no TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::stream;
use http::{Request, Response, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use proxy_api::v1beta1 as api;
use tokio::sync::mpsc;

/// Time for a proxy to connect, and to acknowledge.
const LIMIT: Duration = Duration::from_secs(30);

/// A running operator.
#[derive(Debug)]
pub(crate) struct Operator {
    pub(crate) address: SocketAddr,
    down: mpsc::UnboundedSender<api::FromOperator>,
    acks: Receiver<api::Ack>,
    counters: Arc<Mutex<api::Counters>>,
}

/// What a stream's handler is given; taken by the first stream.
struct Stream {
    down: mpsc::UnboundedReceiver<api::FromOperator>,
    acks: Sender<api::Ack>,
    counters: Arc<Mutex<api::Counters>>,
}

impl Operator {
    /// Starts it; it serves until the process ends.
    pub(crate) fn start() -> Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (down, outgoing) = mpsc::unbounded_channel();
        let (acked, acks) = channel();
        let counters = Arc::new(Mutex::default());
        let stream = Stream { down: outgoing, acks: acked, counters: Arc::clone(&counters) };
        std::thread::Builder::new().name("operator".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
            if let Err(error) = runtime.block_on(serve(listener, stream)) {
                eprintln!("operator: {error:#}");
            }
        })?;
        Ok(Self { address, down, acks, counters })
    }

    /// Says all routes at once and waits until each is in force.
    pub(crate) fn snapshot(&self, routes: &[api::Route]) -> Result<()> {
        let snapshot = api::Snapshot { routes: routes.to_vec(), limits: None };
        self.say(api::from_operator::Message::Snapshot(snapshot))?;
        routes.iter().try_for_each(|_| self.acknowledged().map(drop))
    }

    /// Says one route and returns how long it took until it was in force on every worker.
    pub(crate) fn push(&self, route: &api::Route) -> Result<Duration> {
        let begun = Instant::now();
        self.say(api::from_operator::Message::Upsert(route.clone()))?;
        let ack = self.acknowledged()?;
        if ack.counter != route.counter || ack.uid != route.uid {
            bail!("acknowledged {} {}, said {} {}", ack.uid, ack.counter, route.uid, route.counter);
        }
        Ok(begun.elapsed())
    }

    /// The newest counters, once nothing is under way any more.
    pub(crate) fn settled(&self) -> Result<api::Counters> {
        let first = self.counters.lock().unwrap_or_else(PoisonError::into_inner).sequence;
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
            let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if counters.sequence > first + 1 && counters.arms.iter().all(|arm| arm.in_flight == 0) {
                return Ok(counters);
            }
        }
        bail!("the proxy's counters do not come to rest")
    }

    fn say(&self, message: api::from_operator::Message) -> Result<()> {
        self.down.send(api::FromOperator { message: Some(message) }).context("the stream has ended")
    }

    fn acknowledged(&self) -> Result<api::Ack> {
        let ack = self.acks.recv_timeout(LIMIT).context("the proxy does not acknowledge")?;
        if ack.error.is_empty() { Ok(ack) } else { bail!("route {} is refused: {}", ack.uid, ack.error) }
    }
}

async fn serve(listener: std::net::TcpListener, stream: Stream) -> Result<()> {
    listener.set_nonblocking(true)?;
    let (connection, _) = tokio::net::TcpListener::from_std(listener)?.accept().await?;
    connection.set_nodelay(true)?;
    let stream = Arc::new(Mutex::new(Some(stream)));
    let service = service_fn(move |request: Request<Incoming>| {
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move { Ok::<_, Infallible>(answer(request, stream)) }
    });
    // Ends with the proxy.
    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(connection), service).await;
    Ok(())
}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

fn answer(request: Request<Incoming>, stream: Option<Stream>) -> Response<Body> {
    let answer = Response::builder().header(header::CONTENT_TYPE, "application/grpc");
    let Some(Stream { down, acks, counters }) = stream else {
        let body = http_body_util::Empty::new().boxed_unsync();
        return answer.header("grpc-status", "8").body(body).expect("valid");
    };
    tokio::spawn(listen(request.into_body(), acks, counters));
    let frames = stream::unfold(down, |mut down| async move {
        let message = down.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(frame(&message))), down))
    });
    answer.body(StreamBody::new(frames).boxed_unsync()).expect("valid")
}

/// A length-prefixed message (gRPC over HTTP/2, "Length-Prefixed-Message").
fn frame(message: &api::FromOperator) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(message.encoded_len() as u32);
    message.encode(&mut out).expect("the buffer grows");
    out.freeze()
}

async fn listen(mut body: Incoming, acks: Sender<api::Ack>, counters: Arc<Mutex<api::Counters>>) {
    let mut received = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        received.extend_from_slice(&data);
        while let Some(message) = next(&mut received) {
            match message.message {
                Some(api::from_proxy::Message::Ack(ack)) => drop(acks.send(ack)),
                Some(api::from_proxy::Message::Counters(new)) => {
                    *counters.lock().unwrap_or_else(PoisonError::into_inner) = new;
                }
                Some(api::from_proxy::Message::Hello(_)) | None => {}
            }
        }
    }
}

fn next(received: &mut BytesMut) -> Option<api::FromProxy> {
    let mut head = received.get(..5)?;
    let _compressed = head.get_u8();
    let length = head.get_u32() as usize;
    let message = received.get(5..5 + length)?;
    let message = api::FromProxy::decode(message).ok();
    received.advance(5 + length);
    message.or_else(|| next(received))
}
