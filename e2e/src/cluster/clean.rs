//! Removes everything a cluster leaves on the machine, of a killed run too.
//!
//! Nothing is ended by name: processes are those recorded, those that name our
//! containerd socket (shims), and those that runc lists below our own folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::layout::{self, CONTAINERD_SOCKET, RUN, STATE};
use super::process::{self, PidRecord, run};

/// Stops all processes and containers and removes all mounts, cgroups and
/// files. The network namespace stays.
pub(super) fn everything() {
    // Kubelet first, so that it restarts nothing; then the containers.
    for part in ["kubelet", "kube-proxy", "prometheus", "coredns"] {
        process::kill_part(part);
    }
    containers();
    for part in process::recorded_parts() {
        process::kill_part(&part);
    }
    shims();
    unmount_all();
    cgroups();
    remove_folder(RUN);
    remove_folder(STATE);
}

/// Kills every container that runc knows below our folder.
fn containers() {
    let root = format!("{RUN}/runc/k8s.io");
    let Ok(entries) = fs::read_dir(&root) else {
        return;
    };
    for id in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let _ = run(Command::new("runc").args(["--root", &root, "delete", "--force", &id]));
    }
}

/// Kills the shims, which name our socket on their command line.
fn shims() {
    let Ok(entries) = fs::read_dir("/proc") else {
        return;
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    for pid in pids.filter(|pid| is_our_shim(*pid)) {
        if let Some(record) = PidRecord::of(pid) {
            record.kill();
        }
    }
}

fn is_our_shim(pid: i32) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    let mut arguments = line.split(|byte| *byte == 0);
    let program = arguments.next().unwrap_or_default();
    program.windows(b"containerd-shim".len()).any(|part| part == b"containerd-shim")
        && arguments.any(|argument| argument == CONTAINERD_SOCKET.as_bytes())
}

/// Unmounts everything below our folders, the innermost first.
fn unmount_all() {
    let Ok(table) = fs::read_to_string("/proc/self/mountinfo") else {
        return;
    };
    for point in mount_points(&table) {
        let _ = run(Command::new("umount").args(["--lazy", &point]));
    }
}

/// The mount points below our folders, in reverse order of mounting. Field 5
/// of a line is the mount point (proc_pid_mountinfo(5)).
fn mount_points(table: &str) -> Vec<String> {
    let ours = |point: &&str| [STATE, RUN].iter().any(|folder| Path::new(point).starts_with(folder));
    let mut points: Vec<_> =
        table.lines().filter_map(|line| line.split(' ').nth(4)).filter(ours).map(str::to_owned).collect();
    points.reverse();
    points
}

/// Removes the kubelet's cgroups, in every hierarchy; one that still holds a
/// process cannot be removed and is not ours.
fn cgroups() {
    let base = Path::new("/sys/fs/cgroup");
    remove_cgroup(&base.join("kubepods"));
    let Ok(hierarchies) = fs::read_dir(base) else {
        return;
    };
    for hierarchy in hierarchies.flatten() {
        remove_cgroup(&hierarchy.path().join("kubepods"));
        remove_cgroup(&hierarchy.path().join("k8s.io"));
    }
}

fn remove_cgroup(path: &Path) {
    let Ok(entries) = fs::read_dir(path) else {
        return;
    };
    let children: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    for child in children.iter().filter(|child| child.is_dir()) {
        remove_cgroup(child);
    }
    let _ = fs::remove_dir(path);
}

/// Only after [`unmount_all`]: nothing of another file system is below it.
fn remove_folder(folder: &str) {
    let mounted = fs::read_to_string("/proc/self/mountinfo").map(|table| mount_points(&table));
    if mounted.is_ok_and(|points| !points.iter().any(|point| Path::new(point).starts_with(folder))) {
        let _ = fs::remove_dir_all(folder);
    }
}

/// Whether an earlier cluster left anything.
pub(super) fn is_needed() -> bool {
    Path::new(STATE).exists() || Path::new(layout::RUN).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_mounts_come_before_outer_ones_and_others_are_left_alone() {
        let table = "\
22 1 8:1 / / rw - ext4 /dev/vda rw
30 22 0:40 / /var/lib/sluice-e2e/kubelet/pods/a rw - tmpfs tmpfs rw
31 30 0:41 / /var/lib/sluice-e2e/kubelet/pods/a/b rw - tmpfs tmpfs rw
32 22 0:42 / /var/lib/sluice-e2e-other rw - tmpfs tmpfs rw
";
        let expected = ["/var/lib/sluice-e2e/kubelet/pods/a/b", "/var/lib/sluice-e2e/kubelet/pods/a"];
        assert_eq!(mount_points(table), expected);
    }
}
