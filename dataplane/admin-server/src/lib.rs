//! Serves an admin port (probes, metrics, dumps): HTTP/1.1, few connections, short patience. Whoever reaches the port can not
//! keep the kubelet and Prometheus away from it by holding connections, as the oldest one makes room for a new one: nginx
//! does the same with idle ones (`worker_connections`); here a request takes milliseconds, so that the oldest is idle, or slow.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

/// Connections that are served at a time: a scraper, the kubelet, and some people.
pub const MAX_CONNECTIONS: usize = 64;
/// Time that a client has for the head of a request, idle time included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a connection that could not be accepted: open files do not come back sooner.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `service` on `listener` until dropped, which ends the open connections.
pub async fn serve<S, B>(listener: TcpListener, service: S)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Error: Error + Send + Sync> + Send + 'static,
    B::Data: Send,
{
    let mut open = Open::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                open.admit(tokio::spawn(connection(stream, service.clone())));
                // However many wait to be accepted, each is looked at before it is the oldest.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an admin connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection<S, B>(stream: TcpStream, service: S)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    B: Body<Error: Error + Send + Sync> + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, cause = error.source(), "admin connection ended");
    }
}

/// The tasks of the connections, the oldest first; they end with it.
#[derive(Default)]
struct Open(VecDeque<AbortOnDropHandle<()>>);

impl Open {
    fn admit(&mut self, connection: JoinHandle<()>) {
        self.0.retain(|connection| !connection.is_finished());
        if self.0.len() >= MAX_CONNECTIONS {
            self.0.pop_front();
        }
        self.0.push_back(AbortOnDropHandle::new(connection));
    }
}

#[cfg(test)]
mod tests;
