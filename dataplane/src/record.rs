//! One request's record: begun when the arm is picked, ended on drop, so that nothing that ends a request can forget it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use routing::{Flag, Flags, Outcome, classify};

use crate::sight::{self, Detail, Ended};
use crate::stats::Cell;
use crate::upstream::Upstream;

/// Counts one request of one arm.
#[derive(Debug)]
pub struct Record {
    cell: Arc<Cell>,
    begun: Instant,
    status: u16,
    grpc_status: Option<u16>,
    end: End,
    no_endpoint: bool,
    /// The stable endpoint that was tried last.
    sent_to: Option<Rc<Upstream>>,
    flags: Flags,
    /// Sent to the client.
    bytes: u64,
    /// For the access log and traces, if they are on.
    detail: Option<Box<Detail>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Dropped like this, the client went away.
    Open,
    Complete,
    /// The answer broke off or never came.
    Broken,
}

impl Record {
    /// A request that `cell`'s arm has to answer, routed by a route of `counter`.
    #[must_use]
    pub fn begin(cell: &Arc<Cell>, counter: u64) -> Self {
        cell.begin(counter);
        Self {
            cell: Arc::clone(cell),
            begun: Instant::now(),
            status: 0,
            grpc_status: None,
            end: End::Open,
            no_endpoint: false,
            sent_to: None,
            flags: Flags::default(),
            bytes: 0,
            detail: None,
        }
    }

    /// A stable endpoint is tried: its pod answers for how the request ends, unless another one is tried.
    pub fn sent_to(&mut self, upstream: &Rc<Upstream>) {
        self.sent_to = Some(Rc::clone(upstream));
    }

    /// What is to be told of this request when it is over, if anything.
    pub fn carry(&mut self, detail: Option<Box<Detail>>) {
        self.detail = detail;
    }

    /// An endpoint is tried, of whichever arm.
    pub fn attempt(&mut self, upstream: &Upstream) {
        if let Some(detail) = &mut self.detail {
            detail.attempt(upstream.address());
        }
    }

    /// More bytes were sent to the client.
    pub fn sent(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// When the request began.
    #[must_use]
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// The head of the answer is known.
    pub fn status(&mut self, status: u16) {
        self.status = status;
        if let Some(detail) = &mut self.detail {
            detail.answered();
        }
    }

    /// `grpc-status`, from the head or the trailers.
    pub fn grpc_status(&mut self, status: u16) {
        self.grpc_status = Some(status);
    }

    /// The arm had no endpoint that could be reached; somebody else may answer, this arm has failed.
    pub fn no_endpoint(&mut self) {
        self.no_endpoint = true;
    }

    /// Notes a reason why this request does not end as an endpoint would have it; several may hold.
    pub fn flag(&mut self, flag: Flag) {
        self.flags.insert(flag);
    }

    /// The answer was sent to its end.
    pub fn complete(&mut self) {
        self.end = End::Complete;
    }

    /// The answer broke off, on the endpoint's side or by a deadline.
    pub fn broken(&mut self) {
        self.end = End::Broken;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let (code, outcome) = match self.end {
            // What users got may be fine; the arm gave no answer.
            _ if self.no_endpoint => (503, Outcome::Error),
            End::Broken => (self.status.max(502), Outcome::Error),
            End::Complete => {
                let outcome = classify::classify(self.status, self.grpc_status);
                let mapped =
                    self.grpc_status.filter(|_| outcome == Outcome::GrpcError).and_then(classify::grpc_failure);
                (mapped.unwrap_or(self.status), outcome)
            }
            End::Open if self.status >= 500 => (self.status, Outcome::Error),
            End::Open => (self.status, Outcome::ClientError),
        };
        if self.end == End::Open {
            self.flags.insert(Flag::DownstreamConnectionTermination);
        }
        let took = self.begun.elapsed();
        self.cell.end(code, outcome, self.no_endpoint, took);
        if !self.flags.is_empty() {
            self.cell.flagged(self.flags);
        }
        if let Some(detail) = self.detail.take() {
            let (failed, flags, bytes) = (sight::failed(outcome), self.flags, self.bytes);
            detail.end(Ended { status: self.status, grpc_status: self.grpc_status, failed, flags, took, bytes });
        }
        // Without an endpoint it was the arm that failed, or another arm that answered.
        if let (false, Some(upstream)) = (self.no_endpoint, &self.sent_to) {
            upstream.count(matches!(outcome, Outcome::Error | Outcome::GrpcError), took);
        }
    }
}
