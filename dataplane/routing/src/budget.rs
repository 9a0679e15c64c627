//! How much retrying a route can afford: a share of the requests of the last ten seconds, and a small rate that is always
//! allowed, so that a route with little traffic can retry at all.
//!
//! A count per request multiplies the load on an endpoint that fails; a budget adds at most its share, however many fail
//! (Finagle's `RetryBudget`, Linkerd's `ServiceProfile`, Gateway API GEP-3388). One budget per route, shared by all
//! workers of a process: seconds are slots of one atomic word each, so that a slot cannot be half of an old second.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Share of the requests in percent that may be retried, where the route does not say: Linkerd's and GEP-3388's.
pub const DEFAULT_PERCENT: u32 = 20;
/// Retries per second that are always allowed, where the route does not say: Linkerd's and GEP-3388's.
pub const DEFAULT_MIN_PER_SECOND: u32 = 10;

/// Seconds that count: Finagle's time to live of a deposit.
const SECONDS: u64 = 10;
/// Bits of a slot: a stamp of its second, the requests, and the retries of that second.
const RETRY_BITS: u32 = 20;
const REQUEST_BITS: u32 = 24;
const STAMP: u64 = !0 << (RETRY_BITS + REQUEST_BITS);
const RETRY: u64 = 1;
const REQUEST: u64 = 1 << RETRY_BITS;

/// What a route allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Retries per hundred requests, 0..=100.
    pub percent: u32,
    /// Retries per second that need no requests.
    pub min_per_second: u32,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { percent: DEFAULT_PERCENT, min_per_second: DEFAULT_MIN_PER_SECOND }
    }
}

/// Requests and retries of the last seconds. Times are since any fixed start, the same for all callers.
#[derive(Debug, Default)]
pub struct Budget([AtomicU64; SECONDS as usize]);

impl Budget {
    /// A request came.
    pub fn request(&self, now: Duration) {
        self.add(now, REQUEST);
    }

    /// Takes one retry, if it is within `allowance`; then it counts. Callers that race may take one each.
    #[must_use]
    pub fn withdraw(&self, allowance: Allowance, now: Duration) -> bool {
        let (requests, retries) = self.recent(now);
        let share = requests * u64::from(allowance.percent) / 100;
        let allowed = share + u64::from(allowance.min_per_second) * SECONDS;
        let within = retries < allowed;
        if within {
            self.add(now, RETRY);
        }
        within
    }

    fn add(&self, now: Duration, what: u64) {
        let second = now.as_secs();
        let stamp = stamp(second);
        let slot = &self.0[(second % SECONDS) as usize];
        let current = slot.load(Relaxed);
        if current & STAMP == stamp {
            slot.fetch_add(what, Relaxed);
        } else {
            // Whoever comes second finds the new stamp and adds to it.
            let begun = |value: u64| Some(if value & STAMP == stamp { value + what } else { stamp | what });
            let _ = slot.fetch_update(Relaxed, Relaxed, begun);
        }
    }

    fn recent(&self, now: Duration) -> (u64, u64) {
        let last = now.as_secs();
        let seconds = (0..SECONDS).filter_map(|ago| last.checked_sub(ago));
        let values = seconds.map(|second| (stamp(second), self.0[(second % SECONDS) as usize].load(Relaxed)));
        values.filter(|(stamp, value)| value & STAMP == *stamp).fold((0, 0), |(requests, retries), (_, value)| {
            (requests + ((value & !STAMP) >> RETRY_BITS), retries + (value & (REQUEST - 1)))
        })
    }
}

/// Never zero: a slot that nobody has written holds no second.
fn stamp(second: u64) -> u64 {
    (second + 1) << (RETRY_BITS + REQUEST_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn taken(budget: &Budget, allowance: Allowance, now: Duration) -> u32 {
        (0..10_000).take_while(|_| budget.withdraw(allowance, now)).count() as u32
    }

    #[test]
    fn retries_are_a_share_of_the_requests_of_ten_seconds() {
        let (budget, allowance) = (Budget::default(), Allowance { percent: 20, min_per_second: 0 });
        assert_eq!(taken(&budget, allowance, Duration::ZERO), 0);
        for request in 0..1_000 {
            budget.request(SECOND * (request / 100));
        }
        assert_eq!(taken(&budget, allowance, 9 * SECOND), 200);
        // The requests of the first five seconds are forgotten, the retries of the tenth are not.
        assert_eq!(taken(&budget, allowance, 14 * SECOND), 0);
        (0..1_000).for_each(|_| budget.request(20 * SECOND));
        assert_eq!(taken(&budget, allowance, 20 * SECOND), 200);
    }

    #[test]
    fn a_small_rate_needs_no_requests() {
        let (budget, allowance) = (Budget::default(), Allowance { percent: 20, min_per_second: 2 });
        assert_eq!(taken(&budget, allowance, 100 * SECOND), 20);
        assert_eq!(taken(&budget, allowance, 109 * SECOND), 0);
        assert_eq!(taken(&budget, allowance, 110 * SECOND), 20);
    }

    #[test]
    fn an_outage_costs_no_more_than_the_share_however_long_it_is() {
        let (budget, allowance) = (Budget::default(), Allowance { percent: 20, min_per_second: 1 });
        let (mut requests, mut retries) = (0_u64, 0_u64);
        for millis in 0..60_000 {
            let now = Duration::from_millis(millis);
            budget.request(now);
            requests += 1;
            // Every request fails, and would be retried three times.
            retries += (0..3).filter(|_| budget.withdraw(allowance, now)).count() as u64;
        }
        let most = requests / 5 + 60 + 10;
        assert!((requests / 5..=most).contains(&retries), "{retries} retries of {requests} requests");
    }

    #[test]
    fn workers_share_it() {
        let (budget, allowance) = (Budget::default(), Allowance { percent: 50, min_per_second: 0 });
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| budget.request(5 * SECOND)));
            }
        });
        assert_eq!(budget.recent(5 * SECOND), (40_000, 0));
        assert!(budget.withdraw(allowance, 5 * SECOND));
    }
}
