//! An endpoint's answer on its way to the client: its head here, what follows in `body`. The proxy's own answers are in
//! `words`.

mod body;
mod words;

use std::cell::Cell;
use std::io;

use bytes::{Buf, BytesMut};
use routing::retry::Failure;
use routing::rules::Decision;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};

use self::body::body;
pub use self::words::{by_rule, own, status_line};
use crate::error::ProxyError;
use crate::h1::intake::SMALL;
use crate::h1::request::Facts;
use crate::h1::response::{self, Framing, Towards};
use crate::h1::text::HeadScan;
use crate::interim::MAX_INTERIM;
use crate::record::Record;
use crate::retries::Retries;
use crate::watch::Watch;
use crate::worker::{Phase, Worker};

/// Bytes of a body that are sent in one go with the head.
const WITH_HEAD: usize = 16 * 1024;
/// Bytes that a head may grow by without moving.
const MORE: usize = 64;

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
