//! Full weight: stable has no traffic left to compare with, so the canary's errors are judged by themselves.

use serde::{Deserialize, Serialize};

use super::evidence::add;
use super::kernel::{Table, mixture};
use super::lanes::{SLO_MULTIPLES, multiples};

/// Evidence against the canary by itself, at full weight, where stable has no traffic. One e-process a minute, the
/// earlier ones kept at their value.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Alone {
    logs: [f64; 9],
    /// Minutes that are over, and the evidence (as a ratio) that they left.
    minutes: u32,
    frozen: f64,
}

impl Alone {
    pub(crate) fn add(&mut self, table: Table, tolerated: f64, dispersion: f64, cap: f64) {
        let mut step = [0.0; 9];
        multiples(table, tolerated, &SLO_MULTIPLES, &mut step);
        step.iter_mut().for_each(|log| *log /= dispersion);
        add(&mut self.logs, &step, cap);
    }

    /// The share of minute j (from 1) is 1/(j(j+1)); those to come are 1/(j+1) together.
    fn value(&self) -> f64 {
        let j = f64::from(self.minutes) + 1.0;
        self.frozen + mixture(&self.logs).min(600.0).exp() / (j * (j + 1.0)) + 1.0 / (j + 1.0)
    }

    pub(crate) fn log(&self) -> f64 {
        self.value().ln()
    }

    /// A minute without traffic at full weight spends nothing.
    pub(crate) fn start_epoch(&mut self) {
        if self.logs != [0.0; 9] {
            self.minutes = self.minutes.saturating_add(1);
            self.frozen = self.value_of_past();
            self.logs = [0.0; 9];
        }
    }

    /// Whether numbers that came from outside can be used.
    pub(crate) fn is_sound(&self) -> bool {
        self.frozen.is_finite() && self.logs.iter().all(|log| log.is_finite() && *log < 1e6)
    }

    fn value_of_past(&self) -> f64 {
        let j = f64::from(self.minutes);
        self.frozen + mixture(&self.logs).min(600.0).exp() / (j * (j + 1.0))
    }
}
