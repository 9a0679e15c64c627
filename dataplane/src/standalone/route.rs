//! A route of the file, and its message: what a Canary says of its Service, with the endpoints listed.

use proxy_api::v1beta1 as api;
use serde::Deserialize;

use super::{FileError, endpoint, policy, rules};
use crate::args;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Route {
    #[serde(default = "default_namespace")]
    namespace: String,
    service: String,
    #[serde(default)]
    canary: Option<String>,
    #[serde(default)]
    weight: u32,
    #[serde(default)]
    stable_revision: String,
    #[serde(default)]
    canary_revision: String,
    #[serde(default)]
    request_timeout: Option<String>,
    #[serde(default)]
    connect_timeout: Option<String>,
    #[serde(default)]
    session_affinity: Option<SessionAffinity>,
    #[serde(default)]
    mirror: Option<Mirror>,
    #[serde(default, rename = "match", with = "serde_yaml_ng::with::singleton_map_recursive")]
    audience: Vec<Match>,
    #[serde(default)]
    rules: Vec<rules::Rule>,
    retries: Option<Retries>,
    #[serde(default)]
    traffic_policy: Option<policy::TrafficPolicy>,
    listeners: Vec<Listener>,
}

/// As `spec.service.retries` of a Canary.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Retries {
    attempts: u32,
    #[serde(default)]
    per_try_timeout: Option<String>,
    #[serde(default)]
    retry_on: String,
    #[serde(default)]
    budget: Budget,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Budget {
    percent: Option<u32>,
    min_retries_per_second: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SessionAffinity {
    #[serde(default)]
    cookie_name: String,
    #[serde(default = "default_max_age")]
    max_age: u32,
    #[serde(default)]
    header_name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Mirror {
    percent: u32,
    #[serde(default)]
    all_methods: bool,
}

/// As `analysis.match` of Flagger.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Match {
    headers: std::collections::BTreeMap<String, Text>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Text {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Regex(String),
}

impl Text {
    fn message(self) -> api::TextMatch {
        use api::text_match::Kind;
        let kind = match self {
            Self::Exact(text) => Kind::Exact(text),
            Self::Prefix(text) => Kind::Regex(routing::audience::beginning(&text)),
            Self::Suffix(text) => Kind::Regex(routing::audience::ending(&text)),
            Self::Regex(pattern) => Kind::Regex(pattern),
        };
        api::TextMatch { kind: Some(kind) }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Listener {
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    protocol: Protocol,
    #[serde(default = "default_split")]
    split: bool,
    #[serde(default)]
    stable: Vec<endpoint::Endpoint>,
    #[serde(default)]
    canary: Vec<endpoint::Endpoint>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    #[default]
    Detect,
    Http,
    H2c,
    Grpc,
    Tcp,
}

fn default_namespace() -> String {
    "default".to_owned()
}

/// As `analysis.sessionAffinity.maxAge` of the CRD.
fn default_max_age() -> u32 {
    86_400
}

fn default_split() -> bool {
    true
}

/// What the stream would say, under `counter`; `port` is where a listener without one listens.
///
/// # Errors
/// When a value has no meaning.
pub(super) fn message(route: Route, port: Option<u16>, counter: u64) -> Result<api::Route, FileError> {
    let uid = format!("{}/{}", route.namespace, route.service);
    let value = |reason: String| FileError::Value { route: uid.clone(), reason };
    let listeners = route.listeners.iter().map(|one| listener(one, port)).collect::<Result<_, _>>().map_err(value)?;
    let retries = route.retries.as_ref().map(retries).transpose().map_err(value)?;
    let asked = route.traffic_policy.as_ref();
    let connect_timeout = asked.and_then(policy::connect_timeout).or(route.connect_timeout.as_deref());
    let traffic_policy = asked.map(policy::message).transpose().map_err(value)?;
    let http = api::HttpPolicy {
        request_timeout_ms: millis(route.request_timeout.as_deref()).map_err(value)?,
        connect_timeout_ms: millis(connect_timeout).map_err(value)?,
        rules: route.rules.into_iter().map(rules::message).collect::<Result<_, _>>().map_err(value)?,
        retries,
    };
    Ok(api::Route {
        uid,
        counter,
        namespace: route.namespace,
        canary: route.canary.unwrap_or_else(|| route.service.clone()),
        service: route.service,
        listeners,
        weight: route.weight,
        stable_revision: route.stable_revision,
        canary_revision: route.canary_revision,
        http: Some(http),
        affinity: route.session_affinity.map(|affinity| api::Affinity {
            cookie: affinity.cookie_name,
            max_age_seconds: affinity.max_age,
            header: affinity.header_name,
        }),
        audience: route.audience.into_iter().map(audience).collect(),
        mirror: route.mirror.map(|m| api::Mirror { percent: m.percent, all_methods: m.all_methods }),
        traffic_policy,
    })
}

/// In milliseconds; 0 where there is none.
fn millis(text: Option<&str>) -> Result<u64, String> {
    text.map_or(Ok(0), |text| args::duration(text).map(|duration| duration.as_millis() as u64))
}

fn listener(listener: &Listener, port: Option<u16>) -> Result<api::Listener, String> {
    let port = listener.port.or(port).ok_or("a listener without port needs --listen")?.into();
    Ok(api::Listener {
        port,
        service_port: port,
        service_port_name: String::new(),
        protocol: protocol(listener.protocol).into(),
        split: listener.split,
        stable: listener.stable.iter().map(endpoint::message).collect(),
        canary: listener.canary.iter().map(endpoint::message).collect(),
    })
}

fn retries(retries: &Retries) -> Result<api::Retries, String> {
    let Retries { attempts, per_try_timeout, retry_on, budget } = retries;
    Ok(api::Retries {
        attempts: *attempts,
        per_try_timeout_ms: millis(per_try_timeout.as_deref())?,
        retry_on: retry_on.clone(),
        budget_percent: budget.percent,
        min_retries_per_second: budget.min_retries_per_second,
    })
}

fn audience(one: Match) -> api::Match {
    let named = |(name, value): (String, Text)| api::NamedMatch { name, value: Some(value.message()) };
    api::Match { headers: one.headers.into_iter().map(named).collect(), ..Default::default() }
}

fn protocol(protocol: Protocol) -> api::Protocol {
    match protocol {
        Protocol::Detect => api::Protocol::Unspecified,
        Protocol::Http => api::Protocol::Http,
        Protocol::H2c => api::Protocol::H2c,
        Protocol::Grpc => api::Protocol::Grpc,
        Protocol::Tcp => api::Protocol::Tcp,
    }
}
