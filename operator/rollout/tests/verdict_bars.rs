//! The bars of the verdict engine on a part of the runs that `verdict_bench` makes, with the same seeds.

#![allow(clippy::disallowed_methods, reason = "the crate is pure; what measures it needs a clock")]

#[path = "../examples/verdict_bench/bars.rs"]
mod bars;
#[path = "../examples/verdict_bench/catalogue.rs"]
#[allow(dead_code, reason = "the tables are not printed here")]
mod catalogue;
#[path = "../examples/verdict_bench/random.rs"]
mod random;
#[path = "../examples/verdict_bench/results.rs"]
#[allow(dead_code, reason = "the tables are not printed here")]
mod results;
#[path = "../examples/verdict_bench/run.rs"]
#[allow(dead_code, reason = "the tables are not printed here")]
mod run;
#[path = "../examples/verdict_bench/world.rs"]
mod world;

use std::collections::BTreeSet;

/// The default seed of `verdict_bench`.
const SEED: u64 = 5;

#[test]
fn every_bar_holds_on_the_reduced_set() {
    let buckets = world::buckets();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let cells = catalogue::reduced();
    let results = results::Results::compute(&cells, SEED, threads, &buckets, |_, _| {});
    let bars = bars::bars(&results, &buckets);
    let told: Vec<String> = bars
        .iter()
        .map(|b| format!("{} {} {}: {}", if b.passed { "pass" } else { "FAIL" }, b.id, b.demand, b.seen))
        .collect();
    println!("seed {SEED}\n{}", told.join("\n"));
    let named: BTreeSet<&str> = bars.iter().map(|b| b.id).collect();
    let wanted = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B9", "B10", "B11", "B12", "B13", "B15", "E"];
    assert_eq!(named, wanted.into_iter().collect(), "every bar is looked at");
    let failed: Vec<&String> = told.iter().filter(|t| t.starts_with("FAIL")).collect();
    assert!(failed.is_empty(), "seed {SEED}: {failed:#?}");
}

#[test]
fn flagger_needs_six_minutes_and_takes_off_healthy_canaries() {
    let buckets = world::buckets();
    let cells = [
        (catalogue::held(catalogue::EFFECTS[3].1, 100, 10, catalogue::F60X5), 30),
        (catalogue::rollout(catalogue::NULLS[5].1, 100, catalogue::F10X2), 30),
    ];
    let results = results::Results::compute(&cells, SEED, 1, &buckets, |_, _| {});
    assert_eq!(results.of(cells[0].0).detection_s(0.5), Some(360.0));
    assert!(results.of(cells[1].0).rolled_back_percent() > 90.0, "a cold start is no fault");
}

#[test]
fn random_numbers_have_their_means_and_variances() {
    let mut random = random::Random::new(SEED);
    let mut check = |name: &str, mean: f64, variance: f64, draw: &mut dyn FnMut(&mut random::Random) -> f64| {
        let draws: Vec<f64> = (0..40_000).map(|_| draw(&mut random)).collect();
        let seen = draws.iter().sum::<f64>() / 40_000.0;
        let spread = draws.iter().map(|d| (d - seen).powi(2)).sum::<f64>() / 40_000.0;
        assert!((seen - mean).abs() < 5.0 * (variance / 40_000.0).sqrt(), "{name}: mean {seen}, wanted {mean}");
        assert!((spread / variance - 1.0).abs() < 0.06, "{name}: variance {spread}, wanted {variance}");
    };
    for mean in [0.3, 5.0, 30.0, 900.0] {
        check("poisson", mean, mean, &mut |r| r.poisson(mean) as f64);
    }
    for (n, p) in [(10, 0.2), (200, 0.9), (1_000, 0.3), (5_000, 0.001)] {
        let mean = n as f64 * p;
        check("binomial", mean, mean * (1.0 - p), &mut |r| r.binomial(n, p) as f64);
    }
    check("normal", 0.0, 1.0, &mut random::Random::normal);
}
