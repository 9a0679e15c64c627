//! The fields that mean something to a proxy: which they are, and what those of one head say. No I/O.

use http::StatusCode;
use httparse::Header;

use super::{Framing, Reject, bad};
use crate::h1::text::{self, elements};

/// The fields that mean something to a proxy.
#[derive(Debug, Default)]
pub(super) struct Seen<'b> {
    pub(super) host: Option<&'b [u8]>,
    length: Option<&'b [u8]>,
    coding: Option<&'b [u8]>,
    pub(super) connection: &'b [u8],
    pub(super) connections: usize,
    pub(super) websocket: bool,
    pub(super) expects_continue: bool,
    pub(super) trailers: bool,
}

impl<'b> Seen<'b> {
    pub(super) fn header(&mut self, bytes: &[u8], header: &Header<'b>) -> Result<(), Reject> {
        let value = header.value;
        match Name::of(header.name) {
            Name::Host => once(&mut self.host, value, "request has two Hosts"),
            Name::ContentLength => once(&mut self.length, value, "request has two Content-Lengths"),
            Name::TransferEncoding => {
                // Other white space than SP before a value is where parsers part ways.
                if has_tab(bytes, header) {
                    return Err(bad("Transfer-Encoding is not valid"));
                }
                once(&mut self.coding, value, "request has two Transfer-Encodings")
            }
            Name::Connection => {
                self.connections += 1;
                // Of several, the options of each count; a second one is rare enough to look only for `close` in it.
                if self.connections == 1 || option(value, b"close") {
                    self.connection = value;
                }
                Ok(())
            }
            Name::Upgrade => {
                self.websocket = value.eq_ignore_ascii_case(b"websocket");
                Ok(())
            }
            Name::Expect if value.eq_ignore_ascii_case(b"100-continue") => {
                self.expects_continue = true;
                Ok(())
            }
            Name::Expect => Err(Reject { status: StatusCode::EXPECTATION_FAILED, reason: "expectation is not known" }),
            Name::Te => {
                self.trailers |= option(value, b"trailers");
                Ok(())
            }
            Name::KeepAlive | Name::ProxyConnection | Name::ProxyAuthorization => Ok(()),
            Name::ForwardedFor | Name::ForwardedProto | Name::Protected | Name::Other => Ok(()),
        }
    }

    pub(super) fn framing(&self, http10: bool) -> Result<Framing, Reject> {
        match (self.coding, self.length) {
            (Some(_), Some(_)) => Err(bad("request has both Transfer-Encoding and Content-Length")),
            (Some(_), None) if http10 => Err(bad("HTTP/1.0 has no Transfer-Encoding")),
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
            (Some(_), None) => {
                Err(Reject { status: StatusCode::NOT_IMPLEMENTED, reason: "only the transfer coding chunked is known" })
            }
            (None, Some(length)) => match text::content_length(length) {
                Some(0) => Ok(Framing::None),
                Some(length) => Ok(Framing::Length(length)),
                None => Err(bad("Content-Length is not valid")),
            },
            (None, None) => Ok(Framing::None),
        }
    }
}

fn once<'b>(slot: &mut Option<&'b [u8]>, value: &'b [u8], twice: &'static str) -> Result<(), Reject> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(bad(twice)),
    }
}

/// `httparse` trims SP and HTAB around values; the line as sent still has them. Name and value are slices of `bytes`.
fn has_tab(bytes: &[u8], header: &Header<'_>) -> bool {
    let start = header.name.as_ptr().addr().wrapping_sub(bytes.as_ptr().addr());
    let line = bytes.get(start..).unwrap_or_default();
    line.iter().take_while(|byte| **byte != b'\r').any(|byte| *byte == b'\t')
}

pub(super) fn option(connection: &[u8], name: &[u8]) -> bool {
    elements(connection).any(|element| element.eq_ignore_ascii_case(name))
}

/// Fields by what a proxy does with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    Expect,
    Te,
    KeepAlive,
    ProxyConnection,
    ProxyAuthorization,
    ForwardedFor,
    ForwardedProto,
    /// Passed on, whatever `Connection` says.
    Protected,
    Other,
}

impl Name {
    pub(super) fn of(name: &str) -> Self {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        // By length first: most fields are told apart without looking at their letters.
        match name.len() {
            2 if is("te") => Self::Te,
            4 if is("host") => Self::Host,
            6 if is("expect") => Self::Expect,
            6 if is("cookie") => Self::Protected,
            7 if is("upgrade") => Self::Upgrade,
            10 if is("connection") => Self::Connection,
            10 if is("keep-alive") => Self::KeepAlive,
            13 if is("authorization") => Self::Protected,
            14 if is("content-length") => Self::ContentLength,
            15 if is("x-forwarded-for") => Self::ForwardedFor,
            16 if is("proxy-connection") => Self::ProxyConnection,
            17 if is("transfer-encoding") => Self::TransferEncoding,
            17 if is("x-forwarded-proto") => Self::ForwardedProto,
            19 if is("proxy-authorization") => Self::ProxyAuthorization,
            _ => Self::Other,
        }
    }
}
