//! Origins that misbehave on every connection in the same way.

use std::net::SocketAddr;

use anyhow::Result;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// How much is sent at most.
const ENDLESS: u64 = 10 << 30;

/// What an origin does.
#[derive(Clone, Copy, Debug)]
pub enum Origin {
    /// Serves.
    Good,
    /// Takes the request and says nothing.
    Hangs,
    /// Resets the connection when it has the request.
    Resets,
    /// Answers before it has read the body, and reads no more.
    Early,
    /// Answers with what is not HTTP.
    Garbage,
    /// Sends 10 GiB.
    Endless,
}

/// One that runs until it is dropped.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Starts one; the good one is the caller's.
///
/// # Errors
/// When there is no port.
pub async fn start(origin: Origin) -> Result<Option<Running>> {
    if matches!(origin, Origin::Good) {
        return Ok(None);
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            while connections.try_join_next().is_some() {}
            connections.spawn(serve(origin, stream));
        }
    });
    Ok(Some(Running { address, _task: AbortOnDropHandle::new(task) }))
}

async fn serve(origin: Origin, mut stream: TcpStream) {
    let mut room = vec![0; 64 * 1024];
    if !matches!(stream.read(&mut room).await, Ok(1..)) {
        return;
    }
    match origin {
        Origin::Good => {}
        // Until the proxy gives up.
        Origin::Hangs => while matches!(stream.read(&mut room).await, Ok(1..)) {},
        Origin::Resets => {
            let _ = SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO));
        }
        Origin::Early => {
            let _ = stream.write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nbig").await;
            let mut byte = [0];
            let _ = stream.peek(&mut byte).await;
        }
        Origin::Garbage => {
            let _ = stream.write_all(b"\x16\x03\x01 this is not HTTP\r\n\r\n").await;
        }
        Origin::Endless => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {ENDLESS}\r\n\r\n");
            let mut sent = stream.write_all(head.as_bytes()).await;
            for _ in 0..ENDLESS / room.len() as u64 {
                if sent.is_err() {
                    return;
                }
                sent = stream.write_all(&room).await;
            }
        }
    }
}
