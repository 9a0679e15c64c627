//! A request's body on its way to the endpoint.

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::error::ProxyError;
use crate::h1::chunked::{self, Decoder, Step};
use crate::h1::request::Framing;
use crate::mirror::Copy;
use crate::watch::Watch;

/// Seconds in which a client must send something of its body.
const PIECE_SECONDS: u64 = 60;
/// Seconds after which a body must have come at [`LEAST_RATE`], so that a byte now and then does not hold a connection.
const GRACE_SECONDS: u64 = 10;
/// Bytes per second.
const LEAST_RATE: u64 = 128;
/// Room for one read.
const ROOM: usize = 64 * 1024;

/// How a body ended that did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadError {
    /// The client is gone, too slow, or sends what is not a body.
    Client(ProxyError),
    /// The endpoint takes no more; its answer may be there all the same.
    Endpoint,
}

/// Passes the body on, of which `buffer` holds the start, and keeps what goes into a copy. What follows the body stays in
/// `buffer`.
///
/// # Errors
/// When it cannot be passed on to its end.
pub async fn pump(
    from: &mut ReadHalf<'_>,
    buffer: &mut BytesMut,
    to: &mut WriteHalf<'_>,
    framing: Framing,
    watch: &Watch,
    copy: Option<&mut Copy>,
) -> Result<(), UploadError> {
    let mut pace = Pace { watch, begun: watch.seconds(), bytes: 0, copy };
    match framing {
        Framing::None => {}
        Framing::Length(length) => pump_length(from, buffer, to, length, &mut pace).await?,
        Framing::Chunked => pump_chunks(from, buffer, to, &mut pace).await?,
    }
    if let Some(copy) = pace.copy {
        copy.complete();
    }
    Ok(())
}

async fn pump_length(
    from: &mut ReadHalf<'_>,
    buffer: &mut BytesMut,
    to: &mut WriteHalf<'_>,
    mut left: u64,
    pace: &mut Pace<'_>,
) -> Result<(), UploadError> {
    loop {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        to.write_all(&buffer[..here]).await.map_err(|_| UploadError::Endpoint)?;
        pace.passed(&buffer[..here]);
        buffer.advance(here);
        left -= here as u64;
        if left == 0 {
            return Ok(());
        }
        pace.read(from, buffer).await?;
    }
}

async fn pump_chunks(
    from: &mut ReadHalf<'_>,
    buffer: &mut BytesMut,
    to: &mut WriteHalf<'_>,
    pace: &mut Pace<'_>,
) -> Result<(), UploadError> {
    let (mut decoder, mut out) = (Decoder::default(), Vec::new());
    loop {
        out.clear();
        let done = recode(&mut decoder, buffer, &mut out).map_err(|_| UploadError::Client(ProxyError::BadRequest))?;
        to.write_all(&out).await.map_err(|_| UploadError::Endpoint)?;
        pace.passed(&out);
        if done {
            return Ok(());
        }
        pace.read(from, buffer).await?;
    }
}

/// Takes what `buffer` has of a chunked body and appends it, written anew; whether the body is complete.
///
/// # Errors
/// When it is no chunked body.
pub fn recode(decoder: &mut Decoder, buffer: &mut BytesMut, out: &mut Vec<u8>) -> Result<bool, chunked::Malformed> {
    loop {
        match decoder.step(buffer)? {
            Step::More => {
                buffer.clear();
                return Ok(false);
            }
            Step::Data { used, length } => {
                chunked::write_chunk(out, &buffer[used - length..used]);
                buffer.advance(used);
            }
            Step::Done { used } => {
                buffer.advance(used);
                let mut room = chunked::trailer_room();
                chunked::write_end(out, decoder.trailers(&mut room)?);
                return Ok(true);
            }
        }
    }
}

struct Pace<'a> {
    watch: &'a Watch,
    begun: u64,
    bytes: u64,
    copy: Option<&'a mut Copy>,
}

impl Pace<'_> {
    fn passed(&mut self, bytes: &[u8]) {
        if let Some(copy) = &mut self.copy {
            copy.piece(bytes);
        }
    }

    async fn read(&mut self, from: &mut ReadHalf<'_>, buffer: &mut BytesMut) -> Result<(), UploadError> {
        buffer.reserve(ROOM);
        self.watch.read_within(PIECE_SECONDS);
        let count = match from.read_buf(buffer).await {
            Ok(0) | Err(_) => return Err(UploadError::Client(ProxyError::ClientGone)),
            Ok(count) => count,
        };
        self.watch.busy();
        self.bytes += count as u64;
        let due = self.watch.seconds().saturating_sub(self.begun).saturating_sub(GRACE_SECONDS) * LEAST_RATE;
        if self.bytes < due { Err(UploadError::Client(ProxyError::TooSlow)) } else { Ok(()) }
    }
}
