//! The bounds of the latency histogram, and the pairs of bounds at which the arms are compared.
//!
//! The canary is counted above `(1 + margin) · u`, stable above `u`; both must be bounds of buckets, so the margin is
//! rounded up, and of the bounds near a quantile the one is taken at which least is added.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Lower bounds of the buckets of a latency histogram, in milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Buckets {
    lower_ms: Vec<f64>,
}

/// Bounds that no histogram has.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("histogram bounds must be 2 to {MOST}, finite and rising from 0 or more")]
pub struct BucketsError;

/// Most buckets that a histogram may have.
const MOST: usize = 4_096;

/// Two bounds: stable is slow from bucket `stable` on, the canary from bucket `canary` on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cut {
    pub(crate) stable: u32,
    pub(crate) canary: u32,
}

impl Buckets {
    /// Bucket `i` holds latencies from `lower_ms[i]` up to `lower_ms[i + 1]`, the last one everything above.
    ///
    /// # Errors
    /// [`BucketsError`] when the bounds do not rise.
    pub fn new(lower_ms: Vec<f64>) -> Result<Self, BucketsError> {
        let rising = lower_ms.windows(2).all(|w| w[0] < w[1]);
        let finite = lower_ms.iter().all(|b| b.is_finite() && *b >= 0.0);
        if rising && finite && (2..=MOST).contains(&lower_ms.len()) { Ok(Self { lower_ms }) } else { Err(BucketsError) }
    }

    /// Number of buckets.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lower_ms.len()
    }

    /// Lower bound of bucket `index`, in milliseconds; the highest bound for an index beyond.
    #[must_use]
    pub fn lower_ms(&self, index: u32) -> f64 {
        let last = self.lower_ms.len() - 1;
        self.lower_ms[(index as usize).min(last)]
    }

    /// The first bucket that begins at `ms` or above; the number of buckets if there is none.
    pub(crate) fn at_or_above(&self, ms: f64) -> u32 {
        // A bound that is meant to equal `ms` may differ in the last bits.
        self.lower_ms.partition_point(|bound| *bound < ms * (1.0 - 1e-9)) as u32
    }

    /// The bucket in which quantile `q` of `counts` lies; `None` if nothing was counted.
    pub(crate) fn quantile(&self, counts: &[u64], q: f64) -> Option<u32> {
        let total: u64 = counts.iter().sum();
        let rank = q * total as f64;
        let mut below = 0.0;
        for (index, count) in counts.iter().enumerate() {
            below += *count as f64;
            if below >= rank && below > 0.0 {
                return Some(index as u32);
            }
        }
        None
    }

    /// Quantile `q` in milliseconds, interpolated within its bucket on a logarithmic scale.
    pub(crate) fn quantile_ms(&self, counts: &[u64], q: f64) -> Option<f64> {
        let index = self.quantile(counts, q)?;
        let total: u64 = counts.iter().sum();
        let below: u64 = counts[..index as usize].iter().sum();
        let inside = (q * total as f64 - below as f64) / counts[index as usize] as f64;
        let low = self.lower_ms(index).max(1e-3);
        let high = self.lower_ms(index + 1).max(low);
        Some(low * (high / low).powf(inside.clamp(0.0, 1.0)))
    }

    /// The bucket from which on the share of `counts` is nearest to `1 - q`: the bound nearest to quantile `q`, the upper
    /// one of two. `None` if nothing was counted.
    pub(crate) fn bound(&self, counts: &[u64], q: f64) -> Option<u32> {
        let total = counts.iter().sum::<u64>() as f64;
        let mut above = total;
        let (mut best, mut least) = (0, f64::INFINITY);
        for (index, count) in counts.iter().enumerate() {
            if *count > 0 {
                above -= *count as f64;
                let off = (above / total - (1.0 - q)).abs();
                if off < least {
                    (best, least) = (index as u32 + 1, off);
                }
            }
        }
        (total > 0.0).then_some(best)
    }

    /// The pair of bounds for stable's quantile at bound `near`, when slowness up to `ratio` and `least_ms` is
    /// tolerated: among the bounds around that bucket, the pair that tolerates least.
    pub(crate) fn cut(&self, near: u32, ratio: f64, least_ms: f64) -> Cut {
        let last = self.lower_ms.len() as u32 - 1;
        let candidates = near.saturating_sub(1).max(1)..=(near + 1).min(last);
        let pair = |stable: u32| {
            let u = self.lower_ms(stable);
            Cut { stable, canary: self.at_or_above((u * ratio).max(u + least_ms)) }
        };
        // In whole percent: bounds that differ only by rounding are equal, and the nearer one is taken.
        let tolerated = |cut: &Cut| (100.0 * self.lower_ms(cut.canary) / self.lower_ms(cut.stable).max(1e-3)).round();
        let nearness = |cut: &Cut| cut.stable.abs_diff(near);
        candidates
            .map(pair)
            .filter(|cut| cut.canary <= last)
            .min_by(|a, b| tolerated(a).total_cmp(&tolerated(b)).then(nearness(a).cmp(&nearness(b))))
            .unwrap_or_else(|| pair(near.min(last)))
    }
}
