//! What a rule has done itself instead of, or before, an arm. Kept over changes of the route.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::flag::Flag;

/// What a rule does itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A preflight was answered.
    Preflight,
    /// Too many requests: 429.
    RateLimit,
    /// Held back on purpose.
    Delay,
    /// Answered with an error on purpose.
    Abort,
    /// Sent elsewhere.
    Redirect,
}

/// Requests by action.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<[AtomicU64; Action::ALL.len()]>);

impl Action {
    /// In the order in which they are looked at.
    pub const ALL: [Self; 5] = [Self::Preflight, Self::RateLimit, Self::Delay, Self::Abort, Self::Redirect];

    /// For metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::RateLimit => "rate_limit",
            Self::Delay => "delay",
            Self::Abort => "abort",
            Self::Redirect => "redirect",
        }
    }

    /// Why such a request does not end as an endpoint would have it, if that is no good end.
    #[must_use]
    pub fn flag(self) -> Option<Flag> {
        match self {
            Self::RateLimit => Some(Flag::RateLimited),
            Self::Abort => Some(Flag::FaultInjected),
            Self::Preflight | Self::Delay | Self::Redirect => None,
        }
    }

    /// For the client.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Preflight => "",
            Self::RateLimit => "too many requests",
            Self::Delay => "delayed on purpose",
            Self::Abort => "aborted on purpose",
            Self::Redirect => "see the location",
        }
    }
}

impl Counts {
    /// One more.
    pub fn add(&self, action: Action) {
        self.0[action as usize].fetch_add(1, Relaxed);
    }

    /// How many so far.
    #[must_use]
    pub fn get(&self, action: Action) -> u64 {
        self.0[action as usize].load(Relaxed)
    }
}
