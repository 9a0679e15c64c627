//! What the proxies do for one Service: a pure function of what the API server holds, so that every operator replica
//! publishes the same.
//!
//! `build` makes the route, `covered` tells when the canary's pods are all behind the stable arm, too. Neither reads the
//! clock, and neither decides: the weight is the journal's.

use std::{collections::BTreeSet, sync::Arc};

use crds::{
    Canary, CanaryStatus, Phase,
    audience::{AudienceMatch, StringMatch},
    canary::DEFAULT_MAX_AGE_SECONDS,
};
use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice},
};
use kube::ResourceExt;
use proxy_api::v1beta1::{
    Affinity, Endpoint, HttpPolicy, Listener, Match, Mirror, NamedMatch, Protocol, Route, TextMatch, text_match::Kind,
};

use crate::{
    policy, rules,
    services::{self, Asked, AskedPort},
    table::{RouteKey, Table},
};

/// Kubernetes cuts a generated name's base to this length (`maxGeneratedNameLength` of apiserver's names package).
const GENERATED_BASE_MAX: usize = 58;

/// What a route is made of, as cached.
#[derive(Clone, Copy, Debug)]
pub struct RouteInputs<'a> {
    /// Spec and journal.
    pub canary: &'a Canary,
    /// The namespace's admission table.
    pub table: &'a Table,
    /// The user's Service, routed or not.
    pub service: &'a Service,
    /// The EndpointSlices of `<service>-primary`.
    pub stable_slices: &'a [&'a EndpointSlice],
    /// The EndpointSlices of `<service>-canary`.
    pub canary_slices: &'a [&'a EndpointSlice],
}

/// The route of a Canary; none if it has no port of the pool: it was refused, is not set up yet, or is gone.
#[must_use]
pub fn build(inputs: &RouteInputs<'_>) -> Option<Route> {
    let RouteInputs { canary, table, service, stable_slices, canary_slices } = *inputs;
    let name = service.name_any();
    let uid = canary.uid()?;
    let status = canary.status.clone().unwrap_or_default();
    if is_anothers(canary, table, &name) {
        return None;
    }
    let asked = services::asked(service);
    let tested = status.canary_revision.as_ref().filter(|_| services::has_canary_arm(&status));
    // After a rollback the pods live on for a moment, and the primary Service is wide again.
    let refused = status.canary_revision.as_ref().filter(|revision| Some(*revision) != status.stable_revision.as_ref());
    let intruders = refused.and_then(|revision| pod_prefix(&canary.spec.target_ref.name, revision));
    let listener = |port: &AskedPort| {
        let mut stable = endpoints(stable_slices, port.port, intruders.as_deref());
        if stable.is_empty() && !services::is_judging(status.phase) {
            // A refused version that was shipped past the hold is all there is: an outage would help nobody.
            stable = endpoints(stable_slices, port.port, None);
        }
        let split = i32::from(port.port) == canary.spec.service.port;
        if !split && matches!(status.phase, Phase::Promoting | Phase::Finalising) {
            // The old pods go at any moment, and the judged ones stay: further ports move before that, not after, and stay
            // with them until the primary Service has followed.
            let judged = endpoints(canary_slices, port.port, None);
            stable = if judged.is_empty() { stable } else { judged };
        }
        Some(Listener {
            port: u32::from(pool_port(table, service, port)?),
            service_port: u32::from(port.port),
            service_port_name: port.name.clone().unwrap_or_default(),
            protocol: if split { protocol(port.app_protocol.as_deref()) } else { Protocol::Tcp }.into(),
            split,
            stable,
            canary: if split && tested.is_some() { endpoints(canary_slices, port.port, None) } else { Vec::new() },
        })
    };
    let listeners = listeners(&asked, listener);
    let audience = audience(&status);
    let weight = u32::try_from(status.canary_weight.clamp(0, 100)).unwrap_or_default();
    (!listeners.is_empty()).then(|| Route {
        uid,
        counter: u64::try_from(status.counter).unwrap_or_default(),
        namespace: canary.namespace().unwrap_or_default(),
        service: name,
        canary: canary.name_any(),
        listeners,
        // An audience that cannot be read must not become everybody.
        weight: if audience.is_some() { weight } else { 0 },
        stable_revision: status.stable_revision.clone().unwrap_or_default(),
        canary_revision: tested.cloned().unwrap_or_default(),
        http: Some(HttpPolicy {
            request_timeout_ms: timeout_ms(canary),
            connect_timeout_ms: policy::connect_timeout_ms(&canary.spec.service),
            rules: rules::messages(canary),
            retries: policy::retries(&canary.spec.service),
        }),
        affinity: affinity(canary),
        mirror: mirror(&status).filter(|_| tested.is_some()),
        audience: audience.unwrap_or_default(),
        traffic_policy: policy::traffic(&canary.spec.service),
    })
}

/// Of whose requests the weight is a share, as pinned in the journal; empty: of everybody's. None: it cannot be read.
fn audience(status: &CanaryStatus) -> Option<Vec<Match>> {
    let Some(pinned) = status.journal.as_ref().and_then(|journal| journal.get("audience")) else {
        return Some(Vec::new());
    };
    let matches: Vec<AudienceMatch> = serde_json::from_str(pinned.get("matches")?.as_str()?).ok()?;
    let named =
        |(name, text): (&String, &StringMatch)| NamedMatch { name: name.clone(), value: Some(text_match(text)) };
    let matches =
        matches.iter().map(|one| Match { headers: one.headers.iter().map(named).collect(), ..Match::default() });
    Some(matches.collect()).filter(|matches: &Vec<Match>| !matches.is_empty())
}

/// Patterns are for the whole value; the proxies know a prefix for paths only.
fn text_match(text: &StringMatch) -> TextMatch {
    let StringMatch { exact, prefix, suffix, regex } = text;
    let kind = match (exact, prefix, suffix, regex) {
        (Some(exact), ..) => Kind::Exact(exact.clone()),
        (None, Some(prefix), ..) => Kind::Regex(format!("(?s){}.*", escaped(prefix))),
        (None, None, Some(suffix), _) => Kind::Regex(format!("(?s).*{}", escaped(suffix))),
        (None, None, None, regex) => Kind::Regex(regex.clone().unwrap_or_default()),
    };
    TextMatch { kind: Some(kind) }
}

/// `text` as a pattern for itself: what is neither a letter nor a digit of ASCII is escaped, which RE2's syntax takes.
fn escaped(text: &str) -> String {
    let escape = |c: char| (c.is_ascii() && !c.is_ascii_alphanumeric()).then_some('\\').into_iter().chain([c]);
    text.chars().flat_map(escape).collect()
}

/// The copies that the journal asks for.
fn mirror(status: &CanaryStatus) -> Option<Mirror> {
    let percent = status.journal.as_ref()?.pointer("/mirror/Copying")?.as_u64()?;
    let percent = u32::try_from(percent).ok().filter(|percent| (1..=100).contains(percent))?;
    Some(Mirror { percent, all_methods: false })
}

/// `spec.analysis.sessionAffinity`; the proxies apply it while the weight leaves a choice.
fn affinity(canary: &Canary) -> Option<Affinity> {
    let asked = canary.spec.analysis.as_ref()?.session_affinity.as_ref()?;
    let max_age = asked.max_age.and_then(|seconds| u32::try_from(seconds).ok());
    Some(Affinity {
        cookie: asked.cookie_name.clone().unwrap_or_default(),
        max_age_seconds: max_age.unwrap_or(DEFAULT_MAX_AGE_SECONDS),
        header: asked.header_name.clone().unwrap_or_default(),
    })
}

/// Endpoints of the canary arm that the stable arm holds, too, and all of the canary arm. When they are equal, and there
/// is one, the weight may go from 100 to 0 and no request moves.
#[must_use]
pub fn covered(inputs: &RouteInputs<'_>) -> (usize, usize) {
    let port = u16::try_from(inputs.canary.spec.service.port).unwrap_or_default();
    let place = |endpoint: Endpoint| (endpoint.address, endpoint.port);
    let stable: BTreeSet<_> = endpoints(inputs.stable_slices, port, None).into_iter().map(place).collect();
    let canary: BTreeSet<_> = endpoints(inputs.canary_slices, port, None).into_iter().map(place).collect();
    (canary.intersection(&stable).count(), canary.len())
}

/// Endpoints of the stable arm of the port that is split.
#[must_use]
pub fn stable_ready(route: &Route) -> usize {
    route.listeners.iter().filter(|listener| listener.split).map(|listener| listener.stable.len()).sum()
}

/// Endpoints of the canary arm.
#[must_use]
pub fn canary_ready(route: &Route) -> usize {
    route.listeners.iter().filter(|listener| listener.split).map(|listener| listener.canary.len()).sum()
}

fn listeners(asked: &Asked, listener: impl Fn(&AskedPort) -> Option<Listener>) -> Vec<Listener> {
    let tcp = asked.ports.iter().filter(|port| port.protocol == "TCP");
    let mut listeners: Vec<_> = tcp.filter_map(listener).collect();
    listeners.sort_by_key(|listener| listener.port);
    listeners
}

/// An owner is missing only from a table that was just rebuilt; then the route must go on being served.
fn is_anothers(canary: &Canary, table: &Table, service: &str) -> bool {
    table.owners.get(service).is_some_and(|owner| *owner != canary.name_any())
}

/// By the table; with the table lost, by what the routed Service shows: that is where its traffic arrives.
fn pool_port(table: &Table, service: &Service, port: &AskedPort) -> Option<u16> {
    let key = RouteKey { service: service.name_any(), port: port.port, protocol: port.protocol.clone() };
    table.port(&key).or_else(|| services::routed_ports(service).get(&key).copied())
}

/// KEP-3726's names for `appProtocol`, and the registered ones; an unknown one is found out by the connection itself.
fn protocol(app_protocol: Option<&str>) -> Protocol {
    match app_protocol {
        Some("http" | "kubernetes.io/ws") => Protocol::Http,
        Some("kubernetes.io/h2c") => Protocol::H2c,
        Some("grpc") => Protocol::Grpc,
        Some("tcp" | "https" | "tls" | "kubernetes.io/wss") => Protocol::Tcp,
        Some(_) | None => Protocol::Unspecified,
    }
}

/// What the names of the pods of a revision begin with; none where the name is so long that the hash was cut off, and
/// the prefix would match every pod of the Deployment.
fn pod_prefix(deployment: &str, revision: &str) -> Option<String> {
    let prefix = format!("{deployment}-{revision}-");
    (prefix.len() <= GENERATED_BASE_MAX).then_some(prefix)
}

/// The ready endpoints of one port, in a fixed order; those that serve while they terminate if none is ready
/// (KEP-1669). `intruders` is the beginning of the names of pods to leave out.
fn endpoints(slices: &[&EndpointSlice], port: u16, intruders: Option<&str>) -> Vec<Endpoint> {
    let candidates: Vec<_> = slices
        .iter()
        .filter(|slice| slice.address_type == "IPv4" || slice.address_type == "IPv6")
        .filter_map(|slice| Some((slice, target_port(slice, port)?)))
        .flat_map(|(slice, number)| slice.endpoints.iter().flatten().map(move |endpoint| (endpoint, number)))
        .filter(|(endpoint, _)| !intruders.is_some_and(|prefix| pod(endpoint).starts_with(prefix)))
        .collect();
    let chosen = |is: fn(&SliceEndpoint) -> bool| {
        let chosen = candidates.iter().filter(|(endpoint, _)| is(endpoint)).filter_map(|(endpoint, number)| {
            let address = endpoint.addresses.first()?.clone();
            Some((address, *number, pod(endpoint).to_owned()))
        });
        chosen.collect::<BTreeSet<_>>()
    };
    let ready = chosen(is_ready);
    let places = if ready.is_empty() { chosen(is_serving) } else { ready };
    places.into_iter().map(|(address, port, pod)| Endpoint { address, port, pod }).collect()
}

/// Whether some endpoint of `slices` is ready.
#[must_use]
pub fn has_ready(slices: &[Arc<EndpointSlice>]) -> bool {
    slices.iter().flat_map(|slice| &slice.endpoints).flatten().any(is_ready)
}

/// The pods' port for a port of the Service: a slice has one number for each of its ports' names.
fn target_port(slice: &EndpointSlice, port: u16) -> Option<u32> {
    let name = services::port_name(port);
    let found = slice.ports.iter().flatten().find(|found| found.name.as_deref() == Some(&name))?;
    u32::try_from(found.port?).ok()
}

fn pod(endpoint: &SliceEndpoint) -> &str {
    let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    target.and_then(|target| target.name.as_deref()).unwrap_or_default()
}

/// Absent means ready, says the API.
fn is_ready(endpoint: &SliceEndpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

/// Absent means as ready, says the API.
fn is_serving(endpoint: &SliceEndpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.serving).unwrap_or_else(|| is_ready(endpoint))
}

/// `spec.service.timeout` in milliseconds; its form is the schema's affair.
fn timeout_ms(canary: &Canary) -> u64 {
    policy::millis(canary.spec.service.timeout.as_deref())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::services::fixtures::{mk_canary, mk_plain, mk_routed};

    /// A slice with ports 80 → 8080 and 9000 → 9001, and an endpoint per `(address, pod, conditions)`.
    fn mk_slice(endpoints: &[(&str, &str, Value)]) -> EndpointSlice {
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|(address, pod, conditions)| {
                json!({ "addresses": [address], "conditions": conditions, "targetRef": { "kind": "Pod", "name": pod } })
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
        })
        .unwrap()
    }

    fn addresses(endpoints: &[Endpoint]) -> Vec<String> {
        endpoints.iter().map(|endpoint| format!("{}:{}", endpoint.address, endpoint.port)).collect()
    }

    #[test]
    fn a_route_in_full() {
        let endpoint =
            |address: &str, port, pod: &str| Endpoint { address: address.to_owned(), port, pod: pod.to_owned() };
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
        let named =
            |name: &str, kind| NamedMatch { name: name.to_owned(), value: Some(TextMatch { kind: Some(kind) }) };
        let all_of = |headers| Match { headers, ..Match::default() };
        let both =
            [named("x-beta", Kind::Exact("a.b".to_owned())), named("x-team", Kind::Regex("(?s)a\\.b.*".to_owned()))];
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
        build(&RouteInputs { canary: &canary, table, service, stable_slices: &[], canary_slices: &[] })
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
    fn the_stable_arm_covers_the_canary_when_it_has_each_of_its_endpoints() {
        let tested = mk_slice(&[("10.0.0.8", "web-c2-w", ready()), ("10.0.0.9", "web-c2-x", ready())]);
        let half = mk_slice(&[("10.0.0.9", "web-c2-x", ready()), ("10.0.0.1", "web-s1-a", ready())]);
        let canary = at("Finalising", 100);
        let table = Table::default();
        let service = mk_routed();
        let with = |stable_slices: &[&EndpointSlice]| {
            covered(&RouteInputs {
                canary: &canary,
                table: &table,
                service: &service,
                stable_slices,
                canary_slices: &[&tested],
            })
        };
        assert_eq!(with(&[&half]), (1, 2));
        assert_eq!(with(&[&half, &tested]), (2, 2));
    }
}
