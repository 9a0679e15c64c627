//! Which processes make up the cluster, with which arguments. Pure.

use std::path::PathBuf;

use super::layout::{self, NODE_ADDRESS, NODE_NAME, SERVICE_NETWORK, STATE};

/// One process of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Etcd,
    Containerd,
    ApiServer,
    ControllerManager,
    Scheduler,
    Kubelet,
    KubeProxy,
    CoreDns,
    /// Tells Prometheus which pods to scrape.
    PodTargets,
    Prometheus,
}

impl Part {
    /// All parts in the order in which they are started.
    pub const ALL: [Self; 10] = [
        Self::Etcd,
        Self::Containerd,
        Self::ApiServer,
        Self::ControllerManager,
        Self::Scheduler,
        Self::Kubelet,
        Self::KubeProxy,
        Self::CoreDns,
        Self::PodTargets,
        Self::Prometheus,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Containerd => "containerd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
            Self::CoreDns => "coredns",
            Self::PodTargets => "pod-targets",
            Self::Prometheus => "prometheus",
        }
    }

    pub fn program(self) -> PathBuf {
        match self {
            Self::Containerd | Self::Prometheus => PathBuf::from(self.name()),
            Self::Etcd
            | Self::ApiServer
            | Self::ControllerManager
            | Self::Scheduler
            | Self::Kubelet
            | Self::KubeProxy
            | Self::CoreDns
            | Self::PodTargets => layout::binary(self.name()),
        }
    }

    pub fn arguments(self) -> Vec<String> {
        match self {
            Self::Etcd => etcd(),
            Self::Containerd => vec![format!("--config={STATE}/conf/containerd.toml")],
            Self::ApiServer => api_server(),
            Self::ControllerManager => controller_manager(),
            Self::Scheduler => client_flags("kube-scheduler"),
            Self::Kubelet => kubelet(),
            Self::KubeProxy => vec![format!("--config={STATE}/conf/kube-proxy.yaml")],
            Self::CoreDns => vec!["-conf".to_owned(), format!("{STATE}/conf/Corefile")],
            Self::PodTargets => vec![
                format!("--kubeconfig={STATE}/conf/prometheus.kubeconfig"),
                format!("--file={STATE}/conf/pod-targets.json"),
            ],
            Self::Prometheus => prometheus(),
        }
    }
}

/// Without fsync: the data need not outlive the machine.
fn etcd() -> Vec<String> {
    vec![
        format!("--data-dir={STATE}/etcd"),
        "--unsafe-no-fsync".to_owned(),
        "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
        "--advertise-client-urls=http://127.0.0.1:2379".to_owned(),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

fn api_server() -> Vec<String> {
    vec![
        "--etcd-servers=http://127.0.0.1:2379".to_owned(),
        format!("--bind-address={NODE_ADDRESS}"),
        format!("--advertise-address={NODE_ADDRESS}"),
        "--secure-port=6443".to_owned(),
        format!("--service-cluster-ip-range={SERVICE_NETWORK}"),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged".to_owned(),
        format!("--client-ca-file={STATE}/pki/ca.crt"),
        format!("--tls-cert-file={STATE}/pki/apiserver.crt"),
        format!("--tls-private-key-file={STATE}/pki/apiserver.key"),
        format!("--kubelet-client-certificate={STATE}/pki/apiserver-kubelet-client.crt"),
        format!("--kubelet-client-key={STATE}/pki/apiserver-kubelet-client.key"),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--service-account-key-file={STATE}/pki/sa.pub"),
        format!("--service-account-signing-key-file={STATE}/pki/sa.key"),
        format!("--audit-policy-file={STATE}/conf/audit-policy.yaml"),
        format!("--audit-log-path={}", layout::audit_log().display()),
        // Never rotated: bars count requests from an offset on.
        "--audit-log-maxsize=0".to_owned(),
    ]
}

fn controller_manager() -> Vec<String> {
    let mut arguments = client_flags("kube-controller-manager");
    arguments.extend([
        format!("--root-ca-file={STATE}/pki/ca.crt"),
        format!("--service-account-private-key-file={STATE}/pki/sa.key"),
        "--use-service-account-credentials".to_owned(),
        format!("--cluster-signing-cert-file={STATE}/pki/ca.crt"),
        format!("--cluster-signing-key-file={STATE}/pki/ca.key"),
    ]);
    arguments
}

/// What controller manager and scheduler have in common; there is one of
/// each, so nobody needs to be elected.
fn client_flags(part: &str) -> Vec<String> {
    let kubeconfig = format!("{STATE}/conf/{part}.kubeconfig");
    vec![
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--leader-elect=false".to_owned(),
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=400".to_owned(),
    ]
}

fn kubelet() -> Vec<String> {
    vec![
        format!("--config={STATE}/conf/kubelet.yaml"),
        format!("--kubeconfig={STATE}/conf/kubelet.kubeconfig"),
        format!("--root-dir={STATE}/kubelet"),
        format!("--cert-dir={STATE}/kubelet/pki"),
        format!("--hostname-override={NODE_NAME}"),
        format!("--node-ip={NODE_ADDRESS}"),
    ]
}

fn prometheus() -> Vec<String> {
    vec![
        format!("--config.file={STATE}/conf/prometheus.yaml"),
        format!("--storage.tsdb.path={STATE}/prometheus"),
        "--storage.tsdb.retention.time=1d".to_owned(),
        "--web.listen-address=0.0.0.0:9090".to_owned(),
        "--enable-feature=exemplar-storage".to_owned(),
        "--log.level=warn".to_owned(),
    ]
}
