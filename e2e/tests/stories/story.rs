//! How a story is run: on one world, with a time limit, its namespaces gone afterwards, and on failure everything kept
//! that may explain it.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use e2e::cluster::{Cluster, layout};
use e2e::install::{self, Target};
use e2e::kubectl;
use e2e::manifests::Manifests;
use e2e::slack;
use e2e::world::{STORY_LABEL, Shop, World};
use libtest_mimic::{Failed, Trial};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::RwLock;

use crate::budget;

/// Longest time that a story may take, waiting for its turn and watching idleness not counted.
const LIMIT: Duration = Duration::from_secs(420);
/// Prometheus of the local cluster, as pods see it.
pub(crate) const METRICS_SERVER: &str = "http://prometheus.monitoring.svc:9090";

type Telling = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// A promise and how it is checked.
pub(crate) struct Promise {
    pub(crate) name: &'static str,
    /// Takes parts of the cluster away, or counts what happens in all of it.
    pub(crate) alone: bool,
    pub(crate) tell: fn(Story) -> Telling,
}

/// What all stories stand on.
pub(crate) struct Stage {
    runtime: Arc<Runtime>,
    world: Arc<World>,
    /// Read by stories that run beside each other, written by one that runs alone.
    turns: Arc<RwLock<()>>,
}

impl Stage {
    /// Starts the cluster, compiles and loads the images, installs the chart.
    pub(crate) fn set() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let world = runtime.block_on(async {
            let cluster = Cluster::start_for_tests().await?;
            tokio::task::spawn_blocking(|| install::bring(&Target::Local, METRICS_SERVER)).await??;
            let slack = slack::Receiver::serve(TcpListener::bind((layout::NODE_ADDRESS, 0)).await?)?;
            let client = cluster.client().await?;
            let world = World { client, cluster, slack };
            world.remove_leftovers().await?;
            anyhow::Ok(world)
        })?;
        Ok(Self { runtime: Arc::new(runtime), world: Arc::new(world), turns: Arc::default() })
    }

    /// The story as a test.
    pub(crate) fn trial(&self, number: usize, promise: Promise) -> Trial {
        let (runtime, world, turns) = (self.runtime.clone(), self.world.clone(), self.turns.clone());
        Trial::test(promise.name, move || {
            runtime.block_on(async {
                let story = Story { world, name: promise.name, label: format!("story-{number}") };
                let told = if promise.alone {
                    let _turn = turns.write().await;
                    run(story, promise.tell).await
                } else {
                    let _turn = turns.read().await;
                    run(story, promise.tell).await
                };
                told.map_err(|error| Failed::from(format!("{error:#}")))
            })
        })
    }
}

async fn run(story: Story, tell: fn(Story) -> Telling) -> Result<()> {
    let started = Instant::now();
    // In a task of its own: a panic is an error like any other, and cleaning up goes on.
    let mut task = tokio::spawn(tell(story.clone()));
    let limit = LIMIT + Duration::from_secs(u64::from(budget::idle_seconds()));
    let told = match tokio::time::timeout(limit, &mut task).await {
        Ok(Ok(told)) => told,
        Ok(Err(panic)) => Err(anyhow!("panicked: {panic}")),
        Err(_) => {
            task.abort();
            Err(anyhow!("not over after {} s", limit.as_secs()))
        }
    };
    story.say(&format!("{:.1} s", started.elapsed().as_secs_f64()));
    let told = match told {
        Ok(()) => Ok(()),
        Err(error) => Err(error.context(story.keep_evidence().await)),
    };
    let selector = format!("{STORY_LABEL}={}", story.label);
    let _ = kubectl::kubectl(&["delete", "namespace", "--selector", &selector, "--wait=false"]).await;
    told
}

/// What one story works with.
#[derive(Clone)]
pub(crate) struct Story {
    pub(crate) world: Arc<World>,
    pub(crate) name: &'static str,
    label: String,
}

impl Story {
    /// The worked example at the stories' pace: a check each second, three failed ones roll back, nobody is told. The
    /// verdict is off: what these stories are about is decided by the metric, and many have too little traffic for more.
    pub(crate) fn manifests(&self) -> Result<Manifests> {
        let mut manifests = Manifests::example()?;
        manifests.others.clear();
        manifests.canary["spec"]["analysis"] = json!({
            "interval": "1s",
            "threshold": 3,
            "stepWeights": [10, 25, 50, 100],
            "metrics": [{ "name": "request-success-rate", "thresholdRange": { "min": 99 } }],
            "verdict": { "mode": "off" },
        });
        Ok(manifests.version("v1"))
    }

    /// An application with its Canary set up.
    pub(crate) async fn shop(&self, manifests: Manifests) -> Result<Shop> {
        Shop::open(self.world.clone(), &self.label, manifests).await
    }

    /// An application without a Canary yet.
    pub(crate) async fn bare_shop(&self, manifests: Manifests) -> Result<Shop> {
        Shop::bare(self.world.clone(), &self.label, manifests).await
    }

    /// Prints a figure.
    pub(crate) fn say(&self, what: &str) {
        println!("    {}: {what}", self.name);
    }

    /// Writes objects, events and logs to a folder, and says where.
    async fn keep_evidence(&self) -> String {
        let base = std::env::var_os("SLUICE_EVIDENCE").map_or_else(std::env::temp_dir, PathBuf::from);
        let folder = base.join("sluice-stories").join(self.name);
        match self.write_evidence(&folder).await {
            Ok(()) => format!("objects and logs are in {}", folder.display()),
            Err(error) => format!("objects and logs could not be kept: {error:#}"),
        }
    }

    async fn write_evidence(&self, folder: &std::path::Path) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let keep = |name: String, text: Result<String>| {
            let text = text.unwrap_or_else(|error| format!("{error:#}"));
            std::fs::write(folder.join(&name), text).with_context(|| format!("cannot write {name}"))
        };
        let selector = format!("{STORY_LABEL}={}", self.label);
        let namespaces = kubectl::kubectl(&["get", "namespace", "-l", &selector, "-o", "name"]).await?;
        let namespaces = namespaces.lines().filter_map(|line| line.strip_prefix("namespace/"));
        for namespace in namespaces.chain([crds::names::SYSTEM_NAMESPACE]) {
            let kinds = "canaries,proxypools,deployments,replicasets,pods,services,endpointslices,configmaps";
            let objects = kubectl::kubectl(&["get", kinds, "-n", namespace, "-o", "yaml"]).await;
            keep(format!("{namespace}.yaml"), objects)?;
            let events = ["get", "events", "-n", namespace, "--sort-by=.metadata.creationTimestamp", "-o", "wide"];
            keep(format!("{namespace}.events"), kubectl::kubectl(&events).await)?;
            let pods = kubectl::kubectl(&["get", "pods", "-n", namespace, "-o", "name"]).await.unwrap_or_default();
            for pod in pods.lines().filter(|pod| pod.contains("sluice-")) {
                let log = kubectl::kubectl(&["logs", "-n", namespace, pod, "--tail=5000"]).await;
                keep(format!("{namespace}.{}.log", pod.trim_start_matches("pod/")), log)?;
            }
        }
        Ok(())
    }
}
