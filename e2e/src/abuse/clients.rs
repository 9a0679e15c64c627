//! Clients that misbehave, byte by byte. Each attempt is one connection; how it ended is counted.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

/// What no client has asked for: an origin that sees it was deceived.
pub const SMUGGLED: &str = "/smuggled";
/// Between two bytes of a slow client.
const SLOWLY: Duration = Duration::from_millis(500);
/// Between two bursts of a flood, so that it is the proxy that is tested and not the machine.
const BREATH: Duration = Duration::from_millis(5);
/// Bursts of one connection that the proxy endures.
const BURSTS: usize = 400;

/// What a client does.
#[derive(Clone, Copy, Debug)]
pub enum Client {
    /// A byte of a head now and then.
    SlowHead,
    /// A byte of a body now and then.
    SlowBody,
    /// One request, then nothing.
    Idle,
    /// Opens HTTP/2 streams and resets them at once (CVE-2023-44487).
    RapidReset,
    /// A field block without end (RUSTSEC-2024-0332).
    Continuation,
    /// SETTINGS again and again.
    Settings,
    /// PING again and again.
    Ping,
    /// One long field, said many times over by its index.
    Hpack,
    /// A head of a megabyte.
    LargeHead,
    /// Requests whose length two parsers could read differently.
    Smuggle,
    /// A chunk whose extensions have no end.
    Extensions,
    /// A request.
    Get,
    /// A request with a large body.
    Upload,
    /// A request whose answer is read slowly.
    Trickle,
}

/// Attempts until the time is over; how they ended: `cut` (the proxy closed), `refused` (it said why), the status of
/// an answer, `endured`, or `held` (until the time was over).
pub async fn attack(client: Client, to: SocketAddr, until: Instant) -> BTreeMap<String, u64> {
    let mut ends = BTreeMap::new();
    for number in 0.. {
        if Instant::now() >= until {
            break;
        }
        let end = match timeout_at(until, attempt(client, to, number)).await {
            Err(_) => "held".to_owned(),
            Ok(Ok(end)) => end,
            Ok(Err(_)) => "cut".to_owned(),
        };
        *ends.entry(end).or_default() += 1;
        sleep(BREATH).await;
    }
    ends
}

async fn attempt(client: Client, to: SocketAddr, number: usize) -> io::Result<String> {
    let mut stream = TcpStream::connect(to).await?;
    match client {
        Client::SlowHead => {
            drip(&mut stream, b"GET / HTTP/1.1\r\nHost: web\r\nX: ").await?;
            Ok("endured".to_owned())
        }
        Client::SlowBody => {
            drip(&mut stream, b"POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 1000000\r\n\r\n").await?;
            Ok("endured".to_owned())
        }
        Client::Idle => {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await?;
            let status = status(&mut stream).await?;
            // Held until the time is over, or the proxy ends it.
            while stream.read(&mut [0; 256]).await? > 0 {}
            Ok(status)
        }
        Client::RapidReset | Client::Continuation | Client::Settings | Client::Ping => flood(client, stream).await,
        Client::Hpack => hpack(stream).await,
        Client::LargeHead => {
            let line = format!("X-{number}: {}\r\n", "y".repeat(1000));
            let head = format!("GET / HTTP/1.1\r\nHost: web\r\n{}", line.repeat(1000));
            // The proxy refuses it half way, and the rest may not be taken any more.
            let _ = stream.write_all(head.as_bytes()).await;
            refused(&mut stream).await
        }
        Client::Smuggle => {
            stream.write_all(smuggling(number).as_bytes()).await?;
            refused(&mut stream).await
        }
        Client::Extensions => {
            stream.write_all(b"POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n5;").await?;
            for _ in 0..100_000 {
                stream.write_all(&[b'x'; 1000]).await?;
            }
            Ok("endured".to_owned())
        }
        Client::Get => {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await?;
            status(&mut stream).await
        }
        Client::Upload => {
            stream.write_all(b"POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 100000000\r\n\r\n").await?;
            let (mut from, mut to) = stream.split();
            let body = vec![0; 64 * 1024];
            let sent = async { while to.write_all(&body).await.is_ok() {} };
            tokio::select! {
                status = status(&mut from) => status,
                () = async { sent.await; std::future::pending().await } => Ok("endured".to_owned()),
            }
        }
        Client::Trickle => {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await?;
            let mut room = vec![0; 16 * 1024];
            while stream.read(&mut room).await? > 0 {
                sleep(BREATH).await;
            }
            Ok("cut".to_owned())
        }
    }
}

/// A byte now and then, for ever; ends when the proxy closes.
async fn drip(stream: &mut TcpStream, start: &[u8]) -> io::Result<()> {
    stream.write_all(start).await?;
    let mut room = [0; 1024];
    loop {
        tokio::select! {
            read = stream.read(&mut room) => if read? == 0 {
                return Err(io::ErrorKind::ConnectionAborted.into());
            },
            () = sleep(SLOWLY) => stream.write_all(b"x").await?,
        }
    }
}

/// The status of the next answer.
async fn status(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<String> {
    let mut head = Vec::new();
    while head.len() < 12 {
        if from.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(String::from_utf8_lossy(&head[9..12]).into_owned())
}

/// Reads to the end: `refused` if all that was said is one refusal.
async fn refused(stream: &mut TcpStream) -> io::Result<String> {
    let mut said = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = stream.read_to_end(&mut said).await;
    let said = String::from_utf8_lossy(&said);
    let statuses: Vec<&str> = said.split("HTTP/1.1 ").skip(1).filter_map(|rest| rest.get(..3)).collect();
    Ok(match statuses[..] {
        ["400" | "431" | "501"] => "refused".to_owned(),
        // Reset before the answer was read: we were sending still.
        [] => "refused".to_owned(),
        _ => format!("served {statuses:?}"),
    })
}

fn smuggling(number: usize) -> String {
    let hidden = format!("GET {SMUGGLED} HTTP/1.1\r\nHost: web\r\n\r\n");
    let (length, chunked) = (format!("Content-Length: {}\r\n", hidden.len() + 5), "Transfer-Encoding: chunked\r\n");
    let fields = [
        format!("{length}{chunked}"),
        format!("{chunked}{length}"),
        format!("Content-Length: 0\r\n{length}"),
        format!("Transfer-Encoding: \x0bchunked\r\n{length}"),
        format!("Transfer-Encoding : chunked\r\n{length}"),
        format!("Transfer-Encoding: xchunked\r\n{length}"),
        format!("X: y\r\n Transfer-Encoding: chunked\r\n{length}"),
        format!("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n{length}"),
        format!("X: y\nTransfer-Encoding: chunked\r\n{length}"),
        "Content-Length: 0, 5\r\n".to_owned(),
        "Content-Length: +5\r\n".to_owned(),
        "Content-Length: 0x5\r\n".to_owned(),
    ];
    format!("POST / HTTP/1.1\r\nHost: web\r\n{}\r\n0\r\n\r\n{hidden}", fields[number % fields.len()])
}

// HTTP/2, frame by frame (RFC 9113 §4.1).

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `GET http://web/`.
const REQUEST: &[u8] = b"\x82\x86\x84\x41\x03web";

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

async fn flood(client: Client, stream: TcpStream) -> io::Result<String> {
    let (mut from, mut to) = stream.into_split();
    let mut out = PREFACE.to_vec();
    frame(&mut out, SETTINGS, 0, 0, &[]);
    let mut next = 1;
    if matches!(client, Client::Continuation) {
        frame(&mut out, HEADERS, END_STREAM, next, REQUEST);
    }
    let sending = async {
        for _ in 0..BURSTS {
            for _ in 0..100 {
                match client {
                    Client::RapidReset => {
                        frame(&mut out, HEADERS, END_STREAM | END_HEADERS, next, REQUEST);
                        frame(&mut out, RST_STREAM, 0, next, &[0, 0, 0, 8]);
                        next += 2;
                    }
                    Client::Continuation => frame(&mut out, CONTINUATION, 0, next, b"\x00\x01x\x10yyyyyyyyyyyyyyyy"),
                    Client::Settings => frame(&mut out, SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]),
                    _ => frame(&mut out, PING, 0, 0, b"01234567"),
                }
            }
            to.write_all(&out).await?;
            out.clear();
            sleep(BREATH).await;
        }
        Ok("endured".to_owned())
    };
    let reading = async {
        let mut room = vec![0; 16 * 1024];
        while matches!(from.read(&mut room).await, Ok(1..)) {}
    };
    tokio::select! {
        sent = sending => sent,
        () = reading => Ok("cut".to_owned()),
    }
}

/// 4,000 bytes in the table, and 4,000 times its index: 16 MB in 8 KB.
async fn hpack(stream: TcpStream) -> io::Result<String> {
    let (mut from, mut to) = stream.into_split();
    let mut out = PREFACE.to_vec();
    frame(&mut out, SETTINGS, 0, 0, &[]);
    let mut block = REQUEST.to_vec();
    // Literal with incremental indexing, new name; a length of 4,000 in 7 bits and 2 more bytes (RFC 7541 §5.1).
    block.extend_from_slice(b"\x40\x01x\x7f\xa1\x1e");
    block.extend_from_slice(&[b'y'; 4000]);
    block.extend_from_slice(&[0xbe; 4000]);
    frame(&mut out, HEADERS, END_STREAM | END_HEADERS, 1, &block);
    to.write_all(&out).await?;
    let mut said = Vec::new();
    loop {
        // SETTINGS and its acknowledgement come first; the answer is HEADERS, RST_STREAM or GOAWAY.
        let mut at = 0;
        while let Some(head) = said.get(at..at + 9) {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            match head[3] {
                // An indexed `:status` of 200 is 0x88 (RFC 7541 App. A).
                HEADERS if said.len() > at + 9 => {
                    return Ok(if said[at + 9] == 0x88 { "served" } else { "refused" }.to_owned());
                }
                RST_STREAM | 7 => return Ok("refused".to_owned()),
                _ => at += 9 + length,
            }
        }
        if from.read_buf(&mut said).await? == 0 {
            return Ok("refused".to_owned());
        }
    }
}
