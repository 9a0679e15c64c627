//! The series as Prometheus reads them: text format 0.0.4, names and labels from `proxy_api::metrics`.

use std::fmt::{self, Write as _};
use std::sync::atomic::Ordering::Relaxed;

use proxy_api::metrics as names;
use routing::limits::LIMITS;
use routing::rules::Action;
use routing::{Arm, Route, Table};

use crate::limits::InForce;
use crate::mirror::Fate;
use crate::sight::Counts;
use crate::stats::{BOUNDS_MICROS, Key, Registry, Series, Totals};

/// All series of the process.
#[must_use]
pub fn render(registry: &Registry, table: &Table) -> String {
    let mut text = String::with_capacity(16 * 1024);
    // Writing to a String cannot fail.
    let _ = write(&mut text, registry, table);
    text
}

fn write(out: &mut String, registry: &Registry, table: &Table) -> fmt::Result {
    let series: Vec<_> = registry
        .snapshot()
        .into_iter()
        .map(|(key, series)| (labels(&key, &series), series.totals()))
        .filter(|(_, totals)| totals.started > 0)
        .collect();
    head(out, names::REQUESTS_TOTAL, "counter", "Requests finished, by status code; 0: none was sent.")?;
    for (labels, totals) in &series {
        for (code, count) in &totals.codes {
            writeln!(out, "{}{{{labels},{}=\"{code}\"}} {count}", names::REQUESTS_TOTAL, names::LABEL_CODE)?;
        }
    }
    head(
        out,
        names::RESPONSE_FLAGS_TOTAL,
        "counter",
        "Requests that did not end as an endpoint would have it, by reason.",
    )?;
    for (labels, totals) in &series {
        for (flag, count) in totals.flags.iter().filter(|(_, count)| *count > 0) {
            let (metric, label) = (names::RESPONSE_FLAGS_TOTAL, names::LABEL_FLAG);
            writeln!(out, "{metric}{{{labels},{label}=\"{}\"}} {count}", flag.name())?;
        }
    }
    head(
        out,
        names::REQUEST_DURATION_SECONDS,
        "histogram",
        "Time from the first byte of a request to the last of its answer.",
    )?;
    for (labels, totals) in &series {
        histogram(out, labels, totals)?;
    }
    retries(out, &series)?;
    outliers(out, registry, table)?;
    head(out, names::WEIGHT, "gauge", "Share of the canary in force, in percent.")?;
    for route in table.routes().values() {
        let (namespace, canary, service) = (escape(&route.namespace), escape(&route.canary), escape(&route.service));
        writeln!(
            out,
            "{}{{{}=\"{namespace}\",{}=\"{canary}\",{}=\"{service}\"}} {}",
            names::WEIGHT,
            names::LABEL_NAMESPACE,
            names::LABEL_CANARY,
            names::LABEL_SERVICE,
            route.weight
        )?;
    }
    head(out, names::RULE_ACTIONS_TOTAL, "counter", "Requests that rules answered or delayed themselves, by action.")?;
    for route in table.routes().values() {
        rule_actions(out, route)?;
    }
    mirrors(out, registry)?;
    head(out, names::CONNECTIONS, "gauge", "Open connections from clients.")?;
    writeln!(out, "{} {}", names::CONNECTIONS, registry.open_connections())?;
    head(out, names::CONNECTIONS_REFUSED_TOTAL, "counter", "Connections closed at once because too many were open.")?;
    writeln!(out, "{} {}", names::CONNECTIONS_REFUSED_TOTAL, registry.refused_connections())?;
    head(out, names::REJECTED_TOTAL, "counter", "Requests refused before they had a route, by status code.")?;
    for (code, count) in registry.rejected() {
        writeln!(out, "{}{{{}=\"{code}\"}} {count}", names::REJECTED_TOTAL, names::LABEL_CODE)?;
    }
    limits(out, registry.limits())?;
    match registry.sight() {
        None => Ok(()),
        Some(sight) => sight_counts(out, &sight.counts),
    }
}

fn limits(out: &mut String, in_force: &InForce) -> fmt::Result {
    head(out, names::LIMITED_TOTAL, "counter", "Connections, requests and streams refused because of a limit.")?;
    for (limit, name, flag) in LIMITS {
        let (metric, label, flag) = (names::LIMITED_TOTAL, names::LABEL_LIMIT, flag.name());
        let count = in_force.reached(limit);
        writeln!(out, "{metric}{{{label}=\"{name}\",{}=\"{flag}\"}} {count}", names::LABEL_FLAG)?;
    }
    head(out, names::LIMIT, "gauge", "Limits in force; one that has no value is not there.")?;
    let now = in_force.now();
    for (limit, name, _) in LIMITS {
        if let Some(value) = now.value(limit) {
            writeln!(out, "{}{{{}=\"{name}\"}} {value}", names::LIMIT, names::LABEL_LIMIT)?;
        }
    }
    Ok(())
}

/// Only where the access log or traces are on.
fn sight_counts(out: &mut String, counts: &Counts) -> fmt::Result {
    let (lines, exported, dropped) = (&counts.lines_dropped, &counts.spans_exported, &counts.spans_dropped);
    for (name, help, count) in [
        (names::ACCESS_LOG_DROPPED_TOTAL, "Access log lines that found the queue full or could not be written.", lines),
        (names::SPANS_EXPORTED_TOTAL, "Spans that the collector took.", exported),
        (names::SPANS_DROPPED_TOTAL, "Spans that found the queue full or that no collector took.", dropped),
    ] {
        head(out, name, "counter", help)?;
        writeln!(out, "{name} {}", count.load(Relaxed))?;
    }
    Ok(())
}

fn rule_actions(out: &mut String, route: &Route) -> fmt::Result {
    let (namespace, canary, service) = (escape(&route.namespace), escape(&route.canary), escape(&route.service));
    for rule in route.rules.iter().flat_map(|rules| rules.iter()) {
        for action in Action::ALL {
            let count = rule.counts.get(action);
            if count > 0 {
                writeln!(
                    out,
                    "{}{{{}=\"{namespace}\",{}=\"{canary}\",{}=\"{service}\",{}=\"{}\",{}=\"{}\"}} {count}",
                    names::RULE_ACTIONS_TOTAL,
                    names::LABEL_NAMESPACE,
                    names::LABEL_CANARY,
                    names::LABEL_SERVICE,
                    names::LABEL_RULE,
                    escape(&rule.name),
                    names::LABEL_ACTION,
                    action.label(),
                )?;
            }
        }
    }
    Ok(())
}

fn mirrors(out: &mut String, registry: &Registry) -> fmt::Result {
    head(out, names::MIRRORED_REQUESTS_TOTAL, "counter", "Copies of requests for the canary, by what became of them.")?;
    for mirrored in registry.mirrors().snapshot() {
        for (fate, result) in Fate::ALL {
            writeln!(
                out,
                "{}{{{}=\"{}\",{}=\"{}\",{}=\"{}\",{}=\"{result}\"}} {}",
                names::MIRRORED_REQUESTS_TOTAL,
                names::LABEL_NAMESPACE,
                escape(&mirrored.namespace),
                names::LABEL_CANARY,
                escape(&mirrored.canary),
                names::LABEL_SERVICE,
                escape(&mirrored.service),
                names::LABEL_RESULT,
                mirrored.count(fate)
            )?;
        }
    }
    Ok(())
}

/// Only of arms that had something to retry: most have not.
fn retries(out: &mut String, series: &[(String, Totals)]) -> fmt::Result {
    let retrying: Vec<_> = series.iter().filter(|(_, totals)| totals.retries + totals.retries_denied > 0).collect();
    head(out, names::RETRIES_TOTAL, "counter", "Attempts after the first of a request.")?;
    for (labels, totals) in &retrying {
        writeln!(out, "{}{{{labels}}} {}", names::RETRIES_TOTAL, totals.retries)?;
    }
    head(out, names::RETRIES_DENIED_TOTAL, "counter", "Retries not made because the budget was spent.")?;
    for (labels, totals) in &retrying {
        writeln!(out, "{}{{{labels}}} {}", names::RETRIES_DENIED_TOTAL, totals.retries_denied)?;
    }
    head(out, names::RETRIES_RECOVERED_TOTAL, "counter", "Requests that only a retry made end well.")?;
    for (labels, totals) in &retrying {
        writeln!(out, "{}{{{labels}}} {}", names::RETRIES_RECOVERED_TOTAL, totals.recovered)?;
    }
    Ok(())
}

/// Only of routes that look for outliers.
fn outliers(out: &mut String, registry: &Registry, table: &Table) -> fmt::Result {
    let arms = [(Arm::Stable, names::ARM_STABLE), (Arm::Canary, names::ARM_CANARY)];
    let (total, active) = (names::OUTLIER_EJECTIONS_TOTAL, names::OUTLIER_EJECTED_ENDPOINTS);
    let labels = |route: &Route, arm: &str| {
        let (namespace, canary, service) = (escape(&route.namespace), escape(&route.canary), escape(&route.service));
        let (l_namespace, l_canary) = (names::LABEL_NAMESPACE, names::LABEL_CANARY);
        let (l_service, l_arm) = (names::LABEL_SERVICE, names::LABEL_ARM);
        format!("{l_namespace}=\"{namespace}\",{l_canary}=\"{canary}\",{l_service}=\"{service}\",{l_arm}=\"{arm}\"")
    };
    head(out, total, "counter", "Endpoints left out because they failed one request after the other.")?;
    for route in table.routes().values() {
        for (arm, name) in arms {
            if let Some(outliers) = &route.outliers {
                writeln!(out, "{total}{{{}}} {}", labels(route, name), outliers.ejections(arm))?;
            }
        }
    }
    head(out, active, "gauge", "Endpoints that are left out now.")?;
    for port in table.ports().values() {
        for (arm, name) in arms {
            if let Some(ward) = port.ward(arm) {
                writeln!(out, "{active}{{{}}} {}", labels(&port.route, name), ward.active(registry.now()))?;
            }
        }
    }
    Ok(())
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

fn histogram(out: &mut String, labels: &str, totals: &Totals) -> fmt::Result {
    let name = names::REQUEST_DURATION_SECONDS;
    let mut below = 0;
    for (bound, count) in BOUNDS_MICROS.iter().zip(&totals.bounds) {
        below += count;
        writeln!(out, "{name}_bucket{{{labels},le=\"{}\"}} {below}", *bound as f64 / 1e6)?;
    }
    let all: u64 = totals.bounds.iter().sum();
    writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {all}")?;
    writeln!(out, "{name}_sum{{{labels}}} {}", totals.sum_micros as f64 / 1e6)?;
    writeln!(out, "{name}_count{{{labels}}} {all}")
}

fn labels(key: &Key, series: &Series) -> String {
    let arm = match key.arm {
        Arm::Stable => names::ARM_STABLE,
        Arm::Canary => names::ARM_CANARY,
    };
    format!(
        "{}=\"{}\",{}=\"{}\",{}=\"{}\",{}=\"{arm}\",{}=\"{}\"",
        names::LABEL_NAMESPACE,
        escape(&series.namespace),
        names::LABEL_CANARY,
        escape(&series.canary),
        names::LABEL_SERVICE,
        escape(&series.service),
        names::LABEL_ARM,
        names::LABEL_REVISION,
        escape(&key.revision),
    )
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proxy_api::v1beta1 as api;
    use routing::{Limits, Outcome};

    use super::*;

    #[test]
    fn a_request_shows_up_with_its_labels_code_and_bucket() {
        let route = api::Route {
            uid: "u".into(),
            namespace: "shop".into(),
            canary: "we\"b".into(),
            service: "web".into(),
            weight: 25,
            stable_revision: "abc".into(),
            listeners: vec![api::Listener { port: 15_000, service_port: 80, split: true, ..Default::default() }],
            ..Default::default()
        };
        let table = Table::default().upsert(&route).unwrap();
        let registry = Registry::new(2, InForce::new(Limits::default(), 10));
        let cell = registry.cell(1, &table.routes()["u"], Arm::Stable);
        cell.begin(1);
        cell.end(200, Outcome::Success, false, Duration::from_millis(3));
        let text = render(&registry, &table);
        let labels = r#"canary_namespace="shop",canary="we\"b",service="web",arm="stable",revision="abc""#;
        for line in [
            format!("sluice_proxy_requests_total{{{labels},code=\"200\"}} 1"),
            format!("sluice_proxy_request_duration_seconds_bucket{{{labels},le=\"0.0025\"}} 0"),
            format!("sluice_proxy_request_duration_seconds_bucket{{{labels},le=\"0.005\"}} 1"),
            format!("sluice_proxy_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 1"),
            format!("sluice_proxy_request_duration_seconds_sum{{{labels}}} 0.003"),
            r#"sluice_proxy_weight_percent{canary_namespace="shop",canary="we\"b",service="web"} 25"#.to_owned(),
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\nnot in\n{text}");
        }
    }
}
