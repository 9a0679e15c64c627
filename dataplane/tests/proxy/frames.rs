//! What HTTP/2 has beyond requests and answers: resets with a reason, and answers that end before their request.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use proxy_api::v1beta1 as api;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::common::{Bed, eventually, raw_origin, read_head, speaks, stable, within};

/// What comes over a stream, and what answers it.
pub type Stream = (Request<RecvStream>, SendResponse<Bytes>);

/// A port that serves over HTTP/2, with an endpoint that gives each stream to the receiver.
pub async fn bed() -> (Bed, mpsc::UnboundedReceiver<Stream>) {
    let (address, received) = origin().await;
    (Bed::new(|route| stable(route, address)).await, received)
}

/// An endpoint that gives each stream to the receiver, and takes WebSockets.
pub async fn origin() -> (SocketAddr, mpsc::UnboundedReceiver<Stream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let (streams, received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let streams = streams.clone();
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                // Who is slow on one stream is not on the others.
                builder.initial_connection_window_size(16 * 1024 * 1024).enable_connect_protocol();
                let mut connection = builder.handshake(stream).await.unwrap();
                while let Some(Ok(stream)) = connection.accept().await {
                    streams.send(stream).unwrap();
                }
            });
        }
    });
    (address, received)
}

pub async fn connect(bed: &Bed) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(("127.0.0.1", bed.port)).await.unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    requests
}

pub fn post() -> Request<()> {
    Request::post("http://web/").body(()).unwrap()
}

pub async fn read(stream: &mut RecvStream) -> Result<usize, h2::Error> {
    let mut length = 0;
    while let Some(data) = within(stream.data()).await {
        let data = data?;
        length += data.len();
        stream.flow_control().release_capacity(data.len()).unwrap();
    }
    Ok(length)
}

#[tokio::test]
async fn an_answer_that_ends_before_its_request_does_not_cut_it_off() {
    let (bed, mut streams) = bed().await;
    let (answer, mut body) = connect(&bed).await.send_request(post(), false).unwrap();
    let (mut request, mut respond) = within(streams.recv()).await.unwrap();
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(within(answer).await.unwrap().status(), 200);
    // Larger than the windows, so that it goes on as the endpoint takes it.
    body.send_data(vec![7; 4_000_000].into(), true).unwrap();
    assert_eq!(read(request.body_mut()).await.unwrap(), 4_000_000);
    eventually("it is counted", || bed.counters(api::Arm::Stable).succeeded == 1).await;
}

#[tokio::test]
async fn a_reset_reaches_the_other_side_with_its_reason() {
    let (bed, mut streams) = bed().await;
    let mut client = connect(&bed).await;
    // Of the endpoint, within its answer.
    let (answer, _body) = client.send_request(post(), false).unwrap();
    let (_request, mut respond) = within(streams.recv()).await.unwrap();
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data("some".into(), false).unwrap();
    let mut answer = within(answer).await.unwrap().into_body();
    assert_eq!(within(answer.data()).await.unwrap().unwrap(), "some");
    body.send_reset(Reason::ENHANCE_YOUR_CALM);
    assert_eq!(read(&mut answer).await.unwrap_err().reason(), Some(Reason::ENHANCE_YOUR_CALM));
    eventually("the endpoint's fault", || bed.counters(api::Arm::Stable).errors == 1).await;

    // Of the client, within its request, before there is an answer and after.
    for answered in [false, true] {
        let (answer, mut body) = client.send_request(post(), false).unwrap();
        body.send_data("some".into(), false).unwrap();
        let (mut request, mut respond) = within(streams.recv()).await.unwrap();
        assert_eq!(within(request.body_mut().data()).await.unwrap().unwrap(), "some");
        let mut sent = None;
        if answered {
            sent = Some(respond.send_response(Response::new(()), false).unwrap());
            within(answer).await.unwrap();
        }
        body.send_reset(Reason::CANCEL);
        assert_eq!(read(request.body_mut()).await.unwrap_err().reason(), Some(Reason::CANCEL));
        let count = 1 + u64::from(answered);
        eventually("the client's fault", || bed.counters(api::Arm::Stable).client_errors == count).await;
        drop(sent);
    }
    let counters = bed.counters(api::Arm::Stable);
    assert_eq!((counters.started, counters.errors, counters.in_flight), (3, 1, 0), "{counters:?}");
}

#[tokio::test]
async fn who_takes_nothing_holds_up_nobody_else() {
    const BODY: usize = 4_000_000;
    let (bed, mut streams) = bed().await;
    let (mut slow, mut other) = (connect(&bed).await, connect(&bed).await);
    // Down: a client that does not read, and another one over the same connection to the endpoint.
    let (answer, _kept) = slow.send_request(post(), true).unwrap();
    let (_request, mut respond) = within(streams.recv()).await.unwrap();
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data(vec![7; BODY].into(), true).unwrap();
    let _unread = within(answer).await.unwrap();
    let (answer, _kept) = other.send_request(post(), true).unwrap();
    let (_request, mut respond) = within(streams.recv()).await.unwrap();
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data(vec![7; BODY].into(), true).unwrap();
    let mut answer = within(answer).await.unwrap().into_body();
    assert_eq!(read(&mut answer).await.unwrap(), BODY);

    // Up: an endpoint that does not read one upload, and another one of the same client.
    let (_answer, mut body) = other.send_request(post(), false).unwrap();
    body.send_data(vec![7; BODY].into(), true).unwrap();
    let _unread = within(streams.recv()).await.unwrap();
    let (_answer, mut body) = other.send_request(post(), false).unwrap();
    body.send_data(vec![7; BODY].into(), true).unwrap();
    let (mut request, _respond) = within(streams.recv()).await.unwrap();
    assert_eq!(read(request.body_mut()).await.unwrap(), BODY);
}

#[tokio::test]
async fn fifty_stalled_uploads_leave_room_for_another_one() {
    const BODY: usize = 1024 * 1024;
    let (bed, mut streams) = bed().await;
    let mut client = connect(&bed).await;
    let mut stalled = Vec::new();
    for _ in 0..50 {
        let (answer, mut body) = client.send_request(post(), false).unwrap();
        let unread = within(streams.recv()).await.unwrap();
        // The endpoint's window, and the proxy's: the next bytes wait at the client.
        give(&mut body, 2 * 65_535).await;
        body.reserve_capacity(BODY);
        stalled.push((answer, body, unread));
    }
    let (answer, mut body) = client.send_request(post(), false).unwrap();
    body.send_data(vec![7; BODY].into(), true).unwrap();
    let (mut request, mut respond) = within(streams.recv()).await.unwrap();
    assert_eq!(read(request.body_mut()).await.unwrap(), BODY);
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(within(answer).await.unwrap().status(), 200);
}

/// Sends so many bytes as fast as they are taken.
async fn give(body: &mut SendStream<Bytes>, bytes: usize) {
    let mut left = bytes;
    while left > 0 {
        body.reserve_capacity(left);
        let may = within(poll_fn(|context| body.poll_capacity(context))).await.unwrap().unwrap().min(left);
        body.send_data(vec![7; may].into(), false).unwrap();
        left -= may;
    }
}

const MEGABYTE: usize = 1_000_000;

/// What is asked and what is told do not wait for each other, as they would not without a proxy.
#[tokio::test]
async fn a_request_goes_on_while_its_answer_waits_for_the_client() {
    let (mut bed, mut streams) = bed().await;
    bed.change(|route| speaks(route, api::Protocol::H2c)).await;
    let (answer, mut body) = connect(&bed).await.send_request(post(), false).unwrap();
    let (mut request, mut respond) = within(streams.recv()).await.unwrap();
    let mut told = respond.send_response(Response::new(()), false).unwrap();
    told.send_data(vec![7; MEGABYTE].into(), true).unwrap();
    let mut answer = within(answer).await.unwrap();
    within(answer.body_mut().data()).await.unwrap().unwrap();
    body.send_data(vec![7; MEGABYTE].into(), true).unwrap();
    assert_eq!(read(request.body_mut()).await.unwrap(), MEGABYTE);
}

#[tokio::test]
async fn it_goes_on_to_an_endpoint_of_http1_too() {
    let (read, mut all) = mpsc::unbounded_channel();
    let endpoint = raw_origin(move |_, mut stream| {
        let read = read.clone();
        async move {
            read_head(&mut stream).await.unwrap();
            let (mut from, mut to) = stream.split();
            let answer = async {
                to.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8000000\r\n\r\n").await.unwrap();
                let _ = to.write_all(&vec![7; 8 * MEGABYTE]).await;
            };
            let request = async {
                let (mut count, mut room) = (0, vec![0; 64 * 1024]);
                while count < MEGABYTE {
                    count += from.read(&mut room).await.unwrap();
                }
                read.send(()).unwrap();
            };
            tokio::join!(answer, request);
        }
    });
    let bed = Bed::to(endpoint.await, api::Protocol::Http).await;
    let (answer, mut body) = connect(&bed).await.send_request(post(), false).unwrap();
    let mut answer = within(answer).await.unwrap();
    within(answer.body_mut().data()).await.unwrap().unwrap();
    body.send_data(vec![7; MEGABYTE].into(), true).unwrap();
    within(all.recv()).await.unwrap();
}

#[tokio::test]
async fn it_goes_on_for_a_client_of_http1_too() {
    let (mut bed, mut streams) = bed().await;
    bed.change(|route| speaks(route, api::Protocol::H2c)).await;
    let mut client = TcpStream::connect(("127.0.0.1", bed.port)).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 1000000\r\n\r\n").await.unwrap();
    let (mut request, mut respond) = within(streams.recv()).await.unwrap();
    let mut told = respond.send_response(Response::new(()), false).unwrap();
    told.send_data(vec![7; 32 * MEGABYTE].into(), true).unwrap();
    // Until there is no more room on the way.
    tokio::time::sleep(Duration::from_millis(500)).await;
    client.write_all(&vec![7; MEGABYTE]).await.unwrap();
    assert_eq!(read(request.body_mut()).await.unwrap(), MEGABYTE);
}
