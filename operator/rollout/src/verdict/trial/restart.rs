//! What a trial is across a restart of the operator: a copy for the journal, and what is made of it afterwards.

use std::collections::VecDeque;

use super::{KEPT_STRATA, Trial};
use crate::verdict::buckets::Buckets;
use crate::verdict::margins::{Margins, Spread};

/// No release lasts longer, in seconds: thirty years.
const LONGEST_S: u64 = 1_000_000_000;

impl Trial {
    /// After a restart: memory is laid out anew, the gap belongs to no stratum.
    pub(crate) fn resume(&mut self, buckets: &Buckets) {
        self.evidence.resume();
        self.latency = [vec![0; buckets.count()], vec![0; buckets.count()]];
        self.strata.reserve(KEPT_STRATA);
        self.discard_open();
    }

    /// A copy small enough for a status.
    pub(crate) fn journalled(&self) -> Self {
        Self {
            evidence: self.evidence.journalled(),
            strata: VecDeque::new(),
            latency: [Vec::new(), Vec::new()],
            ..self.clone()
        }
    }

    /// Whether numbers that came from outside can be used.
    pub(crate) fn is_sound(&self, buckets: &Buckets) -> bool {
        let cuts = self.cuts.iter().all(|cuts| cuts.is_sound(buckets));
        let Margins { error_odds, slo_odds, latency } = &self.margins;
        let margins = [error_odds, slo_odds].into_iter().chain(latency).all(|m| (1.0..=100.0).contains(m));
        let Spread { pods: _, odds, latency } = &self.spread;
        let spread = [odds].into_iter().chain(latency).all(|d| (0.0..=100.0).contains(d));
        let logs = self.client_errors.iter().all(|log| log.is_finite() && *log < 1e6);
        let times =
            [self.second, self.next_epoch_s, self.idle_s, self.suspicious_s, self.degraded_s, self.step.seconds];
        let times = times.into_iter().chain(self.judged_from).all(|second| second <= LONGEST_S);
        let counts = self.stable_k <= self.stable_n && self.weight_percent <= 100 && self.split_fault.is_finite();
        self.alone.is_sound()
            && times
            && cuts
            && margins
            && spread
            && logs
            && counts
            && self.evidence.is_sound()
            && self.step.is_sound()
    }
}
