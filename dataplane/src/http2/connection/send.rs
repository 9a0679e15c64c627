//! What is sent: heads, bodies as the windows allow, trailers. Written at once to the buffer that leaves next; nothing is
//! queued by stream.

use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, Method, Request, Response};
use routing::Flag;

use super::super::frame::{self, HEAD, flag, kind};
use super::super::head::Protocol;
use super::super::hpack::encode;
use super::super::stream::{Error, Half, Stream};
use super::{Connection, ROOM, TURN};

/// First room: the heads of a handful of small messages.
const FIRST_ROOM: usize = 4 * 1024;
/// Room for all that bodies may have waiting, and a little more: what waits is not moved as it becomes more.
const WHOLE_ROOM: usize = ROOM + TURN + FIRST_ROOM;

impl Connection {
    /// Opens a stream, which [`Connection::may_open`] has allowed, and returns its number.
    pub fn open(&mut self, request: &Request<()>, end: bool) -> u32 {
        let number = self.next;
        self.next += 2;
        self.open += 1;
        let mut stream = Box::new(Stream::new(true, self.config.stream_window, self.peer.window));
        stream.bodiless = *request.method() == Method::HEAD;
        stream.sent = end;
        self.streams.insert(number, stream);
        self.block(number, end, |out| {
            let uri = request.uri();
            let path = uri.path_and_query().map_or("/", |path| path.as_str());
            let authority = uri.authority().map(|authority| authority.as_str());
            if let Some(Protocol(protocol)) = request.extensions().get() {
                encode::protocol(out, protocol);
            }
            encode::request(out, request.method(), uri.scheme_str().unwrap_or("http"), authority, path);
            encode::fields(out, request.headers());
        });
        number
    }

    /// Sends the head of an answer.
    ///
    /// # Errors
    /// When the stream does not go on.
    pub fn respond(&mut self, number: u32, response: &Response<()>, end: bool) -> Result<(), Error> {
        self.sending(number)?.sent = end;
        self.answer_head(number, response, end);
        self.settle(number);
        Ok(())
    }

    /// Sends a head that comes before the answer's (1xx); ready when there was room for it.
    ///
    /// # Errors
    /// When the stream does not go on.
    pub fn poll_inform(&mut self, number: u32, context: &Context<'_>, head: &Response<()>) -> Poll<Result<(), Error>> {
        self.sending(number)?;
        if self.out.len() >= ROOM {
            self.wait_for_room(number, context);
            return Poll::Pending;
        }
        self.answer_head(number, head, false);
        Poll::Ready(Ok(()))
    }

    fn answer_head(&mut self, number: u32, head: &Response<()>, end: bool) {
        self.block(number, end, |out| {
            encode::status(out, head.status());
            encode::fields(out, head.headers());
        });
    }

    /// Sends what follows a body; the stream is over on this side.
    ///
    /// # Errors
    /// When the stream does not go on.
    pub fn send_trailers(&mut self, number: u32, trailers: &HeaderMap) -> Result<(), Error> {
        self.sending(number)?.sent = true;
        self.block(number, true, |out| encode::fields(out, trailers));
        self.settle(number);
        Ok(())
    }

    /// Sends of `data` what may be sent; ready when all of it was, and the stream is over on this side if this is its `end`.
    ///
    /// # Errors
    /// When the stream does not go on.
    pub fn poll_send(
        &mut self,
        number: u32,
        context: &mut Context<'_>,
        data: &mut Bytes,
        end: bool,
    ) -> Poll<Result<(), Error>> {
        let mut turn = TURN;
        loop {
            if data.is_empty() && !end {
                return Poll::Ready(Ok(()));
            }
            let (full, window, payload) = (self.out.len() >= ROOM, self.may_send.left(), self.peer.payload);
            let stream = self.sending(number)?;
            let may = stream.may_send.left().min(payload);
            if may == 0 && !data.is_empty() {
                stream.wait(Half::Writing, context);
                return Poll::Pending;
            }
            if full || window == 0 && !data.is_empty() {
                self.wait_for_room(number, context);
                return Poll::Pending;
            }
            if turn == 0 {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let count = may.min(window).min(data.len()).min(turn);
            let last = end && count == data.len();
            stream.may_send.send(count);
            stream.sent = last;
            self.may_send.send(count);
            self.passed += count as u64;
            turn -= count;
            self.make_room(count, last);
            let flags = if last { flag::END_STREAM } else { 0 };
            frame::write(&mut self.out, kind::DATA, flags, number, &data[..count]);
            data.advance(count);
            self.wake_driver();
            if last {
                self.settle(number);
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// What the other end has taken, more or less, if the stream waits for room on the connection, which others may have had; `None` if it waits
    /// for its own window.
    #[must_use]
    pub fn held_up(&self, number: u32) -> Option<u64> {
        self.streams.get(&number).filter(|stream| stream.blocked).map(|_| self.passed)
    }

    /// Ready when the stream does not go on.
    pub fn poll_reset(&mut self, number: u32, context: &Context<'_>) -> Poll<Error> {
        let Some(stream) = self.streams.get_mut(&number) else { return Poll::Ready(Error::Closed) };
        match stream.error {
            Some(error) => Poll::Ready(error),
            None => {
                stream.wait(Half::Writing, context);
                Poll::Pending
            }
        }
    }

    /// Why the stream was ended by us, if it was.
    #[must_use]
    pub fn faulted(&self, number: u32) -> Option<Flag> {
        match self.streams.get(&number)?.error? {
            Error::Fault(_) => Some(Flag::DownstreamProtocolError),
            Error::Held => Some(Flag::OverloadManager),
            Error::Reset(_) | Error::Unprocessed | Error::Closed => None,
        }
    }

    /// The stream's task is woken when there is room on the connection, or its window is opened.
    fn wait_for_room(&mut self, number: u32, context: &Context<'_>) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        stream.wait(Half::Writing, context);
        if !std::mem::replace(&mut stream.blocked, true) {
            self.blocked.push_back(number);
        }
    }

    /// For a frame of a body: for all of them if it is large and not the last one.
    fn make_room(&mut self, count: usize, last: bool) {
        let (frame, out) = (HEAD + count, &mut self.out);
        if out.capacity() - out.len() >= frame {
            return;
        }
        let whole = WHOLE_ROOM.saturating_sub(out.len()).max(frame);
        out.reserve(if last || count < TURN / 2 { frame.next_multiple_of(FIRST_ROOM) } else { whole });
    }

    /// A stream on which more may be sent.
    fn sending(&mut self, number: u32) -> Result<&mut Stream, Error> {
        let stream = self.streams.get_mut(&number).ok_or(Error::Closed)?;
        match stream.error {
            Some(error) => Err(error),
            None if stream.sent => Err(Error::Closed),
            None => Ok(stream),
        }
    }

    /// A field block that `write` appends, as HEADERS and as many CONTINUATION as it takes.
    fn block(&mut self, number: u32, end: bool, write: impl FnOnce(&mut Vec<u8>)) {
        let out = &mut self.out;
        if out.capacity() == 0 {
            out.reserve(FIRST_ROOM);
        }
        let start = out.len();
        let end = if end { flag::END_STREAM } else { 0 };
        let head = |length, kind, flags| frame::Head { length, kind, flags, stream: number };
        head(0, kind::HEADERS, end | flag::END_HEADERS).write(out);
        if !std::mem::replace(&mut self.said_no_table, true) {
            out.push(encode::NO_TABLE);
        }
        write(out);
        let (fields, payload) = (start + HEAD, self.peer.payload);
        if out.len() - fields <= payload {
            let [_, length @ ..] = u32::try_from(out.len() - fields).expect("a payload is bounded").to_be_bytes();
            out[start..start + 3].copy_from_slice(&length);
        } else {
            let block = out.split_off(fields);
            out.truncate(start);
            let mut pieces = block.chunks(payload).peekable();
            let (mut kind, mut flags) = (kind::HEADERS, end);
            while let Some(piece) = pieces.next() {
                if pieces.peek().is_none() {
                    flags |= flag::END_HEADERS;
                }
                head(piece.len(), kind, flags).write(out);
                out.extend_from_slice(piece);
                (kind, flags) = (kind::CONTINUATION, 0);
            }
        }
        self.wake_driver();
    }
}
