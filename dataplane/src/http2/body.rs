//! Bodies over HTTP/2: received frame by frame, the window given back as a frame is taken; sent as the other end's window
//! allows. A reset of one side is told to the other with its reason.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use routing::Flag;
use tokio::task::spawn_local;

use super::connection::{HURRY, TURN};
use super::frame::Reason;
use super::head::content_length;
use super::link::{Reader, Writer};
use super::stream;
use crate::body::{BodyError, RequestBody, ResponseBody};
use crate::error::behind;
use crate::h1::chunked::Malformed;
use crate::limits::PATIENCE;
use crate::patience::{Pace, Patience, UploadFault};

/// What the other end sends.
#[derive(Debug)]
pub struct Receiving {
    stream: Reader,
    /// By `content-length`, less what came; the connection resets a stream that does not keep to it.
    left: Option<u64>,
    /// What is still sent on the same stream, while this is received.
    sending: Option<Box<Sending<RequestBody>>>,
    /// Of a client that has said how much it sends.
    pace: Option<Box<Pace>>,
    /// Time in which something must come of it, where that is limited.
    patience: Duration,
}

impl Receiving {
    /// What follows a head with `headers`; what is still to be sent on the stream is sent meanwhile.
    #[must_use]
    pub fn new(headers: &HeaderMap, stream: Reader, sending: Option<Box<Sending<RequestBody>>>) -> Self {
        let left = content_length(headers).unwrap_or(None);
        let mut receiving = Self { stream, left, sending, pace: None, patience: PATIENCE };
        receiving.part();
        receiving
    }

    /// A client's, which must come as fast as one over HTTP/1.1, and something of it within `limit`, if the client has said how
    /// much it sends. Others may be streams, of gRPC for one, on which nothing is said until there is something to say.
    #[must_use]
    pub fn paced(mut self, limit: Duration) -> Self {
        self.patience = limit;
        self.pace = self.left.filter(|left| *left > 0).map(|_| Box::new(Pace::new(limit)));
        self
    }

    /// Some of what was taken of it last was passed on.
    pub fn moves(&self) {
        self.stream.moves();
    }

    /// What was taken of it last is kept.
    pub fn keeps(&self) {
        self.stream.keeps();
    }

    /// How long is waited for more of it.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// An answer may end before the request: the rest is sent all the same.
    fn part(&mut self) {
        if self.sending.is_some()
            && self.stream.drained()
            && let Some(sending) = self.sending.take()
        {
            spawn_local(rest(sending));
        }
    }

    /// Sends what can be sent on the same stream.
    ///
    /// # Errors
    /// When the client does not go on with it.
    pub fn send(&mut self, context: &mut Context<'_>) -> Result<(), UploadFault> {
        let Some(sending) = &mut self.sending else { return Ok(()) };
        let Poll::Ready(sent) = sending.poll(context) else { return Ok(()) };
        self.sending = None;
        match sent {
            Ok(()) | Err(Broken::Peer) => Ok(()),
            // That we have reset the stream for it is no fault of the endpoint.
            Err(Broken::Body) => Err(UploadFault::Broken),
            Err(Broken::Client(fault)) => Err(fault),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Err(fault) = self.send(context) {
            return Poll::Ready(Some(Err(fault.into())));
        }
        let frame = match (self.stream.poll_frame(context), &mut self.pace) {
            (Poll::Ready(frame), _) => frame,
            (Poll::Pending, None) => return Poll::Pending,
            (Poll::Pending, Some(pace)) => {
                ready!(pace.poll(context));
                return Poll::Ready(Some(Err(UploadFault::Slow.into())));
            }
        };
        self.part();
        Poll::Ready(match frame {
            // A reset breaks the body off, whatever its reason: those without an error come after the end (RFC 9113 §8.1).
            None => None,
            Some(Err(error)) => Some(Err(error.into())),
            Some(Ok(frame)) => {
                if let (Some(left), Some(data)) = (&mut self.left, frame.data_ref()) {
                    *left = left.saturating_sub(data.len() as u64);
                    if let Some(pace) = &mut self.pace
                        && !pace.came(data.len())
                    {
                        return Poll::Ready(Some(Err(UploadFault::Slow.into())));
                    }
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
    /// Bytes that were.
    sent: u64,
}

/// Why a body did not get to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It broke off; the other end was told.
    Body,
    /// Likewise, because of the client.
    Client(UploadFault),
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
        Self { body, stream, waiting: None, begun: false, sent: 0 }
    }

    /// Why we ended the stream, if we did.
    pub fn faulted(&self) -> Option<Flag> {
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
                let polled = self.stream.poll_send(context, data, end);
                self.sent += (count - data.len()) as u64;
                ready!(polled).map_err(|_| Broken::Peer)?;
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
                Some(Err(error)) => return Poll::Ready(Err(self.broken(error.into()))),
                None => {
                    let ended = ready!(self.stream.poll_send(context, &mut Bytes::new(), true));
                    return Poll::Ready(ended.map_err(|_| Broken::Peer));
                }
            }
        }
    }
}

impl<B> Sending<B> {
    /// Tells the other end that the body broke off with `error`.
    fn broken(&self, error: BodyError) -> Broken {
        self.stream.reset(reason(&*error));
        UploadFault::behind(&*error).map_or(Broken::Body, Broken::Client)
    }
}

impl Sending<ResponseBody> {
    /// Ready, and the client told, when an answer that waits for the client is overdue, or the client takes nothing of it for as
    /// long as `taking` allows, or for [`HURRY`] while so much is held that it must make room. To be asked when [`Sending::poll`] is pending.
    pub fn poll_taken(&mut self, context: &mut Context<'_>, taking: &mut Taking) -> Poll<Broken> {
        if self.waiting.is_none() {
            // Nothing waits: the endpoint's turn, and the body has looked at its deadline itself.
            taking.patience.renew();
            return Poll::Pending;
        }
        if let Poll::Ready(error) = self.body.poll_waiting(context) {
            return Poll::Ready(self.broken(error));
        }
        // Others on the connection may have their turn.
        let seen = (self.sent, self.stream.held_up());
        if std::mem::replace(&mut taking.seen, seen) != seen {
            taking.patience.renew();
            self.body.moves();
        }
        ready!(taking.patience.poll_hurried(context, HURRY, || self.stream.hurries()));
        let hurried = taking.patience.renew() < taking.patience.limit();
        if hurried {
            self.stream.hurried();
        }
        self.body.untaken(hurried);
        // Not ENHANCE_YOUR_CALM, which tells a client that it asks for too much: gRPC's take it for RESOURCE_EXHAUSTED.
        self.stream.reset(Reason::CANCEL);
        Poll::Ready(Broken::Client(UploadFault::Slow))
    }
}

/// Sends what is left of a request after the end of its answer, for as long as it gets on: nobody waits for it but this stream of
/// the endpoint, so who sends it may be no slower than one over HTTP/1.1, nor may who takes it.
async fn rest(mut sending: Box<Sending<RequestBody>>) {
    let (mut pace, mut seen) = (Pace::new(sending.body.patience()), sending.sent);
    poll_fn(|context| {
        if sending.poll(context).is_ready() {
            return Poll::Ready(());
        }
        let passed = sending.sent - std::mem::replace(&mut seen, sending.sent);
        let in_time = passed == 0 || pace.came(usize::try_from(passed).unwrap_or(usize::MAX));
        if in_time && pace.poll(context).is_pending() {
            return Poll::Pending;
        }
        sending.stream.reset(Reason::CANCEL);
        Poll::Ready(())
    })
    .await;
}

/// Whether a client takes its answer.
#[derive(Debug)]
pub struct Taking {
    patience: Patience,
    /// What it had taken when it was last looked at: of the stream, and of others where the connection has no room.
    seen: (u64, Option<u64>),
}

impl Taking {
    /// It must take something within `limit`.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { patience: Patience::new(limit), seen: (0, None) }
    }
}

/// Why a stream has to be reset when a body breaks off with `error`: as the other side's was, if it was. A fault of the other
/// side is none of this one's, and a reset without an error would look like an end.
fn reason(error: &(dyn Error + 'static)) -> Reason {
    if UploadFault::behind(error).is_some() {
        return Reason::CANCEL;
    }
    match behind(error) {
        Some(stream::Error::Reset(reason)) if reason != Reason::NO_ERROR => reason,
        Some(stream::Error::Unprocessed) => Reason::REFUSED_STREAM,
        // The other side's own stalling: nothing is wrong with this one.
        Some(stream::Error::Held) => Reason::CANCEL,
        Some(stream::Error::Reset(_) | stream::Error::Fault(_) | stream::Error::Closed) | None => {
            Reason::INTERNAL_ERROR
        }
    }
}

/// Whether a body broke off because what the other end sent, over either version, was not valid.
#[must_use]
pub fn faulted(error: &(dyn Error + 'static)) -> bool {
    matches!(behind(error), Some(stream::Error::Fault(_))) || behind::<Malformed>(error).is_some()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::task::Waker;

    use http::Request;
    use http_body_util::StreamBody;

    use super::super::connection::{Config, Connection, Role};
    use super::super::flow;
    use super::super::link::{Link, halves};
    use super::*;

    #[test]
    fn a_body_in_pieces_takes_turns_with_others() {
        let (stream_window, window) = (flow::FIRST, flow::window(1));
        let config =
            Config { stream_window, growth: 0, window, field_list: 1000, streams: 0, connects: false, faults: 0 };
        let link = Link::new(Connection::new(Role::Client, config).into());
        let stream = link.borrow_mut().open(&Request::post("http://web/").body(()).unwrap(), false);
        let (_reader, writer) = halves(&link, stream);
        let pieces = (0..6).map(|_| Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[7; TURN / 2]))));
        let mut sending = Sending::new(StreamBody::new(tokio_stream::iter(pieces)), writer);
        let mut context = Context::from_waker(Waker::noop());
        let mut sent = Vec::new();
        loop {
            let before = link.borrow().waiting().len();
            let polled = sending.poll(&mut context);
            // Two frames' heads, or the end's.
            sent.push((link.borrow().waiting().len() - before) / TURN);
            if polled.is_ready() {
                break;
            }
        }
        assert_eq!(sent, [1, 1, 1, 0]);
    }
}
