//! One connection from a client: which HTTP it speaks.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::h1::relay;
use crate::http2::{self, frame::PREFACE};
use crate::view::Slot;
use crate::worker::Worker;

/// Time that a client has for its first bytes: longer than the 90 s after which Go's
/// clients close idle connections, so that they and not we close them.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// Serves an HTTP connection until it ends.
pub async fn serve(worker: Rc<Worker>, slot: Rc<Slot>, mut stream: TcpStream, client: IpAddr) {
    let mut start = Vec::with_capacity(PREFACE.len());
    let preface = match tokio::time::timeout(START_TIMEOUT, speaks_http2(&mut stream, &mut start)).await {
        Ok(Ok(preface)) => preface,
        Ok(Err(_)) | Err(_) => return,
    };
    if preface {
        // Boxed: a task is as large as the largest of what it may become, and most serve HTTP/1.1.
        return Box::pin(http2::server::serve(worker, slot, stream, client)).await;
    }
    relay::serve(&worker, &slot, stream, &start, client).await;
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
