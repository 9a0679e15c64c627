//! What heads of both directions have in common.

use httparse::Header;
use memchr::memchr_iter;

/// Header fields in the head of an answer.
pub const MAX_HEADERS: usize = 100;

/// Where a head ends in a buffer that grows.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScan {
    scanned: usize,
    line: usize,
}

/// A line that ends in a bare LF; parsers differ on whether it ends at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BareLf;

impl HeadScan {
    /// Looks at what was added to `buffer` since the last call; the length of the head once its empty line is there.
    ///
    /// # Errors
    /// As soon as a line ends in a bare LF.
    pub fn advance(&mut self, buffer: &[u8]) -> Result<Option<usize>, BareLf> {
        for at in memchr_iter(b'\n', &buffer[self.scanned..]) {
            let end = self.scanned + at;
            if end == self.line || buffer[end - 1] != b'\r' {
                return Err(BareLf);
            }
            if end == self.line + 1 {
                return Ok(Some(end + 1));
            }
            self.line = end + 1;
        }
        self.scanned = buffer.len();
        Ok(None)
    }
}

/// Comma-separated elements, without empty ones.
pub fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// Digits only; leading zeros are allowed (RFC 9110 §8.6 has them in the grammar).
#[must_use]
pub fn content_length(value: &[u8]) -> Option<u64> {
    let digit = |sum: u64, byte: &u8| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    };
    if value.is_empty() { None } else { value.iter().try_fold(0, digit) }
}

/// Appends one field.
pub fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a decimal number.
pub fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Whether `Connection` names `header` (other than the options that every implementation knows).
#[must_use]
pub fn named_by(connection: &[u8], header: &Header<'_>) -> bool {
    elements(connection).any(|element| element.eq_ignore_ascii_case(header.name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_head_is_found_however_it_arrives() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        for step in 1..head.len() {
            let mut scan = HeadScan::default();
            let mut found = None;
            for end in (step..head.len()).step_by(step).chain([head.len()]) {
                found = found.or(scan.advance(&head[..end]).unwrap());
                if found.is_some() {
                    break;
                }
            }
            assert_eq!(found, Some(head.len() - 4), "in steps of {step}");
        }
    }

    #[test]
    fn a_bare_line_feed_is_told_at_once() {
        for text in ["GET / HTTP/1.1\n", "GET / HTTP/1.1\r\nA: b\n", "GET / HTTP/1.1\r\n\n", "\n"] {
            assert_eq!(HeadScan::default().advance(text.as_bytes()), Err(BareLf), "{text:?}");
        }
    }
}
