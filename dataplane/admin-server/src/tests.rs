//! Over real sockets.

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

async fn start() -> (AbortOnDropHandle<()>, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let service = service_fn(|_| async { Ok(Response::new(Full::new(Bytes::from_static(b"ok\n")))) });
    (AbortOnDropHandle::new(tokio::spawn(serve(listener, service))), port)
}

async fn connect(port: u16) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port)).await.unwrap()
}

/// All that comes until the server closes.
async fn rest(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, stream.read_to_string(&mut answer)).await.expect("it was closed").unwrap();
    answer
}

async fn get(port: u16) -> String {
    let mut stream = connect(port).await;
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").await.unwrap();
    rest(stream).await
}

#[tokio::test]
async fn who_holds_connections_keeps_nobody_away() {
    let (_server, port) = start().await;
    let mut held = VecDeque::new();
    for _ in 0..3 * MAX_CONNECTIONS {
        let mut stream = connect(port).await;
        stream.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
        held.push_back(stream);
        assert!(get(port).await.ends_with("ok\n"));
    }
    let closed = held.len() - MAX_CONNECTIONS + 1;
    for stream in held.drain(..closed) {
        assert_eq!(rest(stream).await, "", "the oldest make room");
    }
    let mut youngest = held.pop_back().unwrap();
    youngest.write_all(b"host: admin\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(rest(youngest).await.ends_with("ok\n"), "and only they");
}

#[tokio::test]
async fn connections_end_with_the_server() {
    let (server, port) = start().await;
    let mut stream = connect(port).await;
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: admin\r\n\r\n").await.unwrap();
    let mut first = [0];
    stream.read_exact(&mut first).await.unwrap();
    drop(server);
    assert!(rest(stream).await.ends_with("ok\n"));
}
