//! A request's body from the task of its connection, which reads it, to whoever sends it to an endpoint of another version: one
//! piece at a time, so the client is read as the endpoint takes. Both ends are of one thread; no I/O.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::body::BodyError;
use crate::h1::request::Framing;
use crate::http2::frame::Reason;
use crate::http2::stream::Error;

/// The end that is read from.
#[derive(Debug)]
pub struct Pipe(Rc<RefCell<State>>);

/// The end that is written to; dropped before [`Feed::end`], the body has broken off.
#[derive(Debug)]
pub struct Feed(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    piece: Bytes,
    trailers: Option<HeaderMap>,
    /// What was not taken yet, if its length was said.
    left: Option<u64>,
    stage: Stage,
    /// Nobody reads any more.
    dropped: bool,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Coming,
    Ended,
    Broken,
}

/// Nobody takes what is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Untaken;

/// Both ends, for a body of `framing`.
#[must_use]
pub fn pipe(framing: Framing) -> (Feed, Pipe) {
    let (left, stage) = match framing {
        Framing::None => (Some(0), Stage::Ended),
        Framing::Length(length) => (Some(length), Stage::Coming),
        Framing::Chunked => (None, Stage::Coming),
    };
    let state = State { piece: Bytes::new(), trailers: None, left, stage, dropped: false, waker: None };
    let state = Rc::new(RefCell::new(state));
    (Feed(Rc::clone(&state)), Pipe(state))
}

impl State {
    /// The other end looks again. Each waits only for the other: one waker is enough.
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn drained(&self) -> bool {
        self.stage == Stage::Ended && self.piece.is_empty() && self.trailers.is_none()
    }
}

impl Feed {
    /// Passes a piece on, once the one before it was taken; cancelled, nothing of it is.
    ///
    /// # Errors
    /// When nobody takes it.
    pub async fn give(&self, piece: Bytes) -> Result<(), Untaken> {
        let mut piece = Some(piece).filter(|piece| !piece.is_empty());
        std::future::poll_fn(|context| {
            let mut state = self.0.borrow_mut();
            if state.dropped {
                return Poll::Ready(Err(Untaken));
            }
            let Some(given) = piece.take() else { return Poll::Ready(Ok(())) };
            if !state.piece.is_empty() {
                piece = Some(given);
                state.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
            state.piece = given;
            state.wake();
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// The body is complete.
    pub fn end(&self, trailers: Option<HeaderMap>) {
        let mut state = self.0.borrow_mut();
        (state.stage, state.trailers) = (Stage::Ended, trailers);
        state.wake();
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let mut state = self.0.borrow_mut();
        if state.stage == Stage::Coming {
            state.stage = Stage::Broken;
            state.wake();
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut state = self.0.borrow_mut();
        state.dropped = true;
        state.wake();
    }
}

impl Body for Pipe {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut state = self.0.borrow_mut();
        if !state.piece.is_empty() {
            let piece = std::mem::take(&mut state.piece);
            state.left = state.left.map(|left| left.saturating_sub(piece.len() as u64));
            state.wake();
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match state.stage {
            Stage::Coming => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
            Stage::Ended => Poll::Ready(state.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
            // As a client over HTTP/2 would say it (RFC 9113 §8.1, RFC 8441 §5).
            Stage::Broken => Poll::Ready(Some(Err(Error::Reset(Reason::CANCEL).into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.borrow().drained()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.borrow().left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    fn poll(pipe: &mut Pipe) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(pipe).poll_frame(&mut Context::from_waker(Waker::noop()))
    }

    fn taken(pipe: &mut Pipe) -> Bytes {
        match poll(pipe) {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_piece_waits_for_the_one_before_it() {
        let mut context = Context::from_waker(Waker::noop());
        let (feed, mut body) = pipe(Framing::Length(4));
        assert!(poll(&mut body).is_pending());
        assert!(pin!(feed.give("ab".into())).poll(&mut context).is_ready());
        let mut next = Box::pin(feed.give("cd".into()));
        assert!(next.as_mut().poll(&mut context).is_pending());
        assert_eq!((taken(&mut body), body.size_hint().exact()), ("ab".into(), Some(2)));
        assert!(next.as_mut().poll(&mut context).is_ready());
        drop(next);
        feed.end(None);
        drop(feed);
        assert!(!body.is_end_stream());
        assert_eq!((taken(&mut body), body.is_end_stream()), ("cd".into(), true));
        assert!(matches!(poll(&mut body), Poll::Ready(None)));
    }

    #[test]
    fn either_end_learns_that_the_other_is_gone() {
        let mut context = Context::from_waker(Waker::noop());
        let (feed, body) = pipe(Framing::Chunked);
        drop(body);
        assert!(matches!(pin!(feed.give("x".into())).poll(&mut context), Poll::Ready(Err(Untaken))));
        let (feed, mut body) = pipe(Framing::Chunked);
        drop(feed);
        assert!(matches!(poll(&mut body), Poll::Ready(Some(Err(_)))));
        let (feed, mut body) = pipe(Framing::Chunked);
        let mut trailers = HeaderMap::new();
        trailers.insert("x", http::HeaderValue::from_static("y"));
        feed.end(Some(trailers));
        assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(frame))) if frame.is_trailers()));
        assert!(body.is_end_stream());
    }
}
