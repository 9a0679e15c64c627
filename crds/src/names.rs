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

/// Headless Service by which proxies find every operator replica.
pub const OPERATOR_SERVICE: &str = "sluice-operator";
/// Namespace of the operator, as the chart installs it.
pub const SYSTEM_NAMESPACE: &str = "sluice-system";
/// Lease of the leader.
pub const LEASE: &str = "sluice-operator";
