use super::*;

fn mk_route(uid: &str, port: u32, weight: u32) -> api::Route {
    let endpoint = |address: &str| api::Endpoint { address: address.into(), port: 80, ..Default::default() };
    api::Route {
        uid: uid.into(),
        counter: 1,
        namespace: "shop".into(),
        service: "web".into(),
        canary: "web".into(),
        weight,
        listeners: vec![api::Listener {
            port,
            service_port: 80,
            split: true,
            stable: vec![endpoint("10.0.0.1"), endpoint("10.0.0.1"), endpoint("fd00::1")],
            canary: vec![endpoint("10.0.0.2")],
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[test]
fn a_changed_route_replaces_its_ports_and_keeps_its_split() {
    let table = Table::default().upsert(&mk_route("a", 15_000, 10)).unwrap();
    let split = Arc::clone(&table.ports()[&15_000].route.split);
    let table = table.upsert(&mk_route("a", 15_001, 25)).unwrap();
    assert_eq!(table.ports().keys().collect::<Vec<_>>(), [&15_001]);
    let port = &table.ports()[&15_001];
    assert_eq!((port.route.weight, port.stable.len(), port.canary.len()), (25, 2, 1));
    assert!(Arc::ptr_eq(&split, &port.route.split));
}

#[test]
fn untouched_routes_are_shared_not_copied() {
    let table = Table::default().upsert(&mk_route("a", 15_000, 10)).unwrap();
    let next = table.upsert(&mk_route("b", 15_001, 10)).unwrap();
    assert!(Arc::ptr_eq(&table.ports()[&15_000], &next.ports()[&15_000]));
}

#[test]
fn a_rule_without_meaning_keeps_the_rules_before_it_and_holds_no_endpoint_back() {
    let with_rule = |name: &str, port| {
        let rule = api::Rule { name: name.into(), ..Default::default() };
        let http = Some(api::HttpPolicy { rules: vec![rule], ..Default::default() });
        api::Route { http, ..mk_route("a", port, 10) }
    };
    let table = Table::default().upsert(&with_rule("good", 15_000)).unwrap();
    let bad = with_rule("NOT A NAME", 15_001);
    assert!(matches!(table.upsert(&bad), Err(Refusal::Rules(_))));
    let table = table.upsert_with_old_rules(&bad).unwrap();
    let route = &table.ports()[&15_001].route;
    assert_eq!(route.rules.as_ref().unwrap().iter().next().unwrap().name, "good");
    assert!(Table::default().upsert_with_old_rules(&bad).unwrap().routes()["a"].rules.is_none());
}

#[test]
fn a_port_has_one_owner_until_its_route_goes() {
    let table = Table::default().upsert(&mk_route("a", 15_000, 10)).unwrap();
    let refusal = table.upsert(&mk_route("b", 15_000, 10)).unwrap_err();
    assert_eq!(refusal.to_string(), "port 15000 belongs to shop/web");
    assert!(table.without("a").upsert(&mk_route("b", 15_000, 10)).is_ok());
}

#[test]
fn routes_that_make_no_sense_are_refused_with_the_reason() {
    let refusal = |change: fn(&mut api::Route)| {
        let mut route = mk_route("a", 15_000, 10);
        change(&mut route);
        Table::default().upsert(&route).unwrap_err()
    };
    assert_eq!(refusal(|r| r.uid.clear()), Refusal::NoUid);
    assert_eq!(refusal(|r| r.weight = 101), Refusal::Weight(101));
    assert_eq!(refusal(|r| r.listeners[0].port = 70_000), Refusal::Port(70_000));
    assert_eq!(refusal(|r| r.listeners[0].stable[0].port = 0), Refusal::Port(0));
    assert_eq!(refusal(|r| r.listeners[0].stable[0].address = "web".into()), Refusal::Address("web".into()));
    assert_eq!(refusal(|r| r.listeners[0].protocol = 9), Refusal::Protocol(9));
    let outliers = api::OutlierDetection { max_ejection_percent: Some(101), ..Default::default() };
    let mut route = mk_route("a", 15_000, 10);
    route.traffic_policy = Some(api::TrafficPolicy { outlier_detection: Some(outliers), ..Default::default() });
    let refusal = Table::default().upsert(&route).unwrap_err();
    assert_eq!(refusal.to_string(), "maxEjectionPercent is 101, must be at most 100");
}

#[test]
fn zones_count_for_both_arms_or_for_none_while_these_are_compared() {
    let place = |address: &str, zone: &str| api::Endpoint {
        address: address.into(),
        port: 80,
        zone: zone.into(),
        ..Default::default()
    };
    let of_zone = |zone: &str| api::ZoneProxies { zone: zone.into(), proxies: 1 };
    let setting = api::LocalityLbSetting { proxies: vec![of_zone("a"), of_zone("b")] };
    let load_balancer = Some(api::LoadBalancer { locality_lb_setting: Some(setting), ..Default::default() });
    let with = |weight, canary: &[&str]| {
        let mut route = mk_route("a", 15_000, weight);
        route.listeners[0].stable = vec![place("10.0.0.1", "a"), place("10.0.0.2", "b")];
        route.listeners[0].canary =
            canary.iter().zip(3..).map(|(zone, n)| place(&format!("10.0.0.{n}"), zone)).collect();
        route.traffic_policy = Some(api::TrafficPolicy {
            load_balancer: load_balancer.clone(),
            outlier_detection: Some(api::OutlierDetection::default()),
            ..Default::default()
        });
        route
    };
    let kept = |route: &api::Route| {
        let table = Table::new(1).in_zone("b").upsert(route).unwrap();
        let port = &table.ports()[&15_000];
        [Arm::Stable, Arm::Canary].map(|arm| port.zones(arm).map(|zones| zones.kept()))
    };
    assert_eq!(kept(&with(0, &["a"])), [Some(1.0), Some(0.0)], "nobody is compared yet");
    assert_eq!(kept(&with(10, &["a"])), [None, None], "the canary has none in zone b");
    assert_eq!(kept(&with(10, &["a", "b"])), [Some(1.0), Some(1.0)]);
    assert_eq!(kept(&with(10, &[])), [Some(1.0), Some(0.0)], "stable serves alone");
    assert_eq!(kept(&with(100, &["a"])), [Some(1.0), Some(0.0)], "the canary serves alone");
    let value = Some(api::TextMatch { kind: Some(api::text_match::Kind::Exact("1".into())) });
    let mut audience = with(100, &["a"]);
    let matching = api::NamedMatch { name: "x-beta".into(), value };
    audience.audience = vec![api::Match { headers: vec![matching], ..Default::default() }];
    assert_eq!(kept(&audience), [None, None], "an audience is compared with the others");
    let mut plain = with(10, &["a", "b"]);
    plain.listeners[0].split = false;
    assert_eq!(kept(&plain), [None, None]);
}

#[test]
fn a_port_that_is_not_split_is_spliced() {
    let mut route = mk_route("a", 15_000, 10);
    route.listeners[0].split = false;
    let table = Table::default().upsert(&route).unwrap();
    assert_eq!(table.ports()[&15_000].protocol, Protocol::Tcp);
}
