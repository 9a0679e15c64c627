//! What runs in a pool: the pod, which meets the *restricted* Pod Security Standard (fixed high user, no privileges, read-only
//! root, no token of the API server); only a projected token with our audience says who a proxy is.

use std::collections::BTreeMap;

use crds::{
    ProxyPool,
    names::POOL_NAME,
    proxy_pool::{AccessLog, AccessLogMode, Tracing},
};
use k8s_openapi::{
    api::core::v1::{
        Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource,
        HTTPGetAction, ObjectFieldSelector, PodSecurityContext, PodSpec, Probe, ProjectedVolumeSource,
        ResourceRequirements, SeccompProfile, SecurityContext, ServiceAccountTokenProjection, TopologySpreadConstraint,
        Volume, VolumeMount, VolumeProjection,
    },
    apimachinery::pkg::{api::resource::Quantity, util::intstr::IntOrString},
};
use proxy_api::{PROXY_ADMIN_PORT, TOKEN_AUDIENCE};

use super::{CA_CONFIG_MAP, CA_KEY, selector};
use crate::{pool::PoolSettings, zones};

const CA_FOLDER: &str = "/etc/sluice/ca";
const TOKEN_FOLDER: &str = "/var/run/secrets/sluice";
const TOKEN_FILE: &str = "token";
const STATE_FOLDER: &str = "/var/lib/sluice";
/// The user of our images, and of distroless ones.
const USER: i64 = 65_532;
/// Longer than the proxy's own drain: 5 s of delay, 25 s of deadline (`--drain-delay`, `--drain-deadline`).
const TERMINATION_GRACE_S: i64 = 40;
/// The kubelet renews a projected token at 80 % of its life.
const TOKEN_LIFE_S: i64 = 3_600;

/// The pod of `pool`.
pub(super) fn pod(pool: &ProxyPool, settings: &PoolSettings) -> PodSpec {
    let spread = |key: &str| TopologySpreadConstraint {
        label_selector: Some(selector()),
        max_skew: 1,
        topology_key: key.to_owned(),
        // A single node, or a single zone, must not keep the pool from starting.
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        ..TopologySpreadConstraint::default()
    };
    PodSpec {
        service_account_name: Some(POOL_NAME.to_owned()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(TERMINATION_GRACE_S),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
            ..PodSecurityContext::default()
        }),
        topology_spread_constraints: Some(vec![spread("kubernetes.io/hostname"), spread(zones::LABEL)]),
        containers: vec![container(pool, settings)],
        volumes: Some(volumes()),
        ..PodSpec::default()
    }
}

fn container(pool: &ProxyPool, settings: &PoolSettings) -> Container {
    let mut args = vec![
        format!("--operator={}", settings.operator),
        format!("--ca={CA_FOLDER}/{CA_KEY}"),
        format!("--token={TOKEN_FOLDER}/{TOKEN_FILE}"),
        format!("--state-dir={STATE_FOLDER}"),
    ];
    args.extend(pool.spec.workers.map(|workers| format!("--workers={workers}")));
    args.extend(pool.spec.access_log.as_ref().and_then(access_log));
    if let Some(Tracing { endpoint, sampling_ratio }) = &pool.spec.tracing {
        args.push(format!("--tracing-endpoint={endpoint}"));
        args.push(format!("--tracing-ratio={sampling_ratio}"));
    }
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    Container {
        name: "proxy".to_owned(),
        image: Some(settings.image.clone()),
        image_pull_policy: settings.image_pull_policy.clone(),
        args: Some(args),
        env: Some(environment(pool)),
        ports: Some(vec![ContainerPort {
            name: Some("admin".to_owned()),
            container_port: i32::from(PROXY_ADMIN_PORT),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        resources: Some(pool.spec.resources.clone().unwrap_or_else(default_resources)),
        liveness_probe: Some(probe("/livez", 10, 5, 6)),
        readiness_probe: Some(probe("/readyz", 1, 3, 3)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![
            mount("ca", CA_FOLDER, true),
            mount("token", TOKEN_FOLDER, true),
            mount("state", STATE_FOLDER, false),
        ]),
        ..Container::default()
    }
}

fn access_log(AccessLog { mode, ratio }: &AccessLog) -> Option<String> {
    match (mode, ratio) {
        (AccessLogMode::Off, _) | (AccessLogMode::Sampled, None) => None,
        (AccessLogMode::Errors, _) => Some("--access-log=errors".to_owned()),
        (AccessLogMode::Sampled, Some(ratio)) => Some(format!("--access-log={ratio}")),
    }
}

fn environment(pool: &ProxyPool) -> Vec<EnvVar> {
    let field = |name: &str, path: &str| EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { api_version: Some("v1".to_owned()), field_path: path.to_owned() }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    let mut variables = vec![
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        // Empty where the node has none.
        field("POD_ZONE", &format!("metadata.labels['{}']", zones::LABEL)),
    ];
    variables.extend(pool.spec.log_level.as_ref().map(|level| EnvVar {
        name: "RUST_LOG".to_owned(),
        value: Some(level.clone()),
        ..EnvVar::default()
    }));
    variables
}

/// No CPU limit: a throttled proxy adds latency to every request. The memory limit bounds a leak, not the load.
fn default_resources() -> ResourceRequirements {
    let quantity = |name: &str, value: &str| (name.to_owned(), Quantity(value.to_owned()));
    ResourceRequirements {
        requests: Some(BTreeMap::from([quantity("cpu", "100m"), quantity("memory", "64Mi")])),
        limits: Some(BTreeMap::from([quantity("memory", "512Mi")])),
        ..ResourceRequirements::default()
    }
}

fn probe(path: &str, period_s: i32, timeout_s: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(i32::from(PROXY_ADMIN_PORT)),
            scheme: Some("HTTP".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_s),
        timeout_seconds: Some(timeout_s),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn volumes() -> Vec<Volume> {
    let token = ServiceAccountTokenProjection {
        audience: Some(TOKEN_AUDIENCE.to_owned()),
        expiration_seconds: Some(TOKEN_LIFE_S),
        path: TOKEN_FILE.to_owned(),
    };
    vec![
        Volume {
            name: "ca".to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: CA_CONFIG_MAP.to_owned(),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        Volume {
            name: "token".to_owned(),
            projected: Some(ProjectedVolumeSource {
                sources: Some(vec![VolumeProjection {
                    service_account_token: Some(token),
                    ..VolumeProjection::default()
                }]),
                ..ProjectedVolumeSource::default()
            }),
            ..Volume::default()
        },
        Volume { name: "state".to_owned(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() },
    ]
}
