//! The table's ConfigMap: written by compare-and-swap only, so that two operators cannot give one port twice.
//!
//! A conflict is not retried here: the pass starts over from a fresh read. The ConfigMap carries a finalizer while it has
//! entries, because with it gone nothing would be held.

use std::collections::{BTreeMap, BTreeSet};

use crds::{
    Canary,
    names::{FIELD_MANAGER, FINALIZER, TABLE},
};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};

use super::{Entries, Refusal, Table};
use crate::{
    api::{ApiError, call},
    services,
};

/// Why the table does not have a Canary's entries.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A person has to choose: one Deployment and one Service have one Canary.
    #[error("{what} belongs to Canary {by} already")]
    Taken {
        /// `Deployment web` or `Service web`.
        what: String,
        /// Name of the Canary that has it.
        by: String,
    },
    /// All 10,000 ports of the namespace are given out.
    #[error(
        "no port between {} and {} is free in this namespace",
        proxy_api::PROXY_PORT_FIRST,
        proxy_api::PROXY_PORT_LAST
    )]
    Full,
    /// The table has changed since it was read: start over.
    #[error("the table has changed since it was read")]
    Retry,
    /// The request failed.
    #[error("the table cannot be written")]
    Api(#[from] ApiError),
}

impl TableError {
    /// As [`ApiError::is_leaving`].
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        matches!(self, Self::Api(error) if error.is_leaving())
    }
}

impl From<Refusal> for TableError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Taken { what, by } => Self::Taken { what, by },
            Refusal::Full => Self::Full,
        }
    }
}

/// Sees to one Canary's entries in the table of `namespace`. `current` is the ConfigMap as cached; when it is lost, the
/// table is rebuilt from the namespace's `services` first. Entries of Canaries that are not among `live` (all of the
/// namespace) are dropped. No request when nothing would change.
///
/// # Errors
/// [`TableError`]; after `Retry` start over from a fresh read, `Taken` and `Full` need a person.
pub async fn ensure(
    client: &Client,
    namespace: &str,
    current: Option<&ConfigMap>,
    services: &[&Service],
    live: &BTreeSet<String>,
    entries: &Entries,
) -> Result<Table, TableError> {
    let base = match current {
        Some(_) => Table::parse(current),
        None => Table::rebuild(services.iter().copied()),
    };
    let next = base.with(live, entries)?;
    write(client, namespace, current, &next).await?;
    Ok(next)
}

/// First half of a removal: the Deployment is no longer held, the Service no longer routed when it is next written; the
/// ports stay reserved and served. A table that was lost is written anew with what `service` shows, because without one
/// the route policy gives nothing back. Idempotent.
///
/// # Errors
/// As [`ensure`].
pub async fn release(
    client: &Client,
    namespace: &str,
    current: Option<&ConfigMap>,
    canary: &Canary,
    service: Option<&Service>,
) -> Result<Table, TableError> {
    let name = canary.name_any();
    let mut base = Table::parse(current);
    if let Some(service) = service.filter(|service| current.is_none() && !services::is_restored(service)) {
        base = Table::rebuild([service]);
        base.owners.insert(service.name_any(), name.clone());
    }
    let next = base.released(&name);
    if current.is_some() || !next.is_empty() {
        write(client, namespace, current, &next).await?;
    }
    Ok(next)
}

/// Second half of a removal, after the drain: the ports are free. True when no other Canary needs the table, and it is
/// gone. Idempotent.
///
/// # Errors
/// As [`ensure`].
pub async fn forget(
    client: &Client,
    namespace: &str,
    current: Option<&ConfigMap>,
    canary: &Canary,
) -> Result<bool, TableError> {
    let Some(map) = current else { return Ok(true) };
    let next = Table::parse(current).forgotten(&canary.name_any());
    let written = write(client, namespace, current, &next).await?;
    if !next.is_empty() {
        return Ok(false);
    }
    let last = written.as_ref().unwrap_or(map);
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: last.uid(), resource_version: last.resource_version() }),
        ..DeleteParams::background()
    };
    let api = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    match call(format!("delete ConfigMap {TABLE}"), api.delete(TABLE, &params)).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(true),
        Err(error) => Err(retry_on_conflict(error)),
    }
}

/// Writes `next` if `current` is another; the object as stored, or none when nothing was to be written.
async fn write(
    client: &Client,
    namespace: &str,
    current: Option<&ConfigMap>,
    next: &Table,
) -> Result<Option<ConfigMap>, TableError> {
    let Some(wanted) = changed(namespace, current, next) else { return Ok(None) };
    let api = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let written = match current {
        None => call(format!("create ConfigMap {TABLE}"), api.create(&params, &wanted)).await,
        Some(_) => call(format!("replace ConfigMap {TABLE}"), api.replace(TABLE, &params, &wanted)).await,
    };
    written.map(Some).map_err(retry_on_conflict)
}

/// The ConfigMap to write; none when it says so already.
fn changed(namespace: &str, current: Option<&ConfigMap>, next: &Table) -> Option<ConfigMap> {
    let mut map = current.cloned().unwrap_or_else(|| ConfigMap {
        metadata: ObjectMeta {
            name: Some(TABLE.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), FIELD_MANAGER.to_owned())])),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    });
    map.data = Some(next.data());
    let finalizers = map.metadata.finalizers.get_or_insert_default();
    let finalized = finalizers.iter().any(|finalizer| finalizer == FINALIZER);
    // The API server refuses a finalizer that is added to an object which is being deleted.
    let going = map.metadata.deletion_timestamp.is_some();
    match (next.is_empty(), finalized) {
        (true, true) => finalizers.retain(|finalizer| finalizer != FINALIZER),
        (false, false) if !going => finalizers.push(FINALIZER.to_owned()),
        (true, false) | (false, _) => {}
    }
    let current_data = current.map(|map| map.data.clone().unwrap_or_default());
    let current_finalizers = current.map(|map| map.metadata.finalizers.clone().unwrap_or_default());
    let same = current_data == map.data && current_finalizers == map.metadata.finalizers;
    (!same).then_some(map)
}

fn retry_on_conflict(error: ApiError) -> TableError {
    if error.is_conflict() { TableError::Retry } else { TableError::Api(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table { held: BTreeMap::from([("web".to_owned(), "web".to_owned())]), ..Table::default() }
    }

    #[test]
    fn an_unchanged_table_is_not_written() {
        let first = changed("shop", None, &table()).unwrap();
        assert_eq!(first.metadata.finalizers.as_deref(), Some(&[FINALIZER.to_owned()][..]));
        assert_eq!(changed("shop", Some(&first), &table()), None);
    }

    #[test]
    fn the_finalizer_goes_with_the_last_entry_and_the_version_stays_for_the_swap() {
        let mut first = changed("shop", None, &table()).unwrap();
        first.metadata.resource_version = Some("7".to_owned());
        let last = changed("shop", Some(&first), &Table::default()).unwrap();
        assert_eq!(last.metadata.finalizers.as_deref(), Some(&[][..]));
        assert_eq!(last.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(changed("shop", Some(&last), &Table::default()), None);
    }

    #[test]
    fn a_hand_edit_is_written_over() {
        let mut map = changed("shop", None, &table()).unwrap();
        map.data.as_mut().unwrap().insert("junk".to_owned(), "x".to_owned());
        assert_eq!(changed("shop", Some(&map), &table()).unwrap().data, Some(table().data()));
    }

    #[test]
    fn a_table_that_is_being_deleted_gets_no_finalizer() {
        let mut map = changed("shop", None, &Table::default()).unwrap();
        let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
        map.metadata.deletion_timestamp = Some(time);
        assert_eq!(changed("shop", Some(&map), &table()).unwrap().metadata.finalizers, Some(Vec::new()));
    }
}
