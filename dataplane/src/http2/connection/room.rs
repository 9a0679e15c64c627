//! Room for what the other end sends: the connection's window is opened while there is some, and when there is none, streams
//! that hold much and do not get on are ended to make it.

use std::task::Context;

use super::super::frame::{self, Reason};
use super::super::held::Level;
use super::super::stream::Error;
use super::{Connection, Role};

/// A connection that holds less is left alone.
const MUCH: usize = 1024 * 1024;
/// Streams of a client that holds little, whatever they wait for.
const FEW: u32 = 16;
/// Time without more room after which it is made, and in which a stream gets on, if it does.
const PATIENCE_SECONDS: u64 = 5;

/// A connection whose window is not opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hungry {
    /// The worker's seconds.
    since: u64,
    /// When it was last seen to that it is looked at again.
    waits: Option<u64>,
}

impl Connection {
    /// Opens the connection's window, if it is due and there is room.
    pub(super) fn replenish(&mut self) {
        if self.ended || !self.window.due() {
            return;
        }
        let coming = self.data.map_or(0, |data| data.coming());
        let (received, account) = (self.share.received(), self.share.account());
        let (share, now) = (account.share(), account.seconds());
        self.pressed = account.level() > Level::Low;
        let growth = self.window.growth(received);
        if growth > 0 && !self.pressed && self.share.lend(growth) {
            self.window.grow(growth);
        }
        match self.window.open(received + coming, share) {
            Some(by) => {
                self.hungry = None;
                frame::window_update(&mut self.out, 0, by);
                self.wake_driver();
            }
            None if self.window.spent() && self.hungry.is_none() => {
                self.hungry = Some(Hungry { since: now, waits: None });
                // It sees to it that this is looked at again.
                self.wake_driver();
            }
            None => {}
        }
    }

    /// Whether the other end may not send, and will not be told soon that it may: streams that are opened go elsewhere.
    pub(super) fn starves(&self) -> bool {
        self.hungry.is_some()
    }

    /// Looks for room, if there was none.
    pub fn look_for_room(&mut self) {
        if self.hungry.is_some() {
            self.replenish();
            self.make_room_for_others();
        }
    }

    /// The task is woken in a second to look for room, if there is none.
    pub fn look_again(&mut self, context: &Context<'_>) {
        let now = self.share.account().seconds();
        if let Some(hungry) = &mut self.hungry
            && hungry.waits.replace(now) != Some(now)
        {
            self.share.account().wait(context.waker().clone());
        }
    }

    /// Ends uploads that do not get on while others wait for the window, those that hold most first, until little is held. What
    /// clients do not take of endpoints is ended where it waits for them, see [`Connection::hurries`].
    fn make_room_for_others(&mut self) {
        let now = self.share.account().seconds();
        let due = self.hungry.is_some_and(|hungry| now >= hungry.since + PATIENCE_SECONDS);
        let cut = self.pressed && self.window.cut_by(self.share.account().share());
        if !due || !cut || self.role == Role::Client {
            return;
        }
        let stalled = self.streams.iter().filter(|(_, stream)| {
            let held = stream.data.bytes() + stream.lent;
            held > 0 && stream.error.is_none() && now >= stream.moved + PATIENCE_SECONDS
        });
        let mut stalled: Vec<_> =
            stalled.map(|(number, stream)| (stream.data.bytes() + stream.lent, *number)).collect();
        stalled.sort_unstable_by(|one, other| other.cmp(one));
        for (_, number) in stalled {
            if (self.share.received() as usize) < MUCH {
                return;
            }
            self.end_held(number);
        }
    }

    fn end_held(&mut self, number: u32) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let dropped = stream.data.clear();
        // Nobody may take it for whole.
        (stream.received, stream.trailers) = (false, None);
        stream.fail(Error::Held);
        self.share.account().ended();
        self.tell_reset(number, Reason::ENHANCE_YOUR_CALM);
        self.passed_on(dropped);
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

    /// Whether a client that takes nothing for [`Connection::hurry`] is waited for no longer, since much is held: one that asks for
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

/// How long a client that takes nothing is waited for while much is held.
pub const HURRY: std::time::Duration = std::time::Duration::from_secs(PATIENCE_SECONDS);
