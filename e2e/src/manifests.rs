//! The manifests of `docs/gitops/example`, and the edits that people commit to them. Pure but for reading the folder.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize as _;
use serde_json::{Value, json};

/// Image of the sample application, without tag.
pub const IMAGE: &str = "sluice.dev/sample-app";

/// One application as it stands in Git: Deployment, Service, Canary and what else the folder holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifests {
    /// The Deployment.
    pub deployment: Value,
    /// The Service.
    pub service: Value,
    /// The Canary.
    pub canary: Value,
    /// Every other object, in the order of the files.
    pub others: Vec<Value>,
}

impl Manifests {
    /// The worked example.
    ///
    /// # Errors
    /// When a file cannot be read or parsed, or a kind is missing.
    pub fn example() -> Result<Self> {
        Self::read(&folder())
    }

    fn read(folder: &Path) -> Result<Self> {
        let mut paths = Vec::new();
        collect(folder, &mut paths)?;
        paths.sort();
        let mut objects = Vec::new();
        for path in paths {
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            for document in serde_yaml_ng::Deserializer::from_str(&text) {
                let object =
                    Value::deserialize(document).with_context(|| format!("cannot parse {}", path.display()))?;
                objects.push(object);
            }
        }
        let mut take = |kind: &str| {
            let at = objects.iter().position(|object| object["kind"] == kind);
            at.map(|at| objects.remove(at)).with_context(|| format!("{} holds no {kind}", folder.display()))
        };
        let (deployment, service, canary) = (take("Deployment")?, take("Service")?, take("Canary")?);
        // Those of the tools are not applied by kubectl, and the namespace is the story's own.
        objects.retain(|object| matches!(object["kind"].as_str(), Some("MetricTemplate" | "AlertProvider" | "Secret")));
        Ok(Self { deployment, service, canary, others: objects }.without_namespace())
    }

    fn without_namespace(mut self) -> Self {
        let Self { deployment, service, canary, others } = &mut self;
        for object in [deployment, service, canary].into_iter().chain(others) {
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove("namespace");
            }
        }
        self
    }

    /// Commits another image tag.
    #[must_use]
    pub fn version(self, tag: &str) -> Self {
        self.image(&format!("{IMAGE}:{tag}"))
    }

    /// Commits another image.
    #[must_use]
    pub fn image(mut self, image: &str) -> Self {
        self.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
        self
    }

    /// Gives Deployment, Service and Canary another name, and the pods another label `app`.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        let Self { deployment, service, canary, others: _ } = &mut self;
        let spec = &mut deployment["spec"];
        for labels in [&mut spec["selector"]["matchLabels"]["app"], &mut service["spec"]["selector"]["app"]] {
            *labels = json!(name);
        }
        deployment["spec"]["template"]["metadata"]["labels"]["app"] = json!(name);
        canary["spec"]["targetRef"]["name"] = json!(name);
        canary["spec"]["service"]["name"] = json!(name);
        for object in [deployment, service, canary] {
            object["metadata"]["name"] = json!(name);
            object["metadata"]["labels"]["app"] = json!(name);
        }
        self
    }

    /// Commits another number of replicas.
    #[must_use]
    pub fn replicas(mut self, replicas: i32) -> Self {
        self.deployment["spec"]["replicas"] = json!(replicas);
        self
    }

    /// Commits one field of the Canary's analysis.
    #[must_use]
    pub fn analysis(mut self, field: &str, value: Value) -> Self {
        self.canary["spec"]["analysis"][field] = value;
        self
    }

    /// Commits one field of the Canary's spec.
    #[must_use]
    pub fn canary_spec(mut self, field: &str, value: Value) -> Self {
        self.canary["spec"][field] = value;
        self
    }

    /// Name of the Deployment.
    #[must_use]
    pub fn name(&self) -> &str {
        self.deployment["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// Replicas of the Deployment.
    #[must_use]
    pub fn replica_count(&self) -> i64 {
        self.deployment["spec"]["replicas"].as_i64().unwrap_or(1)
    }

    /// Everything but the Canary, as one text.
    #[must_use]
    pub fn without_canary(&self) -> String {
        text(self.others.iter().chain([&self.deployment, &self.service]))
    }

    /// Everything, as one text.
    #[must_use]
    pub fn all(&self) -> String {
        text(self.others.iter().chain([&self.deployment, &self.service, &self.canary]))
    }
}

/// Objects as JSON documents in one text, which kubectl reads as YAML.
#[must_use]
pub fn text<'a>(objects: impl IntoIterator<Item = &'a Value>) -> String {
    objects.into_iter().map(|object| format!("---\n{object}\n")).collect()
}

/// The folder of the worked example.
#[must_use]
pub fn folder() -> PathBuf {
    workspace().join("docs/gitops/example")
}

/// The root of this repository.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, paths)?;
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            paths.push(path);
        }
    }
    Ok(())
}
