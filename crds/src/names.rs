//! Names, labels and annotations that operator, proxies, chart, policies and tests must spell alike.

/// Field manager of every write of the operator to objects that it owns.
pub const FIELD_MANAGER: &str = "sluice-operator";
/// Finalizer of a Canary: routes and holds are taken back before it goes.
pub const FINALIZER: &str = "sluice.dev/finalizer";

/// The ConfigMap in each managed namespace that the admission policies read (the admission table).
pub const TABLE: &str = "sluice-table";
/// Key of the table: the Deployment is held; the value is the Canary's name. `held.<deployment>`.
pub const TABLE_HELD_PREFIX: &str = "held.";
/// Key of the table: `route.<service>.<port>.<protocol>`; the value is the pool's listening port.
pub const TABLE_ROUTE_PREFIX: &str = "route.";

/// Policy and binding that hold a Deployment whose template changes.
pub const HOLD_POLICY: &str = "sluice-hold";
/// Policy and binding that route a Service to the pool.
pub const ROUTE_POLICY: &str = "sluice-route";

/// Label of every proxy pod, and the selector that the route policy gives to a routed Service.
pub const POOL_LABEL: &str = "sluice.dev/pool";
/// Value of [`POOL_LABEL`], name of the ProxyPool that the operator creates.
pub const POOL_DEFAULT: &str = "default";
/// Name of the pool's Deployment, ServiceAccount and PodDisruptionBudget in a namespace.
pub const POOL_NAME: &str = "sluice-proxy";

/// Label on everything that the operator makes for a Canary; the value is the Canary's name.
pub const CANARY_LABEL: &str = "sluice.dev/canary";
/// Label on the `-primary` and `-canary` Services (and so on their EndpointSlices): `stable` or `canary`.
pub const ARM_LABEL: &str = "sluice.dev/arm";
/// Label of Kubernetes that tells the ReplicaSets of a Deployment apart.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// On a Deployment, written by a user: `off` lets template changes through unheld.
pub const ANNOTATION_HOLD: &str = "sluice.dev/hold";
/// On a Deployment, written by the hold policy with `spec.paused`: the pause is a hold, not the manifest's own.
pub const ANNOTATION_HELD: &str = "sluice.dev/held";
/// On a Service, written by the route policy: the selector that was asked for, `key=value` joined by `,`.
pub const ANNOTATION_SELECTOR: &str = "sluice.dev/selector";
/// On a Service, written by the route policy: the target ports that were asked for, `<port>/<protocol>=<targetPort>`
/// joined by `,`.
pub const ANNOTATION_TARGET_PORTS: &str = "sluice.dev/target-ports";
/// On a Canary, written by a user: promote this revision now (value: the canary revision, as in the status).
pub const ANNOTATION_PROMOTE: &str = "sluice.dev/promote";
/// On a Canary, written by a user: roll this revision back.
pub const ANNOTATION_ABORT: &str = "sluice.dev/abort";
/// On a Canary, written by a user: hold this revision at its weight until the annotation is removed.
pub const ANNOTATION_PAUSE: &str = "sluice.dev/pause";
/// On a Canary, written by a user: try this failed revision once more.
pub const ANNOTATION_RETRY: &str = "sluice.dev/retry";
/// On a Canary, written by the uninstall hook: nobody will hold the target after this, so it must not stay paused.
pub const ANNOTATION_UNINSTALL: &str = "sluice.dev/uninstall";
/// On a pod template, written by `kubectl rollout restart`.
pub const ANNOTATION_RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
/// On a ReplicaSet, read by the Deployment controller when it decides whether a set is saturated.
pub const ANNOTATION_DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// On a ReplicaSet, read by the Deployment controller when it scales proportionally.
pub const ANNOTATION_MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

/// Suffix of the Service that selects the stable pods.
pub const PRIMARY_SUFFIX: &str = "-primary";
/// Suffix of the Service that selects the canary pods.
pub const CANARY_SUFFIX: &str = "-canary";

/// Longest label value and longest name of a Service (RFC 1123 label, Kubernetes "Object Names and IDs").
pub const LABEL_MAX: usize = 63;
/// Longest name of a target: its ReplicaSets are named `<target>-<hash>`, the hash has at most 10 characters, and an
/// object's name at most 253.
pub const TARGET_NAME_MAX: u32 = 242;

/// Name of the Service of one arm: `<service><suffix>`. Where that is longer than a Service's name may be, the middle
/// gives way to a hash of the whole, so that two long names with one beginning stay apart.
#[must_use]
pub fn arm_service(service: &str, suffix: &str) -> String {
    if service.len() + suffix.len() <= LABEL_MAX {
        return format!("{service}{suffix}");
    }
    let hash = format!("{:08x}", fnv1a(service));
    let room = LABEL_MAX.saturating_sub(suffix.len() + hash.len() + 1);
    let beginning: String = service.chars().take(room).collect();
    format!("{}-{hash}{suffix}", beginning.trim_end_matches('-'))
}

/// FNV-1a, 32 bits: stable for ever, which the standard library's hashers do not promise.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Headless Service by which proxies find every operator replica.
pub const OPERATOR_SERVICE: &str = "sluice-operator";
/// Namespace of the operator, as the chart installs it.
pub const SYSTEM_NAMESPACE: &str = "sluice-system";
/// Lease of the leader.
pub const LEASE: &str = "sluice-operator";

#[cfg(test)]
mod tests {
    use super::*;

    /// A Service's name of `length` characters that begins with `start`.
    fn mk_name(start: &str, length: usize) -> String {
        let name = format!("{start}{}", "x".repeat(length - start.len()));
        assert_eq!(name.len(), length);
        name
    }

    #[test]
    fn names_that_fit_are_not_touched() {
        assert_eq!(arm_service("web", PRIMARY_SUFFIX), "web-primary");
        let longest = mk_name("web", LABEL_MAX - PRIMARY_SUFFIX.len());
        assert_eq!(longest.len(), 55);
        assert_eq!(arm_service(&longest, PRIMARY_SUFFIX), format!("{longest}-primary"));
    }

    #[test]
    fn longer_names_are_cut_and_stay_apart() {
        for length in [52, 55, 56, 57, 62, 63] {
            let service = mk_name("web", length);
            let names = [PRIMARY_SUFFIX, CANARY_SUFFIX].map(|suffix| arm_service(&service, suffix));
            for (name, suffix) in names.iter().zip([PRIMARY_SUFFIX, CANARY_SUFFIX]) {
                assert!(name.len() <= LABEL_MAX && name.ends_with(suffix) && name.starts_with("webx"), "{name}");
                assert_ne!(*name, service);
            }
            assert_ne!(names[0], names[1]);
        }
        let (one, other) = (format!("{}a", mk_name("web", 62)), format!("{}b", mk_name("web", 62)));
        assert_ne!(arm_service(&one, PRIMARY_SUFFIX), arm_service(&other, PRIMARY_SUFFIX));
        // As it was given out once, so it stays.
        assert_eq!(
            arm_service(&one, PRIMARY_SUFFIX),
            "webxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-8417b306-primary"
        );
    }

    #[test]
    fn a_cut_does_not_leave_two_hyphens() {
        let service = format!("{}--------{}", "a".repeat(40), "b".repeat(15));
        let name = arm_service(&service, PRIMARY_SUFFIX);
        assert!(name.len() <= LABEL_MAX && !name.contains("--"), "{name}");
    }
}
