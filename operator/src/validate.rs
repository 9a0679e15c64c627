//! Spec → [`Plan`], once, at the edge. Pure.
//!
//! The API server has checked schema and CEL rules; what is checked here too guards against objects that were stored
//! before a rule existed.

use chrono::TimeDelta;
use crds::canary::{Analysis, CanarySpec, Metric};
use rollout::{Audience, Plan, verdict};

/// Steps without `stepWeights` or `stepWeight` (DESIGN §4).
const DEFAULT_STEPS: [u32; 4] = [10, 25, 50, 100];
/// The one step of an A/B test: all of the audience.
const AB_STEPS: [u32; 1] = [100];
/// Percent of the requests that are copied with `analysis.mirror`, unless told otherwise: Flagger's.
const DEFAULT_MIRROR_WEIGHT: i32 = 100;
/// Lowest success rate in percent where `analysis.metrics` is absent.
const DEFAULT_SUCCESS_RATE: f64 = 99.0;

/// A field that cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {expected}")]
pub struct Invalid {
    /// Path within the object.
    pub field: &'static str,
    /// What was expected, as the rest of a sentence.
    pub expected: String,
}

/// Makes the plan of a Canary.
///
/// # Errors
/// Names the first field that cannot be carried out; a retry helps only after the spec has changed.
pub fn plan(spec: &CanarySpec) -> Result<Plan, Invalid> {
    let analysis = analysis(spec);
    let audience = audience(&analysis)?;
    let step_checks = analysis.step_checks.unwrap_or(1);
    Ok(Plan {
        steps: steps(&analysis)?,
        interval: interval("spec.analysis.interval", &analysis.interval)?,
        threshold: positive("spec.analysis.threshold", analysis.threshold)?,
        step_checks: positive("spec.analysis.stepChecks", step_checks)?,
        mirror_percent: mirror_percent(&analysis)?,
        audience,
        progress_deadline: TimeDelta::seconds(i64::from(positive(
            "spec.progressDeadlineSeconds",
            spec.progress_deadline_seconds,
        )?)),
        skip_analysis: spec.skip_analysis,
        suspended: spec.suspend,
    })
}

/// The plan of a Canary that is going, whose own cannot be made.
#[must_use]
pub fn plan_without_analysis(spec: &CanarySpec) -> Plan {
    Plan {
        steps: DEFAULT_STEPS.to_vec(),
        interval: TimeDelta::seconds(10),
        threshold: 1,
        step_checks: 1,
        mirror_percent: 0,
        audience: None,
        progress_deadline: TimeDelta::minutes(10),
        skip_analysis: false,
        suspended: spec.suspend,
    }
}

/// The analysis with its defaults.
#[must_use]
pub fn analysis(spec: &CanarySpec) -> Analysis {
    spec.analysis.clone().unwrap_or_else(|| Analysis {
        interval: crds::canary::default_interval(),
        threshold: crds::canary::default_threshold(),
        ..Analysis::default()
    })
}

/// The verdict's choices with their defaults: a step lasts at least the analysis interval.
///
/// # Errors
/// Names the first field outside its range; a retry helps only after the spec has changed.
pub fn verdict(spec: &CanarySpec) -> Result<verdict::Config, Invalid> {
    let analysis = analysis(spec);
    let chosen = analysis.verdict.unwrap_or_default();
    let invalid = |why: String| Invalid { field: "spec.analysis.verdict", expected: format!("is refused: {why}") };
    let fields = serde_json::to_value(&chosen).map_err(|error| invalid(error.to_string()))?;
    let mut config: verdict::Config = serde_json::from_value(fields).map_err(|error| invalid(error.to_string()))?;
    if chosen.min_step_seconds.is_none() {
        let interval = interval("spec.analysis.interval", &analysis.interval)?.num_seconds();
        let interval = u32::try_from(interval).unwrap_or(u32::MAX).max(1);
        let longest = chosen.max_step_seconds.map_or(u32::MAX, |_| config.max_step_seconds);
        config.min_step_seconds = interval.min(longest);
    }
    if chosen.max_step_seconds.is_none() {
        config.max_step_seconds = config.max_step_seconds.max(config.min_step_seconds);
    }
    config.validate().map_err(|error| invalid(error.to_string()))?;
    Ok(config)
}

/// The metrics with their default: the built-in success rate.
#[must_use]
pub fn metrics(analysis: &Analysis) -> Vec<Metric> {
    analysis.metrics.clone().unwrap_or_else(|| {
        vec![Metric {
            name: "request-success-rate".to_owned(),
            interval: None,
            threshold_range: crds::canary::ThresholdRange { min: Some(DEFAULT_SUCCESS_RATE), max: None },
            template_ref: None,
            template_variables: None,
        }]
    })
}

/// A time such as `500ms`, `10s`, `1m` or `1h`.
#[must_use]
pub fn duration(text: &str) -> Option<TimeDelta> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(split);
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    TimeDelta::try_milliseconds(digits.parse::<i64>().ok()?.checked_mul(millis)?)
}

fn interval(field: &'static str, text: &str) -> Result<TimeDelta, Invalid> {
    let range = TimeDelta::seconds(1)..=TimeDelta::hours(1);
    duration(text)
        .filter(|interval| range.contains(interval))
        .ok_or_else(|| Invalid { field, expected: format!("is {text}, but must lie between 1s and 1h") })
}

fn positive(field: &'static str, value: i32) -> Result<u32, Invalid> {
    u32::try_from(value)
        .ok()
        .filter(|value| *value > 0)
        .ok_or_else(|| Invalid { field, expected: format!("is {value}, but must be at least 1") })
}

/// Who alone sees the canary, as it is pinned; read again by `routes`.
fn audience(analysis: &Analysis) -> Result<Option<Audience>, Invalid> {
    let invalid = |field, expected| Err(Invalid { field, expected });
    match (analysis.audience.as_deref(), analysis.iterations) {
        (None | Some([]), None) => Ok(None),
        (None | Some([]), Some(_)) => invalid("spec.analysis.iterations", "needs spec.analysis.match".to_owned()),
        (Some(matches), iterations) => {
            let iterations = iterations.map(|count| positive("spec.analysis.iterations", count)).transpose()?;
            match serde_json::to_string(matches) {
                Ok(matches) => Ok(Some(Audience { matches, iterations })),
                Err(error) => invalid("spec.analysis.match", format!("is refused: {error}")),
            }
        }
    }
}

fn mirror_percent(analysis: &Analysis) -> Result<u32, Invalid> {
    if !analysis.mirror {
        return Ok(0);
    }
    Ok(positive("spec.analysis.mirrorWeight", analysis.mirror_weight.unwrap_or(DEFAULT_MIRROR_WEIGHT))?.min(100))
}

fn steps(analysis: &Analysis) -> Result<Vec<u32>, Invalid> {
    if analysis.iterations.is_some() {
        return Ok(AB_STEPS.to_vec());
    }
    let steps = match (&analysis.step_weights, analysis.step_weight) {
        (Some(weights), _) => {
            weights.iter().map(|weight| positive("spec.analysis.stepWeights", *weight)).collect::<Result<_, _>>()?
        }
        (None, Some(step)) => {
            let step = positive("spec.analysis.stepWeight", step)?;
            let last = positive("spec.analysis.maxWeight", analysis.max_weight.unwrap_or(100))?.min(100);
            let mut steps: Vec<u32> = (step..last).step_by(step as usize).collect();
            steps.push(last);
            steps
        }
        (None, None) => DEFAULT_STEPS.to_vec(),
    };
    let rising = steps.windows(2).all(|pair| pair[0] < pair[1]);
    if steps.is_empty() || !rising || steps.last().is_some_and(|last| *last > 100) {
        let expected = "must be strictly rising weights between 1 and 100".to_owned();
        return Err(Invalid { field: "spec.analysis.stepWeights", expected });
    }
    Ok(steps)
}

#[cfg(test)]
mod tests;
