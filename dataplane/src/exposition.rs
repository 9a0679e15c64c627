//! The series as Prometheus reads them, names and labels from `proxy_api::metrics`: [`page`] knows the formats, the
//! other parts know what they are named for, and the order is [`write`]'s.

mod failures;
pub mod page;
mod pools;
mod process;

use std::fmt::{self, Write as _};
use std::sync::Arc;

use proxy_api::metrics as names;
use routing::rules::Action;
use routing::{Arm, Route, Table};

use self::page::{Format, Kind, Page};
use crate::exemplars;
use crate::mirror::Fate;
use crate::stats::{BOUNDS_MICROS, Key, Registry, Series, Totals};

/// One arm under one revision.
struct Shown {
    labels: String,
    totals: Totals,
    exemplars: exemplars::Shown,
}

/// All series of the process.
#[must_use]
pub fn render(registry: &Registry, table: &Table, format: Format) -> String {
    let mut page = Page::new(format);
    // Writing to a String cannot fail.
    let _ = write(&mut page, registry, table);
    page.finish()
}

fn write(out: &mut Page, registry: &Registry, table: &Table) -> fmt::Result {
    let shown = |(key, series): (Key, Arc<Series>)| {
        // Before the totals: an exemplar's request is counted.
        let exemplars = if out.exemplary() { series.exemplars() } else { exemplars::Shown::default() };
        Shown { labels: labels(&key, &series), totals: series.totals(), exemplars }
    };
    let series: Vec<_> = registry.snapshot().into_iter().filter(|(_, series)| series.used()).map(shown).collect();
    out.head(names::REQUESTS_TOTAL, Kind::Counter, "Requests finished, by status code; 0: none was sent.")?;
    for Shown { labels, totals, exemplars } in &series {
        for (code, count) in &totals.codes {
            write!(out, "{}{{{labels},{}=\"{code}\"}} {count}", names::REQUESTS_TOTAL, names::LABEL_CODE)?;
            out.end_sample(exemplars.codes.get(code).map(|exemplar| (exemplar, 1.0)))?;
        }
    }
    out.head(
        names::RESPONSE_FLAGS_TOTAL,
        Kind::Counter,
        "Requests that did not end as an endpoint would have it, by reason.",
    )?;
    for Shown { labels, totals, .. } in &series {
        for (flag, count) in totals.flags.iter().filter(|(_, count)| *count > 0) {
            let (metric, label) = (names::RESPONSE_FLAGS_TOTAL, names::LABEL_FLAG);
            writeln!(out, "{metric}{{{labels},{label}=\"{}\"}} {count}", flag.name())?;
        }
    }
    out.head(
        names::REQUEST_DURATION_SECONDS,
        Kind::Histogram,
        "Time from the first byte of a request to the last of its answer.",
    )?;
    for shown in &series {
        histogram(out, shown)?;
    }
    failures::retries(out, &series)?;
    failures::outliers(out, registry, table)?;
    pools::under_way(out, &series)?;
    pools::limits(out, registry, table)?;
    out.head(names::WEIGHT, Kind::Gauge, "Share of the canary in force, in percent.")?;
    for route in table.routes().values() {
        writeln!(out, "{}{{{}}} {}", names::WEIGHT, route_labels(route), route.weight)?;
    }
    out.head(
        names::RULE_ACTIONS_TOTAL,
        Kind::Counter,
        "Requests that rules answered or delayed themselves, by action.",
    )?;
    for route in table.routes().values() {
        rule_actions(out, route)?;
    }
    mirrors(out, registry)?;
    process::write(out, registry)
}

fn rule_actions(out: &mut Page, route: &Route) -> fmt::Result {
    let (name, labels) = (names::RULE_ACTIONS_TOTAL, route_labels(route));
    let (l_rule, l_action) = (names::LABEL_RULE, names::LABEL_ACTION);
    for rule in route.rules.iter().flat_map(|rules| rules.iter()) {
        for action in Action::ALL {
            let count = rule.counts.get(action);
            if count > 0 {
                let (rule, action) = (escape(&rule.name), action.label());
                writeln!(out, "{name}{{{labels},{l_rule}=\"{rule}\",{l_action}=\"{action}\"}} {count}")?;
            }
        }
    }
    Ok(())
}

fn mirrors(out: &mut Page, registry: &Registry) -> fmt::Result {
    out.head(
        names::MIRRORED_REQUESTS_TOTAL,
        Kind::Counter,
        "Copies of requests for the canary, by what became of them.",
    )?;
    for mirrored in registry.mirrors().snapshot() {
        let labels = common_labels(&mirrored.namespace, &mirrored.canary, &mirrored.service);
        for (fate, result) in Fate::ALL {
            let (name, label, count) = (names::MIRRORED_REQUESTS_TOTAL, names::LABEL_RESULT, mirrored.count(fate));
            writeln!(out, "{name}{{{labels},{label}=\"{result}\"}} {count}")?;
        }
    }
    Ok(())
}

fn histogram(out: &mut Page, Shown { labels, totals, exemplars }: &Shown) -> fmt::Result {
    let name = names::REQUEST_DURATION_SECONDS;
    let exemplar = |place| exemplars.buckets.get(&place).map(|exemplar| (exemplar, exemplar.took.as_secs_f64()));
    let mut below = 0;
    for (place, (bound, count)) in BOUNDS_MICROS.iter().zip(&totals.bounds).enumerate() {
        below += count;
        write!(out, "{name}_bucket{{{labels},le=\"{}\"}} {below}", page::bound(*bound))?;
        out.end_sample(exemplar(place))?;
    }
    let all: u64 = totals.bounds.iter().sum();
    write!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {all}")?;
    out.end_sample(exemplar(BOUNDS_MICROS.len()))?;
    writeln!(out, "{name}_sum{{{labels}}} {}", totals.sum_micros as f64 / 1e6)?;
    writeln!(out, "{name}_count{{{labels}}} {all}")
}

fn labels(key: &Key, series: &Series) -> String {
    let (common, arm) = (common_labels(&series.namespace, &series.canary, &series.service), key.arm.name());
    let (l_arm, l_revision, revision) = (names::LABEL_ARM, names::LABEL_REVISION, escape(&key.revision));
    format!("{common},{l_arm}=\"{arm}\",{l_revision}=\"{revision}\"")
}

/// Of what outlasts a revision.
fn arm_labels(route: &Route, arm: Arm) -> String {
    format!("{},{}=\"{}\"", route_labels(route), names::LABEL_ARM, arm.name())
}

fn route_labels(route: &Route) -> String {
    common_labels(&route.namespace, &route.canary, &route.service)
}

/// Which Canary a series is of: the first labels of each that is of one.
fn common_labels(namespace: &str, canary: &str, service: &str) -> String {
    let (l_namespace, l_canary, l_service) = (names::LABEL_NAMESPACE, names::LABEL_CANARY, names::LABEL_SERVICE);
    let (namespace, canary, service) = (escape(namespace), escape(canary), escape(service));
    format!("{l_namespace}=\"{namespace}\",{l_canary}=\"{canary}\",{l_service}=\"{service}\"")
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
    use crate::limits::InForce;

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
        let text = render(&registry, &table, Format::Text);
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
