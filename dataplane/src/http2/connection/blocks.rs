//! Field blocks: requests, answers and trailers, whole or continued (RFC 9113 §4.3, §6.2, §6.10 and §8.1).

use http::{HeaderMap, Request, StatusCode};

use super::super::frame::{self, Head, Reason, flag};
use super::super::head::{self, Fields, Protocol};
use super::super::stream::{Error, Half, Stream};
use super::{Accepted, Connection, Drain, Role};
use crate::interim::MAX_INTERIM;

/// CONTINUATION frames of one block, beside one for each [`CONTINUATION_BYTES`] that it may have.
const CONTINUATIONS: usize = 16;
const CONTINUATION_BYTES: usize = 4096;
/// Bytes of a block, in multiples of the field list that is kept: what is larger is read for its table, and answered.
const BLOCK_SCALE: usize = 2;

/// A field block whose CONTINUATION is still to come.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) stream: u32,
    pub(super) end: bool,
    pub(super) bytes: Vec<u8>,
    pub(super) frames: usize,
}

impl Connection {
    pub(super) fn headers(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        if head.stream == 0 {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let (mut fields, _) = frame::unpadded(head, payload).ok_or(Reason::PROTOCOL_ERROR)?;
        let mut itself = false;
        if head.has(flag::PRIORITY) {
            let on = frame::number(fields).ok_or(Reason::FRAME_SIZE_ERROR)?;
            itself = on & frame::MAX_WINDOW == head.stream;
            fields = fields.get(5..).ok_or(Reason::FRAME_SIZE_ERROR)?;
        }
        if itself {
            // A stream cannot depend on itself (§5.3.1 of RFC 7540). The block is not read, so the table is lost.
            return Err(Reason::PROTOCOL_ERROR);
        }
        let end = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.fields(head.stream, end, fields);
        }
        self.block = Some(Block { stream: head.stream, end, bytes: fields.to_vec(), frames: 0 });
        Ok(())
    }

    pub(super) fn continuation(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        let mut block = self.block.take().ok_or(Reason::PROTOCOL_ERROR)?;
        block.bytes.extend_from_slice(payload);
        block.frames += 1;
        let most = self.config.field_list * BLOCK_SCALE;
        if block.bytes.len() > most || block.frames > CONTINUATIONS + most / CONTINUATION_BYTES {
            return Err(Reason::ENHANCE_YOUR_CALM);
        }
        if head.has(flag::END_HEADERS) {
            return self.fields(block.stream, block.end, &block.bytes);
        }
        self.block = Some(block);
        Ok(())
    }

    /// A whole field block: always read, since the table depends on it.
    fn fields(&mut self, number: u32, end: bool, block: &[u8]) -> Result<(), Reason> {
        let mut fields = Fields::new(self.config.field_list);
        let read = self.decoder.decode(block, |field, size| fields.add(field, size));
        read.map_err(|_| Reason::COMPRESSION_ERROR)?;
        match self.streams.get_mut(&number) {
            None if self.role == Role::Server && !number.is_multiple_of(2) && number > self.last => {
                self.opened(number, end, fields);
                Ok(())
            }
            None => self.stray(number),
            Some(stream) => match stream.error {
                Some(Error::Reset(_)) => Err(Reason::STREAM_CLOSED),
                Some(_) => Ok(()),
                None if stream.received && stream.sent => Err(Reason::STREAM_CLOSED),
                None => {
                    let taken = if stream.received {
                        Err(Reason::STREAM_CLOSED)
                    } else if stream.awaited {
                        answered(stream, fields, end)
                    } else {
                        trailed(stream, fields, end)
                    };
                    match taken {
                        Ok(()) if end => self.received(number),
                        Ok(()) => {}
                        Err(reason) => self.fault(number, reason),
                    }
                    Ok(())
                }
            },
        }
    }

    /// A client opens a stream.
    fn opened(&mut self, number: u32, end: bool, fields: Fields) {
        if self.drain == Drain::Done {
            return;
        }
        self.last = number;
        if self.open >= self.config.streams {
            self.seen.refused += 1;
            return self.tell_reset(number, Reason::REFUSED_STREAM);
        }
        let too_large = fields.too_large();
        let request = if too_large { Ok(Request::new(())) } else { fields.request() };
        // Who was not told that it may, may not.
        let request = request.and_then(|request| match request.extensions().get::<Protocol>() {
            Some(_) if !self.config.connects => Err(head::Malformed),
            _ => Ok(request),
        });
        let read = request.and_then(|request| length(request.headers(), end).map(|length| (request, length)));
        let Ok((request, length)) = read else { return self.fault(number, Reason::PROTOCOL_ERROR) };
        let mut stream = Box::new(Stream::new(false, self.config.stream_window, self.peer.window));
        (stream.length, stream.received) = (length, end);
        self.streams.insert(number, stream);
        self.open += 1;
        self.accepted.push_back(Accepted { stream: number, request, too_large });
    }
}

/// The head of an answer came, or one before it (1xx), of which there are not many.
fn answered(stream: &mut Stream, fields: Fields, end: bool) -> Result<(), Reason> {
    if fields.too_large() {
        return Err(Reason::PROTOCOL_ERROR);
    }
    let response = fields.response().map_err(|_| Reason::PROTOCOL_ERROR)?;
    if response.status().is_informational() {
        stream.interim_count += 1;
        if end || stream.interim_count > MAX_INTERIM {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if stream.read_held {
            stream.interims.push_back(response);
            stream.wake(Half::Reading);
        }
        return Ok(());
    }
    let bodiless = stream.bodiless || matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let length = head::content_length(response.headers()).map_err(|_| Reason::PROTOCOL_ERROR)?;
    // What it says of its length is what another request would get.
    stream.length = if bodiless { Some(0) } else { length };
    (stream.head, stream.awaited) = (Some(response), false);
    stream.wake(Half::Reading);
    Ok(())
}

/// Trailers came.
fn trailed(stream: &mut Stream, fields: Fields, end: bool) -> Result<(), Reason> {
    if !end || fields.too_large() {
        return Err(Reason::PROTOCOL_ERROR);
    }
    let trailers = fields.trailers().map_err(|_| Reason::PROTOCOL_ERROR)?;
    if stream.read_held {
        stream.trailers = Some(trailers);
    }
    Ok(())
}

/// Length of a request's body; one that ends with its head has none.
fn length(headers: &HeaderMap, end: bool) -> Result<Option<u64>, head::Malformed> {
    match head::content_length(headers)? {
        Some(1..) if end => Err(head::Malformed),
        length => Ok(length),
    }
}
