//! A request's body on its way to an endpoint: piece by piece, as the endpoint takes it, none of them copied.

use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use http_body::Body as _;
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;

use crate::body::RequestBody;
use crate::h1::chunked;
use crate::h1::request::Framing;
use crate::patience::UploadFault;

/// A body that follows its head.
#[derive(Debug)]
pub(super) struct Sending {
    body: RequestBody,
    left: Left,
    /// What waits for the endpoint: the size of a chunk, or the end of all of them; a piece; and what ends it.
    before: Vec<u8>,
    piece: Bytes,
    after: &'static [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Length(u64),
    Chunks,
    /// Nothing but what waits.
    None,
}

/// Why a body was not sent to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The endpoint takes no more.
    Endpoint,
    /// The client is at fault.
    Client(UploadFault),
}

impl Sending {
    /// Nothing of `body` was sent yet; `None` if it has none.
    pub(super) fn of(body: RequestBody, framing: Framing) -> Option<Self> {
        let left = match framing {
            Framing::None => return None,
            Framing::Length(length) => Left::Length(length),
            Framing::Chunked => Left::Chunks,
        };
        Some(Self { body, left, before: Vec::new(), piece: Bytes::new(), after: b"" })
    }

    /// Sends what can be sent; ready when all of it was.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, stream: &mut TcpStream) -> Poll<Result<(), Stopped>> {
        loop {
            ready!(self.poll_write(context, stream))?;
            if self.left == Left::None {
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.give(data)?,
                    Err(frame) => self.end(&frame.into_trailers().unwrap_or_default())?,
                },
                Some(Err(error)) => {
                    let fault = UploadFault::behind(&*error).unwrap_or(UploadFault::Broken);
                    return Poll::Ready(Err(Stopped::Client(fault)));
                }
                None => self.end(&HeaderMap::new())?,
            }
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>, stream: &mut TcpStream) -> Poll<Result<(), Stopped>> {
        while !self.before.is_empty() || !self.piece.is_empty() || !self.after.is_empty() {
            let slices = [&self.before[..], &self.piece[..], self.after].map(IoSlice::new);
            match ready!(Pin::new(&mut *stream).poll_write_vectored(context, &slices)) {
                Ok(count @ 1..) => self.written(count),
                Ok(0) | Err(_) => return Poll::Ready(Err(Stopped::Endpoint)),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn written(&mut self, count: usize) {
        let before = count.min(self.before.len());
        self.before.drain(..before);
        let piece = (count - before).min(self.piece.len());
        self.piece.advance(piece);
        self.after = &self.after[count - before - piece..];
    }

    /// The next piece, if it is not empty: that would be an end.
    fn give(&mut self, data: Bytes) -> Result<(), Stopped> {
        match &mut self.left {
            Left::None => {}
            _ if data.is_empty() => {}
            Left::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Stopped::Client(UploadFault::Broken))?;
                if *left == 0 {
                    self.left = Left::None;
                }
            }
            Left::Chunks => {
                chunked::write_size(&mut self.before, data.len());
                self.after = b"\r\n";
                if self.body.is_end_stream() {
                    (self.left, self.after) = (Left::None, b"\r\n0\r\n\r\n");
                }
            }
        }
        self.piece = data;
        Ok(())
    }

    /// No more comes. Trailers have a place after chunks only.
    fn end(&mut self, trailers: &HeaderMap) -> Result<(), Stopped> {
        match std::mem::replace(&mut self.left, Left::None) {
            Left::None => Ok(()),
            Left::Length(_) => Err(Stopped::Client(UploadFault::Broken)),
            Left::Chunks => {
                chunked::write_end_of(&mut self.before, trailers);
                Ok(())
            }
        }
    }
}
