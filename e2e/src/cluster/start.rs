//! Starts the parts in their order, each when what it needs is there, and tells whether all of them are up.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::process::{self, output, run};
use super::{Part, clean, config, kubectl, layout, network, pki, progress};
use crate::images::Image;

/// How long the API server may take to answer, and the node to be ready.
const START_LIMIT: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(200);
/// The build that the running cluster is made of.
const BUILD_FILE: &str = "build";
const ADDONS: &str = include_str!("../../cluster/addons.yaml");

pub(super) fn is_whole(build: &str) -> bool {
    fs::read_to_string(layout::state(BUILD_FILE)).is_ok_and(|text| text == build)
        && Path::new(layout::NETNS_PATH).exists()
        && Part::ALL.iter().all(|part| process::runs(part.name()))
        && api_server_is_ready()
        && node_is_ready()
}

pub(super) fn start(build: &str, program: &Path, pause: &Path) -> Result<()> {
    if clean::is_needed() {
        progress("removing what an earlier cluster left");
        clean::everything();
    }
    progress("starting Kubernetes");
    let started = Instant::now();
    prepare(program)?;
    for part in [Part::Etcd, Part::Containerd, Part::ApiServer] {
        start_part(part)?;
    }
    import_pause(pause)?;
    await_api_server()?;
    for part in [Part::ControllerManager, Part::Scheduler, Part::Kubelet, Part::KubeProxy] {
        start_part(part)?;
    }
    let addons = layout::state("conf/addons.yaml");
    fs::write(&addons, ADDONS)?;
    run(kubectl().arg("apply").arg("--filename").arg(&addons))?;
    for part in [Part::CoreDns, Part::PodTargets, Part::Prometheus] {
        start_part(part)?;
    }
    wait_for("node", Part::Kubelet, node_is_ready)?;
    wait_for("default service account", Part::ControllerManager, accounts_are_there)?;
    fs::write(layout::state(BUILD_FILE), build)?;
    progress(&format!("Kubernetes is up after {:.1} s", started.elapsed().as_secs_f32()));
    Ok(())
}

/// Folders, links, network, certificates and configuration.
fn prepare(program: &Path) -> Result<()> {
    for folder in ["bin", "cni", "conf", "containerd", "logs", "pids", "pki"] {
        let path = layout::state(folder);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    fs::create_dir_all(layout::RUN)?;
    for part in layout::PARTS {
        std::os::unix::fs::symlink(program, layout::binary(part))?;
    }
    network::ensure()?;
    network::flush();
    pki::write_all()?;
    for (path, text) in config::files() {
        fs::write(layout::state(path), text)?;
    }
    Ok(())
}

pub(super) fn start_part(part: Part) -> Result<()> {
    process::spawn(part.name(), &part.program(), &part.arguments()).map(drop)
}

fn import_pause(pause: &Path) -> Result<()> {
    wait_for("containerd", Part::Containerd, || Path::new(layout::CONTAINERD_SOCKET).exists())?;
    Image::new(layout::PAUSE_IMAGE, pause).load()
}

pub(super) fn await_api_server() -> Result<()> {
    wait_for("API server", Part::ApiServer, api_server_is_ready)
}

/// Waits for a state of the cluster; gives up when the part behind it ends.
fn wait_for(what: &str, part: Part, reached: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + START_LIMIT;
    while !reached() {
        let log = layout::log(part.name());
        if !process::runs(part.name()) {
            bail!("{} ended: see {}", part.name(), log.display());
        }
        if Instant::now() > deadline {
            bail!("{what} is not ready after {START_LIMIT:?}: see {}", log.display());
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn api_server_is_ready() -> bool {
    output(kubectl().args(["get", "--raw", "/readyz"])).is_ok()
}

fn node_is_ready() -> bool {
    const READY: &str = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
    output(kubectl().args(["get", "node", layout::NODE_NAME, "--output", READY])).is_ok_and(|status| status == "True")
}

/// Without it no pod of the namespace is admitted.
fn accounts_are_there() -> bool {
    run(kubectl().args(["get", "serviceaccount", "default", "--namespace", "default"])).is_ok()
}
