//! WebSockets over HTTP/2 (RFC 8441): an extended CONNECT is passed on to endpoints that take one, and what follows it both
//! ways.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode};
use proxy_api::v1beta1 as api;
use tokio::net::{TcpListener, TcpStream};

use crate::common::{Bed, stable, within};

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

#[tokio::test]
async fn a_port_of_http1_endpoints_does_not_offer_it() {
    let origin = origin(true).await;
    let bed = Bed::new(|route| {
        stable(route, origin);
        route.listeners[0].protocol = api::Protocol::Http.into();
    })
    .await;
    let mut requests = client(&bed).await;
    let (answer, _out) = connect(&mut requests, "websocket");
    assert_eq!(within(answer).await.unwrap_err().reason(), Some(Reason::PROTOCOL_ERROR));
    assert!(!requests.is_extended_connect_protocol_enabled());
}
