//! One connection of the load generator: takes the next request that is due, sends it, counts what came.
//!
//! A request is sent again only where it provably never left: hyper hands it back because the connection was closed
//! before anything was written (RFC 9112 §9.3.1 lets every client do so). All else counts.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::Settings;
use super::report::{Failure, Report};
use crate::app::VERSION_HEADER;

/// Shared by all connections: what is due, oldest first.
pub(super) type Queue = Arc<tokio::sync::Mutex<mpsc::Receiver<Instant>>>;

struct Open {
    sender: SendRequest<Empty<Bytes>>,
    sent: u32,
}

enum Answer {
    Complete {
        status: u16,
        version: String,
    },
    Failed(Failure),
    /// Never left: the connection was closed already.
    Returned,
}

pub(super) async fn run(settings: Settings, queue: Queue, report: Arc<Mutex<Report>>) {
    let mut open = None;
    loop {
        let Some(due) = queue.lock().await.recv().await else { return };
        record(&report, |report| report.begun += 1);
        let answer = match tokio::time::timeout(settings.timeout, one(&settings, &mut open, &report)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::Timeout),
        };
        if answer.is_err() || open.as_ref().is_some_and(|open| open.sent >= settings.requests_per_connection) {
            open = None;
        }
        record(&report, |report| report.count(answer, due.elapsed()));
    }
}

/// Sends one request, on a new connection where there is none or the old one turns out to be closed.
async fn one(settings: &Settings, open: &mut Option<Open>, report: &Mutex<Report>) -> Result<(u16, String), Failure> {
    // Twice at most: a connection that was opened for this very request does not return it.
    for _ in 0..2 {
        let connection = match open.take().filter(|open| !open.sender.is_closed()) {
            Some(connection) => connection,
            None => connect(settings).await.map_err(|_| Failure::Connect)?,
        };
        match send(settings, open.insert(connection)).await {
            Answer::Complete { status, version } => return Ok((status, version)),
            Answer::Failed(failure) => return Err(failure),
            Answer::Returned => {
                *open = None;
                record(report, |report| report.returned += 1);
            }
        }
    }
    Err(Failure::Reset)
}

async fn connect(settings: &Settings) -> std::io::Result<Open> {
    let stream = TcpStream::connect(settings.address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    Ok(Open { sender, sent: 0 })
}

async fn send(settings: &Settings, open: &mut Open) -> Answer {
    open.sent += 1;
    let request = Request::get("/")
        .header(header::HOST, &settings.host)
        .body(Empty::new())
        .expect("a host name makes a valid header");
    if open.sender.ready().await.is_err() {
        return Answer::Returned;
    }
    let response = match open.sender.try_send_request(request).await {
        Ok(response) => response,
        Err(mut error) => {
            return if error.take_message().is_some() { Answer::Returned } else { Answer::Failed(Failure::Reset) };
        }
    };
    let status = response.status().as_u16();
    let version = response.headers().get(VERSION_HEADER).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    match complete(response.into_body().collect()).await {
        Ok(()) => Answer::Complete { status, version },
        Err(()) => Answer::Failed(Failure::Reset),
    }
}

async fn complete<T, E>(body: impl Future<Output = Result<T, E>>) -> Result<(), ()> {
    body.await.map(drop).map_err(drop)
}

fn record(report: &Mutex<Report>, change: impl FnOnce(&mut Report)) {
    change(&mut report.lock().unwrap_or_else(PoisonError::into_inner));
}
