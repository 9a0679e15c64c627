//! Bodies over HTTP/2: received frame by frame, the window given back as a frame is taken; sent as the other end's window
//! allows. A reset of one side is told to the other with its reason.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::header::{self, HeaderMap};
use http_body::{Body, Frame, SizeHint};
use tokio::task::spawn_local;

use crate::body::{BodyError, RequestBody};

/// What the other end sends.
#[derive(Debug)]
pub struct Receiving {
    stream: RecvStream,
    /// By `content-length`, less what came; crate `h2` resets a stream that does not keep to it.
    left: Option<u64>,
    data_done: bool,
    /// What is still sent on the same stream, while this is received.
    sending: Option<Box<Sending<RequestBody>>>,
}

impl Receiving {
    /// What follows a head with `headers`; what is still to be sent on the stream is sent meanwhile.
    #[must_use]
    pub fn new(headers: &HeaderMap, stream: RecvStream, sending: Option<Box<Sending<RequestBody>>>) -> Self {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let mut receiving = Self { stream, left: length, data_done: false, sending };
        receiving.part();
        receiving
    }

    /// An answer may end before the request: the rest is sent all the same.
    fn part(&mut self) {
        if self.stream.is_end_stream()
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
        if !self.data_done {
            match ready!(self.stream.poll_data(context)) {
                Some(Ok(data)) => {
                    // It is held no longer than it takes to send it on; an error is told by the next poll.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    self.part();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(broken(error)),
                None => self.data_done = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(context));
        self.part();
        Poll::Ready(match trailers {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => broken(error),
        })
    }
}

/// A reset without an error ends the body early, and does not break it off (RFC 9113 §8.1).
fn broken(error: h2::Error) -> Option<Result<Frame<Bytes>, BodyError>> {
    (error.reason() != Some(Reason::NO_ERROR)).then(|| Err(error.into()))
}

impl Body for Receiving {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.get_mut().poll(context)
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A body on its way to the other end.
#[derive(Debug)]
pub struct Sending<B> {
    body: B,
    stream: SendStream<Bytes>,
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
    pub fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Self { body, stream, waiting: None, begun: false }
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
        loop {
            if let Some(data) = &self.waiting {
                while !data.is_empty() && self.stream.capacity() == 0 {
                    match ready!(self.stream.poll_capacity(context)) {
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => return Poll::Ready(Err(Broken::Peer)),
                    }
                }
                let (data, end) = (data.clone(), self.body.is_end_stream());
                self.waiting = None;
                self.stream.send_data(data, end).map_err(|_| Broken::Peer)?;
                if end {
                    return Poll::Ready(Ok(()));
                }
            }
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    if self.frame(frame)? {
                        return Poll::Ready(Ok(()));
                    }
                }
                Some(Err(error)) => {
                    self.stream.send_reset(reason(&*error.into()));
                    return Poll::Ready(Err(Broken::Body));
                }
                None => return Poll::Ready(self.stream.send_data(Bytes::new(), true).map_err(|_| Broken::Peer)),
            }
        }
    }

    /// Takes a frame over; whether it was the last.
    fn frame(&mut self, frame: Frame<Bytes>) -> Result<bool, Broken> {
        match frame.into_data() {
            Ok(data) => {
                // One byte of the connection's window is claimed, and only with data in hand: a claim without data, or
                // for all of it, would starve the other streams while this one waits for its own window.
                if !data.is_empty() {
                    self.stream.reserve_capacity(1);
                }
                self.waiting = Some(data);
                Ok(false)
            }
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => {
                    self.stream.reserve_capacity(0);
                    self.stream.send_trailers(trailers).map_err(|_| Broken::Peer).map(|()| true)
                }
                Err(_) => Ok(false),
            },
        }
    }
}

/// Why a stream has to be reset when a body breaks off with `error`: as the other side's was, if it was.
fn reason(error: &(dyn Error + 'static)) -> Reason {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(reset) = error.downcast_ref::<h2::Error>() {
            return reset.reason().unwrap_or(Reason::INTERNAL_ERROR);
        }
        cause = error.source();
    }
    Reason::INTERNAL_ERROR
}
