//! The stream to one operator replica: connects, says who we are, hands on what comes, sends acknowledgements and
//! counters; on failure again, with bounded back-off, for as long as the replica's address is known.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proxy_api::v1beta1 as api;
use proxy_api::v1beta1::from_proxy::Message;
use routing::merge::StreamId;
use routing::split::mix;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::config::Event;
use crate::stats::Registry;
use crate::stream::proxy_config_client::ProxyConfigClient;
use crate::telemetry::Chain;

/// Name in the operator's certificate.
const SERVER_NAME: &str = "sluice-operator";
/// Longest time to connect, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time after which a replica that does not answer pings counts as gone: interval and wait.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// Between two reports of the counters.
const COUNTERS_INTERVAL: Duration = Duration::from_secs(1);
/// Back-off after the first failure; doubles up to the longest.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// Longest back-off, before jitter.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// Failures in a row after which an address is given up; if the name still resolves to it, it is tried anew.
const MAX_FAILURES: u32 = 5;
/// Acknowledgements and reports that may wait to be sent: a full state of 2,000 routes fits.
const OUTGOING: usize = 4096;
/// Largest message: a full state of 2,000 routes with 50 endpoints each is about 5 MiB.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// How to reach the operator, and who we are.
#[derive(Debug)]
pub struct Operator {
    /// `host:port`; every address of it is a replica.
    pub target: String,
    /// File with the CA certificates; without it the stream is not encrypted.
    pub ca: Option<PathBuf>,
    /// File with our token.
    pub token: Option<PathBuf>,
    /// Our pod.
    pub pod: String,
    /// Our namespace.
    pub namespace: String,
    /// Random per process; counters start at zero with it.
    pub incarnation: u64,
    /// Where the counters come from.
    pub registry: Arc<Registry>,
}

/// Why a stream failed.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// CA or token cannot be read.
    #[error("cannot read {path}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The token is not one line of ASCII.
    #[error("token is not valid")]
    Token,
    /// No connection.
    #[error("cannot connect to operator")]
    Connect(#[from] tonic::transport::Error),
    /// Refused, or broken off.
    #[error("stream failed")]
    Stream(#[from] Box<tonic::Status>),
    /// It ended the stream.
    #[error("operator ended the stream")]
    Ended,
}

/// Follows the replica at `address` until it has failed too often in a row.
pub async fn follow(operator: Arc<Operator>, address: SocketAddr, events: mpsc::Sender<Event>) {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut failures = 0;
    while failures < MAX_FAILURES {
        let id = NEXT.fetch_add(1, Relaxed);
        let mut connected = false;
        let error = match run(&operator, address, id, &events, &mut connected).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        if connected {
            failures = 0;
            if events.send(Event::Disconnected(id)).await.is_err() {
                return;
            }
        }
        tracing::info!(server.address = %address, error = %Chain(&error), "config stream is down");
        let backoff = FIRST_BACKOFF.saturating_mul(1 << failures).min(LONGEST_BACKOFF);
        // Half to the whole of it: proxies that lost the same replica come back spread out.
        let jitter = mix(operator.incarnation ^ id) % 500;
        tokio::time::sleep(backoff.mul_f64(0.5 + jitter as f64 / 1000.0)).await;
        failures += 1;
    }
}

enum Never {}

async fn run(
    operator: &Operator,
    address: SocketAddr,
    id: StreamId,
    events: &mpsc::Sender<Event>,
    connected: &mut bool,
) -> Result<Never, StreamError> {
    let channel = channel(operator, address).await?;
    let (outgoing, stream) = mpsc::channel(OUTGOING);
    let hello = api::Hello {
        pod: operator.pod.clone(),
        namespace: operator.namespace.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        incarnation: operator.incarnation,
    };
    // The queue is empty, so there is room.
    let _ = outgoing.try_send(envelope(Message::Hello(hello)));
    let mut request = tonic::Request::new(ReceiverStream::new(stream));
    if let Some(path) = &operator.token {
        request.metadata_mut().insert("authorization", bearer(&read(path).await?)?);
    }
    let mut client = ProxyConfigClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let opened = tokio::time::timeout(CONNECT_TIMEOUT * 2, client.connect(request)).await;
    let opened = opened.map_err(|_| Box::new(tonic::Status::deadline_exceeded("no answer to the stream's opening")))?;
    let mut incoming = opened.map_err(Box::new)?.into_inner();
    let (acks, mut to_acknowledge) = mpsc::channel(OUTGOING);
    if events.send(Event::Connected(id, acks)).await.is_err() {
        return Err(StreamError::Ended);
    }
    *connected = true;
    tracing::info!(server.address = %address, "config stream is up");
    let mut tick = tokio::time::interval(COUNTERS_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = incoming.message() => match message.map_err(Box::new)? {
                Some(api::FromOperator { message: Some(message) }) => {
                    if events.send(Event::Message(id, Box::new(message))).await.is_err() {
                        return Err(StreamError::Ended);
                    }
                }
                // A kind that this version does not know.
                Some(api::FromOperator { message: None }) => {}
                None => return Err(StreamError::Ended),
            },
            ack = to_acknowledge.recv() => match ack {
                Some(ack) => send(&outgoing, Message::Ack(ack))?,
                None => return Err(StreamError::Ended),
            },
            _ = tick.tick() => {
                send(&outgoing, Message::Counters(counters(operator)))?;
            }
        }
    }
}

fn counters(operator: &Operator) -> api::Counters {
    // Of the process, not of the stream: after a reconnect nothing that was counted before looks newer.
    static SEQUENCE: AtomicU64 = AtomicU64::new(1);
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    api::Counters {
        incarnation: operator.incarnation,
        sequence: SEQUENCE.fetch_add(1, Relaxed),
        unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX),
        arms: operator.registry.arm_counters(),
    }
}

fn envelope(message: Message) -> api::FromProxy {
    api::FromProxy { message: Some(message) }
}

/// Fails when the replica does not read: a stream that lags by thousands of messages is better started anew.
fn send(outgoing: &mpsc::Sender<api::FromProxy>, message: Message) -> Result<(), StreamError> {
    outgoing.try_send(envelope(message)).map_err(|_| StreamError::Ended)
}

async fn channel(operator: &Operator, address: SocketAddr) -> Result<Channel, StreamError> {
    let scheme = if operator.ca.is_some() { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    if let Some(path) = &operator.ca {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(path).await?));
        endpoint = endpoint.tls_config(tls.domain_name(SERVER_NAME))?;
    }
    Ok(endpoint.connect().await?)
}

async fn read(path: &PathBuf) -> Result<Vec<u8>, StreamError> {
    tokio::fs::read(path).await.map_err(|source| StreamError::File { path: path.clone(), source })
}

fn bearer(token: &[u8]) -> Result<MetadataValue<Ascii>, StreamError> {
    let token = std::str::from_utf8(token).map_err(|_| StreamError::Token)?.trim();
    let mut value = MetadataValue::try_from(format!("Bearer {token}")).map_err(|_| StreamError::Token)?;
    value.set_sensitive(true);
    Ok(value)
}
