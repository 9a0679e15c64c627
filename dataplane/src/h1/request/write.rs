//! A head written anew for the endpoint. No I/O.

use httparse::Header;
use routing::rules::{self, Decision};

use super::fields::Name;
use super::{Framing, Head};
use crate::h1::text::{self, field};

impl Head<'_, '_> {
    /// Appends the head as the endpoint gets it: origin form, one `Host`, nothing that was meant for this hop (RFC 9110
    /// §7.6.1), framing in our own words, the client's address added. What a rule changes comes last: its field names are
    /// none of those, so it cannot change how the message is read.
    pub fn write(&self, client: &str, decision: Option<&Decision>, out: &mut Vec<u8>) {
        let target = decision.and_then(|decision| decision.target.as_deref()).unwrap_or(self.target);
        out.extend_from_slice(self.method.as_bytes());
        out.push(b' ');
        out.extend_from_slice(target.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        field(out, b"host", decision.and_then(Decision::hostname).map_or(self.authority, str::as_bytes));
        let edits = decision.map(|decision| &decision.rule.request_headers);
        let dropped = |name: &str| edits.is_some_and(|edits| edits.drops(name));
        let mut forwarded_proto = dropped("x-forwarded-proto");
        for header in self.headers {
            match Name::of(header.name) {
                Name::Host | Name::ContentLength | Name::TransferEncoding | Name::Connection | Name::Upgrade => {}
                Name::Expect | Name::Te | Name::KeepAlive | Name::ProxyConnection | Name::ProxyAuthorization => {}
                Name::ForwardedFor => {}
                Name::ForwardedProto | Name::Protected | Name::Other if dropped(header.name) => {}
                Name::ForwardedProto => {
                    forwarded_proto = true;
                    field(out, header.name.as_bytes(), header.value);
                }
                Name::Protected => field(out, header.name.as_bytes(), header.value),
                Name::Other if self.named(header) => {}
                Name::Other => field(out, header.name.as_bytes(), header.value),
            }
        }
        self.write_own(client, forwarded_proto, out);
        for (name, value) in edits.into_iter().flat_map(rules::FieldEdits::written) {
            field(out, name.as_str().as_bytes(), value.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }

    fn named(&self, header: &Header<'_>) -> bool {
        if !self.several_connections {
            return !self.connection.is_empty() && text::named_by(self.connection, header);
        }
        let mut connections = self.headers.iter().filter(|other| Name::of(other.name) == Name::Connection);
        connections.any(|connection| text::named_by(connection.value, header))
    }

    fn write_own(&self, client: &str, forwarded_proto: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(b"x-forwarded-for: ");
        for header in self.headers.iter().filter(|header| Name::of(header.name) == Name::ForwardedFor) {
            out.extend_from_slice(header.value);
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(client.as_bytes());
        out.extend_from_slice(b"\r\n");
        if !forwarded_proto {
            out.extend_from_slice(b"x-forwarded-proto: http\r\n");
        }
        if self.trailers {
            out.extend_from_slice(b"te: trailers\r\n");
        }
        if self.facts.websocket {
            out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
        }
        if self.facts.expects_continue {
            out.extend_from_slice(b"expect: 100-continue\r\n");
        }
        match self.facts.framing {
            Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            Framing::Length(length) => {
                out.extend_from_slice(b"content-length: ");
                text::number(out, length);
                out.extend_from_slice(b"\r\n");
            }
            // An empty POST says so, or some servers wait for its body.
            Framing::None if matches!(self.method, "POST" | "PUT" | "PATCH") => {
                out.extend_from_slice(b"content-length: 0\r\n");
            }
            Framing::None => {}
        }
    }
}
