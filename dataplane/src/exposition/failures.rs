//! What was done about endpoints that failed: attempts made again, pods left out. Reads only.

use std::fmt::{self, Write as _};

use proxy_api::metrics as names;
use routing::{Arm, Table};

use super::page::{Kind, Page};
use super::{Shown, arm_labels};
use crate::stats::Registry;

/// Only of arms that had something to retry: most have not.
pub(super) fn retries(out: &mut Page, series: &[Shown]) -> fmt::Result {
    let has_some = |shown: &&Shown| shown.totals.retries + shown.totals.retries_denied > 0;
    let retrying: Vec<_> = series.iter().filter(has_some).collect();
    out.head(names::RETRIES_TOTAL, Kind::Counter, "Attempts after the first of a request.")?;
    for Shown { labels, totals, .. } in &retrying {
        writeln!(out, "{}{{{labels}}} {}", names::RETRIES_TOTAL, totals.retries)?;
    }
    out.head(names::RETRIES_DENIED_TOTAL, Kind::Counter, "Retries not made because the budget was spent.")?;
    for Shown { labels, totals, .. } in &retrying {
        writeln!(out, "{}{{{labels}}} {}", names::RETRIES_DENIED_TOTAL, totals.retries_denied)?;
    }
    out.head(names::RETRIES_RECOVERED_TOTAL, Kind::Counter, "Requests that only a retry made end well.")?;
    for Shown { labels, totals, .. } in &retrying {
        writeln!(out, "{}{{{labels}}} {}", names::RETRIES_RECOVERED_TOTAL, totals.recovered)?;
    }
    Ok(())
}

/// Only of routes that look for outliers.
pub(super) fn outliers(out: &mut Page, registry: &Registry, table: &Table) -> fmt::Result {
    let (total, active) = (names::OUTLIER_EJECTIONS_TOTAL, names::OUTLIER_EJECTED_ENDPOINTS);
    out.head(total, Kind::Counter, "Endpoints left out because they failed one request after the other.")?;
    for route in table.routes().values() {
        for arm in Arm::ALL {
            if let Some(outliers) = &route.outliers {
                writeln!(out, "{total}{{{}}} {}", arm_labels(route, arm), outliers.ejections(arm))?;
            }
        }
    }
    out.head(active, Kind::Gauge, "Endpoints that are left out now.")?;
    for port in table.ports().values() {
        for arm in Arm::ALL {
            if let Some(ward) = port.ward(arm) {
                writeln!(out, "{active}{{{}}} {}", arm_labels(&port.route, arm), ward.active(registry.now()))?;
            }
        }
    }
    Ok(())
}
