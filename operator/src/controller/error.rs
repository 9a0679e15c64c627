//! Why a pass did not come to its end, and what that means for the next.

use super::PASS_DEADLINE;
use crate::{api::ApiError, status, teardown, workload::WorkloadError};

/// A pass that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was read has changed: start over at once.
    #[error("the Canary changed while it was being decided")]
    Conflict(#[source] ApiError),
    #[error("cannot make the workload match the journal")]
    Workload(#[from] WorkloadError),
    #[error("cannot make the Services match the journal")]
    Services(#[source] ApiError),
    #[error("cannot take the Canary out of the traffic")]
    Teardown(#[from] teardown::TeardownError),
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Journal(#[from] status::Unreadable),
    #[error("the pass panicked; this is a defect, please report it with the log")]
    Panicked,
    #[error("the pass took longer than {} s", PASS_DEADLINE.as_secs())]
    Deadline,
}

impl Error {
    /// What was read has changed since: not worth a word, and tried again at once.
    #[must_use]
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_) | Self::Workload(WorkloadError::Stale(_)))
    }

    /// Class for the metric.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Conflict(_) | Self::Workload(WorkloadError::Stale(_)) => "conflict",
            Self::Workload(WorkloadError::Api(_)) => "workload",
            Self::Services(_) => "services",
            Self::Teardown(_) => "teardown",
            Self::Api(_) => "api",
            Self::Journal(_) => "journal",
            Self::Panicked => "panic",
            Self::Deadline => "deadline",
        }
    }

    /// As [`ApiError::is_leaving`].
    pub(super) fn is_leaving(&self) -> bool {
        match self {
            Self::Conflict(error) | Self::Services(error) | Self::Api(error) => error.is_leaving(),
            Self::Workload(WorkloadError::Api(error)) => error.is_leaving(),
            Self::Teardown(error) => error.is_leaving(),
            Self::Workload(WorkloadError::Stale(_)) | Self::Journal(_) | Self::Panicked | Self::Deadline => false,
        }
    }
}
