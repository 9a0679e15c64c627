//! The rules of a route in the file: the fields of `spec.service.rules` of a Canary, which the crate `crds` describes, and
//! their messages. Whether a value has a meaning is for `routing::rules` to say.

use proxy_api::v1beta1 as api;
use serde::Deserialize;

use crate::args;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[derive(Default)]
pub(super) struct Rule {
    name: String,
    hostnames: Vec<String>,
    matches: Vec<Match>,
    request_redirect: Option<Redirect>,
    url_rewrite: Option<Rewrite>,
    request_header_modifier: Option<FieldEdits>,
    response_header_modifier: Option<FieldEdits>,
    cors: Option<Cors>,
    timeouts: Option<Timeouts>,
    fault: Option<Fault>,
    rate_limit: Option<RateLimit>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Match {
    path: Option<PathMatch>,
    method: String,
    headers: Vec<NamedMatch>,
    query_params: Vec<NamedMatch>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PathMatch {
    #[serde(default, rename = "type")]
    kind: PathKind,
    #[serde(default = "root")]
    value: String,
}

#[derive(Debug, Default, Deserialize)]
enum PathKind {
    Exact,
    #[default]
    PathPrefix,
    RegularExpression,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedMatch {
    #[serde(default, rename = "type")]
    kind: NamedKind,
    name: String,
    value: String,
}

#[derive(Debug, Default, Deserialize)]
enum NamedKind {
    #[default]
    Exact,
    RegularExpression,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Redirect {
    scheme: String,
    hostname: String,
    port: u32,
    path: Option<PathEdit>,
    status_code: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Rewrite {
    hostname: String,
    path: Option<PathEdit>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase", deny_unknown_fields)]
enum PathEdit {
    ReplaceFullPath { replace_full_path: String },
    ReplacePrefixMatch { replace_prefix_match: String },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FieldEdits {
    set: Vec<Field>,
    add: Vec<Field>,
    remove: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Field {
    name: String,
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Cors {
    allow_origins: Vec<String>,
    #[serde(default)]
    allow_credentials: bool,
    #[serde(default)]
    allow_methods: Vec<String>,
    #[serde(default)]
    allow_headers: Vec<String>,
    #[serde(default)]
    expose_headers: Vec<String>,
    #[serde(default = "default_max_age")]
    max_age: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Timeouts {
    request: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Fault {
    delay: Option<Delay>,
    abort: Option<Abort>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Delay {
    fixed_delay: String,
    #[serde(default = "all")]
    percentage: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Abort {
    http_status: u32,
    #[serde(default = "all")]
    percentage: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RateLimit {
    requests: u32,
    unit: Unit,
    #[serde(default)]
    burst: u32,
}

#[derive(Debug, Deserialize)]
enum Unit {
    Second,
    Minute,
    Hour,
}

fn root() -> String {
    "/".to_owned()
}

fn all() -> u32 {
    100
}

fn default_max_age() -> u32 {
    5
}

/// What the stream would say.
///
/// # Errors
/// When a duration is none.
pub(super) fn message(rule: Rule) -> Result<api::Rule, String> {
    Ok(api::Rule {
        name: rule.name,
        hostnames: rule.hostnames,
        matches: rule.matches.into_iter().map(one_match).collect(),
        request_timeout_ms: rule.timeouts.map(|timeouts| millis(&timeouts.request)).transpose()?,
        fault: rule.fault.map(fault).transpose()?,
        redirect: rule.request_redirect.map(|redirect| api::Redirect {
            scheme: redirect.scheme,
            hostname: redirect.hostname,
            port: redirect.port,
            path: redirect.path.map(path_edit),
            status: redirect.status_code,
        }),
        rewrite: rule
            .url_rewrite
            .map(|rewrite| api::Rewrite { hostname: rewrite.hostname, path: rewrite.path.map(path_edit) }),
        request_headers: rule.request_header_modifier.map(edits),
        response_headers: rule.response_header_modifier.map(edits),
        cors: rule.cors.map(|cors| api::Cors {
            allow_origins: cors.allow_origins,
            allow_credentials: cors.allow_credentials,
            allow_methods: cors.allow_methods,
            allow_headers: cors.allow_headers,
            expose_headers: cors.expose_headers,
            max_age_seconds: cors.max_age,
        }),
        rate_limit: rule.rate_limit.map(|limit| api::RateLimit {
            requests: limit.requests,
            unit_ms: match limit.unit {
                Unit::Second => 1_000,
                Unit::Minute => 60_000,
                Unit::Hour => 3_600_000,
            },
            burst: limit.burst,
        }),
    })
}

fn millis(text: &str) -> Result<u64, String> {
    args::duration(text).map(|duration| duration.as_millis() as u64)
}

fn one_match(one: Match) -> api::Match {
    use api::text_match::Kind;
    let path = one.path.map(|path| match path.kind {
        PathKind::Exact => Kind::Exact(path.value),
        PathKind::PathPrefix => Kind::Prefix(path.value),
        PathKind::RegularExpression => Kind::Regex(path.value),
    });
    let named = |matches: Vec<NamedMatch>| matches.into_iter().map(named).collect();
    api::Match {
        path: path.map(|kind| api::TextMatch { kind: Some(kind) }),
        method: one.method,
        headers: named(one.headers),
        query: named(one.query_params),
    }
}

fn named(one: NamedMatch) -> api::NamedMatch {
    use api::text_match::Kind;
    let kind = match one.kind {
        NamedKind::Exact => Kind::Exact(one.value),
        NamedKind::RegularExpression => Kind::Regex(one.value),
    };
    api::NamedMatch { name: one.name, value: Some(api::TextMatch { kind: Some(kind) }) }
}

fn path_edit(edit: PathEdit) -> api::PathEdit {
    use api::path_edit::Kind;
    let kind = match edit {
        PathEdit::ReplaceFullPath { replace_full_path } => Kind::Full(replace_full_path),
        PathEdit::ReplacePrefixMatch { replace_prefix_match } => Kind::Prefix(replace_prefix_match),
    };
    api::PathEdit { kind: Some(kind) }
}

fn edits(edits: FieldEdits) -> api::FieldEdits {
    let fields = |fields: Vec<Field>| {
        fields.into_iter().map(|field| api::Field { name: field.name, value: field.value }).collect()
    };
    api::FieldEdits { set: fields(edits.set), add: fields(edits.add), remove: edits.remove }
}

fn fault(fault: Fault) -> Result<api::Fault, String> {
    let mut message = api::Fault::default();
    if let Some(delay) = fault.delay {
        (message.delay_ms, message.delay_percent) = (millis(&delay.fixed_delay)?, delay.percentage);
    }
    if let Some(abort) = fault.abort {
        (message.abort_status, message.abort_percent) = (abort.http_status, abort.percentage);
    }
    Ok(message)
}

#[cfg(test)]
mod tests;
