//! Routes from a file instead of an operator: for laptops, benchmarks and debugging. The file says what the stream would,
//! with endpoints listed; a change of it comes into force without a lost request, an invalid one not at all.

mod balancer;
mod endpoint;
mod limits;
mod policy;
mod route;
mod rules;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use proxy_api::v1beta1 as api;
use routing::limits::OutOfRange;
use routing::table::Refusal;
use routing::{Limits, Table};
use serde::Deserialize;

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
    limits: limits::Limits,
    routes: Vec<route::Route>,
}

/// What the file says, its routes under `counter`; `port` is where a listener without one listens.
///
/// # Errors
/// When the file cannot be taken as a whole.
pub fn read(path: &Path, port: Option<u16>, counter: u64) -> Result<api::Snapshot, FileError> {
    let text = std::fs::read_to_string(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    let file: File =
        serde_yaml_ng::from_str(&text).map_err(|source| FileError::Parse { path: path.to_owned(), source })?;
    let routes =
        file.routes.into_iter().map(|route| route::message(route, port, counter)).collect::<Result<Vec<_>, _>>()?;
    compile(&routes, Table::default())?;
    let limits = limits::message(file.limits);
    Limits::read(&limits, Limits::default()).map_err(|source| FileError::Limits { path: path.to_owned(), source })?;
    Ok(api::Snapshot { routes, limits: Some(limits) })
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
mod tests;
