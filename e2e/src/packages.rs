//! Programs of the machine, and the packages of Debian and Ubuntu that bring them: what is missing is installed.

use std::env;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::cluster::network::outside;
use crate::cluster::progress;

/// Looks a program up as a shell would, and in the folders of root.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(program.into()).filter(|path: &PathBuf| path.exists());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/go/bin".into()])
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// Sees to it that each program is there; beside it stands the package that holds it.
///
/// # Errors
/// One sentence: what is missing and the command that brings it.
pub fn ensure(programs: &[(&str, &str)]) -> Result<()> {
    let missing = missing(programs);
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if find("apt-get").is_none() {
        bail!("{list} is missing and this machine has no apt-get: install it with your package manager");
    }
    progress(&format!("installing {list}"));
    // The lists may be missing or old.
    if install(&missing, programs)? || (apt(&["update"], &[])? && install(&missing, programs)?) {
        return Ok(());
    }
    let command = format!("apt-get install --no-install-recommends -y {list}");
    bail!("{list} is missing and could not be installed: run `apt-get update && {command}` as root")
}

fn missing<'a>(programs: &[(&str, &'a str)]) -> Vec<&'a str> {
    let missing = programs.iter().filter(|(program, _)| find(program).is_none());
    let mut packages: Vec<_> = missing.map(|(_, package)| *package).collect();
    packages.dedup();
    packages
}

/// Whether all programs are there afterwards.
fn install(packages: &[&str], programs: &[(&str, &str)]) -> Result<bool> {
    let done = apt(&["install", "--no-install-recommends", "-y"], packages)?;
    Ok(done && missing(programs).is_empty())
}

/// Waits for another apt-get, for two minutes at most.
fn apt(verb: &[&str], packages: &[&str]) -> Result<bool> {
    let output = outside("apt-get")
        .args(["-q", "-o", "DPkg::Lock::Timeout=120"])
        .args(verb)
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // The services of these packages are of no use here.
        .env("RUNLEVEL", "1")
        .output()
        .context("cannot run apt-get")?;
    Ok(output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_package_of_a_missing_program_is_named_once() {
        let programs = [("sh", "dash"), ("no-such-a", "one"), ("no-such-b", "one"), ("/no/such", "two")];
        assert_eq!(missing(&programs), ["one", "two"]);
    }
}
