//! Known answers, computed with exact integer binomials and 40-digit arithmetic by other code.

use super::super::config::{CAP, Config};
use super::super::evidence::Evidence;
use super::super::kernel::mixture;
use super::super::kernel::tests::mk_table;
use super::super::lanes::{CrashStep, ErrorStep, Lane, latency_step};
use super::super::margins::{Margins, Spread};

fn margins() -> Margins {
    Margins::new(&Config::default(), &Spread::default(), 1)
}

fn step(counts: (u64, u64, u64, u64), phi: f64) -> ErrorStep {
    ErrorStep::new(mk_table(counts.0, counts.1, counts.2, counts.3), &Config::default(), &margins(), phi)
}

fn near(seen: f64, wanted: f64, within: f64) {
    assert!((seen - wanted).abs() <= within, "seen {seen:.12}, wanted {wanted:.12}");
}

fn total(evidence: &Evidence) -> f64 {
    Evidence::total(&Lane::ALL.map(|lane| evidence.lane(lane)))
}

#[test]
fn lane_mixtures_meet_their_known_answers() {
    let known = [
        ((50, 1, 450, 0), 1.0, [1.504856595, 0.430798566, 1.541128705, -0.719844149], 0.929456),
        ((50, 2, 450, 0), 1.0, [3.196676606, 2.882218610, 3.354030560, 0.375190504], 3.473603),
        ((50, 2, 450, 0), 2.0, [1.510449237, 1.143605082, 1.546466113, -0.073489219], 1.213624),
        ((50, 0, 450, 4), 1.0, [-1.766224167, -1.323112714, -1.356385172, -1.559624145], 0.696668),
        ((50, 3, 450, 4), 1.0, [0.805747136, 5.924239573, 1.130909859, 1.807940866], 1.295603),
    ];
    for (counts, phi, lanes, wanted) in known {
        let step = step(counts, phi);
        let seen = [&step.error[..], &step.error_floor, &step.slo, &step.slo_floor].map(mixture);
        for (seen, wanted) in seen.into_iter().zip(lanes) {
            near(seen, wanted, 1e-9);
        }
        let mut evidence = Evidence::new();
        evidence.add_errors(mk_table(counts.0, counts.1, counts.2, counts.3), &step, f64::INFINITY);
        near(total(&evidence), wanted, 6e-7);
    }
}

#[test]
fn the_crash_lane_meets_its_known_answers() {
    for (table, rel, abs, wanted) in [
        (mk_table(7, 7, 63, 0), 13.024468774, 8.500869045, 246.0021),
        (mk_table(10, 5, 90, 0), 7.169046503, 0.545978140, 0.9),
    ] {
        let step = CrashStep::new(table);
        near(mixture(&step.crash), rel, 1e-9);
        near(mixture(&step.crash_floor), abs, 1e-9);
        let mut evidence = Evidence::new();
        evidence.add_crash(table, &step);
        near(total(&evidence), wanted, 6e-5);
    }
}

#[test]
fn the_latency_lane_meets_its_known_answers() {
    for (pairs, wanted) in [
        ([(31, 225), (16, 112), (7, 45), (3, 22), (1, 5)], -0.335356823),
        ([(43, 225), (32, 113), (20, 45), (13, 23), (4, 5)], 11.921789215),
    ] {
        let tables = pairs.map(|(canary, stable)| mk_table(50, canary, 450, stable));
        let step = latency_step(&tables, &[1.0; 5]);
        near(mixture(&step), wanted, 1e-9);
        let mut evidence = Evidence::new();
        evidence.add_latency(&tables, &step, CAP);
        near(2.0 * evidence.lane(Lane::Latency) - 1.0, wanted.min(CAP).exp(), 1e-7);
    }
}

#[test]
fn two_strata_decide_and_one_cannot() {
    let mut evidence = Evidence::new();
    for wanted in [8.9289, 274.8083, 9079.5257, 300651.7210] {
        evidence.add_errors(mk_table(50, 5, 450, 1), &step((50, 5, 450, 1), 1.0), CAP);
        near(total(&evidence), wanted, 6e-5);
    }
}

#[test]
fn five_percent_errors_cross_the_bound_at_the_seventh_stratum() {
    let mut evidence = Evidence::new();
    let strata = [
        ((51, 3, 450, 5), 1.0658),
        ((51, 3, 450, 5), 2.0297),
        ((51, 3, 449, 5), 5.8182),
        ((51, 3, 449, 5), 21.6519),
        ((51, 2, 449, 5), 32.6964),
        ((50, 2, 449, 5), 53.8378),
        ((50, 2, 449, 4), 121.4101),
    ];
    for (c, wanted) in strata {
        evidence.add_errors(mk_table(c.0, c.1, c.2, c.3), &step(c, 1.0), CAP);
        near(total(&evidence), wanted, 6e-5);
    }
}

#[test]
fn order_of_strata_does_not_matter_without_a_cap() {
    let strata = [(50, 1, 450, 0), (60, 0, 440, 3), (50, 3, 450, 4), (10, 0, 90, 0)];
    let run = |order: &[usize]| {
        let mut evidence = Evidence::new();
        for at in order {
            let c = strata[*at];
            evidence.add_errors(mk_table(c.0, c.1, c.2, c.3), &step(c, 1.0), f64::INFINITY);
        }
        total(&evidence)
    };
    near(run(&[0, 1, 2, 3]), run(&[3, 2, 0, 1]), 1e-12);
}

#[test]
fn an_epoch_that_stops_growing_keeps_its_evidence() {
    let mut evidence = Evidence::new();
    for minute in 0..200 {
        evidence.add_errors(mk_table(50, 1, 450, 2), &step((50, 1, 450, 2), 1.0), CAP);
        let before = total(&evidence);
        evidence.start_epoch(60 * (minute + 1));
        near(total(&evidence), before, 1e-9 * before);
    }
    let before = total(&evidence);
    let journalled = evidence.journalled();
    assert!(total(&journalled) <= before && total(&journalled) > 0.998 * before);
    assert!(journalled.is_sound());
}
