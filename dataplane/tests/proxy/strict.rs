//! The HTTP/1 probe: what two parsers could read differently is refused, and what is passed on is written anew. Every
//! case is sent as raw bytes, followed by a second request that must not be answered where the first is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use dataplane::sight::Logged;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::{Bed, Origin, eventually, raw_origin, read_head, stable, within};
use crate::sight::log;

const SECOND: &str = "GET /second HTTP/1.1\r\nHost: web\r\n\r\n";

/// Status lines that the client got, and the number of requests that reached the endpoint.
async fn probe(first: &str) -> (Vec<u16>, usize) {
    let reached = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&reached);
    let origin = Origin::new(move |request| {
        let count = Arc::clone(&count);
        async move {
            count.fetch_add(1, SeqCst);
            let _ = http_body_util::BodyExt::collect(request.into_body()).await;
            http::Response::new("ok".into())
        }
    })
    .await;
    let bed = Bed::new(|route| stable(route, origin.address)).await;
    let mut client = bed.connect().await;
    client.0.write_all(format!("{first}{SECOND}").as_bytes()).await.unwrap();
    client.0.shutdown().await.unwrap();
    let mut said = Vec::new();
    let _ = within(client.0.read_to_end(&mut said)).await;
    let said = String::from_utf8_lossy(&said);
    let statuses = said.split("HTTP/1.1 ").skip(1).filter_map(|rest| rest.get(..3)?.parse().ok()).collect();
    (statuses, reached.load(SeqCst))
}

fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: web\r\n{fields}\r\n{body}")
}

#[tokio::test]
async fn refused_requests_reach_no_endpoint_and_end_the_connection() {
    let chunked = "Transfer-Encoding: chunked\r\n";
    let rows = [
        (post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"), 400),
        (post("Content-Length: 2\r\nContent-Length: 3\r\n", "hi"), 400),
        (post("Content-Length: 2\r\nContent-Length: 2\r\n", "hi"), 400),
        (post("Content-Length: 2, 2\r\n", "hi"), 400),
        (post("Content-Length: +2\r\n", "hi"), 400),
        (post("Content-Length: 18446744073709551616\r\n", "hi"), 400),
        (post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), 501),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400),
        (post("Transfer-Encoding:\tchunked\r\n", "0\r\n\r\n"), 400),
        ("POST / HTTP/1.0\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: web\r\nX : y\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: web\r\nX: y\r\n z\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\nHost: web\n\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: web\r\nX: y\rz\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: web\r\nHost: web\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.2\r\nHost: web\r\n\r\n".to_owned(), 505),
        ("get / HTTP/1.1\r\nHost: web\r\n\r\n".to_owned(), 400),
        ("GET  / HTTP/1.1\r\nHost: web\r\n\r\n".to_owned(), 400),
        (post("Expect: foo\r\nContent-Length: 2\r\n", "hi"), 417),
        ("CONNECT web:80 HTTP/1.1\r\nHost: web\r\n\r\n".to_owned(), 405),
        (format!("GET / HTTP/1.1\r\nHost: web\r\nX: {}\r\n\r\n", "y".repeat(40_000)), 431),
        (format!("GET / HTTP/1.1\r\nHost: web\r\n{}\r\n", "X: y\r\n".repeat(120)), 431),
    ];
    for (request, status) in rows {
        let shown = &request[..request.len().min(120)];
        assert_eq!(probe(&request).await, (vec![status], 0), "{shown:?}");
    }
    // No request line of HTTP, and so no answer of HTTP.
    assert_eq!(probe("INVALID CONNECTION PREFACE\r\n\r\n").await, (vec![], 0));
    // The head of these is in order, so the endpoint has seen it; it gets no body that it could misread.
    for body in
        ["0x2\r\nhi\r\n0\r\n\r\n", "+2\r\nhi\r\n0\r\n\r\n", "2\nhi\r\n0\r\n\r\n", "2;x\nhi\r\n0\r\n\r\n", "2\r\nhiX"]
    {
        let (statuses, _) = probe(&post(chunked, body)).await;
        assert_eq!(statuses, [400], "{body:?}");
    }
}

#[tokio::test]
async fn requests_that_are_in_order_are_both_served() {
    for request in [
        "GET / HTTP/1.1\r\nHost: web\r\n\r\n".to_owned(),
        "\r\nGET / HTTP/1.1\r\nHost: web\r\n\r\n".to_owned(),
        "GET http://web/x HTTP/1.1\r\nHost: other\r\n\r\n".to_owned(),
        "OPTIONS * HTTP/1.1\r\nHost: web\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\n\r\nhi".to_owned(),
        "GET / HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: web\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n".to_owned(),
        post("Connection: Content-Length\r\nContent-Length: 2\r\n", "hi"),
        post("Transfer-Encoding: chunked\r\n", "2;ext=\"a;b\"\r\nhi\r\n0\r\nTrailer: x\r\n\r\n"),
        format!("HEAD / HTTP/1.1\r\nHost: web\r\nX: {}\r\n\r\n", "y".repeat(30_000)),
    ] {
        let shown = &request[..request.len().min(120)];
        assert_eq!(probe(&request).await, (vec![200, 200], 2), "{shown:?}");
    }
}

#[tokio::test]
async fn a_body_that_waits_for_100_continue_is_asked_for_by_the_endpoint() {
    let address = raw_origin(|_, mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        assert!(head.contains("expect: 100-continue"), "{head}");
        stream.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let mut body = [0; 2];
        stream.read_exact(&mut body).await.unwrap();
        stream.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    })
    .await;
    let bed = Bed::new(|route| stable(route, address)).await;
    let mut client = bed.connect().await;
    let head = "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    assert_eq!(client.send(head).await.status, 103);
    assert_eq!(client.answer().await.unwrap().status, 100);
    assert_eq!(client.send("hi").await.status, 201);
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let address = raw_origin(|_, mut stream| async move {
        read_head(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig").await.unwrap();
    })
    .await;
    let bed = Bed::new(|route| stable(route, address)).await;
    let mut client = bed.connect().await;
    let answer = client.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 100000000\r\n\r\nstart").await;
    assert_eq!((answer.status, answer.body.as_str()), (413, "big"));
    // It goes on sending, and the connection ends under it.
    let piece = [0; 64 * 1024];
    within(async { while client.0.write_all(&piece).await.is_ok() {} }).await;

    // A little more is taken, as whoever sends it may not look at the answer before.
    let mut client = bed.connect().await;
    let answer = client.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 100005\r\n\r\nstart").await;
    assert_eq!((answer.status, answer.body.as_str()), (413, "big"));
    client.0.write_all(&[0; 100_000]).await.unwrap();
    client.0.shutdown().await.unwrap();
    assert_eq!(within(client.0.read(&mut [0])).await.unwrap(), 0);
}

#[tokio::test]
async fn answers_that_could_be_read_in_two_ways_are_a_502() {
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "garbage\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    ] {
        let address = raw_origin(move |_, mut stream| async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(head.as_bytes()).await;
        })
        .await;
        let bed = Bed::new(|route| stable(route, address)).await;
        assert_eq!(bed.get("/").await.status, 502, "{head:?}");
    }
}

#[tokio::test]
async fn a_body_that_ends_with_the_connection_arrives_whole() {
    let address = raw_origin(|_, mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        stream.write_all(if head.contains("/old") { b"old" } else { b"new" }).await.unwrap();
    })
    .await;
    let bed = Bed::new(|route| stable(route, address)).await;
    let mut client = bed.connect().await;
    assert_eq!(client.get("/").await.body, "new");
    assert_eq!(client.get("/").await.body, "new", "the client's connection goes on");
    client.0.write_all(b"GET /old HTTP/1.0\r\nHost: web\r\n\r\n").await.unwrap();
    let mut said = String::new();
    within(client.0.read_to_string(&mut said)).await.unwrap();
    assert!(said.ends_with("connection: close\r\n\r\nold"), "{said}");
}

#[tokio::test]
async fn large_bodies_pass_both_ways_at_once() {
    let address = raw_origin(|_, mut stream| async move {
        read_head(&mut stream).await.unwrap();
        let (from, mut to) = stream.split();
        to.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n").await.unwrap();
        tokio::io::copy(&mut from.take(8_000_000), &mut to).await.unwrap();
    })
    .await;
    let bed = Bed::new(|route| stable(route, address)).await;
    let client = bed.connect().await;
    let (mut from, mut to) = client.0.into_split();
    let sent: Vec<u8> = (0..8_000_000_u32).map(|i| (i % 251) as u8).collect();
    let expected = sent.clone();
    let sending = tokio::spawn(async move {
        to.write_all(b"POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 8000000\r\n\r\n").await.unwrap();
        to.write_all(&sent).await.unwrap();
        to
    });
    let mut said = vec![0; 8_000_000];
    within(async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(from.read_u8().await.unwrap());
        }
        from.read_exact(&mut said).await.unwrap();
    })
    .await;
    assert!(said == expected);
    sending.await.unwrap();
    assert_eq!(bed.counters(proxy_api::v1beta1::Arm::Stable).errors, 0);
}

#[tokio::test]
async fn a_head_that_takes_longer_than_ten_seconds_is_a_408() {
    let origin = Origin::text("ok").await;
    let bed = Bed::new(|route| stable(route, origin.address)).await;
    let written = log(&bed, Logged::Errors);
    let mut client = bed.connect().await;
    client.0.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
    let begun = std::time::Instant::now();
    assert_eq!(client.answer().await.unwrap().status, 408);
    assert!(client.closed().await);
    // How much longer is the machine's affair.
    assert!(begun.elapsed().as_secs() >= 9, "{:?}", begun.elapsed());
    eventually("it has a line", || !written.lines().is_empty()).await;
    let line = &written.lines()[0];
    assert_eq!((line["status"].as_u64(), line["flags"].as_str()), (Some(408), Some("SI")));
}
