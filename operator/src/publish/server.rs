//! The gRPC half: one task per stream that hears the proxy, one answer stream that pulls from the book.
//!
//! A stream begins with a token and a Hello that agree; after that only what the book decides is sent.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use proxy_api::v1beta1::from_proxy::Message;
use proxy_api::v1beta1::{FromOperator, FromProxy, Hello};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::book::{Next, StreamKey};
use super::lobby::{ConnectionLimits, Lobby, Visit, Visitor};
use super::{Publisher, listener};
use crate::identity::{Identities, IdentityError, Proxy};
use crate::telemetry::Chain;
use generated::proxy_config_server::{ProxyConfig, ProxyConfigServer};

/// The service's two halves; the client is that of the tests.
#[allow(clippy::all, dead_code, unreachable_pub)]
pub(super) mod generated {
    tonic::include_proto!("sluice.proxy.v1beta1");
}

/// A proxy sends its Hello with the request; one that waits longer is none.
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// A stream on which nothing comes for this long is dead: counters come each second.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// Ping of an HTTP/2 connection, and how long its answer may take: a proxy whose node died is gone after 15 s.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// A proxy needs one stream; a second is its reconnect.
const STREAMS_PER_CONNECTION: u32 = 4;
/// Largest message of a proxy: the counters of some thousand arms.
const MESSAGE_LIMIT: usize = 4 * 1024 * 1024;

/// The config stream ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener or HTTP/2 failed.
    #[error("cannot serve the config stream")]
    Transport(#[source] tonic::transport::Error),
}

/// Serves proxies on `listener` until `stop`, then ends their streams; connections on which no proxy speaks are granted
/// `limits`. Plain text without `tls`: for tests only.
///
/// # Errors
/// When the server cannot go on; it can be served anew on a new listener.
pub async fn serve(
    listener: TcpListener,
    limits: ConnectionLimits,
    tls: Option<Arc<ServerConfig>>,
    identities: Identities,
    publisher: Publisher,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let incoming = listener::incoming(listener, tls, Lobby::new(limits), stop.clone());
    let service = ProxyConfigServer::new(Service { identities, publisher: publisher.clone() })
        .max_decoding_message_size(MESSAGE_LIMIT);
    let end = async {
        stop.cancelled().await;
        publisher.shutdown();
    };
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, end)
        .await
        .map_err(ServeError::Transport)
}

struct Service {
    identities: Identities,
    publisher: Publisher,
}

type Answers = Pin<Box<dyn Stream<Item = Result<FromOperator, Status>> + Send>>;

#[tonic::async_trait]
impl ProxyConfig for Service {
    type ConnectStream = Answers;

    async fn connect(&self, request: Request<Streaming<FromProxy>>) -> Result<Response<Answers>, Status> {
        let visitor = request.extensions().get::<Arc<Visitor>>();
        let mut visit = visitor.ok_or_else(|| Status::internal("the connection is not known"))?.ask();
        let proxy = self.identify(request.metadata()).await?;
        visit.identified();
        let mut inbound = request.into_inner();
        let hello = hello(&mut inbound).await?;
        if (&hello.namespace, &hello.pod) != (&proxy.namespace, &proxy.pod) {
            return Err(Status::permission_denied("the token is that of another pod"));
        }
        let key = self.publisher.connect(proxy, hello.incarnation).ok_or_else(stopping)?;
        tracing::info!(
            k8s.namespace.name = key.proxy.namespace,
            k8s.pod.name = key.proxy.pod,
            version = hello.version,
            "proxy connected"
        );
        tokio::spawn(hear(self.publisher.clone(), key.clone(), inbound, visit));
        Ok(Response::new(answers(self.publisher.clone(), key)))
    }
}

impl Service {
    async fn identify(&self, metadata: &MetadataMap) -> Result<Proxy, Status> {
        let header = metadata.get("authorization").and_then(|value| value.to_str().ok());
        self.identities.identify(header).await.map_err(|error| {
            tracing::warn!(error = %Chain(&error), "proxy not identified");
            match &error {
                IdentityError::Missing | IdentityError::Refused(_) => Status::unauthenticated(error.to_string()),
                IdentityError::Unreachable(_) | IdentityError::Deadline => Status::unavailable(error.to_string()),
            }
        })
    }
}

fn stopping() -> Status {
    Status::unavailable("this replica stops")
}

async fn hello(inbound: &mut Streaming<FromProxy>) -> Result<Hello, Status> {
    let first = timeout(HELLO_LIMIT, inbound.message()).await;
    match first.map_err(|_| Status::deadline_exceeded("no hello"))?? {
        Some(FromProxy { message: Some(Message::Hello(hello)) }) => Ok(hello),
        _ => Err(Status::invalid_argument("the first message must be a hello")),
    }
}

/// What the book owes to `key`, as it comes to owe it.
fn answers(publisher: Publisher, key: StreamKey) -> Answers {
    Box::pin(futures::stream::unfold((publisher, key), |(publisher, key)| async move {
        loop {
            match publisher.take(&key) {
                Next::Message(message) => return Some((Ok(*message), (publisher, key))),
                Next::Nothing => drop(key.ended.run_until_cancelled(key.wake.notified()).await),
                Next::End => return None,
            }
        }
    }))
}

/// Hears the proxy until it is silent, then ends the stream. `visit` ends with it: answers that nobody reads are no stream.
async fn hear(publisher: Publisher, key: StreamKey, mut inbound: Streaming<FromProxy>, visit: Visit) {
    let cause = loop {
        let Some(heard_in_time) = key.ended.run_until_cancelled(timeout(SILENCE_LIMIT, inbound.message())).await else {
            break "replaced, or this replica stops";
        };
        match heard_in_time {
            Ok(Ok(Some(FromProxy { message }))) => match message {
                Some(Message::Ack(ack)) => heard(&publisher, &key, ack),
                Some(Message::Counters(counters)) => publisher.count(&key, counters),
                Some(Message::Hello(_)) => break "second hello",
                // A message of a later version of the contract.
                None => {}
            },
            Ok(Ok(None)) => break "closed by the proxy",
            Ok(Err(_)) => break "connection lost",
            Err(_) => break "silent",
        }
    };
    publisher.disconnect(&key);
    // Ends the answers too: the book does not know the stream any more.
    key.ended.cancel();
    drop(visit);
    tracing::info!(
        k8s.namespace.name = key.proxy.namespace,
        k8s.pod.name = key.proxy.pod,
        reason = cause,
        "proxy disconnected"
    );
}

fn heard(publisher: &Publisher, key: &StreamKey, ack: proxy_api::v1beta1::Ack) {
    if !ack.error.is_empty() {
        tracing::warn!(
            k8s.namespace.name = key.proxy.namespace,
            k8s.pod.name = key.proxy.pod,
            uid = ack.uid,
            counter = ack.counter,
            error = ack.error,
            "route refused by a proxy"
        );
    }
    publisher.ack(key, ack);
}
