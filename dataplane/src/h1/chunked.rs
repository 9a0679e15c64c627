//! The chunked coding (RFC 9112 §7.1), strict: CRLF only, at most 16 hex digits, extensions dropped and bounded. No I/O.

use http::HeaderMap;
use httparse::Header;

use crate::h1::text::field;

/// Bytes of extensions in one body: nobody uses them but attackers.
const MAX_EXTENSIONS: usize = 4 * 1024;
/// Bytes of trailers.
const MAX_TRAILERS: usize = 8 * 1024;
/// Trailer fields.
const MAX_TRAILER_FIELDS: usize = 32;

/// Decodes one body, fed piece by piece.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    extensions: usize,
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size { value: u64, digits: u8 },
    Extension { value: u64 },
    SizeLf { value: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    Trailers,
    Done,
}

/// What one call found; the caller drops `used` bytes and calls again with the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Needs more bytes than these, all of which were used.
    More,
    /// The `length` bytes that end at `used` are the body's.
    Data {
        /// Bytes of the input that are dealt with.
        used: usize,
        /// How many of them, at their end, are data.
        length: usize,
    },
    /// The body and its trailers are complete.
    Done {
        /// Bytes of the input that are dealt with; what follows is the next message.
        used: usize,
    },
}

/// The bytes are not a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("chunked body is not valid")]
pub struct Malformed;

impl Default for Decoder {
    fn default() -> Self {
        Self { state: State::Size { value: 0, digits: 0 }, extensions: 0, trailers: Vec::new() }
    }
}

impl Decoder {
    /// Goes on with `input`, which follows what was used before.
    ///
    /// # Errors
    /// When the body cannot be read in exactly one way.
    pub fn step(&mut self, input: &[u8]) -> Result<Step, Malformed> {
        for (at, byte) in input.iter().copied().enumerate() {
            self.state = match self.state {
                State::Size { value, digits } => match (byte, (byte as char).to_digit(16)) {
                    (_, Some(digit)) if digits < 16 => {
                        State::Size { value: value << 4 | u64::from(digit), digits: digits + 1 }
                    }
                    (b'\r', _) if digits > 0 => State::SizeLf { value },
                    (b';', _) if digits > 0 => {
                        self.extensions += 1;
                        State::Extension { value }
                    }
                    _ => return Err(Malformed),
                },
                State::Extension { value } => match byte {
                    b'\r' => State::SizeLf { value },
                    b'\n' | 0..=8 | 11..=31 | 127 => return Err(Malformed),
                    _ if self.extensions >= MAX_EXTENSIONS => return Err(Malformed),
                    _ => {
                        self.extensions += 1;
                        State::Extension { value }
                    }
                },
                State::SizeLf { value } if byte == b'\n' => after_size(value),
                State::Data { left } => {
                    let length = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - at);
                    let left = left - length as u64;
                    self.state = if left == 0 { State::DataCr } else { State::Data { left } };
                    return Ok(Step::Data { used: at + length, length });
                }
                State::DataCr if byte == b'\r' => State::DataLf,
                State::DataLf if byte == b'\n' => State::Size { value: 0, digits: 0 },
                State::Trailers => {
                    self.trailers.push(byte);
                    if self.trailers.ends_with(b"\n") && !self.trailers.ends_with(b"\r\n")
                        || self.trailers.len() > MAX_TRAILERS
                    {
                        return Err(Malformed);
                    }
                    if self.trailers == b"\r\n" || self.trailers.ends_with(b"\r\n\r\n") {
                        self.state = State::Done;
                        return Ok(Step::Done { used: at + 1 });
                    }
                    State::Trailers
                }
                State::SizeLf { .. } | State::DataCr | State::DataLf => return Err(Malformed),
                State::Done => return Ok(Step::Done { used: at }),
            };
        }
        Ok(if self.state == State::Done { Step::Done { used: input.len() } } else { Step::More })
    }

    /// Trailer fields, once the body is complete.
    ///
    /// # Errors
    /// When they are not fields.
    pub fn trailers<'a>(
        &'a self,
        room: &'a mut [Header<'a>; MAX_TRAILER_FIELDS],
    ) -> Result<&'a [Header<'a>], Malformed> {
        match httparse::parse_headers(&self.trailers, room) {
            Ok(httparse::Status::Complete((_, fields))) => Ok(fields),
            Ok(httparse::Status::Partial) | Err(_) => Err(Malformed),
        }
    }
}

fn after_size(value: u64) -> State {
    if value == 0 { State::Trailers } else { State::Data { left: value } }
}

/// Room for the trailer fields of one body.
#[must_use]
pub fn trailer_room<'a>() -> [Header<'a>; MAX_TRAILER_FIELDS] {
    [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS]
}

/// Appends one chunk; nothing for an empty one, which would end the body.
pub fn write_chunk(out: &mut Vec<u8>, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    write_size(out, data.len());
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// Appends what comes before the data of a chunk.
pub fn write_size(out: &mut Vec<u8>, size: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let first = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..first).rev() {
        out.push(DIGITS[size >> (digit * 4) & 15]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether a field may stand in trailers (RFC 9110 §6.5.1), of either version (RFC 9113 §8.2.2).
#[must_use]
pub fn may_trail(name: &str) -> bool {
    const FORBIDDEN: [&str; 13] = [
        "transfer-encoding",
        "content-length",
        "host",
        "connection",
        "keep-alive",
        "proxy-connection",
        "trailer",
        "te",
        "upgrade",
        "authorization",
        "proxy-authenticate",
        "proxy-authorization",
        "cookie",
    ];
    !FORBIDDEN.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden))
}

/// Appends the end of a body with those of `trailers` that may stand there.
pub fn write_end(out: &mut Vec<u8>, trailers: &[Header<'_>]) {
    end(out, trailers.iter().map(|trailer| (trailer.name, trailer.value)));
}

/// As [`write_end`], of trailers in `http`'s types.
pub fn write_end_of(out: &mut Vec<u8>, trailers: &HeaderMap) {
    end(out, trailers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
}

fn end<'a>(out: &mut Vec<u8>, trailers: impl Iterator<Item = (&'a str, &'a [u8])>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.filter(|(name, _)| may_trail(name)) {
        field(out, name.as_bytes(), value);
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Body and what follows it.
    type Decoded = Option<(Vec<u8>, Vec<u8>)>;

    /// Fed in pieces of `step` bytes.
    fn decode(input: &[u8], step: usize) -> Result<Decoded, Malformed> {
        let (mut decoder, mut body, mut at) = (Decoder::default(), Vec::new(), 0);
        for end in (step..input.len()).step_by(step).chain([input.len()]) {
            while at < end {
                match decoder.step(&input[at..end])? {
                    Step::More => at = end,
                    Step::Data { used, length } => {
                        body.extend_from_slice(&input[at + used - length..at + used]);
                        at += used;
                    }
                    Step::Done { used } => return Ok(Some((body, input[at + used..].to_vec()))),
                }
            }
        }
        Ok(None)
    }

    #[test]
    fn a_body_is_read_the_same_however_it_arrives() {
        let input = b"3\r\nhel\r\n0002;x=\"y\"\r\nlo\r\n0\r\nA: b\r\nC: d\r\n\r\nGET";
        for step in 1..=input.len() {
            assert_eq!(decode(input, step), Ok(Some((b"hello".to_vec(), b"GET".to_vec()))), "in steps of {step}");
        }
    }

    #[test]
    fn what_parsers_could_read_differently_is_refused() {
        for input in [
            "0x2\r\nhi\r\n0\r\n\r\n",
            "+2\r\nhi\r\n0\r\n\r\n",
            "-2\r\nhi\r\n0\r\n\r\n",
            " 2\r\nhi\r\n0\r\n\r\n",
            "2 \r\nhi\r\n0\r\n\r\n",
            "\r\nhi\r\n",
            ";x\r\nhi\r\n",
            "2\nhi\n0\n\n",
            "2\r\nhi\n0\r\n\r\n",
            "2\r\nhiX\r\n0\r\n\r\n",
            "2\r\nhi0\r\n\r\n",
            "2;x\nhi\r\n0\r\n\r\n",
            "2\rX",
            "2;x\rX",
            "10000000000000002\r\nhi",
            "0\r\nA: b\n\r\n",
        ] {
            assert_eq!(decode(input.as_bytes(), input.len()), Err(Malformed), "{input:?}");
        }
    }

    #[test]
    fn endless_extensions_and_trailers_are_refused() {
        let extension = format!("2;{}", "x".repeat(MAX_EXTENSIONS));
        assert_eq!(decode(extension.as_bytes(), 100), Err(Malformed));
        let many = "1;x\r\na\r\n".repeat(MAX_EXTENSIONS);
        assert_eq!(decode(many.as_bytes(), 1_000), Err(Malformed));
        let trailers = format!("0\r\n{}", "A: b\r\n".repeat(MAX_TRAILERS));
        assert_eq!(decode(trailers.as_bytes(), 1_000), Err(Malformed));
    }

    #[test]
    fn what_is_written_is_read_back() {
        for size in [1, 9, 10, 15, 16, 17, 255, 256, 65_536] {
            let mut out = Vec::new();
            write_chunk(&mut out, &vec![b'x'; size]);
            write_chunk(&mut out, b"");
            write_end(&mut out, &[]);
            assert_eq!(decode(&out, 7).unwrap().unwrap().0.len(), size);
        }
    }

    #[test]
    fn trailers_keep_what_may_stand_there() {
        let mut decoder = Decoder::default();
        let input = b"0\r\nX-Sum: 1\r\nContent-Length: 3\r\nKeep-Alive: 5\r\n\r\n";
        assert_eq!(decoder.step(input), Ok(Step::Done { used: input.len() }));
        let (mut room, mut out) = (trailer_room(), Vec::new());
        write_end(&mut out, decoder.trailers(&mut room).unwrap());
        assert_eq!(out, b"0\r\nX-Sum: 1\r\n\r\n");
    }
}
