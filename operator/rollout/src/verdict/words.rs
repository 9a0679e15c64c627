//! The one sentence that people read: what was seen, against what, how sure, how long it took.
//!
//! Pure functions of a decision and of [`Facts`]; numbers are rounded for reading, never changed.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::config::Policy;
use super::lanes::Lane;
use super::report::{Advance, Cause, Decision, Wait};

/// Bad requests among all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counted {
    /// Failed, or slow.
    pub bad: u64,
    /// All.
    pub total: u64,
}

impl Counted {
    fn rate(self) -> f64 {
        self.bad as f64 / self.total.max(1) as f64
    }
}

/// Latency at the quantile where the arms differ most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slowness {
    /// Quantile in percent, such as 95.
    pub quantile_percent: u8,
    /// Stable's latency there, in milliseconds.
    pub stable_ms: f64,
    /// From here on a canary request is slow, in milliseconds.
    pub tolerated_ms: f64,
    /// Canary requests slower than `tolerated_ms`.
    pub canary: Counted,
    /// Stable requests slower than `stable_ms`.
    pub stable: Counted,
    /// Medians of canary and stable in milliseconds, if known.
    pub medians_ms: Option<(f64, f64)>,
    /// Quantile `quantile_percent` of the canary in milliseconds, if known.
    pub canary_ms: Option<f64>,
}

/// The numbers that sentences are made of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Facts {
    /// The canary's share of traffic.
    pub weight_percent: u8,
    /// That share is one of an audience.
    pub audience: bool,
    /// Seconds that the counts below cover.
    pub seconds: u64,
    /// Failed requests of the canary.
    pub canary: Counted,
    /// Failed requests of stable.
    pub stable: Counted,
    /// The canary's odds of failing are at least this many times stable's.
    pub odds_at_least: f64,
    /// Evidence of harm as a ratio: at most 1 of so many tolerable canaries would reach it.
    pub one_in: f64,
    /// Share of the way to a rollback, 0 to 100.
    pub evidence_percent: u8,
    /// Where latency differs most.
    pub slowness: Option<Slowness>,
    /// Canary requests of this step, and how many it needs.
    pub needed: (u64, u64),
    /// Seconds until then at the present traffic.
    pub eta_s: Option<u64>,
    /// Share of requests that may fail, in percent.
    pub slo_percent: f64,
    /// Confidence with which a step advances, in percent.
    pub confidence_percent: f64,
    /// Proxies that are silent, of how many, for how many seconds.
    pub silent: (u32, u32, u32),
    /// Requests begun by the canary and in all, at this weight.
    pub split: (u64, u64),
    /// Seconds without any request.
    pub idle_s: u64,
    /// What comes of that, and in how many seconds.
    pub no_traffic: Option<(Policy, u64)>,
    /// Slowness tolerated, in percent.
    pub latency_margin_percent: f64,
    /// Stable's pods are known, so that their scatter is accounted for.
    pub pods_known: bool,
    /// The canary answers 4xx more often than stable; a warning only.
    pub client_errors: bool,
}

/// The sentence of a decision; `towards` is the next weight, where one is advanced to.
#[must_use]
pub fn sentence(decision: Decision, facts: &Facts, towards: Option<u8>) -> String {
    let weight = facts.weight_percent;
    let of_whom = if facts.audience { " of those who match" } else { "" };
    let mut text = match (decision, towards) {
        (Decision::Advance(_), Some(next)) => format!("weight {weight} -> {next}%{of_whom}: "),
        (Decision::Wait(wait), _) if !names_weight(wait) => String::new(),
        _ => format!("weight {weight}%{of_whom}: "),
    };
    text += &match decision {
        Decision::Rollback(cause) => rolled_back(cause, facts),
        Decision::Advance(advance) => advancing(advance, facts),
        Decision::Wait(wait) => waiting(wait, facts),
    };
    if facts.client_errors {
        text += "; warning: the canary answers 4xx more than twice as often as stable";
    }
    text
}

const fn names_weight(wait: Wait) -> bool {
    matches!(wait, Wait::CollectingData | Wait::Suspicious)
}

fn rolled_back(cause: Cause, facts: &Facts) -> String {
    let Facts { canary, stable, seconds, .. } = facts;
    let took = duration(*seconds);
    let failed = canary.bad;
    match cause {
        Cause::Evidence(Lane::ErrorRate | Lane::SloError) => {
            format!(
                "canary {} vs stable {}; at least {}x worse, chance if healthy <= {}; decided in {took}, {failed} requests failed",
                errors(*canary),
                rate(*stable),
                number(facts.odds_at_least),
                one_in(facts.one_in)
            )
        }
        Cause::Evidence(Lane::Crash) => format!(
            "canary failed {}/{} requests, stable {}/{}; chance if healthy <= {}; decided in {took}",
            canary.bad,
            canary.total,
            stable.bad,
            stable.total,
            one_in(facts.one_in)
        ),
        Cause::Evidence(Lane::Latency) => {
            format!("{}; chance if healthy <= {}; decided in {took}", slow(facts), one_in(facts.one_in))
        }
        Cause::Alone => format!(
            "canary {} with all traffic, SLO {}; chance if healthy <= {}; decided in {took}",
            errors(*canary),
            percent(facts.slo_percent),
            one_in(facts.one_in)
        ),
        Cause::SuspicionDeadline => format!(
            "canary {} vs stable {}; suspicious for too long, evidence of harm {}% of limit (a policy, not a proof)",
            errors(*canary),
            rate(*stable),
            facts.evidence_percent
        ),
        Cause::SharedDegradation => format!(
            "canary {}, stable {}: both above SLO {} for too long; taken off as a precaution (a policy, not a proof)",
            errors(*canary),
            rate(*stable),
            percent(facts.slo_percent)
        ),
        Cause::NoTraffic => {
            format!("no requests for {}; taken off by noTraffic=rollback", duration(facts.idle_s))
        }
        Cause::WeakEvidence => format!(
            "canary {}; {} of ~{} requests needed after {took}; taken off by weakEvidence=rollback",
            errors(*canary),
            facts.needed.0,
            facts.needed.1
        ),
    }
}

fn slow(facts: &Facts) -> String {
    let Some(slowness) = facts.slowness else { return "canary is slower than stable".to_owned() };
    let Slowness { quantile_percent, stable_ms, tolerated_ms, canary, stable, medians_ms, canary_ms: _ } = slowness;
    let mut text = format!(
        "{} of canary requests slower than {}ms (stable p{quantile_percent} {}ms + {}), at most {} tolerated",
        percent(100.0 * canary.rate()),
        number(tolerated_ms),
        number(stable_ms),
        percent(100.0 * (tolerated_ms / stable_ms.max(1e-3) - 1.0)),
        percent(100.0 * stable.rate())
    );
    if let Some((canary, stable)) = medians_ms {
        let _ = write!(text, "; p50 {}ms vs {}ms", number(canary), number(stable));
    }
    text
}

fn advancing(advance: Advance, facts: &Facts) -> String {
    let took = duration(facts.seconds);
    match advance {
        Advance::NonInferior => {
            let mut text = format!(
                "canary {} within SLO {} with {} confidence",
                errors(facts.canary),
                percent(facts.slo_percent),
                percent(facts.confidence_percent)
            );
            if let Some(Slowness { quantile_percent, stable_ms, canary_ms: Some(ms), .. }) = facts.slowness {
                let change = 100.0 * (ms / stable_ms.max(1e-3) - 1.0);
                let _ = write!(
                    text,
                    "; latency p{quantile_percent} {change:+.0}% (tolerated {})",
                    percent(facts.latency_margin_percent)
                );
            }
            text + &format!("; took {took}")
        }
        Advance::WeakEvidence => format!(
            "canary {}; {} of ~{} requests needed after {took}, nothing suspicious: weakEvidence=advance",
            errors(facts.canary),
            facts.needed.0,
            facts.needed.1
        ),
        Advance::NoTraffic => {
            format!("no requests for {}; goes on by noTraffic=advance", duration(facts.idle_s))
        }
    }
}

fn waiting(wait: Wait, facts: &Facts) -> String {
    let Facts { canary, stable, evidence_percent, silent, split, .. } = facts;
    match wait {
        Wait::Off => "the verdict is off".to_owned(),
        Wait::Idle => "no release to judge".to_owned(),
        Wait::CollectingData => {
            let (seen, needed) = facts.needed;
            let mut text = format!("{seen} of ~{needed} requests needed at SLO {}", percent(100.0 - facts.slo_percent));
            if let Some(eta) = facts.eta_s {
                let _ = write!(text, "; ETA {}", duration(eta));
            }
            text + &format!("; evidence of harm {evidence_percent}% of limit")
        }
        Wait::Suspicious => format!(
            "canary {} vs stable {} errors; evidence of harm {evidence_percent}% of limit; not advancing",
            percent(100.0 * canary.rate()),
            percent(100.0 * stable.rate())
        ),
        Wait::SharedDegradation => format!(
            "canary {}, stable {} errors: both above SLO {}, not caused by this version",
            percent(100.0 * canary.rate()),
            percent(100.0 * stable.rate()),
            percent(facts.slo_percent)
        ),
        Wait::StableDegraded => {
            format!("stable {}: above SLO {} by itself; not advancing", errors(*stable), percent(facts.slo_percent))
        }
        Wait::NoTraffic => {
            let mut text = format!("no requests for {}; nothing to judge", duration(facts.idle_s));
            let _ = match facts.no_traffic {
                Some((Policy::Hold, _)) => write!(text, "; held by noTraffic=hold"),
                Some((Policy::Advance, left)) => write!(text, "; goes on in {} by noTraffic=advance", duration(left)),
                Some((Policy::Rollback, left)) => {
                    write!(text, "; taken off in {} by noTraffic=rollback", duration(left))
                }
                None => Ok(()),
            };
            text
        }
        Wait::NoEndpoints => "the canary has no ready pod; nothing to judge".to_owned(),
        Wait::TrafficSplitMismatch => format!(
            "canary got {} of {} requests, expected {}{}%: routing fault, version not judged",
            percent(100.0 * split.0 as f64 / split.1.max(1) as f64),
            split.1,
            if facts.audience { "at most " } else { "" },
            facts.weight_percent
        ),
        Wait::MetricsUnavailable if silent.1 == 0 => "no proxy is connected; last verdict kept".to_owned(),
        Wait::MetricsUnavailable => format!(
            "{} of {} proxies silent for {}; last verdict kept",
            silent.0,
            silent.1,
            duration(u64::from(silent.2))
        ),
        Wait::StaleConfig => "proxies count under an older config; waiting for the weight to apply".to_owned(),
        Wait::BrokenCounters => "a proxy reported counters that fell or contradict each other; not counted".to_owned(),
        Wait::ClockJumped => "the operator's clock jumped; the seconds in between are not counted".to_owned(),
        Wait::Hanging => "requests to the canary begin and do not end; not advancing".to_owned(),
    }
}

fn rate(counted: Counted) -> String {
    format!("{} ({}/{})", percent(100.0 * counted.rate()), counted.bad, counted.total)
}

fn errors(counted: Counted) -> String {
    format!("{} errors ({}/{})", percent(100.0 * counted.rate()), counted.bad, counted.total)
}

/// Percent with one decimal, more only where one would show nothing.
fn percent(value: f64) -> String {
    let digits = match value.abs() {
        v if v == 0.0 || v >= 10.0 || (v - v.round()).abs() < 1e-9 => 0,
        v if v >= 0.095 => 1,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let text = if digits == 3 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}%")
}

fn number(value: f64) -> String {
    if value >= 10.0 || (value - value.round()).abs() < 1e-9 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn one_in(ratio: f64) -> String {
    if ratio < 1e6 { format!("1 in {:.0}", ratio.floor().max(1.0)) } else { "1 in a million".to_owned() }
}

/// Seconds as people write them: `35s`, `4m`, `4m30s`, `2h`.
fn duration(seconds: u64) -> String {
    match (seconds / 3_600, seconds % 3_600 / 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, 0) => format!("{m}m"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, 0, _) => format!("{h}h"),
        (h, m, _) => format!("{h}h{m}m"),
    }
}

#[cfg(test)]
mod tests;
