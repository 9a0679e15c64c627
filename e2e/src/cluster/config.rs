//! The configuration file of every part, as text. Pure.

use super::layout::{API_SERVER, CONTAINERD_SOCKET, NODE_ADDRESS, PAUSE_IMAGE, POD_NETWORK, RUN, STATE};

/// Every file to write, by its path below the state folder.
pub(super) fn files() -> [(&'static str, String); 7] {
    [
        ("conf/audit-policy.yaml", AUDIT_POLICY.to_owned()),
        ("conf/containerd.toml", containerd()),
        ("cni/10-sluice.conflist", cni()),
        ("conf/kubelet.yaml", kubelet()),
        ("conf/kube-proxy.yaml", kube_proxy()),
        ("conf/Corefile", corefile()),
        ("conf/prometheus.yaml", prometheus()),
    ]
}

/// One line per finished request: who, what, and with which outcome.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted, Panic]
rules:
- level: Metadata
";

/// `restrict_oom_score_adj`: without CAP_SYS_RESOURCE no container starts
/// otherwise. Network namespaces and runc's state stay below [`RUN`], where
/// they cannot be confused with those of another containerd.
fn containerd() -> String {
    format!(
        r#"version = 2
root = "{STATE}/containerd/root"
state = "{RUN}/containerd"
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{STATE}/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{STATE}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        Root = "{RUN}/runc"
        SystemdCgroup = false
"#
    )
}

/// `ptp` routes every packet through the node, so a Service's addresses are
/// translated in both directions without br_netfilter.
fn cni() -> String {
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "sluice", "plugins": [
  {{"type": "ptp", "ipMasq": false, "ipam": {{"type": "host-local", "dataDir": "{RUN}/ipam",
    "ranges": [[{{"subnet": "{POD_NETWORK}"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}
"#
    )
}

fn kubelet() -> String {
    format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
failSwapOn: false
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: {STATE}/pki/ca.crt}}}}
authorization: {{mode: Webhook}}
clusterDomain: cluster.local
clusterDNS: ["{NODE_ADDRESS}"]
resolvConf: ""
containerRuntimeEndpoint: unix://{CONTAINERD_SOCKET}
evictionHard: {{memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
maxPods: 250
serializeImagePulls: false
enforceNodeAllocatable: []
makeIPTablesUtilChains: false
eventRecordQPS: 0
kubeAPIQPS: 200
kubeAPIBurst: 400
podLogsDir: {STATE}/pod-logs
volumePluginDir: {STATE}/volume-plugins
"#
    )
}

fn kube_proxy() -> String {
    format!(
        r#"apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
bindAddress: {NODE_ADDRESS}
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
clusterCIDR: {POD_NETWORK}
detectLocalMode: ClusterCIDR
hostnameOverride: sluice
conntrack: {{maxPerCore: 0, min: 0}}
clientConnection: {{kubeconfig: {STATE}/conf/kube-proxy.kubeconfig}}
"#
    )
}

fn corefile() -> String {
    format!(
        r#".:53 {{
    bind {NODE_ADDRESS}
    errors
    health 127.0.0.1:8053
    ready 127.0.0.1:8054
    kubernetes cluster.local in-addr.arpa {{
        endpoint {API_SERVER}
        kubeconfig {STATE}/conf/coredns.kubeconfig sluice
        ttl 5
    }}
    cache 5
    loadbalance
}}
"#
    )
}

/// Scrapes the pods of the file that the part `pod-targets` writes.
fn prometheus() -> String {
    format!(
        r#"global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
scrape_configs:
- job_name: pods
  file_sd_configs:
  - files: ["{STATE}/conf/pod-targets.json"]
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json_files_parse() {
        for (path, text) in files() {
            if path.ends_with(".yaml") || path.ends_with(".conflist") {
                let parsed: Result<serde_yaml_ng::Value, _> = serde_yaml_ng::from_str(&text);
                assert!(parsed.is_ok(), "{path}: {parsed:?}");
            }
        }
    }
}
