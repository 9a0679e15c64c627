//! One stream as its connection keeps it (RFC 9113 §5.1): what came of it and was not taken yet, what may be sent, who waits.
//! Bounded by its window and by the size of a field list. Pure.

use std::collections::VecDeque;
use std::task::{Context, Waker};

use http::{HeaderMap, Response};

use super::flow::{Receiving, Sending};
use super::frame::Reason;
use super::pieces::Pieces;

/// Why a stream does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The other end reset it.
    #[error("stream was reset: {0}")]
    Reset(Reason),
    /// We did, for a fault of the other end.
    #[error("stream is not valid: {0}")]
    Fault(Reason),
    /// We did, because it held what there was no room for and did not get on.
    #[error("stream holds more than there is room for")]
    Held,
    /// The other end says that it did not look at it: it takes no more on this connection (§6.8).
    #[error("connection takes no more streams")]
    Unprocessed,
    /// The connection broke off.
    #[error("connection ended within a stream")]
    Closed,
}

/// Who holds on to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Who takes what comes.
    Reading,
    /// Who sends.
    Writing,
}

/// A stream that is open, or still held.
#[derive(Debug)]
pub struct Stream {
    /// Of an answer: not come yet.
    pub(super) awaited: bool,
    /// An answer to HEAD, which has no body whatever its length says (RFC 9110 §8.6).
    pub(super) bodiless: bool,
    /// What came before the head of an answer (1xx) and was not taken yet, and how many did in all.
    pub(super) interims: VecDeque<Response<()>>,
    pub(super) interim_count: u32,
    pub(super) head: Option<Response<()>>,
    pub(super) data: Pieces,
    /// Bytes of the piece that was taken last, which is not passed on yet.
    pub(super) lent: usize,
    /// When it was taken, or came if nothing was held then, in the worker's seconds.
    pub(super) moved: u64,
    pub(super) trailers: Option<HeaderMap>,
    /// What is still to come, by `content-length`.
    pub(super) length: Option<u64>,
    pub(super) window: Receiving,
    pub(super) received: bool,
    pub(super) may_send: Sending,
    pub(super) sent: bool,
    pub(super) error: Option<Error>,
    /// Among those that wait for room on the connection.
    pub(super) blocked: bool,
    /// Counted among those that are open.
    pub(super) open: bool,
    pub(super) read_held: bool,
    pub(super) write_held: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Stream {
    /// Just opened; both halves are held.
    pub(super) fn new(awaited: bool, window: u32, may_send: u32) -> Self {
        Self {
            awaited,
            bodiless: false,
            interims: VecDeque::new(),
            interim_count: 0,
            head: None,
            data: Pieces::default(),
            lent: 0,
            moved: 0,
            trailers: None,
            length: None,
            window: Receiving::new(window),
            received: false,
            may_send: Sending::new(may_send),
            sent: false,
            error: None,
            blocked: false,
            open: true,
            read_held: true,
            write_held: true,
            reader: None,
            writer: None,
        }
    }

    /// Whether neither end sends any more (§5.1).
    pub(super) fn closed(&self) -> bool {
        self.error.is_some() || self.received && self.sent
    }

    /// Whether nobody looks at it any more.
    pub(super) fn dropped(&self) -> bool {
        !self.read_held && !self.write_held
    }

    /// Drops what came and was not passed on, which nobody takes any more; its bytes.
    pub(super) fn let_go(&mut self) -> usize {
        self.data.clear() + std::mem::take(&mut self.lent)
    }

    /// Bytes that came and were not passed on.
    pub(super) fn held(&self) -> usize {
        self.data.bytes() + self.lent
    }

    /// Whether everything that came was taken, and nothing will come.
    pub(super) fn drained(&self) -> bool {
        self.received && self.data.is_empty() && self.trailers.is_none()
    }

    pub(super) fn wait(&mut self, half: Half, context: &Context<'_>) {
        let waker = match half {
            Half::Reading => &mut self.reader,
            Half::Writing => &mut self.writer,
        };
        match waker {
            Some(waker) if waker.will_wake(context.waker()) => {}
            waker => *waker = Some(context.waker().clone()),
        }
    }

    pub(super) fn wake(&mut self, half: Half) {
        let waker = match half {
            Half::Reading => self.reader.take(),
            Half::Writing => self.writer.take(),
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// It does not go on.
    pub(super) fn fail(&mut self, error: Error) {
        self.error.get_or_insert(error);
        self.wake(Half::Reading);
        self.wake(Half::Writing);
    }
}
