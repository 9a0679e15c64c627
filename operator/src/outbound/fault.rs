//! A server that misbehaves as told: the fault injector of the tests of outbound calls.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What the server does with one request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Answers with status, extra header lines (each with `\r\n`) and body.
    Answer { status: u16, headers: &'static str, body: Vec<u8> },
    /// Writes these bytes, whatever they are, and closes.
    Raw(Vec<u8>),
    /// Takes the request and never answers.
    Hang,
    /// Sends the head of an answer and then one byte of the body each 100 ms, for ever.
    Drip,
    /// Promises no length and sends a body of this size.
    Endless { bytes: usize },
    /// Closes at once.
    Close,
}

impl Fault {
    pub(crate) fn json(status: u16, body: &str) -> Self {
        Self::Answer { status, headers: "content-type: application/json\r\n", body: body.as_bytes().to_vec() }
    }
}

/// Runs until dropped.
pub(crate) struct FaultServer {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl FaultServer {
    /// Plays `faults` in order, the last one for ever.
    pub(crate) async fn start(faults: impl IntoIterator<Item = Fault>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let faults: Arc<Mutex<VecDeque<Fault>>> = Arc::new(Mutex::new(faults.into_iter().collect()));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&faults), Arc::clone(&seen)));
            }
        });
        Self { address, requests, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests so far, head and body as one text each.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, faults: Arc<Mutex<VecDeque<Fault>>>, seen: Arc<Mutex<Vec<String>>>) {
    let Some(request) = read_request(&mut stream).await else { return };
    seen.lock().unwrap().push(request);
    let fault = {
        let mut faults = faults.lock().unwrap();
        if faults.len() > 1 { faults.pop_front() } else { faults.front().cloned() }
    };
    // A peer that has had enough closes early; that is its right.
    let _ = play(&mut stream, fault.expect("at least one fault")).await;
}

async fn play(stream: &mut TcpStream, fault: Fault) -> std::io::Result<()> {
    match fault {
        Fault::Answer { status, headers, body } => {
            let length = body.len();
            let head = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&body).await
        }
        Fault::Raw(bytes) => stream.write_all(&bytes).await,
        Fault::Hang => std::future::pending().await,
        Fault::Drip => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            let mut tick = tokio::time::interval(std::time::Duration::from_millis(100));
            loop {
                tick.tick().await;
                stream.write_all(b" ").await?;
            }
        }
        Fault::Endless { bytes } => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await?;
            for _ in 0..bytes / 1024 {
                stream.write_all(&[b' '; 1024]).await?;
            }
            Ok(())
        }
        Fault::Close => Ok(()),
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase().strip_prefix("content-length:").map(|n| n.trim().parse().unwrap())
                })
                .unwrap_or(0_usize);
            if body.len() >= length {
                return Some(text);
            }
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => bytes.extend_from_slice(&chunk[..n]),
        }
    }
}
