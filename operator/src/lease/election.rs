//! Who leads: the rules, without clock or network. `lease.rs` does what this says and tells it what came of it.
//!
//! After client-go's `leaderelection`: a lease is taken over only when its record has not changed for its whole duration
//! *by our own monotonic clock*; the times in the record are for people. The lease does not make two replicas safe
//! (a leader may be paused past its end): compare-and-swap on the status and the counters of the routes do.

use std::time::Duration;

use tokio::time::Instant;

/// How long everything takes; see docs/decisions/lease-timing.md.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A standby takes over after the record has not changed for this long.
    pub duration: Duration,
    /// The leader renews this often.
    pub renew_every: Duration,
    /// The leader stops to lead when its last renewal was sent this long ago. Less than `duration`, with room for clocks
    /// that run at different speeds.
    pub renew_deadline: Duration,
    /// After a call that failed.
    pub retry_every: Duration,
    /// One call; a renewal that hangs is tried again before `renew_deadline`.
    pub call_limit: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            duration: seconds(20),
            renew_every: seconds(7),
            renew_deadline: seconds(16),
            retry_every: seconds(2),
            call_limit: seconds(3),
        }
    }
}

/// The lease as it was read or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Who holds it; empty: nobody.
    pub(super) holder: String,
    /// `resourceVersion`: changes with every write.
    pub(super) version: String,
    /// Times the holder has changed.
    pub(super) transitions: i32,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Read the lease.
    Read,
    /// Create it, held by us.
    Create,
    /// Write ourselves as its holder over this version of it, and only that.
    Write { version: String, transitions: i32, takes_over: bool },
    /// Nothing before this; a standby watches the lease meanwhile.
    Wait(Instant),
    /// We led and may do so no longer.
    Lost,
}

/// What came of a [`Step`], or what the watch saw.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// Read or watched.
    Seen(Record),
    /// Our write was carried out; it was sent then.
    Wrote(Record, Instant),
    /// There is no lease.
    Absent,
    /// Our write met a newer version, or our creation met a lease.
    Conflict,
    /// No answer, or an error: whether a write was done is not known.
    Failed,
}

/// One replica's part in the election.
pub(super) struct Election {
    /// `<pod>_<random>`: new with each process, while the pod's name stays over a restart of its container.
    identity: String,
    timing: Timing,
    known: Known,
    /// Set while we lead: when the last renewal that was carried out was sent.
    renewed: Option<Instant>,
    /// Not to call before this, after a failure.
    not_before: Option<Instant>,
}

enum Known {
    Nothing,
    Absent,
    /// The record, and when it was first seen like this.
    Lease(Record, Instant),
}

impl Election {
    pub(super) fn new(identity: String, timing: Timing) -> Self {
        Self { identity, timing, known: Known::Nothing, renewed: None, not_before: None }
    }

    pub(super) fn leads(&self) -> bool {
        self.renewed.is_some()
    }

    /// What the holder must do at `now`.
    pub(super) fn next(&self, now: Instant) -> Step {
        if self.renewed.is_some_and(|renewed| now >= renewed + self.timing.renew_deadline) {
            return Step::Lost;
        }
        if let Some(until) = self.not_before.filter(|until| now < *until) {
            return Step::Wait(self.renewed.map_or(until, |renewed| until.min(renewed + self.timing.renew_deadline)));
        }
        match &self.known {
            Known::Nothing => Step::Read,
            Known::Absent => Step::Create,
            Known::Lease(record, since) => self.with_lease(record, *since, now),
        }
    }

    fn with_lease(&self, record: &Record, since: Instant, now: Instant) -> Step {
        let is_ours = record.holder == self.identity;
        let due = match self.renewed {
            Some(_) if !is_ours => return Step::Lost,
            Some(renewed) => renewed + self.timing.renew_every,
            // Ours without our knowing: the answer to our write was lost. Write again, and know.
            None if record.holder.is_empty() || is_ours || self.is_predecessor(&record.holder) => now,
            None => since + self.timing.duration,
        };
        if now < due {
            return Step::Wait(due);
        }
        let transitions = record.transitions.saturating_add(i32::from(!is_ours));
        Step::Write { version: record.version.clone(), transitions, takes_over: !is_ours }
    }

    /// A process that ran in this pod before: the kubelet starts a container only when the one before it has ended, so
    /// a crashed leader need not be waited for.
    fn is_predecessor(&self, holder: &str) -> bool {
        let pod = |identity: &str| identity.rsplit_once('_').map(|(pod, _)| pod.to_owned());
        pod(holder).is_some_and(|theirs| pod(&self.identity) == Some(theirs))
    }

    /// Takes what was learned at `now`.
    pub(super) fn observe(&mut self, event: Event, now: Instant) {
        self.not_before = None;
        match event {
            Event::Seen(record) => self.seen(record, now),
            Event::Wrote(record, sent) => {
                self.seen(record, now);
                self.renewed = Some(sent);
            }
            Event::Absent => self.known = Known::Absent,
            Event::Conflict => self.known = Known::Nothing,
            Event::Failed => {
                if self.leads() {
                    // The write may have been done: read its version, or the next one is a conflict.
                    self.known = Known::Nothing;
                }
                self.not_before = Some(now + self.timing.retry_every);
            }
        }
    }

    /// The clock of the record starts anew only if it has changed.
    fn seen(&mut self, record: Record, now: Instant) {
        if !matches!(&self.known, Known::Lease(known, _) if *known == record) {
            self.known = Known::Lease(record, now);
        }
    }

    /// Version of the lease as last seen, from which a watch goes on.
    pub(super) fn version(&self) -> Option<&str> {
        match &self.known {
            Known::Lease(record, _) => Some(&record.version),
            Known::Nothing | Known::Absent => None,
        }
    }

    /// Longest time that a call begun at `now` may take: a leader must learn in time that it leads no longer.
    pub(super) fn call_limit(&self, now: Instant) -> Duration {
        let limit = self.timing.call_limit;
        self.renewed.map_or(limit, |sent| limit.min((sent + self.timing.renew_deadline).saturating_duration_since(now)))
    }
}

#[cfg(test)]
mod tests;
