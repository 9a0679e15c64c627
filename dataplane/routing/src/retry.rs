//! Whether a failed attempt is made again, and when: the conditions that a user names (Istio's and Envoy's `retryOn`
//! vocabulary), what may be sent twice, and the backoff. What a route can afford of it is in [`crate::budget`].
//!
//! A user's conditions are never read beyond their words: an attempt that may have had an effect is repeated only for an
//! idempotent method (RFC 9110 §9.2.2), unless the endpoint cannot have seen it, the condition is a gRPC status (gRPC has
//! no other method than POST), or `non-idempotent` says so (nginx's word in `proxy_next_upstream`).

use std::sync::Arc;
use std::time::Duration;

use proxy_api::v1beta1 as api;

use crate::budget::{Allowance, Budget};

/// Conditions where a route names none: Istio's default. Nothing in it repeats what may have had an effect.
pub const DEFAULT_CONDITIONS: &str = "connect-failure,refused-stream,unavailable,cancelled";
/// Retries of one request; more is never asked for in good faith.
pub const MAX_ATTEMPTS: u32 = 10;
/// The first pause is random below this, each further one below twice as much (Envoy's base interval) …
const BASE_BACKOFF: Duration = Duration::from_millis(25);
/// … but never longer (Envoy's default: ten times the base).
const MAX_BACKOFF: Duration = Duration::from_millis(250);

/// What a route does about failed attempts.
#[derive(Debug)]
pub struct Retry {
    /// Retries of one request, the first attempt not counted; 1..=[`MAX_ATTEMPTS`].
    pub attempts: u32,
    /// Time from the end of the request to the head of the answer, for each attempt.
    pub per_try_timeout: Option<Duration>,
    /// Which failures.
    pub conditions: Conditions,
    /// What the budget allows.
    pub allowance: Allowance,
    /// Keeps its count over changes of the route.
    pub budget: Arc<Budget>,
}

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No endpoint took a connection.
    Unreachable,
    /// The endpoint says that it has not looked at the request (HTTP/2 REFUSED_STREAM).
    Refused,
    /// The connection broke, or what came is not HTTP, before the head of an answer.
    Reset,
    /// No head of an answer within the per-try timeout.
    Timeout,
    /// An answer.
    Answer {
        /// Of the answer.
        status: u16,
        /// `grpc-status` of its head; one that comes in trailers is too late.
        grpc_status: Option<u16>,
    },
}

/// Why conditions are not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCondition {
    /// Neither a word of the vocabulary nor a status code.
    #[error("retryOn condition {0:?} is not known")]
    Unknown(String),
    /// `retriable-status-codes` without a code.
    #[error("retryOn names retriable-status-codes, but no code")]
    NoCode,
}

/// A set of conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    words: u16,
    /// Sorted.
    codes: Vec<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// 5xx, or no answer.
    ServerError,
    /// 502, 503, 504, or no answer.
    GatewayError,
    ConnectFailure,
    RefusedStream,
    /// The endpoint did not answer: reset, closed, or too slow for the per-try timeout.
    Reset,
    /// 409.
    Retriable4xx,
    /// The codes that are listed beside it; they count with and without it.
    StatusCodes,
    Cancelled,
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    Unavailable,
    NonIdempotent,
}

const WORDS: [(&str, Word); 13] = [
    ("5xx", Word::ServerError),
    ("gateway-error", Word::GatewayError),
    ("connect-failure", Word::ConnectFailure),
    ("refused-stream", Word::RefusedStream),
    ("reset", Word::Reset),
    ("retriable-4xx", Word::Retriable4xx),
    ("retriable-status-codes", Word::StatusCodes),
    ("cancelled", Word::Cancelled),
    ("deadline-exceeded", Word::DeadlineExceeded),
    ("internal", Word::Internal),
    ("resource-exhausted", Word::ResourceExhausted),
    ("unavailable", Word::Unavailable),
    ("non-idempotent", Word::NonIdempotent),
];

impl Conditions {
    /// Reads a list with commas, as Istio's and Flagger's `retryOn` has it.
    ///
    /// # Errors
    /// On anything that is not known.
    pub fn parse(text: &str) -> Result<Self, BadCondition> {
        let mut conditions = Self::default();
        for item in text.split(',').map(str::trim) {
            if let Some((_, word)) = WORDS.iter().find(|(name, _)| *name == item) {
                conditions.words |= 1 << *word as u16;
            } else {
                let code = item.parse().ok().filter(|code| (100..=599).contains(code));
                conditions.codes.push(code.ok_or_else(|| BadCondition::Unknown(item.to_owned()))?);
            }
        }
        conditions.codes.sort_unstable();
        if conditions.names(Word::StatusCodes) && conditions.codes.is_empty() {
            return Err(BadCondition::NoCode);
        }
        Ok(conditions)
    }

    fn names(&self, word: Word) -> bool {
        self.words & 1 << word as u16 != 0
    }

    fn any(&self, words: &[Word]) -> bool {
        words.iter().any(|word| self.names(*word))
    }

    /// Whether an attempt that failed like this is made again; `idempotent` is the request's method.
    #[must_use]
    pub fn cover(&self, failure: Failure, idempotent: bool) -> bool {
        let twice = idempotent || self.names(Word::NonIdempotent);
        // No answer counts as 5xx and as gateway error: it would become one (Envoy's `x-envoy-retry-on`).
        let unanswered = self.any(&[Word::ServerError, Word::GatewayError]);
        match failure {
            Failure::Unreachable => unanswered || self.names(Word::ConnectFailure),
            Failure::Refused => unanswered || self.names(Word::RefusedStream),
            Failure::Reset | Failure::Timeout => twice && (unanswered || self.names(Word::Reset)),
            Failure::Answer { status, grpc_status } => {
                grpc_status.is_some_and(|code| self.grpc(code)) || (twice && self.status(status))
            }
        }
    }

    fn status(&self, status: u16) -> bool {
        self.codes.binary_search(&status).is_ok()
            || match status {
                502..=504 => self.any(&[Word::ServerError, Word::GatewayError]),
                500..=599 => self.names(Word::ServerError),
                409 => self.names(Word::Retriable4xx),
                _ => false,
            }
    }

    fn grpc(&self, code: u16) -> bool {
        match code {
            1 => self.names(Word::Cancelled),
            4 => self.names(Word::DeadlineExceeded),
            8 => self.names(Word::ResourceExhausted),
            13 => self.names(Word::Internal),
            14 => self.names(Word::Unavailable),
            _ => false,
        }
    }
}

impl Retry {
    /// What a message says, keeping the budget of `previous`; `None` if it asks for no retry and no per-try timeout.
    ///
    /// # Errors
    /// When it names an unknown condition.
    pub fn compile(message: &api::Retries, previous: Option<&Self>) -> Result<Option<Self>, BadCondition> {
        let text = if message.retry_on.is_empty() { DEFAULT_CONDITIONS } else { &message.retry_on };
        let conditions = Conditions::parse(text)?;
        if message.attempts == 0 {
            return Ok(None);
        }
        let default = Allowance::default();
        Ok(Some(Self {
            attempts: message.attempts.min(MAX_ATTEMPTS),
            per_try_timeout: (message.per_try_timeout_ms != 0)
                .then(|| Duration::from_millis(message.per_try_timeout_ms)),
            conditions,
            allowance: Allowance {
                percent: message.budget_percent.unwrap_or(default.percent).min(100),
                min_per_second: message.min_retries_per_second.unwrap_or(default.min_per_second),
            },
            budget: previous.map(|previous| Arc::clone(&previous.budget)).unwrap_or_default(),
        }))
    }

    /// Time to wait before retry number `retry` (0 is the first): random, so that what failed together does not come back
    /// together.
    #[must_use]
    pub fn backoff(retry: u32, random: u64) -> Duration {
        let most = BASE_BACKOFF.saturating_mul(1 << retry.min(16)).min(MAX_BACKOFF);
        Duration::from_micros(random % (most.as_micros() as u64 + 1))
    }
}

#[cfg(test)]
mod tests;
