//! Where the claims are checked: the chart's policies under names of their own, and a namespace with a table for each.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use crds::names::{
    ANNOTATION_HELD, ANNOTATION_SELECTOR, ANNOTATION_TARGET_PORTS, HOLD_POLICY, POOL_DEFAULT, POOL_LABEL, ROUTE_POLICY,
    TABLE,
};
use e2e::cluster::binaries;
use e2e::kubectl::{self, Output, Side};
use e2e::manifests::{folder, workspace};
use serde_json::{Value, json};

/// Longest time until the API server has taken over policies, bindings and tables.
const IN_FORCE: Duration = Duration::from_secs(30);

/// Policies and bindings under names of their own; dropped, they go, with the namespaces.
pub(crate) struct Stage {
    prefix: String,
    count: usize,
}

impl Stage {
    pub(crate) fn set(count: usize) -> Result<Self> {
        let stage = Self { prefix: format!("policies-{}", std::process::id()), count };
        let mut manifests = stage.policies()?;
        for policy in [HOLD_POLICY, ROUTE_POLICY] {
            manifests += &format!("---\n{}\n", stage.binding(policy));
        }
        for namespace in stage.namespaces() {
            let name = &namespace.name;
            let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
            let table = json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": TABLE, "namespace": name },
                "data": { "held.web": "web", "held.probe": "probe", "route.web.80.TCP": "15000", "route.web.9090.TCP": "15001" },
            });
            manifests += &format!("---\n{object}\n---\n{table}\n");
        }
        call(&["apply", "--server-side", "-f", "-"], &manifests)?;
        Ok(stage)
    }

    /// The chart's policies, as Helm renders them, renamed.
    pub(crate) fn policies(&self) -> Result<String> {
        let chart = workspace().join("charts/sluice");
        let mut helm = Command::new(binaries::helm()?);
        helm.args(["template", "sluice", "--namespace", "sluice-system", "--kube-version", "1.36.0"]).arg(chart);
        helm.args(["--show-only", "templates/policy-hold.yaml", "--show-only", "templates/policy-route.yaml"]);
        let output = helm.output().context("cannot start helm")?;
        ensure!(output.status.success(), "helm template failed: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout)?;
        let renamed = |text: String, policy: &str| {
            text.replace(&format!("name: {policy}\n"), &format!("name: {}\n", self.named(policy)))
        };
        Ok(renamed(renamed(text, HOLD_POLICY), ROUTE_POLICY))
    }

    pub(crate) fn named(&self, policy: &str) -> String {
        format!("{}-{policy}", self.prefix)
    }

    pub(crate) fn binding(&self, policy: &str) -> Value {
        let names: Vec<_> = self.namespaces().map(|namespace| namespace.name).collect();
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": { "name": self.named(policy) },
            "spec": {
                "policyName": self.named(policy),
                "paramRef": { "name": TABLE, "parameterNotFoundAction": "Allow" },
                "matchResources": { "namespaceSelector": { "matchExpressions": [
                    { "key": "kubernetes.io/metadata.name", "operator": "In", "values": names },
                ] } },
            },
        })
    }

    pub(crate) fn namespaces(&self) -> impl Iterator<Item = Namespace> {
        (0..self.count).map(|number| Namespace { name: format!("{}-{number}", self.prefix) })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for policy in [HOLD_POLICY, ROUTE_POLICY] {
            let kinds = "mutatingadmissionpolicybindings,mutatingadmissionpolicies";
            let _ = call(&["delete", kinds, &self.named(policy), "--ignore-not-found"], "");
        }
        for namespace in self.namespaces() {
            let _ = call(&["delete", "namespace", &namespace.name, "--ignore-not-found", "--wait=false"], "");
        }
    }
}

/// Runs kubectl; an error when it fails.
pub(crate) fn call(arguments: &[&str], input: &str) -> Result<String> {
    let Output { code, out, err } = attempt(arguments, input)?;
    ensure!(code == 0, "kubectl {} failed: {}", arguments.join(" "), err.trim());
    Ok(out)
}

pub(crate) fn attempt(arguments: &[&str], input: &str) -> Result<Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(kubectl::run(arguments, input))
}

pub(crate) fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    /// Waits until both policies act here. The probes are dry runs and an object of another name, so that what follows
    /// starts from manifests that nothing has touched.
    pub(crate) fn open(&self) -> Result<()> {
        let Manifests { mut deployment, service } = Manifests::new()?;
        deployment["metadata"]["name"] = json!("probe");
        self.apply(Side::Server, &deployment)?;
        deployment["spec"]["template"]["spec"]["containers"][0]["image"] = json!("changed");
        let deadline = Instant::now() + IN_FORCE;
        let is_in_force = |object: &Value, mark: &str| -> Result<bool> {
            let arguments =
                ["apply", "--server-side", "--field-manager=git", "--dry-run=server", "-o", "json", "-f", "-"];
            Ok(self.call(&arguments, &object.to_string())?.contains(mark))
        };
        while !(is_in_force(&service, POOL_LABEL)? && is_in_force(&deployment, ANNOTATION_HELD)?) {
            ensure!(Instant::now() < deadline, "the policies are not in force after {IN_FORCE:?}");
        }
        Ok(())
    }

    pub(crate) fn call(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut all = vec!["--namespace", self.name.as_str()];
        all.extend(arguments);
        call(&all, input)
    }

    pub(crate) fn apply(&self, side: Side, object: &Value) -> Result<()> {
        block_on(kubectl::apply(&self.name, &object.to_string(), side)).map(drop)
    }

    pub(crate) fn deployment(&self) -> Result<Value> {
        self.get("deployment")
    }

    pub(crate) fn service(&self) -> Result<Value> {
        self.get("service")
    }

    pub(crate) fn get(&self, kind: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.call(&["get", kind, "web", "-o", "json", "--show-managed-fields"], "")?)?)
    }

    pub(crate) fn is_paused(&self) -> Result<bool> {
        Ok(self.deployment()?["spec"]["paused"] == json!(true))
    }

    /// Changes the table, and waits until the API server acts on it.
    pub(crate) fn table(&self, change: &Value, routed: bool) -> Result<()> {
        self.call(&["patch", "configmap", TABLE, "--type=merge", "-p", &json!({ "data": change }).to_string()], "")?;
        let deadline = Instant::now() + IN_FORCE;
        let probe = ["patch", "service", "web", "--type=merge", "-p", "{}", "--dry-run=server", "-o", "json"];
        while (serde_json::from_str::<Value>(&self.call(&probe, "")?)?["spec"]["selector"] == pool()) != routed {
            ensure!(Instant::now() < deadline, "the table is not in force after {IN_FORCE:?}");
        }
        Ok(())
    }

    pub(crate) fn assert_routed(&self, selector: &str, ports: &str) -> Result<()> {
        let service = self.service()?;
        assert_eq!(service["spec"]["selector"], pool());
        assert_eq!(service["spec"]["ports"][0]["targetPort"], 15_000);
        assert_eq!(service["spec"]["ports"][1]["targetPort"], 15_001);
        assert_eq!(service["metadata"]["annotations"][ANNOTATION_SELECTOR], selector);
        assert_eq!(service["metadata"]["annotations"][ANNOTATION_TARGET_PORTS], ports);
        Ok(())
    }
}

pub(crate) fn pool() -> Value {
    json!({ POOL_LABEL: POOL_DEFAULT })
}

/// Deployment and Service of the worked example; no pod is needed.
pub(crate) struct Manifests {
    pub(crate) deployment: Value,
    pub(crate) service: Value,
}

impl Manifests {
    pub(crate) fn new() -> Result<Self> {
        let read = |file: &str| -> Result<Value> {
            Ok(serde_yaml_ng::from_str(&std::fs::read_to_string(folder().join("app").join(file))?)?)
        };
        let mut deployment = read("deployment.yaml")?;
        deployment["spec"]["replicas"] = json!(0);
        Ok(Self { deployment, service: read("service.yaml")? })
    }

    pub(crate) fn with_image(&self, image: &str) -> Value {
        let mut deployment = self.deployment.clone();
        deployment["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
        deployment
    }
}
