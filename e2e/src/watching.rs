//! Waits and records: what a Canary went through, which pods came and went.
//!
//! Waits are for a wanted state, with a limit, and say what was there instead. A watch that breaks (the API server
//! restarts) is taken up again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use crds::Canary;
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher;
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio_util::task::AbortOnDropHandle;

/// Between two attempts of a broken watch.
const BREATHER: Duration = Duration::from_millis(200);

/// Every object that a watch delivers, and whether it was deleted.
fn objects<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = (K, bool)> + Send
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    watcher(api, config).filter_map(|event| async move {
        match event {
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => Some((object, false)),
            Ok(watcher::Event::Delete(object)) => Some((object, true)),
            Ok(watcher::Event::Init | watcher::Event::InitDone) => None,
            Err(_) => {
                tokio::time::sleep(BREATHER).await;
                None
            }
        }
    })
}

/// Waits until the object `name` is as `wanted` says, and returns it.
///
/// # Errors
/// When that takes longer than `limit`; the message holds `what` and, by `shown`, what was there last.
pub async fn until<K>(
    api: Api<K>,
    name: &str,
    what: &str,
    limit: Duration,
    wanted: impl Fn(&K) -> bool,
    shown: impl Fn(&K) -> String,
) -> Result<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut last = "nothing".to_owned();
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let search = async {
        let mut stream = pin!(objects(api, config));
        while let Some((object, deleted)) = stream.next().await {
            if !deleted && wanted(&object) {
                return Some(object);
            }
            last = if deleted { "nothing".to_owned() } else { shown(&object) };
        }
        None
    };
    match tokio::time::timeout(limit, search).await {
        Ok(Some(object)) => Ok(object),
        Ok(None) | Err(_) => bail!("{what}: not after {:.0} s; {name} is {last}", limit.as_secs_f64()),
    }
}

/// Waits until the object is gone.
///
/// # Errors
/// When that takes longer than `limit`.
pub async fn gone<K>(api: Api<K>, name: &str, limit: Duration) -> Result<()>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let deadline = Instant::now() + limit;
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    while api.get_opt(name).await?.is_some() {
        if Instant::now() > deadline {
            bail!("{name} is still there after {:.0} s", limit.as_secs_f64());
        }
        tick.tick().await;
    }
    Ok(())
}

/// One state of a Canary that differed from the one before.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    /// When the watch delivered it.
    pub at: Instant,
    /// As in the status.
    pub phase: crds::Phase,
    /// Percent.
    pub weight: i32,
    /// As in the status.
    pub step: String,
    /// As in the status.
    pub reason: String,
    /// As in the status.
    pub message: String,
    /// Pod-template hash under test.
    pub canary_revision: Option<String>,
}

impl Moment {
    fn of(canary: &Canary) -> Self {
        let status = canary.status.clone().unwrap_or_default();
        Self {
            at: Instant::now(),
            phase: status.phase,
            weight: status.canary_weight,
            step: status.step,
            reason: status.reason,
            message: status.message,
            canary_revision: status.canary_revision,
        }
    }
}

/// Records what one Canary goes through, from now on.
#[derive(Debug)]
pub struct Timeline {
    moments: Arc<Mutex<Vec<Moment>>>,
    _task: AbortOnDropHandle<()>,
}

impl Timeline {
    /// Starts on the Canary `name`.
    #[must_use]
    pub fn start(api: Api<Canary>, name: &str) -> Self {
        let moments: Arc<Mutex<Vec<Moment>>> = Arc::default();
        let shared = moments.clone();
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let task = tokio::spawn(async move {
            let mut stream = pin!(objects(api, config));
            while let Some((canary, _)) = stream.next().await {
                let moment = Moment::of(&canary);
                let mut moments = shared.lock().unwrap_or_else(PoisonError::into_inner);
                let is_new = moments.last().is_none_or(|last| Moment { at: moment.at, ..last.clone() } != moment);
                if is_new {
                    moments.push(moment);
                }
            }
        });
        Self { moments, _task: AbortOnDropHandle::new(task) }
    }

    /// Everything so far, oldest first.
    #[must_use]
    pub fn moments(&self) -> Vec<Moment> {
        self.moments.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The weights in the order in which they came, repetitions left out.
    #[must_use]
    pub fn weights(&self) -> Vec<i32> {
        let mut weights: Vec<i32> = self.moments().iter().map(|moment| moment.weight).collect();
        weights.dedup();
        weights
    }

    /// The first moment like that.
    #[must_use]
    pub fn first(&self, like: impl Fn(&Moment) -> bool) -> Option<Moment> {
        self.moments().into_iter().find(like)
    }
}

#[derive(Debug, Default)]
struct Pods {
    /// By name: their pod-template hash.
    seen: BTreeMap<String, String>,
    /// Those that were asked to go, or are gone.
    ended: BTreeSet<String>,
    ready: BTreeMap<String, Instant>,
}

/// Records which pods of a namespace come and go.
#[derive(Debug)]
pub struct PodWatch {
    pods: Arc<Mutex<Pods>>,
    _task: AbortOnDropHandle<()>,
}

impl PodWatch {
    /// Starts on the pods with `labels`.
    #[must_use]
    pub fn start(api: Api<Pod>, labels: &str) -> Self {
        let pods: Arc<Mutex<Pods>> = Arc::default();
        let shared = pods.clone();
        let config = watcher::Config::default().labels(labels);
        let task = tokio::spawn(async move {
            let mut stream = pin!(objects(api, config));
            while let Some((pod, deleted)) = stream.next().await {
                shared.lock().unwrap_or_else(PoisonError::into_inner).note(&pod, deleted);
            }
        });
        Self { pods, _task: AbortOnDropHandle::new(task) }
    }

    /// The names of the pods that serve or are about to.
    #[must_use]
    pub fn live(&self) -> BTreeSet<String> {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.seen.keys().filter(|name| !pods.ended.contains(*name)).cloned().collect()
    }

    /// Every pod there ever was, with its pod-template hash.
    #[must_use]
    pub fn seen(&self) -> BTreeMap<String, String> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).seen.clone()
    }

    /// When the first pod of a revision became ready.
    #[must_use]
    pub fn first_ready(&self, revision: &str) -> Option<Instant> {
        let pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |name: &String| pods.seen.get(name).is_some_and(|hash| hash == revision);
        pods.ready.iter().filter(|(name, _)| of(name)).map(|(_, at)| *at).min()
    }
}

impl Pods {
    fn note(&mut self, pod: &Pod, deleted: bool) {
        let name = pod.name_any();
        let hash = pod.labels().get(crds::names::POD_TEMPLATE_HASH).cloned().unwrap_or_default();
        self.seen.insert(name.clone(), hash);
        if is_ready(pod) {
            self.ready.entry(name.clone()).or_insert_with(Instant::now);
        }
        if deleted || pod.metadata.deletion_timestamp.is_some() {
            self.ended.insert(name);
        }
    }
}

/// Whether the pod passes its readiness probe.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
}
