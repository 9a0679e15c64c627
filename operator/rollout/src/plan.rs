//! The validated input of a release.

use chrono::TimeDelta;

use crate::state::Audience;

/// How releases of one Canary are run; made by the operator's `validate` from the spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Weights to go through in percent: not empty, strictly rising, each 1 to 100.
    pub steps: Vec<u32>,
    /// Time between two checks, 1 s to 1 h. A step lasts at least one interval.
    pub interval: TimeDelta,
    /// Failed checks in one release that roll it back, at least 1.
    pub threshold: u32,
    /// Checks that must pass at each step, at least 1.
    pub step_checks: u32,
    /// Time that the canary's pods may lack before the release is rolled back.
    pub progress_deadline: TimeDelta,
    /// Percent of stable's requests that are copied to the canary before the first weight, 0 to 100; 0: none are.
    pub mirror_percent: u32,
    /// Who alone may see the canary until it is promoted; none: everybody.
    pub audience: Option<Audience>,
    /// Promote as soon as the canary's pods are available.
    pub skip_analysis: bool,
    /// Decide nothing: weights stay, template changes stay held.
    pub suspended: bool,
}
