//! What was measured against what was promised: a table for people, JSON for machines. Pure but for [`Report::write`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::peers::{Kind, Peer};

/// Everything that a run has found out.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    machine: String,
    versions: BTreeMap<&'static str, String>,
    figures: Vec<Figure>,
    bars: Vec<Bar>,
}

/// One number per proxy.
#[derive(Debug, Serialize)]
struct Figure {
    row: &'static str,
    what: String,
    values: BTreeMap<&'static str, f64>,
}

/// A promise, and what came of it.
#[derive(Debug, Serialize)]
struct Bar {
    row: &'static str,
    what: String,
    limit: String,
    /// Absent if it could not be measured.
    measured: Option<f64>,
    holds: bool,
    /// Why it could not be measured, or what to know about the number.
    note: String,
}

/// What a number must be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Limit {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(limit) => format!("≤ {limit}"),
            Self::AtLeast(limit) => format!("≥ {limit}"),
        }
    }
}

impl Report {
    pub(crate) fn new(machine: String, peers: &[Peer]) -> Self {
        let versions = peers.iter().map(|peer| (peer.kind.name(), peer.version.clone())).collect();
        Self { machine, versions, ..Self::default() }
    }

    pub(crate) fn figure(&mut self, row: &'static str, what: &str, values: &[(Kind, f64)]) {
        let values: BTreeMap<_, _> = values.iter().map(|(kind, value)| (kind.name(), *value)).collect();
        let figure = Figure { row, what: what.to_owned(), values };
        println!("{}", line(&figure));
        self.figures.push(figure);
    }

    pub(crate) fn bar(&mut self, row: &'static str, what: &str, limit: Limit, measured: Option<f64>, note: &str) {
        let holds = measured.is_some_and(|value| limit.holds(value));
        let bar = Bar { row, what: what.to_owned(), limit: limit.text(), measured, holds, note: note.to_owned() };
        println!("{}", verdict(&bar));
        self.bars.push(bar);
    }

    /// The whole table once more.
    pub(crate) fn table(&self) -> String {
        let mut out = format!("\n{}\n", self.machine);
        let versions: Vec<_> = self.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let _ = writeln!(out, "{}\n", versions.join(", "));
        let mut row = "";
        for figure in &self.figures {
            if figure.row != row {
                row = figure.row;
                let _ = write!(out, "{:<44}", format!("[{row}]"));
                for kind in Kind::ALL {
                    let _ = write!(out, "{:>15}", kind.name());
                }
                out.push('\n');
            }
            let _ = writeln!(out, "{}", line(figure));
        }
        out.push('\n');
        for bar in &self.bars {
            let _ = writeln!(out, "{}", verdict(bar));
        }
        out
    }

    /// What fell short, one line each.
    pub(crate) fn short(&self) -> Vec<String> {
        self.bars.iter().filter(|bar| !bar.holds).map(verdict).collect()
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

fn line(figure: &Figure) -> String {
    let mut out = format!("{:<44}", figure.what);
    for kind in Kind::ALL {
        match figure.values.get(kind.name()) {
            Some(value) if *value >= 1_000.0 => write!(out, "{value:>15.0}"),
            Some(value) => write!(out, "{value:>15.2}"),
            None => write!(out, "{:>15}", "–"),
        }
        .unwrap_or_default();
    }
    out
}

fn verdict(bar: &Bar) -> String {
    let Bar { row, what, limit, measured, holds, note } = bar;
    let measured = measured.map_or("not measured".to_owned(), |value| format!("{value:.3}"));
    let (mark, note) = (if *holds { "ok  " } else { "FAIL" }, if note.is_empty() { "" } else { &format!(" ({note})") });
    format!("{mark} [{row}] {what}: {measured}, must be {limit}{note}")
}

/// The middle one; the mean of the middle two.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}
