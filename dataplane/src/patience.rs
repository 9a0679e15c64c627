//! How long an HTTP/2 client may let a body wait, its own or an answer's, and what is too slow over either version. HTTP/1.1
//! has a watch for each connection; here each stream that waits has a timer, which is made when it first does.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::error::behind;

/// Seconds after which a body must have come at [`LEAST_RATE`], so that a byte now and then does not hold a connection.
const GRACE_SECONDS: u64 = 10;
/// Bytes per second.
const LEAST_RATE: u64 = 128;

/// Bytes that must have come of a body after `seconds`.
#[must_use]
pub fn least(seconds: u64) -> u64 {
    seconds.saturating_sub(GRACE_SECONDS) * LEAST_RATE
}

/// Why a client's request did not get to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UploadFault {
    /// It broke off.
    #[error("client broke off its request")]
    Broken,
    /// It came too slowly.
    #[error("client takes too long over its request")]
    Slow,
}

impl UploadFault {
    /// The fault that is behind `error`, if it is one.
    #[must_use]
    pub fn behind(error: &(dyn Error + 'static)) -> Option<Self> {
        behind(error)
    }
}

/// A wait that begins anew each time the other end does something.
#[derive(Debug)]
pub struct Patience {
    limit: Duration,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Nothing is waited for yet.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit, since: None, timer: None }
    }

    /// How long it lasts.
    #[must_use]
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// The other end did something, or need not; how long it was waited for.
    pub fn renew(&mut self) -> Duration {
        self.since.take().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Waits; ready when the other end has done nothing for too long.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.poll_hurried(context, self.limit, || false)
    }

    /// Waits, for no longer than `soon` while it is `hurried`, which is asked that often.
    pub fn poll_hurried(&mut self, context: &mut Context<'_>, soon: Duration, hurried: impl Fn() -> bool) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let (due, first) = (since + self.limit, since + soon.min(self.limit));
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(first)));
        loop {
            ready!(timer.as_mut().poll(context));
            let now = Instant::now();
            if now >= due || now >= first && hurried() {
                return Poll::Ready(());
            }
            // It was set when an earlier wait began, or nobody was in a hurry.
            timer.as_mut().reset(if now < first { first } else { due.min(now + soon) });
        }
    }
}

/// The pace of a client's body.
#[derive(Debug)]
pub struct Pace {
    patience: Patience,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// Nothing has come yet.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { patience: Patience::new(limit), waited: Duration::ZERO, bytes: 0 }
    }

    /// More of it is waited for; ready when it takes too long.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.patience.poll(context)
    }

    /// So many bytes came. Whether that is enough, for the time that they were waited for: an endpoint's own slowness is not
    /// the client's.
    #[must_use]
    pub fn came(&mut self, bytes: usize) -> bool {
        self.waited += self.patience.renew();
        self.bytes += bytes as u64;
        self.bytes >= least(self.waited.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Waker;

    use super::*;

    #[tokio::test]
    async fn a_wait_begins_anew_with_whatever_comes() {
        let limit = Duration::from_millis(200);
        let mut patience = Patience::new(limit);
        let mut noop = Context::from_waker(Waker::noop());
        assert!(patience.poll(&mut noop).is_pending());
        tokio::time::sleep(limit).await;
        assert!(patience.renew() >= limit);
        let begun = Instant::now();
        poll_fn(|context| patience.poll(context)).await;
        assert!(begun.elapsed() >= limit);
        assert!(patience.poll(&mut noop).is_ready(), "and it stays over");
    }

    #[tokio::test]
    async fn a_wait_is_shorter_while_there_is_a_hurry() {
        let (limit, soon) = (Duration::from_millis(200), Duration::from_millis(50));
        for hurried_at in [1, 2, u32::MAX] {
            let (asked, mut patience) = (std::cell::Cell::new(0), Patience::new(limit));
            let hurried = || {
                asked.set(asked.get() + 1);
                asked.get() == hurried_at
            };
            poll_fn(|context| patience.poll_hurried(context, soon, hurried)).await;
            let waited = patience.renew();
            assert!(waited >= limit.min(soon.saturating_mul(hurried_at)), "{waited:?}");
            assert!(asked.get() == hurried_at || waited >= limit, "{waited:?}");
        }
    }

    #[test]
    fn a_body_that_drips_is_too_slow_by_the_time_that_it_is_waited_for() {
        let mut pace = Pace::new(Duration::from_secs(60));
        assert!(pace.came(1) && pace.came(1));
        pace.waited = Duration::from_secs(GRACE_SECONDS + 1);
        assert!(!pace.came(1));
        assert!(pace.came(LEAST_RATE as usize));
    }

    #[test]
    fn a_fault_is_found_behind_others() {
        let error = std::io::Error::other(UploadFault::Slow);
        assert_eq!(UploadFault::behind(&error), None, "an io error hides what it holds: its source is its cause's");
        assert_eq!(UploadFault::behind(&UploadFault::Broken), Some(UploadFault::Broken));
    }
}
