//! Time limits of client connections, at a granularity of a second: set and moved by writing a number, looked at by the
//! worker's tick. A timer per read would cost more than the read's own bookkeeping.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

const NEVER: u64 = u64::MAX;

/// What a connection is doing, as far as its end is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Between two requests.
    Idle,
    /// Within the head of a request.
    Head,
    /// Serving a request.
    Busy,
}

/// The limits of one connection.
#[derive(Debug)]
pub struct Watch {
    clock: Rc<Cell<u64>>,
    /// Seconds in which the client must send, or take, something.
    patience: u64,
    stage: Cell<Stage>,
    read_due: Cell<u64>,
    write_due: Cell<u64>,
    sent: Cell<u64>,
    fired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// Every watched connection of a worker.
#[derive(Debug, Default)]
pub struct Watches {
    clock: Rc<Cell<u64>>,
    all: RefCell<Vec<Weak<Watch>>>,
}

impl Watches {
    /// Watches one more connection, for as long as the value lives; its client must send something of a body, or take something
    /// of an answer, within `patience`, to the second.
    #[must_use]
    pub fn watch(&self, patience: Duration) -> Rc<Watch> {
        let watch = Rc::new(Watch {
            clock: Rc::clone(&self.clock),
            patience: patience.as_secs(),
            stage: Cell::new(Stage::Idle),
            read_due: Cell::new(NEVER),
            write_due: Cell::new(NEVER),
            sent: Cell::new(0),
            fired: Cell::new(false),
            waker: RefCell::default(),
        });
        self.all.borrow_mut().push(Rc::downgrade(&watch));
        watch
    }

    /// A second has passed.
    pub fn tick(&self) {
        let now = self.clock.get() + 1;
        self.clock.set(now);
        self.sweep(|watch| watch.read_due.get() <= now || watch.write_due.get() <= now);
    }

    /// Ends every connection that is between two requests.
    pub fn end_idle(&self) {
        self.sweep(|watch| watch.stage.get() == Stage::Idle);
    }

    fn sweep(&self, due: impl Fn(&Watch) -> bool) {
        self.all.borrow_mut().retain(|watch| {
            let Some(watch) = watch.upgrade() else { return false };
            if due(&watch) {
                watch.fire();
            }
            true
        });
    }
}

impl Watch {
    /// Enters a stage; what the client has to send must come within `seconds`.
    pub fn enter(&self, stage: Stage, seconds: u64) {
        self.stage.set(stage);
        self.read_within(seconds);
    }

    /// Enters [`Stage::Busy`]; the client has nothing to send.
    pub fn busy(&self) {
        self.stage.set(Stage::Busy);
        self.read_due.set(NEVER);
    }

    /// What the connection was doing last.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage.get()
    }

    fn read_within(&self, seconds: u64) {
        self.read_due.set(self.clock.get() + seconds + 1);
    }

    /// The client must send more of a body.
    pub fn sends(&self) {
        self.read_within(self.patience);
    }

    /// The client must take something.
    pub fn takes(&self) {
        self.write_due.set(self.clock.get() + self.patience + 1);
    }

    /// The client took `bytes` more.
    pub fn took(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
    }

    /// Bytes that the client took since the last call.
    pub fn taken(&self) -> u64 {
        self.sent.take()
    }

    /// Nothing is waiting for the client to take it.
    pub fn written(&self) {
        self.write_due.set(NEVER);
    }

    /// Seconds since the worker started.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.clock.get()
    }

    fn fire(&self) {
        self.fired.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Runs `work` to its end; `None` if a limit came first. Pinned by the caller: held by value it would lie here twice,
    /// for as long as the connection is open.
    pub async fn guard<F: Future>(&self, mut work: Pin<&mut F>) -> Option<F::Output> {
        poll_fn(|context| {
            if let Poll::Ready(output) = work.as_mut().poll(context) {
                return Poll::Ready(Some(output));
            }
            if self.fired.get() {
                return Poll::Ready(None);
            }
            let mut waker = self.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                *waker = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}
