//! A model of rules that knows no order of precedence but compares every pair, and the words that rules and requests are made
//! of. Shared with the fuzz targets.

use http::HeaderMap;
use proxy_api::v1beta1 as api;
use routing::rules::{Head, Rules};

/// Names and values of header fields, or of the query.
pub(crate) type Pairs = Vec<(&'static str, &'static str)>;

/// A rule with one match.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) host: &'static str,
    /// Kind and text.
    pub(crate) path: Option<(u8, String)>,
    pub(crate) method: &'static str,
    pub(crate) headers: Pairs,
    pub(crate) query: Pairs,
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: &'static str,
    pub(crate) host: &'static str,
    pub(crate) path: String,
    pub(crate) query: Pairs,
    pub(crate) headers: Pairs,
}

pub(crate) const EXACT: u8 = 0;
pub(crate) const PREFIX: u8 = 1;
pub(crate) const REGEX: u8 = 2;

pub(crate) const HOSTS: [&str; 8] = ["", "", "", "", "web", "a.web", "*.web", "*.a.web"];
pub(crate) const ASKED_HOSTS: [&str; 5] = ["web", "a.web", "WEB:80", "b.a.web", "other"];
pub(crate) const METHODS: [&str; 3] = ["", "GET", "POST"];
pub(crate) const ASKED_METHODS: [&str; 3] = ["GET", "POST", "PUT"];
pub(crate) const PATTERNS: [&str; 4] = ["/a.*", "/[ab]", ".*/b", "/ab|/a"];
pub(crate) const PARTS: [&str; 5] = ["a", "a", "b", "ab", "%61"];
pub(crate) const NAMES: [&str; 3] = ["x", "y", "z"];
pub(crate) const VALUES: [&str; 4] = ["1", "1", "1", "2"];

/// Of its parts, with a slash at the end or without.
pub(crate) fn path(parts: &[&str], slash: bool) -> String {
    format!("/{}{}", parts.join("/"), if slash && !parts.is_empty() { "/" } else { "" })
}

/// Whether each request gets the rule that the model says; otherwise the request, the rule that was found, and the model's.
pub(crate) fn check(rules: &[Wanted], requests: &[Asked]) -> Result<(), String> {
    let messages: Vec<_> = rules.iter().map(message).collect();
    let compiled = Rules::compile(&messages, None).expect("the words make valid rules").expect("there are rules");
    for asked in requests {
        let (found, best) = (found(&compiled, asked), best(rules, asked).map(|index| format!("rule-{index}")));
        if found != best {
            return Err(format!("{asked:?}: {found:?}, and not {best:?}"));
        }
    }
    Ok(())
}

fn found(compiled: &Rules, asked: &Asked) -> Option<String> {
    let mut fields = HeaderMap::new();
    for (name, value) in &asked.headers {
        fields.append(*name, http::HeaderValue::from_static(value));
    }
    let query: Vec<_> = asked.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let target = format!("{}?{}", asked.path, query.join("&"));
    let head = Head::new(asked.method, asked.host, &target, &fields);
    compiled.decide(&head, 0, || 0).map(|decision| decision.rule.name.clone())
}

fn best(rules: &[Wanted], asked: &Asked) -> Option<usize> {
    let candidates: Vec<usize> = (0..rules.len()).filter(|index| is_for(&rules[*index], asked)).collect();
    let first = |index: &usize| candidates.iter().all(|other| !before(&rules[*other], &rules[*index]));
    candidates.iter().copied().find(first)
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
    let host = host.split(':').next().unwrap_or_default();
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
