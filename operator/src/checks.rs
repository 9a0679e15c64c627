//! One check: the plan's metrics, measured and held against their ranges.
//!
//! Reads Prometheus through `measure`; decides nothing about the release. A value that is missing or unusable is never a
//! pass, and neither is one whose window still holds traffic of an earlier weight.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use crds::{
    Canary, MetricTemplate,
    canary::{Analysis, Metric, ThresholdRange},
};
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use rollout::{Check, Failure, Reason, State};

use crate::{
    alerts::Fact,
    caches::Caches,
    measure::{BuiltIn, DEFAULT_MIN_REQUESTS, Measurement, Measurer, MetricRequest, Reading, Source, Subject},
    services, validate,
};

/// What a check saw.
pub struct Checked {
    /// For the state machine.
    pub check: Check,
    /// For people: name and value of each metric.
    pub facts: Vec<Fact>,
    /// Reason word of the first metric without a usable value, for the Event.
    pub trouble: Option<&'static str>,
}

/// Measures every metric of the Canary at once.
pub async fn run(measurer: &Measurer, caches: &Caches, canary: &Canary, state: &State, now: DateTime<Utc>) -> Checked {
    let analysis = validate::analysis(&canary.spec);
    let metrics = metrics(&analysis, state);
    let interval = validate::duration(&analysis.interval).and_then(|interval| interval.to_std().ok());
    let age = state.effective_since.and_then(|since| (now - since).to_std().ok()).unwrap_or_default();
    let requests: Vec<MetricRequest> = metrics
        .iter()
        .map(|metric| MetricRequest {
            metric: metric.name.clone(),
            source: source(caches, canary, metric, state),
            subject: subject(canary, state),
            declared_window: metric
                .interval
                .as_deref()
                .and_then(validate::duration)
                .and_then(|window| window.to_std().ok()),
            analysis_interval: interval.unwrap_or(Duration::from_secs(10)),
            weight_age: age,
            min_requests: DEFAULT_MIN_REQUESTS,
        })
        .collect();
    if state.mirror.is_copying() && age < measurer.shortest_window() {
        // Copies carry no revision: those of the release before may still be in the window.
        return Checked { check: Check::NotMade, facts: Vec::new(), trouble: None };
    }
    let measurements = measurer.measure_all(&requests).await;
    judge(&metrics, &measurements, age >= measurer.evidence_after())
}

fn subject(canary: &Canary, state: &State) -> Subject {
    Subject {
        namespace: canary.namespace().unwrap_or_default(),
        name: canary.name_any(),
        target: canary.spec.target_ref.name.clone(),
        service: services::service_name(canary).to_owned(),
        canary_revision: state.canary.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

/// What is measured now: of copies, which are in no arm, the share that was answered well.
fn metrics(analysis: &Analysis, state: &State) -> Vec<Metric> {
    let mut metrics = validate::metrics(analysis);
    if state.mirror.is_copying() {
        metrics.retain(|metric| built_in(metric) == Some(BuiltIn::RequestSuccessRate));
    }
    metrics
}

fn source(caches: &Caches, canary: &Canary, metric: &Metric, state: &State) -> Source {
    let Some(reference) = &metric.template_ref else {
        if state.mirror.is_copying() {
            return Source::BuiltIn(BuiltIn::MirroredSuccessRate);
        }
        return BuiltIn::named(&metric.name)
            .map_or_else(|| Source::Missing { name: metric.name.clone() }, Source::BuiltIn);
    };
    let key = ObjectRef::new(&reference.name).within(&canary.namespace().unwrap_or_default());
    let template: Option<Arc<MetricTemplate>> = caches.templates.get(&key);
    match template {
        None => Source::Missing { name: reference.name.clone() },
        Some(template) => Source::Template {
            name: reference.name.clone(),
            query: template.spec.query.clone(),
            address: template.spec.provider.address.clone(),
            variables: metric.template_variables.clone().unwrap_or_default(),
        },
    }
}

/// Holds the measurements against the ranges. `settled`: the weight is old enough for a value to be its own, so that it
/// may pass; a breach counts at once.
fn judge(metrics: &[Metric], measurements: &[Measurement], settled: bool) -> Checked {
    let facts = metrics.iter().zip(measurements).flat_map(|(metric, measurement)| facts(metric, measurement)).collect();
    let breach = metrics
        .iter()
        .zip(measurements)
        .find_map(|(metric, measurement)| breach(metric, measurement.reading.value()?).map(Failure::MetricBreached));
    let missing = measurements.iter().find(|measurement| measurement.reading.value().is_none());
    let trouble = missing.map(|measurement| measurement.reading.reason());
    let check = match (breach, missing) {
        (Some(failure), _) => Check::Failed(failure),
        (None, Some(measurement)) => {
            let why = measurement.reading.why().unwrap_or("no value");
            Check::NoEvidence(Reason::NoEvidence(why.to_owned()))
        }
        (None, None) if settled => Check::Passed,
        (None, None) => Check::NotMade,
    };
    Checked { check, facts, trouble }
}

fn facts(metric: &Metric, measurement: &Measurement) -> Vec<Fact> {
    let mut facts = Vec::new();
    if let Reading::Value(value) = measurement.reading {
        facts.push(Fact { name: title(metric), value: show(metric, value) });
    }
    if let Some(requests) = measurement.requests {
        facts.push(Fact { name: "requests in the window".to_owned(), value: format!("{requests:.0}") });
    }
    facts
}

/// What people call a metric.
fn title(metric: &Metric) -> String {
    match built_in(metric) {
        Some(BuiltIn::RequestSuccessRate | BuiltIn::MirroredSuccessRate) => "success rate".to_owned(),
        Some(BuiltIn::RequestDuration) => "p99".to_owned(),
        None => metric.name.clone(),
    }
}

fn built_in(metric: &Metric) -> Option<BuiltIn> {
    metric.template_ref.as_ref().map_or_else(|| BuiltIn::named(&metric.name), |_| None)
}

fn show(metric: &Metric, value: f64) -> String {
    match built_in(metric) {
        Some(built_in) => built_in.show(value),
        None => format!("{value:.4}").trim_end_matches('0').trim_end_matches('.').to_owned(),
    }
}

fn breach(metric: &Metric, value: f64) -> Option<String> {
    let ThresholdRange { min, max } = metric.threshold_range;
    let name = &metric.name;
    if let Some(min) = min.filter(|min| value < *min) {
        return Some(format!("{name} is {}, below the minimum of {}", show(metric, value), show(metric, min)));
    }
    let max = max.filter(|max| value > *max)?;
    Some(format!("{name} is {}, above the maximum of {}", show(metric, value), show(metric, max)))
}

#[cfg(test)]
mod tests {
    use rollout::Mirror;

    use super::*;

    fn mk_metric(name: &str, min: Option<f64>, max: Option<f64>) -> Metric {
        Metric {
            name: name.to_owned(),
            interval: None,
            threshold_range: ThresholdRange { min, max },
            template_ref: None,
            template_variables: None,
        }
    }

    fn mk_measurement(name: &str, reading: Reading) -> Measurement {
        Measurement { metric: name.to_owned(), reading, requests: None }
    }

    fn check(readings: Vec<Reading>, settled: bool) -> Check {
        let metrics =
            [mk_metric("request-success-rate", Some(99.0), None), mk_metric("request-duration", None, Some(500.0))];
        let measurements: Vec<_> =
            metrics.iter().zip(readings).map(|(metric, reading)| mk_measurement(&metric.name, reading)).collect();
        judge(&metrics, &measurements, settled).check
    }

    #[test]
    fn of_copies_only_what_they_have_is_measured() {
        let analysis = Analysis {
            metrics: Some(vec![
                mk_metric("request-success-rate", Some(99.0), None),
                mk_metric("request-duration", None, Some(500.0)),
            ]),
            ..Analysis::default()
        };
        let names = |mirror| {
            let state = State { mirror, ..State::default() };
            metrics(&analysis, &state).into_iter().map(|metric| metric.name).collect::<Vec<_>>()
        };
        assert_eq!(names(Mirror::Copying(50)), ["request-success-rate"]);
        assert_eq!(names(Mirror::Over(50)), ["request-success-rate", "request-duration"]);
        // Nothing to measure: the copies last until their pods have stood it for long enough.
        assert_eq!(judge(&[], &[], true).check, Check::Passed);
        assert_eq!(judge(&[], &[], false).check, Check::NotMade);
    }

    #[test]
    fn bounds_are_included() {
        assert_eq!(check(vec![Reading::Value(99.0), Reading::Value(500.0)], true), Check::Passed);
    }

    #[test]
    fn a_young_weight_may_fail_but_not_pass() {
        assert_eq!(check(vec![Reading::Value(99.9), Reading::Value(1.0)], false), Check::NotMade);
        assert!(matches!(check(vec![Reading::Value(90.0), Reading::Value(1.0)], false), Check::Failed(_)));
    }

    #[test]
    fn silence_never_passes_and_a_breach_beside_it_counts() {
        let silence = || Reading::NoData { why: "no traffic".to_owned() };
        assert!(matches!(check(vec![silence(), Reading::Value(1.0)], true), Check::NoEvidence(_)));
        assert!(matches!(check(vec![silence(), Reading::Value(900.0)], true), Check::Failed(_)));
    }

    #[test]
    fn the_sentence_names_value_and_bound() {
        let sentence = breach(&mk_metric("request-duration", None, Some(500.0)), 750.0).expect("breaches");
        assert!(sentence.contains("750") && sentence.contains("500") && sentence.contains("above"), "{sentence}");
    }
}
