use super::*;

const FIELDS: usize = 100;

fn status(head: &str) -> u16 {
    parse(head.as_bytes(), &mut room()[..FIELDS]).map_or_else(|reject| reject.status.as_u16(), |_| 200)
}

fn written(head: &str) -> String {
    let mut out = Vec::new();
    parse(head.as_bytes(), &mut room()).unwrap().write("10.1.2.3", None, &mut out);
    String::from_utf8(out).unwrap()
}

/// The rows of `research/dataplane.md` §7.3 that are about heads.
#[test]
fn what_parsers_could_read_differently_is_refused() {
    let rows: &[(&str, u16)] = &[
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2, 2\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +2\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x2\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 200),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n", 200),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", 501),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: foo\r\n\r\n", 501),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n", 501),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\tchunked\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\t\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \tchunked\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHo st: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        ("GET / HTTP/1.1\r\nHost: a\r\nExpect: foo\r\n\r\n", 417),
        ("GET / HTTP/1.1\r\nHost: a\r\nExpect: y 100-continue\r\n\r\n", 417),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
        ("GET / HTTP/9.9\r\nHost: a\r\n\r\n", 505),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        ("get / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n", 200),
    ];
    for (head, expected) in rows {
        assert_eq!(status(head), *expected, "{head:?}");
    }
}

#[test]
fn too_many_fields_are_a_431() {
    let head = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count));
    assert_eq!(status(&head(FIELDS - 1)), 200);
    assert_eq!(status(&head(FIELDS)), 431);
}

#[test]
fn a_head_is_written_anew_for_the_endpoint() {
    let head = "GET http://real/x?y HTTP/1.1\r\nHost: other\r\nConnection: close, X-Mine, Content-Length, Cookie\r\n\
                X-Mine: 1\r\nX-Yours: 2\r\nCookie: c\r\nKeep-Alive: 5\r\nTE: gzip, trailers\r\nUpgrade: h2c\r\n\
                Proxy-Connection: x\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\n\
                Connection: x-forwarded-for\r\n\r\n";
    assert_eq!(
        written(head),
        "GET /x?y HTTP/1.1\r\nhost: real\r\nX-Yours: 2\r\nCookie: c\r\nx-forwarded-for: 1.1.1.1, 2.2.2.2, 10.1.2.3\r\n\
         x-forwarded-proto: http\r\nte: trailers\r\n\r\n"
    );
}

#[test]
fn fields_that_any_of_several_connections_names_are_dropped() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-one\r\nConnection: x-two\r\nX-One: 1\r\nX-Two: 2\r\n\r\n";
    assert!(!written(head).to_lowercase().contains("x-one:"));
    assert!(!written(head).to_lowercase().contains("x-two:"));
}

#[test]
fn only_a_websocket_without_body_may_switch() {
    let switches = |rest: &str| written(&format!("GET / HTTP/1.1\r\nHost: a\r\n{rest}\r\n")).contains("upgrade:");
    assert!(switches("Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"));
    assert!(!switches("Connection: Upgrade\r\nUpgrade: foo\r\n"));
    assert!(!switches("Connection: close\r\nUpgrade: websocket\r\n"));
    assert!(!switches("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n"));
}

#[test]
fn persistence_follows_version_and_connection() {
    let keeps = |head: &str| parse(head.as_bytes(), &mut room()).unwrap().facts.keep_alive;
    assert!(keeps("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert!(!keeps("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
    assert!(!keeps("GET / HTTP/1.1\r\nHost: a\r\nConnection: x\r\nConnection: Close\r\n\r\n"));
    assert!(!keeps("GET / HTTP/1.0\r\nHost: a\r\n\r\n"));
    assert!(keeps("GET / HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n"));
}
