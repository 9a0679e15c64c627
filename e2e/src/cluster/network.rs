//! The cluster's network namespace, and how a process of ours gets into it.
//!
//! Pods and Services are reachable from inside the namespace only, so the
//! process that talks to them, or puts load on them, runs there: a `main`
//! calls [`reexec_in_netns`] first. What needs the outer network (a compiler
//! fetching modules) goes through [`outside`].

use std::env;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::layout;
use super::process::run;

/// Set in the process that [`reexec_in_netns`] starts: the open file of the
/// namespace it came from.
const OUTER: &str = "SLUICE_OUTER_NETNS";

/// Restarts the current program in the cluster's network namespace, unless it
/// runs there already; makes the namespace when there is none.
///
/// Call it first in `main`: the program starts over.
///
/// # Errors
/// When the namespace cannot be made or entered, which takes root.
pub fn reexec_in_netns() -> Result<()> {
    if is_inside() {
        return Ok(());
    }
    leave_removed()?;
    ensure()?;
    let outer = File::open("/proc/self/ns/net").context("cannot open the network namespace")?;
    // Stays open in the program to come: the only way back.
    fcntl(&outer, FcntlArg::F_SETFD(FdFlag::empty()))?;
    let error = Command::new("nsenter")
        .arg(format!("--net={}", layout::NETNS_PATH))
        .arg(env::current_exe().context("cannot find the running program")?)
        .args(env::args_os().skip(1))
        .env(OUTER, outer.as_raw_fd().to_string())
        .exec();
    Err(error).context("cannot run nsenter")
}

/// Whether this process is in the cluster's network namespace.
pub fn is_inside() -> bool {
    same_file("/proc/self/ns/net", layout::NETNS_PATH)
}

/// Starts the program over, outside, if the namespace that it entered was removed since: the watchdog of a program
/// that ran before takes its cluster down just when the next one starts.
///
/// # Errors
/// When the machine's own namespace cannot be entered again.
pub fn leave_removed() -> Result<()> {
    if env::var_os(OUTER).is_none() || is_inside() {
        return Ok(());
    }
    let program = env::current_exe().context("cannot find the running program")?;
    let error = outside(program).args(env::args_os().skip(1)).env_remove(OUTER).exec();
    Err(error).context("cannot run nsenter")
}

/// A command that runs in the cluster's network namespace.
pub fn inside(program: impl AsRef<Path>) -> Command {
    enter(layout::NETNS_PATH, program.as_ref())
}

/// A command that runs in the machine's own network namespace, wherever this
/// process is.
pub fn outside(program: impl AsRef<Path>) -> Command {
    match env::var(OUTER) {
        Ok(file) => enter(&format!("/proc/self/fd/{file}"), program.as_ref()),
        Err(_) => Command::new(program.as_ref()),
    }
}

fn enter(namespace: &str, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={namespace}")).arg(program);
    command
}

fn same_file(one: &str, other: &str) -> bool {
    match (fs::metadata(one), fs::metadata(other)) {
        (Ok(one), Ok(other)) => one.dev() == other.dev() && one.ino() == other.ino(),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

/// Makes the namespace with the node's address; one that exists is kept.
///
/// The address is on a bridge because not every kernel has dummy devices.
/// Services need a route although their addresses are translated before a
/// packet leaves: without one the packet is refused first.
///
/// # Errors
/// When a step fails; the step is named.
pub fn ensure() -> Result<()> {
    if !Path::new(layout::NETNS_PATH).exists() {
        run(Command::new("ip").args(["netns", "add", layout::NETNS]))?;
    }
    run(inside("ip").args(["link", "set", "lo", "up"]))?;
    let device = layout::NODE_DEVICE;
    if run(inside("ip").args(["link", "show", device])).is_err() {
        run(inside("ip").args(["link", "add", device, "type", "bridge"]))?;
    }
    run(inside("ip").args(["addr", "replace", layout::NODE_NETWORK, "dev", device]))?;
    run(inside("ip").args(["link", "set", device, "up"]))?;
    run(inside("ip").args(["route", "replace", layout::SERVICE_NETWORK, "dev", device]))?;
    run(inside("sh").args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]))
}

/// Removes the namespace and every device in it.
pub fn remove() {
    if Path::new(layout::NETNS_PATH).exists() {
        let _ = run(Command::new("ip").args(["netns", "delete", layout::NETNS]));
    }
}

/// Forgets what an earlier cluster left in the namespace: rules and pods'
/// devices.
pub fn flush() {
    let _ = run(inside("nft").args(["flush", "ruleset"]));
    let Ok(output) = inside("ip").args(["-o", "link", "show", "type", "veth"]).output() else {
        return;
    };
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        // `7: veth1a2b@if3: <BROADCAST,...`
        let name = line.split(": ").nth(1).and_then(|name| name.split('@').next());
        if let Some(name) = name {
            let _ = run(inside("ip").args(["link", "delete", name]));
        }
    }
}
