//! The objects of a pool, from its ProxyPool and the operator's settings; what runs in it is in `pod`. Pure.

mod pod;

use std::collections::BTreeMap;

use crds::{
    ProxyPool,
    names::{FIELD_MANAGER, POOL_DEFAULT, POOL_LABEL, POOL_NAME},
};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{ConfigMap, PodTemplateSpec, ServiceAccount},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use kube::{Resource, ResourceExt};
use proxy_api::PROXY_ADMIN_PORT;
use serde::Serialize;
use sha2::{Digest, Sha256};

use self::pod::pod;
use super::{ANNOTATION_APPLIED, MANAGED_BY, PoolObjects, PoolSettings};

/// Name of the ConfigMap that holds the operator's CA for the proxies.
pub const CA_CONFIG_MAP: &str = "sluice-ca";

const CA_KEY: &str = "ca.crt";

/// The objects that `pool` stands for.
#[must_use]
pub fn build(pool: &ProxyPool, settings: &PoolSettings) -> PoolObjects {
    PoolObjects {
        service_account: applied(ServiceAccount {
            metadata: meta(pool, POOL_NAME),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        }),
        config_map: applied(ConfigMap {
            metadata: meta(pool, CA_CONFIG_MAP),
            data: Some(BTreeMap::from([(CA_KEY.to_owned(), settings.ca_bundle.clone())])),
            ..ConfigMap::default()
        }),
        deployment: applied(deployment(pool, settings)),
        disruption_budget: applied(PodDisruptionBudget {
            metadata: meta(pool, POOL_NAME),
            spec: Some(PodDisruptionBudgetSpec {
                max_unavailable: Some(IntOrString::Int(1)),
                selector: Some(selector()),
                unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
                ..PodDisruptionBudgetSpec::default()
            }),
            ..PodDisruptionBudget::default()
        }),
    }
}

/// Notes the digest of the object on itself.
fn applied<K: Resource + Serialize>(mut object: K) -> K {
    let json = serde_json::to_vec(&object).expect("a Kubernetes object has a JSON form");
    let digest: String = Sha256::digest(json).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    object.annotations_mut().insert(ANNOTATION_APPLIED.to_owned(), digest);
    object
}

fn meta(pool: &ProxyPool, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: pool.namespace(),
        labels: Some(labels()),
        owner_references: pool.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([
        ("app.kubernetes.io/name".to_owned(), POOL_NAME.to_owned()),
        (MANAGED_BY.to_owned(), FIELD_MANAGER.to_owned()),
        (POOL_LABEL.to_owned(), POOL_DEFAULT.to_owned()),
    ])
}

fn selector() -> LabelSelector {
    LabelSelector {
        match_labels: Some(BTreeMap::from([(POOL_LABEL.to_owned(), POOL_DEFAULT.to_owned())])),
        ..LabelSelector::default()
    }
}

fn deployment(pool: &ProxyPool, settings: &PoolSettings) -> Deployment {
    Deployment {
        metadata: meta(pool, POOL_NAME),
        spec: Some(DeploymentSpec {
            replicas: Some(pool.spec.replicas),
            selector: selector(),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels()),
                    annotations: settings.scrape.then(scrape_annotations),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(pool, settings)),
            },
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

fn scrape_annotations() -> BTreeMap<String, String> {
    BTreeMap::from([
        ("prometheus.io/path".to_owned(), "/metrics".to_owned()),
        ("prometheus.io/port".to_owned(), PROXY_ADMIN_PORT.to_string()),
        ("prometheus.io/scrape".to_owned(), "true".to_owned()),
    ])
}

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;
