//! Lines for what is refused before it is any arm's request: connections and streams that are too many, heads that cannot
//! be read, requests that a rule answers with an error. Whoever floods the proxy must not flood the log: past
//! [`PER_SECOND`] lines are counted as dropped.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use routing::{Flag, Port};

use super::{Asked, Ended, Entry, Logged, Sight, drawn};

/// Lines in one second, of the whole process.
pub const PER_SECOND: u64 = 100;
/// What a request is that was never read.
const UNKNOWN: Asked<'_> = Asked { method: "", target: "", protocol: "" };

/// Lets through what may be said in one second: which, and how often.
#[derive(Debug, Default)]
pub struct Meter(AtomicU64);

impl Meter {
    /// One more line in `second`, if there may be one.
    fn pass(&self, second: u64) -> bool {
        let more = |state: u64| {
            let (at, count) = (state >> 8, state & 0xff);
            if at != second { Some((second << 8) | 1) } else { (count < PER_SECOND).then_some(state + 1) }
        };
        self.0.fetch_update(Relaxed, Relaxed, more).is_ok()
    }
}

/// What was refused.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// Where it came to.
    pub port: &'a Arc<Port>,
    /// From where.
    pub client: IpAddr,
    /// What was read of it.
    pub asked: Option<Asked<'a>>,
    /// What the client was told, 0 if nothing that is a status.
    pub status: u16,
    /// Why, if there is a flag for it.
    pub flag: Option<Flag>,
}

impl Sight {
    /// Something was refused.
    pub fn refused(&self, refused: Refused<'_>, random: u64) {
        let Refused { port, client, asked, status, flag } = refused;
        let Some((logged, queue)) = &self.log else { return };
        if matches!(logged, Logged::Share(share) if !drawn(*share, random)) {
            return;
        }
        let begun = SystemTime::now();
        if !self.may_tell(begun) {
            return;
        }
        let asked = asked.unwrap_or(UNKNOWN);
        let entry = Entry {
            begun,
            port: Arc::clone(port),
            arm: None,
            method: asked.method.to_owned(),
            path: asked.path().to_owned(),
            protocol: asked.protocol,
            client: client.to_canonical().to_string(),
            endpoint: None,
            attempts: 0,
            upstream: None,
            span: None,
            ended: Ended { status, flags: flag.into(), ..Ended::default() },
        };
        if queue.try_send(Box::new(entry)).is_err() {
            self.counts.lines_dropped.fetch_add(1, Relaxed);
        }
    }

    /// Whether there may be a line for one more refusal now; counted if not.
    pub(super) fn may_tell(&self, now: SystemTime) -> bool {
        let second = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let may = self.counts.refusals.pass(second);
        if !may {
            self.counts.lines_dropped.fetch_add(1, Relaxed);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_has_as_many_lines_as_a_second_may_have() {
        let meter = Meter::default();
        let passed = |second| (0..500).filter(|_| meter.pass(second)).count() as u64;
        assert_eq!((passed(7), passed(7), passed(8)), (PER_SECOND, 0, PER_SECOND));
    }
}
