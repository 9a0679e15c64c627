//! What a pass decided.

use chrono::TimeDelta;

use crate::{
    reason::{Failure, Reason},
    state::{Revision, State},
    verdict::Advance,
};

/// What a pass decided: persist `state`, then make the world match `desired`, then tell `happenings`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// To be persisted by compare-and-swap before anything else happens, if it differs.
    pub state: State,
    /// The world that `state` wants.
    pub desired: Desired,
    /// What is worth an Event or an alert; told once, after `state` was persisted.
    pub happenings: Vec<Happening>,
    /// Look again after this time at the latest.
    pub requeue_after: TimeDelta,
}

/// The world that a state wants. Asserted on every pass, so a lost write is made good by the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Whether the Deployment's hold is to be released.
    pub hold: Hold,
    /// The ReplicaSet under test.
    pub canary: CanaryPods,
    /// Scale every active ReplicaSet of the Deployment but this one to zero: the hold met a rollout half way.
    pub keep_only: Option<Revision>,
}

/// What is to become of the Deployment's `paused`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hold {
    /// Leave it as it is.
    Keep,
    /// Remove it, if the hold set it and the template is still the one that was compared.
    Release,
}

/// What is to become of the ReplicaSet under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CanaryPods {
    /// Leave it as it is; delete those of other revisions.
    Keep,
    /// Delete every ReplicaSet that the Canary owns.
    None,
    /// Create or scale it to this many replicas.
    Size(u32),
    /// Give it to the Deployment at this many replicas, if in one fresh read at least `available` of them are there.
    Adopt {
        /// Replicas that the set, and the Deployment, must ask for.
        replicas: u32,
        /// Pods that must be available.
        available: u32,
    },
}

/// Why no more copies are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopiesEnd {
    /// Their checks passed.
    Passed,
    /// The spec asks for none any more.
    NotAskedFor,
    /// The release is to be promoted unjudged.
    Overruled,
}

/// What people want to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// Set-up is done.
    Initialized,
    /// A release has begun.
    Started {
        /// The revision under test.
        canary: Revision,
    },
    /// A release began anew with a newer template.
    Restarted {
        /// The newer revision.
        canary: Revision,
    },
    /// Copies of requests go to the canary from here on: so many percent of stable's.
    CopiesBegan(u32),
    /// No more copies are made, and the release goes on.
    CopiesEnded(CopiesEnd),
    /// A new weight was written; of an audience's requests, if there is one.
    Weight(u32),
    /// The audience was lifted: everybody's requests go to the canary.
    Everybody,
    /// The release holds, or the Canary waits, for a new reason.
    Held(Reason),
    /// A check failed, short of the threshold.
    CheckFailed {
        /// What failed.
        failure: Failure,
        /// Failed checks so far.
        failed_checks: u32,
    },
    /// The verdict let a step end.
    Shown {
        /// On what ground.
        ground: Advance,
        /// The numbers.
        sentence: String,
    },
    /// The release was promoted.
    Promoted,
    /// The release was rolled back.
    RolledBack(Failure),
    /// Git went back to the stable template.
    Reverted,
}
