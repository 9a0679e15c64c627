//! What follows the handshake of a WebSocket between an endpoint over HTTP/1.1 and a client over HTTP/2: bytes of a socket one way
//! and the other, as the body of an answer. An end of one side is an end of the other, and what breaks off on one does on both
//! (RFC 8441 §5).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http_body::{Body as _, Frame};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::task::spawn_local;

use crate::body::{BodyError, Incoming};
use crate::http2::frame::Reason;
use crate::http2::stream::Error;

/// Bytes of one read.
const ROOM: usize = 16 * 1024;

type Socket = TokioIo<Upgraded>;

/// An endpoint's side of a WebSocket that is open. Dropped, its connection is closed.
#[derive(Debug)]
pub struct Tunnel {
    /// `None`: the endpoint says no more.
    socket: Option<Socket>,
    /// What the client says, while it does.
    said: Option<Said>,
    room: Box<[u8]>,
}

#[derive(Debug)]
struct Said {
    body: Incoming,
    /// Taken from the body; waits for the socket.
    waiting: Bytes,
    ended: bool,
}

impl Tunnel {
    /// Passes on what comes of `socket`, and to it what comes of `said`.
    #[must_use]
    pub fn new(socket: Socket, said: Incoming) -> Self {
        let said = Said { body: said, waiting: Bytes::new(), ended: false };
        Self { socket: Some(socket), said: Some(said), room: vec![0; ROOM].into() }
    }

    /// Whether the endpoint says no more.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.socket.is_none()
    }

    /// As `Body::poll_frame`.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(socket) = &mut self.socket else { return Poll::Ready(None) };
        if let Some(said) = &mut self.said
            && let Poll::Ready(passed) = said.poll(context, socket)
        {
            self.said = None;
            if passed.is_err() {
                return self.broken();
            }
        }
        let mut buffer = ReadBuf::new(&mut self.room);
        match ready!(Pin::new(socket).poll_read(context, &mut buffer)) {
            Err(_) => self.broken(),
            Ok(()) if buffer.filled().is_empty() => {
                self.part();
                Poll::Ready(None)
            }
            Ok(()) => Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(buffer.filled()))))),
        }
    }

    /// The endpoint has ended its side: the client's goes on.
    fn part(&mut self) {
        if let (Some(mut socket), Some(mut said)) = (self.socket.take(), self.said.take()) {
            spawn_local(async move { std::future::poll_fn(|context| said.poll(context, &mut socket)).await });
        }
    }

    fn broken(&mut self) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        (self.socket, self.said) = (None, None);
        Poll::Ready(Some(Err(Error::Reset(Reason::CANCEL).into())))
    }
}

/// One of the two sides does not go on.
struct Broken;

impl Said {
    /// Ready when all of it was passed on, and the socket was told of its end.
    fn poll(&mut self, context: &mut Context<'_>, socket: &mut Socket) -> Poll<Result<(), Broken>> {
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
