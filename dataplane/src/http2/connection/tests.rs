//! Connections without sockets: a client and a server of ours against each other, and frames by hand.

mod faults;
mod sending;
mod windows;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};

use super::super::frame::{self, HEAD, Head, Reason, flag, kind};
use super::super::stream::{Error, Half};
use super::{CONGESTED, Config, Connection, Opens, ROOM, Role};

const CONFIG: Config = Config {
    stream_window: 100_000,
    growth: 0,
    window: 200_000,
    field_list: 10_000,
    streams: 3,
    connects: true,
    faults: 4,
};

/// GET / of `web` as HPACK.
const GET: [u8; 8] = [0x82, 0x86, 0x84, 0x41, 3, b'w', b'e', b'b'];

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

fn noop() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// A server that has sent its SETTINGS.
fn server() -> Connection {
    let mut server = Connection::new(Role::Server, CONFIG);
    server.flushed();
    server
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::write(&mut out, kind, flags, stream, payload);
    out
}

fn opening(stream: u32, flags: u8) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS | flags, stream, &GET)
}

/// What is to be sent: heads of frames and their payloads.
fn said(connection: &mut Connection) -> Vec<(Head, Vec<u8>)> {
    let out = std::mem::take(&mut connection.out);
    let (mut rest, mut frames) = (&out[..], Vec::new());
    while let Some(head) = Head::read(rest) {
        frames.push((head, rest[HEAD..HEAD + head.length].to_vec()));
        rest = &rest[HEAD + head.length..];
    }
    assert!(rest.is_empty());
    connection.flushed();
    frames
}

/// The reason that the connection was ended for, if it was.
fn ended(connection: &mut Connection) -> Option<Reason> {
    let (head, payload) = said(connection).pop().filter(|(head, _)| head.kind == kind::GOAWAY)?;
    assert_eq!((head.stream, connection.ending()), (0, true));
    frame::number(&payload[4..]).map(Reason)
}

/// The streams that were reset, and why.
fn resets(connection: &mut Connection) -> Vec<(u32, Reason)> {
    let frames = said(connection).into_iter().filter(|(head, _)| head.kind == kind::RST_STREAM);
    frames.map(|(head, payload)| (head.stream, Reason(frame::number(&payload).unwrap()))).collect()
}

/// Passes on what both have to say, in pieces of `size`, until they are silent.
fn exchange(client: &mut Connection, server: &mut Connection, size: usize) {
    while !client.out.is_empty() || !server.out.is_empty() {
        let said = std::mem::take(&mut client.out);
        client.flushed();
        let said = said.strip_prefix(frame::PREFACE).unwrap_or(&said);
        said.chunks(size).for_each(|piece| server.receive(piece));
        let said = std::mem::take(&mut server.out);
        server.flushed();
        said.chunks(size).for_each(|piece| client.receive(piece));
    }
}

/// Sends all of `data` as the windows allow, and returns what the other end took.
fn pass(from: &mut Connection, to: &mut Connection, stream: u32, data: &[u8], size: usize) -> Vec<u8> {
    let (mut rest, mut taken) = (Bytes::copy_from_slice(data), Vec::new());
    let mut sent = false;
    loop {
        sent = sent || from.poll_send(stream, &mut noop(), &mut rest, true).is_ready();
        assert!(from.out.len() <= ROOM + frame::MAX_PAYLOAD + 100, "what waits is bounded");
        exchange(from, to, size);
        match to.poll_frame(stream, &noop()) {
            Poll::Ready(Some(Ok(frame))) => taken.extend_from_slice(&frame.into_data().unwrap()),
            Poll::Ready(None) => return taken,
            Poll::Ready(Some(Err(error))) => panic!("{error}"),
            Poll::Pending => {}
        }
    }
}

#[test]
fn a_request_and_its_answer_pass_however_they_are_cut() {
    for size in [1, 7, 100, 20_000] {
        let (mut client, mut server) = (Connection::new(Role::Client, CONFIG), Connection::new(Role::Server, CONFIG));
        let mut request = Request::post("http://web/a?b").body(()).unwrap();
        request.headers_mut().insert("x-long", HeaderValue::from_bytes(&[b'y'; 5000]).unwrap());
        let stream = client.open(&request, false);
        exchange(&mut client, &mut server, size);
        let accepted = server.accept().unwrap();
        assert_eq!((accepted.stream, accepted.too_large), (stream, false));
        assert_eq!(accepted.request.uri(), request.uri());
        assert_eq!(accepted.request.headers(), request.headers());
        // Larger than the windows.
        let body: Vec<u8> = (0..500_000_u32).map(|number| (number % 251) as u8).collect();
        assert_eq!(pass(&mut client, &mut server, stream, &body, size.max(1000)), body);
        let mut answer = Response::new(());
        *answer.status_mut() = http::StatusCode::IM_A_TEAPOT;
        server.respond(stream, &answer, false).unwrap();
        assert!(server.poll_send(stream, &mut noop(), &mut Bytes::from("hello"), false).is_ready());
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        server.send_trailers(stream, &trailers).unwrap();
        exchange(&mut client, &mut server, size);
        let Poll::Ready(Ok(head)) = client.poll_head(stream, &noop()) else { panic!("no head") };
        assert_eq!(head.status(), 418);
        let mut next = || client.poll_frame(stream, &noop());
        assert!(matches!(next(), Poll::Ready(Some(Ok(frame))) if frame.data_ref().unwrap() == "hello"));
        assert!(matches!(next(), Poll::Ready(Some(Ok(frame))) if *frame.trailers_ref().unwrap() == trailers));
        assert!(matches!(next(), Poll::Ready(None)));
        for half in [Half::Reading, Half::Writing] {
            client.release(stream, half);
            server.release(stream, half);
        }
        assert!(client.streams.is_empty() && server.streams.is_empty() && client.open == 0 && server.open == 0);
        assert!(client.out.is_empty() && server.out.is_empty(), "nothing is reset that was over");
    }
}

#[test]
fn a_head_that_is_larger_than_a_frame_is_continued() {
    let large = Config { field_list: 100_000, ..CONFIG };
    let (mut client, mut server) = (Connection::new(Role::Client, large), Connection::new(Role::Server, large));
    let mut request = Request::get("http://web/").body(()).unwrap();
    for number in 0..4 {
        let name = http::HeaderName::try_from(format!("x-{number}")).unwrap();
        request.headers_mut().insert(name, HeaderValue::from_bytes(&[b'y'; 10_000]).unwrap());
    }
    client.open(&request, true);
    exchange(&mut client, &mut server, 20_000);
    assert_eq!(server.accept().unwrap().request.headers(), request.headers());
}

#[test]
fn what_is_against_the_rules_of_a_connection_ends_it() {
    let settings = |name: u16, value: u32| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
    let open = opening(1, 0);
    let cases: Vec<(&str, Vec<u8>, Reason)> = vec![
        ("DATA on 0", frame(kind::DATA, 0, 0, b"x"), Reason::PROTOCOL_ERROR),
        ("DATA on an idle stream", frame(kind::DATA, 0, 1, b"x"), Reason::PROTOCOL_ERROR),
        (
            "padding past the payload",
            [&open[..], &frame(kind::DATA, flag::PADDED, 1, &[2, 0])].concat(),
            Reason::PROTOCOL_ERROR,
        ),
        ("HEADERS on an even stream", opening(2, 0), Reason::PROTOCOL_ERROR),
        ("a stream that goes back", [opening(5, 0), opening(3, 0)].concat(), Reason::STREAM_CLOSED),
        (
            "a block that is interrupted",
            [frame(kind::HEADERS, 0, 1, &GET), frame(kind::PING, 0, 0, &[0; 8])].concat(),
            Reason::PROTOCOL_ERROR,
        ),
        (
            "another stream's CONTINUATION",
            [frame(kind::HEADERS, 0, 1, &GET), frame(kind::CONTINUATION, 4, 3, &[])].concat(),
            Reason::PROTOCOL_ERROR,
        ),
        ("CONTINUATION of nothing", frame(kind::CONTINUATION, 4, 1, &GET), Reason::PROTOCOL_ERROR),
        ("no HPACK", frame(kind::HEADERS, flag::END_HEADERS, 1, &[0x80]), Reason::COMPRESSION_ERROR),
        ("a frame that is too large", vec![0, 0x40, 1, kind::PING, 0, 0, 0, 0, 0], Reason::FRAME_SIZE_ERROR),
        ("SETTINGS on a stream", frame(kind::SETTINGS, 0, 1, &[]), Reason::PROTOCOL_ERROR),
        ("half a setting", frame(kind::SETTINGS, 0, 0, &[0; 5]), Reason::FRAME_SIZE_ERROR),
        ("an ACK that says something", frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]), Reason::FRAME_SIZE_ERROR),
        ("a push of 2", frame(kind::SETTINGS, 0, 0, &settings(2, 2)), Reason::PROTOCOL_ERROR),
        ("a window past the most", frame(kind::SETTINGS, 0, 0, &settings(4, 1 << 31)), Reason::FLOW_CONTROL_ERROR),
        ("small frames", frame(kind::SETTINGS, 0, 0, &settings(5, 16_383)), Reason::PROTOCOL_ERROR),
        ("a short PING", frame(kind::PING, 0, 0, &[0; 7]), Reason::FRAME_SIZE_ERROR),
        ("PING on a stream", frame(kind::PING, 0, 1, &[0; 8]), Reason::PROTOCOL_ERROR),
        ("RST_STREAM of an idle stream", frame(kind::RST_STREAM, 0, 1, &[0; 4]), Reason::PROTOCOL_ERROR),
        ("a short RST_STREAM", [&open[..], &frame(kind::RST_STREAM, 0, 1, &[0; 3])].concat(), Reason::FRAME_SIZE_ERROR),
        ("a window of nothing more", frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4]), Reason::PROTOCOL_ERROR),
        (
            "a window that overflows",
            frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255]),
            Reason::FLOW_CONTROL_ERROR,
        ),
        ("a window of an idle stream", frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), Reason::PROTOCOL_ERROR),
        ("a push", frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &[0; 4]), Reason::PROTOCOL_ERROR),
        ("PRIORITY of nothing", frame(kind::PRIORITY, 0, 0, &[0; 5]), Reason::PROTOCOL_ERROR),
        ("GOAWAY on a stream", frame(kind::GOAWAY, 0, 1, &[0; 8]), Reason::PROTOCOL_ERROR),
    ];
    for (name, bytes, reason) in cases {
        for size in [1, bytes.len()] {
            let mut server = server();
            bytes.chunks(size).for_each(|piece| server.receive(piece));
            assert_eq!(ended(&mut server), Some(reason), "{name} in pieces of {size}");
        }
    }
}

#[test]
fn what_is_against_the_rules_of_a_stream_resets_it_and_the_others_go_on() {
    let length = [&GET[..], &[0x0f, 13, 1, b'3']].concat();
    let posting = frame(kind::HEADERS, flag::END_HEADERS, 1, &length);
    let cases: Vec<(&str, Vec<u8>, Reason)> = vec![
        ("no method", frame(kind::HEADERS, 5, 1, &GET[1..]), Reason::PROTOCOL_ERROR),
        ("a body that should be", frame(kind::HEADERS, 5, 1, &length), Reason::PROTOCOL_ERROR),
        ("a body that is longer", [&posting[..], &frame(kind::DATA, 0, 1, b"four")].concat(), Reason::PROTOCOL_ERROR),
        ("a body that is shorter", [&posting[..], &frame(kind::DATA, 1, 1, b"2")].concat(), Reason::PROTOCOL_ERROR),
        ("DATA after the end", [opening(1, 1), frame(kind::DATA, 0, 1, b"x")].concat(), Reason::STREAM_CLOSED),
        ("HEADERS after the end", [opening(1, 1), opening(1, 1)].concat(), Reason::STREAM_CLOSED),
        ("trailers without an end", [opening(1, 0), frame(kind::HEADERS, 4, 1, &[])].concat(), Reason::PROTOCOL_ERROR),
        ("trailers with a method", [opening(1, 0), frame(kind::HEADERS, 5, 1, &GET)].concat(), Reason::PROTOCOL_ERROR),
        (
            "a window of nothing more",
            [opening(1, 0), frame(kind::WINDOW_UPDATE, 0, 1, &[0; 4])].concat(),
            Reason::PROTOCOL_ERROR,
        ),
        (
            "a window that overflows",
            [opening(1, 0), frame(kind::WINDOW_UPDATE, 0, 1, &[0x7f, 255, 255, 255])].concat(),
            Reason::FLOW_CONTROL_ERROR,
        ),
        ("a short PRIORITY", [opening(1, 0), frame(kind::PRIORITY, 0, 1, &[0; 4])].concat(), Reason::FRAME_SIZE_ERROR),
    ];
    for (name, bytes, reason) in cases {
        let mut server = server();
        server.receive(&bytes);
        assert_eq!(resets(&mut server), [(1, reason)], "{name}");
        server.receive(&opening(3, flag::END_STREAM));
        assert!(server.accepted.iter().any(|accepted| accepted.stream == 3), "{name}");
    }
    let mut server = server();
    for stream in 0..=CONFIG.faults {
        server.receive(&frame(kind::HEADERS, 5, stream * 2 + 1, &[]));
    }
    assert_eq!(ended(&mut server), Some(Reason::ENHANCE_YOUR_CALM), "enough is enough");
}

#[test]
fn after_a_reset_of_ours_frames_may_come_and_after_the_clients_none() {
    for held in [false, true] {
        let mut server = server();
        server.receive(&opening(1, 0));
        server.accept().unwrap();
        server.respond(1, &Response::new(()), true).unwrap();
        if held {
            server.reset(1, Reason::NO_ERROR);
        } else {
            server.release(1, Half::Reading);
            server.release(1, Half::Writing);
        }
        assert_eq!(resets(&mut server), [(1, Reason::NO_ERROR)]);
        server.receive(&frame(kind::DATA, 0, 1, b"x"));
        server.receive(&frame(kind::HEADERS, 5, 1, &[]));
        assert!(!server.ending());
        server.receive(&frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8]));
        server.receive(&frame(kind::HEADERS, 5, 1, &[]));
        assert_eq!(ended(&mut server), Some(Reason::STREAM_CLOSED), "held: {held}");
    }
}

#[test]
fn a_client_may_send_no_more_than_its_windows() {
    let chunk = [0; 10_000];
    let mut one = server();
    one.receive(&opening(1, 0));
    (0..10).for_each(|_| one.receive(&frame(kind::DATA, 0, 1, &chunk)));
    assert!(resets(&mut one).is_empty());
    one.receive(&frame(kind::DATA, 0, 1, b"x"));
    assert_eq!(resets(&mut one), [(1, Reason::FLOW_CONTROL_ERROR)]);

    let mut all = server();
    for stream in [1, 3] {
        all.receive(&opening(stream, 0));
        (0..10).for_each(|_| all.receive(&frame(kind::DATA, 0, stream, &chunk)));
    }
    all.receive(&opening(5, 0));
    all.receive(&frame(kind::DATA, 0, 5, b"x"));
    assert_eq!(ended(&mut all), Some(Reason::FLOW_CONTROL_ERROR));
}

#[test]
fn what_nobody_takes_opens_the_window_of_the_connection_again() {
    let mut server = server();
    for stream in (1..100).step_by(2) {
        server.receive(&opening(stream, 0));
        server.receive(&frame(kind::DATA, flag::PADDED, stream, &[&[200][..], &[0; 10_200]].concat()));
        server.accept().unwrap();
        if stream % 4 == 1 {
            server.reset(stream, Reason::CANCEL);
        }
        server.receive(&frame(kind::DATA, 0, stream, &[0; 10_000]));
        server.release(stream, Half::Reading);
        server.receive(&frame(kind::DATA, 0, stream, &[0; 10_000]));
        server.release(stream, Half::Writing);
        server.receive(&frame(kind::DATA, 0, stream, &[0; 10_000]));
        assert!(!server.ending(), "at stream {stream}");
        said(&mut server);
    }
}

#[test]
fn streams_past_the_limit_are_refused_and_those_that_end_make_room() {
    let mut server = server();
    (1..9).step_by(2).for_each(|stream| server.receive(&opening(stream, 1)));
    assert_eq!(server.seen.refused, 1);
    assert_eq!(resets(&mut server), [(7, Reason::REFUSED_STREAM)]);
    // One is answered, one given up by its client before anybody has looked at it.
    server.respond(1, &Response::new(()), true).unwrap();
    server.receive(&frame(kind::RST_STREAM, 0, 3, &[0, 0, 0, 8]));
    assert_eq!(server.seen.retracted, 1);
    assert!(!server.streams.contains_key(&3));
    (9..13).step_by(2).for_each(|stream| server.receive(&opening(stream, 1)));
    assert_eq!(server.seen.refused, 1);
    assert_eq!(server.accepted.iter().map(|accepted| accepted.stream).collect::<Vec<_>>(), [1, 5, 9, 11]);
}

#[test]
fn a_block_without_end_and_one_that_is_a_bomb_are_bounded() {
    let mut flood = server();
    flood.receive(&frame(kind::HEADERS, 1, 1, &GET));
    let mut frames = 0;
    while !flood.ending() {
        flood.receive(&frame(kind::CONTINUATION, 0, 1, b""));
        frames += 1;
        assert!(frames < 100);
    }
    assert_eq!(ended(&mut flood), Some(Reason::ENHANCE_YOUR_CALM));

    // A field of 4,000 bytes in the table, and its index a thousand times.
    let mut bomb = server();
    let block = [&GET[..], b"\x40\x01x\x7f\xa1\x1e", &[b'y'; 4000], &[0xbe; 1000]].concat();
    bomb.receive(&frame(kind::HEADERS, 5, 1, &block));
    let accepted = bomb.accept().unwrap();
    assert!(accepted.too_large && accepted.request.headers().is_empty());
    assert!(!bomb.ending(), "the connection goes on");
}

#[test]
fn who_asks_and_takes_no_answers_is_not_read() {
    let mut server = server();
    let mut pings = 0;
    while !server.congested() {
        server.receive(&frame(kind::PING, 0, 0, &[0; 8]));
        pings += 1;
        assert!(pings <= CONGESTED / 17 + 1);
    }
    server.flushed();
    assert!(!server.congested());
}

#[test]
fn a_drain_takes_what_is_on_its_way_and_nothing_after() {
    let mut server = server();
    server.receive(&opening(1, 1));
    server.drain();
    let said_first = said(&mut server);
    let [(goaway, _), (ping, asked)] = &said_first[..] else { panic!("{said_first:?}") };
    assert_eq!((goaway.kind, ping.kind), (kind::GOAWAY, kind::PING));
    server.receive(&opening(3, 1));
    server.receive(&frame(kind::PING, flag::ACK, 0, asked));
    let said_last = said(&mut server);
    assert_eq!(frame::number(&said_last.last().unwrap().1), Some(3), "the last stream");
    server.receive(&opening(5, 0));
    server.receive(&frame(kind::DATA, 1, 5, b"x"));
    for stream in [1, 3] {
        assert!(!server.ending());
        assert_eq!(server.accept().unwrap().stream, stream);
        server.respond(stream, &Response::new(()), true).unwrap();
        server.release(stream, Half::Reading);
        server.release(stream, Half::Writing);
    }
    assert!(server.accept().is_none() && server.ending());
}

#[test]
fn an_endpoint_that_goes_away_has_not_seen_the_streams_past_its_last() {
    let mut client = Connection::new(Role::Client, CONFIG);
    let request = Request::get("http://web/").body(()).unwrap();
    let (first, second) = (client.open(&request, true), client.open(&request, true));
    client.receive(&frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]));
    assert!(client.closes());
    assert!(client.poll_head(first, &noop()).is_pending());
    assert!(matches!(client.poll_head(second, &noop()), Poll::Ready(Err(Error::Unprocessed))));
    client.receive(&frame(kind::HEADERS, 5, first, &[0x88]));
    assert!(matches!(client.poll_head(first, &noop()), Poll::Ready(Ok(_))));
    for (stream, half) in
        [(first, Half::Reading), (first, Half::Writing), (second, Half::Reading), (second, Half::Writing)]
    {
        assert!(!client.ending());
        client.release(stream, half);
    }
    assert!(client.ending());
}

#[test]
fn a_client_opens_no_more_streams_than_it_may() {
    let mut client = Connection::new(Role::Client, CONFIG);
    client.senders = 1;
    let request = Request::get("http://web/").body(()).unwrap();
    assert_eq!(client.may_open(&noop()), Some(Opens::Now));
    let stream = client.open(&request, true);
    let woken = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&woken));
    for _ in 0..3 {
        assert_eq!(client.may_open(&Context::from_waker(&waker)), None, "nobody knows yet");
    }
    client.receive(&frame(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]));
    assert_eq!((woken.0.load(SeqCst), client.may_open(&noop())), (1, Some(Opens::Full)));
    assert!(client.take_seat(2) && !client.take_seat(2));
    // What is informational comes before the answer.
    client.receive(&frame(kind::HEADERS, 4, stream, &[0x08, 3, b'1', b'0', b'3']));
    assert!(matches!(client.poll_head(stream, &noop()), Poll::Ready(Ok(head)) if head.status() == 103));
    assert!(client.poll_head(stream, &noop()).is_pending());
    client.receive(&frame(kind::HEADERS, 5, stream, &[0x88]));
    assert_eq!(client.may_open(&noop()), Some(Opens::Now));
}

#[test]
fn a_broken_connection_is_told_to_all_its_streams() {
    let mut server = server();
    server.receive(&opening(1, 0));
    server.accept().unwrap();
    server.receive(&frame(kind::DATA, 0, 1, b"before"));
    server.disconnect();
    assert!(matches!(server.poll_frame(1, &noop()), Poll::Ready(Some(Ok(_)))), "what came before counts");
    assert!(matches!(server.poll_frame(1, &noop()), Poll::Ready(Some(Err(Error::Closed)))));
    assert!(matches!(server.poll_reset(1, &noop()), Poll::Ready(Error::Closed)));
    assert!(server.out.is_empty());
}
