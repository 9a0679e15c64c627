//! The scene of the demo: a namespace with the worked example, load on it, a stand-in for Slack.
//!
//! The same objects on every cluster. Load and Slack are pods, read through the API server, so that the demo needs no
//! way into the cluster's network.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use crds::{Canary, Phase};
use http::Request;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind, TypeMeta};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::install::Target;
use crate::load::Report;
use crate::manifests::{IMAGE, Manifests};
use crate::watching;

/// Namespace of the demo.
pub const NAMESPACE: &str = "sluice-demo";
/// Requests per second.
pub const RPS: u32 = 500;
/// The example's application.
pub const APP: &str = "web";
/// Where the local Prometheus is found, and the one that the demo brings to other clusters.
pub const METRICS_SERVER: &str = "http://prometheus.monitoring.svc:9090";
/// Prometheus for clusters that have none at [`METRICS_SERVER`].
const PROMETHEUS: &str = include_str!("../../prometheus.yaml");
/// How long pods may take to be pulled and ready.
const PATIENCE: Duration = Duration::from_secs(180);

/// The scene, set.
pub struct Stage {
    /// With the rights of the kubeconfig.
    pub client: Client,
    /// Where it stands, and how images get there.
    pub target: Target,
}

impl Stage {
    /// A stage on a cluster that has Sluice installed.
    #[must_use]
    pub fn new(client: Client, target: Target) -> Self {
        Self { client, target }
    }

    /// Brings a Prometheus where there is none.
    ///
    /// # Errors
    /// When something is refused or Prometheus is not ready in time.
    pub async fn ensure_prometheus(&self) -> Result<()> {
        let services: Api<Service> = Api::namespaced(self.client.clone(), "monitoring");
        if services.get_opt("prometheus").await?.is_some() {
            return Ok(());
        }
        for document in serde_yaml_ng::Deserializer::from_str(PROMETHEUS) {
            self.apply(&serde::Deserialize::deserialize(document)?, None).await?;
        }
        self.until_available("monitoring", "prometheus").await
    }

    /// Applies the example at `version` with everything around it, and waits until the Canary is set up and load runs.
    ///
    /// # Errors
    /// When something is refused or not ready in time.
    pub async fn set(&self, version: &str) -> Result<()> {
        let labels = json!({ "app.kubernetes.io/part-of": "sluice-demo" });
        self.apply(
            &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE, "labels": labels } }),
            None,
        )
        .await?;
        for object in [self.slack(), slack_service(), slack_address()] {
            self.apply(&object, Some(NAMESPACE)).await?;
        }
        let example = self.at(version)?;
        for object in example.others.iter().chain([&example.deployment, &example.service]) {
            self.apply(object, Some(NAMESPACE)).await?;
        }
        self.until_available(NAMESPACE, APP).await?;
        self.apply(&example.canary, Some(NAMESPACE)).await?;
        self.until_settled().await?;
        let services: Api<Service> = Api::namespaced(self.client.clone(), NAMESPACE);
        let address =
            services.get(APP).await?.spec.and_then(|spec| spec.cluster_ip).context("the Service has no address")?;
        self.apply(&self.load(&address), Some(NAMESPACE)).await?;
        for helper in ["slack", "load"] {
            self.until_available(NAMESPACE, helper).await?;
        }
        Ok(())
    }

    /// The example with the images of this cluster, at the pace of the demo.
    fn at(&self, version: &str) -> Result<Manifests> {
        let image = format!("{}:{version}", self.target.image(IMAGE));
        Ok(Manifests::example()?.image(&image).analysis("interval", json!("2s")))
    }

    /// Commits a version: applies the Deployment as a GitOps tool does.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn commit(&self, version: &str) -> Result<()> {
        self.apply(&self.at(version)?.deployment, Some(NAMESPACE)).await
    }

    /// The tag that serves now, if anything does: what an earlier demo left, its bad version apart.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn serving(&self) -> Result<Option<String>> {
        // The kind is there: the chart brought it.
        let stable = self.canaries().get_opt(APP).await?.and_then(|canary| canary.status?.stable_revision);
        let Some(stable) = stable else { return Ok(None) };
        let labels = format!("app={APP},{}={stable}", crds::names::POD_TEMPLATE_HASH);
        let pods = self.pods().list(&ListParams::default().labels(&labels)).await?;
        let image = pods.items.into_iter().find_map(|pod| pod.spec?.containers.first()?.image.clone());
        Ok(image.and_then(|image| image.rsplit_once(':').map(|(_, tag)| tag.to_owned())))
    }

    /// The Canary as it is now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn canary(&self) -> Result<Canary> {
        self.canaries().get(APP).await.context("cannot read the Canary")
    }

    /// The Canaries of the demo.
    #[must_use]
    pub fn canaries(&self) -> Api<Canary> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// The application's pods.
    #[must_use]
    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// The load generator's counts.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn report(&self) -> Result<Report> {
        Ok(serde_json::from_str(&self.ask("load", "stats").await?)?)
    }

    /// What Slack received, oldest first.
    ///
    /// # Errors
    /// When the stand-in does not answer.
    pub async fn messages(&self) -> Result<Vec<Value>> {
        Ok(serde_json::from_str(&self.ask("slack", "messages").await?)?)
    }

    /// Removes the namespace; the operator takes the route back first.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn strike(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        if namespaces.get_opt(NAMESPACE).await?.is_some() {
            namespaces.delete(NAMESPACE, &kube::api::DeleteParams::background()).await?;
            watching::gone(namespaces, NAMESPACE, PATIENCE).await?;
        }
        Ok(())
    }

    /// Asks a helper through the API server.
    async fn ask(&self, helper: &str, path: &str) -> Result<String> {
        let pods = self.pods().list(&ListParams::default().labels(&format!("app={helper}"))).await?;
        let pod = pods.items.iter().find(|pod| watching::is_ready(pod) && pod.metadata.deletion_timestamp.is_none());
        let name = pod.with_context(|| format!("{helper} is not ready"))?.name_any();
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}:{}/proxy/{path}", crate::app::HTTP_PORT);
        let request = Request::get(path).body(Vec::new()).context("no such path")?;
        self.client.request_text(request).await.with_context(|| format!("{helper} does not answer"))
    }

    async fn apply(&self, object: &Value, namespace: Option<&str>) -> Result<()> {
        let types: TypeMeta = serde_json::from_value(object.clone()).context("an object has apiVersion and kind")?;
        let kind = ApiResource::from_gvk(&GroupVersionKind::try_from(&types).context("an object has a kind")?);
        let namespace = object["metadata"]["namespace"].as_str().or(namespace);
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) if !is_cluster_wide(&types.kind) => {
                Api::namespaced_with(self.client.clone(), namespace, &kind)
            }
            Some(_) | None => Api::all_with(self.client.clone(), &kind),
        };
        let name = object["metadata"]["name"].as_str().context("an object has a name")?;
        api.patch(name, &PatchParams::apply("sluice-demo").force(), &Patch::Apply(object))
            .await
            .with_context(|| format!("cannot apply {} {name}", types.kind))?;
        Ok(())
    }

    async fn until_available(&self, namespace: &str, name: &str) -> Result<()> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
        let is_available = |deployment: &Deployment| {
            let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            deployment.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0) >= wanted
        };
        let shown = |deployment: &Deployment| format!("{:?}", deployment.status);
        watching::until(api, name, &format!("{name} is available"), PATIENCE, is_available, shown).await.map(drop)
    }

    /// Waits until the Canary is set up and no release of an earlier demo runs: what serves was committed again.
    async fn until_settled(&self) -> Result<()> {
        let settled = |canary: &Canary| {
            let phase = canary.status.as_ref().map(|status| status.phase).unwrap_or_default();
            matches!(phase, Phase::Initialized | Phase::Succeeded)
        };
        let shown = |canary: &Canary| {
            let status = canary.status.clone().unwrap_or_default();
            format!("{:?}: {}", status.phase, status.message)
        };
        watching::until(self.canaries(), APP, "the Canary is set up", PATIENCE, settled, shown).await.map(drop)
    }

    fn slack(&self) -> Value {
        self.helper("slack", &["slack"])
    }

    fn load(&self, address: &str) -> Value {
        let rps = RPS.to_string();
        self.helper("load", &["load", &format!("{address}:80"), &format!("{APP}.{NAMESPACE}.svc"), &rps])
    }

    fn helper(&self, name: &str, arguments: &[&str]) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name, "labels": { "app": name } },
            "spec": {
                "replicas": 1,
                "strategy": { "type": "Recreate" },
                "selector": { "matchLabels": { "app": name } },
                "template": {
                    "metadata": { "labels": { "app": name } },
                    "spec": {
                        "automountServiceAccountToken": false,
                        "terminationGracePeriodSeconds": 5,
                        "containers": [{
                            "name": name,
                            "image": format!("{}:v1", self.target.image(IMAGE)),
                            "imagePullPolicy": "IfNotPresent",
                            "args": arguments,
                            "readinessProbe": { "httpGet": { "path": "/messages", "port": crate::app::HTTP_PORT }, "periodSeconds": 1 },
                            "securityContext": {
                                "runAsNonRoot": true, "runAsUser": 65_532, "allowPrivilegeEscalation": false,
                                "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
                            },
                        }],
                    },
                },
            },
        })
    }
}

fn slack_service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "slack" },
        "spec": { "selector": { "app": "slack" }, "ports": [{ "port": crate::app::HTTP_PORT }] },
    })
}

/// The Secret that the example's AlertProvider names.
fn slack_address() -> Value {
    let address = format!("http://slack.{NAMESPACE}.svc:{}/services/demo", crate::app::HTTP_PORT);
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "sluice-alerts" },
        "stringData": { "address": address },
    })
}

fn is_cluster_wide(kind: &str) -> bool {
    matches!(kind, "Namespace" | "ClusterRole" | "ClusterRoleBinding")
}

/// Whether the cluster is new enough, in one sentence when it is not.
///
/// # Errors
/// Below Kubernetes 1.36, or when the API server does not answer.
pub async fn check_version(client: &Client) -> Result<String> {
    let version = client.apiserver_version().await.context("the API server does not answer")?;
    let number = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>();
    let (major, minor) = (number(&version.major)?, number(&version.minor)?);
    if (major, minor) < (1, 36) {
        bail!(
            "this cluster runs Kubernetes {}, Sluice needs 1.36 or newer (MutatingAdmissionPolicy): upgrade it, or unset \
             KUBECONFIG to let the demo start a cluster of its own",
            version.git_version
        );
    }
    Ok(version.git_version)
}
