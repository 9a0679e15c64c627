//! Every cell of the tables: a world, a rate, a plan, a judge, and how many runs.

use crate::run::{Judge, Plan};
use crate::world::{Disturbance, World, at_odds};

/// One cell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cell {
    pub(crate) world: World,
    pub(crate) rps: u32,
    pub(crate) plan: Plan,
    pub(crate) judge: Judge,
}

/// A named world.
pub(crate) type Named = (&'static str, World);

pub(crate) const RATES: [u32; 4] = [1, 10, 100, 1000];
pub(crate) const WEIGHTS: [u8; 3] = [10, 25, 50];
pub(crate) const HORIZON_S: u32 = 1_800;
pub(crate) const F60X5: Judge = Judge::Flagger(60, 5);
pub(crate) const F10X1: Judge = Judge::Flagger(10, 1);
pub(crate) const F10X2: Judge = Judge::Flagger(10, 2);
pub(crate) const ONSETS_S: [u32; 4] = [0, 120, 600, 1_800];

/// What goes wrong in tables A and C.
pub(crate) const EFFECTS: [Named; 6] = [
    ("err 0.1%→1%", World::errors(0.001, 0.01)),
    ("err 0.1%→5%", World::errors(0.001, 0.05)),
    ("err 0.1%→50%", World::errors(0.001, 0.5)),
    ("err 1%→5%", World::errors(0.01, 0.05)),
    ("lat +20%", World::slow(1.2)),
    ("lat ×2", World::slow(2.0)),
];

/// Healthy canaries of table B.
pub(crate) const NULLS: [Named; 7] = [
    ("iid, 0.1 % errors", World::healthy(0.001)),
    ("iid, 0.5 % errors", World::healthy(0.005)),
    ("iid, 1 % errors (= SLO)", World::healthy(0.01)),
    ("shared incidents", World::disturbed(0.001, Disturbance::SharedIncidents)),
    ("pod bursts", World::disturbed(0.001, Disturbance::PodBursts)),
    ("cold start 30 s", World::disturbed(0.001, Disturbance::ColdStart)),
    ("odd canary pod", World::disturbed(0.001, Disturbance::OddCanary { odds: 0.2, latency: 0.03 })),
];

/// Healthy, and every request takes the same time.
pub(crate) const CONSTANT: Named = ("constant latency", World::disturbed(0.001, Disturbance::ConstantLatency));

/// Canaries exactly on the tolerated margin.
pub(crate) fn edges() -> [Named; 3] {
    [
        ("edge: odds ×1.5 of 0.5 %", World::errors(0.005, at_odds(0.005, 1.5))),
        ("edge: odds ×1.25 of 1 %", World::errors(0.01, at_odds(0.01, 1.25))),
        ("edge: latency +9.05 %", World::slow(1.0905)),
    ]
}

/// What goes wrong late, in table D.
pub(crate) const LATE: [Named; 4] = [
    ("0.1→5 %", World::errors(0.001, 0.05)),
    ("1→5 %", World::errors(0.01, 0.05)),
    ("lat +20 %", World::slow(1.2)),
    ("lat ×2", World::slow(2.0)),
];

/// Pods that differ for good, in table E: what differs, base rate, standard deviation.
pub(crate) const ODD_PODS: [Named; 6] = [
    ("log-odds .2, base 0.1 %", World::disturbed(0.001, Disturbance::OddPods { odds: 0.2, latency: 0.0 })),
    ("log-odds .2, base 1 %", World::disturbed(0.01, Disturbance::OddPods { odds: 0.2, latency: 0.0 })),
    ("log-odds .4, base 1 %", World::disturbed(0.01, Disturbance::OddPods { odds: 0.4, latency: 0.0 })),
    ("log-latency .03", World::disturbed(0.001, Disturbance::OddPods { odds: 0.0, latency: 0.03 })),
    ("log-latency .06", World::disturbed(0.001, Disturbance::OddPods { odds: 0.0, latency: 0.06 })),
    ("log-latency .10", World::disturbed(0.001, Disturbance::OddPods { odds: 0.0, latency: 0.10 })),
];

pub(crate) const fn held(world: World, rps: u32, weight: u8, judge: Judge) -> Cell {
    Cell { world, rps, plan: Plan::Held(weight, HORIZON_S), judge }
}

pub(crate) const fn rollout(world: World, rps: u32, judge: Judge) -> Cell {
    Cell { world, rps, plan: Plan::Rollout, judge }
}

/// A canary that is healthy for `onset_s`, at weight 25 and 100 requests a second.
pub(crate) const fn late(world: World, onset_s: u32, judge: Judge) -> Cell {
    let world = World { onset_s, ..world };
    Cell { world, rps: 100, plan: Plan::Held(25, onset_s + HORIZON_S), judge }
}

/// All cells of the tables named in `tables`, each with its number of runs.
pub(crate) fn cells(tables: &str) -> Vec<(Cell, u32)> {
    let mut out = Vec::new();
    let with = |table: char| tables.contains(table);
    for (_, world) in EFFECTS {
        for rps in RATES {
            for judge in [Judge::Engine, F60X5, F10X1, F10X2] {
                if with('A') {
                    out.extend(WEIGHTS.map(|weight| (held(world, rps, weight, judge), 300)));
                }
            }
            for judge in [Judge::Engine, F60X5, F10X2] {
                if with('C') {
                    out.push((rollout(world, rps, judge), if rps == 1000 { 200 } else { 400 }));
                }
            }
        }
    }
    if with('B') {
        out.extend(false_rollbacks());
    }
    for (_, world) in LATE {
        for onset in ONSETS_S {
            if with('D') {
                out.push((late(world, onset, Judge::Engine), 300));
                out.push((late(world, onset, F60X5), 300));
            }
        }
    }
    for (_, world) in ODD_PODS {
        for rps in [10, 100, 1000] {
            if with('E') {
                out.push((rollout(world, rps, Judge::Engine), if rps == 1000 { 200 } else { 400 }));
            }
        }
    }
    if with('R') {
        out.push((held(EFFECTS[1].1, 100, 10, Judge::Restarted), 300));
    }
    out
}

fn false_rollbacks() -> Vec<(Cell, u32)> {
    let mut out = Vec::new();
    for rps in RATES {
        for (_, world) in NULLS {
            out.push((rollout(world, rps, Judge::Engine), 1_000));
            out.push((rollout(world, rps, Judge::Restarted), 400));
            for judge in [F60X5, F10X1, F10X2] {
                out.push((rollout(world, rps, judge), 800));
            }
            for judge in [Judge::Engine, F60X5, F10X2] {
                out.push((held(world, rps, 10, judge), if rps == 1000 { 200 } else { 400 }));
            }
        }
        out.extend(edges().map(|(_, world)| (rollout(world, rps, Judge::Engine), 1_000)));
        out.push((rollout(CONSTANT.1, rps, Judge::Engine), if rps == 1000 { 200 } else { 400 }));
    }
    out
}

/// A part of the cells and of the runs, enough for every bar, for the tests.
pub(crate) fn reduced() -> Vec<(Cell, u32)> {
    let mut out = Vec::new();
    let effects = |indices: &[usize]| indices.iter().map(|i| EFFECTS[*i].1).collect::<Vec<_>>();
    for world in effects(&[0, 1, 2, 3, 4, 5]) {
        out.extend([100, 1000].map(|rps| (held(world, rps, 10, Judge::Engine), 20)));
    }
    out.push((held(EFFECTS[2].1, 10, 10, Judge::Engine), 40));
    out.push((held(EFFECTS[2].1, 1, 10, Judge::Engine), 40));
    out.push((held(EFFECTS[5].1, 10, 10, Judge::Engine), 40));
    for rps in RATES {
        out.extend(NULLS.map(|(_, world)| (rollout(world, rps, Judge::Engine), 8)));
        out.extend(edges().map(|(_, world)| (rollout(world, rps, Judge::Engine), 8)));
    }
    out.extend([10, 100].map(|rps| (rollout(CONSTANT.1, rps, Judge::Engine), 8)));
    out.extend(NULLS.map(|(_, world)| (rollout(world, 100, Judge::Restarted), 8)));
    for world in effects(&[0, 1, 4]) {
        // 40 of the first: enough to see that pods which differ by chance widen no margin.
        out.extend([(100, 40), (1000, 10)].map(|(rps, runs)| (rollout(world, rps, Judge::Engine), runs)));
    }
    out.push((rollout(EFFECTS[1].1, 10, Judge::Engine), 20));
    out.extend([0, 2].map(|late_one| (late(LATE[late_one].1, 600, Judge::Engine), 20)));
    out.push((held(EFFECTS[1].1, 100, 10, Judge::Restarted), 20));
    out.push((rollout(ODD_PODS[5].1, 1000, Judge::Engine), 10));
    out
}
