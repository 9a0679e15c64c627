//! A client's head: parsed, judged (RFC 9112 §2–§7, stricter where parsers are known to differ) and written anew for the
//! endpoint. No I/O.
//!
//! Here: what a head is and how its lines are judged; what each field says is in [`fields`], what the endpoint gets in
//! [`write`].

mod fields;
mod write;

use std::mem::MaybeUninit;

use http::StatusCode;
use httparse::Header;
use routing::limits::MOST_HEADERS;
use routing::rules;

use self::fields::{Seen, option};

/// Room for the fields of one head: as many as its length are allowed.
pub type Room<'b> = [MaybeUninit<Header<'b>>];

/// How the length of a request's body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// `Content-Length`, above zero.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// What the proxy needs to know of a request once its head is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its answer has no body.
    pub head_method: bool,
    /// May be sent twice (RFC 9110 §9.2.2).
    pub idempotent: bool,
    /// HTTP/1.0: knows neither chunks nor interim answers.
    pub http10: bool,
    /// Its body.
    pub framing: Framing,
    /// The connection may be used for another request.
    pub keep_alive: bool,
    /// Waits for `100 Continue` before it sends its body.
    pub expects_continue: bool,
    /// Asks to switch to WebSocket.
    pub websocket: bool,
}

/// A head that is in order.
#[derive(Debug)]
pub struct Head<'h, 'b> {
    /// As sent.
    pub method: &'b str,
    /// Path and query, or `*`.
    pub target: &'b str,
    /// From the target's absolute form, else from `Host`.
    pub authority: &'b [u8],
    /// All fields, as sent.
    pub headers: &'h [Header<'b>],
    /// What follows from them.
    pub facts: Facts,
    connection: &'b [u8],
    several_connections: bool,
    trailers: bool,
}

/// Why a head is refused; the connection is closed after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Sent to the client.
    pub status: StatusCode,
    /// Sent to the client.
    pub reason: &'static str,
}

const fn bad(reason: &'static str) -> Reject {
    Reject { status: StatusCode::BAD_REQUEST, reason }
}

/// The head is none.
pub const UNREADABLE: Reject = bad("request head is not valid");
/// There are more fields than there is room for.
pub const TOO_MANY: Reject =
    Reject { status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, reason: "request has too many header fields" };
/// The head has no end within the bytes that it may have.
pub const TOO_LARGE: Reject =
    Reject { status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, reason: "request head is too large" };
/// The peer speaks another protocol: an answer in HTTP would mean nothing to it, the connection is closed.
pub const NOT_HTTP: Reject = bad("not HTTP");
/// A line of the head ends in a bare LF.
pub const BARE_LF: Reject = bad("line ends in a bare LF");

/// The most room that a head can be given; uninitialized, so that only what is used costs.
#[must_use]
pub fn room<'b>() -> [MaybeUninit<Header<'b>>; MOST_HEADERS] {
    [const { MaybeUninit::uninit() }; MOST_HEADERS]
}

/// Parses and judges one whole head, its empty line included.
///
/// # Errors
/// With the answer that the client gets.
pub fn parse<'h, 'b>(bytes: &'b [u8], room: &'h mut Room<'b>) -> Result<Head<'h, 'b>, Reject> {
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(bytes, room) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(UNREADABLE),
        Err(error) => return Err(unreadable(bytes, error)),
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(bad("request line is not valid"));
    };
    judge(bytes, method, target, version == 0, parsed.headers)
}

fn unreadable(bytes: &[u8], error: httparse::Error) -> Reject {
    use httparse::Error;
    match error {
        Error::HeaderName => bad("header field name is not valid"),
        Error::HeaderValue => bad("header field value is not valid"),
        Error::TooManyHeaders => TOO_MANY,
        Error::Version if names_version(bytes) => Reject {
            status: StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            reason: "only HTTP/1.0 and HTTP/1.1 are spoken here",
        },
        Error::Version if names_no_http(bytes) => NOT_HTTP,
        Error::NewLine | Error::Status | Error::Token | Error::Version => bad("request line is not valid"),
    }
}

/// Whether the first line has the three words of a request line, of which the last names another protocol: a client
/// of another protocol, or one that got HTTP/2's preface wrong (RFC 9113 §3.4).
fn names_no_http(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ').skip(2);
    let other = words.next().is_some_and(|word| {
        let name = word.get(..5).unwrap_or(word);
        !name.is_empty() && !name.eq_ignore_ascii_case(b"HTTP/")
    });
    other && words.next().is_none()
}

/// Whether the third word of the request line is the name of a version, only not of ours.
fn names_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ').skip(2);
    let version = words.next().and_then(|word| word.strip_prefix(b"HTTP/"));
    matches!(version, Some([b'0'..=b'9', b'.', b'0'..=b'9'])) && words.next().is_none()
}

fn judge<'h, 'b>(
    bytes: &'b [u8],
    method: &'b str,
    target: &'b str,
    http10: bool,
    headers: &'h [Header<'b>],
) -> Result<Head<'h, 'b>, Reject> {
    if method.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err(bad("method is not valid"));
    }
    if method == "CONNECT" {
        return Err(Reject { status: StatusCode::METHOD_NOT_ALLOWED, reason: "CONNECT is not served here" });
    }
    let mut seen = Seen::default();
    for header in headers {
        seen.header(bytes, header)?;
    }
    let (target, absolute) = split_target(method, target)?;
    let host = seen.host.ok_or(bad("request has no Host"))?;
    let authority = absolute.map_or(host, str::as_bytes);
    if !valid_authority(host) || !valid_authority(authority) {
        return Err(bad("Host is not valid"));
    }
    let framing = seen.framing(http10)?;
    if seen.expects_continue && http10 {
        seen.expects_continue = false;
    }
    let close = option(seen.connection, b"close");
    let keep_alive = !close && (!http10 || option(seen.connection, b"keep-alive"));
    // RFC 6455 §4.1: GET, HTTP/1.1; a body before the switch could be read as either protocol.
    let websocket =
        seen.websocket && option(seen.connection, b"upgrade") && method == "GET" && !http10 && framing == Framing::None;
    let facts = Facts {
        head_method: method == "HEAD",
        idempotent: matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"),
        http10,
        framing,
        keep_alive,
        expects_continue: seen.expects_continue && framing != Framing::None,
        websocket,
    };
    Ok(Head {
        method,
        target,
        authority,
        headers,
        facts,
        connection: seen.connection,
        several_connections: seen.connections > 1,
        trailers: seen.trailers,
    })
}

/// Path and query, and the authority if the target has one.
fn split_target<'b>(method: &str, target: &'b str) -> Result<(&'b str, Option<&'b str>), Reject> {
    const INVALID: Reject = bad("request target is not valid");
    if !target.is_ascii() || target.contains('#') {
        return Err(INVALID);
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok((target, None));
    }
    let (scheme, rest) = target.split_once("://").ok_or(INVALID)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(INVALID);
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    match (&rest[..end], &rest[end..]) {
        ("", _) => Err(INVALID),
        (authority, "") => Ok(("/", Some(authority))),
        (authority, path) if path.starts_with('/') => Ok((path, Some(authority))),
        // `http://host?query` has an empty path; nobody sends it, and it cannot be written without copying.
        _ => Err(INVALID),
    }
}

fn valid_authority(authority: &[u8]) -> bool {
    let valid = |byte: &u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+')
            || matches!(byte, b';' | b'=' | b':' | b'%' | b'[' | b']')
    };
    !authority.is_empty() && authority.iter().all(valid)
}

impl rules::Fields for Head<'_, '_> {
    fn visit<'f>(&'f self, name: &str, see: &mut dyn FnMut(&'f [u8])) {
        for header in self.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name)) {
            see(header.value);
        }
    }
}

impl Head<'_, '_> {
    /// As rules see it.
    #[must_use]
    pub fn view(&self) -> rules::Head<'_> {
        // An authority is ASCII, or the head was refused.
        let authority = std::str::from_utf8(self.authority).unwrap_or_default();
        rules::Head::new(self.method, authority, self.target, self)
    }
}

#[cfg(test)]
mod tests;
