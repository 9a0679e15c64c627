//! The verdict: is the canary worse than stable, judged each second on what the proxies saw.
//!
//! A weighted mixture of e-processes (non-negative, begun at 1, of mean at most 1 while the canary is tolerable) is the
//! evidence of harm; at 1/α the canary is taken off. By Ville's inequality a tolerable canary gets there with a chance
//! of at most α, over all looks, steps and lanes. Advancing needs evidence of its own, that the canary is *not* worse.
//! What is promised and what is not: `docs/verdict.md`.
//!
//! Order: `counters`, `ledger` (input) → [`Engine`] (decisions) → `trial` (strata) → `lanes`, `evidence`, `advance` → `kernel` (numbers), with
//! `history` and `margins` for what is known of stable. No clock, no I/O; memory is laid out once.

mod advance;
mod alone;
mod buckets;
mod config;
mod counters;
mod cuts;
mod engine;
mod evidence;
mod facts;
mod history;
mod kernel;
mod lanes;
mod ledger;
mod margins;
mod report;
mod scatter;
mod trial;
mod words;

#[cfg(test)]
mod tests;

pub use buckets::{Buckets, BucketsError};
pub use config::{Config, ConfigError, Mode, Policy};
pub use counters::{Arm, ArmCounters, ArmDelta, Delta, PODS, PROXIES, PodCounters, Report, Second};
pub use engine::{Circumstances, Engine, Journal, JournalError};
pub use lanes::Lane;
pub use report::{Advance, Cause, Decision, LaneReport, Verdict, Wait};
pub use trial::Release;
pub use words::{Counted, Facts, Slowness, sentence};
