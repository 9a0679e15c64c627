//! An endpoint's answer on its way to the client, and the proxy's own.

use std::cell::Cell;
use std::io;

use bytes::{Buf, BytesMut};
use http::StatusCode;
use routing::rules::{Answer, Decision};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::error::ProxyError;
use crate::h1::chunked::{self, Decoder, Step};
use crate::h1::request::Facts;
use crate::h1::response::{self, Framing, Towards};
use crate::h1::text::{self, HeadScan};
use crate::h1::upload::recode;
use crate::interim::MAX_INTERIM;
use crate::record::Record;
use crate::retries::Retries;
use crate::watch::Watch;
use crate::worker::{Phase, Worker};
use routing::retry::Failure;

/// Bytes of a body that are sent in one go with the head.
const WITH_HEAD: usize = 16 * 1024;
/// Bytes that a head may grow by without moving.
const MORE: usize = 64;
/// Room for one read of a head, and of a body: small, until a body turns out to be large.
const SMALL: usize = 8 * 1024;
const LARGE: usize = 128 * 1024;

/// What the relay of an answer depends on.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The request.
    pub facts: Facts,
    /// Header lines that the final head gets in addition.
    pub added: &'a [u8],
    /// A rule's, which may drop fields of the answer.
    pub decision: Option<&'a Decision>,
    /// The client's limits.
    pub watch: &'a Watch,
    /// Set as soon as the final head is on its way.
    pub answered: &'a Cell<bool>,
    /// The request's body has been passed on to its end.
    pub uploaded: &'a Cell<bool>,
    /// What is left of the retries.
    pub retries: Option<&'a Retries<'a>>,
    /// Asked when the answer comes whether the process is draining: then it is the connection's last.
    pub worker: &'a Worker,
}

/// An answer that was passed on to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The client's connection may go on.
    pub keep_client: bool,
    /// The endpoint's connection may go on.
    pub keep_endpoint: bool,
    /// Both go on as a byte stream.
    pub switched: bool,
}

/// Why an answer was not passed on to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerError {
    /// The endpoint closed the connection before its first byte.
    Silent,
    /// The answer is one that is asked for again elsewhere; none of it was passed on.
    Again {
        /// The endpoint's connection may go on.
        keep_endpoint: bool,
    },
    /// Anything else.
    Other(ProxyError),
}

impl From<ProxyError> for AnswerError {
    fn from(error: ProxyError) -> Self {
        Self::Other(error)
    }
}

/// Reads the answer from the endpoint and passes it on. What the endpoint sends beyond it stays in `received`.
///
/// # Errors
/// When it cannot be passed on to its end; what the client has got of it is then incomplete.
pub async fn relay(
    context: &Context<'_>,
    from: &mut ReadHalf<'_>,
    received: &mut BytesMut,
    to: &mut WriteHalf<'_>,
    out: &mut Vec<u8>,
    record: &mut Record,
    first_byte: impl FnOnce(),
) -> Result<Answered, AnswerError> {
    received.reserve(SMALL);
    match from.read_buf(received).await {
        Ok(0) | Err(_) => return Err(AnswerError::Silent),
        Ok(_) => first_byte(),
    }
    for heard in 0..=MAX_INTERIM {
        let length = read_head(from, received).await?;
        out.clear();
        out.reserve(received.len().min(length + WITH_HEAD) + context.added.len() + MORE);
        let head = open(context, &received[..length], out, record)?;
        received.advance(length);
        match head {
            Opened::Interim if heard == MAX_INTERIM => break,
            Opened::Interim => {
                if let Some(retries) = context.retries.filter(|_| !out.is_empty()) {
                    retries.spoken();
                }
                send(to, context.watch, out).await?;
            }
            Opened::Again { framing, keep_alive } => {
                // A short body has come with its head; reading a longer one costs more than a connection.
                let whole = match framing {
                    Framing::None => received.is_empty(),
                    Framing::Length(length) => length == received.len() as u64,
                    Framing::Chunked | Framing::Close => false,
                };
                return Err(AnswerError::Again { keep_endpoint: keep_alive && whole });
            }
            Opened::Final { framing, answered } => {
                context.answered.set(true);
                if answered.switched {
                    send(to, context.watch, out).await?;
                } else {
                    body(context, framing, from, received, to, out).await?;
                }
                return Ok(Answered { keep_client: answered.keep_client && context.uploaded.get(), ..answered });
            }
        }
    }
    Err(ProxyError::BadAnswer.into())
}

async fn read_head(from: &mut ReadHalf<'_>, received: &mut BytesMut) -> Result<usize, ProxyError> {
    let mut scan = HeadScan::default();
    loop {
        match scan.advance(received) {
            Ok(Some(length)) if length <= response::MAX_HEAD => return Ok(length),
            Ok(None) if received.len() <= response::MAX_HEAD => {}
            Ok(_) | Err(_) => return Err(ProxyError::BadAnswer),
        }
        received.reserve(SMALL);
        match from.read_buf(received).await {
            Ok(0) | Err(_) => return Err(ProxyError::Reset),
            Ok(_) => {}
        }
    }
}

enum Opened {
    Interim,
    Again { framing: Framing, keep_alive: bool },
    Final { framing: Framing, answered: Answered },
}

/// Parses a head and leaves in `out` what the client gets of it.
fn open(context: &Context<'_>, bytes: &[u8], out: &mut Vec<u8>, record: &mut Record) -> Result<Opened, ProxyError> {
    let facts = &context.facts;
    let mut room = response::room();
    let head = response::parse(bytes, &mut room, facts).map_err(|_| ProxyError::BadAnswer)?;
    let switched = head.status == 101;
    if switched && !facts.websocket {
        return Err(ProxyError::BadAnswer);
    }
    if head.status < 200 && !switched {
        // HTTP/1.0 knows no interim answers; a 100 is for those who wait for it.
        if !facts.http10 && (head.status != 100 || facts.expects_continue) {
            head.write(Towards { http10: false, close: false, switching: false }, None, out);
        }
        return Ok(Opened::Interim);
    }
    let failure = Failure::Answer { status: head.status, grpc_status: head.grpc_status };
    if !switched && context.retries.is_some_and(|retries| retries.again(failure, record)) {
        return Ok(Opened::Again { framing: head.framing, keep_alive: head.keep_alive });
    }
    record.status(head.status);
    if let Some(status) = head.grpc_status {
        record.grpc_status(status);
    }
    let undelimited = facts.http10 && matches!(head.framing, Framing::Chunked | Framing::Close);
    let close = !facts.keep_alive || context.worker.current_phase() >= Phase::Draining || undelimited;
    head.write(Towards { http10: facts.http10, close, switching: switched }, context.decision, out);
    if !context.added.is_empty() {
        // Before the empty line.
        out.truncate(out.len() - 2);
        out.extend_from_slice(context.added);
        out.extend_from_slice(b"\r\n");
    }
    let answered = Answered { keep_client: !close, keep_endpoint: head.keep_alive, switched };
    Ok(Opened::Final { framing: head.framing, answered })
}

async fn body(
    context: &Context<'_>,
    framing: Framing,
    from: &mut ReadHalf<'_>,
    received: &mut BytesMut,
    to: &mut WriteHalf<'_>,
    out: &mut Vec<u8>,
) -> Result<(), ProxyError> {
    match framing {
        Framing::None => send(to, context.watch, out).await,
        Framing::Length(length) => by_length(context, length, from, received, to, out).await,
        Framing::Chunked => by_chunks(context, from, received, to, out).await,
        Framing::Close => to_the_end(context, from, received, to, out).await,
    }
}

async fn by_length(
    context: &Context<'_>,
    mut left: u64,
    from: &mut ReadHalf<'_>,
    received: &mut BytesMut,
    to: &mut WriteHalf<'_>,
    out: &mut Vec<u8>,
) -> Result<(), ProxyError> {
    let first = usize::try_from(left).unwrap_or(usize::MAX).min(received.len()).min(WITH_HEAD);
    out.extend_from_slice(&received[..first]);
    received.advance(first);
    left -= first as u64;
    send(to, context.watch, out).await?;
    let mut room = SMALL;
    while left > 0 {
        if received.is_empty() {
            room = read(from, received, room.min(usize::try_from(left).unwrap_or(usize::MAX).max(SMALL))).await?;
        }
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(received.len());
        send(to, context.watch, &received[..here]).await?;
        received.advance(here);
        left -= here as u64;
    }
    Ok(())
}

async fn by_chunks(
    context: &Context<'_>,
    from: &mut ReadHalf<'_>,
    received: &mut BytesMut,
    to: &mut WriteHalf<'_>,
    out: &mut Vec<u8>,
) -> Result<(), ProxyError> {
    let (mut decoder, mut room) = (Decoder::default(), SMALL);
    loop {
        let taken = if context.facts.http10 {
            decode(&mut decoder, received, out)
        } else {
            recode(&mut decoder, received, out)
        };
        // What was in order before the fault is the client's all the same; the missing end tells the rest.
        send(to, context.watch, out).await?;
        out.clear();
        if taken.map_err(|_| ProxyError::BadAnswer)? {
            return Ok(());
        }
        room = read(from, received, room).await?;
    }
}

/// As `recode`, for a client that does not know chunks.
fn decode(decoder: &mut Decoder, received: &mut BytesMut, out: &mut Vec<u8>) -> Result<bool, chunked::Malformed> {
    loop {
        match decoder.step(received)? {
            Step::More => {
                received.clear();
                return Ok(false);
            }
            Step::Data { used, length } => {
                out.extend_from_slice(&received[used - length..used]);
                received.advance(used);
            }
            Step::Done { used } => {
                received.advance(used);
                return Ok(true);
            }
        }
    }
}

async fn to_the_end(
    context: &Context<'_>,
    from: &mut ReadHalf<'_>,
    received: &mut BytesMut,
    to: &mut WriteHalf<'_>,
    out: &mut Vec<u8>,
) -> Result<(), ProxyError> {
    let chunks = !context.facts.http10;
    loop {
        if chunks {
            chunked::write_chunk(out, received)
        } else {
            out.extend_from_slice(received)
        }
        received.clear();
        send(to, context.watch, out).await?;
        out.clear();
        received.reserve(SMALL);
        match from.read_buf(received).await {
            Ok(0) if chunks => {
                chunked::write_end(out, &[]);
                return send(to, context.watch, out).await;
            }
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(_) => return Err(ProxyError::Reset),
        }
    }
}

/// Reads more of a body; the room for the next read.
async fn read(from: &mut ReadHalf<'_>, received: &mut BytesMut, room: usize) -> Result<usize, ProxyError> {
    received.reserve(room);
    match from.read_buf(received).await {
        Ok(0) | Err(_) => Err(ProxyError::Reset),
        // A read that filled its room says that there is more.
        Ok(count) if count >= room => Ok((room * 4).min(LARGE)),
        Ok(_) => Ok(room),
    }
}

async fn send(to: &mut WriteHalf<'_>, watch: &Watch, bytes: &[u8]) -> Result<(), ProxyError> {
    write(to, watch, bytes).await.map_err(|_| ProxyError::ClientGone)
}

/// Writes to the client, which must take something as often as its watch says.
///
/// # Errors
/// When the client is gone.
pub async fn write(to: &mut WriteHalf<'_>, watch: &Watch, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        watch.takes();
        let count = to.write(bytes).await?;
        watch.took(count);
        bytes = &bytes[count..];
    }
    watch.written();
    Ok(())
}

/// Appends the first line of a head.
pub fn status_line(out: &mut Vec<u8>, status: StatusCode) {
    out.extend_from_slice(b"HTTP/1.1 ");
    text::number(out, status.as_u16().into());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends an answer in the proxy's own words.
pub fn own(out: &mut Vec<u8>, status: StatusCode, text: &str, close: bool, head_method: bool) {
    status_line(out, status);
    out.extend_from_slice(b"content-type: text/plain; charset=utf-8\r\ncontent-length: ");
    text::number(out, text.len() as u64 + 1);
    out.extend_from_slice(if close { b"\r\nconnection: close\r\n\r\n" } else { b"\r\n\r\n" });
    if !head_method {
        out.extend_from_slice(text.as_bytes());
        out.push(b'\n');
    }
}

/// Appends the answer that a rule asks for.
pub fn by_rule(out: &mut Vec<u8>, own_answer: &Answer, close: bool, head_method: bool) {
    let status = StatusCode::from_u16(own_answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if status == StatusCode::NO_CONTENT {
        out.extend_from_slice(b"HTTP/1.1 204 No Content\r\n");
        fields(out, own_answer);
        out.extend_from_slice(if close { b"connection: close\r\n\r\n" } else { b"\r\n" });
        return;
    }
    // The body last: the fields go before the empty line.
    own(out, status, own_answer.action.text(), close, true);
    out.truncate(out.len() - 2);
    fields(out, own_answer);
    out.extend_from_slice(b"\r\n");
    if !head_method {
        out.extend_from_slice(own_answer.action.text().as_bytes());
        out.push(b'\n');
    }
}

fn fields(out: &mut Vec<u8>, own_answer: &Answer) {
    for (name, value) in &own_answer.fields {
        text::field(out, name.as_str().as_bytes(), value.as_bytes());
    }
}
