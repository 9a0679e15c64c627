//! What the machine needs before a cluster can start.
//!
//! Packages of Debian and Ubuntu are installed; everything else that is
//! missing is one sentence with the command that brings it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;

use super::network::outside;
use super::{process, progress};

/// A program and the Debian package that holds it.
const PROGRAMS: [(&str, &str); 9] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/ptp", "containernetworking-plugins"),
    ("iptables", "iptables"),
    ("ip", "iproute2"),
    ("conntrack", "conntrack"),
    ("nft", "nftables"),
    ("prometheus", "prometheus"),
];

/// Checks the machine and installs the packages it lacks.
///
/// # Errors
/// One sentence: what is missing and what brings it.
pub(super) fn check() -> Result<()> {
    if !Uid::effective().is_root() {
        bail!("the local cluster needs root: run the command with sudo");
    }
    if !Path::new("/sys/fs/cgroup").is_dir() {
        bail!("the local cluster needs cgroups: mount them with `mount -t cgroup2 none /sys/fs/cgroup`");
    }
    let missing = missing_packages();
    if !missing.is_empty() {
        install(&missing)?;
    }
    check_go()
}

/// Go from 1.21 on fetches the version that `go.mod` asks for.
fn check_go() -> Result<()> {
    const REMEDY: &str = "install it from https://go.dev/dl";
    if find("go").is_none() {
        bail!("Go is missing: {REMEDY}");
    }
    let printed = process::output(go().arg("version"))?;
    match go_minor(&printed) {
        Some(minor) if minor >= 21 => Ok(()),
        Some(_) | None => bail!("Go 1.21 or later is needed, and this is `{}`: {REMEDY}", printed.trim()),
    }
}

/// The 26 of `go version go1.26.8 linux/amd64`.
fn go_minor(printed: &str) -> Option<u32> {
    let version = printed.split_whitespace().find_map(|word| word.strip_prefix("go1."))?;
    version.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

fn missing_packages() -> Vec<&'static str> {
    let mut packages: Vec<_> =
        PROGRAMS.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    packages.dedup();
    packages
}

fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    let command = format!("apt-get install --no-install-recommends -y {list}");
    if find("apt-get").is_none() {
        bail!("{list} is missing and this machine has no apt-get: install it with your package manager");
    }
    progress(&format!("installing {list}"));
    let install = || -> Result<bool> {
        let done = apt(&["install", "--no-install-recommends", "-y"], packages)?;
        Ok(done && missing_packages().is_empty())
    };
    if !install()? {
        apt(&["update"], &[])?;
        if !install()? {
            bail!("{list} is missing and could not be installed: run `apt-get update && {command}`");
        }
    }
    Ok(())
}

/// Waits for another apt-get, for two minutes at most.
fn apt(verb: &[&str], packages: &[&str]) -> Result<bool> {
    let output = outside("apt-get")
        .args(["-q", "-o", "DPkg::Lock::Timeout=120"])
        .args(verb)
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .context("cannot run apt-get")?;
    Ok(output.status.success())
}

/// Looks a program up as a shell would, and in the folders of root.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(program.into()).filter(|path: &PathBuf| path.exists());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/go/bin".into()])
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// Go, wherever it is.
pub(super) fn go() -> Command {
    outside(find("go").unwrap_or_else(|| "go".into()))
}

#[cfg(test)]
mod tests {
    use super::go_minor;

    #[test]
    fn the_version_of_go_is_read() {
        assert_eq!(go_minor("go version go1.26.8 linux/amd64"), Some(26));
        assert_eq!(go_minor("go version go1.27rc1 linux/amd64"), Some(27));
        assert_eq!(go_minor("command not found"), None);
    }
}
