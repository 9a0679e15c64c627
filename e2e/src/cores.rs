//! Who runs on which cores: a benchmark gives what it measures cores of its own.

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Keeps the calling thread, and those that it starts, on `cores`.
///
/// # Errors
/// When it may not run there.
pub fn stay_on(cores: impl IntoIterator<Item = usize>) -> Result<()> {
    keep_on(0, cores)
}

/// Keeps a thread, 0 for the calling one, on `cores`.
pub(crate) fn keep_on(thread: i32, cores: impl IntoIterator<Item = usize>) -> Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(core)?;
    }
    sched_setaffinity(Pid::from_raw(thread), &set).context("cannot choose the cores of a thread")
}
