//! How far the pool is: the status of its ProxyPool, and whether its proxies are all there.

use std::collections::BTreeMap;

use crds::{
    ProxyPool, ProxyPoolStatus,
    names::{FIELD_MANAGER, POOL_DEFAULT},
};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};

use super::{PoolObjects, is_outdated};
use crate::{
    api::{ApiError, call},
    table::Table,
};

/// Writes ProxyPool's status, the table for people, if it has changed. True if it was written.
///
/// # Errors
/// As [`api::call`].
pub async fn mirror(
    client: &Client,
    pool: &ProxyPool,
    table: &Table,
    deployment: Option<&Deployment>,
) -> Result<bool, ApiError> {
    let status = status(pool, table, deployment);
    if pool.status.as_ref() == Some(&status) {
        return Ok(false);
    }
    let pools = Api::<ProxyPool>::namespaced(client.clone(), &pool.namespace().unwrap_or_default());
    // A merge patch keeps keys that it does not name: a port that was given back is taken out by name.
    let gone = pool.status.iter().flat_map(|old| old.ports.keys()).filter(|key| !status.ports.contains_key(*key));
    let gone: Vec<_> = gone.cloned().collect();
    let mut value = serde_json::to_value(&status).expect("a status has a JSON form");
    for key in gone {
        value["ports"][key] = serde_json::Value::Null;
    }
    let patch = Patch::Merge(serde_json::json!({ "status": value }));
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    call("write the status of ProxyPool default", pools.patch_status(POOL_DEFAULT, &params, &patch)).await?;
    Ok(true)
}

fn status(pool: &ProxyPool, table: &Table, deployment: Option<&Deployment>) -> ProxyPoolStatus {
    let ready = deployment.and_then(|deployment| deployment.status.as_ref()?.ready_replicas);
    let ports: BTreeMap<_, _> = table
        .routes
        .iter()
        .map(|(key, port)| (format!("{}:{}/{}", key.service, key.port, key.protocol), i32::from(*port)))
        .collect();
    ProxyPoolStatus {
        observed_generation: pool.metadata.generation.unwrap_or_default(),
        ready_replicas: ready.unwrap_or_default(),
        routes: i32::try_from(ports.len()).unwrap_or(i32::MAX),
        ports,
    }
}

/// Whether the proxies, as `objects` wants them, are all there and available.
#[must_use]
pub fn is_ready(deployment: Option<&Deployment>, objects: &PoolObjects) -> bool {
    let Some(seen) = deployment.filter(|seen| !is_outdated(&objects.deployment, *seen)) else { return false };
    let wanted = objects.deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default();
    let status = seen.status.clone().unwrap_or_default();
    status.observed_generation >= seen.metadata.generation
        && status.updated_replicas.unwrap_or_default() >= wanted
        && status.available_replicas.unwrap_or_default() >= wanted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{
            PoolSettings,
            build::{
                build,
                fixtures::{mk_pool, mk_seen, mk_settings},
            },
        },
        *,
    };

    #[test]
    fn a_pool_is_ready_when_this_very_template_is_available_in_full() {
        let objects = build(&mk_pool(json!({})), &mk_settings());
        assert!(is_ready(Some(&mk_seen(|_| ())), &objects));
        assert!(!is_ready(None, &objects));
        assert!(!is_ready(Some(&mk_seen(|value| value["status"]["observedGeneration"] = json!(2))), &objects));
        assert!(!is_ready(Some(&mk_seen(|value| value["status"]["updatedReplicas"] = json!(1))), &objects));
        assert!(!is_ready(Some(&mk_seen(|value| value["status"]["availableReplicas"] = json!(1))), &objects));
        let other = build(&mk_pool(json!({})), &PoolSettings { image: "other".to_owned(), ..mk_settings() });
        assert!(!is_ready(Some(&mk_seen(|_| ())), &other));
    }

    #[test]
    fn the_status_mirrors_routes_for_people() {
        let mut table = Table::default();
        let key = crate::table::RouteKey { service: "web".to_owned(), port: 80, protocol: "TCP".to_owned() };
        table.routes.insert(key, 15_000);
        let status = status(&mk_pool(json!({})), &table, Some(&mk_seen(|_| ())));
        assert_eq!(
            serde_json::to_value(status).unwrap(),
            json!({ "observedGeneration": 4, "readyReplicas": 2, "routes": 1, "ports": { "web:80/TCP": 15000 } })
        );
    }
}
