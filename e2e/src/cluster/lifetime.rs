//! Who uses the cluster, and when it is taken down.
//!
//! Two locks: one is held while the cluster is started or stopped, the other
//! is shared by all that use it. A process that started it for itself leaves a
//! watchdog behind, which notices the end of that process by the end of a
//! pipe, however it ended, waits for other users, and takes the cluster down.

use std::env;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::layout::{self, START_LOCK, USERS_LOCK};

/// Keeps the cluster up after tests when it is `1`.
const KEEP: &str = "SLUICE_KEEP";
/// Present when somebody wants the cluster to stay up.
const KEEP_FILE: &str = "keep";
/// Longer than a start takes that has to compile nothing.
const LOCK_LIMIT: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(100);
/// The argument that makes the `cluster` program a watchdog.
pub const WATCHDOG: &str = "watchdog";

/// The pipe whose end tells the watchdog that this process ended.
static LIFELINE: Mutex<Option<ChildStdin>> = Mutex::new(None);

/// Whether the person asked to keep the cluster.
pub fn is_kept() -> bool {
    env::var_os(KEEP).is_some_and(|value| value == "1")
}

/// Tells the watchdog of an earlier process to leave the cluster up.
///
/// # Errors
/// When the mark cannot be written.
pub fn keep() -> Result<()> {
    fs::write(layout::state(KEEP_FILE), "").context("cannot mark the cluster as kept")
}

/// Waits until nobody else starts or stops the cluster.
///
/// # Errors
/// When that takes longer than five minutes.
pub fn lock_start() -> Result<File> {
    let file = open(START_LOCK)?;
    let deadline = Instant::now() + LOCK_LIMIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(POLL);
            }
            Err(TryLockError::WouldBlock) => {
                bail!("another process holds {START_LOCK} for {LOCK_LIMIT:?}: end it first");
            }
            Err(TryLockError::Error(error)) => return Err(error).context("cannot lock the cluster"),
        }
    }
}

/// Counts this process among the users for as long as the file is open.
///
/// # Errors
/// When the lock file cannot be opened.
pub fn use_cluster() -> Result<File> {
    let file = open(USERS_LOCK)?;
    file.lock_shared().context("cannot join the users of the cluster")?;
    Ok(file)
}

/// Leaves the watchdog behind.
///
/// # Errors
/// When the `cluster` program is not beside the running one.
pub fn take_down_at_exit() -> Result<()> {
    let mut child = Command::new(cluster_program()?)
        .arg(WATCHDOG)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot start the watchdog of the cluster")?;
    let mut lifeline = LIFELINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    *lifeline = child.stdin.take();
    Ok(())
}

/// What the watchdog does: waits for the end of its parent, then of all other
/// users, then takes the cluster down.
///
/// # Errors
/// When the cluster cannot be taken down.
pub fn watch() -> Result<()> {
    // An error is an end too.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    let users = open(USERS_LOCK)?;
    users.lock().context("cannot wait for the users of the cluster")?;
    if layout::state(KEEP_FILE).exists() {
        return Ok(());
    }
    super::down()
}

/// The program of `e2e/src/bin/cluster.rs`: Cargo puts it beside the programs
/// of the crate and one folder above its tests.
fn cluster_program() -> Result<PathBuf> {
    let own = env::current_exe().context("cannot find the running program")?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("cluster"))
        .find(|candidate| candidate.is_file())
        .context("the program `cluster` is not built: run `cargo build -p e2e --bin cluster`")
}

fn open(path: &str) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {path}"))
}
