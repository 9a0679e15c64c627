//! Accepted connections, through TLS where there is a certificate, as tonic takes them.
//!
//! tonic's own TLS holds one certificate for life; ours is renewed while the server runs, so the handshake is done here.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::lobby::{Lobby, Visitor};
use crate::telemetry::Chain;

/// After an accept that failed (no file descriptor left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections of `listener` until `stop`, as many as `lobby` lets in.
pub(super) fn incoming(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    lobby: Lobby,
    stop: CancellationToken,
) -> impl Stream<Item = io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        let accepts = accept(listener, tls.map(TlsAcceptor::from), lobby.clone(), sender);
        let _ = stop.run_until_cancelled(futures::future::join(accepts, lobby.sweep())).await;
        lobby.clear();
    });
    ReceiverStream::new(receiver)
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    lobby: Lobby,
    sender: mpsc::Sender<io::Result<Connection>>,
) {
    loop {
        let permit = lobby.permit().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let visitor = lobby.enter(permit).await;
                tokio::spawn(greet(stream, tls.clone(), lobby.handshake_limit(), visitor, sender.clone()));
            }
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
    limit: Duration,
    visitor: Arc<Visitor>,
    sender: mpsc::Sender<io::Result<Connection>>,
) {
    let mut closed = Box::pin(visitor.closed());
    let handshake = async {
        stream.set_nodelay(true)?;
        Ok::<_, io::Error>(match tls {
            Some(tls) => Socket::Tls(Box::new(tls.accept(stream).await?)),
            None => Socket::Plain(stream),
        })
    };
    let greeted = tokio::select! {
        greeted = timeout(limit, handshake) => greeted,
        () = &mut closed => return,
    };
    match greeted {
        // The server has gone when nobody receives.
        Ok(Ok(socket)) => drop(sender.send(Ok(Connection { socket, closed, visitor })).await),
        Ok(Err(error)) => tracing::debug!(error = %Chain(&error), "config stream handshake failed"),
        Err(_) => tracing::debug!("config stream handshake timed out"),
    }
}

/// One accepted connection; it has its place in the lobby while it lives.
pub(super) struct Connection {
    socket: Socket,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    visitor: Arc<Visitor>,
}

impl Connection {
    /// The socket, until the lobby closes it. Whatever the server waits for, it is woken then.
    fn open(&mut self, context: &mut Context<'_>) -> io::Result<&mut Socket> {
        match self.closed.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(&mut self.socket),
        }
    }
}

enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connected for Connection {
    type ConnectInfo = Arc<Visitor>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Arc::clone(&self.visitor)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.open(context)? {
            Socket::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Socket::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.open(context)? {
            Socket::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Socket::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.open(context)? {
            Socket::Plain(stream) => Pin::new(stream).poll_flush(context),
            Socket::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.open(context)? {
            Socket::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Socket::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
