//! Flow control (RFC 9113 §5.2 and §6.9): what the other end may still send, and what may be sent to it. Pure.

use super::frame::MAX_WINDOW;

/// What the other end may send, of one stream or of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Receiving {
    size: u32,
    left: u32,
    /// Taken, and not given back yet.
    taken: u32,
}

impl Receiving {
    /// A window of `size` bytes.
    #[must_use]
    pub fn new(size: u32) -> Self {
        Self { size, left: size, taken: 0 }
    }

    /// So many bytes came; false if that is more than was allowed.
    #[must_use]
    pub fn receive(&mut self, bytes: u32) -> bool {
        let left = self.left.checked_sub(bytes);
        self.left = left.unwrap_or(0);
        left.is_some()
    }

    /// So many bytes were taken; what is to be given back now, if it is worth a frame: half of the window.
    #[must_use]
    pub fn take(&mut self, bytes: u32) -> Option<u32> {
        self.taken += bytes;
        if self.taken < self.size.div_ceil(2) {
            return None;
        }
        self.left += self.taken;
        Some(std::mem::take(&mut self.taken))
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
