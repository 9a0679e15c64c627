//! Beginnings and ends of streams (RFC 9113 §5.1, §5.4): who may open one, why one does not go on, and when it is forgotten.

use std::collections::HashMap;
use std::task::{Context, Waker};

use super::super::frame::{self, MAX_WINDOW, Reason};
use super::super::stream::{Error, Half, Stream};
use super::{Connection, Drain, FIRST_STREAMS, Opens, Role};

/// Streams that were reset lately, whose frames may still come (§5.4.2). As many resets as are nobody's business in ten
/// seconds.
const RESETS_KEPT: usize = 512;
/// Room for streams that an idle connection keeps.
const STREAMS_KEPT: usize = 112;

impl Connection {
    /// Ends those streams for which `error` says so; wakes whoever waits to open one.
    pub(super) fn fail_streams(&mut self, error: impl Fn(u32) -> Option<Error>) {
        let numbers: Vec<u32> = self.streams.keys().copied().collect();
        for number in numbers {
            if let (Some(error), Some(stream)) = (error(number), self.streams.get_mut(&number)) {
                stream.fail(error);
                self.settle(number);
            }
        }
        self.wake_openers();
    }

    /// They look again whether a stream may be opened.
    pub(super) fn wake_openers(&mut self) {
        self.openers.drain(..).for_each(Waker::wake);
    }

    fn wait_to_open(&mut self, context: &Context<'_>) {
        self.openers.retain(|waker| !waker.will_wake(context.waker()));
        self.openers.push(context.waker().clone());
    }

    /// Whether a stream may be opened; `None`: it is not known yet how many the other end takes.
    #[must_use]
    pub fn opens(&self) -> Option<Opens> {
        if self.closes() {
            return Some(Opens::Never);
        }
        match self.takes() {
            None if self.open >= FIRST_STREAMS => None,
            Some(most) if self.open >= most => Some(Opens::Full),
            None | Some(_) => Some(Opens::Now),
        }
    }

    /// As [`Connection::opens`]; the task is woken when it is known.
    pub fn may_open(&mut self, context: &Context<'_>) -> Option<Opens> {
        let opens = self.opens();
        if opens.is_none() {
            self.wait_to_open(context);
        }
        opens
    }

    /// Streams that the other end takes at a time, if it has said anything yet.
    #[must_use]
    pub fn takes(&self) -> Option<u32> {
        let known = self.peer.streams.is_some() || self.peer.connects.is_some();
        known.then(|| self.peer.streams.unwrap_or(u32::MAX))
    }

    /// Takes a place for a stream, if there are fewer than `most` of both, and one would get on: where the other end may not send, or
    /// does not take, it goes elsewhere.
    pub fn take_seat(&mut self, most: u32) -> bool {
        let free = self.open + self.seats < most && !self.hungry && !self.congested();
        self.seats += u32::from(free);
        free
    }

    /// Whether the other end takes an extended CONNECT; `None`: it has not said yet, and the task is woken when it has.
    pub fn may_connect(&mut self, context: &Context<'_>) -> Option<bool> {
        if self.closes() {
            return Some(false);
        }
        if self.peer.connects.is_none() {
            self.wait_to_open(context);
        }
        self.peer.connects
    }

    /// Whether no more streams can be opened.
    #[must_use]
    pub fn closes(&self) -> bool {
        self.ended || self.gone.is_some() || self.next > MAX_WINDOW
    }

    /// The last stream that a client has opened, if none is open or held.
    #[must_use]
    pub fn rests_after(&self) -> Option<u32> {
        (self.streams.is_empty() && self.accepted.is_empty()).then_some(self.last)
    }

    /// A fault of the other end, after which the connection cannot go on.
    pub(super) fn violated(&mut self, reason: Reason) {
        self.seen.violated = Some(reason);
        self.end(reason);
    }

    /// A fault of the other end within a stream.
    pub(super) fn fault(&mut self, number: u32, reason: Reason) {
        self.faults += 1;
        if self.faults > self.config.faults {
            return self.violated(Reason::ENHANCE_YOUR_CALM);
        }
        let served = |stream: &Stream| stream.write_held && !stream.sent && stream.error.is_none();
        if self.retract(number) || !self.streams.get(&number).is_some_and(|stream| served(stream)) {
            self.seen.malformed += 1;
        }
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.fail(Error::Fault(reason));
        }
        self.tell_reset(number, reason);
    }

    /// Takes a stream back that nobody has looked at yet, and nobody need; false if somebody has.
    pub(super) fn retract(&mut self, number: u32) -> bool {
        let Some(place) = self.accepted.iter().rposition(|accepted| accepted.stream == number) else { return false };
        self.accepted.remove(place);
        if let Some(stream) = self.streams.get_mut(&number) {
            (stream.read_held, stream.write_held) = (false, false);
            let dropped = stream.let_go();
            self.passed_on(dropped);
        }
        true
    }

    /// Resets a stream; nobody waits for it any more.
    pub fn reset(&mut self, number: u32, reason: Reason) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        if stream.closed() {
            return;
        }
        stream.fail(Error::Fault(reason));
        self.tell_reset(number, reason);
    }

    pub(super) fn tell_reset(&mut self, number: u32, reason: Reason) {
        if self.ended {
            return;
        }
        frame::reset(&mut self.out, number, reason);
        if self.resets.len() == RESETS_KEPT {
            self.resets.pop_front();
            self.forgotten = true;
        }
        self.resets.push_back(number);
        self.settle(number);
        self.wake_driver();
    }

    /// One end of a stream has changed: counts it as closed, and forgets it, if it is.
    pub(super) fn settle(&mut self, number: u32) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        if !stream.closed() {
            return;
        }
        let (counted, dropped) = (std::mem::take(&mut stream.open), stream.dropped());
        if counted {
            // Who is in order mostly may have a fault now and then, however long the connection lives.
            self.faults = self.faults.saturating_sub(u32::from(stream.error.is_none()));
            self.open -= 1;
            self.wake_openers();
        }
        if dropped {
            self.forget(number);
        }
    }

    fn forget(&mut self, number: u32) {
        if let Some(stream) = self.streams.remove(&number) {
            self.growth.give_back(stream.window);
        }
        if !self.streams.is_empty() {
            return;
        }
        if self.streams.capacity() > STREAMS_KEPT {
            self.streams = HashMap::default();
        }
        // It may have been the last one.
        if self.senders == 0 || self.gone.is_some() || self.drain == Drain::Done {
            self.wake_driver();
        }
    }

    /// Nobody looks at a half of the stream any more.
    pub fn release(&mut self, number: u32, half: Half) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        match half {
            Half::Reading => {
                stream.read_held = false;
                let dropped = stream.let_go();
                self.passed_on(dropped);
            }
            Half::Writing => stream.write_held = false,
        }
        let Some(stream) = self.streams.get(&number).filter(|stream| stream.dropped()) else { return };
        if stream.closed() {
            return self.forget(number);
        }
        // A server may have answered without the rest of the request (§8.1).
        let answered = self.role == Role::Server && stream.sent;
        self.reset(number, if answered { Reason::NO_ERROR } else { Reason::CANCEL });
    }
}
