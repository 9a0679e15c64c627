//! WebSockets over HTTP/2 (RFC 8441): an extended CONNECT is passed on to endpoints that take one, as a handshake of HTTP/1.1 to
//! those that speak that, and the reverse; and what follows it both ways.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode};
use proxy_api::v1beta1 as api;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::common::{Bed, raw_origin, read_head, speaks, stable, within};
use crate::frames;

/// An endpoint over HTTP/2 that sends back what is said, and its path first, to those who connect.
async fn origin(connects: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                if connects {
                    builder.enable_connect_protocol();
                }
                let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        assert_eq!(request.method(), Method::CONNECT);
                        assert_eq!(request.extensions().get::<Protocol>().unwrap().as_str(), "websocket");
                        assert!(request.headers().contains_key("x-forwarded-for"));
                        let mut out = respond.send_response(Response::new(()), false).unwrap();
                        out.send_data(request.uri().to_string().into(), false).unwrap();
                        let mut said = request.into_body();
                        while let Some(data) = said.data().await {
                            let data = data.unwrap();
                            said.flow_control().release_capacity(data.len()).unwrap();
                            out.send_data(data, false).unwrap();
                        }
                        out.send_data(Bytes::new(), true).unwrap();
                    });
                }
            });
        }
    });
    address
}

async fn client(bed: &Bed) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(("127.0.0.1", bed.port)).await.unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    // Its settings come first.
    within(requests.ready()).await.unwrap()
}

fn connect(requests: &mut SendRequest<Bytes>, protocol: &'static str) -> (ResponseFuture, SendStream<Bytes>) {
    let request = Request::connect("http://web/chat?room=1").extension(Protocol::from_static(protocol)).body(());
    requests.send_request(request.unwrap(), false).unwrap()
}

/// Takes as much as `text`.
async fn expect(said: &mut RecvStream, text: &str) {
    let mut taken = Vec::new();
    while taken.len() < text.len() {
        taken.extend_from_slice(&within(said.data()).await.unwrap().unwrap());
    }
    assert_eq!(taken, text.as_bytes());
}

#[tokio::test]
async fn a_websocket_over_http2_passes_and_outlives_the_request_timeout() {
    let origin = origin(true).await;
    let bed = Bed::new(|route| {
        stable(route, origin);
        route.http = Some(api::HttpPolicy { request_timeout_ms: 300, ..Default::default() });
    })
    .await;
    let mut requests = client(&bed).await;
    let (answer, mut out) = connect(&mut requests, "websocket");
    let answer = within(answer).await.unwrap();
    assert!(requests.is_extended_connect_protocol_enabled());
    assert_eq!(answer.status(), StatusCode::OK);
    let mut said = answer.into_body();
    expect(&mut said, "http://web/chat?room=1").await;
    // Its record ended with the handshake.
    let counters = bed.counters(api::Arm::Stable);
    assert_eq!((counters.succeeded, counters.errors), (1, 0));
    for text in ["hello", "still there"] {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        out.send_data(text.into(), false).unwrap();
        expect(&mut said, text).await;
    }
    out.send_data(Bytes::new(), true).unwrap();
    assert!(within(said.data()).await.is_none_or(|last| last.unwrap().is_empty()));
    assert!(said.is_end_stream());
}

#[tokio::test]
async fn an_endpoint_that_takes_none_is_at_fault_and_another_protocol_the_client() {
    let origin = origin(false).await;
    let bed = Bed::new(|route| stable(route, origin)).await;
    let mut requests = client(&bed).await;
    let (answer, _out) = connect(&mut requests, "websocket");
    assert_eq!(within(answer).await.unwrap().status(), StatusCode::NOT_IMPLEMENTED);
    let counters = bed.counters(api::Arm::Stable);
    assert_eq!((counters.succeeded, counters.errors), (0, 1));
    let (answer, _out) = connect(&mut requests, "connect-udp");
    assert_eq!(within(answer).await.unwrap().status(), StatusCode::BAD_REQUEST);
    assert_eq!(bed.counters(api::Arm::Stable).errors, 1);
}

/// A port whose endpoints speak HTTP/1.1.
async fn http1(address: SocketAddr) -> Bed {
    Bed::new(|route| {
        stable(route, address);
        speaks(route, api::Protocol::Http);
        route.http = Some(api::HttpPolicy { request_timeout_ms: 10_000, ..Default::default() });
    })
    .await
}

/// A port whose endpoints speak HTTP/2.
async fn http2(address: SocketAddr) -> Bed {
    Bed::to(address, api::Protocol::H2c).await
}

/// Reads a handshake, and gives the 101 that accepts it.
async fn accepted(stream: &mut TcpStream) -> String {
    let head = read_head(stream).await.unwrap();
    assert!(head.starts_with("GET /chat?room=1 HTTP/1.1\r\n"), "{head}");
    let field = |name: &str| {
        let line = head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("no {name} in {head}")).split_once(": ").unwrap().1.to_owned()
    };
    assert_eq!(
        (field("host"), field("upgrade"), field("connection")),
        ("web".into(), "websocket".into(), "upgrade".into())
    );
    assert_eq!((field("sec-websocket-version"), field("sec-websocket-protocol")), ("13".into(), "talk".into()));
    assert!(!head.to_lowercase().contains("transfer-encoding") && field("x-forwarded-for") == "127.0.0.1");
    let accept = dataplane::upgrade::accept(field("sec-websocket-key").as_bytes());
    let accept = accept.to_str().unwrap();
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\
         Sec-WebSocket-Protocol: talk\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

fn talk(requests: &mut SendRequest<Bytes>) -> (ResponseFuture, SendStream<Bytes>) {
    let request = Request::connect("http://web/chat?room=1").extension(Protocol::from_static("websocket"));
    let request = request.header("sec-websocket-version", "13").header("sec-websocket-protocol", "talk");
    requests.send_request(request.body(()).unwrap(), false).unwrap()
}

#[tokio::test]
async fn a_websocket_passes_from_http2_to_http1() {
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let origin = raw_origin(move |_, mut stream| {
        let heard = heard.clone();
        async move {
            let accepted = accepted(&mut stream).await;
            stream.write_all(format!("{accepted}hello").as_bytes()).await.unwrap();
            let mut said = [0; 4];
            stream.read_exact(&mut said).await.unwrap();
            stream.write_all(&said).await.unwrap();
            // It has said all that it has to say, and listens.
            stream.shutdown().await.unwrap();
            let mut rest = String::new();
            stream.read_to_string(&mut rest).await.unwrap();
            heard.send(rest).unwrap();
        }
    })
    .await;
    let bed = http1(origin).await;
    let mut requests = client(&bed).await;
    let (answer, mut out) = talk(&mut requests);
    let answer = within(answer).await.unwrap();
    assert_eq!(
        (answer.status(), &answer.headers()["sec-websocket-protocol"]),
        (StatusCode::OK, &"talk".parse().unwrap())
    );
    assert_eq!(answer.headers().len(), 1, "{:?}", answer.headers());
    let counters = bed.counters(api::Arm::Stable);
    assert_eq!((counters.succeeded, counters.in_flight), (1, 0), "its record ended with the handshake");
    let mut said = answer.into_body();
    expect(&mut said, "hello").await;
    out.send_data("ping".into(), false).unwrap();
    expect(&mut said, "ping").await;
    assert!(within(said.data()).await.is_none_or(|last| last.unwrap().is_empty()), "the end of one side");
    out.send_data("still there".into(), true).unwrap();
    assert_eq!(within(hears.recv()).await.unwrap(), "still there");
}

#[tokio::test]
async fn flow_control_holds_from_end_to_end() {
    const MUCH: usize = 3_000_000;
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let origin = raw_origin(move |_, mut stream| {
        let heard = heard.clone();
        async move {
            let accepted = accepted(&mut stream).await;
            stream.write_all(accepted.as_bytes()).await.unwrap();
            let ((mut from, mut to), mut said, all) = (stream.split(), Vec::new(), vec![7; MUCH]);
            let (told, hears) = tokio::join!(to.write_all(&all), from.read_to_end(&mut said));
            told.unwrap();
            heard.send(hears.unwrap()).unwrap();
        }
    })
    .await;
    let bed = http1(origin).await;
    let mut requests = client(&bed).await;
    let (answer, mut out) = talk(&mut requests);
    let mut said = within(answer).await.unwrap().into_body();
    out.send_data(vec![7; MUCH].into(), true).unwrap();
    assert_eq!((frames::read(&mut said).await.unwrap(), within(hears.recv()).await.unwrap()), (MUCH, MUCH));
}

#[tokio::test]
async fn only_an_accepted_handshake_opens_a_socket() {
    let wrong = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    for (words, wanted) in [
        (wrong, 502),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 502),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403),
    ] {
        let origin = raw_origin(move |_, mut stream| async move {
            read_head(&mut stream).await.unwrap();
            stream.write_all(words.as_bytes()).await.unwrap();
            let _ = stream.read_u8().await;
        })
        .await;
        let bed = http1(origin).await;
        let (answer, _out) = talk(&mut client(&bed).await);
        assert_eq!(within(answer).await.unwrap().status().as_u16(), wanted, "{words}");
        let counters = bed.counters(api::Arm::Stable);
        assert_eq!(counters.errors, u64::from(wanted == 502));
    }
}

#[tokio::test]
async fn what_breaks_off_on_one_side_does_on_the_other() {
    let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let origin = raw_origin(move |number, mut stream| {
        let ended = ended.clone();
        async move {
            let accepted = accepted(&mut stream).await;
            stream.write_all(accepted.as_bytes()).await.unwrap();
            if number == 0 {
                let count = stream.read(&mut [0]).await;
                ended.send(matches!(count, Ok(0) | Err(_))).unwrap();
            } else {
                socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            }
        }
    })
    .await;
    let bed = http1(origin).await;
    let mut requests = client(&bed).await;
    let (answer, mut out) = talk(&mut requests);
    within(answer).await.unwrap();
    out.send_reset(Reason::CANCEL);
    assert!(within(ends.recv()).await.unwrap(), "the endpoint's connection is closed");

    let (answer, _out) = talk(&mut requests);
    let mut said = within(answer).await.unwrap().into_body();
    let broken = frames::read(&mut said).await.unwrap_err();
    assert_eq!(broken.reason(), Some(Reason::CANCEL), "{broken}");
}

#[tokio::test]
async fn another_protocol_is_not_passed_on_to_http1() {
    let bed = http1(origin(false).await).await;
    let (answer, _out) = connect(&mut client(&bed).await, "connect-udp");
    assert_eq!(within(answer).await.unwrap().status(), StatusCode::NOT_IMPLEMENTED);
    assert_eq!(bed.counters(api::Arm::Stable).started, 0, "no arm's");
}

const HANDSHAKE: &str = "GET /chat?room=1 HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

#[tokio::test]
async fn a_websocket_passes_from_http1_to_http2() {
    let bed = http2(origin(true).await).await;
    let mut client = bed.connect().await;
    let answer = client.send(HANDSHAKE).await;
    assert_eq!(
        (answer.status, answer.header("upgrade"), answer.header("connection")),
        (101, Some("websocket"), Some("upgrade"))
    );
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    let counters = bed.counters(api::Arm::Stable);
    assert_eq!((counters.succeeded, counters.in_flight), (1, 0));
    let url = "http://web/chat?room=1";
    let mut said = vec![0; url.len()];
    within(client.0.read_exact(&mut said)).await.unwrap();
    assert_eq!(said, url.as_bytes());
    client.0.write_all(b"ping").await.unwrap();
    let mut said = [0; 4];
    within(client.0.read_exact(&mut said)).await.unwrap();
    assert_eq!(&said, b"ping");
    // More than the windows, and the end.
    let (mut from, mut to) = client.0.split();
    let say = async {
        to.write_all(&vec![7; 1_000_000]).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let mut said = Vec::new();
    let ((), heard) = within(async { tokio::join!(say, from.read_to_end(&mut said)) }).await;
    assert_eq!((heard.unwrap(), bed.counters(api::Arm::Stable).errors), (1_000_000, 0));
}

#[tokio::test]
async fn an_http1_client_is_told_that_the_endpoint_takes_none_and_goes_on() {
    let bed = http2(origin(false).await).await;
    let mut client = bed.connect().await;
    for _ in 0..2 {
        assert_eq!(client.send(HANDSHAKE).await.status, 501);
    }
    assert_eq!(bed.counters(api::Arm::Stable).errors, 2);
}

#[tokio::test]
async fn an_http1_socket_and_its_stream_break_off_together() {
    let (address, mut streams) = frames::origin().await;
    let bed = http2(address).await;
    for client_first in [true, false] {
        let mut client = bed.connect().await;
        client.0.write_all(HANDSHAKE.as_bytes()).await.unwrap();
        let (request, mut respond) = within(streams.recv()).await.unwrap();
        assert!(
            request.headers().get("sec-websocket-key").is_none() && request.headers()["sec-websocket-version"] == "13"
        );
        let mut out = respond.send_response(Response::new(()), false).unwrap();
        assert_eq!(client.answer().await.unwrap().status, 101);
        if client_first {
            socket2::SockRef::from(&client.0).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            drop(client);
            let broken = frames::read(&mut request.into_body()).await.unwrap_err();
            assert_eq!(broken.reason(), Some(Reason::CANCEL));
        } else {
            out.send_reset(Reason::CANCEL);
            assert!(client.closed().await);
        }
    }
}
