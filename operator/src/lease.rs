//! Leader election: which of the replicas decides and writes. Every replica serves routes, leader or not.
//!
//! `election` holds the rules; this is the part that calls the API server. A standby watches the lease, so that it costs
//! nothing while it waits and takes over at once when the leader leaves in order. Losing the lease is an error that must
//! end the process: work begun as leader may still be under way.

mod election;

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryFutureExt};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease as LeaseObject, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::admin::Metrics;
use crate::telemetry::Chain;
use election::{Election, Event, Record, Step};

pub use election::Timing;

/// True while this replica leads.
pub type Leadership = watch::Receiver<bool>;

/// The server ends a watch after this; the longest that API servers commonly allow.
const WATCH_SECONDS: u32 = 290;
/// Between two openings of the watch, so that a server which refuses it is asked seldom. Without the watch a standby
/// still takes over: it then finds out by a write that conflicts.
const WATCH_PAUSE: Duration = Duration::from_secs(10);

/// The lease was not kept.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another replica leads, or the API server could not be reached until the deadline. The process must end.
    #[error("leadership by lease {0} was lost")]
    Lost(String),
}

/// How this replica stands for election.
#[derive(Clone)]
pub struct Lease {
    /// For the calls; they are bounded here.
    pub client: Client,
    /// Namespace of the lease: the operator's.
    pub namespace: String,
    /// Its name, [`crds::names::LEASE`].
    pub name: String,
    /// Name of this pod, for people; the identity has a random part besides.
    pub pod: String,
    /// [`Timing::default`] except in tests.
    pub timing: Timing,
}

impl Lease {
    /// Stands for election until `stop`, tells `leading`, and gives the lease back at the end.
    ///
    /// Cancel `stop` only when the work of a leader is done: another replica leads at once.
    ///
    /// # Errors
    /// [`LeaseError::Lost`] when it led and may do so no longer.
    pub async fn run(
        self,
        metrics: Metrics,
        stop: CancellationToken,
        leading: watch::Sender<bool>,
    ) -> Result<(), LeaseError> {
        let result = self.stand(&metrics, &stop, &leading).await;
        leading.send_replace(false);
        metrics.leader(false);
        let version = result?;
        if let Some(version) = version {
            self.release(&version).await;
        }
        Ok(())
    }

    /// The version to release at the end, if it led.
    async fn stand(
        &self,
        metrics: &Metrics,
        stop: &CancellationToken,
        leading: &watch::Sender<bool>,
    ) -> Result<Option<String>, LeaseError> {
        let identity = format!("{}_{:016x}", self.pod, RandomState::new().hash_one(&self.pod));
        let mut election = Election::new(identity.clone(), self.timing);
        let mut standby = Standby { lease: self, stream: None, not_before: Instant::now() };
        loop {
            let now = Instant::now();
            let event = match election.next(now) {
                Step::Lost => return Err(LeaseError::Lost(self.name.clone())),
                Step::Wait(until) => tokio::select! {
                    () = stop.cancelled() => return Ok(held(&election)),
                    () = sleep_until(until) => continue,
                    event = standby.next(election.version()), if !election.leads() => event,
                },
                step => tokio::select! {
                    () = stop.cancelled(), if !election.leads() => return Ok(None),
                    event = self.call(&identity, step, election.call_limit(now)) => event,
                },
            };
            let led = election.leads();
            election.observe(event, Instant::now());
            if election.leads() && !led {
                // The watch is for standbys.
                standby.stream = None;
                tracing::info!(identity, "this replica leads");
                metrics.leader(true);
                leading.send_replace(true);
            }
        }
    }

    /// Does `step`, which is a call.
    async fn call(&self, identity: &str, step: Step, limit: Duration) -> Event {
        let sent = Instant::now();
        let api = self.api();
        let wrote = |lease: LeaseObject| Some(Event::Wrote(record(&lease), sent));
        let call = async {
            match step {
                Step::Read => Ok(api.get_opt(&self.name).await?.map(|lease| Event::Seen(record(&lease)))),
                Step::Create => {
                    let lease = LeaseObject {
                        metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                        spec: Some(self.spec(identity, 0, true)),
                    };
                    api.create(&PostParams::default(), &lease).await.map(wrote)
                }
                Step::Write { version, transitions, takes_over } => {
                    self.write(&version, self.spec(identity, transitions, takes_over)).await.map(wrote)
                }
                Step::Wait(_) | Step::Lost => Ok(None),
            }
        };
        match timeout(limit, call).await {
            Ok(Ok(event)) => event.unwrap_or(Event::Absent),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Event::Conflict,
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Event::Absent,
            Ok(Err(error)) => {
                tracing::warn!(error = %Chain(&error), "lease call failed");
                Event::Failed
            }
            Err(_) => {
                tracing::warn!(limit_ms = limit.as_millis() as u64, "lease call not answered");
                Event::Failed
            }
        }
    }

    fn spec(&self, identity: &str, transitions: i32, takes_over: bool) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(identity.to_owned()),
            lease_duration_seconds: Some(i32::try_from(self.timing.duration.as_secs()).unwrap_or(i32::MAX)),
            lease_transitions: Some(transitions),
            renew_time: Some(now.clone()),
            acquire_time: takes_over.then_some(now),
            ..LeaseSpec::default()
        }
    }

    /// A merge patch leaves labels and annotations of others alone; the version makes it a compare-and-swap.
    async fn write(&self, version: &str, spec: LeaseSpec) -> kube::Result<LeaseObject> {
        let patch = serde_json::json!({ "metadata": { "resourceVersion": version }, "spec": spec });
        self.api().patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await
    }

    /// Best effort: without it another replica takes over when the lease has run out.
    async fn release(&self, version: &str) {
        let spec = LeaseSpec {
            holder_identity: Some(String::new()),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        };
        let released =
            timeout(self.timing.call_limit, self.write(version, spec).map_err(|error| Chain(&error).to_string()));
        match released.await {
            Ok(Ok(_)) => tracing::info!("lease released"),
            Ok(Err(error)) => tracing::warn!(error, "lease not released"),
            Err(_) => tracing::warn!("lease not released: no answer"),
        }
    }

    fn api(&self) -> Api<LeaseObject> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

fn held(election: &Election) -> Option<String> {
    election.version().filter(|_| election.leads()).map(str::to_owned)
}

fn record(lease: &LeaseObject) -> Record {
    let spec = lease.spec.as_ref();
    Record {
        holder: spec.and_then(|spec| spec.holder_identity.clone()).unwrap_or_default(),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        transitions: spec.and_then(|spec| spec.lease_transitions).unwrap_or_default(),
    }
}

/// The watch of a standby.
struct Standby<'a> {
    lease: &'a Lease,
    stream: Option<BoxStream<'static, kube::Result<WatchEvent<LeaseObject>>>>,
    not_before: Instant,
}

impl Standby<'_> {
    /// The next thing that happens to the lease after `version`. Cancellation safe.
    async fn next(&mut self, version: Option<&str>) -> Event {
        loop {
            let Some(stream) = &mut self.stream else {
                sleep_until(self.not_before).await;
                self.not_before = Instant::now() + WATCH_PAUSE;
                self.stream = open(self.lease, version.unwrap_or("0")).await;
                continue;
            };
            match stream.next().await {
                Some(Ok(WatchEvent::Added(lease) | WatchEvent::Modified(lease))) => return Event::Seen(record(&lease)),
                Some(Ok(WatchEvent::Deleted(_))) => return Event::Absent,
                Some(Ok(WatchEvent::Bookmark(_))) => {}
                // It ends each few minutes anyway; one that breaks off is opened anew likewise.
                Some(Ok(WatchEvent::Error(_))) | None => self.stream = None,
                Some(Err(error)) => {
                    tracing::debug!(error = %Chain(&error), "lease watch broke off");
                    self.stream = None;
                }
            }
        }
    }
}

/// Opens the watch. Not a method: a stream is not `Sync`, and `&self` held across an await would have to be.
async fn open(lease: &Lease, version: &str) -> Option<BoxStream<'static, kube::Result<WatchEvent<LeaseObject>>>> {
    let name = format!("metadata.name={}", lease.name);
    let params = WatchParams::default().fields(&name).timeout(WATCH_SECONDS);
    match lease.api().watch(&params, version).await {
        Ok(stream) => Some(stream.boxed()),
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "lease not watched");
            None
        }
    }
}

#[cfg(test)]
mod tests;
