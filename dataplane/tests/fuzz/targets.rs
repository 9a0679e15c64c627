//! What must hold for any bytes, one function per target. The ordinary tests run them on generated and on kept inputs;
//! `dataplane/fuzz` runs the same functions under a coverage-guided fuzzer.

#[path = "../../routing/tests/rules/model.rs"]
mod model;

use bytes::BytesMut;
use dataplane::forward;
use dataplane::h1::chunked::{Decoder, Malformed, Step};
use dataplane::h1::request::{self, Facts, Framing};
use dataplane::h1::response;
use dataplane::h1::text::{self, HeadScan};
use dataplane::h1::upload::recode;
use dataplane::http2::connection::{Config, Connection, ROOM, Role};
use dataplane::http2::head::Fields;
use dataplane::http2::hpack::decode;
use dataplane::http2::hpack::encode;
use dataplane::http2::hpack::field::Field;
use dataplane::http2::stream::Half;
use http::header;
use prost::Message as _;
use proxy_api::v1beta1 as api;
use routing::Table;

/// A target's name and what it asserts.
type Target = (&'static str, fn(&[u8]));

pub(crate) const TARGETS: [Target; 8] = [
    ("request_head", request_head),
    ("response_head", response_head),
    ("chunked_body", chunked_body),
    ("translation", translation),
    ("snapshot", snapshot),
    ("http2_frames", http2_frames),
    ("hpack", hpack),
    ("route_match", route_match),
];

/// A head that is taken is written anew so that it can be read in one way only, which is the way it was taken.
pub(crate) fn request_head(data: &[u8]) {
    let Some(head) = head_of(data) else { return };
    let mut room = request::room();
    let Ok(parsed) = request::parse(head, &mut room[..text::MAX_HEADERS]) else { return };
    let mut out = Vec::new();
    parsed.write("192.0.2.1", None, &mut out);
    // No line but those that were written, no end but the last.
    assert_eq!(HeadScan::default().advance(&out), Ok(Some(out.len())), "{:?}", String::from_utf8_lossy(&out));
    let mut framed = out.clone();
    framed.truncate(out.len() - 2);
    assert_eq!(count(&out, "host"), 1);
    let lengths = (count(&out, "content-length"), count(&out, "transfer-encoding"));
    match parsed.facts.framing {
        Framing::None => assert!(lengths == (0, 0) || lengths == (1, 0)),
        Framing::Length(_) => assert_eq!(lengths, (1, 0)),
        Framing::Chunked => assert_eq!(lengths, (0, 1)),
    }
    assert!(count(&out, "connection") <= 1 && count(&out, "upgrade") <= 1 && count(&out, "te") <= 1);
    assert_eq!(count(&out, "upgrade") == 1, parsed.facts.websocket);
    // With ours it may have a few fields more than are taken of a client.
    let mut room = request::room();
    let again = request::parse(&out, &mut room).expect("what is written must be in order");
    assert_eq!((again.method, again.target, again.authority), (parsed.method, parsed.target, parsed.authority));
    assert_eq!(again.facts.framing, parsed.facts.framing);
    assert_eq!(again.facts.websocket, parsed.facts.websocket);
}

/// As a request's.
pub(crate) fn response_head(data: &[u8]) {
    let Some((&first, rest)) = data.split_first() else { return };
    let Some(head) = head_of(rest) else { return };
    let facts = Facts {
        head_method: first & 1 != 0,
        idempotent: true,
        http10: first & 2 != 0,
        framing: Framing::None,
        keep_alive: true,
        expects_continue: false,
        websocket: first & 4 != 0,
    };
    let mut room = response::room();
    let Ok(parsed) = response::parse(head, &mut room, &facts) else { return };
    let towards = response::Towards {
        http10: facts.http10,
        close: first & 8 != 0,
        switching: facts.websocket && parsed.status == 101,
    };
    let mut out = Vec::new();
    parsed.write(towards, None, &mut out);
    assert_eq!(HeadScan::default().advance(&out), Ok(Some(out.len())), "{:?}", String::from_utf8_lossy(&out));
    assert!(
        count(&out, "content-length") + count(&out, "transfer-encoding") <= 1,
        "{:?}",
        String::from_utf8_lossy(&out)
    );
    // With ours it may have a few fields more than are taken of an endpoint.
    let mut room = request::room();
    let again = response::parse(&out, &mut room, &facts).expect("what is written must be in order");
    assert_eq!(again.status, parsed.status);
}

/// A body decodes to the same however it arrives, and what is written of it decodes to the same data.
pub(crate) fn chunked_body(data: &[u8]) {
    let Some((&first, body)) = data.split_first() else { return };
    let whole = decode(body, body.len().max(1));
    let pieces = decode(body, usize::from(first % 16) + 1);
    assert_eq!(whole, pieces);
    let (mut decoder, mut buffer, mut out) = (Decoder::default(), BytesMut::from(body), Vec::new());
    if recode(&mut decoder, &mut buffer, &mut out) == Ok(true) {
        let (expected, rest) = whole.expect("recode takes what decode takes").expect("and as much of it");
        assert_eq!(buffer, rest.as_slice());
        assert_eq!(decode(&out, out.len()), Ok(Some((expected, Vec::new()))));
    }
}

/// A head of HTTP/1 has nothing for HTTP/2 that HTTP/2 forbids, and back again one `Host`.
pub(crate) fn translation(data: &[u8]) {
    let Some(head) = head_of(data) else { return };
    let mut room = response::room();
    let mut parsed = httparse::Request::new(&mut []);
    if !matches!(parsed.parse_with_uninit_headers(head, &mut room), Ok(httparse::Status::Complete(_))) {
        return;
    }
    let mut builder = http::Request::builder().method(parsed.method.unwrap_or("")).uri(parsed.path.unwrap_or(""));
    for header in parsed.headers.iter() {
        builder = builder.header(header.name, header.value);
    }
    let Ok(request) = builder.version(http::Version::HTTP_11).body(()) else { return };
    let (mut parts, ()) = request.into_parts();
    let client = forward::Client::new(std::net::IpAddr::from([192, 0, 2, 1]));
    if forward::request(&mut parts, &client, http::Version::HTTP_2).is_err() {
        return;
    }
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "host"] {
        assert!(!parts.headers.contains_key(name), "{name}");
    }
    assert!(parts.headers.get(header::TE).is_none_or(|te| te == "trailers"));
    assert!(parts.uri.authority().is_some() && parts.uri.scheme_str() == Some("http"));
    forward::request(&mut parts, &client, http::Version::HTTP_11).expect("what was taken once must be taken again");
    assert_eq!(parts.headers.get_all(header::HOST).iter().count(), 1);
    assert!(parts.uri.authority().is_none() && !parts.headers.contains_key(header::UPGRADE));
}

/// Whatever the stream brings, a table holds only what can be served.
pub(crate) fn snapshot(data: &[u8]) {
    let Ok(snapshot) = api::Snapshot::decode(data) else { return };
    let mut table = Table::new(1);
    for route in snapshot.routes {
        let before = table.ports().len();
        match table.upsert(&route) {
            Ok(taken) => table = taken,
            Err(_) => assert_eq!(table.ports().len(), before),
        }
    }
    for (number, port) in table.ports() {
        assert_eq!(*number, port.number);
        assert!(*number > 0 && port.route.weight <= 100);
    }
}

/// What an HTTP/2 connection may hold, small enough to be reached.
const CONFIG: Config = Config {
    stream_window: 65_535,
    growth: 0,
    window: 70_000,
    field_list: 2_000,
    streams: 4,
    connects: true,
    faults: 8,
};

/// A connection ends or goes on, the same however its bytes arrive, and what it holds is bounded.
pub(crate) fn http2_frames(data: &[u8]) {
    let Some((&first, frames)) = data.split_first() else { return };
    let role = if first & 1 == 0 { Role::Server } else { Role::Client };
    let heard = |size: usize| {
        let mut connection = Connection::new(role, CONFIG);
        if role == Role::Client {
            for end in [true, false] {
                let _ = connection.open(&http::Request::new(()), end);
            }
        }
        frames.chunks(size).for_each(|piece| connection.receive(piece));
        // A frame is answered by at most one, a byte by no more than a frame's head says.
        assert!(connection.waiting().len() <= ROOM + 3 * frames.len());
        let said = connection.waiting().to_vec();
        (said, used(&mut connection, first & 2 != 0))
    };
    let whole = heard(frames.len().max(1));
    let pieces = heard(usize::from(first >> 4) + 1);
    assert_eq!(whole, pieces);
}

/// Takes what came, answers it, and lets go of all of it; what was taken.
fn used(connection: &mut Connection, answer: bool) -> String {
    let context = &mut std::task::Context::from_waker(std::task::Waker::noop());
    let mut taken = String::new();
    let mut streams = vec![1, 3];
    while let Some(accepted) = connection.accept() {
        taken.push_str(&format!("{accepted:?}"));
        streams.push(accepted.stream);
    }
    for stream in streams {
        while let std::task::Poll::Ready(Some(Ok(frame))) = connection.poll_frame(stream, context) {
            taken.push_str(&format!("{frame:?}"));
        }
        if answer {
            let sent = connection.respond(stream, &http::Response::new(()), false).is_ok();
            let mut body = bytes::Bytes::from_static(&[0; 20_000]);
            taken.push_str(&format!("{sent} {:?}", connection.poll_send(stream, context, &mut body, true)));
        }
        connection.release(stream, Half::Reading);
        connection.release(stream, Half::Writing);
    }
    taken
}

/// What is read of a field block is written so that the same is read again, and no more is kept than may be.
pub(crate) fn hpack(data: &[u8]) {
    let mut decoder = decode::Decoder::default();
    let mut headers = header::HeaderMap::new();
    let (mut list, mut left) = (Fields::new(4_000), 4_000_usize);
    for block in data.split(|byte| *byte == 0xff) {
        let read = decoder.decode(block, |field, size| {
            left = left.saturating_sub(size);
            list.add(field, size);
            if let (Field::Header(name, value), 1..) = (field, left) {
                headers.append(name.clone(), value.clone());
            }
        });
        if read.is_err() {
            break;
        }
    }
    let mut out = Vec::new();
    encode::fields(&mut out, &headers);
    let mut again = header::HeaderMap::new();
    let read = decode::Decoder::default().decode(&out, |field, _| match field {
        Field::Header(name, value) => drop(again.append(name.clone(), value.clone())),
        other => panic!("{other:?} was not written"),
    });
    read.expect("what is written must be in order");
    assert_eq!(again, headers);
    if let Ok(kept) = list.trailers() {
        assert!(kept.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum::<usize>() <= 4_000);
    }
}

/// The rule that a request gets is the one that a model without an order finds.
pub(crate) fn route_match(data: &[u8]) {
    let mut choices = Choices(data);
    let rules: Vec<_> = (0..=choices.next(14)).map(|_| choices.rule()).collect();
    let requests: Vec<_> = (0..=choices.next(14)).map(|_| choices.request()).collect();
    assert_eq!(model::check(&rules, &requests), Ok(()), "{rules:?}");
}

/// Bytes that choose among words; past their end the first word.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    /// 0 to `most`.
    fn next(&mut self, most: u8) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first % (most + 1)
    }

    fn word(&mut self, words: &[&'static str]) -> &'static str {
        words[usize::from(self.next(u8::MAX - 1)) % words.len()]
    }

    fn path(&mut self) -> String {
        let parts: Vec<_> = (0..self.next(3)).map(|_| self.word(&model::PARTS)).collect();
        model::path(&parts, self.next(1) == 1)
    }

    fn pairs(&mut self) -> model::Pairs {
        (0..self.next(3)).map(|_| (self.word(&model::NAMES), self.word(&model::VALUES))).collect()
    }

    fn rule(&mut self) -> model::Wanted {
        let path = match self.next(3) {
            model::EXACT => Some((model::EXACT, self.path())),
            model::PREFIX => Some((model::PREFIX, self.path())),
            model::REGEX => Some((model::REGEX, self.word(&model::PATTERNS).to_owned())),
            _ => None,
        };
        let (host, method) = (self.word(&model::HOSTS), self.word(&model::METHODS));
        model::Wanted { host, path, method, headers: self.pairs(), query: self.pairs() }
    }

    fn request(&mut self) -> model::Asked {
        let (method, host) = (self.word(&model::ASKED_METHODS), self.word(&model::ASKED_HOSTS));
        model::Asked { method, host, path: self.path(), query: self.pairs(), headers: self.pairs() }
    }
}

/// The head at the start of `data`, found at once and byte by byte.
fn head_of(data: &[u8]) -> Option<&[u8]> {
    let mut scan = HeadScan::default();
    let by_byte = (1..=data.len()).find_map(|end| scan.advance(&data[..end]).transpose());
    assert_eq!(by_byte.unwrap_or(Ok(0)).ok(), HeadScan::default().advance(data).map(Option::unwrap_or_default).ok());
    HeadScan::default().advance(data).ok()?.map(|length| &data[..length])
}

fn count(head: &[u8], name: &str) -> usize {
    let names = head.split(|byte| *byte == b'\n').skip(1).filter_map(|line| line.split(|byte| *byte == b':').next());
    names.filter(|found| found.eq_ignore_ascii_case(name.as_bytes())).count()
}

/// The data and what follows the body; `None` if it does not end.
#[expect(clippy::type_complexity, reason = "told in the line above")]
fn decode(body: &[u8], step: usize) -> Result<Option<(Vec<u8>, Vec<u8>)>, Malformed> {
    let (mut decoder, mut data) = (Decoder::default(), Vec::new());
    let mut at = 0;
    for end in (step..body.len()).step_by(step).chain([body.len()]) {
        while at < end {
            match decoder.step(&body[at..end])? {
                Step::More => at = end,
                Step::Data { used, length } => {
                    data.extend_from_slice(&body[at + used - length..at + used]);
                    at += used;
                }
                Step::Done { used } => return Ok(Some((data, body[at + used..].to_vec()))),
            }
        }
    }
    Ok(None)
}
