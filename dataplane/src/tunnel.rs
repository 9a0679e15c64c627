//! What follows the handshake of a WebSocket between an endpoint over HTTP/1.1 and a client over HTTP/2: bytes of a socket one way
//! and the other, as the body of an answer. An end of one side is an end of the other, and what breaks off on one does on both
//! (RFC 8441 §5).

use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::{Body as _, Frame};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use crate::body::{BodyError, Incoming};
use crate::http2::frame::Reason;
use crate::http2::held::{Account, Share};
use crate::http2::stream::Error;
use crate::upstream::Plain;

/// Bytes of one read.
const ROOM: usize = 16 * 1024;

/// An endpoint's side of a WebSocket that is open. Dropped, its connection is closed.
#[derive(Debug)]
pub struct Tunnel {
    /// `None`: the endpoint says no more.
    socket: Option<Plain>,
    /// What the client says, while it does.
    said: Option<Said>,
    /// What the endpoint has said, and nobody has heard.
    heard: BytesMut,
    /// Likewise, as it counts.
    held: Share,
    /// One of the two sides does not go on with what the client says.
    failed: bool,
}

#[derive(Debug)]
struct Said {
    body: Incoming,
    /// Taken from the body; waits for the socket.
    waiting: Bytes,
    ended: bool,
}

impl Tunnel {
    /// Passes on what comes of `socket`, of which `heard` has the start, and to it what comes of `said`.
    #[must_use]
    pub fn new(socket: Plain, heard: BytesMut, said: Incoming) -> Self {
        let said = Said { body: said, waiting: Bytes::new(), ended: false };
        let held = Share::new(Account::ours());
        Self { socket: Some(socket), said: Some(said), heard, held, failed: false }
    }

    /// Whether the endpoint says no more.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.socket.is_none()
    }

    /// As `Body::poll_frame`.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // Who asks has passed on what was said before.
        self.held.sends(0);
        self.send(context);
        if self.failed {
            return Poll::Ready(Some(Err(self.broken())));
        }
        let Some(socket) = &mut self.socket else { return Poll::Ready(None) };
        if self.heard.is_empty() {
            self.heard.reserve(ROOM);
            match ready!(pin!(socket.stream.read_buf(&mut self.heard)).poll(context)) {
                Err(_) => return Poll::Ready(Some(Err(self.broken()))),
                Ok(0) => {
                    self.part();
                    return Poll::Ready(None);
                }
                Ok(_) => {}
            }
        }
        self.held.sends(self.heard.len());
        Poll::Ready(Some(Ok(Frame::data(self.heard.split().freeze()))))
    }

    /// Passes on what the client says. That it does not go on is told by [`Tunnel::poll`], after what the endpoint has said.
    pub fn send(&mut self, context: &mut Context<'_>) {
        if let (Some(socket), Some(said)) = (&mut self.socket, &mut self.said)
            && let Poll::Ready(passed) = said.poll(context, &mut socket.stream)
        {
            self.said = None;
            self.failed = passed.is_err();
        }
    }

    /// The endpoint has ended its side: the client's goes on.
    fn part(&mut self) {
        if let (Some(mut socket), Some(mut said)) = (self.socket.take(), self.said.take()) {
            spawn_local(async move { std::future::poll_fn(|context| said.poll(context, &mut socket.stream)).await });
        }
    }

    fn broken(&mut self) -> BodyError {
        (self.socket, self.said) = (None, None);
        Error::Reset(Reason::CANCEL).into()
    }
}

/// One of the two sides does not go on.
struct Broken;

impl Said {
    /// Ready when all of it was passed on, and the socket was told of its end.
    fn poll(&mut self, context: &mut Context<'_>, socket: &mut TcpStream) -> Poll<Result<(), Broken>> {
        let mut socket = Pin::new(socket);
        loop {
            while !self.waiting.is_empty() {
                match ready!(socket.as_mut().poll_write(context, &self.waiting)) {
                    Ok(count @ 1..) => self.waiting.advance(count),
                    Ok(0) | Err(_) => return Poll::Ready(Err(Broken)),
                }
            }
            if self.ended {
                return socket.poll_shutdown(context).map_err(|_| Broken);
            }
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => self.waiting = frame.into_data().unwrap_or_default(),
                Some(Err(_)) => return Poll::Ready(Err(Broken)),
                None => self.ended = true,
            }
        }
    }
}
