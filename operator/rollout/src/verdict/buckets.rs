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

/// A bound near a quantile, and how far one may go from it in search of a finer margin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Near {
    pub(crate) at: u32,
    pub(crate) from: u32,
    pub(crate) to: u32,
}

impl Near {
    /// No bound at all: its pair says nothing.
    pub(crate) const NOWHERE: Self = Self { at: u32::MAX, from: 1, to: 0 };
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

    /// The pair of bounds when stable is slow from bucket `stable` on, and slowness up to `ratio` and `least_ms` is
    /// tolerated. The canary's may be the number of buckets: no bound is high enough.
    pub(crate) fn pair(&self, stable: u32, ratio: f64, least_ms: f64) -> Cut {
        let u = self.lower_ms(stable);
        Cut { stable, canary: self.at_or_above((u * ratio).max(u + least_ms)) }
    }

    /// Of the pairs around a quantile, the one that tolerates least. Without any, a pair above which no request lies: it
    /// says nothing in either direction.
    pub(crate) fn cut(&self, near: Near, ratio: f64, least_ms: f64) -> Cut {
        let width = self.lower_ms.len() as u32;
        // In whole percent: bounds that differ only by rounding are equal, and the nearer one is taken.
        let tolerated = |cut: &Cut| (100.0 * self.lower_ms(cut.canary) / self.lower_ms(cut.stable).max(1e-3)).round();
        let nearness = |cut: &Cut| cut.stable.abs_diff(near.at);
        (near.from..=near.to)
            .map(|stable| self.pair(stable, ratio, least_ms))
            .filter(|cut| cut.canary < width)
            .min_by(|a, b| tolerated(a).total_cmp(&tolerated(b)).then(nearness(a).cmp(&nearness(b))))
            .unwrap_or(Cut { stable: width, canary: width })
    }

    /// The bound that is nearest to `at_share` of `counts` above it, among those that `fits` takes; of its two
    /// neighbours those that `fits` takes as well. `None` where none does.
    ///
    /// Bounds with the same share above them span a gap: `lower` takes its lower end, else its upper one.
    pub(crate) fn near(&self, shares: &[f64], at_share: f64, lower: bool, fits: impl Fn(u32) -> bool) -> Option<Near> {
        let ends_gap = |bound: usize| {
            let beyond = if lower { bound.checked_sub(1) } else { Some(bound + 1) };
            beyond.is_none_or(|beyond| shares.get(beyond) != Some(&shares[bound]))
        };
        let off = |bound: u32| (shares[bound as usize] - at_share).abs();
        let bounds = (0..self.lower_ms.len()).filter(|bound| ends_gap(*bound)).map(|bound| bound as u32);
        let at = bounds.filter(|bound| fits(*bound)).min_by(|a, b| off(*a).total_cmp(&off(*b)))?;
        let last = self.lower_ms.len() as u32 - 1;
        let neighbour = |bound: u32| if bound > 0 && fits(bound) { bound } else { at };
        Some(Near { at, from: neighbour(at.saturating_sub(1)), to: neighbour((at + 1).min(last)) })
    }
}

/// The share of `counts` from each bucket on; 1 for the lowest. Zeros if nothing was counted.
pub(crate) fn shares_from(counts: &[u64]) -> Vec<f64> {
    let total = counts.iter().sum::<u64>().max(1) as f64;
    let mut above = counts.iter().sum::<u64>();
    counts
        .iter()
        .map(|count| {
            let share = above as f64 / total;
            above -= count;
            share
        })
        .collect()
}
