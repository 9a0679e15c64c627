//! Two plots as SVG: how long a bad canary stays, and how often a good one is taken off.

use std::fmt::Write as _;
use std::path::Path;

use crate::catalogue::{EFFECTS, F10X2, F60X5, NULLS, RATES, held, rollout};
use crate::results::Results;
use crate::run::Judge;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 190.0;
const ROW: f64 = 22.0;
const TOP: f64 = 64.0;

/// What a bar is drawn as.
struct Series {
    name: &'static str,
    colour: &'static str,
}

const SERIES: [Series; 3] = [
    Series { name: "Sluice", colour: "#0b7a75" },
    Series { name: "Flagger 60 s × 5", colour: "#d97706" },
    Series { name: "Flagger 10 s × 2", colour: "#9ca3af" },
];

pub(crate) fn write_all(folder: &Path, results: &Results) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("verdict-detection.svg"), detection(results))?;
    std::fs::write(folder.join("verdict-false-rollbacks.svg"), false_rollbacks(results))
}

/// Rows of a bar chart: a label, and per series a length of 0 to 1 with its text; `None`: never.
type Row = (String, Vec<(f64, String)>);

fn chart(title: &str, subtitle: &str, series: &[Series], rows: &[Row]) -> String {
    let group = ROW * series.len() as f64 * 0.62 + 10.0;
    let height = TOP + group * rows.len() as f64 + 16.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"16\" y=\"24\" font-size=\"15\" font-weight=\"600\">{title}</text>\n\
         <text x=\"16\" y=\"44\" fill=\"#555\">{subtitle}</text>\n"
    );
    for (at, Series { name, colour }) in series.iter().enumerate() {
        let x = WIDTH - 130.0 * (series.len() - at) as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"14\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"{}\" y=\"23\">{name}</text>",
            x + 14.0
        );
    }
    for (at, (label, bars)) in rows.iter().enumerate() {
        let y = TOP + group * at as f64;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT - 10.0,
            y + group / 2.0
        );
        for ((length, text), (i, Series { colour, .. })) in bars.iter().zip(series.iter().enumerate()) {
            let y = y + 2.0 + ROW * 0.62 * i as f64;
            let width = (WIDTH - LEFT - 110.0) * length;
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"11\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{:.1}\" font-size=\"11\">{text}</text>",
                width.max(1.0),
                LEFT + width.max(1.0) + 5.0,
                y + 9.5
            );
        }
    }
    svg + "</svg>\n"
}

/// Logarithmic in seconds, from 1 s to half an hour.
fn detection(results: &Results) -> String {
    let bar = |seconds: Option<f64>| match seconds {
        Some(s) => ((s.max(1.0).ln() / 1_800_f64.ln()).min(1.0), format!("{s:.0} s")),
        None => (1.0, "not in 30 min".to_owned()),
    };
    let mut rows = Vec::new();
    for (name, world) in EFFECTS {
        for rps in [10, 100, 1000] {
            let seconds = |judge| results.of(held(world, rps, 10, judge)).detection_s(0.5);
            rows.push((format!("{name}, {rps} rps"), vec![bar(seconds(Judge::Engine)), bar(seconds(F60X5))]));
        }
    }
    chart("Time to the rollback of a bad canary", "weight 10, median, logarithmic", &SERIES[..2], &rows)
}

fn false_rollbacks(results: &Results) -> String {
    let mut rows = Vec::new();
    for (name, world) in NULLS {
        let bar = |judge| {
            let percent = RATES
                .into_iter()
                .map(|rps| results.of(rollout(world, rps, judge)).rolled_back_percent())
                .fold(0.0, f64::max);
            (percent / 100.0, format!("{percent:.1} %"))
        };
        rows.push((name.to_owned(), vec![bar(Judge::Engine), bar(F60X5), bar(F10X2)]));
    }
    chart("Healthy canaries that are rolled back", "whole rollout, worst of 1 to 1,000 rps", &SERIES, &rows)
}
