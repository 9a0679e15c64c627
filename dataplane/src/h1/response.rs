//! An endpoint's head: parsed, judged, and written anew for the client. No I/O.

use std::mem::MaybeUninit;

use httparse::Header;
use routing::rules::Decision;

use crate::h1::request;
use crate::h1::text::{self, elements, field};

/// Bytes of an answer's head; an endpoint that sends more gets no answer through.
pub const MAX_HEAD: usize = 64 * 1024;

/// How the end of an answer's body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// `Content-Length`.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// When the endpoint closes the connection.
    Close,
}

/// An endpoint's head that is in order.
#[derive(Debug)]
pub struct Head<'h, 'b> {
    /// 100..=999.
    pub status: u16,
    /// Its body.
    pub framing: Framing,
    /// The connection may be used for another request.
    pub keep_alive: bool,
    /// `grpc-status`, where there is one.
    pub grpc_status: Option<u16>,
    /// All fields, as sent.
    pub headers: &'h [Header<'b>],
    reason: &'b str,
    connection: &'b [u8],
    several_connections: bool,
}

/// What the client's side asks of the head.
#[derive(Clone, Copy, Debug)]
pub struct Towards {
    /// The client speaks HTTP/1.0.
    pub http10: bool,
    /// The connection ends with this answer.
    pub close: bool,
    /// Pass `Connection: upgrade` on, with a 101.
    pub switching: bool,
}

/// The endpoint does not speak HTTP/1.1 as it must.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("endpoint's answer is not valid")]
pub struct Invalid;

/// Parses and judges one whole head, the answer to a request with `facts`.
///
/// # Errors
/// When it cannot be read in exactly one way.
pub fn parse<'h, 'b>(bytes: &'b [u8], room: &'h mut Room<'b>, facts: &request::Facts) -> Result<Head<'h, 'b>, Invalid> {
    let mut parsed = httparse::Response::new(&mut []);
    match httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, bytes, room) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) | Err(_) => return Err(Invalid),
    }
    let (Some(status), Some(version)) = (parsed.code, parsed.version) else { return Err(Invalid) };
    // RFC 9110 §15: three digits, of which the first is not 0; `011` would be written as `11`.
    if status < 100 {
        return Err(Invalid);
    }
    let mut seen = Seen::default();
    for header in parsed.headers.iter() {
        seen.header(header)?;
    }
    let framing = seen.framing(status, version == 0, facts.head_method)?;
    let persistent = !seen.close && (version != 0 || seen.stay);
    Ok(Head {
        status,
        framing,
        keep_alive: persistent && framing != Framing::Close,
        grpc_status: seen.grpc_status,
        reason: parsed.reason.unwrap_or_default(),
        headers: parsed.headers,
        connection: seen.connection,
        several_connections: seen.several_connections,
    })
}

/// Room for the fields of one head: as many as its length are allowed.
pub type Room<'b> = [MaybeUninit<Header<'b>>];

/// Room for as many fields as an endpoint may send.
#[must_use]
pub fn room<'b>() -> [MaybeUninit<Header<'b>>; text::MAX_HEADERS] {
    [const { MaybeUninit::uninit() }; text::MAX_HEADERS]
}

#[derive(Debug, Default)]
struct Seen<'b> {
    length: Option<u64>,
    chunked: bool,
    connection: &'b [u8],
    several_connections: bool,
    close: bool,
    stay: bool,
    grpc_status: Option<u16>,
}

impl<'b> Seen<'b> {
    fn header(&mut self, header: &Header<'b>) -> Result<(), Invalid> {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        match header.name.len() {
            10 if is("connection") => {
                self.several_connections = !self.connection.is_empty();
                self.connection = header.value;
                self.close |= elements(header.value).any(|element| element.eq_ignore_ascii_case(b"close"));
                self.stay |= elements(header.value).any(|element| element.eq_ignore_ascii_case(b"keep-alive"));
            }
            11 if is("grpc-status") => {
                self.grpc_status = text::content_length(header.value).and_then(|n| n.try_into().ok())
            }
            14 if is("content-length") => {
                let length = text::content_length(header.value).ok_or(Invalid)?;
                // The same twice is what careless servers send; RFC 9110 §8.6 lets it pass as one.
                if self.length.is_some_and(|known| known != length) {
                    return Err(Invalid);
                }
                self.length = Some(length);
            }
            17 if is("transfer-encoding") => {
                if self.chunked || !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Invalid);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// RFC 9112 §6.3, less what could be read in two ways.
    fn framing(&self, status: u16, http10: bool, head_method: bool) -> Result<Framing, Invalid> {
        if self.chunked && (self.length.is_some() || http10) {
            return Err(Invalid);
        }
        Ok(match (self.chunked, self.length) {
            _ if head_method || matches!(status, 100..=199 | 204 | 304) => Framing::None,
            (true, _) => Framing::Chunked,
            (false, Some(0)) => Framing::None,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::Close,
        })
    }
}

impl Head<'_, '_> {
    /// Appends the head as the client gets it, less the fields that a rule drops.
    pub fn write(&self, towards: Towards, decision: Option<&Decision>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 ");
        text::number(out, self.status.into());
        out.push(b' ');
        out.extend_from_slice(self.reason.as_bytes());
        out.extend_from_slice(b"\r\n");
        // RFC 9110 §8.6: never with these, and once where the endpoint said the same twice.
        let mut length_due = !matches!(self.status, 100..=199 | 204);
        for header in self.headers {
            let dropped = decision.is_some_and(|decision| decision.drops(header.name));
            if !dropped && self.passes(header, towards, &mut length_due) {
                field(out, header.name.as_bytes(), header.value);
            }
        }
        let delimited = matches!(self.framing, Framing::Chunked | Framing::Close);
        if delimited && !towards.http10 {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        match towards {
            Towards { switching: true, .. } => out.extend_from_slice(b"connection: upgrade\r\n"),
            Towards { close: true, .. } => out.extend_from_slice(b"connection: close\r\n"),
            Towards { http10: true, .. } => out.extend_from_slice(b"connection: keep-alive\r\n"),
            _ => {}
        }
        out.extend_from_slice(b"\r\n");
    }

    fn passes(&self, header: &Header<'_>, towards: Towards, length_due: &mut bool) -> bool {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        match header.name.len() {
            7 if is("upgrade") => towards.switching,
            10 if is("connection") || is("keep-alive") => false,
            14 if is("content-length") => std::mem::take(length_due),
            16 if is("proxy-connection") => false,
            17 if is("transfer-encoding") => false,
            18 if is("proxy-authenticate") => false,
            _ => self.connection.is_empty() || !self.named(header),
        }
    }

    fn named(&self, header: &Header<'_>) -> bool {
        if !self.several_connections {
            return text::named_by(self.connection, header);
        }
        let mut connections = self.headers.iter().filter(|other| other.name.eq_ignore_ascii_case("connection"));
        connections.any(|connection| text::named_by(connection.value, header))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: request::Facts = request::Facts {
        head_method: false,
        idempotent: true,
        http10: false,
        framing: request::Framing::None,
        keep_alive: true,
        expects_continue: false,
        websocket: false,
    };
    const TOWARDS: Towards = Towards { http10: false, close: false, switching: false };

    fn framing(head: &str, facts: &request::Facts) -> Result<Framing, Invalid> {
        parse(head.as_bytes(), &mut room(), facts).map(|head| head.framing)
    }

    fn written(head: &str, towards: Towards) -> String {
        let mut out = Vec::new();
        parse(head.as_bytes(), &mut room(), &GET).unwrap().write(towards, None, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_end_of_the_body_is_known_or_the_answer_refused() {
        let head = request::Facts { head_method: true, ..GET };
        let of = |rest: &str| framing(&format!("HTTP/1.1 200 OK\r\n{rest}\r\n"), &GET);
        assert_eq!(of("Content-Length: 3\r\n"), Ok(Framing::Length(3)));
        assert_eq!(of("Content-Length: 0\r\n"), Ok(Framing::None));
        assert_eq!(of("Transfer-Encoding: chunked\r\n"), Ok(Framing::Chunked));
        assert_eq!(of(""), Ok(Framing::Close));
        assert_eq!(of("Content-Length: 3\r\nContent-Length: 3\r\n"), Ok(Framing::Length(3)));
        assert_eq!(of("Content-Length: 3\r\nContent-Length: 4\r\n"), Err(Invalid));
        assert_eq!(of("Content-Length: x\r\n"), Err(Invalid));
        assert_eq!(of("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"), Err(Invalid));
        assert_eq!(of("Transfer-Encoding: gzip, chunked\r\n"), Err(Invalid));
        assert_eq!(framing("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &GET), Err(Invalid));
        assert_eq!(framing("HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", &GET), Ok(Framing::None));
        assert_eq!(framing("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", &GET), Ok(Framing::None));
        assert_eq!(framing("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", &head), Ok(Framing::None));
    }

    #[test]
    fn fields_of_the_hop_do_not_cross() {
        let head = "HTTP/1.1 200 Fine\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nX-Yours: 2\r\nKeep-Alive: 5\r\n\
                    Upgrade: h2c\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(written(head, TOWARDS), "HTTP/1.1 200 Fine\r\nX-Yours: 2\r\nContent-Length: 3\r\n\r\n");
    }

    #[test]
    fn a_length_is_passed_once_and_never_where_there_is_no_body() {
        let twice = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(written(twice, TOWARDS), "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n");
        assert_eq!(written("HTTP/1.1 204 X\r\nContent-Length: 3\r\n\r\n", TOWARDS), "HTTP/1.1 204 X\r\n\r\n");
    }

    #[test]
    fn every_connection_field_counts() {
        let head =
            "HTTP/1.1 200 OK\r\nConnection: close, X\r\nConnection: y\r\nX: 1\r\nY: 2\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(written(head, TOWARDS), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert!(!parse(head.as_bytes(), &mut room(), &GET).unwrap().keep_alive);
    }

    #[test]
    fn a_body_that_ends_with_the_connection_is_chunked_for_the_client() {
        let head = "HTTP/1.1 200 OK\r\n\r\n";
        assert_eq!(written(head, TOWARDS), "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        let old = Towards { http10: true, close: true, ..TOWARDS };
        assert_eq!(written(head, old), "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
    }
}
