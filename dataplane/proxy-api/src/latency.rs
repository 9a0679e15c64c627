//! Bucket arithmetic of the log-linear latency histogram that proxies send and the operator reads.
//!
//! Each power of two of microseconds is cut into [`SUB_BUCKETS`] equal parts, so a bucket is at most 12.5 % wide. The
//! scheme is that of HdrHistogram (Gil Tene), with three bits of precision.

/// Parts per power of two.
pub const SUB_BUCKETS: u32 = 8;
/// Indices lie in `0..BUCKETS`; the last bucket takes everything from about 67 s upward.
pub const BUCKETS: u32 = 24 * SUB_BUCKETS;

/// Index of the bucket that holds `micros`.
#[must_use]
pub const fn index(micros: u64) -> u32 {
    if micros < SUB_BUCKETS as u64 {
        return micros as u32;
    }
    let exponent = 63 - micros.leading_zeros();
    let sub = (micros >> (exponent - 3)) as u32 & (SUB_BUCKETS - 1);
    let index = (exponent - 2) * SUB_BUCKETS + sub;
    if index < BUCKETS { index } else { BUCKETS - 1 }
}

/// Lowest number of microseconds that falls into bucket `index`.
#[must_use]
pub const fn lower_bound(index: u32) -> u64 {
    if index < SUB_BUCKETS {
        return index as u64;
    }
    let exponent = index / SUB_BUCKETS + 2;
    let sub = (index % SUB_BUCKETS) as u64;
    (SUB_BUCKETS as u64 + sub) << (exponent - 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_starts_where_the_one_before_ends() {
        for i in 0..BUCKETS {
            assert_eq!(index(lower_bound(i)), i, "bucket {i}");
            if i > 0 {
                assert_eq!(index(lower_bound(i) - 1), i - 1, "bucket {i}");
            }
        }
        assert_eq!(index(u64::MAX), BUCKETS - 1);
    }
}
