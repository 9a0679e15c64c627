//! Autobahn's cases of WebSocket, driven by `websocket.py` with wsproto.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::cluster::binaries;
use e2e::standalone::{Proxy, Route, free_port};

const WSPROTO: &str = "wsproto==1.3.2";
const STARTS_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread")]
async fn websockets_are_the_same_through_the_proxy_as_directly() -> Result<()> {
    let python = tokio::task::spawn_blocking(python).await??;
    let address = free_port()?;
    let server = Command::new(&python)
        .arg(script())
        .args(["serve", &address.port().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let _server = Ended(server);
    let deadline = Instant::now() + STARTS_WITHIN;
    while tokio::net::TcpStream::connect(address).await.is_err() {
        ensure!(Instant::now() < deadline, "the echo server does not listen");
        tokio::time::sleep(POLL).await;
    }
    let told = Proxy::start(&Route::new("http", address)).await?;
    let detected = Proxy::start(&Route::new("detect", address)).await?;
    let ports = [address, told.address(), detected.address()].map(|address| address.port().to_string());
    let output =
        tokio::task::spawn_blocking(move || Command::new(python).arg(script()).arg("drive").args(ports).output())
            .await??;
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{}", said.lines().next_back().unwrap_or_default());
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    // 246 are Autobahn's groups 1 to 7.
    assert!(said.ends_with("websocket: 249 of 249 cases passed at 3 ports\n"), "{said}");
    Ok(())
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/websocket.py")
}

/// A Python with wsproto, made once per machine.
fn python() -> Result<PathBuf> {
    let folder = binaries::cache()?.join("python");
    let venv = folder.join(WSPROTO.replace("==", "-"));
    let (python, whole) = (venv.join("bin/python"), venv.join("whole"));
    fs::create_dir_all(&folder)?;
    // Another process may be at it: then this one has nothing to do.
    let lock = fs::File::create(venv.with_extension("lock"))?;
    lock.lock().context("cannot wait for another process")?;
    if !whole.exists() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
        run(Command::new(&python).args(["-m", "pip", "install", "-q", "--disable-pip-version-check", WSPROTO]))?;
        fs::write(whole, [])?;
    }
    Ok(python)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().context("python3 is missing: install it with its venv module")?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
