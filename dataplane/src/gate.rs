//! Limits of one arm, shared by the workers: connections of HTTP/1.1 and TCP, requests that wait for one, and requests under
//! way (Istio's `maxConnections`, `http1MaxPendingRequests`, `http2MaxRequests`).
//!
//! A connection holds a [`Permit`] for as long as it is open, idle or not, so no worker exceeds what all may have. Whoever finds
//! none waits in one queue, first come, first served, for a permit that another lets go of; idle connections of all workers are
//! closed for those who wait. Nothing here opens a connection.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use routing::{Arm, Pool, Route};
use tokio::sync::{Notify, oneshot};

/// Who waits: for a connection of this worker, to this address.
pub type Seat = (usize, SocketAddr);

/// The limits of one arm, and what is used of them.
#[derive(Debug)]
pub struct Gate {
    max_connections: AtomicU32,
    max_pending: AtomicU32,
    max_requests: AtomicU32,
    requests: AtomicU32,
    /// By [`PoolLimit`].
    overflows: [AtomicU64; PoolLimit::ALL.len()],
    connections: Mutex<Connections>,
    /// Tells the workers that somebody waits for what they keep idle.
    nudges: Arc<[Notify]>,
}

/// What an arm may have of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PoolLimit {
    /// `maxConnections`.
    Connections,
    /// `http1MaxPendingRequests`.
    Pending,
    /// `http2MaxRequests`.
    Requests,
}

impl PoolLimit {
    /// Each with its name in metrics, in the order of the enum.
    pub const ALL: [(Self, &str); 3] = [
        (Self::Connections, "max_connections"),
        (Self::Pending, "max_pending_requests"),
        (Self::Requests, "max_requests"),
    ];
}

/// How a limit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What there may be.
    pub limit: u32,
    /// What there is.
    pub used: u32,
    /// How often there would have been more: for connections, when nobody let go of one in time.
    pub overflows: u64,
}

#[derive(Debug, Default)]
struct Connections {
    open: u32,
    queue: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    seat: Seat,
    wake: oneshot::Sender<Admitted>,
}

/// The limits of every arm that has or had any; those that no route uses make room for others.
#[derive(Debug)]
pub struct Gates {
    arms: Mutex<BTreeMap<(String, Arm), Arc<Gate>>>,
    nudges: Arc<[Notify]>,
}

/// Arms whose limits are known; as many as a proxy may serve.
const MAX_ARMS: usize = 4_000;

impl Gates {
    /// None yet, for `workers`.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self { arms: Mutex::default(), nudges: (0..workers).map(|_| Notify::new()).collect() }
    }

    /// The limits of an arm, with what the route says now; none if it says nothing.
    #[must_use]
    pub fn of(&self, route: &Route, arm: Arm) -> Option<Arc<Gate>> {
        if !route.pool.limited() {
            return None;
        }
        let mut arms = self.arms.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (route.uid.clone(), arm);
        if arms.len() >= MAX_ARMS && !arms.contains_key(&key) {
            arms.retain(|_, gate| Arc::strong_count(gate) > 1);
        }
        let gate = arms.entry(key).or_insert_with(|| Arc::new(Gate::new(Arc::clone(&self.nudges))));
        gate.set(&route.pool);
        Some(Arc::clone(gate))
    }

    /// The limits of an arm that has some.
    #[must_use]
    pub fn find(&self, uid: &str, arm: Arm) -> Option<Arc<Gate>> {
        let arms = self.arms.lock().unwrap_or_else(PoisonError::into_inner);
        arms.get(&(uid.to_owned(), arm)).cloned()
    }

    /// Until somebody waits for a connection that `worker` may have idle.
    pub async fn nudged(&self, worker: usize) {
        self.nudges[worker].notified().await;
    }
}

/// What one who asked may do.
#[derive(Debug)]
pub enum Admitted {
    /// Open a connection.
    Open(Permit),
    /// Take an idle one, which has just been put into the pool.
    Idle,
}

/// More is asked for than the arm's limits allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

/// One open connection.
#[derive(Debug)]
pub struct Permit(Option<Arc<Gate>>);

/// One request under way.
#[derive(Debug)]
pub struct Admission(Arc<Gate>);

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(gate) = self.0.take() {
            gate.release();
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Relaxed);
    }
}

impl Permit {
    /// Where it comes from.
    #[must_use]
    pub fn gate(&self) -> Option<&Gate> {
        self.0.as_deref()
    }
}

impl Gate {
    /// Nothing is used yet, and nothing is limited.
    #[must_use]
    pub fn new(nudges: Arc<[Notify]>) -> Self {
        let unlimited = || AtomicU32::new(u32::MAX);
        Self {
            max_connections: unlimited(),
            max_pending: unlimited(),
            max_requests: unlimited(),
            requests: AtomicU32::new(0),
            overflows: Default::default(),
            connections: Mutex::default(),
            nudges,
        }
    }

    /// Brings limits into force; what exceeds them already goes on.
    pub fn set(self: &Arc<Self>, pool: &Pool) {
        self.max_connections.store(pool.max_connections.unwrap_or(u32::MAX), Relaxed);
        self.max_pending.store(pool.max_pending, Relaxed);
        self.max_requests.store(pool.max_requests.unwrap_or(u32::MAX), Relaxed);
        let mut connections = self.lock();
        while connections.open < self.max_connections.load(Relaxed) && self.pass_on(&mut connections) {
            connections.open += 1;
        }
    }

    /// One more request, if there may be one.
    ///
    /// # Errors
    /// When as many as may be are under way.
    pub fn admit(self: &Arc<Self>) -> Result<Admission, Overflow> {
        let most = self.max_requests.load(Relaxed);
        let more = |under_way: u32| (under_way < most).then_some(under_way + 1);
        self.requests.fetch_update(Relaxed, Relaxed, more).map_err(|_| self.overflow(PoolLimit::Requests))?;
        Ok(Admission(Arc::clone(self)))
    }

    /// The right to one more connection, after others if need be.
    ///
    /// # Errors
    /// When too many wait already, or nobody let go of one within `limit`.
    pub async fn permit(self: &Arc<Self>, seat: Seat, limit: Duration) -> Result<Admitted, Overflow> {
        let receiver = {
            let mut connections = self.lock();
            if connections.queue.is_empty() && connections.open < self.max_connections.load(Relaxed) {
                connections.open += 1;
                return Ok(Admitted::Open(Permit(Some(Arc::clone(self)))));
            }
            if connections.queue.len() >= self.max_pending.load(Relaxed) as usize {
                return Err(self.overflow(PoolLimit::Pending));
            }
            let (wake, receiver) = oneshot::channel();
            connections.queue.push_back(Waiter { seat, wake });
            receiver
        };
        self.nudges.iter().for_each(Notify::notify_one);
        let mut place = Place { gate: self, receiver };
        match tokio::time::timeout(limit, &mut place.receiver).await {
            Ok(Ok(admitted)) => Ok(admitted),
            Ok(Err(_)) | Err(_) => Err(self.overflow(PoolLimit::Connections)),
        }
    }

    fn overflow(&self, limit: PoolLimit) -> Overflow {
        self.overflows[limit as usize].fetch_add(1, Relaxed);
        Overflow
    }

    /// How one of its limits stands; `None` if there is no such limit, and so nothing is counted.
    #[must_use]
    pub fn standing(&self, limit: PoolLimit) -> Option<Standing> {
        let limited = |most: &AtomicU32| Some(most.load(Relaxed)).filter(|most| *most < u32::MAX);
        let (most, used) = match limit {
            PoolLimit::Connections => (limited(&self.max_connections)?, self.lock().open),
            PoolLimit::Pending => {
                limited(&self.max_connections)?;
                let waiting = u32::try_from(self.lock().queue.len()).unwrap_or(u32::MAX);
                (self.max_pending.load(Relaxed), waiting)
            }
            PoolLimit::Requests => (limited(&self.max_requests)?, self.requests.load(Relaxed)),
        };
        Some(Standing { limit: most, used, overflows: self.overflows[limit as usize].load(Relaxed) })
    }

    /// Whether somebody waits for a connection.
    #[must_use]
    pub fn waited_for(&self) -> bool {
        !self.lock().queue.is_empty()
    }

    /// A connection of `seat` is about to be idle: whether it may stay open, for the first one who waits, or because nobody
    /// does. Otherwise it is to be closed.
    #[must_use]
    pub fn may_idle(&self, seat: Seat) -> bool {
        let mut connections = self.lock();
        if connections.open > self.max_connections.load(Relaxed) {
            return false;
        }
        while let Some(first) = connections.queue.front() {
            if first.seat != seat && !first.wake.is_closed() {
                return false;
            }
            let sent = connections.queue.pop_front().is_some_and(|first| first.wake.send(Admitted::Idle).is_ok());
            if sent {
                return true;
            }
        }
        true
    }

    /// A connection was closed: its place goes to the first one who waits.
    fn release(self: Arc<Self>) {
        let mut connections = self.lock();
        if connections.open > self.max_connections.load(Relaxed) || !self.pass_on(&mut connections) {
            connections.open -= 1;
        }
    }

    /// Gives a permit to the first one who waits still; false if nobody does.
    fn pass_on(self: &Arc<Self>, connections: &mut Connections) -> bool {
        while let Some(first) = connections.queue.pop_front() {
            match first.wake.send(Admitted::Open(Permit(Some(Arc::clone(self))))) {
                Ok(()) => return true,
                // Gone: its permit must not be given back a second time.
                Err(Admitted::Open(mut permit)) => drop(permit.0.take()),
                Err(Admitted::Idle) => {}
            }
        }
        false
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue, given up on drop.
struct Place<'a> {
    gate: &'a Gate,
    receiver: oneshot::Receiver<Admitted>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.receiver.close();
        if let Ok(Admitted::Idle) = self.receiver.try_recv() {
            // Nobody takes it now: it is closed for the next one.
            self.gate.nudges.iter().for_each(Notify::notify_one);
        }
        self.gate.lock().queue.retain(|waiter| !waiter.wake.is_closed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn seat(port: u16) -> Seat {
        (0, ([10, 0, 0, 1], port).into())
    }

    fn gate(connections: u32, pending: u32) -> Arc<Gate> {
        let gate = Arc::new(Gate::new([Notify::new()].into()));
        gate.set(&Pool { max_connections: Some(connections), max_pending: pending, ..Pool::default() });
        gate
    }

    async fn open(gate: &Arc<Gate>) -> Permit {
        match gate.permit(seat(1), LONG).await {
            Ok(Admitted::Open(permit)) => permit,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn who_waits_gets_what_is_let_go_in_order() {
        let gate = gate(2, 2);
        let (one, _two) = (open(&gate).await, open(&gate).await);
        let (third, fourth) = (tokio::spawn(wait(&gate, 1)), tokio::spawn(wait(&gate, 2)));
        while gate.lock().queue.len() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.permit(seat(1), LONG).await.unwrap_err(), Overflow, "two wait already");
        drop(one);
        let Ok(Admitted::Open(permit)) = third.await.unwrap() else { panic!("a permit") };
        assert!(!gate.may_idle(seat(1)), "the next one waits for another endpoint");
        drop(permit);
        assert!(matches!(fourth.await.unwrap(), Ok(Admitted::Open(_))));
        assert!(gate.may_idle(seat(1)));
    }

    fn wait(gate: &Arc<Gate>, port: u16) -> impl Future<Output = Result<Admitted, Overflow>> + use<> {
        let gate = Arc::clone(gate);
        async move { gate.permit(seat(port), LONG).await }
    }

    #[tokio::test]
    async fn an_idle_connection_goes_to_the_first_if_it_fits() {
        let gate = gate(1, 1);
        let _one = open(&gate).await;
        let second = tokio::spawn(wait(&gate, 7));
        while !gate.waited_for() {
            tokio::task::yield_now().await;
        }
        assert!(gate.may_idle(seat(7)));
        assert!(matches!(second.await.unwrap(), Ok(Admitted::Idle)));
        assert_eq!(gate.lock().open, 1);
    }

    #[tokio::test]
    async fn a_wait_has_an_end_and_leaves_nothing_behind() {
        let gate = gate(1, 10);
        let one = open(&gate).await;
        assert_eq!(gate.permit(seat(1), Duration::from_millis(10)).await.unwrap_err(), Overflow);
        let cancelled = tokio::spawn(wait(&gate, 1));
        while !gate.waited_for() {
            tokio::task::yield_now().await;
        }
        cancelled.abort();
        assert!(cancelled.await.is_err());
        assert!(!gate.waited_for());
        drop(one);
        assert_eq!(gate.lock().open, 0);
    }

    #[tokio::test]
    async fn requests_are_counted_and_forgotten() {
        let gate = gate(1, 1);
        gate.set(&Pool { max_requests: Some(2), ..Pool::default() });
        let (one, _two) = (gate.admit().unwrap(), gate.admit().unwrap());
        assert_eq!(gate.admit().unwrap_err(), Overflow);
        drop(one);
        assert!(gate.admit().is_ok());
    }

    #[tokio::test]
    async fn a_lower_limit_counts_as_connections_close() {
        let gate = gate(3, 1);
        let (one, two, _three) = (open(&gate).await, open(&gate).await, open(&gate).await);
        gate.set(&Pool { max_connections: Some(1), ..Pool::default() });
        assert!(!gate.may_idle(seat(1)));
        drop((one, two));
        assert_eq!(gate.lock().open, 1);
        assert!(gate.may_idle(seat(1)));
    }
}
