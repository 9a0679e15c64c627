//! Which arm serves a request: exact in every prefix, without a pattern that a client could fall in step with.
//!
//! The share that is owed accumulates, so that the error never grows: each request moves a position by the weight, and
//! each stretch of 100 holds one point, at a place that a hash picks; the request that steps over the point goes to the
//! rarer arm. A bare accumulator would send exactly every tenth request of a client that cycles through ten paths; a
//! low-discrepancy sequence on its own (golden ratio) is off by up to 3 requests, and by more after each change of the
//! weight. One position per route, shared by all workers of a process: one relaxed addition on a line that only split
//! requests touch, and the error does not grow with the number of workers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use proxy_api::metrics;

/// The version that serves a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arm {
    /// The version that serves.
    Stable,
    /// The version under test.
    Canary,
}

impl Arm {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Stable, Self::Canary];

    /// As series, the access log and traces have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stable => metrics::ARM_STABLE,
            Self::Canary => metrics::ARM_CANARY,
        }
    }
}

/// Positions of one route; outlives changes of its weight.
#[derive(Debug)]
pub struct Split {
    canary: Share,
    stable: Share,
}

impl Split {
    /// `seed` differs between routes and processes, so that several proxies do not pick in step.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { canary: Share::new(seed), stable: Share::new(!seed) }
    }

    /// The arm of the next request, at `weight` percent for the canary (0..=100; more counts as 100).
    ///
    /// After any number of requests, whatever the weights were in between, the canary's count differs from the sum of
    /// the weights by less than three; with one weight by less than two.
    pub fn pick(&self, weight: u8) -> Arm {
        match weight {
            0 => Arm::Stable,
            1..=50 if self.canary.next(weight) => Arm::Canary,
            1..=50 => Arm::Stable,
            51..=99 if self.stable.next(100 - weight) => Arm::Stable,
            _ => Arm::Canary,
        }
    }
}

/// Picks `rate` percent (1..=50) of what passes.
#[derive(Debug)]
#[repr(align(64))]
struct Share {
    seed: u64,
    position: AtomicU64,
    /// Points that fell into a request that had one already.
    owed: AtomicU64,
}

impl Share {
    fn new(seed: u64) -> Self {
        Self { seed, position: AtomicU64::new(0), owed: AtomicU64::new(0) }
    }

    fn next(&self, rate: u8) -> bool {
        let start = self.position.fetch_add(u64::from(rate), Relaxed);
        let end = start + u64::from(rate);
        let first = start / 100;
        let last = (end - 1) / 100;
        let mut points = u64::from((start..end).contains(&self.point(first)));
        if last != first {
            points += u64::from((start..end).contains(&self.point(last)));
        }
        match points {
            0 => {
                self.owed.load(Relaxed) > 0
                    && self.owed.fetch_update(Relaxed, Relaxed, |owed| owed.checked_sub(1)).is_ok()
            }
            1 => true,
            _ => {
                self.owed.fetch_add(1, Relaxed);
                true
            }
        }
    }

    fn point(&self, stretch: u64) -> u64 {
        stretch * 100 + mix(self.seed ^ stretch.wrapping_mul(0x9e37_79b9_7f4a_7c15)) % 100
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): spreads neighbouring inputs.
#[must_use]
pub fn mix(mut value: u64) -> u64 {
    value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canaries(split: &Split, weight: u8, requests: u32) -> u32 {
        (0..requests).filter(|_| split.pick(weight) == Arm::Canary).count() as u32
    }

    #[test]
    fn one_thousand_requests_at_weight_10_over_two_proxies_are_off_by_at_most_two() {
        for seed in 0..500 {
            let (one, other) = (Split::new(mix(seed)), Split::new(mix(!seed)));
            let share = 300 + u32::try_from(seed).unwrap() % 400;
            let count = canaries(&one, 10, share) + canaries(&other, 10, 1_000 - share);
            assert!((98..=102).contains(&count), "seed {seed}: {count} of 1000");
        }
    }

    #[test]
    fn weights_0_and_100_are_absolute_whatever_came_before() {
        let split = Split::new(7);
        for weight in [33, 67, 1, 99, 50] {
            canaries(&split, weight, 137);
            assert_eq!(canaries(&split, 0, 1_000), 0);
            assert_eq!(canaries(&split, 100, 1_000), 1_000);
        }
    }

    #[test]
    fn a_client_that_cycles_through_ten_paths_reaches_the_canary_with_each() {
        let split = Split::new(3);
        let mut hit = [0; 10];
        for request in 0..1_000 {
            if split.pick(10) == Arm::Canary {
                hit[request % 10] += 1;
            }
        }
        assert!(hit.iter().all(|n| *n > 0), "{hit:?}");
    }

    #[test]
    fn workers_that_share_a_route_stay_exact_together() {
        let split = Split::new(11);
        let count: u32 = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(|| canaries(&split, 10, 25_000))).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert!(count.abs_diff(10_000) <= 2, "{count}");
    }
}
