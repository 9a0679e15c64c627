//! Requests under way, connections to endpoints, and how the limits of `connectionPool` stand. Reads only.

use std::fmt::{self, Write as _};

use proxy_api::metrics as names;
use routing::{Arm, Table};

use super::page::{Kind, Page};
use super::{Shown, arm_labels};
use crate::gate::{PoolLimit, Standing};
use crate::stats::Registry;

/// Of every arm that was asked something.
pub(super) fn under_way(out: &mut Page, series: &[Shown]) -> fmt::Result {
    let name = names::REQUESTS_IN_FLIGHT;
    out.head(name, Kind::Gauge, "Requests begun and not over, those that wait for a connection included.")?;
    for Shown { labels, totals, .. } in series {
        writeln!(out, "{name}{{{labels}}} {}", totals.in_flight)?;
    }
    let (name, label) = (names::UPSTREAM_CONNECTIONS, names::LABEL_STATE);
    out.head(name, Kind::Gauge, "Open connections to endpoints, with a request under way or without.")?;
    for Shown { labels, totals, .. } in series {
        writeln!(out, "{name}{{{labels},{label}=\"active\"}} {}", totals.active_connections)?;
        writeln!(out, "{name}{{{labels},{label}=\"idle\"}} {}", totals.idle_connections)?;
    }
    Ok(())
}

/// Only of arms that have such limits.
pub(super) fn limits(out: &mut Page, registry: &Registry, table: &Table) -> fmt::Result {
    let mut standings = Vec::new();
    for route in table.routes().values().filter(|route| route.pool.limited()) {
        for arm in Arm::ALL {
            let Some(gate) = registry.gates().find(&route.uid, arm) else { continue };
            for (limit, name) in PoolLimit::ALL {
                let labels = format!("{},{}=\"{name}\"", arm_labels(route, arm), names::LABEL_LIMIT);
                standings.extend(gate.standing(limit).map(|standing| (labels, standing)));
            }
        }
    }
    let mut family = |name, kind, help, value: fn(&Standing) -> u64| {
        out.head(name, kind, help)?;
        standings.iter().try_for_each(|(labels, standing)| writeln!(out, "{name}{{{labels}}} {}", value(standing)))
    };
    family(names::POOL_LIMIT, Kind::Gauge, "Limits of an arm in force.", |standing| standing.limit.into())?;
    family(names::POOL_USED, Kind::Gauge, "What an arm uses of its limits.", |standing| standing.used.into())?;
    family(names::POOL_OVERFLOWS_TOTAL, Kind::Counter, "Requests refused because of an arm's limit.", |standing| {
        standing.overflows
    })
}
