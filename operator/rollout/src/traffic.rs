//! Arithmetic of weights and sizes.

use crate::state::{Audience, Phase, State};

/// The whole traffic, in percent.
pub const FULL_WEIGHT: u32 = 100;

/// Replicas that the canary needs for `weight` percent of what `replicas` pods serve: at least one, rounded up, so that
/// a canary pod never carries more than a stable pod did.
#[must_use]
pub fn canary_size(replicas: u32, weight: u32) -> u32 {
    let share = u64::from(replicas) * u64::from(weight.min(FULL_WEIGHT));
    u32::try_from(share.div_ceil(u64::from(FULL_WEIGHT))).unwrap_or(u32::MAX).max(1)
}

/// `2/4` while the second of four steps is reached or judged, `2/10 match` while the second of ten iterations is, or of ten
/// weights, which only requests that match see, and `mirror` while copies are judged; empty when no release runs.
#[must_use]
pub fn step_label(state: &State) -> String {
    if !state.phase.is_release() {
        return String::new();
    }
    if state.mirror.is_copying() {
        return "mirror".to_owned();
    }
    if let Some(Audience { iterations: Some(iterations), matches: _ }) = &state.audience {
        // All of them have passed before it is promoted, and the count of those that have begins anew there.
        let passed = if state.phase == Phase::Promoting { *iterations } else { state.passed_checks };
        return format!("{}/{iterations} match", passed.saturating_add(1).min(*iterations));
    }
    let step = (state.step + 1).min(state.steps.len());
    let of_whom = if state.audience.is_some() { " match" } else { "" };
    format!("{step}/{}{of_whom}", state.steps.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_rounded_up_and_at_least_one() {
        assert_eq!(canary_size(3, 10), 1);
        assert_eq!(canary_size(4, 25), 1);
        assert_eq!(canary_size(5, 25), 2);
        assert_eq!(canary_size(5, 100), 5);
        assert_eq!(canary_size(1, 50), 1);
        assert_eq!(canary_size(u32::MAX, 100), u32::MAX);
    }
}
