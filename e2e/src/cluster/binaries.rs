//! Builds the Go programs of `e2e/cluster` and `e2e/conformance` once per content.
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
use crate::packages;

/// What clients expect to read from the server.
const KUBERNETES_VERSION: &str = "v1.37.2";

/// A Go module of this crate.
#[derive(Clone, Copy, Debug)]
enum Module {
    Cluster,
    Conformance,
}

impl Module {
    fn folder(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Conformance => "conformance",
        }
    }

    /// What decides about its programs.
    fn sources(self) -> &'static [&'static str] {
        match self {
            Self::Cluster => &["go.mod", "go.sum", "main.go", "pause/main.go", "targets.go"],
            Self::Conformance => &["go.mod", "go.sum", "h2spec/main.go"],
        }
    }
}

/// A program of one of the Go modules.
#[derive(Clone, Copy, Debug)]
pub enum Program {
    /// All of Kubernetes, etcd and CoreDNS in one.
    Cluster,
    Pause,
    Helm,
    /// The suite of HTTP/2 cases, in strict mode.
    H2spec,
    /// grpc-go's client of gRPC's interoperability tests.
    GrpcClient,
    /// grpc-go's server of them.
    GrpcServer,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Cluster => "sluice-cluster",
            Self::Pause => "pause",
            Self::Helm => "helm",
            Self::H2spec => "h2spec",
            Self::GrpcClient => "grpc-client",
            Self::GrpcServer => "grpc-server",
        }
    }

    fn module(self) -> Module {
        match self {
            Self::Cluster | Self::Pause | Self::Helm => Module::Cluster,
            Self::H2spec | Self::GrpcClient | Self::GrpcServer => Module::Conformance,
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Cluster => ".",
            Self::Pause => "./pause",
            Self::Helm => "helm.sh/helm/v4/cmd/helm",
            Self::H2spec => "./h2spec",
            Self::GrpcClient => "google.golang.org/grpc/interop/client",
            Self::GrpcServer => "google.golang.org/grpc/interop/server",
        }
    }

    fn expectation(self) -> &'static str {
        match self {
            Self::Cluster => "about 7 minutes on 2 cores, once",
            Self::Pause | Self::H2spec => "seconds",
            Self::Helm | Self::GrpcClient | Self::GrpcServer => "about a minute, once",
        }
    }
}

/// The path of a program, which is built if it is not there yet.
///
/// # Errors
/// When the build fails; the message holds the compiler's.
pub fn ensure(program: Program) -> Result<PathBuf> {
    let folder = folder(program.module())?;
    let path = folder.join(program.name());
    if path.exists() {
        return Ok(path);
    }
    fs::create_dir_all(&folder)?;
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
    match packages::find("helm") {
        Some(path) => Ok(path),
        None => ensure(Program::Helm),
    }
}

/// The content hash of the cluster's Go module: names a build.
pub fn content_hash() -> Result<String> {
    hash(Module::Cluster)
}

fn hash(module: Module) -> Result<String> {
    let mut hash = Sha256::new();
    for source in module.sources() {
        let path = checkout(module).join(source);
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        hash.update(&bytes);
    }
    Ok(hex(&hash.finalize())[..16].to_owned())
}

fn build(program: Program, path: &Path) -> Result<()> {
    let name = program.name();
    progress(&format!("compiling {name} ({})", program.expectation()));
    let folder = folder(program.module())?;
    // Renamed when whole: an interrupted build leaves no half program.
    let partial = folder.join(format!(".{name}.{}", std::process::id()));
    let log_path = folder.join(format!("{name}.log"));
    let log = fs::File::create(&log_path)?;
    let child = preflight::go()
        .args(["build", "-buildvcs=false", "-trimpath", "-ldflags", &link_flags(), "-o"])
        .arg(&partial)
        .arg(program.package())
        .current_dir(checkout(program.module()))
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
fn checkout(module: Module) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(module.folder())
}

fn folder(module: Module) -> Result<PathBuf> {
    Ok(cache()?.join("bin").join(hash(module)?))
}

/// `$XDG_CACHE_HOME/sluice` (XDG Base Directory Specification): for what is made once and outlives a checkout.
///
/// # Errors
/// When neither that nor `HOME` is set.
pub fn cache() -> Result<PathBuf> {
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
