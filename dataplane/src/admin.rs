//! The admin port: `/metrics`, `/livez`, `/readyz`, `/config`, `/clusters`, `/stats`. Reads only; nothing here changes the proxy.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use routing::{Arm, Port, Table, balance};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::exposition;
use crate::exposition::page::Format;
use crate::process::Shared;
use crate::upstream::Glance;
use crate::view::Place;

/// Ports in one answer; the next ones are asked for with `?after=`.
const MAX_PORTS: usize = 500;
/// A worker that has not beaten for this long is stuck.
const STUCK: Duration = Duration::from_secs(10);

/// Serves until dropped.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let pulse = Arc::new(Pulse::default());
    let service = service_fn(move |request| {
        let (shared, pulse) = (Arc::clone(&shared), Arc::clone(&pulse));
        async move { Ok(answer(&request, &shared, &pulse).await) }
    });
    admin_server::serve(listener, service).await;
}

async fn answer(request: &Request<Incoming>, shared: &Shared, pulse: &Pulse) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n".to_owned());
    }
    match request.uri().path() {
        "/metrics" => {
            let fields = request.headers().get_all(header::ACCEPT).iter().filter_map(|field| field.to_str().ok());
            let format = Format::negotiate(&fields.collect::<Vec<_>>().join(","));
            let text = exposition::render(&shared.registry, &shared.table(), format);
            respond(StatusCode::OK, format.content_type(), text)
        }
        "/livez" if pulse.alive(&shared.heartbeats(), Instant::now()) => {
            respond(StatusCode::OK, TEXT, "ok\n".to_owned())
        }
        "/livez" => respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, "a worker is stuck\n".to_owned()),
        "/readyz" if shared.ready() => respond(StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" => respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, "not configured, or draining\n".to_owned()),
        "/config" => json_answer(&dump(&shared.table(), after(request))),
        "/clusters" => {
            json_answer(&clusters(&shared.table(), &shared.glances().await, shared.registry.now(), after(request)))
        }
        "/stats" => json_answer(&stats(shared)),
        _ => respond(
            StatusCode::NOT_FOUND,
            TEXT,
            "try /metrics, /livez, /readyz, /config, /clusters, /stats\n".to_owned(),
        ),
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn json_answer(value: &Value) -> Response<Full<Bytes>> {
    respond(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

/// `?after=PORT`: where the answer before this one ended.
fn after(request: &Request<Incoming>) -> u16 {
    let mut pairs = request.uri().query().unwrap_or_default().split('&');
    pairs.find_map(|pair| pair.strip_prefix("after=")?.parse().ok()).unwrap_or(0)
}

/// A page of ports, with the value of `after` that the next one needs, if there is one.
fn page(table: &Table, after: u16, one: impl Fn(&Port) -> Value) -> Value {
    let mut ports = table.ports().iter().filter(|(number, _)| **number > after);
    let shown: Vec<_> = ports.by_ref().take(MAX_PORTS).collect();
    let next = ports.next().and(shown.last()).map(|(number, _)| **number);
    json!({ "ports": shown.into_iter().map(|(_, port)| one(port)).collect::<Vec<_>>(), "next": next })
}

/// Endpoints with what all workers together say of them.
fn clusters(table: &Table, glances: &[HashMap<Place, Glance>], now: Duration, after: u16) -> Value {
    let endpoint = |port: &Port, arm: Arm, number: usize, target: &routing::Target| {
        let place = (port.route.uid.clone(), target.address);
        let seen: Vec<&Glance> = glances.iter().filter_map(|worker| worker.get(&place)).collect();
        let slowest = seen.iter().map(|glance| glance.micros).fold(0.0, f64::max);
        let age = seen.iter().map(|glance| glance.age).min().unwrap_or_default();
        let share = port.route.balance.as_ref().map_or(1.0, |balance| balance.share(age));
        let mut shown = json!({
            "address": target.address.to_string(),
            "pod": target.pod,
            "zone": target.zone,
            "inFlight": seen.iter().map(|glance| u64::from(glance.in_flight)).sum::<u64>(),
            "idleConnections": seen.iter().map(|glance| glance.idle).sum::<usize>(),
            "http2Connections": seen.iter().map(|glance| glance.shared).sum::<usize>(),
            "latencyMs": slowest / 1e3,
            "sharePercent": (share * 100.0).round(),
        });
        if let (Some(ward), Some(outliers)) = (port.ward(arm), &port.route.outliers) {
            let health = &ward.endpoints()[number];
            shown["ejectedForMs"] = json!(health.ejected_for(now).map(|left| left.as_millis() as u64));
            shown["ejections"] = health.ejections(outliers.interval(), now).into();
        }
        shown
    };
    let endpoints = |port: &Port, arm: Arm| -> Vec<Value> {
        port.targets(arm).iter().enumerate().map(|(number, target)| endpoint(port, arm, number, target)).collect()
    };
    let mut page = page(table, after, |port| {
        json!({
            "port": port.number,
            "loadBalancer": port.route.balance.as_ref().map_or(balance::DEFAULT, |balance| balance.name()),
            "locality": locality(table, port),
            "service": format!("{}/{}", port.route.namespace, port.route.service),
            "stable": endpoints(port, Arm::Stable),
            "canary": endpoints(port, Arm::Canary),
        })
    });
    page["workers"] = glances.len().into();
    page
}

/// Whether the requests of a port stay in this proxy's zone, and how many of each arm; null where the route does not ask for it.
fn locality(table: &Table, port: &Port) -> Value {
    if port.route.balance.as_ref().filter(|_| port.split).and_then(|balance| balance.locality.as_ref()).is_none() {
        return Value::Null;
    }
    let kept = |arm: Arm| port.zones(arm).filter(|zones| zones.count() > 0).map(|zones| (zones.kept() * 100.0).round());
    json!({
        "zone": table.zone(),
        "inForce": port.zones(Arm::Stable).is_some() && !table.zone().is_empty(),
        "stablePercent": kept(Arm::Stable),
        "canaryPercent": kept(Arm::Canary),
    })
}

/// Totals of the process.
fn stats(shared: &Shared) -> Value {
    let (mut started, mut errors, mut client_errors, mut in_flight) = (0, 0, 0, 0);
    let mut flags = BTreeMap::<&str, u64>::new();
    for (_, series) in shared.registry.snapshot() {
        let totals = series.totals();
        started += totals.started;
        errors += totals.errors;
        client_errors += totals.client_errors;
        in_flight += totals.in_flight;
        for (flag, count) in totals.flags {
            *flags.entry(flag.name()).or_default() += count;
        }
    }
    let table = shared.table();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "ready": shared.ready(),
        "workers": shared.heartbeats().len(),
        "routes": table.routes().len(),
        "ports": table.ports().len(),
        "connections": shared.registry.open_connections(),
        "connectionsRefused": shared.registry.refused_connections(),
        "requests": { "started": started, "inFlight": in_flight, "clientErrors": client_errors, "errors": errors },
        "flags": flags,
    })
}

fn dump(table: &Table, after: u16) -> Value {
    let endpoints = |targets: &[routing::Target]| -> Vec<Value> {
        targets.iter().map(|t| json!({ "address": t.address.to_string(), "pod": t.pod, "zone": t.zone })).collect()
    };
    page(table, after, |port| {
        let route = &port.route;
        json!({
            "port": port.number,
            "servicePort": port.service_port,
            "protocol": format!("{:?}", port.protocol),
            "split": port.split,
            "uid": route.uid,
            "counter": route.counter,
            "namespace": route.namespace,
            "service": route.service,
            "canary": route.canary,
            "weight": route.weight,
            "stableRevision": route.stable_revision,
            "canaryRevision": route.canary_revision,
            "requestTimeoutMs": route.request_timeout.map(|limit| limit.as_millis() as u64),
            "locality": locality(table, port),
            "connectTimeoutMs": route.connect_timeout.as_millis() as u64,
            "stable": endpoints(&port.stable),
            "canary": endpoints(&port.canary),
        })
    })
}

/// When each worker was last seen to beat.
#[derive(Debug, Default)]
struct Pulse(Mutex<Vec<(u64, Instant)>>);

impl Pulse {
    fn alive(&self, beats: &[u64], now: Instant) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.resize(beats.len(), (0, now));
        seen.iter_mut().zip(beats).all(|(seen, beat)| {
            if seen.0 != *beat {
                *seen = (*beat, now);
            }
            now.duration_since(seen.1) < STUCK
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_stops_beating_is_stuck_after_ten_seconds() {
        let (pulse, start) = (Pulse::default(), Instant::now());
        assert!(pulse.alive(&[1, 1], start));
        assert!(pulse.alive(&[9, 9], start + Duration::from_secs(9)));
        assert!(!pulse.alive(&[20, 9], start + Duration::from_secs(20)));
        assert!(pulse.alive(&[21, 10], start + Duration::from_secs(21)));
    }
}
