//! One worker: a thread with its own runtime, listeners, connection pools and counters. It is told what to do by
//! [`Command`]s and by the process's [`Phase`].

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use routing::split::mix;
use routing::{Flag, Limit, Table};
use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use crate::http2::held::Account;
use crate::listener::{self, Listener};
use crate::sight::Asked;
use crate::sight::refused::{PER_SECOND, Refused};
use crate::stats::Registry;
use crate::upstream::Glance;
use crate::view::{Place, Slot, Views};
use crate::watch::Watches;

/// Tables that may wait for a worker; the sender waits for each to be applied, so there is one.
const COMMANDS: usize = 8;
/// Interval of housekeeping and of the heartbeat that `/livez` looks at.
const TICK: Duration = Duration::from_secs(1);

/// What is known of a stream that was not looked at.
const HTTP2: Asked<'_> = Asked { method: "", target: "", protocol: "HTTP/2" };

/// Where the process stands in its life, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Serving,
    /// Not ready any more; serves everything that comes and asks clients to open their next connection elsewhere.
    Draining,
    /// Accepts nothing new; what is open goes on.
    Closing,
    /// Idle connections are closed, the others after their request.
    Ending,
}

/// What a worker is told.
#[derive(Debug)]
pub enum Command {
    /// Take a table over, and answer with the ports that could not be opened.
    Apply(Arc<Table>, oneshot::Sender<BTreeMap<u16, String>>),
    /// Say how its endpoints are.
    Glance(oneshot::Sender<HashMap<Place, Glance>>),
}

/// The process's end of a worker.
#[derive(Debug)]
pub struct Handle {
    /// To tell it something.
    pub commands: mpsc::Sender<Command>,
    /// Rises each second while the worker is well.
    pub heartbeat: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

/// The worker's own end, shared by its tasks.
#[derive(Debug)]
pub struct Worker {
    index: usize,
    registry: Arc<Registry>,
    phase: watch::Receiver<Phase>,
    current: Cell<Phase>,
    random: Cell<u64>,
    watches: Watches,
    copies: Rc<Cell<u32>>,
}

impl Handle {
    /// Waits for the thread.
    pub fn join(self) {
        drop(self.commands);
        // A panic was logged where it happened.
        let _ = self.thread.join();
    }
}

impl Worker {
    /// Its number, from 0.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Where it counts.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Waits until the process is in `phase` or past it.
    pub async fn reached(&self, phase: Phase) {
        let mut receiver = self.phase.clone();
        // What comes back locks the channel for its sender: it must not live into what the caller does next.
        drop(receiver.wait_for(|now| *now >= phase).await);
    }

    /// The phase now.
    #[must_use]
    pub fn current_phase(&self) -> Phase {
        self.current.get()
    }

    /// Time limits of its connections.
    #[must_use]
    pub fn watches(&self) -> &Watches {
        &self.watches
    }

    /// Copies of requests that are being made or answered.
    #[must_use]
    pub fn copies(&self) -> Rc<Cell<u32>> {
        Rc::clone(&self.copies)
    }

    /// A request was refused with a status before it was any arm's.
    pub fn reject(&self, refused: Refused<'_>) {
        self.registry.reject(refused.status);
        self.tell(refused);
    }

    /// Streams of an HTTP/2 client, or its connection, that ended without an answer before they were any arm's requests.
    pub fn reject_unanswered(&self, slot: &Slot, client: IpAddr, flag: Flag, times: u32) {
        for _ in 0..times {
            let (view, asked) = (slot.current(), Some(HTTP2));
            self.reject(Refused { port: &view.port, client, asked, status: 0, flag: Some(flag) });
        }
    }

    /// Something that is counted elsewhere was refused.
    pub fn tell(&self, refused: Refused<'_>) {
        if let Some(sight) = self.registry.sight() {
            sight.refused(refused, self.random());
        }
    }

    /// Counts what an HTTP/2 client was refused `times` for the sake of `limit`, without an answer; past what a second may have
    /// of lines it is only counted.
    pub fn refuse_streams(&self, slot: &Slot, client: IpAddr, limit: Limit, times: u64) {
        self.registry.limits().reach_often(limit, times);
        for _ in 0..times.min(PER_SECOND) {
            let (view, asked) = (slot.current(), Some(HTTP2));
            let refused = Refused { port: &view.port, client, asked, status: 0, flag: Some(Flag::OverloadManager) };
            self.tell(refused);
        }
    }

    /// 64 random bits, not for secrets.
    #[must_use]
    pub fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(1);
        self.random.set(state);
        mix(state)
    }
}

/// Starts worker `index`, which listens on `address`.
///
/// # Errors
/// When the thread or its runtime cannot be made.
pub fn spawn(
    index: usize,
    registry: Arc<Registry>,
    address: Option<IpAddr>,
    phase: watch::Receiver<Phase>,
    seed: u64,
) -> io::Result<Handle> {
    let (commands, received) = mpsc::channel(COMMANDS);
    let heartbeat = Arc::new(AtomicU64::new(0));
    let beat = Arc::clone(&heartbeat);
    let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        match runtime {
            Ok(runtime) => {
                let (current, random) = (Cell::new(*phase.borrow()), Cell::new(mix(seed ^ index as u64)));
                let worker = Rc::new(Worker {
                    index,
                    registry,
                    phase,
                    current,
                    random,
                    watches: Watches::default(),
                    copies: Rc::default(),
                });
                runtime.block_on(run(worker, address, received, &beat));
            }
            Err(error) => tracing::error!(%error, "cannot start a worker's runtime"),
        }
    })?;
    Ok(Handle { commands, heartbeat, thread })
}

async fn run(worker: Rc<Worker>, address: Option<IpAddr>, mut commands: mpsc::Receiver<Command>, beat: &AtomicU64) {
    let mut phase = worker.phase.clone();
    let account = Account::open(&worker.registry, worker.index);
    let views = RefCell::new(Views::default());
    let mut listeners: BTreeMap<u16, Listener> = BTreeMap::new();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                None => return,
                Some(Command::Glance(wanted)) => {
                    // Who asked may have gone.
                    let _ = wanted.send(views.borrow().glance());
                }
                Some(Command::Apply(table, applied)) => {
                    views.borrow_mut().apply(&table, &worker.registry, worker.index);
                    let errors = listen(&worker, &views.borrow(), &mut listeners, address);
                    // Nobody waits any more if the process gave up on this worker.
                    let _ = applied.send(errors);
                }
            },
            changed = phase.changed() => {
                if changed.is_err() {
                    return;
                }
                worker.current.set(*phase.borrow_and_update());
                if worker.current_phase() >= Phase::Closing {
                    listeners.clear();
                }
                if worker.current_phase() >= Phase::Ending {
                    worker.watches.end_idle();
                }
            }
            () = worker.registry.gates().nudged(worker.index) => views.borrow().make_room(),
            _ = tick.tick() => {
                beat.fetch_add(1, Relaxed);
                views.borrow().sweep();
                views.borrow().count_connections();
                worker.watches.tick();
                account.tick();
            }
        }
    }
}

fn listen(
    worker: &Rc<Worker>,
    views: &Views,
    listeners: &mut BTreeMap<u16, Listener>,
    address: Option<IpAddr>,
) -> BTreeMap<u16, String> {
    let mut errors = BTreeMap::new();
    if worker.current_phase() >= Phase::Closing {
        return errors;
    }
    listeners.retain(|number, _| views.slots().contains_key(number));
    for (number, slot) in views.slots() {
        if listeners.contains_key(number) {
            continue;
        }
        match listener::open(worker, Rc::clone(slot), address, *number) {
            Ok(listener) => {
                listeners.insert(*number, listener);
            }
            Err(error) => {
                errors.insert(*number, error.to_string());
            }
        }
    }
    errors
}
