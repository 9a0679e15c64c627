use super::*;

fn mk_analysis(step_weights: Option<Vec<i32>>, step_weight: Option<i32>, max_weight: Option<i32>) -> Analysis {
    Analysis { step_weights, step_weight, max_weight, ..Analysis::default() }
}

#[test]
fn steps_come_from_either_form_or_the_default() {
    assert_eq!(steps(&mk_analysis(None, None, None)), Ok(vec![10, 25, 50, 100]));
    assert_eq!(steps(&mk_analysis(Some(vec![5, 80]), None, None)), Ok(vec![5, 80]));
    assert_eq!(steps(&mk_analysis(None, Some(20), Some(50))), Ok(vec![20, 40, 50]));
    assert_eq!(steps(&mk_analysis(None, Some(50), None)), Ok(vec![50, 100]));
    assert_eq!(steps(&mk_analysis(None, Some(100), None)), Ok(vec![100]));
}

#[test]
fn steps_that_do_not_rise_are_refused_by_name() {
    for bad in [vec![], vec![10, 10], vec![20, 10], vec![50, 101], vec![0, 10], vec![-1]] {
        let error = steps(&mk_analysis(Some(bad.clone()), None, None)).expect_err("must be refused");
        assert_eq!(error.field, "spec.analysis.stepWeights", "{bad:?}");
    }
}

fn plan_of(analysis: serde_json::Value) -> Result<Plan, Invalid> {
    let spec = serde_json::json!({ "targetRef": { "kind": "Deployment", "name": "web" },
        "service": { "port": 80 }, "analysis": analysis });
    plan(&serde_json::from_value(spec).expect("a spec"))
}

#[test]
fn an_ab_test_is_one_step_for_its_audience() {
    let testers = serde_json::json!([{ "headers": { "x-beta": { "exact": "yes" } } }]);
    let plan = plan_of(serde_json::json!({ "match": testers, "iterations": 7 })).expect("valid");
    let audience = plan.audience.expect("an audience");
    assert_eq!((plan.steps, audience.iterations), (vec![100], Some(7)));
    let pinned: serde_json::Value = serde_json::from_str(&audience.matches).expect("JSON");
    assert_eq!(pinned, testers);
    let error = plan_of(serde_json::json!({ "iterations": 7 })).expect_err("an A/B test for nobody");
    assert_eq!(error.to_string(), "spec.analysis.iterations needs spec.analysis.match");
}

#[test]
fn an_audience_may_go_through_weights() {
    let testers = serde_json::json!([{ "headers": { "x-beta": { "exact": "yes" } } }]);
    let plan = plan_of(serde_json::json!({ "match": testers, "stepWeights": [20, 50], "stepChecks": 3 }));
    let plan = plan.expect("valid");
    assert_eq!((plan.steps, plan.step_checks), (vec![20, 50], 3));
    assert_eq!(plan.audience.expect("an audience").iterations, None);
}

#[test]
fn everything_is_mirrored_unless_told_otherwise() {
    let percent = |analysis| plan_of(analysis).expect("valid").mirror_percent;
    assert_eq!(percent(serde_json::json!({})), 0);
    assert_eq!(percent(serde_json::json!({ "mirror": true })), 100);
    assert_eq!(percent(serde_json::json!({ "mirror": true, "mirrorWeight": 20 })), 20);
}

fn verdict_of(analysis: serde_json::Value) -> Result<verdict::Config, Invalid> {
    let spec = serde_json::json!({ "targetRef": { "kind": "Deployment", "name": "web" },
        "service": { "port": 80 }, "analysis": analysis });
    verdict(&serde_json::from_value(spec).expect("a spec"))
}

#[test]
fn the_verdict_is_on_and_a_step_lasts_an_interval() {
    let config = verdict_of(serde_json::json!({ "interval": "20s" })).expect("valid");
    assert_eq!(config, verdict::Config { min_step_seconds: 20, ..verdict::Config::default() });
    let long = verdict_of(serde_json::json!({ "interval": "10m" })).expect("valid");
    assert_eq!((long.min_step_seconds, long.max_step_seconds), (600, 600));
    let capped = verdict_of(serde_json::json!({ "interval": "1m", "verdict": { "maxStepSeconds": 30 } }));
    assert_eq!(capped.expect("valid").min_step_seconds, 30);
    let off = verdict_of(serde_json::json!({ "verdict": { "mode": "off" } })).expect("valid");
    assert_eq!(off.mode, verdict::Mode::Off);
}

#[test]
fn choices_of_the_verdict_out_of_range_are_named() {
    for (field, value) in [
        ("alpha", serde_json::json!(0.3)),
        ("alpha", serde_json::json!(-1)),
        ("beta", serde_json::json!(0)),
        ("sloErrorRate", serde_json::json!(1)),
        ("errorOdds", serde_json::json!(0.5)),
        ("latencyMargin", serde_json::json!(0)),
        ("minStepSeconds", serde_json::json!(0)),
        ("noTrafficSeconds", serde_json::json!(0)),
    ] {
        let error = verdict_of(serde_json::json!({ "verdict": { field: value } })).expect_err("must be refused");
        let named = error.to_string().contains(field);
        assert!(named && error.field == "spec.analysis.verdict", "{error}");
    }
    assert!(verdict_of(serde_json::json!({ "verdict": { "noTrafficSeconds": -5 } })).is_err());
}

#[test]
fn durations_are_parsed() {
    assert_eq!(duration("500ms"), Some(TimeDelta::milliseconds(500)));
    assert_eq!(duration("2m"), Some(TimeDelta::minutes(2)));
    for bad in ["", "s", "5", "5d", "99999999999999999999s", "-1s"] {
        assert_eq!(duration(bad), None, "{bad}");
    }
}
