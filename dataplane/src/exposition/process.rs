//! Series of the whole process: connections of clients, what was refused, limits, the access log and traces. Reads only.

use std::fmt::{self, Write as _};
use std::sync::atomic::Ordering::Relaxed;

use proxy_api::metrics as names;
use routing::limits::LIMITS;

use super::page::{Kind, Page};
use crate::limits::InForce;
use crate::sight::Counts;
use crate::stats::Registry;

pub(super) fn write(out: &mut Page, registry: &Registry) -> fmt::Result {
    out.head(names::CONNECTIONS, Kind::Gauge, "Open connections from clients.")?;
    writeln!(out, "{} {}", names::CONNECTIONS, registry.open_connections())?;
    out.head(names::HELD_BYTES, Kind::Gauge, "Bytes of HTTP/2 that are held for those who do not take them.")?;
    writeln!(out, "{} {}", names::HELD_BYTES, registry.held().bytes())?;
    out.head(
        names::CONNECTIONS_REFUSED_TOTAL,
        Kind::Counter,
        "Connections closed at once because too many were open.",
    )?;
    writeln!(out, "{} {}", names::CONNECTIONS_REFUSED_TOTAL, registry.refused_connections())?;
    out.head(names::REJECTED_TOTAL, Kind::Counter, "Requests refused before they had a route, by status code.")?;
    for (code, count) in registry.rejected() {
        writeln!(out, "{}{{{}=\"{code}\"}} {count}", names::REJECTED_TOTAL, names::LABEL_CODE)?;
    }
    limits(out, registry.limits())?;
    match registry.sight() {
        None => Ok(()),
        Some(sight) => sight_counts(out, &sight.counts),
    }
}

fn limits(out: &mut Page, in_force: &InForce) -> fmt::Result {
    out.head(names::LIMITED_TOTAL, Kind::Counter, "Connections, requests and streams refused because of a limit.")?;
    for (limit, name, flag) in LIMITS {
        let (metric, label, flag) = (names::LIMITED_TOTAL, names::LABEL_LIMIT, flag.name());
        let count = in_force.reached(limit);
        writeln!(out, "{metric}{{{label}=\"{name}\",{}=\"{flag}\"}} {count}", names::LABEL_FLAG)?;
    }
    out.head(names::LIMIT, Kind::Gauge, "Limits in force; one that has no value is not there.")?;
    let now = in_force.now();
    for (limit, name, _) in LIMITS {
        if let Some(value) = now.value(limit) {
            writeln!(out, "{}{{{}=\"{name}\"}} {value}", names::LIMIT, names::LABEL_LIMIT)?;
        }
    }
    Ok(())
}

/// Only where the access log or traces are on.
fn sight_counts(out: &mut Page, counts: &Counts) -> fmt::Result {
    let (lines, exported, dropped) = (&counts.lines_dropped, &counts.spans_exported, &counts.spans_dropped);
    for (name, help, count) in [
        (names::ACCESS_LOG_DROPPED_TOTAL, "Access log lines that found the queue full or could not be written.", lines),
        (names::SPANS_EXPORTED_TOTAL, "Spans that the collector took.", exported),
        (names::SPANS_DROPPED_TOTAL, "Spans that found the queue full or that no collector took.", dropped),
    ] {
        out.head(name, Kind::Counter, help)?;
        writeln!(out, "{name} {}", count.load(Relaxed))?;
    }
    Ok(())
}
