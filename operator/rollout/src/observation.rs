//! What was seen in one pass. Each reading says explicitly when there is none.

use crate::{
    reason::{Failure, Reason},
    state::Revision,
    verdict::Advance,
};

/// One pass's view of the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The Canary has a deletion timestamp.
    pub deleting: bool,
    /// Pool, routes, admission.
    pub setup: Setup,
    /// The Deployment.
    pub target: Target,
    /// The ReplicaSet of the revision under test (`State::canary`), if there is one.
    pub canary: Option<CanarySet>,
    /// What the proxies hold.
    pub route: Route,
    /// The measurement, if one was due and made.
    pub check: Check,
    /// What the verdict says of the weight in force.
    pub judgement: Judgement,
    /// What people ask for.
    pub verbs: Verbs,
}

/// Whether traffic can be steered and template changes are held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setup {
    /// Pool, route, Service and hold are in force.
    Ready,
    /// Not yet; the sentence says what is missing.
    Pending(String),
    /// A person has to act; the sentence says how.
    Refused(String),
}

/// The Deployment that `targetRef` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// There is none.
    Missing,
    /// As read.
    Present(TargetView),
}

/// The Deployment as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetView {
    /// UID of the object: another one means deleted and created anew.
    pub uid: String,
    /// The template, compared with the ReplicaSets.
    pub template: Template,
    /// Who paused it.
    pub paused: Paused,
    /// Replicas that it asks for.
    pub replicas: u32,
    /// Pods that its strategy allows to be missing (resolved `maxUnavailable`).
    pub max_unavailable: u32,
    /// Its own rollout.
    pub native: Native,
    /// Pods of every ReplicaSet other than the one under test.
    pub other_pods: u32,
}

/// The Deployment's template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Its revision: the hash of the ReplicaSet with an equal template, else the hash that ours would carry.
    pub revision: Revision,
    /// It differs from the stable one by nothing but `kubectl.kubernetes.io/restartedAt`.
    pub restart_only: bool,
}

/// Whether and by whom the Deployment is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Paused {
    /// It is not.
    No,
    /// By the admission policy: no field manager owns `paused`.
    Held,
    /// By a manifest, which keeps the last word.
    ByManifest,
}

/// Where the Deployment's own rollout stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Native {
    /// One ReplicaSet has all pods, up to date and available (or it is the only one with pods while paused).
    Settled(Revision),
    /// Pods are moving, or the controller has not looked yet.
    Moving,
    /// Paused with pods of more than one ReplicaSet.
    Torn,
}

/// The ReplicaSet of the revision under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanarySet {
    /// Replicas it asks for.
    pub desired: u32,
    /// Pods that exist.
    pub pods: u32,
    /// Pods available to take traffic.
    pub available: u32,
    /// No longer the Canary's: adopted by the Deployment, or about to be.
    pub adopted: bool,
    /// What keeps its pods from becoming available, if the kubelet or the scheduler says so.
    pub trouble: Option<String>,
}

/// What the proxies hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Every live proxy of the pool has acknowledged `State::counter`, and there is at least one.
    pub acknowledged: bool,
    /// Ready pods of the revision under test that are behind the stable Service, too.
    pub stable_endpoints: u32,
    /// Ready pods behind the stable Service that are of another revision.
    pub other_endpoints: u32,
}

/// The measurements of one check, taken together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// None was due.
    NotMade,
    /// Every metric lies in its range.
    Passed,
    /// A metric lies outside.
    Failed(Failure),
    /// At least one metric has no usable value and none failed: hold.
    NoEvidence(Reason),
}

/// What the verdict says of the canary at the weight in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing waits for it: it is off, or only told.
    NotAsked,
    /// The step has its evidence; the sentence gives the numbers.
    Fine(Advance, String),
    /// Not yet: hold the weight.
    Open(Reason),
    /// Take the canary off, at once.
    Condemned(Failure),
}

/// The annotation verbs that carry a revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verbs {
    /// `sluice.dev/promote`
    pub promote: Option<Revision>,
    /// `sluice.dev/abort`
    pub abort: Option<Revision>,
    /// `sluice.dev/pause`
    pub pause: Option<Revision>,
    /// `sluice.dev/retry`
    pub retry: Option<Revision>,
}
