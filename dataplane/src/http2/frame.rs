//! Frames as they cross the wire (RFC 9113 §4 and §6): heads read, small frames written. Pure; what a frame means is
//! decided in `connection`.

use std::fmt;

/// Bytes of a frame's head (§4.1).
pub const HEAD: usize = 9;
/// Largest payload that is taken, and sent: what holds as long as nobody says otherwise (§6.5.2).
pub const MAX_PAYLOAD: usize = 16_384;
/// First bytes of a client (§3.4). `PRI` is no method of HTTP/1.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Windows before anybody says otherwise (§6.9.2), in bytes.
pub const DEFAULT_WINDOW: u32 = 65_535;
/// No window may grow past this (§6.9.1), and no stream's number (§5.1.1).
pub const MAX_WINDOW: u32 = (1 << 31) - 1;

/// Types of frames (§6).
pub mod kind {
    #![allow(missing_docs, reason = "named as the RFC does")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames (§6).
pub mod flag {
    #![allow(missing_docs, reason = "named as the RFC does")]
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
}

/// Names of settings (§6.5.2).
pub mod setting {
    #![allow(missing_docs, reason = "named as the RFC does")]
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    /// RFC 8441 §3.
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// Why a stream or a connection ends (§7).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Reason(pub u32);

impl Reason {
    #![allow(missing_docs, reason = "named as the RFC does")]
    pub const NO_ERROR: Self = Self(0);
    pub const PROTOCOL_ERROR: Self = Self(1);
    pub const INTERNAL_ERROR: Self = Self(2);
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    pub const STREAM_CLOSED: Self = Self(5);
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    pub const REFUSED_STREAM: Self = Self(7);
    pub const CANCEL: Self = Self(8);
    pub const COMPRESSION_ERROR: Self = Self(9);
    pub const ENHANCE_YOUR_CALM: Self = Self(11);
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0 => "NO_ERROR",
            1 => "PROTOCOL_ERROR",
            2 => "INTERNAL_ERROR",
            3 => "FLOW_CONTROL_ERROR",
            4 => "SETTINGS_TIMEOUT",
            5 => "STREAM_CLOSED",
            6 => "FRAME_SIZE_ERROR",
            7 => "REFUSED_STREAM",
            8 => "CANCEL",
            9 => "COMPRESSION_ERROR",
            10 => "CONNECT_ERROR",
            11 => "ENHANCE_YOUR_CALM",
            12 => "INADEQUATE_SECURITY",
            13 => "HTTP_1_1_REQUIRED",
            other => return write!(out, "code {other}"),
        };
        out.write_str(name)
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Of the payload, in bytes.
    pub length: usize,
    /// One of [`kind`], or unknown.
    pub kind: u8,
    /// Of [`flag`].
    pub flags: u8,
    /// 0: the connection.
    pub stream: u32,
}

impl Head {
    /// Reads it; `None` if there are fewer bytes than [`HEAD`].
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, kind, flags, d, e, f, g] = bytes.first_chunk::<HEAD>()?;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        Some(Self { length, kind, flags, stream: u32::from_be_bytes([d, e, f, g]) & MAX_WINDOW })
    }

    /// Whether `flag` is set.
    #[must_use]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Writes it; the payload is to follow.
    pub fn write(&self, out: &mut Vec<u8>) {
        let [_, a, b, c] = u32::try_from(self.length).expect("a payload is at most 16 MiB").to_be_bytes();
        let [d, e, f, g] = self.stream.to_be_bytes();
        out.extend_from_slice(&[a, b, c, self.kind, self.flags, d, e, f, g]);
    }
}

/// A number of four bytes at the start of `bytes`.
#[must_use]
pub fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// Writes a frame.
pub fn write(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    Head { length: payload.len(), kind, flags, stream }.write(out);
    out.extend_from_slice(payload);
}

/// Writes SETTINGS.
pub fn settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    Head { length: settings.len() * 6, kind: kind::SETTINGS, flags: 0, stream: 0 }.write(out);
    for (name, value) in settings {
        out.extend_from_slice(&name.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Writes RST_STREAM.
pub fn reset(out: &mut Vec<u8>, stream: u32, reason: Reason) {
    write(out, kind::RST_STREAM, 0, stream, &reason.0.to_be_bytes());
}

/// Writes WINDOW_UPDATE.
pub fn window_update(out: &mut Vec<u8>, stream: u32, by: u32) {
    write(out, kind::WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
}

/// Writes GOAWAY.
pub fn go_away(out: &mut Vec<u8>, last: u32, reason: Reason) {
    Head { length: 8, kind: kind::GOAWAY, flags: 0, stream: 0 }.write(out);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&reason.0.to_be_bytes());
}

/// What of a payload is left without padding, and how long the padding is, its length included; `None` if it is longer
/// than the payload (§6.1).
#[must_use]
pub fn unpadded(head: Head, payload: &[u8]) -> Option<(&[u8], usize)> {
    if !head.has(flag::PADDED) {
        return Some((payload, 0));
    }
    let (&padding, rest) = payload.split_first()?;
    let length = rest.len().checked_sub(usize::from(padding))?;
    Some((&rest[..length], usize::from(padding) + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written_and_the_reserved_bit_ignored() {
        let head = Head { length: 0x0001_0203, kind: kind::DATA, flags: flag::END_STREAM, stream: 0x7fff_fffe };
        let mut out = Vec::new();
        head.write(&mut out);
        assert_eq!(Head::read(&out), Some(head));
        out[5] |= 0x80;
        assert_eq!(Head::read(&out), Some(head));
        assert_eq!(Head::read(&out[..8]), None);
    }

    #[test]
    fn padding_may_not_be_longer_than_the_payload() {
        let head = Head { length: 4, kind: kind::DATA, flags: flag::PADDED, stream: 1 };
        assert_eq!(unpadded(head, &[3, 1, 2, 3]), Some((&[][..], 4)));
        assert_eq!(unpadded(head, &[1, 1, 2, 3]), Some((&[1, 2][..], 2)));
        assert_eq!(unpadded(head, &[4, 1, 2, 3]), None);
        assert_eq!(unpadded(head, &[]), None);
    }
}
