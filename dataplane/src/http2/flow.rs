//! Flow control (RFC 9113 §5.2 and §6.9): what the other end may still send, and what may be sent to it. Pure.
//!
//! A stream begins with a small window. It grows while what comes is passed on as fast, out of what the connection has for
//! that: so streams that stall hold little, and the connection's window has room for all of them and one more.

use super::frame::{DEFAULT_WINDOW, MAX_PAYLOAD, MAX_WINDOW};

/// Bytes that may come ahead on a stream at its beginning.
pub const FIRST: u32 = DEFAULT_WINDOW;
/// Bytes that windows of streams may grow by, all of a connection's together: two uploads or a few at full speed.
pub const GROWTH: u32 = 2 * 1024 * 1024;
/// The largest window of a stream, doubled four times: 1 ms of 8 Gbit/s, or 20 ms of 400 Mbit/s.
const MOST: u32 = 16 * FIRST;
/// So far windows grow even where bodies wait: of smaller ones every second frame would give some back.
const STEADY: u32 = 4 * FIRST;
/// Less is not worth growing by.
const LEAST: u32 = 16 * 1024;
/// Bytes taken that are given back at the latest: what a large window holds back is no more than this.
const STEP: u32 = 128 * 1024;
/// What was taken of a stream and is not passed on.
const PIECE: u32 = MAX_PAYLOAD as u32;
/// The largest window of a connection, whatever the streams that it may have open.
const CAP: u32 = 32 * 1024 * 1024;

/// What may come ahead on a connection: one stream at full speed.
const AHEAD: u32 = MOST + STEP;

/// What a connection may have of us, held and sent ahead: `streams` may hold all of theirs, with what they have grown by, and
/// there is still as much as keeps another one going. Past [`CAP`] this holds for as many as fit, 380.
#[must_use]
pub const fn window(streams: u32) -> u32 {
    let all = streams.saturating_mul(FIRST + PIECE).saturating_add(GROWTH + 2 * STEP);
    if all < CAP { all } else { CAP }
}

/// What the windows of a connection's streams may still grow by.
#[derive(Clone, Copy, Debug)]
pub struct Growth(u32);

impl Growth {
    /// So many bytes.
    #[must_use]
    pub fn new(bytes: u32) -> Self {
        Self(bytes)
    }

    /// Takes as much of `wanted` as there is.
    fn lend(&mut self, wanted: u32) -> u32 {
        let lent = if self.0 < LEAST { 0 } else { wanted.min(self.0) };
        self.0 -= lent;
        lent
    }

    /// What a stream has grown by comes back: it is no more.
    pub fn give_back(&mut self, window: Receiving) {
        self.0 += window.grown;
    }
}

/// Takes `bytes` that came off what was `left`; false if that is more than was allowed.
fn spend(left: &mut u32, bytes: u32) -> bool {
    let rest = left.checked_sub(bytes);
    *left = rest.unwrap_or(0);
    rest.is_some()
}

/// What the other end may send on one stream.
#[derive(Clone, Copy, Debug)]
pub struct Receiving {
    size: u32,
    left: u32,
    /// Taken, and not given back yet.
    taken: u32,
    /// Taken since it has grown.
    since: u32,
    /// Part of `size` that was lent by [`Growth`].
    grown: u32,
}

impl Receiving {
    /// A window of `size` bytes.
    #[must_use]
    pub fn new(size: u32) -> Self {
        Self { size, left: size, taken: 0, since: 0, grown: 0 }
    }

    /// So many bytes came; false if that is more than was allowed.
    #[must_use]
    pub fn receive(&mut self, bytes: u32) -> bool {
        spend(&mut self.left, bytes)
    }

    /// So many bytes were taken; what is to be given back now, if it is worth a frame: half of the window, or [`STEP`].
    #[must_use]
    pub fn take(&mut self, bytes: u32) -> Option<u32> {
        self.taken += bytes;
        self.since = self.since.saturating_add(bytes);
        if self.taken < self.size.div_ceil(2).min(STEP) {
            return None;
        }
        self.left += self.taken;
        Some(std::mem::take(&mut self.taken))
    }

    /// Doubles, as far as `growth` goes; what is to be given for it. Past [`STEADY`] only if what is passed on `keeps_up` with
    /// what comes. Not before half of the window was passed on, and more than [`FIRST`]: so much most endpoints let come before
    /// they look at it. Not if all that is `to_come`, where that is known, may come anyway.
    #[must_use]
    pub fn grow(&mut self, growth: &mut Growth, keeps_up: bool, to_come: Option<u64>) -> u32 {
        let known = to_come.is_some_and(|bytes| bytes <= u64::from(self.left + self.taken));
        let most = if keeps_up { MOST } else { STEADY };
        if self.size >= most || self.since <= FIRST.max(self.size / 2) || known {
            return 0;
        }
        self.since = 0;
        let more = growth.lend(self.size.min(most - self.size));
        self.size += more;
        self.left += more;
        self.grown += more;
        more
    }
}

/// What the other end may send on all streams of a connection. Opened as bytes come, so that streams which stall are in nobody's
/// way, for as long as the connection may have more.
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    left: u32,
    size: u32,
    most: u32,
}

impl Ahead {
    /// As it is at the beginning (§6.9.2), of a connection that may have `most`.
    #[must_use]
    pub fn new(most: u32) -> Self {
        Self { left: FIRST, size: FIRST, most }
    }

    /// So many bytes came; false if that is more than was allowed.
    #[must_use]
    pub fn receive(&mut self, bytes: u32) -> bool {
        spend(&mut self.left, bytes)
    }

    /// Whether it is to be opened by what is worth a frame: half of it, or [`STEP`].
    #[must_use]
    pub fn due(&self) -> bool {
        self.size - self.left >= (self.size / 2).min(STEP)
    }

    /// Whether the other end may send next to nothing.
    #[must_use]
    pub fn spent(&self) -> bool {
        self.left < LEAST
    }

    /// What it would grow by, as long as what comes is passed on: no more is `held` than may come.
    #[must_use]
    pub fn growth(&self, held: u32) -> u32 {
        if held <= self.size { self.size.min(AHEAD - self.size) } else { 0 }
    }

    /// More may come ahead.
    pub fn grow(&mut self, more: u32) {
        self.size += more;
    }

    /// Opens it, with `held`, to no more than `share`; what is to be given, if it is worth a frame.
    #[must_use]
    pub fn open(&mut self, held: u32, share: u64) -> Option<u32> {
        let most = u32::try_from(share).unwrap_or(u32::MAX).min(self.most);
        let by = (self.size - self.left).min(most.saturating_sub(self.left.saturating_add(held)));
        if by < LEAST {
            return None;
        }
        self.left += by;
        Some(by)
    }

    /// Whether a connection that may have `share` may have less than by its own window.
    #[must_use]
    pub fn cut_by(&self, share: u64) -> bool {
        share < self.most.into()
    }
}

/// What may be sent to the other end; below zero after it has made its windows smaller (§6.9.2).
#[derive(Clone, Copy, Debug)]
pub struct Sending(i64);

impl Sending {
    /// A window of `size` bytes.
    #[must_use]
    pub fn new(size: u32) -> Self {
        Self(size.into())
    }

    /// Bytes that may be sent.
    #[must_use]
    pub fn left(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    /// So many were sent.
    pub fn send(&mut self, bytes: usize) {
        self.0 -= bytes as i64;
    }

    /// The other end allows so many more, or less; false if it may not be as large (§6.9.1).
    #[must_use]
    pub fn grow(&mut self, by: i64) -> bool {
        self.0 += by;
        self.0 <= i64::from(MAX_WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_given_back_by_halves_and_no_more_than_that_may_come() {
        let mut window = Receiving::new(10);
        assert!(window.receive(10));
        assert_eq!((window.take(4), window.take(2)), (None, Some(6)));
        assert!(window.receive(6));
        assert!(!window.receive(1));
    }

    /// Passes so many bytes through the window, which may grow before that; what it has grown by.
    fn passed(window: &mut Receiving, growth: &mut Growth, bytes: u32) -> u32 {
        let more = window.grow(growth, true, None);
        assert!(window.receive(bytes));
        let _ = window.take(bytes);
        more
    }

    #[test]
    fn a_window_doubles_up_to_its_most_while_what_comes_is_passed_on() {
        let (mut growth, mut window) = (Growth::new(GROWTH), Receiving::new(FIRST));
        assert_eq!(passed(&mut window, &mut growth, FIRST), 0, "nothing was passed on yet");
        assert_eq!(passed(&mut window, &mut growth, 1), 0, "an endpoint that does not look may have taken it");
        let mut grown = Vec::new();
        for _ in 0..5 {
            grown.push(window.grow(&mut growth, true, None));
            let half = window.size / 2 + 1;
            assert!(window.receive(half));
            let _ = window.take(half);
        }
        assert_eq!(grown, [65_535, 131_070, 262_140, 524_280, 0]);
        assert_eq!(window.size, MOST);
    }

    #[test]
    fn no_window_grows_further_than_there_is_growth() {
        let mut growth = Growth::new(100_000);
        let grown = |growth: &mut Growth| {
            let mut window = Receiving::new(FIRST);
            (0..10).for_each(|_| _ = passed(&mut window, growth, FIRST));
            window
        };
        let windows = [grown(&mut growth), grown(&mut growth)];
        assert_eq!((windows.map(|window| window.size - FIRST), growth.0), ([100_000, 0], 0));
        growth.give_back(windows[0]);
        assert_eq!(growth.0, 100_000);
        growth.0 = LEAST - 1;
        assert_eq!((grown(&mut growth).size, growth.0), (FIRST, LEAST - 1), "crumbs are left");
    }

    #[test]
    fn a_window_does_not_grow_for_what_may_come_anyway() {
        let (mut growth, mut window) = (Growth::new(GROWTH), Receiving::new(FIRST));
        passed(&mut window, &mut growth, FIRST);
        passed(&mut window, &mut growth, 10);
        assert_eq!(window.grow(&mut growth, true, Some(FIRST.into())), 0);
        assert_eq!(window.grow(&mut growth, true, Some(u64::from(FIRST) + 1)), FIRST);
    }

    #[test]
    fn a_large_window_holds_back_no_more_than_a_step() {
        let mut window = Receiving::new(CAP);
        assert_eq!((window.take(STEP - 1), window.take(1)), (None, Some(STEP)));
    }

    /// The promise of [`window`], at its worst: all but one hold everything that they may, and as much of the connection's
    /// window as can be was taken and is not given back.
    #[test]
    fn all_streams_but_one_may_stall() {
        for streams in [1, 2, 100, 250, 380] {
            let held = (streams - 1) * (FIRST + PIECE) + GROWTH;
            let left = window(streams) - held - (STEP - 1);
            assert!(left > STEP + FIRST, "{streams} streams: {left}");
        }
        assert_eq!((window(381), window(10_000), window(u32::MAX)), (CAP, CAP, CAP));
    }

    #[test]
    fn a_connections_window_is_opened_as_bytes_come_up_to_its_share() {
        let mut window = Ahead::new(CAP);
        assert!(window.receive(FIRST / 2 - 1) && !window.due());
        assert!(window.receive(1) && window.due());
        assert_eq!((window.growth(FIRST), window.growth(FIRST + 1)), (FIRST, 0));
        let held = FIRST / 2;
        assert_eq!(window.open(held, FIRST.into()), None, "it has all that it may");
        assert_eq!(window.open(held, u64::from(FIRST + LEAST)), Some(LEAST));
        assert!(window.receive(LEAST + FIRST / 2 + 1) && window.spent());
        assert!(!window.receive(1));
        assert_eq!(window.open(0, u64::MAX), Some(FIRST), "what was passed on comes back");
        for _ in 0..10 {
            window.grow(window.growth(0));
        }
        assert_eq!((window.size, window.open(0, u64::MAX)), (AHEAD, Some(AHEAD - FIRST)));
        assert!(window.cut_by(u64::from(CAP - 1)) && !window.cut_by(CAP.into()));
    }

    #[test]
    fn a_window_may_be_below_zero_and_not_past_its_most() {
        let mut window = Sending::new(100);
        window.send(60);
        assert!(window.grow(-50));
        assert_eq!(window.left(), 0);
        assert!(window.grow(11));
        assert_eq!(window.left(), 1);
        assert!(!window.grow(i64::from(MAX_WINDOW)));
    }
}
