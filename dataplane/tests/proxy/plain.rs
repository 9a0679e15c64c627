//! HTTP/2 clients of endpoints that speak HTTP/1.1: both bodies at a time, the end of either, and connections that are used again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response};
use proxy_api::v1beta1 as api;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::common::{Bed, Origin, raw_origin, read_head, stable, within};
use crate::frames;

/// A port whose endpoint speaks HTTP/1.1.
async fn http1(address: SocketAddr) -> Bed {
    Bed::new(|route| {
        stable(route, address);
        route.listeners[0].protocol = api::Protocol::Http.into();
        // Nothing is closed for being idle.
        let pool = api::ConnectionPool { idle_timeout_ms: 3_600_000, ..Default::default() };
        route.traffic_policy = Some(api::TrafficPolicy { connection_pool: Some(pool), ..Default::default() });
    })
    .await
}

/// An endpoint that says `words` to the first request of each connection, after which it closes its side if it is to, and
/// tells what it was sent and that its connection has ended.
async fn says(words: &'static [u8], closes: bool) -> (SocketAddr, mpsc::UnboundedReceiver<(String, Vec<u8>)>) {
    let (heard, hears) = mpsc::unbounded_channel();
    let address = raw_origin(move |_, mut stream| {
        let heard = heard.clone();
        async move {
            let head = read_head(&mut stream).await.unwrap();
            stream.write_all(words).await.unwrap();
            if closes {
                stream.shutdown().await.unwrap();
            }
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            let _ = heard.send((head, rest));
        }
    })
    .await;
    (address, hears)
}

async fn body(stream: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = within(stream.data()).await {
        let data = data?;
        stream.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    Ok(all)
}

async fn get(client: &mut SendRequest<Bytes>) -> Response<RecvStream> {
    let (answer, _) = client.send_request(Request::get("http://web/").body(()).unwrap(), true).unwrap();
    within(answer).await.unwrap()
}

async fn line(stream: &mut TcpStream) -> String {
    let mut line = String::new();
    while !line.ends_with("\r\n") {
        line.push(char::from(stream.read_u8().await.unwrap()));
    }
    line
}

#[tokio::test]
async fn an_answer_that_comes_before_the_request_has_ended_is_passed_on_and_the_rest_not_waited_for() {
    for words in [&b"HTTP/1.1 413 Enough\r\nContent-Length: 2\r\n\r\nno"[..], b"HTTP/1.1 413 Enough\r\n\r\nno"] {
        let (address, mut ended) = says(words, !words.ends_with(b"2\r\n\r\nno")).await;
        let bed = http1(address).await;
        let mut client = frames::connect(&bed).await;
        // Without a length, and without an end.
        let (answer, mut upload) = client.send_request(frames::post(), false).unwrap();
        upload.send_data("some".into(), false).unwrap();
        let mut answer = within(answer).await.unwrap();
        assert_eq!((answer.status().as_u16(), body(answer.body_mut()).await.unwrap()), (413, b"no".to_vec()));
        let (head, rest) = within(ended.recv()).await.expect("its connection is closed");
        assert!(head.contains("\r\ntransfer-encoding: chunked\r\n") && rest == b"4\r\nsome\r\n", "{head}{rest:?}");
        let reset = within(std::future::poll_fn(|context| upload.poll_reset(context))).await;
        assert_eq!(reset.unwrap(), h2::Reason::NO_ERROR, "the client need not go on");
        let counters = bed.counters(api::Arm::Stable);
        assert_eq!((counters.succeeded + counters.client_errors, counters.errors), (1, 0), "{counters:?}");
        assert_eq!(get(&mut client).await.status().as_u16(), 413, "over another connection");
    }
}

#[tokio::test]
async fn both_bodies_go_on_at_a_time_and_end_with_trailers() {
    let address = raw_origin(|_, mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        assert!(head.contains("\r\ntransfer-encoding: chunked\r\n"), "{head}");
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        loop {
            let size = line(&mut stream).await;
            if size == "0\r\n" {
                break;
            }
            let said = line(&mut stream).await;
            stream.write_all(format!("{size}{said}").as_bytes()).await.unwrap();
        }
        assert_eq!((line(&mut stream).await, line(&mut stream).await), ("x-sum: 3\r\n".into(), "\r\n".into()));
        stream.write_all(b"0\r\nX-Sum: 4\r\nContent-Length: 5\r\n\r\n").await.unwrap();
        let _ = stream.read_u8().await;
    })
    .await;
    let bed = http1(address).await;
    let (answer, mut upload) = frames::connect(&bed).await.send_request(frames::post(), false).unwrap();
    let mut answer = within(answer).await.unwrap().into_body();
    for word in ["one", "two", "three"] {
        upload.send_data(word.into(), false).unwrap();
        assert_eq!(within(answer.data()).await.unwrap().unwrap(), word);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", 3.into());
    // Which may not stand there.
    trailers.insert("trailer", "x-sum".parse().unwrap());
    upload.send_trailers(trailers).unwrap();
    assert!(within(answer.data()).await.is_none());
    let trailers = within(answer.trailers()).await.unwrap().unwrap();
    assert_eq!((trailers.len(), &trailers["x-sum"]), (1, &4.into()));
    assert_eq!(bed.counters(api::Arm::Stable).succeeded, 1);
}

#[tokio::test]
async fn bodies_end_as_their_heads_say() {
    let head = || Request::head("http://web/");
    let get = || Request::get("http://web/");
    let rows = [
        (get(), &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"[..], false, 200, "ok", Some("2")),
        (get(), b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", false, 200, "ok", Some("2")),
        (
            get(),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
            false,
            200,
            "ok",
            None,
        ),
        (get(), b"HTTP/1.1 200 OK\r\n\r\nto the end", true, 200, "to the end", None),
        (get(), b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", false, 200, "ok", Some("2")),
        (get(), b"HTTP/1.1 204 None\r\nContent-Length: 2\r\n\r\n", false, 204, "", None),
        (get(), b"HTTP/1.1 304 Same\r\nContent-Length: 2\r\n\r\n", false, 304, "", Some("2")),
        (head(), b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", false, 200, "", Some("2")),
        (head(), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, 200, "", None),
    ];
    for (request, words, closes, status, wanted, length) in rows {
        let name = String::from_utf8_lossy(words);
        let bed = http1(says(words, closes).await.0).await;
        let mut client = frames::connect(&bed).await;
        let (answer, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
        let mut answer = within(answer).await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{name}");
        assert_eq!(answer.headers().get("content-length").map(|length| length.to_str().unwrap()), length, "{name}");
        assert!(!answer.headers().contains_key("transfer-encoding"));
        assert_eq!(body(answer.body_mut()).await.unwrap(), wanted.as_bytes(), "{name}");
        assert_eq!(bed.counters(api::Arm::Stable).errors, 0, "{name}");
    }
}

#[tokio::test]
async fn what_is_no_answer_is_told_from_one_that_breaks_off() {
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(101)).leak().as_bytes();
    let large = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(64 * 1024)).leak().as_bytes();
    let rows = [
        (&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nx\r\n"[..], "UPE"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\nok\n0\n\n", "UPE"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nno field\r\n\r\n", "UPE"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n", "UPE"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "UPE"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", "UPE"),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "UPE"),
        (b"220 mail ESMTP\r\n\r\n", "UPE"),
        (many, "UPE"),
        (large, "UPE"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "UC"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", "UC"),
        (b"HTTP/1.1 200 OK\r\nContent-", "UC"),
        (b"", "UC"),
    ];
    for (words, flag) in rows {
        let name = String::from_utf8_lossy(&words[..words.len().min(100)]);
        let bed = http1(says(words, true).await.0).await;
        let mut client = frames::connect(&bed).await;
        let mut answer = get(&mut client).await;
        if answer.status() != 502 {
            body(answer.body_mut()).await.unwrap_err();
        }
        assert_eq!(bed.counters(api::Arm::Stable).errors, 1, "{name}");
        let metrics = bed.metrics();
        let flags: Vec<_> = metrics.lines().filter(|line| line.starts_with("sluice_proxy_response_flags")).collect();
        assert!(flags.len() == 1 && flags[0].contains(&format!("flag=\"{flag}\"")), "{name}: {flags:?}");
    }
}

#[tokio::test]
async fn clients_of_either_version_use_the_same_connections() {
    let origin = Origin::text("ok").await;
    let bed = http1(origin.address).await;
    for _ in 0..12 {
        assert_eq!(bed.get("/").await.body, "ok");
        let mut answer = get(&mut frames::connect(&bed).await).await;
        assert_eq!(body(answer.body_mut()).await.unwrap(), b"ok");
    }
    let connections = origin.connections.load(SeqCst);
    assert!(connections <= 2, "{connections}: one for each worker");
}

#[tokio::test]
async fn a_connection_that_is_not_in_order_is_not_used_again() {
    for words in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokmore",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nmore",
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    ] {
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        let address = raw_origin(move |_, mut stream| {
            let count = Arc::clone(&count);
            async move {
                read_head(&mut stream).await.unwrap();
                count.fetch_add(1, SeqCst);
                stream.write_all(words.as_bytes()).await.unwrap();
                assert!(read_head(&mut stream).await.is_none(), "nothing more comes over this connection");
                count.fetch_add(100, SeqCst);
            }
        })
        .await;
        let bed = http1(address).await;
        let mut client = frames::connect(&bed).await;
        for _ in 0..3 {
            let mut answer = get(&mut client).await;
            assert_eq!(answer.status(), 200, "{words}");
            body(answer.body_mut()).await.unwrap();
        }
        crate::common::eventually("each is closed", || requests.load(SeqCst) == 303).await;
    }
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    const BODY: usize = 4_000_000;
    for length in [true, false] {
        let address = raw_origin(move |_, mut stream| async move {
            let head = read_head(&mut stream).await.unwrap();
            assert_eq!(head.contains(&format!("content-length: {BODY}\r\n")), length, "{head}");
            let said = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
            stream.write_all(said.as_bytes()).await.unwrap();
            let (mut from, mut to) = stream.split();
            let hear = async {
                let (mut room, mut taken) = (vec![0; 64 * 1024], 0);
                while taken < BODY {
                    taken += from.read(&mut room).await.unwrap();
                }
            };
            let all = vec![7; BODY];
            let ((), told) = tokio::join!(hear, to.write_all(&all));
            told.unwrap();
            let _ = from.read_to_end(&mut Vec::new()).await;
        })
        .await;
        let bed = http1(address).await;
        let mut request = Request::post("http://web/");
        if length {
            request = request.header("content-length", BODY);
        }
        let (answer, mut upload) = frames::connect(&bed).await.send_request(request.body(()).unwrap(), false).unwrap();
        upload.send_data(vec![7; BODY].into(), true).unwrap();
        let mut answer = within(answer).await.unwrap();
        assert_eq!(frames::read(answer.body_mut()).await.unwrap(), BODY);
        assert_eq!(bed.counters(api::Arm::Stable).succeeded, 1);
    }
}
