//! What the machine needs before a cluster can start.
//!
//! Packages of Debian and Ubuntu are installed; everything else that is
//! missing is one sentence with the command that brings it.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use nix::unistd::Uid;

use super::network::outside;
use super::process;
use crate::packages::{self, find};

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
    packages::ensure(&PROGRAMS)?;
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
