//! What the other end of an HTTP/2 connection may do to harm it, or to be lost itself: faults and who hears of them, ends
//! that cut something off, and those who take nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use dataplane::sight::Logged;
use h2::Reason;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use proxy_api::v1beta1 as api;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::common::{Bed, Origin, eventually, raw_origin, stable, within};
use crate::frames;
use crate::limits::{PING, PREFACE, hanging, opening};
use crate::sight::log;

pub const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Kind, flags, stream and payload of the next frame.
pub async fn next(stream: &mut TcpStream) -> std::io::Result<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    let [a, b, c, kind, flags, number @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    stream.read_exact(&mut payload).await?;
    Ok((kind, flags, u32::from_be_bytes(number), payload))
}

/// POST / of `web` with a body of two bytes to come.
pub fn posting(stream: u32) -> Vec<u8> {
    frame(1, 4, stream, &[0x83, 0x86, 0x84, 0x41, 3, b'w', b'e', b'b', 0x0f, 13, 1, b'2'])
}

async fn lines(bed: &Bed, written: &crate::sight::Written, rejected: u64) -> Vec<Value> {
    let line = format!("sluice_proxy_rejected_total{{code=\"0\"}} {rejected}\n");
    eventually("it is counted", || rejected == 0 || bed.metrics().contains(&line)).await;
    eventually("it has a line", || !written.lines().is_empty()).await;
    written.lines()
}

#[tokio::test]
async fn a_fault_of_a_client_has_a_line_and_is_counted() {
    let no_method = frame(1, 5, 1, &[0x86, 0x84]);
    let on_a_stream = frame(6, 0, 1, &[0; 8]);
    for (name, bytes) in [("of a stream", no_method), ("of the connection", on_a_stream)] {
        let bed = hanging().await;
        let written = log(&bed, Logged::Errors);
        let mut client = bed.connect().await;
        client.0.write_all(&[PREFACE, &bytes].concat()).await.unwrap();
        let lines = lines(&bed, &written, 1).await;
        let line = &lines[0];
        assert_eq!((lines.len(), &line["status"], &line["flags"]), (1, &json!(0), &json!("DPE")), "{name}");
        assert_eq!((&line["protocol"], line.get("method"), line.get("arm")), (&json!("HTTP/2"), None, None), "{name}");
    }
}

#[tokio::test]
async fn a_fault_within_a_request_is_the_clients_and_the_request_has_the_line() {
    let too_long = frame(0, 0, 1, b"three");
    let on_a_stream = frame(6, 0, 1, &[0; 8]);
    for (bytes, rejected) in [(too_long, 0), (on_a_stream, 1)] {
        let bed = hanging().await;
        let written = log(&bed, Logged::Errors);
        let mut client = bed.connect().await;
        client.0.write_all(&[PREFACE, &posting(1)].concat()).await.unwrap();
        eventually("the request is under way", || bed.in_flight() == 1).await;
        client.0.write_all(&bytes).await.unwrap();
        let arm = |line: &&Value| line.get("arm").is_some();
        eventually("it has a line", || written.lines().iter().any(|line| arm(&line))).await;
        let lines = lines(&bed, &written, rejected).await;
        let line = lines.iter().find(arm).unwrap();
        assert_eq!((&line["method"], &line["status"], &line["flags"]), (&json!("POST"), &json!(0), &json!("DPE")));
        let counters = bed.counters(api::Arm::Stable);
        assert_eq!((counters.client_errors, counters.errors), (1, 0));
        assert!(bed.metrics().contains("flag=\"DPE\"} 1"));
    }
}

#[tokio::test]
async fn an_own_answer_to_head_has_no_body() {
    let bed = Bed::new(|_| {}).await;
    let mut requests = frames::connect(&bed).await;
    for _ in 0..2 {
        let (answer, _) = requests.send_request(Request::head("http://web/").body(()).unwrap(), true).unwrap();
        let mut answer = within(answer).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers().contains_key("content-length"));
        assert_eq!(frames::read(answer.body_mut()).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn an_answer_that_is_reset_without_an_error_is_not_whole() {
    let (bed, mut streams) = frames::bed().await;
    let (answer, _body) = frames::connect(&bed).await.send_request(frames::post(), true).unwrap();
    let (_request, mut respond) = within(streams.recv()).await.unwrap();
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data("some".into(), false).unwrap();
    let mut answer = within(answer).await.unwrap().into_body();
    assert_eq!(within(answer.data()).await.unwrap().unwrap(), "some");
    body.send_reset(Reason::NO_ERROR);
    let error = frames::read(&mut answer).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    eventually("the endpoint's fault", || bed.counters(api::Arm::Stable).errors == 1).await;
}

#[tokio::test]
async fn what_an_endpoint_has_not_looked_at_is_asked_elsewhere() {
    let refused = frame(3, 0, 3, &[0, 0, 0, 7]);
    let gone = frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 2]);
    for said in [refused, gone] {
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let address = raw_origin(move |number, mut stream| {
            let (said, count) = (said.clone(), Arc::clone(&count));
            async move {
                count.fetch_add(1, SeqCst);
                let mut preface = [0; 24];
                stream.read_exact(&mut preface).await.unwrap();
                stream.write_all(SETTINGS).await.unwrap();
                while let Ok((kind, _, asked, _)) = next(&mut stream).await {
                    let answer = if number == 0 && asked == 3 { said.clone() } else { frame(1, 5, asked, &[0x88]) };
                    if kind == 1 {
                        stream.write_all(&answer).await.unwrap();
                    }
                }
            }
        })
        .await;
        let bed = Bed::new(|route| stable(route, address)).await;
        let mut requests = frames::connect(&bed).await;
        for _ in 0..2 {
            let (answer, _) = requests.send_request(Request::get("http://web/").body(()).unwrap(), true).unwrap();
            assert_eq!(within(answer).await.unwrap().status(), 200);
        }
        assert_eq!(connections.load(SeqCst), 2);
    }
}

/// A client whose kernel takes little ahead.
async fn narrow_client(port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    // Not waited for: what is written waits for it.
    let _ = socket.connect(&address.into());
    let stream = TcpStream::from_std(socket.into()).unwrap();
    stream.writable().await.unwrap();
    stream
}

#[tokio::test]
async fn the_last_answer_of_a_drain_is_not_lost_to_what_its_client_still_sends() {
    // So much that the kernel takes all of it, and the client's does not.
    const BODY: usize = 100_000;
    let (asked, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (heard, wait) = (Arc::clone(&asked), Arc::clone(&go));
    let origin = Origin::new(move |_| {
        let (asked, go) = (Arc::clone(&heard), Arc::clone(&wait));
        async move {
            asked.notify_one();
            go.notified().await;
            Response::new(Full::from(vec![7; BODY]))
        }
    })
    .await;
    let bed = Bed::to(origin.address, api::Protocol::Http).await;
    let mut client = narrow_client(bed.port).await;
    // Windows larger than the answer.
    let settings = frame(4, 0, 0, &[0, 4, 0, 16, 0, 0]);
    let window = frame(8, 0, 0, &[0, 16, 0, 0]);
    let preface = [&PREFACE[..24], &settings, &window, &opening(1)].concat();
    client.write_all(&preface).await.unwrap();
    within(asked.notified()).await;
    let shared = bed.proxy.shared();
    let drained = tokio::spawn(bed.proxy.drain(Duration::ZERO, Duration::from_secs(20)));
    let (mut goodbyes, mut taken) = (0, 0);
    while goodbyes < 2 {
        match within(next(&mut client)).await.unwrap() {
            (7, ..) => goodbyes += 1,
            (6, 0, _, payload) => client.write_all(&frame(6, 1, 0, &payload)).await.unwrap(),
            _ => {}
        }
    }
    go.notify_one();
    let all_sent = || shared.registry.arm_counters().iter().any(|counters| counters.succeeded == 1);
    eventually("all of it was sent", all_sent).await;
    loop {
        // Its peer may have closed.
        let _ = client.write_all(PING).await;
        let (kind, flags, ..) = match within(next(&mut client)).await {
            Ok((kind, flags, _, payload)) => {
                taken += if kind == 0 { payload.len() } else { 0 };
                (kind, flags)
            }
            Err(error) => panic!("{error} after {taken} bytes"),
        };
        if kind == 0 && flags & 1 == 1 {
            break;
        }
    }
    assert_eq!(taken, BODY);
    drop(client);
    within(drained).await.unwrap();
}

/// An endpoint that answers the first stream of each connection with `said`, of which stream 1 is.
async fn answering(said: Vec<u8>) -> SocketAddr {
    raw_origin(move |_, mut stream| {
        let said = said.clone();
        async move {
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).await.unwrap();
            while !matches!(next(&mut stream).await, Ok((1, ..)) | Err(_)) {}
            stream.write_all(&said).await.unwrap();
            // Until the proxy is done with it.
            while next(&mut stream).await.is_ok() {}
        }
    })
    .await
}

#[tokio::test]
async fn an_answer_that_is_not_http_is_told_from_one_that_does_not_come() {
    let with = |frames: &[&[u8]]| [&[SETTINGS], frames].concat().concat();
    let (ok, long) = (frame(1, 4, 1, &[0x88]), frame(1, 4, 1, &[0x88, 0x0f, 13, 1, b'2']));
    let rows = [
        ("no status", with(&[&frame(1, 5, 1, &[0x0f, 13, 1, b'2'])]), "UPE"),
        // :status by its name, with a value of its own.
        ("101", with(&[&frame(1, 5, 1, &[0x08, 3, b'1', b'0', b'1'])]), "UPE"),
        ("a body before its head", with(&[&frame(0, 1, 1, b"1")]), "UPE"),
        ("more than its length", with(&[&long, &frame(0, 0, 1, b"three")]), "UPE"),
        ("less than its length", with(&[&long, &frame(0, 1, 1, b"1")]), "UPE"),
        ("not HTTP/2", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec(), "UPE"),
        ("a reset", with(&[&frame(3, 0, 1, &[0, 0, 0, 2])]), "UC"),
        ("a reset within", with(&[&ok, &frame(0, 0, 1, b"some"), &frame(3, 0, 1, &[0, 0, 0, 2])]), "UC"),
        ("a goodbye", with(&[&ok, &frame(7, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 2])]), "UC"),
    ];
    for (name, said, flag) in rows {
        let address = answering(said).await;
        let bed = Bed::new(|route| stable(route, address)).await;
        let (answer, _) = frames::connect(&bed).await.send_request(frames::post(), true).unwrap();
        if let Ok(mut answer) = within(answer).await
            && answer.status() != StatusCode::BAD_GATEWAY
        {
            frames::read(answer.body_mut()).await.unwrap_err();
        }
        assert_eq!(bed.counters(api::Arm::Stable).errors, 1, "{name}");
        let metrics = bed.metrics();
        let flags: Vec<_> = metrics.lines().filter(|line| line.starts_with("sluice_proxy_response_flags")).collect();
        assert!(flags.len() == 1 && flags[0].contains(&format!("flag=\"{flag}\"")), "{name}: {flags:?}");
    }
}
