//! A tonic client and server, directly and through the proxy: unary, streaming, cancel, deadline, metadata and trailers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proxy_api::v1beta1 as api;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{BinaryMetadataKey, MetadataValue};
use tonic::server::{StreamingService, UnaryService};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::common::{Bed, eventually, within};

type Codec = ProstCodec<String, String>;
type Answers = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;

/// What the server does with a call is in its first message. Streams that are open now are counted.
#[derive(Clone, Default)]
struct Service {
    open: Arc<AtomicUsize>,
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl UnaryService<String> for Service {
    type Response = String;
    type Future = Pin<Box<dyn Future<Output = Result<Response<String>, Status>> + Send>>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        self.open.fetch_add(1, SeqCst);
        let open = Open(Arc::clone(&self.open));
        Box::pin(async move {
            let _open = open;
            let said = request.metadata().get("x-said").cloned();
            let deadline = request.metadata().contains_key("grpc-timeout");
            match request.into_inner().as_str() {
                "fail" => {
                    let mut status = Status::with_details(Code::DataLoss, "lost: ä\r\n%", "details".into());
                    status.metadata_mut().insert("x-why", "because".parse().unwrap());
                    Err(status)
                }
                "hang" => std::future::pending().await,
                text => {
                    let mut answer = Response::new(format!("{text}, deadline {deadline}"));
                    if let Some(said) = said {
                        answer.metadata_mut().insert("x-said", said);
                    }
                    let bytes = MetadataValue::from_bytes(&[0, 255, 13, 10]);
                    answer.metadata_mut().insert_bin("x-bytes-bin", bytes);
                    Ok(answer)
                }
            }
        })
    }
}

impl StreamingService<String> for Service {
    type Response = String;
    type ResponseStream = Answers;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answers>, Status>> + Send>>;

    /// Echoes each message, until one says how to end.
    fn call(&mut self, request: Request<Streaming<String>>) -> Self::Future {
        self.open.fetch_add(1, SeqCst);
        let open = Open(Arc::clone(&self.open));
        Box::pin(async move {
            let echoed = request.into_inner().map(move |message| {
                let _open = &open;
                match message?.as_str() {
                    "fail" => Err(Status::aborted("as asked")),
                    text => Ok(text.to_owned()),
                }
            });
            Ok(Response::new(Box::pin(echoed) as Answers))
        })
    }
}

async fn server() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, service) = (listener.local_addr().unwrap(), Service::default());
    let open = Arc::clone(&service.open);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service.clone();
            let serve = service_fn(move |request: http::Request<Incoming>| {
                let service = service.clone();
                async move {
                    let request = request.map(Body::new);
                    let mut grpc = tonic::server::Grpc::new(Codec::default());
                    Ok::<_, Infallible>(match request.uri().path() {
                        "/echo.Echo/Unary" => grpc.unary(service, request).await,
                        "/echo.Echo/Stream" => grpc.streaming(service, request).await,
                        _ => Status::unimplemented("no such method").into_http(),
                    })
                }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), serve));
        }
    });
    (address, open)
}

#[derive(Clone)]
struct Client(tonic::client::Grpc<Channel>);

impl Client {
    async fn new(address: SocketAddr) -> Self {
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self(tonic::client::Grpc::new(channel))
    }

    async fn unary(&mut self, path: &'static str, request: Request<String>) -> Result<Response<String>, Status> {
        self.0.ready().await.unwrap();
        within(self.0.unary(request, PathAndQuery::from_static(path), Codec::default())).await
    }

    async fn say(&mut self, text: &str) -> Result<Response<String>, Status> {
        self.unary("/echo.Echo/Unary", Request::new(text.to_owned())).await
    }

    async fn stream(&mut self) -> (mpsc::Sender<String>, Streaming<String>) {
        self.0.ready().await.unwrap();
        let (sender, receiver) = mpsc::channel(4);
        let (request, path) =
            (Request::new(ReceiverStream::new(receiver)), PathAndQuery::from_static("/echo.Echo/Stream"));
        // The answer's head may come with its first message only.
        sender.send("hello".to_owned()).await.unwrap();
        let answer = within(self.0.streaming(request, path, Codec::default())).await.unwrap();
        let mut answers = answer.into_inner();
        assert_eq!(within(answers.message()).await.unwrap().as_deref(), Some("hello"));
        (sender, answers)
    }
}

/// Everything that a client may see, on a server of its own at `address`.
async fn speak(address: SocketAddr, open: &Arc<AtomicUsize>) {
    let mut client = Client::new(address).await;
    // Unary, with metadata both ways, of text and of bytes; no deadline is invented.
    let mut request = Request::new("hello".to_owned());
    request.metadata_mut().insert("x-said", "twice".parse().unwrap());
    let answer = client.unary("/echo.Echo/Unary", request).await.unwrap();
    let key = BinaryMetadataKey::from_static("x-bytes-bin");
    assert_eq!(answer.metadata().get_bin(key).unwrap().to_bytes().unwrap(), &[0, 255, 13, 10][..]);
    assert_eq!(answer.metadata().get("x-said").unwrap(), "twice");
    assert_eq!(answer.get_ref(), "hello, deadline false");
    // Larger than a frame and than a window.
    let large = "x".repeat(3_000_000);
    assert_eq!(client.say(&large).await.unwrap().into_inner(), format!("{large}, deadline false"));
    // Status, message, details and metadata in trailers.
    let status = client.say("fail").await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DataLoss, "lost: ä\r\n%"));
    assert_eq!(
        (status.details(), status.metadata().get("x-why").unwrap().as_bytes()),
        (&b"details"[..], &b"because"[..])
    );
    let status = client.unary("/echo.Echo/Nothing", Request::new(String::new())).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);

    // Both ways in turn, then each way to end.
    let (sender, mut answers) = client.stream().await;
    for text in ["one", "two", "three"] {
        sender.send(text.to_owned()).await.unwrap();
        assert_eq!(within(answers.message()).await.unwrap().as_deref(), Some(text));
    }
    drop(sender);
    assert_eq!(within(answers.message()).await.unwrap(), None);
    assert!(within(answers.trailers()).await.unwrap().is_some());
    let (sender, mut answers) = client.stream().await;
    sender.send("fail".to_owned()).await.unwrap();
    let status = within(answers.message()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Aborted, "as asked"));

    // The server sees that a client cancels, in a stream and in a unary call.
    let (sender, answers) = client.stream().await;
    eventually("one stream is open", || open.load(SeqCst) == 1).await;
    drop((sender, answers));
    eventually("the stream is cancelled", || open.load(SeqCst) == 0).await;
    let mut other = client.clone();
    let call = tokio::spawn(async move { other.say("hang").await });
    eventually("one call is open", || open.load(SeqCst) == 1).await;
    call.abort();
    eventually("the call is cancelled", || open.load(SeqCst) == 0).await;

    // A deadline reaches the server, and ends the call.
    let mut request = Request::new("hello".to_owned());
    request.set_timeout(Duration::from_secs(3600));
    assert_eq!(client.unary("/echo.Echo/Unary", request).await.unwrap().into_inner(), "hello, deadline true");
    let mut request = Request::new("hang".to_owned());
    request.set_timeout(Duration::from_millis(50));
    let status = client.unary("/echo.Echo/Unary", request).await.unwrap_err();
    assert!(matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded), "{status}");
    eventually("the late call is cancelled", || open.load(SeqCst) == 0).await;
}

#[tokio::test]
async fn a_tonic_pair_sees_no_difference() {
    let (address, open) = server().await;
    speak(address, &open).await;
    for protocol in [api::Protocol::Grpc, api::Protocol::Unspecified] {
        let bed = Bed::to(address, protocol).await;
        speak(SocketAddr::from(([127, 0, 0, 1], bed.port)), &open).await;
        // The server times its last call itself, and may be done with it before the proxy hears of the client's end.
        eventually("every call is over", || bed.counters(api::Arm::Stable).in_flight == 0).await;
        let counters = bed.counters(api::Arm::Stable);
        // DataLoss and Unimplemented are the server's; Aborted, and what the client cancels or times, is the client's.
        let counted = (counters.started, counters.succeeded, counters.client_errors, counters.errors);
        assert_eq!((counted, counters.grpc_errors, counters.in_flight), ((10, 4, 4, 2), 2, 0), "{counters:?}");
    }
}
