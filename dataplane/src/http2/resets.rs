//! How often a client resets what it asked for before it has an answer (CVE-2023-44487), whether it was looked at already or
//! not: a client that lets each stream begin makes work without end.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Resets in one [`WINDOW`] that are nobody's business: deadlines, cancelled calls, closed tabs.
const MAX_RESETS: u32 = 500;
/// Time over which resets are counted.
const WINDOW: Duration = Duration::from_secs(10);

/// Of one connection.
#[derive(Debug)]
pub(super) struct Resets {
    window: Cell<Instant>,
    opened: Cell<u32>,
    reset: Cell<u32>,
    over: Cell<bool>,
}

impl Resets {
    /// None yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { window: Cell::new(now), opened: Cell::default(), reset: Cell::default(), over: Cell::default() }
    }

    /// A stream was opened.
    pub(super) fn open(&self) {
        self.opened.set(self.opened.get().saturating_add(1));
    }

    /// One was reset before its answer.
    pub(super) fn reset(&self, now: Instant) {
        if now.duration_since(self.window.get()) > WINDOW {
            self.window.set(now);
            self.opened.set(0);
            self.reset.set(0);
        }
        self.reset.set(self.reset.get() + 1);
        if self.reset.get() > MAX_RESETS && self.reset.get() > self.opened.get() / 2 {
            self.over.set(true);
        }
    }

    /// Whether there were more than [`MAX_RESETS`] in a window, and more than half of what was opened in it.
    pub(super) fn over(&self) -> bool {
        self.over.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_resets_are_too_many_only_if_most_of_what_was_opened_is_reset() {
        let now = Instant::now();
        for (opens, over) in [(1, true), (3, false)] {
            let resets = Resets::new(now);
            for number in 0..=MAX_RESETS {
                assert!(!resets.over(), "after {number}");
                (0..opens).for_each(|_| resets.open());
                resets.reset(now);
            }
            assert_eq!(resets.over(), over, "{opens} opened for each that is reset");
        }
    }

    #[test]
    fn resets_that_take_their_time_are_none_of_our_business() {
        let (mut now, resets) = (Instant::now(), Resets::new(Instant::now()));
        for _ in 0..10 * MAX_RESETS {
            now += WINDOW / (MAX_RESETS - 1);
            resets.open();
            resets.reset(now);
        }
        assert!(!resets.over());
    }
}
