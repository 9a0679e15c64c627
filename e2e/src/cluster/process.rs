//! Long-running processes that outlive the one that started them.
//!
//! A started process is written down as its id and its start time, so that a
//! process id that the kernel has given to someone else is never killed.

use std::env;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::{layout, progress};

/// How long a part has to end by itself after SIGTERM.
///
/// The API server would wait a minute for its watches.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// How long the kernel has to remove a killed process.
const KILL_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// A process of ours, told from any later one with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidRecord {
    pub pid: i32,
    /// Clock ticks from boot to the start of the process: field 22 of
    /// `/proc/<pid>/stat` (proc_pid_stat(5)).
    pub start_ticks: u64,
}

impl PidRecord {
    /// The record of a process that runs now; `None` when it does not.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let start_ticks = start_ticks(&stat)?;
        Some(Self { pid, start_ticks })
    }

    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends SIGTERM, then SIGKILL; returns when the process is gone.
    pub fn stop(self) {
        self.signal(Signal::SIGTERM);
        if !self.gone_within(STOP_GRACE) {
            self.kill();
        }
    }

    /// Sends SIGKILL and waits until the process is gone.
    pub fn kill(self) {
        self.signal(Signal::SIGKILL);
        self.gone_within(KILL_LIMIT);
    }

    fn signal(self, signal: Signal) {
        if self.is_alive() {
            // It may end in between; then there is nothing left to signal.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    fn gone_within(self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(POLL);
        }
        true
    }
}

/// Parses `/proc/<pid>/stat`; `None` for a zombie, which runs no longer.
///
/// The second field is the command in parentheses and may hold anything,
/// parentheses included, so fields are counted from the last `)`.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    // State is field 3; the start time is field 22.
    fields.nth(22 - 3 - 1)?.parse().ok()
}

/// Starts `program` in the cluster's network namespace, in a session of its
/// own, with its output appended to the part's log.
///
/// # Errors
/// When the log cannot be opened or the program cannot be started.
pub fn spawn(part: &str, program: &Path, arguments: &[String]) -> Result<PidRecord> {
    let path = layout::log(part);
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let child = Command::new("setsid")
        .arg("nsenter")
        .arg(format!("--net={}", layout::NETNS_PATH))
        .arg(program)
        .args(arguments)
        .env("PATH", search_path())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {part}"))?;
    let pid = i32::try_from(child.id())?;
    // Reaps it, so that a part that ends is not kept as a zombie.
    thread::spawn(move || {
        let mut child = child;
        let _ = child.wait();
    });
    let record = PidRecord::of(pid).with_context(|| format!("{part} ended at once"))?;
    write_record(part, record)?;
    Ok(record)
}

/// `PATH` with the folders of root, which `su` leaves out.
fn search_path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    path
}

/// Stops a part if it runs, and forgets it.
pub fn stop(part: &str) {
    if let Some(record) = read_record(part) {
        record.stop();
    }
    let _ = fs::remove_file(record_path(part));
}

/// Kills a part if it runs, without a chance to say goodbye, and forgets it.
pub fn kill_part(part: &str) {
    if let Some(record) = read_record(part) {
        record.kill();
    }
    let _ = fs::remove_file(record_path(part));
}

/// Whether the part that was started last under this name still runs.
pub fn runs(part: &str) -> bool {
    read_record(part).is_some_and(PidRecord::is_alive)
}

pub fn read_record(part: &str) -> Option<PidRecord> {
    let text = fs::read_to_string(record_path(part)).ok()?;
    serde_json::from_str(&text).ok()
}

/// The names of all parts that were started and not stopped since.
pub fn recorded_parts() -> Vec<String> {
    let Ok(entries) = fs::read_dir(layout::state("pids")) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
        .collect()
}

fn write_record(part: &str, record: PidRecord) -> Result<()> {
    fs::write(record_path(part), serde_json::to_vec(&record)?)
        .with_context(|| format!("cannot record the process of {part}"))
}

fn record_path(part: &str) -> PathBuf {
    layout::state(&format!("pids/{part}.json"))
}

/// Kills the first process of a container of containerd.
///
/// # Errors
/// When containerd knows no such container.
pub fn kill_container(id: &str) -> Result<()> {
    let path = format!("{}/containerd/io.containerd.runtime.v2.task/k8s.io/{id}/init.pid", layout::RUN);
    let text = fs::read_to_string(&path).with_context(|| format!("there is no container {id}"))?;
    let pid = text.trim().parse().with_context(|| format!("no process id in {path}"))?;
    if let Some(record) = PidRecord::of(pid) {
        record.signal(Signal::SIGKILL);
    }
    Ok(())
}

/// Waits for a long command and says now and then that it still runs.
///
/// # Errors
/// When the command cannot be waited for.
pub fn wait_with_progress(mut child: Child, what: &str) -> Result<ExitStatus> {
    let started = Instant::now();
    let mut reported = started;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if reported.elapsed() > PROGRESS_INTERVAL {
            reported = Instant::now();
            progress(&format!("still {what}, {} s", started.elapsed().as_secs()));
        }
        thread::sleep(POLL);
    }
}

/// Runs a short command to its end.
///
/// # Errors
/// When it cannot be started or fails; the message holds what it printed.
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs a short command to its end and returns what it printed.
///
/// # Errors
/// As [`run`].
pub fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {shown}"))?;
    if !output.status.success() {
        let printed = String::from_utf8_lossy(&output.stderr);
        bail!("{shown} failed ({}): {}", output.status, printed.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_stat(command: &str, state: &str) -> String {
        let middle = (4..22).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        format!("77 ({command}) {state} {middle} 4242 23 24")
    }

    #[test]
    fn start_time_is_field_22_whatever_the_command_is_called() {
        assert_eq!(start_ticks(&mk_stat("etcd", "S")), Some(4242));
        assert_eq!(start_ticks(&mk_stat("a) S (b c", "R")), Some(4242));
    }

    #[test]
    fn a_zombie_does_not_run() {
        assert_eq!(start_ticks(&mk_stat("etcd", "Z")), None);
    }

    #[test]
    fn a_reused_process_id_is_not_ours() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = PidRecord::of(pid).unwrap();
        assert!(own.is_alive());
        let earlier = PidRecord { start_ticks: own.start_ticks - 1, ..own };
        assert!(!earlier.is_alive());
    }
}
