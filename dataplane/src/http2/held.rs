//! Bytes that HTTP/2 leaves in the proxy, of all its connections: what came of clients and of endpoints and was not passed on, and
//! what waits to be sent to those who do not take it. Counted by each worker for itself, so that a frame costs a load and a
//! store; looked at together when a connection's window is to be opened.
//!
//! Bounded: a connection may have half of what is left of [`Limits::held_bytes`], so that those who hold much leave as much to
//! the next one, and never less than [`FIRST`], so that nobody starves. What comes ahead of being needed is lent out of half as
//! much again. So no more is held than once and a half the limit, and [`FIRST`] for each connection.
//!
//! [`Limits::held_bytes`]: routing::Limits::held_bytes

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Waker;

use routing::Limit;

use super::flow::FIRST;
use crate::limits::InForce;
use crate::stats::{Registry, add};

/// Parts of what may be lent still that one connection gets of it at a time, so that there is some for those who come later.
const PARTS: u64 = 4;

/// What all workers hold.
#[derive(Debug)]
pub struct Held {
    workers: Box<[Line]>,
    /// What connections may send ahead, beyond [`FIRST`].
    lent: AtomicU64,
}

/// Of one worker, which alone writes to it.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line(AtomicU64);

impl Held {
    /// Nothing yet.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self { workers: (0..workers).map(|_| Line::default()).collect(), lent: AtomicU64::new(0) }
    }

    /// Bytes that are held now.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.workers.iter().map(|line| line.0.load(Relaxed)).sum()
    }

    /// Lends `more`, if that is no more than its part of what is left.
    fn lend(&self, more: u32, most: u64) -> bool {
        let more = u64::from(more);
        let lend = |lent: u64| (more <= most.saturating_sub(lent) / PARTS).then_some(lent + more);
        self.lent.fetch_update(Relaxed, Relaxed, lend).is_ok()
    }
}

/// How much there is, as one worker sees it.
#[derive(Debug)]
pub struct Account {
    registry: Arc<Registry>,
    worker: usize,
    /// Seconds since the worker began.
    clock: Cell<u64>,
    /// Connections that would have more window than they may.
    hungry: RefCell<Vec<Waker>>,
}

/// How full it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Every connection may have what it may at most.
    Low,
    /// Past half of the limit: who holds much makes room.
    High,
    /// Past three quarters: everybody does.
    Full,
}

thread_local! {
    static OURS: RefCell<Option<Rc<Account>>> = const { RefCell::new(None) };
}

impl Account {
    /// Of `worker`, whose thread this is.
    pub fn open(registry: &Arc<Registry>, worker: usize) -> Rc<Self> {
        let account = Self { registry: Arc::clone(registry), worker, clock: Cell::new(0), hungry: RefCell::default() };
        let account = Rc::new(account);
        OURS.set(Some(Rc::clone(&account)));
        account
    }

    /// This thread's; of a process of its own where no worker runs, in tests.
    #[must_use]
    pub fn ours() -> Rc<Self> {
        let ours = OURS.with_borrow(Clone::clone);
        ours.unwrap_or_else(|| Self::open(&Registry::new(1, InForce::new(routing::Limits::default(), u64::MAX)), 0))
    }

    fn most(&self) -> u64 {
        self.registry.limits().held_bytes()
    }

    /// What a connection may have: sent ahead, and held.
    #[must_use]
    pub fn share(&self) -> u64 {
        (self.most().saturating_sub(self.registry.held().bytes()) / 2).max(FIRST.into())
    }

    /// How full it is.
    #[must_use]
    pub fn level(&self) -> Level {
        let (held, most) = (self.registry.held().bytes(), self.most());
        match held {
            _ if held > most / 4 * 3 => Level::Full,
            _ if held > most / 2 => Level::High,
            _ => Level::Low,
        }
    }

    /// A stream was ended to make room.
    pub fn ended(&self) {
        self.registry.limits().reach(Limit::Held);
    }

    /// Seconds since the worker began.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.clock.get()
    }

    /// A second has passed: those who want more window look again.
    pub fn tick(&self) {
        self.clock.set(self.clock.get() + 1);
        self.hungry.take().into_iter().for_each(Waker::wake);
    }

    /// `waker` is woken a second from now.
    pub fn wait(&self, waker: Waker) {
        self.hungry.borrow_mut().push(waker);
    }
}

/// What one connection has of it; comes back at its end.
#[derive(Debug)]
pub struct Share {
    account: Rc<Account>,
    received: u32,
    sending: u32,
    lent: u32,
}

impl Share {
    /// Nothing yet.
    #[must_use]
    pub fn new(account: Rc<Account>) -> Self {
        Self { account, received: 0, sending: 0, lent: 0 }
    }

    /// Whose it is.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Bytes that came and were not passed on.
    #[must_use]
    pub fn received(&self) -> u32 {
        self.received
    }

    /// More came.
    pub fn receive(&mut self, bytes: usize) {
        self.received += u32::try_from(bytes).expect("no more is held than a window");
        self.count(bytes as u64, 0);
    }

    /// Some of it was passed on, or is not wanted any more.
    pub fn pass(&mut self, bytes: usize) {
        self.received -= u32::try_from(bytes).expect("no more is held than a window");
        self.count(0, bytes as u64);
    }

    /// So much waits to be sent now.
    pub fn sends(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let before = std::mem::replace(&mut self.sending, bytes);
        self.count(bytes.into(), before.into());
    }

    /// Whether `more` may come ahead, for as long as the connection lives.
    pub fn lend(&mut self, more: u32) -> bool {
        let lent = self.account.registry.held().lend(more, self.account.most() / 2);
        self.lent += if lent { more } else { 0 };
        lent
    }

    fn count(&self, more: u64, less: u64) {
        let line = &self.account.registry.held().workers[self.account.worker].0;
        add(line, more.wrapping_sub(less));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.count(0, u64::from(self.received) + u64::from(self.sending));
        self.account.registry.held().lent.fetch_sub(self.lent.into(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    fn held(account: &Account) -> u64 {
        account.registry.held().bytes()
    }

    #[test]
    fn what_a_connection_has_comes_back_at_its_end() {
        let account = Account::ours();
        let mut share = Share::new(Account::ours());
        share.receive(1000);
        share.pass(400);
        share.sends(50);
        share.sends(30);
        assert!(share.lend(MIB as u32));
        assert_eq!((held(&account), share.received()), (630, 600));
        drop(share);
        assert_eq!((held(&account), account.registry.held().lent.load(Relaxed)), (0, 0));
    }

    #[test]
    fn a_connection_may_have_half_of_what_is_left_and_never_nothing() {
        let account = Account::ours();
        let (mut shares, most) = (Vec::new(), account.most());
        assert_eq!((account.share(), account.level()), (most / 2, Level::Low));
        for _ in 0..60 {
            let mut share = Share::new(Account::ours());
            share.receive(usize::try_from(account.share()).unwrap());
            shares.push(share);
        }
        assert!(held(&account) < most + 60 * u64::from(FIRST));
        assert_eq!((account.share(), account.level()), (FIRST.into(), Level::Full));
    }

    #[test]
    fn no_more_is_lent_than_there_is_and_each_leaves_some_to_others() {
        let account = Account::ours();
        let (mut shares, most) = (Vec::new(), account.most() / 2);
        for _ in 0..1000 {
            let mut share = Share::new(Account::ours());
            let mut more = 2 * MIB as u32;
            while more >= FIRST && !share.lend(more) {
                more /= 2;
            }
            shares.push(share);
        }
        let lent: Vec<_> = shares.iter().map(|share| share.lent).filter(|lent| *lent > 0).collect();
        let all = account.registry.held().lent.load(Relaxed);
        assert!(all <= most && lent.len() > 20, "{all} for {}", lent.len());
        shares.clear();
        assert!(Share::new(Account::ours()).lend(2 * MIB as u32));
    }
}
