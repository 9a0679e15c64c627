//! Rules for single requests, `spec.service.rules` of a Canary: the words of Gateway API's HTTPRoute, with each filter as a
//! field. Limits and rules that the schema can say; patterns are compiled by the API server's own expression, so a mistyped
//! one is refused when it is applied.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is done with the requests that it matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!(has(self.requestRedirect) && has(self.urlRewrite))").message("a rule takes either requestRedirect or urlRewrite, not both"))]
#[x_kube(validation = Rule::new("!has(self.requestRedirect) || !has(self.requestRedirect.path) || self.requestRedirect.path.type != 'ReplacePrefixMatch' || !has(self.matches) || self.matches.all(m, !has(m.path) || m.path.type == 'PathPrefix')").message("replacePrefixMatch needs every match of the rule to have a path of type PathPrefix"))]
#[x_kube(validation = Rule::new("!has(self.urlRewrite) || !has(self.urlRewrite.path) || self.urlRewrite.path.type != 'ReplacePrefixMatch' || !has(self.matches) || self.matches.all(m, !has(m.path) || m.path.type == 'PathPrefix')").message("replacePrefixMatch needs every match of the rule to have a path of type PathPrefix"))]
pub struct HttpRule {
    /// Shown in metrics; `rule-<place>`, from 0, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: Option<String>,
    /// Hosts that it is for, such as `shop.example.com` or `*.example.com`; every host if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 16),
        inner(
            length(min = 1, max = 253),
            regex(pattern = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
        )
    )]
    pub hostnames: Option<Vec<String>>,
    /// Requests that it is for: those that are any of these; every request if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub matches: Option<Vec<RequestMatch>>,
    /// Send the client elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_redirect: Option<RequestRedirect>,
    /// Ask the pods for something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_rewrite: Option<UrlRewrite>,
    /// Change the header fields that the pods get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<HeaderModifier>,
    /// Change the header fields that the client gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<HeaderModifier>,
    /// Which pages of other origins may read the answers. Preflights are answered by the proxies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,
    /// Limits of time instead of `spec.service.timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// Errors on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// How many requests each proxy lets through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
}

/// A kind of request: all of what is given must hold. Texts are compared as sent, nothing is decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestMatch {
    /// Of the path, without the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// The method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// Of header fields; several lines of one count as a list with commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub headers: Option<Vec<NamedMatch>>,
    /// Of query parameters; the first value of each counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub query_params: Option<Vec<NamedMatch>>,
}

/// A path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(deny_unknown_fields)]
#[x_kube(validation = Rule::new("self.type == 'RegularExpression' || (self.value.startsWith('/') && !self.value.contains('//') && !self.value.contains('/./') && !self.value.contains('/../') && !self.value.endsWith('/..') && !self.value.endsWith('/.') && !self.value.contains('%2f') && !self.value.contains('%2F') && !self.value.contains('#') && !self.value.contains('?'))").message("path.value must start with / and hold no //, dot segments, %2F, ? or #"))]
#[x_kube(validation = Rule::new("self.type != 'RegularExpression' ? true : ''.matches(self.value) in [true, false]").message("path.value must be a valid regular expression"))]
pub struct PathMatch {
    /// How it is compared.
    #[serde(default, rename = "type")]
    pub kind: PathMatchType,
    /// What it is compared with.
    #[serde(default = "root")]
    #[schemars(length(min = 1, max = 1_024))]
    pub value: String,
}

/// How a path is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathMatchType {
    /// All of it.
    Exact,
    /// Its first elements: `/a` is for `/a`, `/a/` and `/a/b`, not for `/ab`.
    #[default]
    PathPrefix,
    /// All of it, with a pattern.
    RegularExpression,
}

/// A method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "RFC 9110 §9.3 and RFC 5789")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Trace,
    Patch,
}

/// A header field or query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(deny_unknown_fields)]
#[x_kube(validation = Rule::new("self.type != 'RegularExpression' ? true : ''.matches(self.value) in [true, false]").message("value must be a valid regular expression"))]
pub struct NamedMatch {
    /// How the value is compared.
    #[serde(default, rename = "type")]
    pub kind: NamedMatchType,
    /// Name of the header field, in any case, or of the query parameter.
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$"))]
    pub name: String,
    /// What the value is compared with.
    #[schemars(length(min = 1, max = 1_024))]
    pub value: String,
}

/// How a value is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NamedMatchType {
    /// All of it.
    #[default]
    Exact,
    /// All of it, with a pattern.
    RegularExpression,
}

/// Sends the client elsewhere; what is absent stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.scheme) || has(self.hostname) || has(self.port) || has(self.path)").message("requestRedirect must change scheme, hostname, port or path, or clients would go in circles"))]
pub struct RequestRedirect {
    /// `http` or `https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// The host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub hostname: Option<String>,
    /// The port. Absent: that of the scheme if one is given, else the one that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<i32>,
    /// The path; the query stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
    /// 301, 302, 303, 307 or 308.
    #[serde(default = "default_redirect_status")]
    #[x_kube(validation = Rule::new("self in [301, 302, 303, 307, 308]").message("requestRedirect.statusCode must be 301, 302, 303, 307 or 308"))]
    pub status_code: i32,
}

/// Scheme of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "RFC 9110 §4.2")]
pub enum Scheme {
    Http,
    Https,
}

/// What the pods are asked instead; the client does not see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.hostname) || has(self.path)").message("urlRewrite needs hostname, path or both"))]
pub struct UrlRewrite {
    /// The `Host` that they get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub hostname: Option<String>,
    /// The path; the query stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
}

/// Another path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("self.type == 'ReplaceFullPath' ? has(self.replaceFullPath) && !has(self.replacePrefixMatch) : has(self.replacePrefixMatch) && !has(self.replaceFullPath)").message("path takes replaceFullPath or replacePrefixMatch, as its type says"))]
pub struct PathModifier {
    /// Which part is replaced.
    #[serde(rename = "type")]
    pub kind: PathModifierType,
    /// Instead of all of the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1_024), regex(pattern = r"^/[^?#\s]*$"))]
    pub replace_full_path: Option<String>,
    /// Instead of the prefix that matched; may be empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1_024), regex(pattern = r"^(/[^?#\s]*)?$"))]
    pub replace_prefix_match: Option<String>,
}

/// Which part of a path is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathModifierType {
    /// All of it.
    ReplaceFullPath,
    /// The prefix that matched.
    ReplacePrefixMatch,
}

/// Changes to header fields. Those that frame the message, name the host or are meant for one hop cannot be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(deny_unknown_fields)]
#[x_kube(validation = Rule::new("(!has(self.set) || self.set.all(f, !(f.name.lowerAscii() in ['connection', 'content-length', 'expect', 'host', 'keep-alive', 'proxy-authenticate', 'proxy-authorization', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade', 'x-forwarded-for']))) && (!has(self.add) || self.add.all(f, !(f.name.lowerAscii() in ['connection', 'content-length', 'expect', 'host', 'keep-alive', 'proxy-authenticate', 'proxy-authorization', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade', 'x-forwarded-for']))) && (!has(self.remove) || self.remove.all(f, !(f.lowerAscii() in ['connection', 'content-length', 'expect', 'host', 'keep-alive', 'proxy-authenticate', 'proxy-authorization', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade', 'x-forwarded-for'])))").message("headers that frame the message, name the host or are meant for one hop cannot be changed"))]
pub struct HeaderModifier {
    /// Instead of every value that there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub set: Option<Vec<HeaderField>>,
    /// Beside the values that there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub add: Option<Vec<HeaderField>>,
    /// Names of fields to leave out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 1, max = 256), regex(pattern = r"^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$"))
    )]
    pub remove: Option<Vec<String>>,
}

/// A header field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderField {
    /// Its name, in any case.
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$"))]
    pub name: String,
    /// Its value.
    #[schemars(length(max = 4_096), regex(pattern = r"^[^\x00-\x1f\x7f]*$"))]
    pub value: String,
}

/// Which pages of other origins may read the answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cors {
    /// `*`, or such as `https://shop.example.com` or `https://*.example.com`.
    #[schemars(
        length(min = 1, max = 64),
        inner(length(min = 1, max = 253), regex(pattern = r"^(\*|https?://(\*(\.|:|$))?[-a-z0-9.:\[\]]*)$"))
    )]
    pub allow_origins: Vec<String>,
    /// Let pages send cookies.
    #[serde(default)]
    pub allow_credentials: bool,
    /// Methods beyond GET, HEAD and POST; `*`: the one that is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 16), regex(pattern = r"^([A-Z]+|\*)$")))]
    pub allow_methods: Option<Vec<String>>,
    /// Header fields that pages may send; `*`: those that are asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 64),
        inner(length(min = 1, max = 256), regex(pattern = r"^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$"))
    )]
    pub allow_headers: Option<Vec<String>>,
    /// Header fields that pages may read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 64),
        inner(length(min = 1, max = 256), regex(pattern = r"^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$"))
    )]
    pub expose_headers: Option<Vec<String>>,
    /// Seconds that browsers may keep the answer to a preflight.
    #[serde(default = "default_max_age")]
    #[schemars(range(min = 0, max = 86_400))]
    pub max_age: i32,
}

/// Limits of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// Longest time that a request may take, such as `15s`; `0s`: no limit.
    #[schemars(length(max = 16), regex(pattern = r"^[0-9]+(ms|s|m)$"))]
    pub request: String,
}

/// Errors on purpose, each in percent of the rule's requests. They count for no version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.delay) || has(self.abort)").message("fault needs delay, abort or both"))]
pub struct Fault {
    /// Hold requests back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Delay>,
    /// Answer with an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<Abort>,
}

/// Holds requests back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Delay {
    /// For how long, `1ms` to `60s`.
    #[schemars(length(max = 16), regex(pattern = r"^[0-9]+(ms|s|m)$"))]
    #[x_kube(validation = Rule::new("duration(self) > duration('0s') && duration(self) <= duration('60s')").message("fault.delay.fixedDelay must be above 0 and at most 60s"))]
    pub fixed_delay: String,
    /// Of how many requests.
    #[serde(default = "all")]
    #[schemars(range(min = 0, max = 100))]
    pub percentage: i32,
}

/// Answers with an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Abort {
    /// The status.
    #[schemars(range(min = 400, max = 599))]
    pub http_status: i32,
    /// How many requests.
    #[serde(default = "all")]
    #[schemars(range(min = 0, max = 100))]
    pub percentage: i32,
}

/// How many requests each proxy lets through; the others get a 429 that says when to come back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Requests per unit.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests: i32,
    /// The unit.
    pub unit: Unit,
    /// Requests at once; as many as `requests` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: Option<i32>,
}

/// Unit of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "they say what they are")]
pub enum Unit {
    Second,
    Minute,
    Hour,
}

fn root() -> String {
    "/".to_owned()
}

fn default_redirect_status() -> i32 {
    302
}

fn default_max_age() -> i32 {
    5
}

fn all() -> i32 {
    100
}
