//! An answer as it comes, and what is left of its request meanwhile. An endpoint may answer before it has all of a request: its
//! answer is passed on whole, and the rest of the request is not waited for.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use super::{Exchange, LARGE};
use crate::body::BodyError;
use crate::h1::chunked::Decoder;
use crate::h1::intake::SMALL;
use crate::h1::response::Framing;
use crate::h1::upload::{Decoded, decoded};
use crate::http2::held::{Account, Level, Share};
use crate::patience::UploadFault;
use crate::upstream::{Plain, Upstream};

/// What an endpoint answers. Dropped before its end, its connection is closed.
#[derive(Debug)]
pub struct Reply {
    /// `None`: it has ended.
    exchange: Option<Exchange>,
    left: Left,
    /// The connection may go on.
    keep: bool,
    upstream: Rc<Upstream>,
    /// What has come and the client has not taken.
    held: Share,
}

#[derive(Debug)]
enum Left {
    Length(u64),
    Chunks(Decoder),
    Close,
    /// It was accepted to switch.
    Switched,
}

/// The end of an answer did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("endpoint closed the connection within its answer")]
struct Truncated;

impl Reply {
    /// What follows a head; the connection goes back to `upstream`, if it may be used again.
    pub(super) fn new(exchange: Exchange, framing: Framing, keep: bool, upstream: Rc<Upstream>) -> Self {
        let left = match framing {
            Framing::None => Left::Length(0),
            Framing::Length(length) => Left::Length(length),
            Framing::Chunked => Left::Chunks(Decoder::default()),
            Framing::Close => Left::Close,
        };
        let mut reply = Self::of(exchange, left, keep, upstream);
        if let Left::Length(0) = reply.left {
            reply.end();
        }
        reply
    }

    /// What follows a head that accepts to switch.
    pub(super) fn switched(exchange: Exchange, upstream: Rc<Upstream>) -> Self {
        Self::of(exchange, Left::Switched, false, upstream)
    }

    fn of(exchange: Exchange, left: Left, keep: bool, upstream: Rc<Upstream>) -> Self {
        Self { exchange: Some(exchange), left, keep, upstream, held: Share::new(Account::ours()) }
    }

    /// Sends what can be sent of the request.
    ///
    /// # Errors
    /// When the client does not go on with it.
    pub fn send(&mut self, context: &mut Context<'_>) -> Result<(), UploadFault> {
        self.exchange.as_mut().map_or(Ok(()), |exchange| exchange.send(context))
    }

    /// The connection, and what was received of it, if it was accepted to switch.
    #[must_use]
    pub fn socket(self) -> Option<(Plain, BytesMut)> {
        match (self.left, self.exchange) {
            (Left::Switched, Some(exchange)) => Some((exchange.endpoint, exchange.received)),
            (Left::Length(_) | Left::Chunks(_) | Left::Close | Left::Switched, _) => None,
        }
    }

    /// All of it has come. What more has come, or is left of the request, is nothing that another one could follow.
    fn end(&mut self) {
        if let Some(exchange) = self.exchange.take()
            && self.keep
            && exchange.received.is_empty()
            && exchange.sending.is_none()
            && !exchange.cut
        {
            self.upstream.give_idle(exchange.endpoint);
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Err(fault) = self.send(context) {
            return Poll::Ready(Some(Err(fault.into())));
        }
        let polled = self.poll_next(context);
        // Who asks has passed the last piece on.
        let lent = match &polled {
            Poll::Ready(Some(Ok(frame))) => frame.data_ref().map_or(0, Bytes::len),
            Poll::Ready(_) | Poll::Pending => 0,
        };
        self.held.sends(lent + self.exchange.as_ref().map_or(0, |exchange| exchange.received.len()));
        polled
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(exchange) = &mut self.exchange else { return Poll::Ready(None) };
        let most = if self.held.account().level() > Level::Low { SMALL } else { LARGE };
        loop {
            match self.left.next(&mut exchange.received) {
                Err(error) => return Poll::Ready(Some(Err(error))),
                Ok(Some(Next::Data(data))) => {
                    if let Left::Length(0) = self.left {
                        self.end();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Some(Next::End(last))) => {
                    self.end();
                    return Poll::Ready(last.map(Ok));
                }
                Ok(None) => {}
            }
            match (ready!(exchange.poll_read(context, most)), &self.left) {
                (Ok(1..), _) => {}
                (Ok(0), Left::Close) => {
                    self.end();
                    return Poll::Ready(None);
                }
                (Ok(0) | Err(_), _) => return Poll::Ready(Some(Err(Truncated.into()))),
            }
        }
    }
}

enum Next {
    Data(Bytes),
    /// With trailers, if there are any.
    End(Option<Frame<Bytes>>),
}

impl Left {
    /// What `received` begins with, taken from it; `None` if more has to come.
    fn next(&mut self, received: &mut BytesMut) -> Result<Option<Next>, BodyError> {
        if received.is_empty() {
            return Ok(None);
        }
        let here = match self {
            Self::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(received.len());
                *left -= here as u64;
                here
            }
            Self::Chunks(decoder) => match decoded(decoder, received)? {
                Decoded::Data(here) => here,
                Decoded::More => return Ok(None),
                Decoded::End(trailers) => return Ok(Some(Next::End(trailers.map(Frame::trailers)))),
            },
            Self::Close | Self::Switched => received.len(),
        };
        Ok(Some(Next::Data(received.split_to(here).freeze())))
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.get_mut().poll(context)
    }

    fn is_end_stream(&self) -> bool {
        self.exchange.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.exchange, &self.left) {
            (None, _) => SizeHint::with_exact(0),
            (Some(_), Left::Length(left)) => SizeHint::with_exact(*left),
            (Some(_), Left::Chunks(_) | Left::Close | Left::Switched) => SizeHint::default(),
        }
    }
}
