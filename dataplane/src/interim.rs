//! Interim answers (1xx) of one request on the path that knows `http`'s types: which of an endpoint's reach the client, and in
//! what shape. Between the task that asks an endpoint and the one that writes to the client there is no other: both are polled
//! in turn, so what an endpoint said before its answer leaves before it. The own path of HTTP/1 has its words in [`h1::answer`].
//!
//! [`h1::answer`]: crate::h1::answer

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::task::Poll;

use http::header;
use http::{Request, Response, StatusCode, Version};

use crate::forward;

/// Interim answers to one request; an endpoint that sends more is not going to answer.
pub const MAX_INTERIM: u32 = 16;

/// What a client gets before the answer to one request.
#[derive(Debug)]
pub struct Interims {
    /// It knows them.
    known: bool,
    /// It waits for a 100 before it sends its body.
    expects: bool,
    /// No more than [`MAX_INTERIM`]: who has passed one is not asked again, and no other endpoint is.
    waiting: RefCell<VecDeque<Response<()>>>,
    passed: Cell<bool>,
}

impl Interims {
    /// Of a request, as its client sent it.
    #[must_use]
    pub fn of<B>(request: &Request<B>) -> Self {
        let expect = request.headers().get(header::EXPECT);
        Self {
            known: request.version() != Version::HTTP_10,
            expects: expect.is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue")),
            waiting: RefCell::default(),
            passed: Cell::new(false),
        }
    }

    /// An endpoint says `head`: kept for the client, less what may not cross, if it has a use for it. A 100 is for those who
    /// wait for it. What rules and cookies add is for the answer itself, as on the path of HTTP/1.
    pub fn pass(&self, mut head: Response<()>) {
        if !self.known || head.status() == StatusCode::CONTINUE && !self.expects {
            return;
        }
        let from = head.version();
        let headers = head.headers_mut();
        forward::response(headers, from);
        // RFC 9110 §8.6
        headers.remove(header::CONTENT_LENGTH);
        self.passed.set(true);
        self.waiting.borrow_mut().push_back(head);
    }

    /// Whether the client has heard, or will hear, something of an endpoint: no other may be asked.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.passed.get()
    }

    /// The next one for the client.
    pub fn next(&self) -> Option<Response<()>> {
        self.waiting.borrow_mut().pop_front()
    }

    /// Has the client get them one by one; ready when none waits any more.
    pub fn poll_each(&self, mut send: impl FnMut(&Response<()>) -> Poll<()>) -> Poll<()> {
        let mut waiting = self.waiting.borrow_mut();
        while let Some(head) = waiting.front() {
            std::task::ready!(send(head));
            waiting.pop_front();
        }
        Poll::Ready(())
    }
}
