//! HTTP/1 clients of endpoints that speak HTTP/2: as strict, and as careful with connections, as where nothing is translated.

use std::time::Duration;

use h2::Reason;
use http::{HeaderMap, Response};
use proxy_api::v1beta1 as api;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::common::{Bed, Client, eventually, within};
use crate::frames::{self, Stream};

async fn bed() -> (Bed, UnboundedReceiver<Stream>) {
    let (address, streams) = frames::origin().await;
    let bed = Bed::to(address, api::Protocol::H2c);
    (bed.await, streams)
}

async fn say(client: &mut Client, text: &str) {
    client.0.write_all(text.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn heads_and_framing_are_translated_and_the_connection_goes_on() {
    let (bed, mut streams) = bed().await;
    let mut client = bed.connect().await;
    // With a length, which the answer has.
    say(&mut client, "GET /a?b HTTP/1.1\r\nHost: web\r\nConnection: x-hop\r\nX-Hop: 1\r\nX-Mine: 2\r\n\r\n").await;
    let (request, mut respond) = within(streams.recv()).await.unwrap();
    assert_eq!((request.uri().to_string().as_str(), request.body().is_end_stream()), ("http://web/a?b", true));
    assert!(request.headers()["x-mine"] == "2" && request.headers().get("x-hop").is_none());
    assert_eq!(request.headers()["x-forwarded-for"], "127.0.0.1");
    let answer = Response::builder().header("content-length", "2").body(()).unwrap();
    respond.send_response(answer, false).unwrap().send_data("hi".into(), true).unwrap();
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.head.as_str(), answer.body.as_str()), ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", "hi"));
    // Without one, with trailers both ways.
    say(&mut client, "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
    let (request, mut respond) = within(streams.recv()).await.unwrap();
    let mut body = request.into_body();
    assert_eq!(within(body.data()).await.unwrap().unwrap(), "abc", "as it comes");
    say(&mut client, "2;x=y\r\nde\r\n0\r\nX-End: 1\r\nHost: other\r\n\r\n").await;
    assert_eq!(within(body.data()).await.unwrap().unwrap(), "de");
    assert!(within(body.data()).await.is_none_or(|last| last.unwrap().is_empty()));
    let trailers = within(body.trailers()).await.unwrap().unwrap();
    assert_eq!((trailers.len(), &trailers["x-end"]), (1, &"1".parse().unwrap()));
    let mut out = respond.send_response(Response::new(()), false).unwrap();
    out.send_data("one".into(), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    out.send_trailers(trailers).unwrap();
    let mut answer = String::new();
    while !answer.ends_with("\r\n0\r\ngrpc-status: 0\r\n\r\n") {
        answer.push(within(client.0.read_u8()).await.unwrap().into());
    }
    assert_eq!(answer, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n0\r\ngrpc-status: 0\r\n\r\n");
    // Without a body.
    for (method, status, head) in [
        ("HEAD", 200, "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n"),
        ("GET", 204, "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", 304, "HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n"),
    ] {
        say(&mut client, &format!("{method} / HTTP/1.1\r\nHost: web\r\n\r\n")).await;
        let (_, mut respond) = within(streams.recv()).await.unwrap();
        let answer = Response::builder().status(status).header("content-length", "7");
        respond.send_response(answer.body(()).unwrap(), true).unwrap();
        assert_eq!(within(crate::common::read_head(&mut client.0)).await.unwrap(), head);
    }
    say(&mut client, "GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    let (_, mut respond) = within(streams.recv()).await.unwrap();
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(client.answer().await.unwrap().head, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let counters = bed.counters(api::Arm::Stable);
    assert_eq!((counters.started, counters.succeeded), (6, 6));
}

#[tokio::test]
async fn http10_gets_a_body_to_the_end_of_the_connection() {
    let (bed, mut streams) = bed().await;
    let mut client = bed.connect().await;
    say(&mut client, "GET / HTTP/1.0\r\nHost: web\r\nConnection: keep-alive\r\n\r\n").await;
    let (_, mut respond) = within(streams.recv()).await.unwrap();
    respond.send_response(Response::new(()), false).unwrap().send_data("all".into(), true).unwrap();
    let mut answer = String::new();
    within(client.0.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nall");
}

#[tokio::test]
async fn what_two_parsers_could_read_differently_is_refused() {
    let (bed, _streams) = bed().await;
    for head in [
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 2\r\nContent-Length: 2\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Host: other\r\n",
        "X : y\r\n",
    ] {
        let mut client = bed.connect().await;
        let status = client.send(&format!("POST / HTTP/1.1\r\nHost: web\r\n{head}\r\n")).await.status;
        assert!(matches!(status, 400 | 501), "{head:?}: {status}");
        assert!(client.closed().await);
    }
    assert_eq!(bed.counters(api::Arm::Stable).started, 0);
}

#[tokio::test]
async fn a_body_that_breaks_off_or_is_none_resets_the_stream() {
    let (bed, mut streams) = bed().await;
    for (rest, status) in [(None, None), (Some("x\r\n"), Some(400))] {
        let mut client = bed.connect().await;
        say(&mut client, "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
        let (mut request, _respond) = within(streams.recv()).await.unwrap();
        assert_eq!(within(request.body_mut().data()).await.unwrap().unwrap(), "abc");
        match rest {
            None => client.0.shutdown().await.unwrap(),
            Some(rest) => say(&mut client, rest).await,
        }
        assert_eq!(client.answer().await.map(|answer| answer.status), status);
        let broken = frames::read(request.body_mut()).await.unwrap_err();
        assert_eq!(broken.reason(), Some(Reason::CANCEL));
    }
    eventually("the clients' faults", || bed.counters(api::Arm::Stable).client_errors == 2).await;
    let metrics = bed.metrics();
    for flag in ["DC", "DPE"] {
        assert!(
            metrics.lines().any(|line| line.contains(&format!("flag=\"{flag}\"")) && line.ends_with(" 1")),
            "{flag}"
        );
    }
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let (bed, mut streams) = bed().await;
    let mut client = bed.connect().await;
    say(&mut client, "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 100000000\r\n\r\nstart").await;
    let (_request, mut respond) = within(streams.recv()).await.unwrap();
    let answer = Response::builder().status(413).body(()).unwrap();
    respond.send_response(answer, false).unwrap().send_data("big".into(), true).unwrap();
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (413, "big"));
    assert!(client.closed().await);
}

#[tokio::test]
async fn an_answer_that_breaks_off_ends_the_connection() {
    let (bed, mut streams) = bed().await;
    let mut client = bed.connect().await;
    say(&mut client, "GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    let (_, mut respond) = within(streams.recv()).await.unwrap();
    let mut out = respond.send_response(Response::new(()), false).unwrap();
    out.send_data("some".into(), false).unwrap();
    let mut start = [0; 56];
    within(client.0.read_exact(&mut start)).await.unwrap();
    assert!(start.ends_with(b"4\r\nsome\r\n"), "{:?}", String::from_utf8_lossy(&start));
    out.send_reset(Reason::INTERNAL_ERROR);
    assert!(client.closed().await);
    eventually("the endpoint's fault", || bed.counters(api::Arm::Stable).errors == 1).await;
}

#[tokio::test]
async fn a_drain_says_that_the_connection_ends() {
    let (bed, mut streams) = bed().await;
    let mut client = bed.connect().await;
    say(&mut client, "GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    let (_, mut respond) = within(streams.recv()).await.unwrap();
    let shared = bed.proxy.shared();
    let drained = tokio::spawn(bed.proxy.drain(Duration::ZERO, Duration::from_secs(15)));
    eventually("draining", || !shared.ready()).await;
    respond.send_response(Response::new(()), true).unwrap();
    let answer = client.answer().await.unwrap();
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(client.closed().await);
    within(drained).await.unwrap();
}
