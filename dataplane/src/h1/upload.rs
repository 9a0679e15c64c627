//! A request's body on its way to the endpoint.

use bytes::{Buf, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::error::ProxyError;
use crate::h1::chunked::{self, Decoder, Malformed, Step};
use crate::h1::intake::Intake;
use crate::h1::pipe::{Feed, Untaken};
use crate::h1::request::Framing;
use crate::mirror::Copy;
use crate::patience::least;
use crate::retries::Retries;
use crate::watch::Watch;

/// How a body ended that did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadError {
    /// The client is gone, too slow, or sends what is not a body.
    Client(ProxyError),
    /// The endpoint takes no more; its answer may be there all the same.
    Endpoint,
}

/// What is left of a body that did not come with its head. It goes on where it was: an attempt that ended early leaves
/// the rest for the next one.
#[derive(Debug)]
pub struct Upload<'a> {
    left: Left,
    /// What passes is kept for as long as another attempt may begin with it.
    retries: Option<&'a Retries<'a>>,
}

#[derive(Debug)]
enum Left {
    None,
    Length(u64),
    Chunks(Decoder),
}

impl Left {
    /// Of a body whose length is known.
    fn of(length: u64) -> Self {
        if length == 0 { Self::None } else { Self::Length(length) }
    }

    /// Bytes that are to come at most.
    fn most(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Length(length) => usize::try_from(*length).unwrap_or(usize::MAX),
            Self::Chunks(_) => usize::MAX,
        }
    }
}

impl<'a> Upload<'a> {
    /// Nothing has passed yet.
    #[must_use]
    pub fn new(framing: Framing, retries: Option<&'a Retries<'a>>) -> Self {
        let left = match framing {
            Framing::None => Left::None,
            Framing::Length(length) => Left::of(length),
            Framing::Chunked => Left::Chunks(Decoder::default()),
        };
        Self { left, retries }
    }

    /// Whether all of it has passed.
    #[must_use]
    pub fn done(&self) -> bool {
        matches!(self.left, Left::None)
    }

    /// Whether it says that more than `bytes` are to come yet.
    #[must_use]
    pub fn exceeds(&self, bytes: u64) -> bool {
        matches!(self.left, Left::Length(left) if left > bytes)
    }

    /// What is left of the request's retries, if it has any.
    #[must_use]
    pub fn retries(&self) -> Option<&'a Retries<'a>> {
        self.retries
    }

    /// Whether all that has passed was kept.
    #[must_use]
    pub fn kept(&self) -> bool {
        self.retries.is_some_and(Retries::replayable)
    }

    /// Passes the body on, of which `buffer` holds the start; what follows the body stays in `buffer`. What is kept goes
    /// to `kept`, and what is mirrored into `copy`, before it is sent, so that the future may be dropped at any time.
    ///
    /// # Errors
    /// When it cannot be passed on to its end.
    pub async fn pump(
        &mut self,
        from: &mut ReadHalf<'_>,
        buffer: &mut BytesMut,
        to: &mut WriteHalf<'_>,
        kept: &mut Vec<u8>,
        watch: &Watch,
        copy: Option<&mut Copy>,
    ) -> Result<(), UploadError> {
        let mut pace = Pace { watch, begun: watch.seconds(), bytes: 0, intake: Intake::default(), copy };
        let mut out = Vec::new();
        loop {
            let sent = match &mut self.left {
                Left::None => break,
                Left::Length(left) => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                    self.left = Left::of(*left - here as u64);
                    pace.passed(&buffer[..here]);
                    if keep(self.retries, kept, &buffer[..here]) {
                        buffer.advance(here);
                        to.write_all(&kept[kept.len() - here..]).await
                    } else {
                        let sent = to.write_all(&buffer[..here]).await;
                        buffer.advance(here);
                        sent
                    }
                }
                Left::Chunks(decoder) => {
                    out.clear();
                    let done = recode(decoder, buffer, &mut out);
                    if done.map_err(|_| UploadError::Client(ProxyError::BadRequest))? {
                        self.left = Left::None;
                    }
                    pace.passed(&out);
                    keep(self.retries, kept, &out);
                    to.write_all(&out).await
                }
            };
            sent.map_err(|_| UploadError::Endpoint)?;
            if self.done() {
                break;
            }
            pace.read(from, buffer, self.left.most()).await?;
        }
        if let Some(copy) = pace.copy {
            copy.complete();
        }
        Ok(())
    }
}

impl Upload<'_> {
    /// As [`Self::pump`], for an endpoint of another version: what is sent is decoded, and goes to `feed`. Nothing is kept.
    ///
    /// # Errors
    /// When it cannot be passed on to its end.
    pub async fn feed(
        &mut self,
        from: &mut ReadHalf<'_>,
        buffer: &mut BytesMut,
        feed: &Feed,
        watch: &Watch,
    ) -> Result<(), UploadError> {
        let mut pace = Pace { watch, begun: watch.seconds(), bytes: 0, intake: Intake::default(), copy: None };
        while !self.done() {
            let piece = match &mut self.left {
                Left::None => break,
                Left::Length(left) => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                    self.left = Left::of(*left - here as u64);
                    Decoded::Data(here)
                }
                Left::Chunks(decoder) => {
                    let decoded = decoded(decoder, buffer).map_err(|_| UploadError::Client(ProxyError::BadRequest))?;
                    if matches!(decoded, Decoded::End(_)) {
                        self.left = Left::None;
                    }
                    decoded
                }
            };
            let trailers = match piece {
                Decoded::Data(here) => {
                    let piece = buffer.split_to(here).freeze();
                    feed.give(piece).await.map_err(|Untaken| UploadError::Endpoint)?;
                    None
                }
                Decoded::End(trailers) => trailers,
                Decoded::More => None,
            };
            if self.done() {
                feed.end(trailers);
            } else if buffer.is_empty() {
                pace.read(from, buffer, self.left.most()).await?;
            }
        }
        Ok(())
    }
}

/// What is at the start of a buffer.
#[derive(Debug)]
pub enum Decoded {
    /// So many bytes of the body.
    Data(usize),
    /// Nothing: more has to come.
    More,
    /// Its end, with trailers if there are any.
    End(Option<HeaderMap>),
}

/// Drops from the start of `buffer` what is not the body's.
///
/// # Errors
/// When it is no chunked body.
pub fn decoded(decoder: &mut Decoder, buffer: &mut BytesMut) -> Result<Decoded, Malformed> {
    Ok(match decoder.step(buffer)? {
        Step::More => {
            buffer.clear();
            Decoded::More
        }
        Step::Data { used, length } => {
            buffer.advance(used - length);
            Decoded::Data(length)
        }
        Step::Done { used } => {
            buffer.advance(used);
            let mut room = chunked::trailer_room();
            let fields = decoder.trailers(&mut room)?.iter().filter(|field| chunked::may_trail(field.name));
            let mut trailers = HeaderMap::new();
            for field in fields {
                let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed)?;
                trailers.append(name, HeaderValue::from_bytes(field.value).map_err(|_| Malformed)?);
            }
            Decoded::End(Some(trailers).filter(|trailers| !trailers.is_empty()))
        }
    })
}

/// Whether `piece` was kept; if there is no room for it, no more is.
fn keep(retries: Option<&Retries<'_>>, kept: &mut Vec<u8>, piece: &[u8]) -> bool {
    let keep = retries.is_some_and(|retries| retries.keep(piece.len()));
    if keep {
        kept.extend_from_slice(piece);
    }
    keep
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
    intake: Intake,
    copy: Option<&'a mut Copy>,
}

impl Pace<'_> {
    fn passed(&mut self, bytes: &[u8]) {
        if let Some(copy) = &mut self.copy {
            copy.piece(bytes);
        }
    }

    async fn read(&mut self, from: &mut ReadHalf<'_>, buffer: &mut BytesMut, left: usize) -> Result<(), UploadError> {
        self.watch.sends();
        let count = match self.intake.read(from, buffer, left).await {
            Ok(0) | Err(_) => return Err(UploadError::Client(ProxyError::ClientGone)),
            Ok(count) => count,
        };
        self.watch.busy();
        self.bytes += count as u64;
        if self.bytes < least(self.watch.seconds().saturating_sub(self.begun)) {
            Err(UploadError::Client(ProxyError::TooSlow))
        } else {
            Ok(())
        }
    }
}
