//! Which rule a request is for, and what rules cannot say.

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
    let rules = Rules::compile(rules).unwrap().unwrap();
    let map: HeaderMap = fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    let mut words = line.split(' ');
    let (method, authority, target) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
    let head = Head::new(method, authority, target, &map);
    rules.decide(&head, 0).map(|decision| decision.rule.name.clone())
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
    let refused = |rule: api::Rule| Rules::compile(&[rule]).unwrap_err().to_string();
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
    let twice = Rules::compile(&[mk("a", path("exact", "/a")), mk("a", path("exact", "/b"))]);
    assert_eq!(twice.unwrap_err(), RuleError::Twice("a".into()));
}

#[test]
fn faults_strike_as_often_as_asked_and_independently() {
    let fault = api::Fault { delay_ms: 5, delay_percent: 50, abort_status: 503, abort_percent: 10 };
    let rules = Rules::compile(&[api::Rule { fault: Some(fault), ..Default::default() }]).unwrap().unwrap();
    let (none, mut delayed, mut aborted, mut both) = (HeaderMap::new(), 0, 0, 0);
    for i in 0..10_000 {
        let decision = rules.decide(&Head::new("GET", "web", "/", &none), crate::split::mix(i)).unwrap();
        delayed += u32::from(decision.delay == Some(Duration::from_millis(5)));
        aborted += u32::from(decision.answer == Some(Answer { status: 503, cause: Cause::Abort }));
        both += u32::from(decision.delay.is_some() && decision.answer.is_some());
    }
    assert!(delayed.abs_diff(5_000) < 300 && aborted.abs_diff(1_000) < 150 && both.abs_diff(500) < 120);
}
