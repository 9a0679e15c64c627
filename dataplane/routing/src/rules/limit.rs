//! Rate limit of one rule, shared by all workers: the generic cell rate algorithm (ITU-T I.371), a token bucket that is
//! one number, the moment at which the bucket will be full again. Time is passed in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use proxy_api::v1beta1 as api;

use super::RuleError;

/// Requests per unit, and at once.
const MAX_REQUESTS: u32 = 1_000_000;
/// An hour.
const MAX_UNIT_MS: u64 = 3_600_000;

/// So many requests per unit of time, and so many at once.
#[derive(Clone, Debug)]
pub struct Limit {
    /// Nanoseconds in which a request is earned.
    period: u64,
    /// Nanoseconds of requests that may be taken ahead.
    tolerance: u64,
    full: Arc<AtomicU64>,
}

impl Limit {
    /// As asked for, with what `previous` has counted if it says the same.
    ///
    /// # Errors
    /// When it is out of range.
    pub fn compile(limit: &api::RateLimit, previous: Option<&Self>) -> Result<Self, RuleError> {
        let burst = if limit.burst == 0 { limit.requests } else { limit.burst };
        let in_range = (1..=MAX_REQUESTS).contains(&limit.requests) && burst <= MAX_REQUESTS;
        if !in_range || !(1..=MAX_UNIT_MS).contains(&limit.unit_ms) {
            return Err(RuleError::RateLimit);
        }
        let period = limit.unit_ms * 1_000_000 / u64::from(limit.requests);
        let tolerance = period * u64::from(burst - 1);
        let same = previous.filter(|before| (before.period, before.tolerance) == (period, tolerance));
        Ok(Self { period, tolerance, full: same.map_or_else(Arc::default, |before| Arc::clone(&before.full)) })
    }

    /// Takes a request at `now`, in nanoseconds since a moment that is the same for all workers.
    ///
    /// # Errors
    /// When there is none to take; the nanoseconds after which there will be.
    pub fn take(&self, now: u64) -> Result<(), u64> {
        let mut full = self.full.load(Relaxed);
        loop {
            let from = full.max(now);
            if from - now > self.tolerance {
                return Err(from - now - self.tolerance);
            }
            match self.full.compare_exchange_weak(full, from + self.period, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(newer) => full = newer,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn mk(requests: u32, burst: u32, previous: Option<&Limit>) -> Limit {
        Limit::compile(&api::RateLimit { requests, unit_ms: 1_000, burst }, previous).unwrap()
    }

    fn taken(limit: &Limit, now: u64) -> usize {
        (0..100).take_while(|_| limit.take(now).is_ok()).count()
    }

    #[test]
    fn a_burst_is_taken_at_once_and_the_rest_as_time_goes() {
        let limit = mk(10, 3, None);
        let start = 5 * SECOND;
        assert_eq!(taken(&limit, start), 3);
        assert_eq!(limit.take(start), Err(SECOND / 10));
        assert_eq!(taken(&limit, start + SECOND / 5), 2);
        assert_eq!(taken(&limit, start + 100 * SECOND), 3, "what was not taken is not saved beyond the burst");
        let mut over_ten_seconds = 0;
        for tick in 0..1_000 {
            over_ten_seconds += usize::from(limit.take(start + 200 * SECOND + tick * SECOND / 100).is_ok());
        }
        assert!((100..=103).contains(&over_ten_seconds), "{over_ten_seconds}");
    }

    #[test]
    fn a_limit_that_stays_the_same_keeps_its_count() {
        let limit = mk(10, 3, None);
        assert_eq!(taken(&limit, 0), 3);
        assert_eq!(taken(&mk(10, 3, Some(&limit)), 0), 0);
        assert_eq!(taken(&mk(10, 4, Some(&limit)), 0), 4);
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        for (requests, unit_ms, burst) in
            [(0, 1_000, 1), (1, 0, 1), (1, 3_600_001, 1), (1_000_001, 1_000, 1), (1, 1, 1_000_001)]
        {
            let limit = api::RateLimit { requests, unit_ms, burst };
            assert_eq!(Limit::compile(&limit, None).unwrap_err(), RuleError::RateLimit, "{limit:?}");
        }
        let widest = api::RateLimit { requests: 1, unit_ms: MAX_UNIT_MS, burst: MAX_REQUESTS };
        assert_eq!(Limit::compile(&widest, None).unwrap().take(u64::MAX / 4), Ok(()));
    }
}
