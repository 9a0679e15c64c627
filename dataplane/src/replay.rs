//! A request in `http`'s types that may be sent more than once: its head is copied, its body kept while it passes, up to
//! [`MAX_KEPT`]. An attempt gets what is kept and then what is still coming; only the newest attempt is given anything.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::{Body, Frame, SizeHint};
use routing::retry::Failure;

use crate::body::{BodyError, Incoming, RequestBody};
use crate::error::ProxyError;
use crate::mirror::Copy;
use crate::proxy::Tried;
use crate::record::Record;
use crate::retries::{MAX_KEPT, Retries};

/// What another attempt is made from.
#[derive(Debug)]
pub struct Spare<'a> {
    head: Request<()>,
    body: Option<Rc<RefCell<Kept>>>,
    retries: &'a Retries<'a>,
}

/// A body that passes, and what of it has passed.
#[derive(Debug)]
struct Kept {
    incoming: Incoming,
    /// What is mirrored of it.
    copy: Option<Box<Copy>>,
    pieces: Vec<Bytes>,
    bytes: usize,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// Some of it was not kept.
    lost: bool,
    /// Number of the attempt that the rest goes to.
    turn: u32,
}

/// The body as one attempt sends it.
#[derive(Debug)]
pub struct Replay {
    kept: Rc<RefCell<Kept>>,
    turn: u32,
    next: usize,
}

impl<'a> Spare<'a> {
    /// Keeps what `request`, which is about to be sent, can be sent again from.
    #[must_use]
    pub fn of(request: &mut Request<RequestBody>, retries: &'a Retries<'a>) -> Self {
        let head = head_of(request);
        let body = match std::mem::replace(request.body_mut(), RequestBody::Empty) {
            RequestBody::Client(incoming) => Some(keep(request, incoming, None)),
            RequestBody::Copied(incoming, copy) => Some(keep(request, incoming, copy)),
            other @ (RequestBody::Empty | RequestBody::Replay(_) | RequestBody::Whole(_)) => {
                *request.body_mut() = other;
                None
            }
        };
        Self { head, body, retries }
    }

    /// Whether an attempt that failed like this is made again, by [`Self::next`].
    pub fn again(&self, failure: Failure, record: &mut Record) -> bool {
        !self.body.as_ref().is_some_and(|body| body.borrow().lost) && self.retries.again(failure, record)
    }

    /// As [`Self::again`], for a failure of which `error` is what the client would get.
    ///
    /// # Errors
    /// With `error`, if there is no other attempt.
    pub fn after<'s>(
        spare: Option<&'s Self>,
        failure: Failure,
        error: ProxyError,
        record: &mut Record,
    ) -> Result<&'s Self, ProxyError> {
        spare.filter(|spare| spare.again(failure, record)).ok_or(error)
    }

    /// Waits and makes the request anew, for another endpoint than the one that `failed` if there is one.
    pub async fn next(&self, failed: Option<SocketAddr>, tried: &mut Tried) -> Request<RequestBody> {
        self.retries.pause().await;
        tried.again(failed);
        let body = self.body.as_ref().map(|kept| {
            let turn = kept.borrow().turn + 1;
            kept.borrow_mut().turn = turn;
            RequestBody::Replay(Replay { kept: Rc::clone(kept), turn, next: 0 })
        });
        head_of(&self.head).map(|()| body.unwrap_or(RequestBody::Empty))
    }

    /// Limits the time from the end of the request to the head of the answer, where the route has a limit.
    pub async fn in_time<T>(spare: Option<&Self>, mut attempt: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        let Some((spare, limit)) = spare.and_then(|spare| Some((spare, spare.retries.per_try_timeout()?))) else {
            return Some(attempt.await);
        };
        loop {
            let waited_from_the_end = spare.sent();
            match tokio::time::timeout(limit, attempt.as_mut()).await {
                Ok(result) => return Some(result),
                Err(_) if waited_from_the_end => return None,
                Err(_) => {}
            }
        }
    }

    /// Whether the client's body has come to its end.
    fn sent(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.borrow().ended)
    }
}

/// Puts a body into the request that passes `incoming` on and keeps it.
fn keep(request: &mut Request<RequestBody>, incoming: Incoming, copy: Option<Box<Copy>>) -> Rc<RefCell<Kept>> {
    let (pieces, bytes, trailers, ended, lost, turn) = (Vec::new(), 0, None, false, false, 0);
    let kept = Rc::new(RefCell::new(Kept { incoming, copy, pieces, bytes, trailers, ended, lost, turn }));
    *request.body_mut() = RequestBody::Replay(Replay { kept: Rc::clone(&kept), turn, next: 0 });
    kept
}

/// A copy of the head alone; extensions stay behind.
pub(crate) fn head_of<B>(request: &Request<B>) -> Request<()> {
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

impl Kept {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.keep(data);
                    if let Some(copy) = &mut self.copy {
                        copy.piece(data);
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.trailers = Some(trailers.clone());
                    self.ended = true;
                }
                // Who knows the length does not ask for what comes after the last byte.
                self.ended |= self.incoming.is_end_stream() || self.incoming.size_hint().exact() == Some(0);
            }
            Poll::Ready(None) => self.ended = true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        if self.ended
            && let Some(mut copy) = self.copy.take()
        {
            copy.complete();
            copy.send();
        }
        // Nobody asks again, who would have passed the last piece on.
        if self.ended {
            self.incoming.keeps();
        }
        polled
    }

    fn keep(&mut self, data: &Bytes) {
        self.bytes += data.len();
        if self.lost || self.bytes > MAX_KEPT {
            self.lost = true;
            self.pieces = Vec::new();
        } else {
            self.pieces.push(data.clone());
        }
    }
}

impl Replay {
    /// As `Body::poll_frame`.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let kept = &mut *self.kept.borrow_mut();
        if kept.turn != self.turn {
            // A newer attempt has taken over; an end here would make this one look complete.
            return Poll::Pending;
        }
        if let Some(piece) = kept.pieces.get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        if kept.ended && !kept.lost {
            let trailers = kept.trailers.clone().filter(|_| self.next == kept.pieces.len());
            self.next = kept.pieces.len() + 1;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let polled = kept.poll(context);
        self.next = kept.pieces.len();
        if kept.ended && kept.trailers.is_some() {
            self.next += 1;
        }
        polled
    }

    /// How long is waited for more of it, where that is limited.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.kept.borrow().incoming.patience()
    }

    /// As `Body::is_end_stream`.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        let kept = self.kept.borrow();
        kept.ended && self.next >= kept.pieces.len() && (kept.trailers.is_none() || self.next > kept.pieces.len())
    }

    /// As `Body::size_hint`.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        let kept = self.kept.borrow();
        let ahead: u64 = kept.pieces.iter().skip(self.next).map(|piece| piece.len() as u64).sum();
        let coming = kept.incoming.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(ahead + coming.lower());
        if let Some(upper) = coming.upper().filter(|_| kept.trailers.is_none()) {
            hint.set_upper(ahead + upper);
        }
        hint
    }
}
