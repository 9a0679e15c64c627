//! The evidence of a release across a restart of the operator.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Decided, Engine};
use crate::verdict::history::METRICS;
use crate::verdict::trial::{Release, Trial};

const JOURNAL_VERSION: u32 = 2;

/// The evidence of a release, for `Canary.status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Journal {
    version: u32,
    trial: Trial,
    correlation: [f64; METRICS],
    decided: Option<Decided>,
}

/// A journal that cannot be carried on; begin the release anew.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum JournalError {
    /// Written by another version of the engine.
    #[error("the journal of the verdict has version {0}, not {JOURNAL_VERSION}")]
    Version(u32),
    /// A number that the engine never writes.
    #[error("the journal of the verdict holds impossible numbers")]
    Unsound,
}

impl Journal {
    /// Whose evidence it is.
    #[must_use]
    pub const fn release(&self) -> &Release {
        &self.trial.release
    }
}

impl Engine {
    /// Carries on a release from a journal of an earlier process. The seconds in between are not counted.
    ///
    /// # Errors
    /// [`JournalError`]; the engine is then as before.
    pub fn restore(&mut self, journal: &Journal) -> Result<(), JournalError> {
        let Journal { version, trial, correlation, decided } = journal;
        if *version != JOURNAL_VERSION {
            return Err(JournalError::Version(*version));
        }
        if !trial.is_sound(&self.buckets) || !correlation.iter().all(|rho| (0.0..=1.0).contains(rho)) {
            return Err(JournalError::Unsound);
        }
        self.end();
        self.ledger.follow(&trial.release.stable, &trial.release.canary);
        self.history.carried(*correlation);
        let mut trial = trial.clone();
        trial.resume(&self.buckets);
        if let Some(cuts) = &trial.cuts {
            self.history.keep(cuts.slow.map(|c| c.stable));
        }
        self.evidence = trial.weigh();
        self.trial = Some(trial);
        self.decided.clone_from(decided);
        Ok(())
    }

    /// What a restart needs; `None` without a release.
    #[must_use]
    pub fn journal(&self) -> Option<Journal> {
        self.trial.as_ref().map(|trial| Journal {
            version: JOURNAL_VERSION,
            trial: trial.journalled(),
            correlation: self.history.carry(),
            decided: self.decided.clone(),
        })
    }
}
