//! The connections on which no proxy speaks: how many there may be, and for how long. Opens and reads no socket.
//!
//! A connection is a stranger's until a stream on it has an identity, and idle while no stream on it has one or asks for
//! one. The handshake counts as idle; what asks does not, as its answer has deadlines of its own. Idle connections are
//! closed after a time, and when there are too many strangers the one that has been idle longest makes room.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Most connections at a time: 10,000 namespaces with two proxies each. Further ones wait in the kernel's queue.
const CONNECTIONS: usize = 20_000;
/// Most of them without an identity. Each costs some 60 KiB, and 16 tokens are reviewed at a time: a fleet that comes back
/// at once waits for the API server and not for this.
const STRANGERS: usize = 1_024;
/// A handshake takes two round trips; a peer that is slower than this is not a proxy of this cluster.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// A proxy opens its stream at once and drops the connection with it; this is twice what its handshake may take.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// How often connections that have been idle too long are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// A connection that is idle for less is left to ask, even if others wait: a proxy takes some 20 ms.
const GRACE: Duration = Duration::from_millis(250);
/// How soon room is looked for again while there are too many strangers.
const ROOM_PAUSE: Duration = Duration::from_millis(50);

/// What connections are granted; the default is for a cluster of 10,000 namespaces.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Most at a time.
    pub connections: usize,
    /// Most of them without an identity.
    pub strangers: usize,
    /// Longest TLS handshake.
    pub handshake: Duration,
    /// Longest time without a stream, from the accept or from the end of the last one.
    pub idle: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { connections: CONNECTIONS, strangers: STRANGERS, handshake: HANDSHAKE_LIMIT, idle: IDLE_LIMIT }
    }
}

/// Where connections wait until somebody speaks on them. Cheap to clone.
#[derive(Clone)]
pub(super) struct Lobby {
    shared: Arc<Shared>,
}

struct Shared {
    limits: ConnectionLimits,
    connections: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    idle: Mutex<Idle>,
}

/// The idle connections, the longest idle first.
#[derive(Default)]
struct Idle {
    waiting: BTreeMap<Place, CancellationToken>,
    arrivals: u64,
}

/// Since when a connection is idle, and a number of its own.
type Place = (Instant, u64);

/// One connection from its accept to its end.
pub(super) struct Visitor {
    lobby: Lobby,
    close: CancellationToken,
    stay: Mutex<Stay>,
    _permit: OwnedSemaphorePermit,
}

struct Stay {
    /// Streams that have an identity or ask for one.
    streams: usize,
    /// Accept, or the end of the last stream that had an identity.
    since: Instant,
    /// In the lobby, while it is idle.
    place: Option<Place>,
    /// Held until the first identity.
    stranger: Option<OwnedSemaphorePermit>,
}

/// One stream that asks for an identity or has one.
pub(super) struct Visit {
    visitor: Arc<Visitor>,
    identified: bool,
}

impl Lobby {
    pub(super) fn new(limits: ConnectionLimits) -> Self {
        let connections = Arc::new(Semaphore::new(limits.connections));
        let strangers = Arc::new(Semaphore::new(limits.strangers));
        Self { shared: Arc::new(Shared { limits, connections, strangers, idle: Mutex::default() }) }
    }

    pub(super) fn handshake_limit(&self) -> Duration {
        self.shared.limits.handshake
    }

    /// Waits until one more connection may be accepted. Cancel safe.
    pub(super) async fn permit(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.shared.connections).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// An accepted connection. Waits for room, which it makes where one has been idle.
    pub(super) async fn enter(&self, permit: OwnedSemaphorePermit) -> Arc<Visitor> {
        let since = Instant::now();
        let stranger = Some(self.room().await);
        let stay = Mutex::new(Stay { streams: 0, since, place: None, stranger });
        let visitor = Visitor { lobby: self.clone(), close: CancellationToken::new(), stay, _permit: permit };
        visitor.wait(&mut visitor.stay());
        Arc::new(visitor)
    }

    async fn room(&self) -> OwnedSemaphorePermit {
        loop {
            if let Ok(permit) = Arc::clone(&self.shared.strangers).try_acquire_owned() {
                return permit;
            }
            self.idle().close(Instant::now(), GRACE, 1);
            let freed = timeout(ROOM_PAUSE, Arc::clone(&self.shared.strangers).acquire_owned()).await;
            if let Ok(permit) = freed {
                return permit.expect("the semaphore is never closed");
            }
        }
    }

    /// Closes what is idle for too long, for ever.
    pub(super) async fn sweep(&self) {
        let mut ticks = interval(SWEEP_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.idle().close(Instant::now(), self.shared.limits.idle, usize::MAX);
        }
    }

    /// Closes everything that is idle: the server ends and waits for its connections.
    pub(super) fn clear(&self) {
        self.idle().close(Instant::now(), Duration::ZERO, usize::MAX);
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    fn enter(&mut self, since: Instant, close: CancellationToken) -> Place {
        self.arrivals += 1;
        let place = (since, self.arrivals);
        self.waiting.insert(place, close);
        place
    }

    /// Closes at most `most` connections that are idle for `age` or longer.
    fn close(&mut self, now: Instant, age: Duration, most: usize) {
        for _ in 0..most {
            let Some(longest) = self.waiting.first_entry() else { return };
            let (since, _) = *longest.key();
            if now.saturating_duration_since(since) < age {
                return;
            }
            longest.remove().cancel();
            tracing::debug!("config stream connection closed, no proxy spoke on it");
        }
    }
}

impl Visitor {
    /// A stream of this connection asks for an identity.
    pub(super) fn ask(self: &Arc<Self>) -> Visit {
        let mut stay = self.stay();
        stay.streams += 1;
        self.leave(&mut stay);
        Visit { visitor: Arc::clone(self), identified: false }
    }

    /// Ready once the connection has to be closed.
    pub(super) fn closed(&self) -> WaitForCancellationFutureOwned {
        self.close.clone().cancelled_owned()
    }

    fn wait(&self, stay: &mut Stay) {
        stay.place = Some(self.lobby.idle().enter(stay.since, self.close.clone()));
    }

    fn leave(&self, stay: &mut Stay) {
        if let Some(place) = stay.place.take() {
            self.lobby.idle().waiting.remove(&place);
        }
    }

    fn stay(&self) -> MutexGuard<'_, Stay> {
        self.stay.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.leave(&mut self.stay());
    }
}

impl Visit {
    /// It is a proxy's.
    pub(super) fn identified(&mut self) {
        self.identified = true;
        self.visitor.stay().stranger = None;
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut stay = self.visitor.stay();
        stay.streams -= 1;
        if self.identified {
            stay.since = Instant::now();
        }
        // Who was refused is idle for as long as before: asking again and again gains no time.
        if stay.streams == 0 {
            self.visitor.wait(&mut stay);
        }
    }
}

#[cfg(test)]
mod tests;
