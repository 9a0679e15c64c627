//! Room for what the other end sends: the connection's window is opened while there is some, and when there is none, streams
//! that hold much and do not get on are ended to make it.

use std::task::Context;
use std::time::Duration;

use super::super::flow::FIRST;
use super::super::frame::{self, Reason};
use super::super::held::Level;
use super::super::stream::Error;
use super::{Connection, Role};

/// A connection that holds less is left alone, unless nearly all is held.
const MUCH: u32 = 1024 * 1024;
/// Streams of a client that holds little, whatever they wait for.
const FEW: u32 = 16;
/// Seconds in which a stream gets on, if it does: past half of what may be held, and past three quarters.
const PATIENCE_SECONDS: (u64, u64) = (15, 5);

/// How long a client that takes nothing is waited for while much is held.
pub const HURRY: Duration = Duration::from_secs(PATIENCE_SECONDS.1);

/// The worker's seconds in which a connection has looked for room.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Looks {
    /// Last.
    last: Option<u64>,
    /// When it was last seen to that it looks again.
    waits: Option<u64>,
}

impl Connection {
    /// Opens the connection's window, if it is due and there is room.
    pub(super) fn replenish(&mut self) {
        if self.ended || !self.window.due() {
            return;
        }
        let coming = self.data.map_or(0, |data| data.coming());
        let (received, share) = (self.share.received(), self.share.account().share());
        let growth = self.window.growth(received);
        if growth > 0 && !self.pressed() && self.share.lend(growth) {
            self.window.grow(growth);
        }
        match self.window.open(received + coming, share) {
            Some(by) => {
                self.hungry = false;
                frame::window_update(&mut self.out, 0, by);
                self.wake_driver();
            }
            None if self.window.spent() && !self.hungry => {
                self.hungry = true;
                // It sees to it that this is looked at again.
                self.wake_driver();
            }
            None => {}
        }
    }

    /// Whether much is held, by whomever: no window grows.
    pub(super) fn pressed(&self) -> bool {
        self.share.account().level() > Level::Low
    }

    /// Looks for room, if there was none, and makes some, if others need it.
    pub fn look_for_room(&mut self) {
        if self.hungry {
            self.replenish();
        }
        let now = self.share.account().seconds();
        if self.looks() && self.looks.last.replace(now) != Some(now) {
            self.make_room_for_others(now);
        }
    }

    /// The task is woken in a second to look, if there is something to look at.
    pub fn look_again(&mut self, context: &Context<'_>) {
        let now = self.share.account().seconds();
        if self.looks() && self.looks.waits.replace(now) != Some(now) {
            self.share.account().wait(context.waker().clone());
        }
    }

    fn looks(&self) -> bool {
        self.hungry || self.share.received() >= FIRST
    }

    /// Ends streams that hold what does not get on, those that hold most first, while too much is held by all and by this
    /// connection: uploads that endpoints do not take, answers that clients do not take.
    fn make_room_for_others(&mut self, now: u64) {
        if self.leaves().is_none() {
            return;
        }
        let stalled = self.streams.iter().filter(|(_, stream)| stream.error.is_none() && stream.held() > 0);
        let mut stalled: Vec<_> = stalled.map(|(number, stream)| (stream.held(), stream.moved, *number)).collect();
        stalled.sort_unstable_by(|one, other| other.cmp(one));
        for (_, moved, number) in stalled {
            let Some((bytes, seconds)) = self.leaves() else { return };
            if self.share.received() < bytes {
                return;
            }
            if now >= moved + seconds {
                self.end_held(number);
            }
        }
    }

    /// What is left alone, if not all is: a connection with fewer bytes, a stream that got on within so many seconds.
    fn leaves(&self) -> Option<(u32, u64)> {
        let (slowly, soon) = PATIENCE_SECONDS;
        // Whose streams wait for each other has less to lose.
        match (self.share.account().level(), self.hungry) {
            (Level::Low, true) if self.window.cut_by(self.share.account().share()) => Some((FIRST, slowly)),
            (Level::Low, _) => None,
            (Level::High, true) => Some((FIRST, slowly)),
            (Level::High, false) => Some((MUCH, slowly)),
            (Level::Full, true) => Some((1, soon)),
            (Level::Full, false) => Some((FIRST, soon)),
        }
    }

    fn end_held(&mut self, number: u32) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let (dropped, over) = (stream.let_go(), stream.closed());
        // Nobody may take it for whole.
        (stream.received, stream.trailers) = (false, None);
        stream.fail(Error::Held);
        self.share.account().ended();
        self.passed_on(dropped);
        if over {
            // The other end has forgotten it.
            return self.settle(number);
        }
        // An endpoint has only done what it was asked for.
        let reason = if self.role == Role::Client { Reason::CANCEL } else { Reason::ENHANCE_YOUR_CALM };
        self.tell_reset(number, reason);
    }

    /// Bytes that were held were passed on, or are not wanted any more.
    pub(super) fn passed_on(&mut self, bytes: usize) {
        self.share.pass(bytes);
        self.replenish();
    }

    /// Counts what waits to be sent.
    pub fn count_waiting(&mut self) {
        self.share.sends(self.out.len());
    }

    /// Whether a client that takes nothing for [`HURRY`] is waited for no longer, since much is held: one that asks for
    /// much at a time, or any.
    #[must_use]
    pub fn hurries(&self) -> bool {
        match self.share.account().level() {
            Level::Low => false,
            Level::High => self.open > FEW,
            Level::Full => true,
        }
    }

    /// A stream was ended because of [`Connection::hurries`].
    pub fn hurried(&self) {
        self.share.account().ended();
    }
}
