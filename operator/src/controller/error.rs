//! Why a pass did not come to its end, and what that means for the next.

use super::PASS_DEADLINE;
use crate::{api::ApiError, status, teardown, workload::WorkloadError};

/// A pass that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was read has changed: start over at once.
    #[error("the Canary changed while it was being decided")]
    Conflict(#[source] ApiError),
    /// The target or one of its ReplicaSets could not be written.
    #[error("cannot make the workload match the journal")]
    Workload(#[from] WorkloadError),
    /// The Service of an arm could not be written.
    #[error("cannot make the Services match the journal")]
    Services(#[source] ApiError),
    /// A stage of the removal could not be completed.
    #[error("cannot take the Canary out of the traffic")]
    Teardown(#[from] teardown::TeardownError),
    /// The Canary itself could not be written.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The release is frozen until the object changes.
    #[error(transparent)]
    Journal(#[from] status::Unreadable),
    /// It was caught; the next pass starts from what is there.
    #[error("the pass panicked; this is a defect, please report it with the log")]
    Panicked,
    /// It was dropped in the middle, as by a crash.
    #[error("the pass took longer than {} s", PASS_DEADLINE.as_secs())]
    Deadline,
}

impl Error {
    /// What was read has changed since: not worth a word, and tried again at once.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Conflict(_) | Self::Workload(WorkloadError::Stale { .. }) => true,
            Self::Teardown(error) => error.is_conflict(),
            Self::Workload(WorkloadError::Api(_))
            | Self::Services(_)
            | Self::Api(_)
            | Self::Journal(_)
            | Self::Panicked
            | Self::Deadline => false,
        }
    }

    /// Class for the metric.
    #[must_use]
    pub fn class(&self) -> &'static str {
        if self.is_conflict() {
            return "conflict";
        }
        match self {
            Self::Conflict(_) => "conflict",
            Self::Workload(_) => "workload",
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
            Self::Workload(WorkloadError::Stale { .. }) | Self::Journal(_) | Self::Panicked | Self::Deadline => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::table::TableError;

    fn mk_api(code: u16) -> ApiError {
        let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code });
        let status = serde_json::from_value(status).unwrap();
        ApiError::Kube { act: "let go of Canary web".to_owned(), source: Box::new(kube::Error::Api(Box::new(status))) }
    }

    #[test]
    fn a_removal_that_meets_a_newer_object_starts_over_and_is_no_failure() {
        for (error, class) in [
            (Error::Teardown(mk_api(409).into()), "conflict"),
            (Error::Teardown(TableError::Retry.into()), "conflict"),
            (Error::Teardown(WorkloadError::Stale { act: "revert Deployment web".to_owned() }.into()), "conflict"),
            (Error::Teardown(mk_api(500).into()), "teardown"),
            (Error::Teardown(TableError::Full.into()), "teardown"),
            (Error::Conflict(mk_api(409)), "conflict"),
            (Error::Workload(mk_api(500).into()), "workload"),
        ] {
            assert_eq!((error.class(), error.is_conflict()), (class, class == "conflict"), "{error:?}");
        }
    }
}
