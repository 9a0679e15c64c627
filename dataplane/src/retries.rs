//! One request's retries: asks the route's policy and budget (crate `routing`), tells the record, waits. Knows how much of
//! the body is kept; keeping and sending it is its callers' affair.

use std::cell::Cell;
use std::time::Duration;

use routing::retry::{Failure, Retry};
use tokio::time::Instant;

use crate::error::ProxyError;
use crate::record::Record;
use crate::worker::Worker;

/// Bytes of a body that are kept while they pass; a request with a longer one is not sent again (Linkerd's and Pingora's
/// bound).
pub const MAX_KEPT: usize = 64 * 1024;

/// What is left of the retries of one request.
#[derive(Debug)]
pub struct Retries<'a> {
    policy: &'a Retry,
    worker: &'a Worker,
    idempotent: bool,
    deadline: Option<Instant>,
    made: Cell<u32>,
    pause: Cell<Duration>,
    spoken: Cell<bool>,
    /// Bytes of the body that may still be kept; `None`: some were not.
    room: Cell<Option<usize>>,
}

impl<'a> Retries<'a> {
    /// A request begins, which must be over by `deadline`.
    #[must_use]
    pub fn begin(policy: &'a Retry, worker: &'a Worker, idempotent: bool, deadline: Option<Instant>) -> Self {
        policy.budget.request(worker.registry().now());
        let (made, pause, spoken) = (Cell::new(0), Cell::new(Duration::ZERO), Cell::new(false));
        Self { policy, worker, idempotent, deadline, made, pause, spoken, room: Cell::new(Some(MAX_KEPT)) }
    }

    /// Limit of each attempt.
    #[must_use]
    pub fn per_try_timeout(&self) -> Option<Duration> {
        self.policy.per_try_timeout
    }

    /// The client has heard something from an endpoint, be it an interim answer: no other may be asked.
    pub fn spoken(&self) {
        self.spoken.set(true);
    }

    /// More of the body is about to be sent: whether it is to be kept.
    pub fn keep(&self, bytes: usize) -> bool {
        self.room.set(self.room.get().and_then(|room| room.checked_sub(bytes)));
        self.replayable()
    }

    /// Whether all of the body that was sent so far was kept.
    #[must_use]
    pub fn replayable(&self) -> bool {
        self.room.get().is_some()
    }

    /// Whether an attempt that failed like this is made again; then it is counted, and [`Self::pause`] comes next.
    pub fn again(&self, failure: Failure, record: &mut Record) -> bool {
        let made = self.made.get();
        if self.spoken.get()
            || !self.replayable()
            || made >= self.policy.attempts
            || !self.policy.conditions.cover(failure, self.idempotent)
        {
            return false;
        }
        let pause = Retry::backoff(made, self.worker.random());
        if self.deadline.is_some_and(|deadline| Instant::now() + pause >= deadline) {
            return false;
        }
        if !self.policy.budget.withdraw(self.policy.allowance, self.worker.registry().now()) {
            record.retry_denied();
            return false;
        }
        self.made.set(made + 1);
        self.pause.set(pause);
        record.retried(failure);
        true
    }

    /// Waits before the next attempt, a quarter of a second at most.
    pub async fn pause(&self) {
        tokio::time::sleep(self.pause.get()).await;
    }
}

/// The failure that an error stands for, if it is the endpoint's.
#[must_use]
pub fn failure(error: ProxyError) -> Option<Failure> {
    match error {
        ProxyError::Reset | ProxyError::BadAnswer => Some(Failure::Reset),
        ProxyError::Timeout => Some(Failure::Timeout),
        ProxyError::NoEndpoint => Some(Failure::Unreachable),
        // A retry would ask for more of what there is too little of.
        ProxyError::Overflow | ProxyError::ClientGone | ProxyError::TooSlow | ProxyError::BadRequest => None,
        ProxyError::NotSpoken => None,
    }
}
