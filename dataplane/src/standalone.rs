//! Routes from a file instead of an operator: for laptops, benchmarks and debugging. The file says what the stream would,
//! with endpoints listed; a change of it comes into force without a lost request, an invalid one not at all.

mod balancer;
mod endpoint;
mod policy;
mod rules;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use proxy_api::v1beta1 as api;
use routing::limits::OutOfRange;
use routing::table::Refusal;
use routing::{Limits, Table};
use serde::Deserialize;

use crate::args;
use crate::process::Proxy;
use crate::telemetry::Chain;

/// How often the file is looked at.
const POLL: Duration = Duration::from_secs(1);

/// Why the file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Not there, or not to be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not YAML, or not what is expected.
    #[error("{} is not valid", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_yaml_ng::Error,
    },
    /// A value that has no meaning.
    #[error("route {route}: {reason}")]
    Value {
        /// `<namespace>/<service>`.
        route: String,
        /// What was expected.
        reason: String,
    },
    /// A limit that cannot be in force.
    #[error("limits of {} cannot be in force", path.display())]
    Limits {
        /// The file.
        path: PathBuf,
        /// Which one.
        #[source]
        source: OutOfRange,
    },
    /// A route that cannot be served.
    #[error("route {route} cannot be served")]
    Refused {
        /// `<namespace>/<service>`.
        route: String,
        /// Why.
        #[source]
        source: Refusal,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    limits: FileLimits,
    routes: Vec<Route>,
}

/// As `spec.limits` of a ProxyPool; 0 and what is not there: the default.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct FileLimits {
    max_connections: u32,
    max_connections_per_port: u32,
    max_header_bytes: u32,
    max_headers: u32,
    max_streams: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Route {
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

/// What the file says, its routes under `counter`; `port` is where a listener without one listens.
///
/// # Errors
/// When the file cannot be taken as a whole.
pub fn read(path: &Path, port: Option<u16>, counter: u64) -> Result<api::Snapshot, FileError> {
    let text = std::fs::read_to_string(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    let file: File =
        serde_yaml_ng::from_str(&text).map_err(|source| FileError::Parse { path: path.to_owned(), source })?;
    let routes = file.routes.into_iter().map(|route| message(route, port, counter)).collect::<Result<Vec<_>, _>>()?;
    compile(&routes, Table::default())?;
    let limits = limits(file.limits);
    Limits::read(&limits, Limits::default()).map_err(|source| FileError::Limits { path: path.to_owned(), source })?;
    Ok(api::Snapshot { routes, limits: Some(limits) })
}

fn limits(limits: FileLimits) -> api::Limits {
    let FileLimits { max_connections, max_connections_per_port, max_header_bytes, max_headers, max_streams } = limits;
    api::Limits {
        max_connections,
        max_connections_per_port,
        max_header_bytes,
        max_headers,
        max_streams,
        ..Default::default()
    }
}

fn message(route: Route, port: Option<u16>, counter: u64) -> Result<api::Route, FileError> {
    let uid = format!("{}/{}", route.namespace, route.service);
    let value = |reason: String| FileError::Value { route: uid.clone(), reason };
    let millis = |text: Option<&str>| match text {
        None => Ok(0),
        Some(text) => args::duration(text).map(|duration| duration.as_millis() as u64).map_err(value),
    };
    let mut listeners = Vec::with_capacity(route.listeners.len());
    for listener in &route.listeners {
        let port = listener.port.or(port);
        let port = port.ok_or_else(|| value("a listener without port needs --listen".to_owned()))?.into();
        listeners.push(api::Listener {
            port,
            service_port: port,
            service_port_name: String::new(),
            protocol: protocol(listener.protocol).into(),
            split: listener.split,
            stable: listener.stable.iter().map(endpoint::message).collect(),
            canary: listener.canary.iter().map(endpoint::message).collect(),
        });
    }
    let retries = match &route.retries {
        None => None,
        Some(Retries { attempts, per_try_timeout, retry_on, budget }) => Some(api::Retries {
            attempts: *attempts,
            per_try_timeout_ms: millis(per_try_timeout.as_deref())?,
            retry_on: retry_on.clone(),
            budget_percent: budget.percent,
            min_retries_per_second: budget.min_retries_per_second,
        }),
    };
    let asked = route.traffic_policy.as_ref();
    let connect_timeout = asked.and_then(policy::connect_timeout).or(route.connect_timeout.as_deref());
    let traffic_policy = asked.map(policy::message).transpose().map_err(value)?;
    let http = api::HttpPolicy {
        request_timeout_ms: millis(route.request_timeout.as_deref())?,
        connect_timeout_ms: millis(connect_timeout)?,
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

/// `before` with these routes and no others.
fn compile(routes: &[api::Route], before: Table) -> Result<Table, FileError> {
    let gone: Vec<String> =
        before.routes().keys().filter(|uid| routes.iter().all(|r| r.uid != **uid)).cloned().collect();
    let mut table = gone.iter().fold(before, |table, uid| table.without(uid));
    for route in routes {
        table = table.upsert(route).map_err(|source| FileError::Refused { route: route.uid.clone(), source })?;
    }
    Ok(table)
}

/// Serves by the file for ever, as it is at each moment, beginning with `table`, which is empty.
///
/// # Errors
/// When it is not valid at the start.
pub async fn follow(path: &Path, port: Option<u16>, table: Table, proxy: &Proxy) -> Result<(), FileError> {
    let mut seen = modified(path);
    let mut counter = 1;
    let read_file = |counter, before| {
        let snapshot = read(path, port, counter)?;
        compile(&snapshot.routes, before).map(|table| (table, snapshot.limits.unwrap_or_default()))
    };
    let (mut table, limits) = read_file(counter, table)?;
    bring_into_force(&table, &limits, proxy).await;
    let mut poll = tokio::time::interval(POLL);
    loop {
        poll.tick().await;
        let now = modified(path);
        if now == seen {
            continue;
        }
        (seen, counter) = (now, counter + 1);
        match read_file(counter, table.clone()) {
            Ok((changed, limits)) => {
                table = changed;
                bring_into_force(&table, &limits, proxy).await;
            }
            Err(error) => tracing::warn!(error = %Chain(&error), "file is not taken, the routes before it stay"),
        }
    }
}

async fn bring_into_force(table: &Table, limits: &api::Limits, proxy: &Proxy) {
    let shared = proxy.shared();
    let in_force = shared.registry.limits();
    // They were read before.
    if let Ok(limits) = Limits::read(limits, in_force.default()) {
        in_force.set(limits);
    }
    for (port, error) in proxy.apply(table.clone()).await {
        tracing::error!(port, error, "port is not served");
    }
    tracing::info!(routes = table.routes().len(), "routes are in force");
}

fn modified(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<api::Snapshot, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("routes.yaml");
        std::fs::write(&path, text).unwrap();
        read(&path, Some(8080), 3).map_err(|error| Chain(&error).to_string())
    }

    #[test]
    fn a_file_says_what_the_stream_would() {
        let snapshot = check(
            "limits: {maxStreams: 9}\nroutes:\n- service: web\n  weight: 10\n  requestTimeout: 15s\n  sessionAffinity: {cookieName: sid}\n  \
             match: [{headers: {x-beta: {suffix: s}}}]\n  \
             listeners:\n  - stable: ['127.0.0.1:1']\n    canary: [{address: '[::1]:2', zone: a}]\n  - port: 9090\n    split: false\n",
        )
        .unwrap();
        assert_eq!(snapshot.limits, Some(api::Limits { max_streams: 9, ..Default::default() }));
        let route = &snapshot.routes[0];
        assert_eq!(
            (route.uid.as_str(), route.canary.as_str(), route.weight, route.counter),
            ("default/web", "web", 10, 3)
        );
        let pattern = api::text_match::Kind::Regex("(?s).*s".into());
        let value = Some(api::TextMatch { kind: Some(pattern) });
        assert_eq!(route.audience[0].headers, [api::NamedMatch { name: "x-beta".into(), value }]);
        let affinity = api::Affinity { cookie: "sid".into(), max_age_seconds: 86_400, header: String::new() };
        assert_eq!(route.affinity, Some(affinity));
        assert_eq!(route.http.as_ref().unwrap().request_timeout_ms, 15_000);
        assert_eq!((route.listeners[0].port, route.listeners[1].port), (8080, 9090));
        let far = api::Endpoint { address: "::1".into(), port: 2, zone: "a".into(), ..Default::default() };
        assert_eq!(route.listeners[0].canary, [far]);
        assert_eq!(route.listeners[0].stable[0].zone, "");
        assert!(route.listeners[0].split && !route.listeners[1].split);
    }

    #[test]
    fn a_wrong_file_is_refused_with_the_place_and_the_reason() {
        for (text, reason) in [
            ("routes: 1", "invalid type"),
            ("limits: {maxHeaders: 9}\nroutes: []\n", "maxHeaders is 9, must be between 16 and 256"),
            ("limits: {maxRequests: 9}\nroutes: []\n", "unknown field `maxRequests`"),
            ("routes:\n- service: web\n  listeners: [{stable: [web]}]\n", "invalid socket address"),
            ("routes:\n- service: web\n  listeners: [{stable: [{zone: a}]}]\n", "missing field `address`"),
            ("routes:\n- service: web\n  wait: 1\n  listeners: []\n", "unknown field `wait`"),
            ("routes:\n- service: web\n  weight: 101\n  listeners: [{}]\n", "weight is 101, must be at most 100"),
            ("routes:\n- service: web\n  requestTimeout: '15'\n  listeners: [{}]\n", "must end in ms, s or m"),
            (
                "routes:\n- service: web\n  sessionAffinity: {}\n  listeners: [{}]\n",
                "takes either a cookie or a header",
            ),
            (
                "routes:\n- {service: a, listeners: [{}]}\n- {service: b, listeners: [{}]}\n",
                "port 8080 belongs to default/a",
            ),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn the_files_of_the_documentation_are_valid() {
        let page = include_str!("../../docs/standalone.md");
        let files: Vec<_> = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert_eq!(files.len(), 2);
        for file in files {
            assert_eq!(check(file).map(|_| ()), Ok(()), "{file}");
        }
    }
}
