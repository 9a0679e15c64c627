//! Clients that keep others waiting: who takes nothing of an answer, sends nothing of a body, or asks for nothing. How long
//! they may is a minute or more; the tests make it shorter.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::Response;
use proxy_api::v1beta1 as api;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::common::{Bed, eventually, raw_origin, read_head, speaks, stable, within};
use crate::frames;
use crate::hostile::{frame, next, posting};
use crate::limits::{PREFACE, hanging, opening};

/// More than is received ahead of a client.
const BODY: usize = 4_000_000;

fn patience(bed: &Bed, millis: u64) {
    bed.proxy.shared().registry.limits().set_patience(Duration::from_millis(millis));
}

fn flagged(bed: &Bed, flag: &str) -> bool {
    bed.metrics().contains(&format!("flag=\"{flag}\"}} 1\n"))
}

/// A connection over HTTP/2 whose streams have windows of `window` bytes.
async fn narrow(bed: &Bed, window: u32) -> TcpStream {
    let mut client = bed.connect().await.0;
    let settings = frame(4, 0, 0, &[&[0, 4][..], &window.to_be_bytes()].concat());
    client.write_all(&[&PREFACE[..24], &settings].concat()).await.unwrap();
    client
}

/// The next frame of that kind: its flags, and its payload.
async fn frame_of(client: &mut TcpStream, wanted: u8) -> (u8, Vec<u8>) {
    loop {
        let (kind, flags, _, payload) = within(next(client)).await.unwrap();
        if kind == wanted {
            return (flags, payload);
        }
    }
}

/// Why the stream is reset.
async fn reset(client: &mut TcpStream) -> Reason {
    let (_, reason) = frame_of(client, 3).await;
    u32::from_be_bytes(reason.try_into().unwrap()).into()
}

/// Begins to send that much, and ends the answer if it is not more than is received ahead: with an end that waits, crate `h2`
/// does not tell that the stream was reset.
fn answer(respond: &mut SendResponse<Bytes>, length: usize) -> h2::SendStream<Bytes> {
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data(vec![7; length].into(), length < BODY).unwrap();
    body
}

async fn was_reset(body: &mut h2::SendStream<Bytes>) -> Reason {
    within(std::future::poll_fn(|context| body.poll_reset(context))).await.unwrap()
}

#[tokio::test]
async fn the_request_timeout_holds_while_the_client_takes_nothing() {
    let (mut bed, mut streams) = frames::bed().await;
    bed.change(|route| route.http = Some(api::HttpPolicy { request_timeout_ms: 300, ..Default::default() })).await;
    let mut client = narrow(&bed, 0).await;
    client.write_all(&opening(1)).await.unwrap();
    let (_request, mut respond) = within(streams.recv()).await.unwrap();
    let mut body = answer(&mut respond, BODY);
    assert_eq!(reset(&mut client).await, Reason::INTERNAL_ERROR);
    assert_eq!(was_reset(&mut body).await, Reason::CANCEL, "the endpoint need not go on");
    let counters = bed.counters(api::Arm::Stable);
    assert_eq!((counters.errors, counters.in_flight, flagged(&bed, "UT")), (1, 0, true), "{counters:?}");
}

#[tokio::test]
async fn it_holds_for_an_http1_client_of_an_http2_endpoint_too() {
    let (mut bed, mut streams) = frames::bed().await;
    bed.change(|route| {
        speaks(route, api::Protocol::H2c);
        route.http = Some(api::HttpPolicy { request_timeout_ms: 2_000, ..Default::default() });
    })
    .await;
    let mut client = bed.connect().await;
    client.0.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await.unwrap();
    let (_request, mut respond) = within(streams.recv()).await.unwrap();
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    // More than the kernels take ahead.
    body.send_data(vec![7; 64 * 1024 * 1024].into(), false).unwrap();
    assert_eq!(was_reset(&mut body).await, Reason::CANCEL);
    let counters = bed.counters(api::Arm::Stable);
    assert_eq!((counters.errors, counters.in_flight, flagged(&bed, "UT")), (1, 0, true), "{counters:?}");
    drop(client);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_not_waited_for_without_end() {
    // All of it waits, or what is left after a first piece; and an answer that is received to its end.
    for (window, length) in [(0, BODY), (10, BODY), (10, 100)] {
        let (bed, mut streams) = frames::bed().await;
        patience(&bed, 300);
        let mut client = narrow(&bed, window).await;
        client.write_all(&opening(1)).await.unwrap();
        let (_request, mut respond) = within(streams.recv()).await.unwrap();
        let mut body = answer(&mut respond, length);
        assert_eq!(reset(&mut client).await, Reason::CANCEL);
        if length == BODY {
            assert_eq!(was_reset(&mut body).await, Reason::CANCEL);
        }
        let counters = bed.counters(api::Arm::Stable);
        assert_eq!((counters.client_errors, counters.errors), (1, 0), "{counters:?}");
        assert!(flagged(&bed, "SI") && !flagged(&bed, "DC"));
    }
}

#[tokio::test]
async fn a_client_that_goes_on_taking_is_waited_for() {
    let (bed, mut streams) = frames::bed().await;
    patience(&bed, 2_000);
    let mut client = narrow(&bed, 10).await;
    client.write_all(&opening(1)).await.unwrap();
    let (_request, mut respond) = within(streams.recv()).await.unwrap();
    answer(&mut respond, 100);
    // Longer than it would be waited for otherwise.
    for _ in 0..9 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.write_all(&frame(8, 0, 1, &[0, 0, 0, 10])).await.unwrap();
    }
    while frame_of(&mut client, 0).await.0 & 1 == 0 {}
    assert_eq!(bed.counters(api::Arm::Stable).succeeded, 1);
}

#[tokio::test]
async fn a_client_that_sends_nothing_of_its_body_is_told_so() {
    let (http2, mut streams) = frames::bed().await;
    for bed in [hanging().await, http2] {
        patience(&bed, 300);
        let mut client = narrow(&bed, 100).await;
        client.write_all(&posting(1)).await.unwrap();
        let (_, head) = frame_of(&mut client, 1).await;
        // Literally, after the size of the table.
        assert!(head.windows(3).any(|status| status == b"408"), "{head:?}");
        assert_eq!(reset(&mut client).await, Reason::NO_ERROR);
        let counters = bed.counters(api::Arm::Stable);
        assert_eq!((counters.client_errors, counters.errors), (1, 0), "{counters:?}");
        assert!(flagged(&bed, "SI"));
    }
    let (mut request, _respond) = within(streams.recv()).await.unwrap();
    assert_eq!(frames::read(request.body_mut()).await.unwrap_err().reason(), Some(Reason::CANCEL));
}

#[tokio::test]
async fn a_client_that_stops_within_its_body_ends_an_answer_that_has_begun() {
    let (bed, mut streams) = frames::bed().await;
    patience(&bed, 300);
    let mut client = narrow(&bed, 100).await;
    client.write_all(&[&posting(1)[..], &frame(0, 0, 1, b"1")].concat()).await.unwrap();
    let (mut request, mut respond) = within(streams.recv()).await.unwrap();
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data("some".into(), false).unwrap();
    assert_eq!(reset(&mut client).await, Reason::CANCEL);
    assert_eq!(within(request.body_mut().data()).await.unwrap().unwrap(), "1");
    assert_eq!(frames::read(request.body_mut()).await.unwrap_err().reason(), Some(Reason::CANCEL));
    let counters = bed.counters(api::Arm::Stable);
    assert_eq!((counters.client_errors, counters.errors, flagged(&bed, "SI")), (1, 0, true), "{counters:?}");
}

#[tokio::test]
async fn a_stream_on_which_nothing_is_said_for_a_while_goes_on() {
    let (bed, mut streams) = frames::bed().await;
    patience(&bed, 100);
    let (answer, mut body) = frames::connect(&bed).await.send_request(frames::post(), false).unwrap();
    let (mut request, mut respond) = within(streams.recv()).await.unwrap();
    let mut back = respond.send_response(Response::new(()), false).unwrap();
    let mut answer = within(answer).await.unwrap().into_body();
    for word in ["one", "two"] {
        tokio::time::sleep(Duration::from_millis(400)).await;
        body.send_data(word.into(), false).unwrap();
        assert_eq!(within(request.body_mut().data()).await.unwrap().unwrap(), word);
        back.send_data(word.into(), false).unwrap();
        assert_eq!(within(answer.data()).await.unwrap().unwrap(), word);
    }
}

#[tokio::test]
async fn what_is_left_of_a_request_after_its_answer_is_not_waited_for_without_end() {
    let (bed, mut streams) = frames::bed().await;
    patience(&bed, 300);
    let mut client = narrow(&bed, 100).await;
    // Without a length, and without an end.
    client.write_all(&frame(1, 4, 1, &[0x83, 0x86, 0x84, 0x41, 3, b'w', b'e', b'b'])).await.unwrap();
    let (mut request, mut respond) = within(streams.recv()).await.unwrap();
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(frame_of(&mut client, 1).await.0 & 1, 1, "the answer is whole");
    assert_eq!(frames::read(request.body_mut()).await.unwrap_err().reason(), Some(Reason::CANCEL));
    assert_eq!(reset(&mut client).await, Reason::NO_ERROR, "the client need not go on");
    let counters = bed.counters(api::Arm::Stable);
    assert_eq!((counters.succeeded, counters.started), (1, 1), "{counters:?}");
}

#[tokio::test]
async fn a_client_that_asks_for_nothing_is_told_goodbye() {
    let bed = hanging().await;
    bed.proxy.shared().registry.limits().set_idle(Duration::from_millis(300));
    let (mut idle, mut busy) = (narrow(&bed, 100).await, narrow(&bed, 100).await);
    busy.write_all(&opening(1)).await.unwrap();
    // First that it ends, then, when it has answered, that it has ended; so that no request is lost on its way.
    for last in [0x7fff_ffff_u32, 0] {
        let (_, goodbye) = frame_of(&mut idle, 7).await;
        assert_eq!(goodbye, [last.to_be_bytes(), [0; 4]].concat());
        if last > 0 {
            let (_, ping) = frame_of(&mut idle, 6).await;
            idle.write_all(&frame(6, 1, 0, &ping)).await.unwrap();
        }
    }
    assert!(within(next(&mut idle)).await.is_err(), "and it closes");
    // Many times as long.
    let goodbye = tokio::time::timeout(Duration::from_secs(2), frame_of(&mut busy, 7)).await;
    assert!(goodbye.is_err(), "who waits for an answer is not idle: {goodbye:?}");
}

#[tokio::test]
async fn over_http1_it_has_the_same_flag() {
    let post = "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 9\r\n\r\n";
    let get = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";
    for request in [post, get] {
        let origin = raw_origin(move |_, mut stream| async move {
            read_head(&mut stream).await;
            if request == get {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                // More than the kernels take ahead.
                let _ = stream.write_all(&vec![7; 64 * 1024 * 1024]).await;
            }
            std::future::pending::<()>().await;
        })
        .await;
        let bed = Bed::new(|route| stable(route, origin)).await;
        patience(&bed, 0);
        let mut client = bed.connect().await;
        client.0.write_all(request.as_bytes()).await.unwrap();
        let ended = || bed.counters(api::Arm::Stable).client_errors == 1;
        eventually("it is ended", ended).await;
        assert!(flagged(&bed, "SI") && !flagged(&bed, "DC"), "{request}");
        assert_eq!(client.closed().await, request == post);
    }
}
