//! The bounds of one step: from which latency on a request is slow, for each arm and quantile.

use serde::{Deserialize, Serialize};

use super::advance::{SHOWN, SLOWNESS};
use super::buckets::{Buckets, Cut};
use super::config::Config;
use super::lanes::QUANTILES;
use super::margins::Margins;

/// Bounds at which latencies are compared; fixed for a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cuts {
    /// Buckets of stable's quantiles when the release began.
    pub(crate) near: [u32; QUANTILES.len()],
    pub(crate) slow: [Cut; QUANTILES.len()],
    pub(crate) fast: [Cut; SHOWN.len()],
}

impl Cuts {
    pub(crate) fn new(near: [u32; QUANTILES.len()], margins: &Margins, config: &Config, buckets: &Buckets) -> Self {
        let least = config.latency_margin_ms;
        let slow = std::array::from_fn(|i| buckets.cut(near[i], margins.latency[i], least));
        let fast = SHOWN.map(|i| buckets.cut(near[i], margins.latency[i].max(SLOWNESS), least));
        Self { near, slow, fast }
    }
}
