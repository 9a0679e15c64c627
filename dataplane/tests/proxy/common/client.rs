//! Clients: one of HTTP/1.1 that sees raw bytes, and hyper's of HTTP/2.

use http_body::Body;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::within;

/// `name=value` of a `Set-Cookie` for as many seconds.
pub fn set_cookie(set: &str, seconds: u64) -> String {
    let (pair, attributes) = set.split_once("; ").unwrap();
    assert_eq!(attributes, format!("Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax"));
    pair.to_owned()
}

/// Reads one head, up to its empty line; `None` if the peer closed before its first byte.
pub async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) if head.is_empty() => return None,
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&head)),
        }
    }
    Some(String::from_utf8(head).unwrap())
}

/// A client's connection.
pub struct Client(pub TcpStream);

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Client {
    pub async fn connect(port: u16) -> Self {
        Self(TcpStream::connect(("127.0.0.1", port)).await.unwrap())
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n")).await
    }

    pub async fn send(&mut self, request: &str) -> Answer {
        self.0.write_all(request.as_bytes()).await.unwrap();
        self.answer().await.expect("an answer before the end of the connection")
    }

    /// The next answer, body by Content-Length or chunked; `None` at the end of the connection.
    pub async fn answer(&mut self) -> Option<Answer> {
        within(async {
            let head = read_head(&mut self.0).await?;
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            let mut answer = Answer { status, head, body: String::new() };
            let mut body = Vec::new();
            if answer.header("transfer-encoding").is_some() {
                self.read_chunks(&mut body).await;
            } else {
                let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
                body.resize(length, 0);
                self.0.read_exact(&mut body).await.unwrap();
            }
            answer.body = String::from_utf8_lossy(&body).into_owned();
            Some(answer)
        })
        .await
    }

    async fn read_chunks(&mut self, body: &mut Vec<u8>) {
        loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                line.push(self.0.read_u8().await.unwrap());
            }
            let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
            let start = body.len();
            body.resize(start + size, 0);
            self.0.read_exact(&mut body[start..]).await.unwrap();
            let mut end = [0; 2];
            self.0.read_exact(&mut end).await.unwrap();
            if size == 0 {
                return;
            }
        }
    }

    /// Whether the proxy has closed the connection, once it has said all it has to say.
    pub async fn closed(&mut self) -> bool {
        let mut byte = [0];
        within(async { matches!(self.0.read(&mut byte).await, Ok(0) | Err(_)) }).await
    }
}

/// A client's connection that speaks HTTP/2 from its first byte.
pub async fn http2_client<B>(port: u16) -> SendRequest<B>
where
    B: Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
{
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}
