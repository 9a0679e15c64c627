//! Which endpoint of an arm serves a request: the better of two random ones, by peak-EWMA latency and requests in
//! flight (Finagle's `Balancers.p2cPeakEwma`, Linkerd's `p2c`). Only endpoints of the arm that was picked are seen.

use std::time::Duration;

/// Time after which an observed latency has lost 63 % of its influence; Linkerd's and Finagle's value.
pub const DECAY: Duration = Duration::from_secs(10);
/// Latency assumed of an endpoint that has answered nothing yet: in between, so that a fresh endpoint among slow ones is
/// tried and one among fast ones is not flooded.
pub const INITIAL: Duration = Duration::from_millis(50);

/// Latency of one endpoint: jumps to a peak at once, comes down slowly.
#[derive(Clone, Copy, Debug)]
pub struct PeakEwma {
    micros: f64,
    at: Duration,
}

impl PeakEwma {
    /// An endpoint that has answered nothing; `now` is the time since any fixed start.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self { micros: INITIAL.as_micros() as f64, at: now }
    }

    /// Takes one answer into account that took `latency`.
    pub fn observe(&mut self, latency: Duration, now: Duration) {
        let sample = latency.as_micros() as f64;
        if sample >= self.micros {
            self.micros = sample;
        } else {
            let keep = self.kept(now);
            self.micros = self.micros * keep + sample * (1.0 - keep);
        }
        self.at = now;
    }

    /// Expected cost of one more request while `in_flight` are under way; lower is better. Fades while nothing is
    /// observed, so that an endpoint that was slow once is tried again.
    #[must_use]
    pub fn load(&self, in_flight: u32, now: Duration) -> f64 {
        (self.micros * self.kept(now) + 1.0) * f64::from(in_flight + 1)
    }

    /// The latency as it is weighed now, in microseconds.
    #[must_use]
    pub fn micros(&self, now: Duration) -> f64 {
        self.micros * self.kept(now)
    }

    fn kept(&self, now: Duration) -> f64 {
        (-now.saturating_sub(self.at).as_secs_f64() / DECAY.as_secs_f64()).exp()
    }
}

/// Picks one of `count` endpoints, never one that is `excluded` (tried before, ejected); `None` if all are.
pub fn choose(
    count: usize,
    random: u64,
    excluded: impl Fn(usize) -> bool,
    load: impl Fn(usize) -> f64,
) -> Option<usize> {
    let free = |start: usize, not: Option<usize>| {
        (0..count).map(|step| (start + step) % count).find(|i| Some(*i) != not && !excluded(*i))
    };
    match count {
        0 => None,
        1 => (!excluded(0)).then_some(0),
        _ => {
            let first = free((random as u32) as usize % count, None)?;
            let Some(second) = free((random >> 32) as usize % count, Some(first)) else {
                return Some(first);
            };
            Some(if load(second) < load(first) { second } else { first })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::mix;

    #[test]
    fn the_less_loaded_of_two_is_picked() {
        for seed in 0..50 {
            assert_eq!(choose(2, mix(seed), |_| false, |i| [5.0, 1.0][i]), Some(1));
        }
    }

    #[test]
    fn a_tried_endpoint_is_not_picked_again() {
        for seed in 0..50 {
            assert_eq!(choose(3, mix(seed), |i| i != 2, |_| 0.0), Some(2));
            assert_eq!(choose(3, mix(seed), |_| true, |_| 0.0), None);
        }
        assert_eq!(choose(0, 1, |_| false, |_| 0.0), None);
    }

    #[test]
    fn equal_endpoints_share_evenly() {
        let mut hits = [0_u32; 4];
        for seed in 0..40_000 {
            hits[choose(4, mix(seed), |_| false, |_| 1.0).unwrap()] += 1;
        }
        assert!(hits.iter().all(|h| (9_000..11_000).contains(h)), "{hits:?}");
    }

    #[test]
    fn a_peak_counts_at_once_and_fades_with_time() {
        let second = Duration::from_secs(1);
        let mut ewma = PeakEwma::new(Duration::ZERO);
        ewma.observe(Duration::from_secs(2), second);
        assert!(ewma.load(0, second) > 1.9e6);
        assert!(ewma.load(3, second) > 3.0 * ewma.load(0, second));
        ewma.observe(Duration::from_millis(1), 21 * second);
        assert!(ewma.load(0, 21 * second) < 0.4e6);
        assert!(ewma.load(0, 81 * second) < 0.01e6);
    }
}
