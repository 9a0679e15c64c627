//! One request's record: begun when the arm is picked, ended on drop, so that nothing that ends a request can forget it.

use std::cell::Cell as StdCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use routing::outlier::{Health, Ward};
use routing::retry::Failure;
use routing::{Arm, Flag, Flags, Outcome, classify};

use crate::gate::Admission;
use crate::sight::{self, Detail, Ended};
use crate::stats::{Cell, Registry};
use crate::upstream::Upstream;
use crate::view::ArmView;

thread_local! {
    /// Why what is dropped now does not go on, if it is not for the client's going away.
    static CUT: StdCell<Option<Flag>> = const { StdCell::new(None) };
}

/// Calls `drop`, which drops what serves a request; the request's record says `flag` of it.
pub fn cut(flag: Flag, drop: impl FnOnce()) {
    CUT.set(Some(flag));
    drop();
    CUT.set(None);
}

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
    /// How the first attempt failed, if there was another.
    first: Option<(u16, Outcome)>,
    /// Its place among the requests of the arm that serves it, if they are limited.
    admission: Option<Admission>,
    /// The endpoint that is tried, if its answers are looked at.
    trial: Option<Trial>,
}

#[derive(Debug)]
struct Trial {
    ward: Arc<Ward>,
    health: Arc<Health>,
    address: SocketAddr,
    started: Instant,
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
            first: None,
            admission: None,
            trial: None,
        }
    }

    /// What is to be told of this request when it is over, if anything.
    pub fn carry(&mut self, detail: Option<Box<Detail>>) {
        self.detail = detail;
    }

    /// An endpoint of `arm` is tried. A stable one's pod answers for how the request ends, unless another one is tried; a
    /// retry's pod does not answer for the first attempt.
    pub fn attempt(&mut self, arm: Arm, view: &ArmView, upstream: &Rc<Upstream>, clock: &Registry) {
        if arm == Arm::Stable && self.first.is_none() {
            self.sent_to = Some(Rc::clone(upstream));
        }
        if let (Some(ward), Some(health)) = (&view.ward, view.ward.as_ref().and_then(|_| upstream.health())) {
            let address = upstream.address();
            self.trial = Some(Trial { ward: Arc::clone(ward), health, address, started: clock.started() });
        }
        if let Some(detail) = &mut self.detail {
            detail.attempt(upstream.address());
        }
    }

    /// Held for as long as the request lasts.
    pub fn hold(&mut self, admission: Option<Admission>) {
        self.admission = admission;
    }

    /// No connection to the endpoint that is tried.
    pub fn unreached(&mut self) {
        if let Some(trial) = self.trial.take() {
            trial.answer(503);
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

    /// The head of an endpoint's answer is known.
    pub fn status(&mut self, status: u16) {
        self.status = status;
        if let Some(detail) = &mut self.detail {
            detail.answered();
        }
    }

    /// The proxy answers itself.
    pub fn own_status(&mut self, status: u16) {
        self.status = status;
        if let Some(detail) = &mut self.detail {
            detail.unanswered();
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

    /// An attempt failed and another one is made. Users are shielded, the verdict is not: the arm is judged by its first.
    pub fn retried(&mut self, failure: Failure) {
        self.cell.retry();
        (self.status, self.grpc_status) = (0, None);
        let (code, outcome) = match failure {
            Failure::Unreachable | Failure::Refused => (503, Outcome::Error),
            Failure::Reset => (502, Outcome::Error),
            Failure::Timeout => (504, Outcome::Error),
            Failure::Answer { status, grpc_status } => judged(status, grpc_status),
        };
        if let Some(trial) = self.trial.take() {
            trial.answer(code);
        }
        self.first.get_or_insert((code, outcome));
    }

    /// An attempt failed, and the route's budget allows no other.
    pub fn retry_denied(&mut self) {
        self.cell.retry_denied();
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
            End::Broken => (self.status.max(502), Outcome::Error),
            End::Complete => judged(self.status, self.grpc_status),
            End::Open if self.status >= 500 => (self.status, Outcome::Error),
            End::Open => (self.status, Outcome::ClientError),
        };
        if self.end == End::Open {
            self.flags.insert(CUT.get().unwrap_or(Flag::DownstreamConnectionTermination));
        }
        // A client's fault says nothing of the endpoint, nor do our own limits.
        let no_fault = [Flag::DownstreamProtocolError, Flag::StreamIdleTimeout, Flag::UpstreamOverflow];
        let excused = no_fault.iter().any(|flag| self.flags.contains(*flag));
        if let Some(trial) = self.trial.take().filter(|_| self.status != 0 && !excused) {
            trial.answer(code);
        }
        // What users got may be fine; the arm gave no answer.
        let (code, outcome) = if self.no_endpoint { (503, Outcome::Error) } else { (code, outcome) };
        let (code, outcome) = match self.first {
            None => (code, outcome),
            Some(first) => {
                if outcome == Outcome::Success {
                    self.cell.recovered();
                }
                first
            }
        };
        let took = self.begun.elapsed();
        self.cell.end(code, outcome, self.no_endpoint, took);
        if !self.flags.is_empty() {
            self.cell.flagged(self.flags);
        }
        if let Some(detail) = self.detail.take() {
            let (failed, flags, bytes) = (sight::failed(outcome), self.flags, self.bytes);
            let ended = Ended { status: self.status, grpc_status: self.grpc_status, failed, flags, took, bytes };
            if let Some(span) = detail.end(ended) {
                self.cell.sampled(code, &span, took);
            }
        }
        // Without an endpoint it was the arm that failed, or another arm that answered.
        if let (false, Some(upstream)) = (self.no_endpoint, &self.sent_to) {
            upstream.count(matches!(outcome, Outcome::Error | Outcome::GrpcError), took);
        }
    }
}

impl Trial {
    /// The endpoint gave an answer of `code`, or what stands for one.
    fn answer(&self, code: u16) {
        if self.ward.answer(&self.health, code, self.started.elapsed()) {
            tracing::info!(server.address = %self.address, code, "endpoint ejected");
        }
    }
}

/// The code and outcome of a whole answer; a failed gRPC call goes by the status that it stands for.
fn judged(status: u16, grpc_status: Option<u16>) -> (u16, Outcome) {
    let outcome = classify::classify(status, grpc_status);
    let mapped = grpc_status.filter(|_| outcome == Outcome::GrpcError).and_then(classify::grpc_failure);
    (mapped.unwrap_or(status), outcome)
}
