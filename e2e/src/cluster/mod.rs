//! A real Kubernetes on this machine, of one node, for stories and the demo.
//!
//! [`Cluster`] starts, reuses, stops and looks into it. How: [`preflight`]
//! checks the machine, [`binaries`] builds the Go programs, [`network`] makes
//! the namespace everything runs in, [`pki`] and [`config`] write the files,
//! [`parts`] says what runs, [`start`] in which order, [`process`] runs it,
//! [`logs`] shows what it printed, [`clean`] removes it all.
//! A program that talks to the cluster calls [`network::reexec_in_netns`]
//! first in its `main`.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

pub mod audit;
pub mod binaries;
mod clean;
mod config;
pub mod layout;
pub mod lifetime;
pub mod logs;
pub mod network;
mod parts;
mod pki;
mod preflight;
pub mod process;
mod start;

pub use network::reexec_in_netns;
pub use parts::Part;

use crate::images::Image;
use kube::config::KubeConfigOptions;
use process::output;

/// The running cluster. Dropping it stops nothing.
#[derive(Debug)]
pub struct Cluster {
    /// Held shared as long as the cluster is in use.
    _users: File,
    reused: bool,
}

impl Cluster {
    /// The cluster of an earlier run if it is whole and of the same build,
    /// else a new one. It stays up when this process ends.
    ///
    /// # Errors
    /// When the machine lacks something (one sentence says what, and the
    /// command that brings it) or a part does not start; the message names
    /// its log.
    pub async fn start_or_reuse() -> Result<Self> {
        tokio::task::spawn_blocking(Self::start_or_reuse_blocking).await?
    }

    /// As [`Cluster::start_or_reuse`], for a program without a runtime.
    ///
    /// # Errors
    /// As [`Cluster::start_or_reuse`].
    pub fn start_or_reuse_blocking() -> Result<Self> {
        let cluster = Self::start_with(|| Ok(()))?;
        lifetime::keep()?;
        Ok(cluster)
    }

    /// As [`Cluster::start_or_reuse`]. A cluster that is started here is
    /// taken down when this process ends in whatever way, unless
    /// `SLUICE_KEEP=1` is set; one that was up before stays up.
    ///
    /// # Errors
    /// As [`Cluster::start_or_reuse`].
    pub async fn start_for_tests() -> Result<Self> {
        tokio::task::spawn_blocking(|| {
            if lifetime::is_kept() {
                return Self::start_or_reuse_blocking();
            }
            Self::start_with(lifetime::take_down_at_exit)
        })
        .await?
    }

    /// `before_start` is called only when there is nothing to reuse.
    fn start_with(before_start: impl FnOnce() -> Result<()>) -> Result<Self> {
        preflight::check()?;
        let build = binaries::content_hash()?;
        let program = binaries::ensure(binaries::Program::Cluster)?;
        let pause = binaries::ensure(binaries::Program::Pause)?;
        let _starting = lifetime::lock_start()?;
        network::leave_removed()?;
        let users = lifetime::use_cluster()?;
        let reused = start::is_whole(&build);
        if !reused {
            before_start()?;
            start::start(&build, &program, &pause)?;
        }
        Ok(Self { _users: users, reused })
    }

    /// Whether the cluster was up before.
    pub fn was_reused(&self) -> bool {
        self.reused
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        layout::kubeconfig()
    }

    /// A client with the administrator's rights. It reaches the API server
    /// from inside the network namespace only.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn client(&self) -> Result<kube::Client> {
        // Whoever came first has installed the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let file = kube::config::Kubeconfig::read_from(self.kubeconfig())?;
        let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        Ok(kube::Client::try_from(config)?)
    }

    /// Kills every container of a pod with SIGKILL, as the kernel would.
    ///
    /// # Errors
    /// When there is no such pod.
    pub fn kill_pod(&self, namespace: &str, pod: &str) -> Result<()> {
        const IDS: &str = "jsonpath={.status.containerStatuses[*].containerID}";
        let ids = output(kubectl().args(["get", "pod", pod, "--namespace", namespace, "--output", IDS]))?;
        for id in ids.split_whitespace().filter_map(|id| id.strip_prefix("containerd://")) {
            process::kill_container(id)?;
        }
        Ok(())
    }

    /// Copies every log of the cluster and its pods, and the state of all
    /// objects a story is about, to a folder.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save_logs(&self, folder: &Path) -> Result<()> {
        logs::save(folder)
    }

    /// Imports an image; one that is there with the same content is kept.
    ///
    /// # Errors
    /// When the binary cannot be read or the import fails.
    pub fn load(&self, image: &Image) -> Result<()> {
        image.load()
    }

    /// A reader of the requests to the API server from now on.
    pub fn audit(&self) -> audit::Reader {
        audit::Reader::at_end(layout::audit_log())
    }

    /// Stops the API server, gracefully.
    pub fn stop_apiserver(&self) {
        process::stop(Part::ApiServer.name());
    }

    /// Starts the API server and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_apiserver(&self) -> Result<()> {
        start::start_part(Part::ApiServer)?;
        start::await_api_server()
    }

    /// Stops the API server and starts it again.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart_apiserver(&self) -> Result<()> {
        self.stop_apiserver();
        self.start_apiserver()
    }

    /// Stops Prometheus; its data is kept.
    pub fn stop_prometheus(&self) {
        process::stop(Part::Prometheus.name());
    }

    /// Starts Prometheus again.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_prometheus(&self) -> Result<()> {
        start::start_part(Part::Prometheus)
    }
}

/// Stops and removes the cluster, or what is left of one.
///
/// # Errors
/// When another process is starting or stopping it for too long.
pub fn down() -> Result<()> {
    let _starting = lifetime::lock_start()?;
    clean::everything();
    network::remove();
    Ok(())
}

/// Stops one part by its name.
///
/// # Errors
/// When there is no such part.
pub fn stop(part: &str) -> Result<()> {
    process::stop(find(part)?.name());
    Ok(())
}

/// Starts one part that was stopped.
///
/// # Errors
/// When there is no such part or it does not start.
pub fn start_again(part: &str) -> Result<()> {
    let part = find(part)?;
    if process::runs(part.name()) {
        return Ok(());
    }
    start::start_part(part)
}

fn find(name: &str) -> Result<Part> {
    let part = Part::ALL.into_iter().find(|part| part.name() == name);
    part.with_context(|| format!("the cluster has no part {name}"))
}

/// One line for each part: its name, its process and whether it runs.
pub fn status() -> Vec<String> {
    let line = |part: Part| {
        let name = part.name();
        match process::read_record(name) {
            Some(record) if record.is_alive() => format!("{name}: running, process {}", record.pid),
            Some(record) => format!("{name}: ended, was process {}", record.pid),
            None => format!("{name}: not started"),
        }
    };
    Part::ALL.map(line).to_vec()
}

/// A `kubectl` with the administrator's rights, in the cluster's network
/// namespace.
pub fn kubectl() -> std::process::Command {
    let mut command = network::inside(layout::binary("kubectl"));
    command.env("KUBECONFIG", layout::kubeconfig());
    command
}

/// Says what takes long, on standard error.
pub fn progress(text: &str) {
    eprintln!("sluice: {text}");
}
