//! Whatever comes in: nothing panics, evidence stays a number, and what was not counted does not move it.

use proptest::prelude::*;

use super::*;

fn any_count() -> impl Strategy<Value = u64> {
    prop_oneof![0..20_u64, 0..2_000_u64, Just(u64::MAX), any::<u64>()]
}

fn any_latency() -> impl Strategy<Value = Vec<(u32, u64)>> {
    prop::collection::vec((prop_oneof![40..70_u32, any::<u32>()], any_count()), 0..4)
}

prop_compose! {
    fn any_pod()(pod in "[ab]", completed in any_count(), errors in any_count(), latency in any_latency()) -> PodCounters {
        PodCounters { pod, completed, errors, latency }
    }
}

prop_compose! {
    fn any_arm()(
        counter in 6..9_u64,
        revision in prop::sample::select(vec!["old", "new", "other"]),
        arm in prop::sample::select(vec![Some(Arm::Stable), Some(Arm::Canary), None]),
        counts in [any_count(), any_count(), any_count(), any_count(), any_count()],
        latency in any_latency(),
        pods in prop::collection::vec(any_pod(), 0..3),
    ) -> ArmCounters {
        let [started, succeeded, client_errors, errors, in_flight] = counts;
        ArmCounters { counter, revision: revision.into(), arm, started, succeeded, client_errors, errors, in_flight, latency, pods }
    }
}

prop_compose! {
    fn any_report()(
        proxy in "[xy]",
        incarnation in 1..3_u64,
        sequence in 0..40_u64,
        arms in prop::collection::vec(any_arm(), 0..4),
    ) -> Report {
        Report { proxy, incarnation, sequence, arms }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_report_makes_the_engine_panic(
        seconds in prop::collection::vec(
            (prop_oneof![Just(1_000_u64), any::<u64>()], any::<u8>(), 6..9_u64, 0..3_u32, prop::collection::vec(any_report(), 0..3)),
            1..60,
        )
    ) {
        let mut engine = mk_engine(Config::default());
        engine.begin(mk_release());
        let mut unix_ms = 1_000_000_u64;
        for (step_ms, weight_percent, since_counter, canary_pods, reports) in &seconds {
            unix_ms = unix_ms.wrapping_add(*step_ms);
            engine.observe(&Second {
                unix_ms,
                weight_percent: *weight_percent,
                audience: false,
                since_counter: *since_counter,
                canary_pods: *canary_pods,
                stable_pods: 4,
                proxies: 2,
                reports,
            });
            prop_assert!(engine.evidence().is_finite() && engine.evidence() >= 0.0);
            prop_assert!(!engine.verdict().sentence().is_empty());
        }
        let text = serde_json::to_string(&engine.journal()).unwrap();
        let journal: Option<Journal> = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(mk_engine(Config::default()).restore(&journal.unwrap()), Ok(()), "what is written can be read");
    }

    #[test]
    fn seconds_without_a_countable_report_move_nothing(broken in prop::collection::vec(any_report(), 0..20)) {
        let mut engine = mk_engine(Config::default());
        engine.begin(mk_release());
        for _ in 0..100 {
            engine.absorb(&mk_delta((10, 1), (90, 1)), mk_now(10));
        }
        // Open strata are closed first: what is pending may still count.
        for _ in 0..60 {
            engine.absorb(&Delta::default(), mk_now(10));
        }
        let before = engine.evidence();
        for (at, report) in broken.into_iter().enumerate() {
            // Each report is the first of its proxy: only a baseline.
            let report = Report { proxy: format!("{at}"), ..report };
            engine.observe(&Second {
                unix_ms: 1_000 * at as u64,
                weight_percent: 10,
                audience: false,
                since_counter: 7,
                canary_pods: 1,
                stable_pods: 4,
                proxies: 1,
                reports: &[report],
            });
        }
        prop_assert_eq!(engine.evidence(), before);
    }
}

#[test]
fn reports_and_counted_seconds_come_to_the_same() {
    let mut counted = mk_engine(Config::default());
    let mut told = mk_engine(Config::default());
    for engine in [&mut counted, &mut told] {
        engine.begin(mk_release());
    }
    let mut report = Report {
        proxy: "a".into(),
        incarnation: 1,
        sequence: 0,
        arms: vec![
            ArmCounters { revision: "old".into(), arm: Some(Arm::Stable), ..ArmCounters::default() },
            ArmCounters { revision: "new".into(), arm: Some(Arm::Canary), ..ArmCounters::default() },
        ],
    };
    let tell = |engine: &mut Engine, second: u64, weight_percent, report: &Report| {
        engine.observe(&Second {
            unix_ms: 1_000 * second,
            weight_percent,
            audience: false,
            since_counter: 0,
            canary_pods: 1,
            stable_pods: 4,
            proxies: 1,
            reports: std::slice::from_ref(report),
        });
    };
    report.sequence = 1;
    tell(&mut told, 0, 0, &report);
    counted.absorb(&Delta::default(), mk_now(0));
    for second in 1..=300 {
        let delta = mk_delta((20, second % 7 / 6), (180, second % 3));
        report.sequence += 1;
        for (arm, delta) in report.arms.iter_mut().zip([&delta.stable, &delta.canary]) {
            arm.started += delta.started;
            arm.succeeded += delta.completed - delta.errors;
            arm.errors += delta.errors;
            for (bucket, count) in &delta.latency {
                match arm.latency.iter_mut().find(|(b, _)| b == bucket) {
                    Some((_, total)) => *total += count,
                    None => arm.latency.push((*bucket, *count)),
                }
            }
        }
        counted.absorb(&delta, mk_now(10));
        tell(&mut told, second, 10, &report);
        assert_eq!(told.evidence(), counted.evidence(), "second {second}");
    }
    assert_eq!(told.verdict().sentence(), counted.verdict().sentence());
    assert_eq!(told.verdict().lanes, counted.verdict().lanes);
}
