//! The tables A to E in Markdown.

use crate::catalogue::{
    EFFECTS, F10X1, F10X2, F60X5, LATE, NULLS, ODD_PODS, ONSETS_S, RATES, WEIGHTS, edges, held, late, rollout,
};
use crate::results::{Results, Summary};
use crate::run::Judge;

fn whole(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |v| format!("{v:.0}"))
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(" / ")
}

fn percent(summary: Summary<'_>) -> String {
    let percent = summary.rolled_back_percent();
    if percent == percent.round() { format!("{percent:.0}") } else { format!("{percent:.1}") }
}

pub(crate) fn table_a(results: &Results) -> String {
    let mut out = String::from(
        "### Table A. Seconds to the rollback, weight held at 10 / 25 / 50 (30 min; median, engine: median[p90])\n\n\
         | effect | rps | F60×5 | F10×1 | F10×2 | engine | failed requests F60×5 | failed requests engine |\n|---|---|---|---|---|---|---|---|\n",
    );
    for (name, world) in EFFECTS {
        for rps in RATES {
            let per_weight = |judge, value: &dyn Fn(Summary<'_>) -> String| {
                joined(WEIGHTS.into_iter().map(|w| value(results.of(held(world, rps, w, judge)))))
            };
            let median = |s: Summary<'_>| whole(s.detection_s(0.5));
            let both = |s: Summary<'_>| match s.detection_s(0.9) {
                Some(p90) => format!("{}[{p90:.0}]", whole(s.detection_s(0.5))),
                None => whole(s.detection_s(0.5)),
            };
            let failed = |s: Summary<'_>| whole(s.failed());
            out += &format!(
                "| {name} | {rps} | {} | {} | {} | {} | {} | {} |\n",
                per_weight(F60X5, &median),
                per_weight(F10X1, &median),
                per_weight(F10X2, &median),
                per_weight(Judge::Engine, &both),
                per_weight(F60X5, &failed),
                per_weight(Judge::Engine, &failed),
            );
        }
    }
    out
}

pub(crate) fn table_b(results: &Results) -> String {
    let mut out = String::from(
        "### Table B. False rollbacks in percent, at 1 / 10 / 100 / 1000 rps\n\n\
         | healthy world | F60×5 rollout | F10×1 rollout | F10×2 rollout | engine rollout | F60×5 30 min | F10×2 30 min | engine 30 min |\n|---|---|---|---|---|---|---|---|\n",
    );
    for (name, world) in NULLS {
        let whole = |judge| joined(RATES.into_iter().map(|rps| percent(results.of(rollout(world, rps, judge)))));
        let half_hour = |judge| joined(RATES.into_iter().map(|rps| percent(results.of(held(world, rps, 10, judge)))));
        out += &format!(
            "| {name} | {} | {} | {} | **{}** | {} | {} | **{}** |\n",
            whole(F60X5),
            whole(F10X1),
            whole(F10X2),
            whole(Judge::Engine),
            half_hour(F60X5),
            half_hour(F10X2),
            half_hour(Judge::Engine)
        );
    }
    out += "\n| exactly on the margin | engine rollout |\n|---|---|\n";
    for (name, world) in edges() {
        let rates = joined(RATES.into_iter().map(|rps| percent(results.of(rollout(world, rps, Judge::Engine)))));
        out += &format!("| {name} | {rates} |\n");
    }
    out
}

pub(crate) fn table_c(results: &Results) -> String {
    let mut out = String::from(
        "### Table C. Whole rollout 10 → 25 → 50, at 1 / 10 / 100 / 1000 rps\n\n\
         | canary | rolled back %, F60×5 | F10×2 | engine | median s to the outcome, F60×5 | engine | mean failed canary requests, F60×5 | engine |\n|---|---|---|---|---|---|---|---|\n",
    );
    for (name, world) in EFFECTS {
        let each = |judge, value: &dyn Fn(Summary<'_>) -> String| {
            joined(RATES.into_iter().map(|rps| value(results.of(rollout(world, rps, judge)))))
        };
        let end = |s: Summary<'_>| whole(s.end_s(0.5));
        let failed = |s: Summary<'_>| format!("{:.0}", s.mean_failed());
        out += &format!(
            "| {name} | {} | {} | **{}** | {} | {} | {} | {} |\n",
            each(F60X5, &percent),
            each(F10X2, &percent),
            each(Judge::Engine, &percent),
            each(F60X5, &end),
            each(Judge::Engine, &end),
            each(F60X5, &failed),
            each(Judge::Engine, &failed)
        );
    }
    out
}

pub(crate) fn table_d(results: &Results) -> String {
    let mut out = String::from(
        "### Table D. Healthy for T0, then bad (100 rps, weight 25): seconds after T0, engine median[p90]; F60×5 median\n\n\
         | | T0 = 0 | 120 s | 600 s | 1800 s |\n|---|---|---|---|---|\n",
    );
    for (name, world) in LATE {
        let cell = |onset: u32| {
            let after = |s: Option<f64>| match s.map(|s| s - f64::from(onset)) {
                Some(s) if s <= 0.0 => "early".to_owned(),
                s => whole(s),
            };
            let engine = results.of(late(world, onset, Judge::Engine));
            let flagger = results.of(late(world, onset, F60X5));
            format!(
                "{}[{}]; {}",
                after(engine.detection_s(0.5)),
                after(engine.detection_s(0.9)),
                after(flagger.detection_s(0.5))
            )
        };
        out += &format!("| {name} | {} |\n", ONSETS_S.map(cell).join(" | "));
    }
    out
}

pub(crate) fn table_e(results: &Results) -> String {
    let mut out = String::from(
        "### Table E. Pods that differ for good, same code: false rollbacks in percent per rollout\n\n\
         | between-pod deviation | 10 rps | 100 rps | 1000 rps |\n|---|---|---|---|\n",
    );
    for (name, world) in ODD_PODS {
        let cells = [10, 100, 1000].map(|rps| percent(results.of(rollout(world, rps, Judge::Engine))));
        out += &format!("| {name} | {} |\n", cells.join(" | "));
    }
    out
}
