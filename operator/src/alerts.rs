//! Tells people about releases: a bounded outbox that never makes anyone wait, and the task that delivers.
//!
//! [`Outbox::offer`] only queues; [`Sender`] looks up provider and secret, posts, retries and reports what could not be
//! delivered. One lane per provider keeps messages in order and a hanging receiver to itself. Within one process a
//! message is sent once, however often it is offered; after a restart the same message may be offered and sent again
//! (at least once). Nothing here may delay or change a release.

mod deliver;
mod metrics;
mod queue;
mod slack;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crds::canary::{Alert, Severity};
use tokio::sync::{Notify, mpsc};

use crate::outbound::Outbound;
pub use deliver::Sender;
use queue::{Delivery, Lane, Pushed, Queue};

/// Reports that may wait to be read; further ones are only counted.
const REPORTS_MAX: usize = 256;

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// By which it is recognised when offered again.
    pub id: MessageId,
    /// The Canary's namespace, in which its providers are, too.
    pub namespace: String,
    /// The Canary's name.
    pub canary: String,
    /// Alerts with a higher severity do not get it.
    pub severity: Severity,
    /// Pod-template hash of the pods that serve as stable.
    pub stable_revision: Option<String>,
    /// Pod-template hash of the pods under test.
    pub canary_revision: Option<String>,
    /// Weight of the canary in percent.
    pub weight_percent: i32,
    /// That is a share of those who match only.
    pub of_audience: bool,
    /// `2/4`, or empty.
    pub step: String,
    /// One sentence: why.
    pub reason: String,
    /// Numbers that go with it, in the order in which they are shown.
    pub facts: Vec<Fact>,
}

/// A message offered twice with the same id is sent once to each provider. The counter stands still while a step is
/// judged, so that a step is told at most once per kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MessageId {
    /// UID of the Canary.
    pub canary_uid: String,
    /// `status.counter` at the time.
    pub counter: i64,
    /// What happened.
    pub kind: Kind,
}

/// A number, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// `success rate`
    pub name: String,
    /// `94.80 %`
    pub value: String,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Set-up is done.
    Initialized,
    /// A release began.
    Started,
    /// A release began anew with a newer template.
    Restarted,
    /// Copies of requests go to the canary.
    CopiesBegan,
    /// No more copies do.
    CopiesEnded,
    /// The canary's weight was raised.
    Weight,
    /// The release holds.
    Held,
    /// A check failed, short of the threshold.
    CheckFailed,
    /// The release was promoted.
    Promoted,
    /// The release was rolled back.
    RolledBack,
    /// Git went back to the stable template.
    Reverted,
    /// The release waits for a person.
    Waiting,
    /// Anything else worth telling.
    Notice,
}

impl Kind {
    /// The severity that messages of this kind usually have.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self {
            Self::Initialized
            | Self::Started
            | Self::Restarted
            | Self::CopiesBegan
            | Self::CopiesEnded
            | Self::Weight
            | Self::Promoted
            | Self::Reverted => Severity::Info,
            Self::Held | Self::CheckFailed | Self::Waiting | Self::Notice => Severity::Warn,
            Self::RolledBack => Severity::Error,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Initialized => "initialized",
            Self::Started => "release started",
            Self::Restarted => "release started over",
            Self::CopiesBegan => "copies began",
            Self::CopiesEnded => "copies ended",
            Self::Weight => "weight raised",
            Self::Held => "release on hold",
            Self::CheckFailed => "check failed",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled back",
            Self::Reverted => "reverted",
            Self::Waiting => "waiting",
            Self::Notice => "notice",
        })
    }
}

/// What became of a message at one provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryReport {
    /// The Canary's namespace.
    pub namespace: String,
    /// The Canary's name.
    pub canary: String,
    /// The Canary's UID.
    pub canary_uid: String,
    /// `alerts[].name`
    pub alert: String,
    /// `alerts[].providerRef.name`
    pub provider: String,
    /// What the message was about.
    pub kind: Kind,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver took it.
    Delivered {
        /// Tries that it took, from 1.
        attempts: u32,
    },
    /// Given up.
    Failed {
        /// One sentence for people.
        why: String,
    },
    /// Never tried: newer messages took its place in the queue.
    Dropped {
        /// One sentence for people.
        why: String,
    },
}

/// Counts since the start of the process, but for `queued`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages that wait now.
    pub queued: usize,
    /// Messages taken by a receiver.
    pub delivered: u64,
    /// Messages given up.
    pub failed: u64,
    /// Messages that newer ones displaced.
    pub dropped: u64,
}

impl Stats {
    const fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Delivered { .. } => self.delivered += 1,
            Outcome::Failed { .. } => self.failed += 1,
            Outcome::Dropped { .. } => self.dropped += 1,
        }
    }
}

/// Takes messages; clones share the queue.
#[derive(Clone, Debug)]
pub struct Outbox {
    shared: Arc<Shared>,
}

/// What outbox and sender share.
#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// Told of each message that is queued.
    queued: Notify,
    reports: mpsc::Sender<DeliveryReport>,
}

#[derive(Debug, Default)]
struct Inner {
    queue: Queue,
    stats: Stats,
}

/// An outbox, the task that empties it, and what could and could not be delivered. Reports that nobody reads are let go.
#[must_use]
pub fn outbox(client: kube::Client, outbound: Outbound) -> (Outbox, Sender, mpsc::Receiver<DeliveryReport>) {
    let (reports, receiver) = mpsc::channel(REPORTS_MAX);
    let shared = Arc::new(Shared { inner: Mutex::default(), queued: Notify::new(), reports });
    let sender = Sender::new(client, outbound, Arc::clone(&shared));
    (Outbox { shared }, sender, receiver)
}

impl Outbox {
    /// Queues `message` for each of `alerts` whose severity it reaches and whose provider has not got it yet; says for
    /// how many. Never waits.
    pub fn offer(&self, message: Message, alerts: &[Alert]) -> usize {
        let message = Arc::new(message);
        let at = chrono::Utc::now();
        let wanted = alerts.iter().filter(|alert| alert.severity <= message.severity);
        let queued = wanted.filter(|alert| {
            let lane = Lane { namespace: message.namespace.clone(), provider: alert.provider_ref.name.clone() };
            let delivery = Delivery { message: Arc::clone(&message), alert: alert.name.clone(), at };
            let pushed = self.shared.lock().queue.push(lane, delivery);
            match pushed {
                Pushed::Queued => true,
                Pushed::Known => false,
                Pushed::Displaced(lane, delivery) => {
                    let why = "newer messages took its place: the receiver does not keep up".to_owned();
                    self.shared.report(&lane, &delivery, Outcome::Dropped { why });
                    true
                }
            }
        });
        let queued = queued.count();
        if queued > 0 {
            self.shared.queued.notify_one();
        }
        queued
    }

    /// For the operator's metrics.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let inner = self.shared.lock();
        Stats { queued: inner.queue.len(), ..inner.stats }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The queue is whole between any two of its methods.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, lane: &Lane, delivery: &Delivery, outcome: Outcome) {
        self.lock().stats.count(&outcome);
        let message = &delivery.message;
        let report = DeliveryReport {
            namespace: message.namespace.clone(),
            canary: message.canary.clone(),
            canary_uid: message.id.canary_uid.clone(),
            alert: delivery.alert.clone(),
            provider: lane.provider.clone(),
            kind: message.id.kind,
            outcome,
        };
        if self.reports.try_send(report).is_err() {
            tracing::warn!(k8s.namespace.name = lane.namespace, provider = lane.provider, "alert report was not read");
        }
    }
}

#[cfg(test)]
mod tests;
