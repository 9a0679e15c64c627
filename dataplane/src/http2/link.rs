//! Holds on a connection that its tasks share: one thread, so a cell and no lock. Nothing here waits for a socket; the
//! [`super::driver`] reads and writes.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use routing::Flag;

use super::connection::{Connection, Opens};
use super::frame::Reason;
use super::stream::{Error, Half};

/// A connection, from any of its tasks.
pub type Link = Rc<RefCell<Connection>>;

/// Opens streams; a client's connection ends after the last one is gone.
#[derive(Debug)]
pub struct Opener(Link);

impl Opener {
    /// Of `link`, which is a client's.
    #[must_use]
    pub fn new(link: &Link) -> Self {
        link.borrow_mut().senders += 1;
        Self(Rc::clone(link))
    }

    /// Whether no more streams can be opened.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.0.borrow().closes()
    }

    /// See [`Connection::opens`].
    #[must_use]
    pub fn opens(&self) -> Option<Opens> {
        self.0.borrow().opens()
    }

    /// Ready when it is known whether a stream can be opened.
    pub fn poll_opens(&self, context: &Context<'_>) -> Poll<Opens> {
        self.0.borrow_mut().may_open(context).map_or(Poll::Pending, Poll::Ready)
    }

    /// See [`Connection::takes`].
    #[must_use]
    pub fn takes(&self) -> Option<u32> {
        self.0.borrow().takes()
    }

    /// A place for a stream, if there are fewer than `most` of both.
    #[must_use]
    pub fn seat(&self, most: u32) -> Option<Seat> {
        self.0.borrow_mut().take_seat(most).then(|| Seat(Rc::clone(&self.0)))
    }

    /// Ready when it is known whether the other end takes an extended CONNECT.
    pub fn poll_connects(&self, context: &Context<'_>) -> Poll<bool> {
        self.0.borrow_mut().may_connect(context).map_or(Poll::Pending, Poll::Ready)
    }

    /// Sends the head of a request, as [`Opener::opens`] has just allowed.
    #[must_use]
    pub fn open(&self, request: &Request<()>, end: bool) -> (Reader, Writer) {
        let number = self.0.borrow_mut().open(request, end);
        halves(&self.0, number)
    }
}

impl Clone for Opener {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        let mut connection = self.0.borrow_mut();
        connection.senders -= 1;
        if connection.senders == 0 {
            connection.wake_driver();
        }
    }
}

/// A place for a stream that is about to be opened.
#[derive(Debug)]
pub struct Seat(Link);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.borrow_mut().seats -= 1;
    }
}

/// Both halves of a stream that was opened.
#[must_use]
pub fn halves(link: &Link, number: u32) -> (Reader, Writer) {
    (Reader { link: Rc::clone(link), number }, Writer { link: Rc::clone(link), number })
}

/// Takes what comes on one stream.
#[derive(Debug)]
pub struct Reader {
    link: Link,
    number: u32,
}

impl Reader {
    /// The head of the answer, after those that come before it (1xx).
    ///
    /// # Errors
    /// When there is none.
    pub fn poll_head(&self, context: &Context<'_>) -> Poll<Result<Response<()>, Error>> {
        self.link.borrow_mut().poll_head(self.number, context)
    }

    /// What came of the body, or its trailers.
    pub fn poll_frame(&self, context: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.link.borrow_mut().poll_frame(self.number, context)
    }

    /// See [`Connection::moves`].
    pub fn moves(&self) {
        self.link.borrow_mut().moves(self.number);
    }

    /// See [`Connection::keeps`].
    pub fn keeps(&self) {
        self.link.borrow_mut().keeps(self.number);
    }

    /// Whether all of it was taken.
    #[must_use]
    pub fn drained(&self) -> bool {
        self.link.borrow().drained(self.number)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.link.borrow_mut().release(self.number, Half::Reading);
    }
}

/// Sends on one stream. One that is dropped before its end, with the other half, resets the stream.
#[derive(Debug)]
pub struct Writer {
    link: Link,
    number: u32,
}

impl Writer {
    /// Sends a head that comes before the answer's (1xx), once there is room for it.
    pub fn poll_inform(&self, context: &Context<'_>, head: &Response<()>) -> Poll<Result<(), Error>> {
        self.link.borrow_mut().poll_inform(self.number, context, head)
    }

    /// Sends the head of an answer.
    ///
    /// # Errors
    /// When the stream does not go on.
    pub fn respond(&self, response: &Response<()>, end: bool) -> Result<(), Error> {
        self.link.borrow_mut().respond(self.number, response, end)
    }

    /// See [`Connection::poll_send`].
    pub fn poll_send(&self, context: &mut Context<'_>, data: &mut Bytes, end: bool) -> Poll<Result<(), Error>> {
        self.link.borrow_mut().poll_send(self.number, context, data, end)
    }

    /// See [`Connection::held_up`].
    #[must_use]
    pub fn held_up(&self) -> Option<u64> {
        self.link.borrow().held_up(self.number)
    }

    /// Ends the body.
    ///
    /// # Errors
    /// When the stream does not go on.
    pub fn trailers(&self, trailers: &HeaderMap) -> Result<(), Error> {
        self.link.borrow_mut().send_trailers(self.number, trailers)
    }

    /// See [`Connection::hurries`].
    #[must_use]
    pub fn hurries(&self) -> bool {
        self.link.borrow().hurries()
    }

    /// See [`Connection::hurried`].
    pub fn hurried(&self) {
        self.link.borrow().hurried();
    }

    /// Why we ended the stream, if we did: for a fault of the other end, by [`Writer::reset`], or to make room.
    #[must_use]
    pub fn faulted(&self) -> Option<Flag> {
        self.link.borrow().faulted(self.number)
    }

    /// Ends the stream.
    pub fn reset(&self, reason: Reason) {
        self.link.borrow_mut().reset(self.number, reason);
    }

    /// Ready when the stream does not go on.
    pub fn poll_reset(&self, context: &Context<'_>) -> Poll<Error> {
        self.link.borrow_mut().poll_reset(self.number, context)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.link.borrow_mut().release(self.number, Half::Writing);
    }
}
