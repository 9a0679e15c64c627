//! Streams that `h2` refuses because too many are open: it counts none, so the frames that leave are looked at, by their
//! headers only. Pure.

/// Length of a frame's header (RFC 9113 §4.1).
const HEADER: usize = 9;
/// Type of RST_STREAM (RFC 9113 §6.4), and the error code of a refusal (§7).
const RST_STREAM: u8 = 3;
const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];

/// Where in a frame the connection is, and how many were refusals.
#[derive(Debug, Default)]
pub struct Refusals {
    /// Of a payload that is not looked at.
    skip: usize,
    /// The header, and the payload of RST_STREAM.
    head: [u8; HEADER + 4],
    filled: usize,
    count: u64,
}

impl Refusals {
    /// More bytes leave.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let count = self.skip.min(bytes.len());
                self.skip -= count;
                bytes = &bytes[count..];
                continue;
            }
            let wanted = if self.filled < HEADER { HEADER } else { self.head.len() };
            let count = (wanted - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
            self.filled += count;
            bytes = &bytes[count..];
            let [a, b, c, kind, ..] = self.head;
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if self.filled == self.head.len() {
                self.count += u64::from(self.head[HEADER..] == REFUSED_STREAM);
                self.filled = 0;
            } else if self.filled == HEADER && (kind != RST_STREAM || length != 4) {
                (self.skip, self.filled) = (length, 0);
            }
        }
    }

    /// Refusals since the last call.
    pub fn take(&mut self) -> u64 {
        std::mem::take(&mut self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_seen_however_the_frames_are_cut() {
        let frame = |kind: u8, payload: &[u8]| {
            let length = u8::try_from(payload.len()).unwrap();
            [&[0, 0, length, kind, 0, 0, 0, 0, 1], payload].concat()
        };
        // A payload that looks like a refusal, a reset for another reason, and a refusal.
        let refusal = frame(RST_STREAM, &REFUSED_STREAM);
        let sent = [frame(0, &refusal), frame(RST_STREAM, &[0, 0, 0, 8]), frame(1, &[]), refusal.clone()].concat();
        for size in 1..=sent.len() {
            let mut refusals = Refusals::default();
            sent.chunks(size).for_each(|piece| refusals.pass(piece));
            assert_eq!((refusals.take(), refusals.take()), (1, 0), "in pieces of {size}");
        }
    }
}
