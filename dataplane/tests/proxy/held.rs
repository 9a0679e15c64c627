//! What HTTP/2 leaves in the proxy, of all its connections together.

use std::net::SocketAddr;
use std::time::Duration;

use http::Response;
use proxy_api::v1beta1 as api;
use routing::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::common::{Bed, Reserved, eventually, mk_route, raw_origin, reserve, speaks, stable, within};
use crate::frames;
use crate::hostile::{frame, next};
use crate::limits::{PREFACE, opening};

type Asked = tokio::sync::mpsc::UnboundedReceiver<frames::Stream>;

const MIB: u64 = 1024 * 1024;
/// Together they would leave 300 MiB.
const CONNECTIONS: usize = 24;
const STREAMS: usize = 200;
/// The windows that every stream and connection begins with, in bytes.
const FIRST: usize = 65_535;
/// Bytes of a body's frame.
const PIECE: usize = 16 * 1024;

fn held(bed: &Bed) -> u64 {
    bed.proxy.shared().registry.held().bytes()
}

/// An endpoint that takes no byte of any body.
async fn takes_nothing() -> SocketAddr {
    raw_origin(|_, mut stream| async move {
        let no_windows = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
        stream.write_all(&no_windows).await.unwrap();
        let mut room = vec![0; 64 * 1024];
        while matches!(stream.read(&mut room).await, Ok(1..)) {}
    })
    .await
}

/// Uploads as much as it may on `streams` of them, for as long as it may.
async fn uploads(port: u16, streams: usize) -> std::io::Result<()> {
    let mut client = TcpStream::connect(("127.0.0.1", port)).await?;
    client.write_all(PREFACE).await?;
    let number = |stream: usize| 2 * stream as u32 + 1;
    let (mut window, mut left) = (FIRST, vec![FIRST; streams]);
    for stream in 0..streams {
        client.write_all(&frame(1, 4, number(stream), &[0x83, 0x86, 0x84, 0x41, 3, b'w', b'e', b'b'])).await?;
    }
    loop {
        for (stream, left) in left.iter_mut().enumerate() {
            while *left > 0 && window > 0 {
                let piece = PIECE.min(*left).min(window);
                client.write_all(&frame(0, 0, number(stream), &vec![7; piece])).await?;
                (*left, window) = (*left - piece, window - piece);
            }
        }
        match next(&mut client).await? {
            (8, _, 0, more) => window += u32::from_be_bytes(more.try_into().unwrap()) as usize,
            (3, _, ended, _) => left[ended as usize / 2] = 0,
            _ => {}
        }
    }
}

/// Asks on many streams, and takes `window` bytes of each answer.
async fn asks(port: u16, window: u32) -> std::io::Result<()> {
    let mut client = TcpStream::connect(("127.0.0.1", port)).await?;
    let [high, low, ..] = window.to_le_bytes();
    let windows = [frame(4, 0, 0, &[0, 4, 0, 0, low, high]), frame(8, 0, 0, &(64 * MIB as u32).to_be_bytes())];
    client.write_all(&[&PREFACE[..24], &windows.concat()].concat()).await?;
    for stream in 0..STREAMS as u32 {
        client.write_all(&opening(2 * stream + 1)).await?;
    }
    loop {
        next(&mut client).await?;
    }
}

/// One MiB there and one back, over a port of its own.
async fn echoes(port: u16, streams: &mut Asked) {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let (answer, mut body) = requests.send_request(frames::post(), false).unwrap();
    body.send_data(vec![7; MIB as usize].into(), true).unwrap();
    let (mut request, mut respond) = within(streams.recv()).await.unwrap();
    assert_eq!(frames::read(request.body_mut()).await.unwrap(), MIB as usize);
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data(vec![7; MIB as usize].into(), true).unwrap();
    let mut answer = within(answer).await.unwrap();
    assert_eq!(frames::read(answer.body_mut()).await.unwrap(), MIB as usize);
}

/// Answers every request with so many bytes, which do not end.
async fn answer_all(mut asked: Asked, bytes: usize) {
    let (body, mut sending) = (bytes::Bytes::from(vec![7; bytes]), Vec::new());
    while let Some((_request, mut respond)) = asked.recv().await {
        if let Ok(mut stream) = respond.send_response(Response::new(()), false)
            && stream.send_data(body.clone(), false).is_ok()
        {
            sending.push(stream);
        }
    }
}

/// Whether streams were ended because too much was held, and no more than `most` is now.
fn made_room(bed: &Bed, most: u64) -> bool {
    let counted = r#"sluice_proxy_limited_total{limit="max_held_bytes",flag="OM"} "#;
    let ended = bed.metrics().split_once(counted).is_some_and(|(_, count)| !count.starts_with('0'));
    ended && held(bed) <= most
}

/// A second port of the proxy's, to an endpoint of its own.
async fn honest_port(bed: &mut Bed) -> (Reserved, Asked) {
    let ((honest, streams), reserved) = (frames::origin().await, reserve());
    let mut route = mk_route(reserved.port);
    route.uid = "honest".to_owned();
    stable(&mut route, honest);
    speaks(&mut route, api::Protocol::H2c);
    bed.apply(&route).await;
    (reserved, streams)
}

/// Watches for a second, in which others get on, that no more is held than is allowed.
async fn bounded(bed: &Bed, port: u16, streams: &mut Asked) {
    let mut most = 0;
    for _ in 0..20 {
        echoes(port, streams).await;
        most = most.max(held(bed));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let bound = 96 * MIB + (2 * CONNECTIONS * FIRST) as u64;
    println!("{} MiB held of {} MiB, {} MiB allowed", most / MIB, CONNECTIONS * STREAMS / 16, bound / MIB);
    assert!(most <= bound, "{most} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_uploads_of_many_clients_are_bounded_and_others_get_on() {
    let mut bed = Bed::to(takes_nothing().await, api::Protocol::H2c).await;
    let (reserved, mut streams) = honest_port(&mut bed).await;
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn(uploads(bed.port, STREAMS));
    }
    eventually("much is held", || held(&bed) > 48 * MIB).await;
    bounded(&bed, reserved.port, &mut streams).await;
    eventually("streams make room", || made_room(&bed, 48 * MIB)).await;
    clients.shutdown().await;
    eventually("nothing is held", || held(&bed) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_many_clients_do_not_take_are_bounded_and_make_room() {
    let (mut bed, asked) = frames::bed().await;
    bed.change(|route| speaks(route, api::Protocol::H2c)).await;
    let (reserved, mut streams) = honest_port(&mut bed).await;
    let answers = tokio::spawn(answer_all(asked, 256 * 1024));
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn(asks(bed.port, 0));
    }
    eventually("much is held", || held(&bed) > 40 * MIB).await;
    bounded(&bed, reserved.port, &mut streams).await;
    eventually("streams make room", || made_room(&bed, 40 * MIB)).await;
    clients.shutdown().await;
    answers.abort();
    eventually("nothing is held", || held(&bed) == 0).await;
}

/// Their connections could go on; all the same, others have no room because of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_uploads_make_room_though_their_connections_do_not_need_it() {
    let bed = Bed::to(takes_nothing().await, api::Protocol::H2c).await;
    let mut clients = JoinSet::new();
    for _ in 0..16 {
        clients.spawn(uploads(bed.port, 56));
    }
    eventually("much is held", || held(&bed) > 48 * MIB).await;
    eventually("streams make room", || made_room(&bed, 48 * MIB)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_http1_endpoints_are_held_within_bounds_too() {
    let endpoint = raw_origin(|_, mut stream| async move {
        let mut head = [0; 1024];
        while matches!(stream.read(&mut head).await, Ok(1..)) {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 262144\r\n\r\n").await;
            let _ = stream.write_all(&vec![7; 256 * 1024]).await;
        }
    });
    let mut bed = Bed::to(endpoint.await, api::Protocol::Http).await;
    let (reserved, mut streams) = honest_port(&mut bed).await;
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        // So much that what is read of the endpoint is large by then.
        clients.spawn(asks(bed.port, 40 * 1024));
    }
    eventually("much is held", || held(&bed) > 32 * MIB).await;
    bounded(&bed, reserved.port, &mut streams).await;
    eventually("streams make room", || made_room(&bed, 40 * MIB)).await;
    clients.shutdown().await;
    eventually("nothing is held", || held(&bed) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http1_clients_that_do_not_read_make_room_for_others_of_the_endpoint() {
    let (mut bed, asked) = frames::bed().await;
    bed.change(|route| speaks(route, api::Protocol::H2c)).await;
    let limits = &bed.proxy.shared().registry;
    limits.limits().set(Limits { held_bytes: 2 * MIB, ..limits.limits().now() });
    let answers = tokio::spawn(answer_all(asked, 8 * MIB as usize));
    let mut clients = Vec::new();
    for _ in 0..60 {
        let mut client = TcpStream::connect(("127.0.0.1", bed.port)).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
        clients.push(client);
    }
    eventually("streams make room", || made_room(&bed, 2 * MIB * 3 / 4)).await;
    answers.abort();
}

/// It takes less than a piece in the time in which others must get on.
#[tokio::test]
async fn a_client_that_takes_slowly_is_nobody_who_stalls() {
    let (mut bed, mut asked) = frames::bed().await;
    bed.change(|route| speaks(route, api::Protocol::H2c)).await;
    let registry = &bed.proxy.shared().registry;
    registry.limits().set(Limits { held_bytes: 64 * 1024, ..registry.limits().now() });
    let mut client = TcpStream::connect(("127.0.0.1", bed.port)).await.unwrap();
    client.write_all(&[&PREFACE[..24], &frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]), &opening(1)].concat()).await.unwrap();
    let (_request, mut respond) = within(asked.recv()).await.unwrap();
    let mut answer = respond.send_response(Response::new(()), false).unwrap();
    answer.send_data(vec![7; MIB as usize].into(), true).unwrap();
    let mut taken = 0;
    // It would be seen when the piece is over that is on its way.
    for _ in 0..2 + PIECE / 1024 {
        client.write_all(&frame(8, 0, 1, &1024_u32.to_be_bytes())).await.unwrap();
        taken += 1024;
        while taken > 0 {
            match within(next(&mut client)).await.unwrap() {
                (0, _, 1, data) => taken -= data.len(),
                (3, ..) => panic!("it was reset"),
                _ => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test]
async fn what_is_kept_for_a_retry_is_not_held() {
    let (mut bed, mut asked) = frames::bed().await;
    bed.change(|route| {
        speaks(route, api::Protocol::H2c);
        let retries = api::Retries { attempts: 2, retry_on: "5xx".into(), ..Default::default() };
        route.http = Some(api::HttpPolicy { retries: Some(retries), ..Default::default() });
    })
    .await;
    let (answer, mut body) = frames::connect(&bed).await.send_request(frames::post(), false).unwrap();
    body.send_data(vec![7; 10_000].into(), true).unwrap();
    let (mut request, mut respond) = within(asked.recv()).await.unwrap();
    assert_eq!(frames::read(request.body_mut()).await.unwrap(), 10_000);
    eventually("nothing is held", || held(&bed) == 0).await;
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(within(answer).await.unwrap().status(), 200);
}
