//! Which rule a request is for, against a model that knows no order of precedence but compares every pair.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use http::HeaderMap;
use proptest::prelude::*;
use proxy_api::v1beta1 as api;
use routing::rules::{Head, Rules};

#[derive(Clone, Debug)]
struct Wanted {
    host: &'static str,
    /// Kind and text.
    path: Option<(u8, String)>,
    method: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    query: Vec<(&'static str, &'static str)>,
}

#[derive(Clone, Debug)]
struct Asked {
    method: &'static str,
    host: &'static str,
    path: String,
    query: Vec<(&'static str, &'static str)>,
    headers: Vec<(&'static str, &'static str)>,
}

const EXACT: u8 = 0;
const PREFIX: u8 = 1;
const REGEX: u8 = 2;

fn some_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "a", "b", "ab", "%61"]), 0..3)
        .prop_flat_map(|parts| (Just(parts), any::<bool>()))
        .prop_map(|(parts, slash)| format!("/{}{}", parts.join("/"), if slash && !parts.is_empty() { "/" } else { "" }))
}

fn pairs() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let pair = (prop::sample::select(vec!["x", "y", "z"]), prop::sample::select(vec!["1", "1", "1", "2"]));
    prop_oneof![Just(Vec::new()), prop::collection::vec(pair, 1..4)]
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let regex = prop::sample::select(vec!["/a.*", "/[ab]", ".*/b", "/ab|/a"]).prop_map(str::to_owned);
    let path = prop_oneof![
        1 => some_path().prop_map(|path| Some((EXACT, path))),
        2 => some_path().prop_map(|path| Some((PREFIX, path))),
        2 => regex.prop_map(|pattern| Some((REGEX, pattern))),
        3 => Just(None),
    ];
    let host = prop::sample::select(vec!["", "", "", "", "web", "a.web", "*.web", "*.a.web"]);
    let method = prop::sample::select(vec!["", "GET", "POST"]);
    (host, path, method, pairs(), pairs()).prop_map(|(host, path, method, headers, query)| Wanted {
        host,
        path,
        method,
        headers,
        query,
    })
}

fn asked() -> impl Strategy<Value = Asked> {
    let host = prop::sample::select(vec!["web", "a.web", "WEB:80", "b.a.web", "other"]);
    (prop::sample::select(vec!["GET", "POST", "PUT"]), host, some_path(), pairs(), pairs())
        .prop_map(|(method, host, path, query, headers)| Asked { method, host, path, query, headers })
}

fn message(rule: &Wanted) -> api::Rule {
    use api::text_match::Kind;
    let text = |kind| Some(api::TextMatch { kind: Some(kind) });
    let named = |pairs: &[(&str, &str)]| {
        let one = |(name, value): &(&str, &str)| api::NamedMatch {
            name: (*name).into(),
            value: text(Kind::Exact((*value).into())),
        };
        pairs.iter().map(one).collect()
    };
    let path = rule.path.clone().and_then(|(kind, path)| match kind {
        EXACT => text(Kind::Exact(path)),
        PREFIX => text(Kind::Prefix(path)),
        _ => text(Kind::Regex(path)),
    });
    let one = api::Match { path, method: rule.method.into(), headers: named(&rule.headers), query: named(&rule.query) };
    let hostnames = if rule.host.is_empty() { vec![] } else { vec![rule.host.into()] };
    api::Rule { hostnames, matches: vec![one], ..Default::default() }
}

/// Elements, the empty ones at the end left out.
fn elements(path: &str) -> Vec<&str> {
    let mut elements: Vec<_> = path[1..].split('/').collect();
    while elements.last().is_some_and(|last| last.is_empty()) {
        elements.pop();
    }
    elements
}

fn is_for(rule: &Wanted, asked: &Asked) -> bool {
    let host = asked.host.to_lowercase();
    let host = host.split(':').next().unwrap();
    let of_host = match rule.host.strip_prefix('*') {
        _ if rule.host.is_empty() => true,
        None => host == rule.host,
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
    };
    let of_path = match &rule.path {
        None => true,
        Some((EXACT, path)) => *path == asked.path,
        Some((PREFIX, path)) => elements(&asked.path).starts_with(&elements(path)),
        Some((_, pattern)) => match pattern.as_str() {
            "/a.*" => asked.path.starts_with("/a"),
            "/[ab]" => asked.path == "/a" || asked.path == "/b",
            ".*/b" => asked.path.ends_with("/b"),
            _ => asked.path == "/ab" || asked.path == "/a",
        },
    };
    let joined = |name| {
        let values: Vec<_> = asked.headers.iter().filter(|(n, _)| *n == name).map(|(_, value)| *value).collect();
        values.join(", ")
    };
    let first = |name| asked.query.iter().find(|(n, _)| *n == name).map(|(_, value)| *value);
    of_host
        && of_path
        && (rule.method.is_empty() || rule.method == asked.method)
        && rule.headers.iter().all(|(name, value)| joined(*name) == *value)
        && rule.query.iter().all(|(name, value)| first(*name) == Some(*value))
}

/// Whether `one` comes before `other`, by the words of Gateway API; neither does if they are equal.
fn before(one: &Wanted, other: &Wanted) -> bool {
    let host = |rule: &Wanted| match rule.host {
        "" => (0, 0),
        host if host.starts_with('*') => (1, host.len()),
        host => (2, host.len()),
    };
    let path = |rule: &Wanted| match &rule.path {
        Some((EXACT, path)) => (3, path.len()),
        Some((PREFIX, path)) if path.trim_end_matches('/').is_empty() => (0, 0),
        Some((PREFIX, path)) => (2, path.trim_end_matches('/').len()),
        Some(_) => (1, 0),
        None => (0, 0),
    };
    let differences = [
        host(one).cmp(&host(other)),
        path(one).cmp(&path(other)),
        one.method.is_empty().cmp(&other.method.is_empty()).reverse(),
        one.headers.len().cmp(&other.headers.len()),
        one.query.len().cmp(&other.query.len()),
    ];
    differences.into_iter().find(|difference| difference.is_ne()).is_some_and(std::cmp::Ordering::is_gt)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn the_rule_that_is_found_is_the_models(
        rules in prop::collection::vec(wanted(), 1..16),
        requests in prop::collection::vec(asked(), 1..16),
    ) {
        let messages: Vec<_> = rules.iter().map(message).collect();
        let compiled = Rules::compile(&messages, None).unwrap().unwrap();
        for asked in requests {
            let candidates: Vec<usize> = (0..rules.len()).filter(|i| is_for(&rules[*i], &asked)).collect();
            let best = candidates.iter().copied().find(|i| {
                candidates.iter().all(|j| !before(&rules[*j], &rules[*i]))
            });
            let mut fields = HeaderMap::new();
            for (name, value) in &asked.headers {
                fields.append(*name, value.parse().unwrap());
            }
            let query: Vec<_> = asked.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let target = format!("{}?{}", asked.path, query.join("&"));
            let head = Head::new(asked.method, asked.host, &target, &fields);
            let found = compiled.decide(&head, 0, || 0).map(|decision| decision.rule.name.clone());
            prop_assert_eq!(found, best.map(|i| format!("rule-{i}")), "{:?}", asked);
        }
    }
}
