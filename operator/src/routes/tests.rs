use proxy_api::v1beta1::{Affinity, Match, NamedMatch, TextMatch, ZoneProxies, text_match::Kind};
use serde_json::{Value, json};

use super::*;
use crate::services::fixtures::{mk_canary, mk_plain, mk_routed};

/// A slice with ports 80 → 8080 and 9000 → 9001, and an endpoint per `(address, pod, conditions)`.
fn mk_slice(endpoints: &[(&str, &str, Value)]) -> EndpointSlice {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|(address, pod, conditions)| {
            json!({ "addresses": [address], "conditions": conditions, "zone": "eu-1a", "targetRef": { "kind": "Pod", "name": pod } })
        })
        .collect();
    serde_json::from_value(json!({
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{ "name": "tcp-80", "port": 8080 }, { "name": "tcp-9000", "port": 9001 }]
    }))
    .unwrap()
}

fn ready() -> Value {
    json!({ "ready": true, "serving": true, "terminating": false })
}

fn leaving() -> Value {
    json!({ "ready": false, "serving": true, "terminating": true })
}

fn at(phase: &str, weight: i32) -> Canary {
    mk_canary(json!({
        "phase": phase, "canaryWeight": weight, "counter": 7, "stableRevision": "s1", "canaryRevision": "c2"
    }))
}

/// The stable slice holds a canary pod that the endpoint controller has not taken out yet.
fn route(canary: &Canary) -> Route {
    let stable = mk_slice(&[("10.0.0.2", "web-s1-b", ready()), ("10.0.0.9", "web-c2-x", ready())]);
    let more = mk_slice(&[("10.0.0.1", "web-s1-a", ready()), ("10.0.0.2", "web-s1-b", ready())]);
    let tested = mk_slice(&[("10.0.0.9", "web-c2-x", ready())]);
    build(&RouteInputs {
        canary,
        table: &Table::rebuild([&mk_routed()]),
        service: &mk_routed(),
        stable_slices: &[&stable, &more],
        canary_slices: &[&tested],
        proxies: &[],
    })
    .unwrap()
}

fn addresses(endpoints: &[Endpoint]) -> Vec<String> {
    endpoints.iter().map(|endpoint| format!("{}:{}", endpoint.address, endpoint.port)).collect()
}

#[test]
fn a_route_in_full() {
    let endpoint = |address: &str, port, pod: &str| Endpoint {
        address: address.to_owned(),
        port,
        pod: pod.to_owned(),
        zone: "eu-1a".to_owned(),
    };
    let wanted = Route {
        uid: "u-1".to_owned(),
        counter: 7,
        namespace: "shop".to_owned(),
        service: "web".to_owned(),
        canary: "web".to_owned(),
        listeners: vec![
            Listener {
                port: 15_000,
                service_port: 80,
                service_port_name: "http".to_owned(),
                protocol: Protocol::Unspecified.into(),
                split: true,
                stable: vec![endpoint("10.0.0.1", 8080, "web-s1-a"), endpoint("10.0.0.2", 8080, "web-s1-b")],
                canary: vec![endpoint("10.0.0.9", 8080, "web-c2-x")],
            },
            Listener {
                port: 15_001,
                service_port: 9000,
                service_port_name: "admin".to_owned(),
                protocol: Protocol::Tcp.into(),
                split: false,
                stable: vec![endpoint("10.0.0.1", 9001, "web-s1-a"), endpoint("10.0.0.2", 9001, "web-s1-b")],
                canary: Vec::new(),
            },
        ],
        weight: 25,
        stable_revision: "s1".to_owned(),
        canary_revision: "c2".to_owned(),
        http: Some(HttpPolicy { request_timeout_ms: 0, connect_timeout_ms: 0, rules: Vec::new(), retries: None }),
        affinity: None,
        mirror: None,
        audience: Vec::new(),
        traffic_policy: None,
    };
    assert_eq!(route(&at("Progressing", 25)), wanted);
}

#[test]
fn where_zones_count_the_route_says_where_the_proxies_are() {
    let pod = json!({ "metadata": { "labels": { zones::LABEL: "eu-1a" } } });
    let mut canary = at("Progressing", 25);
    let policy = json!({ "loadBalancer": { "localityLbSetting": { "enabled": true } } });
    canary.spec.service.traffic_policy = Some(serde_json::from_value(policy).unwrap());
    let route = build(&RouteInputs {
        canary: &canary,
        table: &Table::rebuild([&mk_routed()]),
        service: &mk_routed(),
        stable_slices: &[],
        canary_slices: &[],
        proxies: &[Arc::new(serde_json::from_value(pod).unwrap())],
    });
    let setting = route.unwrap().traffic_policy.unwrap().load_balancer.unwrap().locality_lb_setting;
    assert_eq!(setting.unwrap().proxies, [ZoneProxies { zone: "eu-1a".to_owned(), proxies: 1 }]);
}

#[test]
fn session_affinity_goes_with_the_route() {
    let with = |affinity: Value| {
        let mut canary = at("Progressing", 25);
        canary.spec.analysis = Some(serde_json::from_value(json!({ "sessionAffinity": affinity })).unwrap());
        route(&canary).affinity.unwrap()
    };
    let cookie = Affinity { cookie: "sid".to_owned(), max_age_seconds: 86_400, header: String::new() };
    assert_eq!(with(json!({ "cookieName": "sid" })), cookie);
    let short = Affinity { max_age_seconds: 60, ..cookie };
    assert_eq!(with(json!({ "cookieName": "sid", "maxAge": 60 })), short);
    assert_eq!(with(json!({ "headerName": "x-user" })).header, "x-user");
}

fn pinned(journal: Value) -> Route {
    let mut canary = at("Progressing", 100);
    canary.status.as_mut().expect("at gives a status").journal = Some(journal);
    route(&canary)
}

#[test]
fn the_audience_is_the_one_that_was_pinned() {
    let state = rollout::State {
        audience: Some(rollout::Audience {
            matches: json!([
                { "headers": { "x-beta": { "exact": "a.b" }, "x-team": { "prefix": "a.b" } } },
                { "headers": { "cookie": { "regex": "g=b(;.*)?" } } },
                { "headers": { "x-mail": { "suffix": "@x.org" } } },
            ])
            .to_string(),
            iterations: Some(3),
        }),
        ..rollout::State::default()
    };
    let route = pinned(serde_json::to_value(state).unwrap());
    let named = |name: &str, kind| NamedMatch { name: name.to_owned(), value: Some(TextMatch { kind: Some(kind) }) };
    let all_of = |headers| Match { headers, ..Match::default() };
    let both = [named("x-beta", Kind::Exact("a.b".to_owned())), named("x-team", Kind::Regex("(?s)a\\.b.*".to_owned()))];
    let cookie = named("cookie", Kind::Regex("g=b(;.*)?".to_owned()));
    let mail = named("x-mail", Kind::Regex("(?s).*\\@x\\.org".to_owned()));
    assert_eq!(route.audience, [all_of(both.to_vec()), all_of(vec![cookie]), all_of(vec![mail])]);
    assert_eq!(route.weight, 100);
}

#[test]
fn an_audience_that_cannot_be_read_is_nobody() {
    for audience in [json!({ "matches": "later" }), json!({ "matches": "[]" }), json!("all"), json!({})] {
        let route = pinned(json!({ "audience": audience }));
        assert_eq!((route.weight, route.audience.len()), (0, 0), "{audience}");
    }
    assert_eq!(pinned(json!({})).weight, 100);
}

#[test]
fn copies_are_made_while_the_journal_says_so() {
    let with = |mirror| {
        let state = rollout::State { mirror, ..rollout::State::default() };
        pinned(serde_json::to_value(state).unwrap()).mirror.map(|mirror| mirror.percent)
    };
    assert_eq!(with(rollout::Mirror::Copying(20)), Some(20));
    for not_now in [rollout::Mirror::Off, rollout::Mirror::Due(20), rollout::Mirror::Over(20)] {
        assert_eq!(with(not_now), None, "{not_now:?}");
    }
}

#[test]
fn the_stable_arm_is_free_of_tested_pods_until_they_are_the_stable_ones() {
    for phase in ["Progressing", "Promoting", "Failed", "Waiting"] {
        assert_eq!(stable_ready(&route(&at(phase, 0))), 2, "{phase}");
    }
    let mut promoted = at("Finalising", 100);
    let status = promoted.status.as_mut().expect("at gives a status");
    status.stable_revision.clone_from(&status.canary_revision);
    assert_eq!(stable_ready(&route(&promoted)), 3);
}

#[test]
fn a_refused_version_that_was_shipped_past_the_hold_serves_when_it_is_all_there_is() {
    let shipped = mk_slice(&[("10.0.0.9", "web-c2-x", ready())]);
    let table = Table::rebuild([&mk_routed()]);
    let serving = |canary: &Canary| {
        let inputs = RouteInputs {
            canary,
            table: &table,
            service: &mk_routed(),
            stable_slices: &[&shipped],
            canary_slices: &[],
            proxies: &[],
        };
        stable_ready(&build(&inputs).unwrap())
    };
    assert_eq!(serving(&at("Failed", 0)), 1);
    assert_eq!(serving(&at("Progressing", 10)), 0);
}

#[test]
fn the_canary_arm_is_named_as_long_as_it_may_have_traffic() {
    for (phase, weight, named) in [
        ("Progressing", 0, true),
        ("Finalising", 100, true),
        ("Finalising", 0, true),
        ("Succeeded", 0, false),
        ("Failed", 0, false),
    ] {
        let route = route(&at(phase, weight));
        assert_eq!((!route.canary_revision.is_empty(), canary_ready(&route) > 0), (named, named), "{phase}");
    }
}

#[test]
fn a_hash_that_was_cut_off_the_pods_names_filters_nothing() {
    assert_eq!(pod_prefix("web", "c2").as_deref(), Some("web-c2-"));
    assert_eq!(pod_prefix(&"w".repeat(50), "c2f4567890"), None);
}

#[test]
fn only_ready_endpoints_serve_and_leaving_ones_when_none_is_ready() {
    let unready = json!({ "ready": false, "serving": false });
    let mixed =
        mk_slice(&[("10.0.0.1", "a", leaving()), ("10.0.0.2", "b", ready()), ("10.0.0.3", "c", unready.clone())]);
    assert_eq!(addresses(&endpoints(&[&mixed], 80, None)), ["10.0.0.2:8080"]);
    let last = mk_slice(&[("10.0.0.1", "a", leaving()), ("10.0.0.3", "c", unready)]);
    assert_eq!(addresses(&endpoints(&[&last], 80, None)), ["10.0.0.1:8080"]);
    let silent = mk_slice(&[("10.0.0.4", "d", json!({}))]);
    assert_eq!(addresses(&endpoints(&[&silent], 80, None)), ["10.0.0.4:8080"]);
}

#[test]
fn the_order_of_slices_and_endpoints_does_not_show() {
    let one = mk_slice(&[("10.0.0.1", "a", ready()), ("10.0.0.2", "b", ready())]);
    let two = mk_slice(&[("10.0.0.2", "b", ready()), ("10.0.0.3", "c", ready())]);
    assert_eq!(endpoints(&[&one, &two], 80, None), endpoints(&[&two, &one], 80, None));
    assert_eq!(endpoints(&[&one, &two], 80, None).len(), 3);
}

#[test]
fn app_protocols_choose_the_listeners() {
    for (name, wanted) in [
        (Some("http"), Protocol::Http),
        (Some("kubernetes.io/ws"), Protocol::Http),
        (Some("kubernetes.io/h2c"), Protocol::H2c),
        (Some("grpc"), Protocol::Grpc),
        (Some("tcp"), Protocol::Tcp),
        (Some("https"), Protocol::Tcp),
        (Some("example.com/own"), Protocol::Unspecified),
        (None, Protocol::Unspecified),
    ] {
        assert_eq!(protocol(name), wanted, "{name:?}");
    }
}

#[test]
fn further_ports_go_to_the_judged_pods_before_the_old_ones_are_scaled_down() {
    let further = |phase: &str| {
        let route = route(&at(phase, 100));
        let listener = route.listeners.into_iter().find(|listener| !listener.split).unwrap();
        listener.stable.into_iter().map(|endpoint| endpoint.address).collect::<Vec<_>>()
    };
    assert_eq!(further("Progressing"), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(further("Promoting"), ["10.0.0.9"]);
    assert_eq!(further("Finalising"), ["10.0.0.9"]);
}

#[test]
fn timeouts_are_in_milliseconds() {
    for (text, wanted) in
        [(Some("250ms"), 250), (Some("15s"), 15_000), (Some("2m"), 120_000), (Some("0s"), 0), (None, 0)]
    {
        let mut canary = at("Initialized", 0);
        canary.spec.service.timeout = text.map(str::to_owned);
        assert_eq!(timeout_ms(&canary), wanted, "{text:?}");
    }
}

fn build_with(table: &Table, service: &Service) -> Option<Route> {
    let canary = at("Initialized", 0);
    build(&RouteInputs { canary: &canary, table, service, stable_slices: &[], canary_slices: &[], proxies: &[] })
}

#[test]
fn a_canary_without_ports_or_with_anothers_has_no_route() {
    assert_eq!(build_with(&Table::default(), &mk_plain()), None);
    let mut table = Table::rebuild([&mk_routed()]);
    table.owners.insert("web".to_owned(), "other".to_owned());
    assert_eq!(build_with(&table, &mk_routed()), None);
}

#[test]
fn a_route_outlives_the_loss_of_the_table_and_the_removal_of_the_canary() {
    let whole = Table::rebuild([&mk_routed()]);
    let wanted = build_with(&whole, &mk_routed());
    assert!(wanted.is_some());
    assert_eq!(build_with(&Table::default(), &mk_routed()), wanted);
    let draining = Table { draining: whole.routes.clone(), ..Table::default() };
    assert_eq!(build_with(&draining, &mk_plain()), wanted);
}

#[test]
fn the_arms_are_the_same_when_each_has_every_endpoint_of_the_other() {
    let tested = mk_slice(&[("10.0.0.8", "web-c2-w", ready()), ("10.0.0.9", "web-c2-x", ready())]);
    let half = mk_slice(&[("10.0.0.9", "web-c2-x", ready()), ("10.0.0.1", "web-s1-a", ready())]);
    let canary = at("Finalising", 100);
    let table = Table::default();
    let service = mk_routed();
    let with = |stable_slices: &[&EndpointSlice]| {
        let Overlap { both, stable, canary } = overlap(&RouteInputs {
            canary: &canary,
            table: &table,
            service: &service,
            stable_slices,
            canary_slices: &[&tested],
            proxies: &[],
        });
        (both, stable, canary)
    };
    assert_eq!(with(&[&half]), (1, 1, 1));
    assert_eq!(with(&[&half, &tested]), (2, 1, 0));
    assert_eq!(with(&[&tested]), (2, 0, 0));
}
