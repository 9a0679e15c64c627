//! Where the local cluster lives on this machine: paths, names and addresses.
//!
//! Constants only. Everything on disk is below [`STATE`] or [`RUN`], so that
//! tearing down is removing two folders; sockets are in [`RUN`] because a
//! socket's path may have 107 bytes at most. Addresses are from 198.18.0.0/15,
//! the benchmarking range (RFC 2544), which no real network routes.

use std::path::PathBuf;

/// Everything that may be removed by `down`, except sockets.
pub const STATE: &str = "/var/lib/sluice-e2e";
/// Sockets and what containerd calls its state.
pub const RUN: &str = "/run/sluice-e2e";
/// Held exclusively while a process starts or stops the cluster.
pub const START_LOCK: &str = "/run/sluice-e2e.start.lock";
/// Held shared by every process that uses the cluster.
pub const USERS_LOCK: &str = "/run/sluice-e2e.users.lock";

pub const NETNS: &str = "sluice";
pub const NETNS_PATH: &str = "/run/netns/sluice";
pub const NODE_NAME: &str = "sluice";
pub const NODE_DEVICE: &str = "node0";

/// The node's address: API server, CoreDNS and Prometheus listen on it.
pub const NODE_ADDRESS: &str = "198.18.0.1";
pub const NODE_NETWORK: &str = "198.18.0.1/24";
pub const POD_NETWORK: &str = "198.18.64.0/18";
pub const SERVICE_NETWORK: &str = "198.19.0.0/16";
/// The `kubernetes` Service: the first address of [`SERVICE_NETWORK`].
pub const API_SERVICE_ADDRESS: &str = "198.19.0.1";
pub const API_SERVER: &str = "https://198.18.0.1:6443";
/// Prometheus as seen from the network namespace.
pub const PROMETHEUS: &str = "http://198.18.0.1:9090";

pub const PAUSE_IMAGE: &str = "sluice.dev/pause:dev";
pub const CONTAINERD_SOCKET: &str = "/run/sluice-e2e/containerd.sock";
/// The parts of the multi-call binary `sluice-cluster`.
pub const PARTS: [&str; 9] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
    "coredns",
    "pod-targets",
];

/// A path below [`STATE`].
pub fn state(relative: &str) -> PathBuf {
    PathBuf::from(STATE).join(relative)
}

/// The administrator's kubeconfig.
pub fn kubeconfig() -> PathBuf {
    state("kubeconfig")
}

/// The API server's audit log: JSON lines.
pub fn audit_log() -> PathBuf {
    state("logs/audit.jsonl")
}

/// The log of one part.
pub fn log(part: &str) -> PathBuf {
    state(&format!("logs/{part}.log"))
}

/// A part's binary: a link to the multi-call binary.
pub fn binary(part: &str) -> PathBuf {
    state(&format!("bin/{part}"))
}
