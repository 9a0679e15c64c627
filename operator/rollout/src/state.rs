//! What is persisted between two passes, and nothing that could be derived from it.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{reason::Reason, traffic::FULL_WEIGHT};

/// Where the release stands. Names are Flagger's; `crds::Phase` is the same list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Being set up.
    #[default]
    Initializing,
    /// Set up; nothing was released yet.
    Initialized,
    /// A release or the target waits for a person or for the world.
    Waiting,
    /// The canary takes traffic, step by step.
    Progressing,
    /// The canary serves everything and is being handed to the Deployment.
    Promoting,
    /// The Deployment owns the judged pods; the old ones are going.
    Finalising,
    /// The last release was promoted, or taken back in Git.
    Succeeded,
    /// The last release was rolled back.
    Failed,
    /// The Canary is being deleted.
    Terminating,
}

impl Phase {
    /// Whether a release is under way: its version is on trial.
    #[must_use]
    pub const fn is_release(self) -> bool {
        match self {
            Self::Progressing | Self::Promoting => true,
            Self::Initializing
            | Self::Initialized
            | Self::Waiting
            | Self::Finalising
            | Self::Succeeded
            | Self::Failed
            | Self::Terminating => false,
        }
    }
}

/// Names a pod template: the `pod-template-hash` that its pods carry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub String);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who alone may see the canary until it is promoted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Audience {
    /// Which requests are theirs, in the operator's words; nothing here reads it.
    pub matches: String,
    /// Checks that must pass before everybody sees the canary, at least 1. None: the release goes through its weights,
    /// each a share of the audience, with the plan's checks at each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iterations: Option<u32>,
}

/// Copies of stable's requests for the canary, made before its first weight and answered to nobody. Each form holds the
/// percent of the requests that is copied, 1 to 100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mirror {
    /// None are asked for.
    #[default]
    Off,
    /// They begin when the canary has pods for them.
    Due(u32),
    /// They are made and judged.
    Copying(u32),
    /// They were good. The pods for them stay for the weights.
    Over(u32),
}

impl Mirror {
    /// Before the first copy.
    pub(crate) const fn due(percent: u32) -> Self {
        if percent == 0 { Self::Off } else { Self::Due(percent) }
    }

    /// The percent that the canary needs pods for.
    #[must_use]
    pub const fn percent(self) -> u32 {
        match self {
            Self::Off => 0,
            Self::Due(percent) | Self::Copying(percent) | Self::Over(percent) => percent,
        }
    }

    /// Copies are made now.
    #[must_use]
    pub const fn is_copying(self) -> bool {
        matches!(self, Self::Copying(_))
    }

    const fn is_off(&self) -> bool {
        matches!(self, Self::Off)
    }
}

/// The journal of one Canary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct State {
    /// Where the release stands.
    pub phase: Phase,
    /// Rises by one with each change of phase, step, weight or revision; proxies refuse a lower one.
    pub counter: u64,
    /// The canary's share in percent, 0 to 100.
    pub weight: u32,
    /// The release's weights, pinned when it began: an edit of the spec applies to the next release.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<u32>,
    /// Index into `steps` of the step being reached or judged; meaningful during a release.
    pub step: usize,
    /// Copies before the first weight, pinned when the release began.
    #[serde(default, skip_serializing_if = "Mirror::is_off")]
    pub mirror: Mirror,
    /// Of whose requests `weight` is a share, pinned when the release began: an edit of the spec must not show the canary
    /// to everybody unjudged. None: of everybody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<Audience>,
    /// The version that serves.
    pub stable: Option<Revision>,
    /// The version under test; after a release the one last tested.
    pub canary: Option<Revision>,
    /// UID of the Deployment that `stable` was read from.
    pub target_uid: Option<String>,
    /// Failed checks of this release.
    pub failed_checks: u32,
    /// Checks passed at this step.
    pub passed_checks: u32,
    /// When the phase last changed.
    pub phase_since: Option<DateTime<Utc>>,
    /// When every live proxy had acknowledged the weight; the step's clock starts here.
    pub effective_since: Option<DateTime<Utc>>,
    /// When the last check that counted was made.
    pub last_check: Option<DateTime<Utc>>,
    /// Since when the canary lacks available pods; the progress deadline counts from here.
    pub lacking_since: Option<DateTime<Utc>>,
    /// Why it stands where it stands.
    pub reason: Reason,
}

impl State {
    /// Weight of the current step; the full weight past the last one.
    #[must_use]
    pub fn step_weight(&self) -> u32 {
        self.steps.get(self.step).copied().unwrap_or(FULL_WEIGHT)
    }

    /// Percent of stable's requests that the canary needs pods for at its present step.
    pub(crate) fn load_percent(&self) -> u32 {
        self.step_weight().max(self.weight).max(self.mirror.percent())
    }
}
