//! Accepted connections, through TLS where there is a certificate, as tonic takes them.
//!
//! tonic's own TLS holds one certificate for life; ours is renewed while the server runs, so the handshake is done here.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::telemetry::Chain;

/// A handshake takes two round trips; a peer that is slower than this is not a proxy of this cluster.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Most connections at a time: 10,000 namespaces with two proxies each. Further ones wait in the kernel's queue.
const CONNECTIONS: usize = 20_000;
/// After an accept that failed (no file descriptor left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections of `listener` until `stop`.
pub(super) fn incoming(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    stop: CancellationToken,
) -> impl Stream<Item = io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(stop.run_until_cancelled_owned(accept(listener, tls.map(TlsAcceptor::from), sender)));
    ReceiverStream::new(receiver)
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, sender: mpsc::Sender<io::Result<Connection>>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(greet(stream, tls.clone(), permit, sender.clone()))),
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "config stream connection not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn greet(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    permit: OwnedSemaphorePermit,
    sender: mpsc::Sender<io::Result<Connection>>,
) {
    let handshake = async {
        stream.set_nodelay(true)?;
        Ok::<_, io::Error>(match tls {
            Some(tls) => Socket::Tls(Box::new(tls.accept(stream).await?)),
            None => Socket::Plain(stream),
        })
    };
    match timeout(HANDSHAKE_LIMIT, handshake).await {
        // The server has gone when nobody receives.
        Ok(Ok(socket)) => drop(sender.send(Ok(Connection { socket, _permit: permit })).await),
        Ok(Err(error)) => tracing::debug!(error = %Chain(&error), "config stream handshake failed"),
        Err(_) => tracing::debug!("config stream handshake timed out"),
    }
}

/// One accepted connection; counts against [`CONNECTIONS`] while it lives.
pub(super) struct Connection {
    socket: Socket,
    _permit: OwnedSemaphorePermit,
}

enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Socket::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Socket::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_flush(context),
            Socket::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Socket::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
