//! How much of its share a new endpoint gets: less at first, along the curve of Envoy's slow start (Istio's
//! `loadBalancer.warmup`). Only says the share; the draws that keep to it are elsewhere.

use std::time::Duration;

use proxy_api::v1beta1 as api;

use super::Invalid;

/// Istio's default.
const MINIMUM_PERCENT: u32 = 10;
/// Istio's default: a straight line.
const AGGRESSION: f64 = 1.0;

/// The curve of one route.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warmup {
    duration: Duration,
    minimum: f64,
    exponent: f64,
}

impl Warmup {
    /// As asked for.
    ///
    /// # Errors
    /// When it has no length, or is out of range.
    pub fn compile(warmup: &api::Warmup) -> Result<Self, Invalid> {
        let minimum_percent = warmup.minimum_percent.unwrap_or(MINIMUM_PERCENT);
        let aggression = warmup.aggression.unwrap_or(AGGRESSION);
        if warmup.duration_ms == 0 {
            return Err(Invalid::NoDuration);
        }
        if minimum_percent > 100 {
            return Err(Invalid::MinimumPercent(minimum_percent));
        }
        if !(aggression.is_finite() && aggression >= 1.0) {
            return Err(Invalid::Aggression);
        }
        Ok(Self {
            duration: Duration::from_millis(warmup.duration_ms),
            minimum: f64::from(minimum_percent) / 100.0,
            exponent: 1.0 / aggression,
        })
    }

    /// The part of its share that an endpoint of this age gets, 0..=1.
    #[must_use]
    pub fn share(&self, age: Duration) -> f64 {
        if age >= self.duration {
            return 1.0;
        }
        (age.as_secs_f64() / self.duration.as_secs_f64()).powf(self.exponent).max(self.minimum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_warmup(minimum_percent: Option<u32>, aggression: Option<f64>) -> Result<Warmup, Invalid> {
        Warmup::compile(&api::Warmup { duration_ms: 100_000, minimum_percent, aggression })
    }

    #[test]
    fn the_share_follows_the_curve_from_the_minimum_to_all() {
        let line = mk_warmup(None, None).unwrap();
        for (seconds, share) in [(0, 0.1), (5, 0.1), (25, 0.25), (75, 0.75), (100, 1.0), (1_000, 1.0)] {
            assert!((line.share(Duration::from_secs(seconds)) - share).abs() < 1e-9, "{seconds} s");
        }
        let curve = mk_warmup(Some(20), Some(2.0)).unwrap();
        for (seconds, share) in [(0, 0.2), (25, 0.5), (81, 0.9)] {
            assert!((curve.share(Duration::from_secs(seconds)) - share).abs() < 1e-9, "{seconds} s");
        }
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        let nothing = api::Warmup { duration_ms: 0, ..Default::default() };
        assert_eq!(Warmup::compile(&nothing), Err(Invalid::NoDuration));
        assert_eq!(mk_warmup(Some(101), None), Err(Invalid::MinimumPercent(101)));
        for aggression in [0.5, 0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(mk_warmup(None, Some(aggression)), Err(Invalid::Aggression));
        }
    }
}
