//! Running totals of one arm at one proxy: their sum, whether they can be later ones of the same counters, and what is new.

use super::MOST_REQUESTS;
use crate::verdict::counters::{ArmCounters, ArmDelta};

#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    started: u64,
    completed: u64,
    errors: u64,
    client_errors: u64,
    latency: Vec<u64>,
}

impl Totals {
    pub(super) fn new(buckets: usize) -> Self {
        Self { latency: vec![0; buckets], ..Self::default() }
    }

    pub(super) fn reset(&mut self) {
        let Self { started, completed, errors, client_errors, latency } = self;
        for count in [started, completed, errors, client_errors] {
            *count = 0;
        }
        latency.fill(0);
    }

    pub(super) fn copy(&mut self, from: &Self) {
        let Self { started, completed, errors, client_errors, latency } = from;
        self.started = *started;
        self.completed = *completed;
        self.errors = *errors;
        self.client_errors = *client_errors;
        self.latency.copy_from_slice(latency);
    }

    pub(super) fn add(&mut self, counters: &ArmCounters) -> Option<()> {
        let completed = counters.succeeded.checked_add(counters.client_errors)?.checked_add(counters.errors)?;
        self.started = self.started.checked_add(counters.started)?;
        self.completed = self.completed.checked_add(completed)?;
        self.errors = self.errors.checked_add(counters.errors)?;
        self.client_errors = self.client_errors.checked_add(counters.client_errors)?;
        for (bucket, count) in &counters.latency {
            let total = self.latency.get_mut(*bucket as usize)?;
            *total = total.checked_add(*count)?;
        }
        Some(())
    }

    /// Whether these can be the same counters, later. Counters that are absent count as never begun.
    pub(super) fn follows(&self, before: &Self) -> bool {
        let Self { started, completed, errors, client_errors, latency } = self;
        let rises = *started >= before.started
            && *completed >= before.completed
            && *errors >= before.errors
            && *client_errors >= before.client_errors;
        let believable = |now: u64, before: u64| now.wrapping_sub(before) <= MOST_REQUESTS;
        rises
            && believable(*started, before.started)
            && believable(*completed, before.completed)
            && (*completed - before.completed) as u128
                >= u128::from(*errors - before.errors) + u128::from(*client_errors - before.client_errors)
            && latency.iter().zip(&before.latency).all(|(now, before)| now >= before && believable(*now, *before))
    }

    pub(super) fn emit(&self, before: &Self, delta: &mut ArmDelta) {
        delta.started = delta.started.saturating_add(self.started - before.started);
        delta.completed = delta.completed.saturating_add(self.completed - before.completed);
        delta.errors = delta.errors.saturating_add(self.errors - before.errors);
        delta.client_errors = delta.client_errors.saturating_add(self.client_errors - before.client_errors);
        for (bucket, (now, before)) in self.latency.iter().zip(&before.latency).enumerate() {
            if now > before {
                delta.latency.push((bucket as u32, now - before));
            }
        }
    }
}
