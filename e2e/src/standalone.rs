//! `sluice-proxy` as people run it without a cluster: a process with a file of routes, on loopback, for suites, benchmarks
//! and debugging. It is looked at from outside only: its ports, and what the kernel says of the process.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::{cores, images};

/// Names a `sluice-proxy` to be used instead of one that is built from this workspace.
const VARIABLE: &str = "SLUICE_PROXY";
/// How long a proxy may take to listen.
const STARTS_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// What the proxy serves.
#[derive(Clone, Debug)]
pub struct Route {
    protocol: String,
    stable: SocketAddr,
    fields: String,
    second: Option<(SocketAddr, String)>,
}

impl Route {
    /// Everything goes to `origin`; `protocol` as in the file: `detect`, `http`, `h2c`, `grpc` or `tcp`.
    #[must_use]
    pub fn new(protocol: &str, origin: SocketAddr) -> Self {
        Self { protocol: protocol.to_owned(), stable: origin, fields: String::new(), second: None }
    }

    /// Adds a field of the route, such as `requestTimeout: 2s`.
    #[must_use]
    pub fn with(mut self, field: &str) -> Self {
        let _ = writeln!(self.fields, "  {field}");
        self
    }

    /// A second route beside it, of the same protocol, on a port of its own: [`Proxy::second`].
    ///
    /// # Errors
    /// When no port is free.
    pub fn and(mut self, origin: SocketAddr, fields: &[&str]) -> Result<Self> {
        let port = free_port()?;
        let protocol = &self.protocol;
        let mut text = String::from("- service: second\n");
        for field in fields {
            let _ = writeln!(text, "  {field}");
        }
        let _ = write!(
            text,
            "  listeners:\n  - port: {}\n    protocol: {protocol}\n    stable: ['{origin}']\n",
            port.port()
        );
        self.second = Some((port, text));
        Ok(self)
    }

    fn yaml(&self) -> String {
        let Self { protocol, stable, fields, second } = self;
        let second = second.as_ref().map_or("", |(_, text)| text);
        format!(
            "routes:\n- service: web\n{fields}  listeners:\n  - protocol: {protocol}\n    stable: ['{stable}']\n{second}"
        )
    }
}

/// A running proxy of one worker; killed when dropped.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
    second: Option<SocketAddr>,
    _folder: TempDir,
}

impl Proxy {
    /// Starts a proxy with one worker, and returns when it listens.
    ///
    /// # Errors
    /// When it cannot be built, or does not listen in time.
    pub async fn start(route: &Route) -> Result<Self> {
        let route = route.clone();
        tokio::task::spawn_blocking(move || Self::start_now(&route)).await?
    }

    fn start_now(route: &Route) -> Result<Self> {
        let program = program()?;
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("routes.yaml");
        std::fs::File::create(&config)?.write_all(route.yaml().as_bytes())?;
        let (address, admin) = (free_port()?, free_port()?);
        let child = Command::new(&program)
            .arg("--config")
            .arg(&config)
            .args(["--listen", &address.to_string(), "--admin", &admin.to_string(), "--workers", "1"])
            .args(["--drain-delay", "0s"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let mut proxy =
            Self { child, address, admin, second: route.second.as_ref().map(|(port, _)| *port), _folder: folder };
        proxy.wait()?;
        Ok(proxy)
    }

    fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + STARTS_WITHIN;
        while [Some(self.address), self.second].into_iter().flatten().any(|port| TcpStream::connect(port).is_err()) {
            if let Some(status) = self.child.try_wait()? {
                bail!("the proxy ended with {status}");
            }
            if Instant::now() > deadline {
                bail!("the proxy does not listen on {}", self.address);
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Where it serves.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it serves the second route.
    #[must_use]
    pub fn second(&self) -> Option<SocketAddr> {
        self.second
    }

    /// Where its admin server answers.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Memory in use, in KiB (`VmRSS` of proc_pid_status(5)).
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("the proxy is gone")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    }

    /// Keeps all of its threads on `core`.
    ///
    /// # Errors
    /// When the process is gone, or may not run there.
    pub fn stay_on(&self, core: usize) -> Result<()> {
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            cores::keep_on(thread?.file_name().to_string_lossy().parse()?, [core])?;
        }
        Ok(())
    }

    /// Open files, connections among them.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn open_files(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself, and then there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The proxy's binary.
///
/// # Errors
/// When it cannot be built.
pub fn program() -> Result<PathBuf> {
    match std::env::var_os(VARIABLE) {
        Some(path) => Ok(path.into()),
        None => images::build_static("dataplane", "sluice-proxy"),
    }
}

/// A port of loopback that was free a moment ago.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
