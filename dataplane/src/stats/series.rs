//! What one arm counted under one revision: the cells of all workers, summed.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use proxy_api::v1beta1 as api;
use routing::Arm;

use super::{Cell, Totals};
use crate::exemplars::Shown;
use crate::pods::Pods;

/// Identity of a series.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Of the Canary.
    pub uid: String,
    /// Which version.
    pub arm: Arm,
    /// Pod-template hash that the arm had.
    pub revision: String,
}

/// One arm under one revision.
#[derive(Debug)]
pub struct Series {
    /// Namespace of the Canary.
    pub namespace: String,
    /// Name of the Canary.
    pub canary: String,
    /// Name of the Service.
    pub service: String,
    pub(super) cells: Vec<Arc<Cell>>,
    pub(super) pods: Pods,
}

impl Series {
    /// The sum over all workers.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for cell in &self.cells {
            cell.add_to(&mut totals);
        }
        totals
    }

    /// The newest sampled requests of all workers.
    #[must_use]
    pub fn exemplars(&self) -> Shown {
        let mut shown = Shown::default();
        self.cells.iter().filter_map(|cell| cell.exemplars.get()).for_each(|kept| kept.add_to(&mut shown));
        shown
    }

    /// Whether it has counted a request. Of thousands of routes few are used: this costs a look, [`Series::totals`] a sum.
    #[must_use]
    pub fn used(&self) -> bool {
        self.cells.iter().any(|cell| cell.started.load(Relaxed) > 0)
    }

    /// Whether a route still holds a cell of it.
    pub(super) fn in_use(&self) -> bool {
        self.cells.iter().any(|cell| Arc::strong_count(cell) > 1)
    }
}

/// As the config stream carries it.
pub(super) fn message(key: Key, totals: Totals, pods: Vec<api::PodCounters>) -> api::ArmCounters {
    let (latency_index, latency_count) = totals.latency.into_iter().unzip();
    let arm = match key.arm {
        Arm::Stable => api::Arm::Stable,
        Arm::Canary => api::Arm::Canary,
    };
    api::ArmCounters {
        uid: key.uid,
        counter: totals.config,
        revision: key.revision,
        arm: arm.into(),
        started: totals.started,
        succeeded: totals.succeeded,
        client_errors: totals.client_errors,
        errors: totals.errors,
        grpc_errors: totals.grpc_errors,
        no_endpoint: totals.no_endpoint,
        in_flight: totals.in_flight,
        latency_index,
        latency_count,
        pods,
    }
}
