//! One field of a block, parsed once: a table keeps what a name and a value mean, so that a field that is said again by its
//! index costs a copy. What is not allowed in HTTP/2 is malformed, which is the stream's fault and not the connection's
//! (RFC 9113 §8.1.1).

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, StatusCode};

/// What an entry counts besides its name and its value (RFC 7541 §4.1).
pub const OVERHEAD: usize = 32;

/// The name of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// `:authority`
    Authority,
    /// `:method`
    Method,
    /// `:path`
    Path,
    /// `:protocol` (RFC 8441 §4)
    Protocol,
    /// `:scheme`
    Scheme,
    /// `:status`
    Status,
    /// Anything without a colon.
    Header(HeaderName),
    /// Not allowed, of this length.
    Malformed(usize),
}

/// A field with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// `:authority`
    Authority(Authority),
    /// `:method`
    Method(Method),
    /// `:path`
    Path(PathAndQuery),
    /// `:protocol` (RFC 8441 §4)
    Protocol(HeaderValue),
    /// `:scheme`
    Scheme(Scheme),
    /// `:status`
    Status(StatusCode),
    /// Anything without a colon.
    Header(HeaderName, HeaderValue),
    /// Not allowed.
    Malformed,
}

impl Name {
    /// Of a name as it was sent.
    #[must_use]
    pub fn parse(name: &[u8]) -> Self {
        match name {
            b":authority" => Self::Authority,
            b":method" => Self::Method,
            b":path" => Self::Path,
            b":protocol" => Self::Protocol,
            b":scheme" => Self::Scheme,
            b":status" => Self::Status,
            _ => match HeaderName::from_lowercase(name) {
                Ok(name) if !of_connection(&name) => Self::Header(name),
                Ok(_) | Err(_) => Self::Malformed(name.len()),
            },
        }
    }

    /// In bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no name is empty but a malformed one")]
    pub fn len(&self) -> usize {
        match self {
            Self::Path => 5,
            Self::Method | Self::Scheme | Self::Status => 7,
            Self::Protocol => 9,
            Self::Authority => 10,
            Self::Header(name) => name.as_str().len(),
            Self::Malformed(length) => *length,
        }
    }
}

/// Fields that mean something to HTTP/1's connections, and nothing in HTTP/2 (RFC 9113 §8.2.2).
fn of_connection(name: &HeaderName) -> bool {
    *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

impl Field {
    /// Of a value as it was sent.
    #[must_use]
    pub fn parse(name: &Name, value: &[u8]) -> Self {
        let parsed = match name {
            // What a user is called has no place in it (RFC 9113 §8.3.1).
            Name::Authority if value.contains(&b'@') => None,
            Name::Authority => Authority::from_maybe_shared(Bytes::copy_from_slice(value)).ok().map(Self::Authority),
            Name::Method => Method::from_bytes(value).ok().map(Self::Method),
            // A fragment is not sent (RFC 9113 §8.3.1), and would be lost.
            Name::Path if value.first() != Some(&b'/') && value != b"*" || value.contains(&b'#') => None,
            Name::Path => PathAndQuery::from_maybe_shared(Bytes::copy_from_slice(value)).ok().map(Self::Path),
            Name::Protocol if value.is_empty() => None,
            Name::Protocol => HeaderValue::from_bytes(value).ok().map(Self::Protocol),
            Name::Scheme if value == b"http" => Some(Self::Scheme(Scheme::HTTP)),
            Name::Scheme => Scheme::try_from(value).ok().map(Self::Scheme),
            Name::Status => StatusCode::from_bytes(value).ok().map(Self::Status),
            // The one value that may be said (RFC 9113 §8.2.2).
            Name::Header(name) if *name == header::TE && !value.eq_ignore_ascii_case(b"trailers") => None,
            Name::Header(name) => HeaderValue::from_bytes(value).ok().map(|value| Self::Header(name.clone(), value)),
            Name::Malformed(_) => None,
        };
        parsed.unwrap_or(Self::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_http2_does_not_allow_is_malformed() {
        for (name, value) in [
            ("Upper", "x"),
            (":unknown", "x"),
            (":protocol", ""),
            ("connection", "close"),
            ("keep-alive", "x"),
            ("proxy-connection", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "x"),
            ("te", "gzip"),
            ("", "x"),
            ("a b", "x"),
            (":path", ""),
            (":path", "no-slash"),
            (":path", "/a#b"),
            (":authority", ""),
            (":authority", "user@web"),
            (":status", "2xx"),
            ("x", "a\nb"),
        ] {
            assert_eq!(Field::parse(&Name::parse(name.as_bytes()), value.as_bytes()), Field::Malformed, "{name}");
        }
        for (name, value) in [("te", "trailers"), (":path", "*"), (":path", "/a?b"), ("x", "\u{e9}\t ")] {
            assert_ne!(Field::parse(&Name::parse(name.as_bytes()), value.as_bytes()), Field::Malformed, "{name}");
        }
    }
}
