//! Why a Canary stands where it stands: one word for machines, one sentence for people.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    state::Revision,
    verdict::{Cause, Decision, Wait},
};

/// Why a Canary stands where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "code", content = "detail")]
pub enum Reason {
    /// Not looked at yet.
    #[default]
    Unobserved,
    /// Set-up goes on.
    SettingUp(String),
    /// A person has to change the spec or the objects that it names.
    Refused(String),
    /// The Deployment is not there.
    TargetMissing,
    /// The Deployment's own rollout has not finished.
    NativeRollout,
    /// Waiting for a change in Git.
    Idle,
    /// Git is back at the stable template.
    Reverted,
    /// The Deployment has no replicas: nothing can be judged.
    ScaledToZero,
    /// `spec.suspend`.
    Suspended,
    /// The manifest itself says `paused: true`.
    PausedByManifest,
    /// `sluice.dev/pause`.
    Paused,
    /// Pods of the revision under test are starting.
    WaitingForPods(String),
    /// The weight is written, not every proxy has it yet.
    WaitingForProxies,
    /// The step is being judged.
    Judging,
    /// Copies of requests are being judged.
    Mirroring,
    /// The metrics give no evidence either way; the sentence says which and why.
    NoEvidence(String),
    /// The verdict has no answer yet; the sentence says what it has and what it lacks.
    Verdict(Wait, String),
    /// All steps passed, or a person said so: handing over.
    HandingOver,
    /// The old pods are going.
    OldPodsLeaving,
    /// The release was promoted.
    Promoted,
    /// The release was rolled back.
    RolledBack(Failure),
    /// The Canary is being deleted.
    Deleting,
}

/// What ended a release.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "code", content = "detail")]
pub enum Failure {
    /// A metric left its range; the sentence gives value and bound.
    MetricBreached(String),
    /// The canary's pods did not become available in time; the sentence says what is the matter with them.
    ProgressDeadlineExceeded(String),
    /// The verdict: worse than stable, or a policy of `analysis.verdict`; the sentence gives the numbers.
    Verdict(Cause, String),
    /// A person said `abort`.
    Aborted,
}

impl Reason {
    /// One word in CamelCase, for conditions, columns and metric labels.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unobserved => "Unobserved",
            Self::SettingUp(_) => "SettingUp",
            Self::Refused(_) => "Refused",
            Self::TargetMissing => "TargetMissing",
            Self::NativeRollout => "NativeRollout",
            Self::Idle => "Idle",
            Self::Reverted => "Reverted",
            Self::ScaledToZero => "ScaledToZero",
            Self::Suspended => "Suspended",
            Self::PausedByManifest => "PausedByManifest",
            Self::Paused => "Paused",
            Self::WaitingForPods(_) => "WaitingForPods",
            Self::WaitingForProxies => "WaitingForProxies",
            Self::Judging => "Judging",
            Self::Mirroring => "Mirroring",
            Self::NoEvidence(_) => "NoEvidence",
            Self::Verdict(wait, _) => Decision::Wait(*wait).reason(),
            Self::HandingOver => "HandingOver",
            Self::OldPodsLeaving => "OldPodsLeaving",
            Self::Promoted => "Promoted",
            Self::RolledBack(failure) => failure.code(),
            Self::Deleting => "Deleting",
        }
    }
}

impl Failure {
    /// One word in CamelCase.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::MetricBreached(_) => "MetricBreached",
            Self::ProgressDeadlineExceeded(_) => "ProgressDeadlineExceeded",
            Self::Verdict(cause, _) => Decision::Rollback(*cause).reason(),
            Self::Aborted => "Aborted",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unobserved => f.write_str("not looked at yet"),
            Self::SettingUp(what)
            | Self::Refused(what)
            | Self::WaitingForPods(what)
            | Self::NoEvidence(what)
            | Self::Verdict(_, what) => f.write_str(what),
            Self::TargetMissing => f.write_str("the target Deployment does not exist; this goes on when it is created"),
            Self::NativeRollout => f.write_str("the Deployment's own rollout has not finished"),
            Self::Idle => f.write_str("waiting for a change of the pod template"),
            Self::Reverted => f.write_str("the pod template is back at the stable revision; no pod was moved"),
            Self::ScaledToZero => {
                f.write_str("the Deployment has 0 replicas, so nothing can be judged; its template was taken over")
            }
            Self::Suspended => f.write_str("suspended by spec.suspend: weights stay, template changes stay held"),
            Self::PausedByManifest => f.write_str(
                "the Deployment is paused by its own manifest; remove spec.paused there to let releases go on",
            ),
            Self::Paused => f.write_str("paused by the annotation sluice.dev/pause; remove it to go on"),
            Self::WaitingForProxies => f.write_str("waiting until every proxy has acknowledged the weight"),
            Self::Judging => f.write_str("the step is being judged"),
            Self::Mirroring => {
                f.write_str("copies of requests go to the canary and are judged; no client gets its answers")
            }
            Self::HandingOver => f.write_str("the canary serves all traffic and is handed over to the Deployment"),
            Self::OldPodsLeaving => f.write_str("the Deployment owns the judged pods; the old ones are going"),
            Self::Promoted => f.write_str("promoted: the pods that were judged serve"),
            Self::RolledBack(failure) => failure.fmt(f),
            Self::Deleting => f.write_str("the Canary is being deleted: traffic goes back to the Service's own pods"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MetricBreached(what) | Self::Verdict(_, what) => f.write_str(what),
            Self::ProgressDeadlineExceeded(what) => {
                write!(f, "pods not available within the progress deadline: {what}")
            }
            Self::Aborted => f.write_str("aborted by the annotation sluice.dev/abort"),
        }
    }
}

/// Sentence for a release that is too new or too small to speak of pods' trouble.
pub(crate) fn pods(available: u32, needed: u32, revision: &Revision, trouble: Option<&str>) -> String {
    match trouble {
        Some(trouble) => format!("{available} of {needed} pods of revision {revision} available: {trouble}"),
        None => format!("{available} of {needed} pods of revision {revision} available"),
    }
}
