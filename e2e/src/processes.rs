//! Processes of pods, found and killed from the node: what a crash or the kernel's OOM killer does to them.
//!
//! Only programs of our images are looked for, by the entry point that nothing else on a machine has.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::SOON;

/// Processes whose entry point is `program`. Those of another containerd on this machine have their cgroup elsewhere, but
/// never such a name.
///
/// # Errors
/// When processes cannot be listed.
pub fn of_program(program: &str) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("cannot list processes")? {
        let Some(pid) = entry.ok().and_then(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) else { continue };
        if words(pid, "cmdline").first().is_some_and(|first| first == program) {
            found.push(Pid::from_raw(pid));
        }
    }
    Ok(found)
}

/// Kills the process `program` of the pod `pod` with SIGKILL, and returns when nothing of it is left.
///
/// # Errors
/// When there is no such process, or it is still there after [`SOON`].
pub async fn kill_in_pod(program: &str, pod: &str) -> Result<()> {
    let variable = format!("POD_NAME={pod}");
    let is_its = |pid: &&Pid| words(pid.as_raw(), "environ").contains(&variable);
    let pid = *of_program(program)?.iter().find(is_its).with_context(|| format!("pod {pod} has no {program}"))?;
    kill(pid, Signal::SIGKILL).with_context(|| format!("cannot kill {program} of pod {pod}"))?;
    let deadline = Instant::now() + SOON;
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    // Its sockets close with its last thread; it is taken from the list after that.
    while std::path::Path::new(&format!("/proc/{pid}")).exists() {
        ensure!(Instant::now() < deadline, "{program} of pod {pod} outlives SIGKILL");
        tick.tick().await;
    }
    Ok(())
}

/// A file of `/proc/<pid>` whose words end with a zero byte; empty for a process that is gone.
fn words(pid: i32, file: &str) -> Vec<String> {
    let text = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    text.split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|w| String::from_utf8_lossy(w).into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_its_first_word() {
        let own = words(i32::try_from(std::process::id()).unwrap(), "cmdline");
        let found = of_program(own.first().unwrap()).unwrap();
        assert!(found.contains(&Pid::this()), "{found:?}");
        assert!(of_program("/no/such/program").unwrap().is_empty());
    }
}
