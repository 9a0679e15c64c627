//! Brings Sluice onto a cluster: compiles the images, loads them, installs the chart.
//!
//! Order: the [`Images`], how they get there ([`Target`]), the chart ([`helm`]).

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::cluster::binaries;
use crate::cluster::network::inside;
use crate::cluster::process::run;
use crate::cluster::{layout, progress};
use crate::images::{Image, build_static};
use crate::manifests::{IMAGE, workspace};

/// Image of the operator.
pub const OPERATOR_IMAGE: &str = "sluice.dev/sluice-operator";
/// Image of the proxy.
pub const PROXY_IMAGE: &str = "sluice.dev/sluice-proxy";
/// Tag of both.
pub const TAG: &str = "dev";

/// The tags of the sample application, and how each behaves.
pub const VERSIONS: [(&str, &[(&str, &str)]); 8] = [
    ("v1", &[]),
    ("v2", &[]),
    ("v3", &[]),
    ("v4", &[]),
    ("errors", &[("ERROR_RATE", "5")]),
    ("slow", &[("LATENCY_MS", "700")]),
    ("crash", &[("CRASH", "1")]),
    ("unready", &[("NEVER_READY", "1")]),
];

/// Where Sluice is installed.
#[derive(Clone, Debug)]
pub enum Target {
    /// The local cluster of this machine.
    Local,
    /// The cluster of a kubeconfig.
    Foreign {
        /// The file.
        kubeconfig: PathBuf,
        /// How images get there.
        delivery: Delivery,
    },
}

/// How images get to a cluster that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// `kind load`, with the cluster's name.
    Kind(String),
    /// `k3d image import`, with the cluster's name.
    K3d(String),
    /// Pushed to this registry, such as `registry.example.org/team`.
    Registry(String),
}

impl Target {
    /// The name under which the cluster finds an image.
    #[must_use]
    pub fn image(&self, repository: &str) -> String {
        match self {
            Self::Foreign { delivery: Delivery::Registry(registry), .. } => {
                let name = repository.rsplit('/').next().unwrap_or(repository);
                format!("{}/{name}", registry.trim_end_matches('/'))
            }
            Self::Local | Self::Foreign { delivery: Delivery::Kind(_) | Delivery::K3d(_), .. } => repository.to_owned(),
        }
    }

    /// The kubeconfig of the cluster.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        match self {
            Self::Local => layout::kubeconfig(),
            Self::Foreign { kubeconfig, .. } => kubeconfig.clone(),
        }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = match self {
            Self::Local => inside(program),
            Self::Foreign { .. } => Command::new(program),
        };
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    fn load(&self, image: &Image) -> Result<()> {
        let Self::Foreign { delivery, .. } = self else { return image.load() };
        let file = tempfile::Builder::new().prefix("sluice-").suffix(".tar").tempfile()?;
        std::fs::write(file.path(), image.archive()?)?;
        let archive = file.path();
        match delivery {
            Delivery::Kind(name) => {
                run(Command::new("kind").args(["load", "image-archive", "--name", name]).arg(archive))
            }
            Delivery::K3d(name) => run(Command::new("k3d").args(["image", "import", "--cluster", name]).arg(archive)),
            Delivery::Registry(_) => push(archive, &image.name),
        }
        .with_context(|| format!("cannot bring image {} to the cluster", image.name))
    }
}

fn push(archive: &Path, name: &str) -> Result<()> {
    let tool = pusher(|tool| Command::new(tool).arg("info").output().is_ok_and(|said| said.status.success()))?;
    run(Command::new(tool).args(["load", "--input"]).arg(archive))?;
    run(Command::new(tool).args(["push", name]))
}

/// The first of the tools that `works`: docker's client is of no use without its daemon.
fn pusher(works: impl Fn(&str) -> bool) -> Result<&'static str> {
    ["docker", "podman"].into_iter().find(|tool| works(tool)).context(
        "pushing to a registry takes podman, or docker with its daemon: `docker info` and `podman info` both fail; \
         `apt-get install podman` brings the one",
    )
}

/// When set, the Sluice that is installed is taken as it is: for those who work on stories and demo.
const INSTALLED: &str = "SLUICE_INSTALLED";

/// Brings the images, then does as [`install_chart`].
///
/// # Errors
/// As those.
pub fn bring(target: &Target, metrics_server: &str) -> Result<()> {
    if std::env::var_os(INSTALLED).is_some() {
        return Ok(());
    }
    let images = load_images(target)?;
    install(target, metrics_server, &images)
}

/// The images that a chart is installed with.
struct Images {
    operator: String,
    proxy: String,
    /// Of the operator's: pods that run another image of the same name are replaced.
    digest: Option<String>,
}

impl Default for Images {
    /// Those that were brought last.
    fn default() -> Self {
        Self { operator: TAG.to_owned(), proxy: TAG.to_owned(), digest: None }
    }
}

/// Compiles the images and brings them to the cluster.
fn load_images(target: &Target) -> Result<Images> {
    let operator = build_static("operator", "sluice-operator")?;
    let proxy = build_static("dataplane", "sluice-proxy")?;
    let app = build_static("sample-app", "sample-app")?;
    let (operator, digest) = load_tagged(target, OPERATOR_IMAGE, operator)?;
    let (proxy, _) = load_tagged(target, PROXY_IMAGE, proxy)?;
    for (tag, environment) in VERSIONS {
        let image = Image::new(format!("{}:{tag}", target.image(IMAGE)), &app).with_env("VERSION", tag);
        let image = environment.iter().fold(image, |image, (name, value)| image.with_env(name, value));
        target.load(&image)?;
    }
    Ok(Images { operator, proxy, digest: Some(digest) })
}

/// Brings one image; returns its tag and its digest. From a registry a node pulls a tag once: there each content has its own.
fn load_tagged(target: &Target, repository: &str, binary: PathBuf) -> Result<(String, String)> {
    let mut image = Image::new("", binary);
    let digest = image.digest()?;
    let tag = match target {
        Target::Foreign { delivery: Delivery::Registry(_), .. } => format!("{TAG}-{}", &digest[..12]),
        Target::Local | Target::Foreign { .. } => TAG.to_owned(),
    };
    image.name = format!("{}:{tag}", target.image(repository));
    target.load(&image)?;
    Ok((tag, digest))
}

/// Installs or upgrades the chart and waits until the operator is ready.
///
/// # Errors
/// When helm fails; the message is what it printed.
pub fn install_chart(target: &Target, metrics_server: &str) -> Result<()> {
    install(target, metrics_server, &Images::default())
}

fn install(target: &Target, metrics_server: &str, images: &Images) -> Result<()> {
    let chart = workspace().join("charts/sluice");
    let values = tempfile::Builder::new().suffix(".json").tempfile()?;
    std::fs::write(values.path(), values_of(target, metrics_server, images).to_string())?;
    progress("installing the chart");
    run(helm(target)?
        .args(["upgrade", "--install", "sluice"])
        .arg(&chart)
        .args(["--namespace", crds::names::SYSTEM_NAMESPACE, "--create-namespace", "--wait", "--timeout", "120s"])
        .arg("--values")
        .arg(values.path()))
    .context("cannot install the chart")
}

/// Removes what [`install_chart`] brought.
///
/// # Errors
/// When helm fails.
pub fn uninstall_chart(target: &Target) -> Result<()> {
    let namespace = crds::names::SYSTEM_NAMESPACE;
    // The chart's hook has 240 s to take every Canary out of the traffic.
    run(helm(target)?.args(["uninstall", "sluice", "--namespace", namespace, "--wait", "--timeout", "300s"]))
        .context("cannot uninstall the chart")
}

/// `helm` with the rights of the target's kubeconfig: the one on the PATH, else one built from its Go module.
fn helm(target: &Target) -> Result<Command> {
    Ok(target.command(&binaries::helm()?))
}

fn values_of(target: &Target, metrics_server: &str, images: &Images) -> Value {
    let image = |repository: &str, tag: &str| json!({ "repository": target.image(repository), "tag": tag });
    let annotations =
        images.digest.as_deref().map_or_else(|| json!({}), |digest| json!({ "sluice.dev/image-digest": digest }));
    json!({
        "operator": { "image": image(OPERATOR_IMAGE, &images.operator), "podAnnotations": annotations },
        "proxy": { "image": image(PROXY_IMAGE, &images.proxy) },
        "metricsServer": metrics_server,
        // As often as the local Prometheus scrapes; the demo brings one that does the same.
        "scrapeInterval": "1s",
    })
}

/// How images get to the cluster of a context, told from the context's name and the `--registry` given.
///
/// # Errors
/// One sentence when there is no way.
pub fn delivery(context: &str, registry: Option<&str>) -> Result<Delivery> {
    if let Some(registry) = registry {
        return Ok(Delivery::Registry(registry.to_owned()));
    }
    if let Some(name) = context.strip_prefix("kind-") {
        return Ok(Delivery::Kind(name.to_owned()));
    }
    if let Some(name) = context.strip_prefix("k3d-") {
        return Ok(Delivery::K3d(name.to_owned()));
    }
    bail!(
        "{context} is neither a kind nor a k3d cluster: say which registry it pulls from, \
         `cargo demo -- --registry registry.example.org/team`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_and_k3d_are_known_by_their_context_and_others_need_a_registry() {
        assert_eq!(delivery("kind-dev", None).unwrap(), Delivery::Kind("dev".into()));
        assert_eq!(delivery("k3d-dev", None).unwrap(), Delivery::K3d("dev".into()));
        assert!(delivery("prod", None).unwrap_err().to_string().contains("--registry"));
        assert_eq!(delivery("kind-dev", Some("r.io/x")).unwrap(), Delivery::Registry("r.io/x".into()));
    }

    #[test]
    fn what_pushes_is_the_first_tool_that_works() {
        assert_eq!(pusher(|_| true).unwrap(), "docker");
        assert_eq!(pusher(|tool| tool == "podman").unwrap(), "podman");
        assert!(pusher(|_| false).unwrap_err().to_string().contains("apt-get install podman"));
    }

    #[test]
    fn a_registry_renames_images() {
        let delivery = Delivery::Registry("r.io/team/".into());
        let target = Target::Foreign { kubeconfig: PathBuf::new(), delivery };
        assert_eq!(target.image("sluice.dev/sluice-proxy"), "r.io/team/sluice-proxy");
        assert_eq!(Target::Local.image("sluice.dev/sluice-proxy"), "sluice.dev/sluice-proxy");
    }
}
