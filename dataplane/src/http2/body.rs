//! Bodies over HTTP/2: received frame by frame, the window given back as a frame is taken; sent as the other end's window
//! allows. A reset of one side is told to the other with its reason.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::task::spawn_local;

use super::connection::TURN;
use super::frame::Reason;
use super::head::content_length;
use super::link::{Reader, Writer};
use super::stream;
use crate::body::{BodyError, RequestBody};

/// What the other end sends.
#[derive(Debug)]
pub struct Receiving {
    stream: Reader,
    /// By `content-length`, less what came; the connection resets a stream that does not keep to it.
    left: Option<u64>,
    /// What is still sent on the same stream, while this is received.
    sending: Option<Box<Sending<RequestBody>>>,
}

impl Receiving {
    /// What follows a head with `headers`; what is still to be sent on the stream is sent meanwhile.
    #[must_use]
    pub fn new(headers: &HeaderMap, stream: Reader, sending: Option<Box<Sending<RequestBody>>>) -> Self {
        let mut receiving = Self { stream, left: content_length(headers).unwrap_or(None), sending };
        receiving.part();
        receiving
    }

    /// An answer may end before the request: the rest is sent all the same.
    fn part(&mut self) {
        if self.sending.is_some()
            && self.stream.drained()
            && let Some(mut sending) = self.sending.take()
        {
            spawn_local(async move { poll_fn(|context| sending.poll(context)).await });
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(sending) = &mut self.sending
            && sending.poll(context).is_ready()
        {
            self.sending = None;
        }
        let frame = ready!(self.stream.poll_frame(context));
        self.part();
        Poll::Ready(match frame {
            // A reset breaks the body off, whatever its reason: those without an error come after the end (RFC 9113 §8.1).
            None => None,
            Some(Err(error)) => Some(Err(error.into())),
            Some(Ok(frame)) => {
                if let (Some(left), Some(data)) = (&mut self.left, frame.data_ref()) {
                    *left = left.saturating_sub(data.len() as u64);
                }
                Some(Ok(frame))
            }
        })
    }
}

impl Body for Receiving {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.get_mut().poll(context)
    }

    fn is_end_stream(&self) -> bool {
        self.stream.drained()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A body on its way to the other end.
#[derive(Debug)]
pub struct Sending<B> {
    body: B,
    stream: Writer,
    /// Taken from the body; waits for the window.
    waiting: Option<Bytes>,
    begun: bool,
}

/// Why a body did not get to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It broke off; the other end was told.
    Body,
    /// The other end takes no more.
    Peer,
}

impl<B: Body<Data = Bytes> + Unpin> Sending<B>
where
    B::Error: Into<BodyError>,
{
    /// Nothing of `body` was sent yet.
    #[must_use]
    pub fn new(body: B, stream: Writer) -> Self {
        Self { body, stream, waiting: None, begun: false }
    }

    /// Whether the other end did something on the stream that it may not do.
    pub fn faulted(&self) -> bool {
        self.stream.faulted()
    }

    /// Sends what can be sent; ready when all of it was.
    ///
    /// # Errors
    /// When the rest cannot be sent.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        // A reset comes first: what it does to the body is not the body's fault. Bodies that are there are sent at the
        // first call, and need not ask.
        let begun = std::mem::replace(&mut self.begun, true);
        if begun && self.stream.poll_reset(context).is_ready() {
            return Poll::Ready(Err(Broken::Peer));
        }
        let polled = self.pass(context);
        if !begun && polled.is_pending() && self.stream.poll_reset(context).is_ready() {
            return Poll::Ready(Err(Broken::Peer));
        }
        polled
    }

    fn pass(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let mut turn = TURN;
        loop {
            if let Some(data) = &mut self.waiting {
                let (end, count) = (self.body.is_end_stream(), data.len());
                ready!(self.stream.poll_send(context, data, end)).map_err(|_| Broken::Peer)?;
                self.waiting = None;
                if end {
                    return Poll::Ready(Ok(()));
                }
                turn = turn.saturating_sub(count);
                if turn == 0 {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.waiting = Some(data),
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            return Poll::Ready(self.stream.trailers(&trailers).map_err(|_| Broken::Peer));
                        }
                    }
                },
                Some(Err(error)) => {
                    self.stream.reset(reason(&*error.into()));
                    return Poll::Ready(Err(Broken::Body));
                }
                None => {
                    let ended = ready!(self.stream.poll_send(context, &mut Bytes::new(), true));
                    return Poll::Ready(ended.map_err(|_| Broken::Peer));
                }
            }
        }
    }
}

/// Why a stream has to be reset when a body breaks off with `error`: as the other side's was, if it was. A fault of the other
/// side is none of this one's, and a reset without an error would look like an end.
fn reason(error: &(dyn Error + 'static)) -> Reason {
    match stream_error(error) {
        Some(stream::Error::Reset(reason)) if reason != Reason::NO_ERROR => reason,
        Some(stream::Error::Unprocessed) => Reason::REFUSED_STREAM,
        Some(stream::Error::Reset(_) | stream::Error::Fault(_) | stream::Error::Closed) | None => {
            Reason::INTERNAL_ERROR
        }
    }
}

/// What ended the stream, if that is what broke a body off.
fn stream_error(error: &(dyn Error + 'static)) -> Option<stream::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(ended) = error.downcast_ref::<stream::Error>() {
            return Some(*ended);
        }
        cause = error.source();
    }
    None
}
