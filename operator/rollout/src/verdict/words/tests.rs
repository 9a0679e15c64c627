use super::*;

fn mk_facts() -> Facts {
    Facts {
        weight_percent: 10,
        audience: false,
        seconds: 35,
        canary: Counted { bad: 18, total: 355 },
        stable: Counted { bad: 34, total: 3145 },
        odds_at_least: 1.5,
        one_in: 121.4,
        evidence_percent: 58,
        slowness: Some(Slowness {
            quantile_percent: 95,
            stable_ms: 268.4,
            tolerated_ms: 292.7,
            canary: Counted { bad: 26, total: 100 },
            stable: Counted { bad: 45, total: 900 },
            medians_ms: Some((201.2, 100.1)),
            canary_ms: Some(273.8),
        }),
        needed: (212, 390),
        eta_s: Some(180),
        slo_percent: 1.0,
        confidence_percent: 95.0,
        silent: (2, 3, 25),
        split: (37, 12_400),
        idle_s: 240,
        no_traffic: Some((Policy::Rollback, 1_560)),
        latency_margin_percent: 9.0,
        pods_known: true,
        client_errors: false,
    }
}

#[test]
fn every_decision_has_its_sentence() {
    let facts = mk_facts();
    let cases = [
        (
            Decision::Rollback(Cause::Evidence(Lane::ErrorRate)),
            "weight 10%: canary 5.1% errors (18/355) vs stable 1.1% (34/3145); at least 1.5x worse, chance if healthy <= 1 in 121; decided in 35s, 18 requests failed",
        ),
        (
            Decision::Rollback(Cause::Evidence(Lane::Crash)),
            "weight 10%: canary failed 18/355 requests, stable 34/3145; chance if healthy <= 1 in 121; decided in 35s",
        ),
        (
            Decision::Rollback(Cause::Evidence(Lane::Latency)),
            "weight 10%: 26% of canary requests slower than 293ms (stable p95 268ms + 9.1%), at most 5% tolerated; p50 201ms vs 100ms; chance if healthy <= 1 in 121; decided in 35s",
        ),
        (
            Decision::Advance(Advance::NonInferior),
            "weight 10 -> 25%: canary 5.1% errors (18/355) within SLO 1% with 95% confidence; latency p95 +2% (tolerated 9%); took 35s",
        ),
        (
            Decision::Wait(Wait::CollectingData),
            "weight 10%: 212 of ~390 requests needed at SLO 99%; ETA 3m; evidence of harm 58% of limit",
        ),
        (
            Decision::Wait(Wait::Suspicious),
            "weight 10%: canary 5.1% vs stable 1.1% errors; evidence of harm 58% of limit; not advancing",
        ),
        (
            Decision::Wait(Wait::SharedDegradation),
            "canary 5.1%, stable 1.1% errors: both above SLO 1%, not caused by this version",
        ),
        (
            Decision::Wait(Wait::NoTraffic),
            "no requests for 4m; nothing to judge; taken off in 26m by noTraffic=rollback",
        ),
        (
            Decision::Wait(Wait::TrafficSplitMismatch),
            "canary got 0.3% of 12400 requests, expected 10%: routing fault, version not judged",
        ),
        (Decision::Wait(Wait::MetricsUnavailable), "2 of 3 proxies silent for 25s; last verdict kept"),
    ];
    for (decision, wanted) in cases {
        assert_eq!(sentence(decision, &facts, Some(25)), wanted);
    }
}

#[test]
fn rates_keep_what_matters() {
    let cases =
        [(0.0, "0%"), (0.011, "0.011%"), (0.31, "0.3%"), (1.04, "1.0%"), (5.0, "5%"), (26.4, "26%"), (0.1, "0.1%")];
    for (value, wanted) in cases {
        assert_eq!(percent(value), wanted);
    }
}
