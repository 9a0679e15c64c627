//! What a release sees, from the first second to the last.

use super::*;

fn run(engine: &mut Engine, seconds: u32, weight: u8, delta: &Delta) {
    for _ in 0..seconds {
        engine.absorb(delta, mk_now(weight));
    }
}

/// Ten minutes of stable at `n` requests a second, then a release.
fn mk_begun(config: Config, n: u64) -> Engine {
    let mut engine = mk_engine(config);
    run(&mut engine, 600, 0, &mk_delta((0, 0), (n, 0)));
    engine.begin(mk_release());
    engine
}

#[test]
fn a_canary_like_stable_advances_after_a_minute() {
    let mut engine = mk_begun(Config::default(), 1000);
    run(&mut engine, 59, 10, &mk_delta((100, 0), (900, 0)));
    assert_eq!(engine.decision(), Decision::Wait(Wait::CollectingData));
    run(&mut engine, 1, 10, &mk_delta((100, 0), (900, 0)));
    assert_eq!(engine.decision(), Decision::Advance(Advance::NonInferior));
    run(&mut engine, 1, 25, &mk_delta((250, 0), (750, 0)));
    assert_eq!(engine.decision(), Decision::Wait(Wait::CollectingData));
    assert_eq!(engine.verdict().facts.needed.0, 0);
}

#[test]
fn a_stratum_across_a_change_of_weight_is_dropped() {
    let mut engine = mk_begun(Config::default(), 1000);
    run(&mut engine, 3, 10, &mk_delta((10, 1), (90, 0)));
    run(&mut engine, 5, 25, &mk_delta((25, 0), (75, 0)));
    assert_eq!(engine.verdict().lanes[0].canary.bad, 0);
    assert!(engine.verdict().lanes[0].canary.total > 0);
}

#[test]
fn a_canary_that_fails_everything_is_off_in_a_second() {
    let mut engine = mk_begun(Config::default(), 200);
    run(&mut engine, 1, 10, &mk_delta((20, 20), (180, 0)));
    assert_eq!(engine.decision(), Decision::Rollback(Cause::Evidence(Lane::Crash)));
    let counted = engine.verdict().lanes()[Lane::Crash as usize].canary;
    assert!(counted.total > 0 && counted.bad * 10 > counted.total, "{counted:?}");
    let sentence = engine.verdict().sentence();
    assert!(sentence.starts_with("weight 10%: canary failed 20/20 requests, stable 0/180; chance"), "{sentence}");
    run(&mut engine, 600, 10, &mk_delta((20, 0), (180, 20)));
    assert_eq!(engine.decision(), Decision::Rollback(Cause::Evidence(Lane::Crash)), "a rollback stands");
}

#[test]
fn a_slow_canary_is_off_two_strata_after_its_burn_in() {
    let mut engine = mk_begun(Config::default(), 1000);
    let mut delta = mk_delta((100, 0), (900, 0));
    delta.canary.latency = mk_latency(100, 8);
    run(&mut engine, 35, 10, &delta);
    assert_eq!(engine.decision(), Decision::Wait(Wait::Suspicious));
    run(&mut engine, 5, 10, &delta);
    assert_eq!(engine.decision(), Decision::Rollback(Cause::Evidence(Lane::Latency)));
}

#[test]
fn a_fault_of_both_arms_is_held_and_then_taken_off_as_a_policy() {
    let mut engine = mk_begun(Config::default(), 1000);
    run(&mut engine, 90, 10, &mk_delta((100, 8), (900, 72)));
    assert_eq!(engine.decision(), Decision::Wait(Wait::SharedDegradation));
    run(&mut engine, 540, 10, &mk_delta((100, 8), (900, 72)));
    assert_eq!(engine.decision(), Decision::Rollback(Cause::SharedDegradation));
}

#[test]
fn no_traffic_holds_and_moves_nothing() {
    let mut engine = mk_begun(Config::default(), 1000);
    run(&mut engine, 100, 10, &mk_delta((100, 0), (900, 3)));
    let before = engine.evidence();
    run(&mut engine, 1_900, 10, &Delta::default());
    assert_eq!(engine.decision(), Decision::Wait(Wait::NoTraffic));
    assert_eq!(engine.evidence(), before);
    assert_eq!(engine.verdict().sentence(), "no requests for 31m40s; nothing to judge; held by noTraffic=hold");
}

#[test]
fn no_traffic_follows_its_policy_when_the_time_is_over() {
    for (policy, wanted) in [
        (Policy::Advance, Decision::Advance(Advance::NoTraffic)),
        (Policy::Rollback, Decision::Rollback(Cause::NoTraffic)),
    ] {
        let mut engine = mk_begun(Config { no_traffic: policy, ..Config::default() }, 1000);
        run(&mut engine, 1_799, 10, &Delta::default());
        assert_eq!(engine.decision(), Decision::Wait(Wait::NoTraffic));
        run(&mut engine, 1, 10, &Delta::default());
        assert_eq!(engine.decision(), wanted);
    }
}

#[test]
fn a_silent_canary_arm_is_a_fault_of_the_split_and_not_of_the_version() {
    let mut engine = mk_begun(Config::default(), 1000);
    run(&mut engine, 60, 10, &mk_delta((0, 0), (1000, 0)));
    assert_eq!(engine.decision(), Decision::Wait(Wait::TrafficSplitMismatch));
    assert!(engine.evidence() <= 1.0);
}

#[test]
fn a_silent_stable_arm_is_a_fault_of_the_split_too_and_condemns_nobody() {
    let mut engine = mk_begun(Config::default(), 1000);
    run(&mut engine, 60, 10, &mk_delta((1000, 500), (0, 0)));
    assert_eq!(engine.decision(), Decision::Wait(Wait::TrafficSplitMismatch));
    assert!(engine.evidence() <= 1.0);
}

#[test]
fn weak_evidence_follows_its_policy() {
    for (policy, wanted) in [
        (Policy::Advance, Decision::Advance(Advance::WeakEvidence)),
        (Policy::Hold, Decision::Wait(Wait::CollectingData)),
        (Policy::Rollback, Decision::Rollback(Cause::WeakEvidence)),
    ] {
        let mut engine = mk_begun(Config { weak_evidence: policy, ..Config::default() }, 5);
        let mut delta = mk_delta((1, 0), (4, 0));
        delta.canary.latency = vec![(53, 1)];
        delta.stable.latency = vec![(53, 4)];
        run(&mut engine, 299, 20, &delta);
        assert_eq!(engine.decision(), Decision::Wait(Wait::CollectingData));
        run(&mut engine, 2, 20, &delta);
        assert_eq!(engine.decision(), wanted);
    }
}

#[test]
fn full_weight_is_judged_by_the_canary_alone() {
    let mut engine = mk_begun(Config::default(), 1000);
    run(&mut engine, 60, 100, &mk_delta((1000, 1), (0, 0)));
    assert_eq!(engine.decision(), Decision::Advance(Advance::NonInferior));
    run(&mut engine, 120, 100, &mk_delta((1000, 100), (0, 0)));
    assert_eq!(engine.decision(), Decision::Rollback(Cause::Alone));
}

#[test]
fn a_share_of_an_audience_is_judged_by_the_canary_alone() {
    // Of 1,000 requests 100 are of the audience, and the canary has 20 % of those.
    let now = Circumstances { audience: true, ..mk_now(20) };
    let mut engine = mk_begun(Config::default(), 1000);
    (0..60).for_each(|_| engine.absorb(&mk_delta((20, 0), (980, 1)), now));
    assert_eq!(engine.decision(), Decision::Advance(Advance::NonInferior));
    let said = engine.verdict().sentence_towards(50);
    assert!(said.starts_with("weight 20 -> 50% of those who match: canary "), "{said}");
    (0..120).for_each(|_| engine.absorb(&mk_delta((20, 4), (980, 1)), now));
    assert!(matches!(engine.decision(), Decision::Rollback(_)), "{:?}", engine.decision());

    let mut engine = mk_begun(Config::default(), 1000);
    (0..60).for_each(|_| engine.absorb(&mk_delta((300, 0), (700, 1)), now));
    assert_eq!(engine.decision(), Decision::Wait(Wait::TrafficSplitMismatch), "more than all of them can be");
    let said = engine.verdict().sentence();
    assert!(said.contains("expected at most 20%"), "{said}");
}

#[test]
fn mode_off_counts_nothing() {
    let mut engine = mk_engine(Config { mode: Mode::Off, ..Config::default() });
    engine.begin(mk_release());
    assert_eq!(engine.decision(), Decision::Wait(Wait::Off));
}

#[test]
fn ranges_are_checked_by_name() {
    let wrong = Config { alpha: 0.5, ..Config::default() };
    let error = Engine::new(wrong, mk_buckets()).unwrap_err();
    assert_eq!(error.to_string(), "analysis.verdict.alpha must lie between 0.000001 and 0.2, not 0.5");
    let wrong = Config { beta: f64::NAN, ..Config::default() };
    assert!(wrong.validate().is_err());
    let wrong = Config { max_step_seconds: 10, ..Config::default() };
    assert_eq!(wrong.validate().unwrap_err().field, "maxStepSeconds");
}

#[test]
fn a_journal_carries_the_evidence_on() {
    let mut engine = mk_begun(Config::default(), 1000);
    run(&mut engine, 100, 10, &mk_delta((100, 1), (900, 4)));
    let text = serde_json::to_string(&engine.journal().unwrap()).unwrap();
    let mut other = mk_engine(Config::default());
    other.restore(&serde_json::from_str(&text).unwrap()).unwrap();
    assert!(other.evidence() <= engine.evidence() && other.evidence() > 0.99 * engine.evidence());
    assert_eq!(other.verdict().facts.needed, engine.verdict().facts.needed);
    run(&mut other, 30, 10, &mk_delta((100, 6), (900, 4)));
    assert!(matches!(other.decision(), Decision::Rollback(_)));
    assert!(text.len() < 8_000, "{} bytes", text.len());
}

#[test]
fn failures_that_come_by_pod_weigh_less_and_still_do_after_a_restart() {
    let mut engine = mk_engine(Config::default());
    for second in 0..600_u64 {
        // Each pod in turn fails a fifth of its requests for five seconds.
        let bursting = (second / 5 % 8) as u32;
        let mut delta = mk_delta((0, 0), (400, if bursting < 4 { 20 } else { 0 }));
        delta.pods = (0..4).map(|pod| (pod, 100, if pod == bursting { 20 } else { 0 })).collect();
        engine.absorb(&delta, mk_now(0));
    }
    engine.begin(mk_release());
    run(&mut engine, 10, 10, &mk_delta((40, 0), (360, 2)));
    let dispersion = |engine: &Engine| engine.verdict().lanes[0].dispersion;
    let before = dispersion(&engine);
    assert!(before > 5.0, "{before}");
    let mut other = mk_engine(Config::default());
    other.restore(&engine.journal().unwrap()).unwrap();
    run(&mut other, 10, 10, &mk_delta((40, 0), (360, 2)));
    assert!((dispersion(&other) - before).abs() < 0.5, "{} after {before}", dispersion(&other));
}

#[test]
fn a_journal_of_a_long_release_fits_into_a_status() {
    let mut engine = mk_begun(Config { max_step_seconds: 86_400, ..Config::default() }, 1000);
    for second in 0..7_200 {
        engine.absorb(&mk_delta((100, second % 3), (900, 11 - second % 5)), mk_now(10));
    }
    let text = serde_json::to_string(&engine.journal().unwrap()).unwrap();
    assert!(text.len() < 8_000, "{} bytes", text.len());
}

#[test]
fn a_journal_of_nonsense_is_refused() {
    let mut engine = mk_begun(Config::default(), 1000);
    run(&mut engine, 100, 10, &mk_delta((100, 1), (900, 4)));
    let good = serde_json::to_value(engine.journal().unwrap()).unwrap();
    let mut version = good.clone();
    version["version"] = 9.into();
    let mut weight = good.clone();
    weight["trial"]["weightPercent"] = 200.into();
    let mut evidence = good.clone();
    evidence["trial"]["evidence"]["epochs"][0]["logs"][0] = 1e300.into();
    let mut engine = mk_engine(Config::default());
    for (journal, wanted) in
        [(version, JournalError::Version(9)), (weight, JournalError::Unsound), (evidence, JournalError::Unsound)]
    {
        let journal: Journal = serde_json::from_value(journal).unwrap();
        assert_eq!(engine.restore(&journal).unwrap_err(), wanted);
    }
    assert_eq!(engine.decision(), Decision::Wait(Wait::Idle));
}
