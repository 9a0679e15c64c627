//! What came of a body and was not taken yet: in pieces, so that nothing is moved as more comes, and who takes some of it
//! holds no more than one of them. Pure.

use std::collections::VecDeque;

use super::frame::MAX_PAYLOAD;

/// Bytes of a piece: it leaves as one frame.
pub const PIECE: usize = MAX_PAYLOAD;

/// A piece that is larger has room for all that it may have: no more than twice as much as is in it.
const SMALL: usize = PIECE / 2;

/// Bytes in the order in which they came.
#[derive(Debug, Default)]
pub struct Pieces {
    /// Those that are full. Most bodies never have one.
    full: VecDeque<Vec<u8>>,
    last: Vec<u8>,
}

impl Pieces {
    /// More comes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(PIECE - self.last.len()));
            // One that may become full is not moved until it is.
            if self.last.capacity() < PIECE && self.last.len() + now.len() > SMALL {
                self.last.reserve_exact(PIECE - self.last.len());
            }
            self.last.extend_from_slice(now);
            bytes = rest;
            if self.last.len() == PIECE {
                self.full.push_back(std::mem::take(&mut self.last));
            }
        }
    }

    /// Takes the first piece.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        let last = || Some(std::mem::take(&mut self.last)).filter(|last| !last.is_empty());
        self.full.pop_front().or_else(last)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.full.is_empty() && self.last.is_empty()
    }

    /// Bytes of all of them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.full.len() * PIECE + self.last.len()
    }

    /// Drops all of them; their bytes.
    pub fn clear(&mut self) -> usize {
        std::mem::take(self).bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in_and_no_piece_is_too_large() {
        let body: Vec<u8> = (0..100_000_u32).map(|number| (number % 251) as u8).collect();
        for size in [1, 1000, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, body.len()] {
            let (mut pieces, mut taken) = (Pieces::default(), Vec::new());
            body.chunks(size).for_each(|bytes| pieces.push(bytes));
            assert!(!pieces.is_empty());
            while let Some(piece) = pieces.pop() {
                assert!((1..=PIECE).contains(&piece.len()) && piece.capacity() <= PIECE);
                taken.extend_from_slice(&piece);
            }
            assert!(taken == body && pieces.is_empty(), "in pieces of {size}");
            pieces.push(&body);
            assert_eq!((pieces.clear(), pieces.is_empty()), (body.len(), true));
        }
    }
}
