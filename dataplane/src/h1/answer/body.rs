//! The body of an endpoint's answer, to its end: by its length, by its chunks, or until the endpoint closes the connection.

use bytes::{Buf, BytesMut};
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::{Context, WITH_HEAD, send};
use crate::error::ProxyError;
use crate::h1::chunked::{self, Decoder, Step};
use crate::h1::intake::Intake;
use crate::h1::response::Framing;
use crate::h1::upload::recode;

/// Passes on a body, behind the head that is in `out`.
///
/// # Errors
/// When it does not come to its end, or the client is gone.
pub(super) async fn body(
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
    let mut intake = Intake::default();
    while left > 0 {
        if received.is_empty() {
            more(&mut intake, from, received, usize::try_from(left).unwrap_or(usize::MAX)).await?;
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
    let (mut decoder, mut intake) = (Decoder::default(), Intake::default());
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
        more(&mut intake, from, received, usize::MAX).await?;
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
    let (chunks, mut intake) = (!context.facts.http10, Intake::default());
    loop {
        if chunks {
            chunked::write_chunk(out, received)
        } else {
            out.extend_from_slice(received)
        }
        received.clear();
        send(to, context.watch, out).await?;
        out.clear();
        match intake.read(from, received, usize::MAX).await {
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

/// Reads more of a body that has not come to its end.
async fn more(
    intake: &mut Intake,
    from: &mut ReadHalf<'_>,
    received: &mut BytesMut,
    left: usize,
) -> Result<(), ProxyError> {
    match intake.read(from, received, left).await {
        Ok(0) | Err(_) => Err(ProxyError::Reset),
        Ok(_) => Ok(()),
    }
}
