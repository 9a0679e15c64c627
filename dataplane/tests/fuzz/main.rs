//! The fuzz targets on stable: on inputs made of the words that matter, and on every input that is kept in `corpus/`,
//! where what a fuzzer finds stays as a regression.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod targets;

use std::path::Path;

use proptest::prelude::*;
use prost::Message as _;
use proxy_api::v1beta1 as api;

/// What heads and bodies are made of, and what tells parsers apart.
const WORDS: [&[u8]; 58] = [
    b"GET ",
    b"POST ",
    b"HEAD ",
    b"OPTIONS ",
    b"CONNECT ",
    b"get ",
    b"/",
    b"*",
    b"/a?b=c#d",
    b"http://web/x",
    b"http://",
    b"web:80",
    b" HTTP/1.1\r\n",
    b" HTTP/1.0\r\n",
    b" HTTP/1.2\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 101 X\r\n",
    b"HTTP/1.0 304\r\n",
    b"HTTP/1.1 100\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b"\0",
    b"\x0b",
    b"\x80",
    b":",
    b",",
    b";",
    b"Host: web\r\n",
    b"Host: a b\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"content-length: 5, 5\r\n",
    b"Content-Length: +5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: Upgrade, Host, X\r\n",
    b"Connection: content-length\r\n",
    b"Upgrade: websocket\r\n",
    b"TE: trailers, gzip\r\n",
    b"Expect: 100-continue\r\n",
    b"X: y\r\n",
    b"Cookie: a=1\r\n",
    b"X-Forwarded-For: ::1\r\n",
    b"Keep-Alive: 5\r\n",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"0\r\nX: y\r\n\r\n",
    b"5;ext=\"a\"\r\n",
    b"0x5\r\n",
    b"ffffffffffffffff\r\n",
    b"00000000000000005\r\n",
    b"a",
];

/// Words in any order, and now and then any bytes.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        8 => prop::sample::select(&WORDS[..]).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(word, 0..12).prop_map(|words| words.concat())
}

/// A start that is in order, so that what follows it is looked at.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let starts: [&[u8]; 5] = [
        b"",
        b"GET / HTTP/1.1\r\nHost: web\r\n",
        b"POST http://a/b HTTP/1.1\r\nHost: web\r\n",
        b"\x04HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: upgrade\r\n",
        b"\x00HTTP/1.1 200 OK\r\n",
    ];
    (prop::sample::select(starts.to_vec()), bytes(), any::<bool>()).prop_map(|(start, rest, end)| {
        let end: &[u8] = if end { b"\r\n" } else { b"" };
        [start, &rest, end].concat()
    })
}

fn snapshot() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof![Just(String::new()), "[a-z]{1,3}", any::<String>()];
    let address = prop_oneof![Just("10.0.0.1".to_owned()), Just("::1".to_owned()), any::<String>()];
    let endpoint = (address, prop_oneof![1..3_u32, any::<u32>()]).prop_map(|(address, port)| api::Endpoint {
        address,
        port,
        ..Default::default()
    });
    let listener = (prop_oneof![0..4_u32, any::<u32>()], any::<i32>(), prop::collection::vec(endpoint, 0..3)).prop_map(
        |(port, protocol, stable)| api::Listener { port, protocol, stable, split: true, ..Default::default() },
    );
    let route = (text, 0..3_u64, prop_oneof![0..102_u32, any::<u32>()], prop::collection::vec(listener, 0..3));
    let route = route.prop_map(|(uid, counter, weight, listeners)| api::Route {
        uid,
        counter,
        weight,
        listeners,
        ..Default::default()
    });
    prop::collection::vec(route, 0..4).prop_map(|routes| api::Snapshot { routes, limits: None }.encode_to_vec())
}

/// Frames of HTTP/2: heads that may be in order, with payloads that may be, too.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let get = b"\x82\x86\x84\x41\x03web".to_vec();
    let payload = prop_oneof![
        3 => Just(get.clone()),
        1 => Just([&get[..], b"\x0f\x0d\x013"].concat()),
        1 => Just(b"\x88".to_vec()),
        1 => Just(b"\x08\x03103".to_vec()),
        1 => Just(b"\x00\x04\x00\x00\x10\x00".to_vec()),
        1 => Just(vec![0; 4]),
        1 => Just(vec![0, 0, 1, 0]),
        1 => Just(vec![0, 0, 0, 3, 0, 0, 0, 0]),
        1 => Just(vec![0x7f; 4]),
        2 => Just(vec![]),
        1 => Just(vec![3; 9_000]),
        2 => prop::collection::vec(any::<u8>(), 0..20),
    ];
    let flags = prop_oneof![4 => Just(4), 4 => Just(5), 2 => Just(0), 1 => Just(1), 1 => any::<u8>()];
    let stream = prop_oneof![4 => Just(1_u32), 4 => Just(3), 2 => Just(0), 1 => 0..12_u32, 1 => any::<u32>()];
    let kind = prop_oneof![4 => Just(1), 4 => Just(0), 4 => 0..10_u8, 1 => any::<u8>()];
    let frame = (kind, flags, stream, payload).prop_map(|(kind, flags, stream, payload)| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), &payload].concat()
    });
    (prop::collection::vec(frame, 0..12), prop::collection::vec(any::<u8>(), 0..3))
        .prop_map(|(frames, rest)| [frames.concat(), rest].concat())
}

/// Forms of fields, and strings of them.
fn blocks() -> impl Strategy<Value = Vec<u8>> {
    let form = prop_oneof![
        4 => (0x80..0xc8_u8).prop_map(|form| vec![form]),
        2 => Just(b"\x40\x01a\x03xyz".to_vec()),
        1 => Just(b"\x40\x82\x1c\x64\x81\x07".to_vec()),
        1 => Just([&b"\x40\x01b\x7f\x81\x07"[..], &[b'y'; 1024]].concat()),
        2 => (0x0f..0x10_u8, 0..60_u8).prop_map(|(form, name)| vec![form, name, 1, b'x']),
        1 => Just(b"\x20".to_vec()),
        1 => Just(b"\x3f\xe1\x1f".to_vec()),
        1 => Just(vec![0xff]),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(form, 0..30).prop_map(|forms| forms.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_096, ..ProptestConfig::default() })]

    #[test]
    fn heads_and_bodies_have_one_reading(data in message(), first: u8) {
        targets::request_head(&data);
        targets::translation(&data);
        targets::response_head(&data);
        targets::chunked_body(&[&[first], data.as_slice()].concat());
    }

    #[test]
    fn the_rule_that_is_found_is_the_models(data in prop::collection::vec(any::<u8>(), 0..200)) {
        targets::route_match(&data);
    }

    #[test]
    fn http2_connections_hold_a_bounded_amount_whatever_comes(first: u8, data in frames()) {
        targets::http2_frames(&[&[first], data.as_slice()].concat());
    }

    #[test]
    fn field_blocks_are_written_as_they_were_read(data in blocks()) {
        targets::hpack(&data);
    }

    #[test]
    fn snapshots_leave_a_table_that_can_be_served(data in snapshot()) {
        targets::snapshot(&data);
    }
}

#[test]
fn what_was_found_once_stays_found() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for (name, target) in targets::TARGETS {
        let files: Vec<_> = std::fs::read_dir(corpus.join(name)).unwrap().map(|file| file.unwrap().path()).collect();
        assert!(!files.is_empty(), "no input for {name}");
        for file in files {
            target(&std::fs::read(&file).unwrap());
        }
    }
}
