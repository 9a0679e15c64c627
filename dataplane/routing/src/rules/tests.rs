//! Which rule a request is for, and what rules cannot say.

use std::time::Duration;

use http::HeaderMap;

use super::*;

fn text(kind: &str, value: &str) -> api::TextMatch {
    use api::text_match::Kind;
    let kind = match kind {
        "exact" => Kind::Exact(value.into()),
        "prefix" => Kind::Prefix(value.into()),
        _ => Kind::Regex(value.into()),
    };
    api::TextMatch { kind: Some(kind) }
}

fn path(kind: &str, value: &str) -> api::Match {
    api::Match { path: Some(text(kind, value)), ..Default::default() }
}

fn named(name: &str, kind: &str, value: &str) -> api::NamedMatch {
    api::NamedMatch { name: name.into(), value: Some(text(kind, value)) }
}

fn mk(name: &str, one: api::Match) -> api::Rule {
    api::Rule { name: name.into(), matches: vec![one], ..Default::default() }
}

fn mk_host(name: &str, hostname: &str) -> api::Rule {
    api::Rule { name: name.into(), hostnames: vec![hostname.into()], ..Default::default() }
}

fn matched(rules: &[api::Rule], line: &str, fields: &[(&'static str, &str)]) -> Option<String> {
    let rules = Rules::compile(rules, None).unwrap().unwrap();
    let map: HeaderMap = fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    let mut words = line.split(' ');
    let (method, authority, target) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
    let head = Head::new(method, authority, target, &map);
    rules.decide(&head, 0, || 0).map(|decision| decision.rule.name.clone())
}

#[test]
fn the_more_specific_rule_comes_first_whatever_the_order() {
    let mut rules = vec![
        mk("all", path("prefix", "/")),
        mk("pattern", path("regex", "/a.*")),
        mk("short", path("prefix", "/a")),
        mk("long", path("prefix", "/a/b")),
        mk("exact", path("exact", "/a/b")),
        mk("post", api::Match { method: "POST".into(), ..path("prefix", "/a") }),
        mk("header", api::Match { headers: vec![named("X-A", "exact", "1")], ..path("prefix", "/a") }),
        mk("query", api::Match { query: vec![named("q", "exact", "1")], ..path("prefix", "/a") }),
        mk_host("host", "web.example.com"),
        mk_host("suffix", "*.example.com"),
    ];
    for _ in 0..rules.len() {
        rules.rotate_left(1);
        let check = |line: &str, fields: &[(&'static str, &str)], rule: &str| {
            assert_eq!(matched(&rules, line, fields).as_deref(), Some(rule), "{line} {fields:?}");
        };
        check("GET web /", &[], "all");
        check("GET web /ab", &[], "pattern");
        check("GET web /a/c", &[], "short");
        check("GET web /a/b/c", &[], "long");
        check("GET web /a/b/", &[], "long");
        check("GET web /a/b", &[], "exact");
        check("POST web /a?q=1", &[("x-a", "1")], "post");
        check("GET web /a?q=1", &[("x-a", "1")], "header");
        check("GET web /a?q=1", &[("x-a", "2")], "query");
        check("GET WEB.example.com:80 /a", &[], "host");
        check("GET a.b.example.com /a/b", &[], "suffix");
        check("GET example.com /zzz", &[], "all");
    }
}

#[test]
fn among_equals_the_first_rule_counts_and_without_a_match_none() {
    let rules = [mk("one", path("exact", "/a")), mk("two", path("exact", "/a"))];
    assert_eq!(matched(&rules, "GET web /a", &[]).as_deref(), Some("one"));
    assert_eq!(matched(&rules, "GET web /b", &[]), None);
}

#[test]
fn paths_are_compared_as_sent_and_patterns_with_all_of_it() {
    for (kind, value, target, holds) in [
        ("prefix", "/a", "/ab", false),
        ("prefix", "/a/", "/a", true),
        ("prefix", "/a", "/a?b", true),
        ("prefix", "/", "*", true),
        ("exact", "/a", "/A", false),
        ("exact", "/a", "/%61", false),
        ("exact", "/a", "/a/", false),
        ("regex", "/a", "/ab", false),
        ("regex", "/a|/b", "/b", true),
        ("regex", "/a|/b", "/ab", false),
        ("regex", "/v[0-9]+/.*", "/v12/x", true),
    ] {
        let found = matched(&[mk("", path(kind, value))], &format!("OPTIONS web {target}"), &[]);
        assert_eq!(found.is_some(), holds, "{kind} {value} {target}");
    }
}

#[test]
fn what_has_no_meaning_is_refused() {
    let refused = |rule: api::Rule| Rules::compile(&[rule], None).unwrap_err().to_string();
    for (value, kind) in [
        ("a", "exact"),
        ("/a//b", "prefix"),
        ("/a/../b", "exact"),
        ("/a/..", "prefix"),
        ("/a%2Fb", "exact"),
        ("/a?b", "exact"),
        ("/a b", "exact"),
    ] {
        assert!(refused(mk("", path(kind, value))).starts_with("path "), "{value}");
    }
    for pattern in ["(", "a)|(b", "(?x)a # ", "[0-9]{9999}{9999}"] {
        assert!(refused(mk("", path("regex", pattern))).starts_with("pattern "), "{pattern}");
    }
    assert!(refused(mk("", api::Match { method: "CONNECT".into(), ..Default::default() })).starts_with("method "));
    assert!(
        refused(mk("", api::Match { headers: vec![named("a b", "exact", "")], ..Default::default() })).contains("name")
    );
    for hostname in ["a*.com", "*", "web:80", "*.", "a..b"] {
        assert!(refused(mk_host("", hostname)).starts_with("hostname "), "{hostname}");
    }
    let twice = Rules::compile(&[mk("a", path("exact", "/a")), mk("a", path("exact", "/b"))], None);
    assert_eq!(twice.unwrap_err(), RuleError::Twice("a".into()));
}

#[test]
fn faults_strike_as_often_as_asked_and_independently() {
    let fault = api::Fault { delay_ms: 5, delay_percent: 50, abort_status: 503, abort_percent: 10 };
    let rules = Rules::compile(&[api::Rule { fault: Some(fault), ..Default::default() }], None).unwrap().unwrap();
    let (none, mut delayed, mut aborted, mut both) = (HeaderMap::new(), 0, 0, 0);
    for i in 0..10_000 {
        let decision = rules.decide(&Head::new("GET", "web", "/", &none), crate::split::mix(i), || 0).unwrap();
        delayed += u32::from(decision.delay == Some(Duration::from_millis(5)));
        aborted += u32::from(decision.answer.as_ref().is_some_and(|answer| answer.status == 503));
        both += u32::from(decision.delay.is_some() && decision.answer.is_some());
    }
    assert!(delayed.abs_diff(5_000) < 300 && aborted.abs_diff(1_000) < 150 && both.abs_diff(500) < 120);
}

/// Decides on a request with one rule for everything below `/a`.
fn decided(rule: api::Rule, line: &str, fields: &[(&'static str, &str)]) -> Decision {
    let rules = Rules::compile(&[api::Rule { matches: vec![path("prefix", "/a")], ..rule }], None).unwrap().unwrap();
    let map: HeaderMap = fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    let words: Vec<&str> = line.split(' ').collect();
    rules.decide(&Head::new(words[0], words[1], words[2], &map), 0, || 0).expect("the rule matches")
}

fn told(answer: &Answer, name: &str) -> Option<String> {
    let found = answer.fields.iter().find(|(field, _)| field == name);
    found.map(|(_, value)| value.to_str().unwrap().to_owned())
}

fn path_edit(kind: &str, path: &str) -> Option<api::PathEdit> {
    use api::path_edit::Kind;
    let kind = if kind == "full" { Kind::Full(path.into()) } else { Kind::Prefix(path.into()) };
    Some(api::PathEdit { kind: Some(kind) })
}

#[test]
fn prefixes_are_replaced_as_in_the_table_of_gateway_api() {
    for (replacement, target, wanted) in [
        ("/xyz", "/a/bar", "/xyz/bar"),
        ("/xyz/", "/a/bar?q=/a", "/xyz/bar?q=/a"),
        ("/xyz", "/a", "/xyz"),
        ("/xyz", "/a/", "/xyz/"),
        ("", "/a/bar", "/bar"),
        ("", "/a/", "/"),
        ("", "/a", "/"),
        ("/", "/a", "/"),
        ("/", "/a/", "/"),
        ("/", "/a?b", "/?b"),
    ] {
        let rewrite = Some(api::Rewrite { path: path_edit("prefix", replacement), ..Default::default() });
        let decision = decided(api::Rule { rewrite, ..Default::default() }, &format!("GET web {target}"), &[]);
        assert_eq!(decision.target.as_deref(), Some(wanted), "{target} with {replacement:?}");
    }
    let rewrite = Some(api::Rewrite { path: path_edit("full", "/b"), hostname: "Other.example".into() });
    let decision = decided(api::Rule { rewrite, ..Default::default() }, "GET web /a/b?c", &[]);
    assert_eq!((decision.target.as_deref(), decision.hostname()), (Some("/b?c"), Some("other.example")));
}

#[test]
fn redirects_lead_where_they_say_and_never_to_a_host_of_the_clients_choice() {
    let location = |redirect: api::Redirect, line: &str, fields: &[(&'static str, &str)]| {
        let rule = api::Rule { redirect: Some(redirect), ..Default::default() };
        let answer = decided(rule, line, fields).answer.unwrap();
        (answer.status, told(&answer, "location").unwrap())
    };
    let to = |scheme: &str, hostname: &str, port: u32, path: Option<api::PathEdit>, status: u32| api::Redirect {
        scheme: scheme.into(),
        hostname: hostname.into(),
        port,
        path,
        status,
    };
    let check = |redirect: api::Redirect, line: &str, wanted: &str| {
        assert_eq!(location(redirect, line, &[]).1, wanted, "{line}");
    };
    check(to("https", "", 0, None, 0), "GET web:8080 /a?b", "https://web/a?b");
    check(to("https", "", 8443, None, 0), "GET web /a", "https://web:8443/a");
    check(to("https", "", 443, None, 0), "GET web /a", "https://web/a");
    check(to("", "new.example", 0, None, 0), "GET web:8080 /a", "http://new.example:8080/a");
    check(to("", "new.example", 0, None, 0), "GET web:80 /a", "http://new.example/a");
    check(to("", "", 0, path_edit("prefix", "/b"), 0), "GET web /a/c?d", "/b/c?d");
    check(to("", "", 0, path_edit("full", "/b"), 0), "GET web /a/c", "/b");
    check(to("", "", 0, path_edit("prefix", ""), 0), "GET web /a//evil.example", "http://web//evil.example");
    check(to("", "", 0, path_edit("prefix", ""), 0), "GET web /a/\\evil.example", "http://web/\\evil.example");
    let forwarded = [("x-forwarded-proto", "https")];
    let moved = location(to("", "new.example", 0, None, 301), "GET web /a", &forwarded);
    assert_eq!(moved, (301, "https://new.example/a".to_owned()));
    let nothing = api::Rule { redirect: Some(api::Redirect::default()), ..Default::default() };
    assert!(Rules::compile(&[nothing], None).unwrap_err().to_string().contains("circles"));
    let no_prefix =
        api::Rule { redirect: Some(to("", "", 0, path_edit("prefix", "/"), 0)), ..mk("", path("exact", "/a")) };
    assert_eq!(Rules::compile(&[no_prefix], None).unwrap_err(), RuleError::NoPrefix);
}

#[test]
fn fields_that_frame_a_message_cannot_be_changed() {
    let field = |name: &str| api::Field { name: name.into(), value: "1".into() };
    let edits = |edits: api::FieldEdits| {
        Rules::compile(&[api::Rule { request_headers: Some(edits), ..Default::default() }], None)
            .map(drop)
            .map_err(|error| error.to_string())
    };
    for name in ["Host", "content-length", "Transfer-Encoding", "CONNECTION", "upgrade", "te", "X-Forwarded-For"] {
        for refused in [
            api::FieldEdits { set: vec![field(name)], ..Default::default() },
            api::FieldEdits { add: vec![field(name)], ..Default::default() },
            api::FieldEdits { remove: vec![name.into()], ..Default::default() },
        ] {
            assert!(edits(refused).unwrap_err().contains("belongs to the proxy"), "{name}");
        }
    }
    let twice = api::FieldEdits { set: vec![field("x-a")], add: vec![field("X-A")], ..Default::default() };
    assert!(edits(twice).unwrap_err().contains("twice"));
    let split = api::Field { name: "x-a".into(), value: "1\r\nx-b: 2".into() };
    assert!(edits(api::FieldEdits { set: vec![split], ..Default::default() }).unwrap_err().contains("not valid"));
}

fn asking(origin: &str) -> [(&'static str, &str); 3] {
    let method = ("access-control-request-method", "PATCH");
    [("origin", origin), method, ("access-control-request-headers", "x-q, x-r")]
}

#[test]
fn preflights_are_answered_for_the_request_that_they_announce() {
    let cors = |origins: &[&str], credentials, any: bool| api::Cors {
        allow_origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
        allow_credentials: credentials,
        allow_methods: vec![if any { "*" } else { "PUT" }.into()],
        allow_headers: vec![if any { "*" } else { "X-A" }.into()],
        expose_headers: vec!["X-B".into()],
        max_age_seconds: 60,
    };
    let answer = |cors: api::Cors, origin: &str| {
        let rule = api::Rule { cors: Some(cors), ..Default::default() };
        decided(rule, "OPTIONS web /a", &asking(origin)).answer.unwrap()
    };
    let given = answer(cors(&["https://*.shop.example"], false, false), "https://a.b.shop.example");
    assert_eq!((given.status, given.action), (204, Action::Preflight));
    let fields =
        ["origin", "methods", "headers"].map(|of| told(&given, &format!("access-control-allow-{of}")).unwrap());
    assert_eq!(fields, ["https://a.b.shop.example", "PUT", "X-A"]);
    assert_eq!(told(&given, "access-control-max-age").as_deref(), Some("60"));
    for stranger in ["https://shop.example", "http://a.shop.example", "https://evil.example/.shop.example", "null"] {
        let refused = answer(cors(&["https://*.shop.example"], false, false), stranger);
        assert_eq!((refused.status, told(&refused, "access-control-allow-origin")), (204, None), "{stranger}");
    }
    let all = answer(cors(&["*"], false, true), "https://x.example");
    assert_eq!(told(&all, "access-control-allow-origin").as_deref(), Some("*"));
    let all = answer(cors(&["*"], true, true), "https://x.example");
    let fields = ["origin", "methods", "headers"].map(|of| told(&all, &format!("access-control-allow-{of}")).unwrap());
    assert_eq!(fields, ["https://x.example", "PATCH", "x-q, x-r"], "with credentials a star means nothing");

    let one = api::Match { method: "PATCH".into(), ..path("prefix", "/a") };
    let rule = api::Rule { cors: Some(cors(&["*"], false, true)), ..mk("patch", one) };
    assert_eq!(
        matched(std::slice::from_ref(&rule), "OPTIONS web /a", &asking("https://x.example")).as_deref(),
        Some("patch")
    );
    assert_eq!(matched(&[rule], "OPTIONS web /a", &[]), None);

    let rule = api::Rule { cors: Some(cors(&["https://x.example"], true, false)), ..Default::default() };
    let forwarded = decided(rule, "GET web /a", &[("origin", "https://x.example")]);
    let written: Vec<_> =
        forwarded.written().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    assert_eq!(
        written,
        [
            "access-control-allow-origin: https://x.example",
            "access-control-allow-credentials: true",
            "access-control-expose-headers: X-B",
            "vary: origin",
        ]
    );
    assert!(forwarded.answer.is_none() && forwarded.drops("Access-Control-Allow-Origin") && !forwarded.drops("Vary"));
    for origin in ["shop.example", "ftp://a", "https://a*.example", "https://*.a.*", "https://A.example", "https://a/b"]
    {
        let rule = api::Rule { cors: Some(cors(&[origin], false, false)), ..Default::default() };
        assert_eq!(Rules::compile(&[rule], None).unwrap_err(), RuleError::Origin(origin.into()));
    }
}

#[test]
fn what_a_rule_counted_is_kept_while_its_name_is() {
    let limit = api::RateLimit { requests: 1, unit_ms: 10_000, burst: 1 };
    let limited = api::Rule { name: "few".into(), rate_limit: Some(limit), ..Default::default() };
    let mut rules = Rules::compile(std::slice::from_ref(&limited), None).unwrap().unwrap();
    let none = HeaderMap::new();
    for wanted in [None, Some(429), Some(429)] {
        let decision = rules.decide(&Head::new("GET", "web", "/", &none), 0, || 1_500_000_000).unwrap();
        assert_eq!(decision.answer.as_ref().map(|answer| answer.status), wanted);
        if let Some(answer) = decision.answer {
            assert_eq!(told(&answer, "retry-after").as_deref(), Some("10"));
        }
        rules = Rules::compile(&[mk("new", path("exact", "/x")), limited.clone()], Some(&rules)).unwrap().unwrap();
    }
    let counts: Vec<_> = rules.iter().map(|rule| (rule.name.as_str(), rule.counts.get(Action::RateLimit))).collect();
    assert_eq!(counts, [("new", 0), ("few", 2)]);
}
