//! Builds the Go programs of `e2e/cluster` once per content.
//!
//! They are kept outside the checkout, in a folder named by the hash of their
//! sources and `go.sum`, so that a fresh clone of the same version reuses
//! them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use super::{preflight, process, progress};

const SOURCES: [&str; 5] = ["go.mod", "go.sum", "main.go", "pause/main.go", "targets.go"];
/// What clients expect to read from the server.
const KUBERNETES_VERSION: &str = "v1.37.2";

/// A program of the Go module.
#[derive(Clone, Copy, Debug)]
pub enum Program {
    /// All of Kubernetes, etcd and CoreDNS in one.
    Cluster,
    Pause,
    Helm,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Cluster => "sluice-cluster",
            Self::Pause => "pause",
            Self::Helm => "helm",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Cluster => ".",
            Self::Pause => "./pause",
            Self::Helm => "helm.sh/helm/v4/cmd/helm",
        }
    }

    fn expectation(self) -> &'static str {
        match self {
            Self::Cluster => "about 7 minutes on 2 cores, once",
            Self::Pause => "seconds",
            Self::Helm => "about a minute, once",
        }
    }
}

/// The path of a program, which is built if it is not there yet.
///
/// # Errors
/// When the build fails; the message holds the compiler's.
pub fn ensure(program: Program) -> Result<PathBuf> {
    let path = folder()?.join(program.name());
    if path.exists() {
        return Ok(path);
    }
    fs::create_dir_all(folder()?)?;
    // Another process may be compiling it: then this one has nothing to do.
    let lock = fs::File::create(path.with_extension("lock"))?;
    lock.lock().context("cannot wait for another build")?;
    if !path.exists() {
        build(program, &path)?;
    }
    Ok(path)
}

/// The `helm` on the `PATH`, or else one built from its Go module.
///
/// # Errors
/// As [`ensure`].
pub fn helm() -> Result<PathBuf> {
    match preflight::find("helm") {
        Some(path) => Ok(path),
        None => ensure(Program::Helm),
    }
}

/// The content hash of the Go module: names a build.
pub fn content_hash() -> Result<String> {
    let mut hash = Sha256::new();
    for source in SOURCES {
        let path = module().join(source);
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        hash.update(&bytes);
    }
    Ok(hex(&hash.finalize())[..16].to_owned())
}

fn build(program: Program, path: &Path) -> Result<()> {
    let name = program.name();
    progress(&format!("compiling {name} ({})", program.expectation()));
    let folder = folder()?;
    // Renamed when whole: an interrupted build leaves no half program.
    let partial = folder.join(format!(".{name}.{}", std::process::id()));
    let log_path = folder.join(format!("{name}.log"));
    let log = fs::File::create(&log_path)?;
    let child = preflight::go()
        .args(["build", "-buildvcs=false", "-trimpath", "-ldflags", &link_flags(), "-o"])
        .arg(&partial)
        .arg(program.package())
        .current_dir(module())
        .env("CGO_ENABLED", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("cannot run go")?;
    if !process::wait_with_progress(child, &format!("compiling {name}"))?.success() {
        let log = fs::read_to_string(&log_path).unwrap_or_default();
        bail!("cannot compile {name}: {}", log.trim());
    }
    fs::rename(&partial, path).with_context(|| format!("cannot keep {}", path.display()))
}

fn link_flags() -> String {
    let (major, minor) = ("1", "37");
    let version = "k8s.io/component-base/version";
    format!(
        "-s -w -X {version}.gitVersion={KUBERNETES_VERSION} -X {version}.gitMajor={major} \
         -X {version}.gitMinor={minor}"
    )
}

/// The Go module in the checkout this program was built from.
fn module() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster")
}

fn folder() -> Result<PathBuf> {
    Ok(cache()?.join("bin").join(content_hash()?))
}

/// `$XDG_CACHE_HOME/sluice` (XDG Base Directory Specification).
fn cache() -> Result<PathBuf> {
    let base = match (env::var_os("XDG_CACHE_HOME"), env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) => PathBuf::from(home).join(".cache"),
        (_, None) => bail!("neither XDG_CACHE_HOME nor HOME is set: set one of them"),
    };
    Ok(base.join("sluice"))
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String never fails.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
