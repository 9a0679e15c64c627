//! What comes: bytes to frames, bodies to their streams (RFC 9113 §4 to §6).

use super::super::frame::{self, HEAD, Head, MAX_PAYLOAD, Reason, flag, kind};
use super::super::stream::{Error, Half, Stream};
use super::{Connection, Drain, Role};

/// DATA whose payload is still coming, and counts as if it had come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Data {
    /// `None`: nobody takes it.
    stream: Option<u32>,
    left: usize,
    padding: usize,
    end: bool,
}

impl Data {
    /// Bytes that are still to come.
    pub(super) fn coming(self) -> u32 {
        u32::try_from(self.left + self.padding).expect("a payload is bounded")
    }
}

impl Connection {
    /// Takes what came. What is wrong with it ends the connection, see [`Connection::ending`].
    pub fn receive(&mut self, mut bytes: &[u8]) {
        self.heard = true;
        while !bytes.is_empty() && !self.ended {
            let done = match self.data.take() {
                Some(data) => {
                    self.payload(data, &mut bytes);
                    Ok(())
                }
                None => self.frame(&mut bytes),
            };
            if let Err(reason) = done {
                self.violated(reason);
            }
        }
    }

    /// Takes a frame, or what has come of it.
    fn frame(&mut self, bytes: &mut &[u8]) -> Result<(), Reason> {
        if self.partial.is_empty() {
            if let Some(length) = together(bytes)?.filter(|length| *length <= bytes.len()) {
                let (whole, rest) = bytes.split_at(length);
                *bytes = rest;
                return self.whole(whole);
            }
            self.partial = std::mem::take(bytes).to_vec();
            return Ok(());
        }
        let wanted = together(&self.partial)?.unwrap_or(HEAD);
        let (more, rest) = bytes.split_at(bytes.len().min(wanted - self.partial.len()));
        self.partial.extend_from_slice(more);
        *bytes = rest;
        if self.partial.len() == wanted && together(&self.partial)? == Some(wanted) {
            let whole = std::mem::take(&mut self.partial);
            return self.whole(&whole);
        }
        Ok(())
    }

    /// A frame; of DATA, what comes before the payload.
    fn whole(&mut self, whole: &[u8]) -> Result<(), Reason> {
        let (head, payload) = (Head::read(whole).expect("a frame has a head"), &whole[HEAD..]);
        if let Some(block) = &self.block
            && (head.kind != kind::CONTINUATION || head.stream != block.stream)
        {
            return Err(Reason::PROTOCOL_ERROR);
        }
        match head.kind {
            kind::DATA => self.data(head, payload.first().copied()),
            kind::HEADERS => self.headers(head, payload),
            kind::CONTINUATION => self.continuation(head, payload),
            kind::RST_STREAM => self.was_reset(head, payload),
            kind::SETTINGS => self.settings(head, payload),
            kind::PING => self.pinged(head, payload),
            kind::GOAWAY => self.gone_away(head, payload),
            kind::WINDOW_UPDATE => self.window_updated(head, payload),
            kind::PRIORITY if head.stream == 0 => Err(Reason::PROTOCOL_ERROR),
            kind::PRIORITY => {
                let itself = frame::number(payload).is_some_and(|on| on & frame::MAX_WINDOW == head.stream);
                let reason = match payload.len() {
                    5 if !itself => return Ok(()),
                    5 => Reason::PROTOCOL_ERROR,
                    _ => Reason::FRAME_SIZE_ERROR,
                };
                // What was not opened cannot be reset (§6.4).
                if self.idle(head.stream) {
                    return Err(reason);
                }
                self.fault(head.stream, reason);
                Ok(())
            }
            kind::PUSH_PROMISE => Err(Reason::PROTOCOL_ERROR),
            _ => Ok(()),
        }
    }

    /// Whether the stream was not opened yet (§5.1).
    pub(super) fn idle(&self, number: u32) -> bool {
        match self.role {
            // Past a drain's end streams are not looked at, and not known.
            Role::Server => self.drain != Drain::Done && (number.is_multiple_of(2) || number > self.last),
            Role::Client => number.is_multiple_of(2) || number >= self.next,
        }
    }

    /// A frame for a stream that is not kept: of one that we reset it may have been under way (§5.1).
    pub(super) fn stray(&mut self, number: u32) -> Result<(), Reason> {
        if self.idle(number) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if number > self.last && self.role == Role::Server || self.resets.contains(&number) {
            return Ok(());
        }
        if self.forgotten {
            frame::reset(&mut self.out, number, Reason::STREAM_CLOSED);
            return Ok(());
        }
        Err(Reason::STREAM_CLOSED)
    }

    fn data(&mut self, head: Head, first: Option<u8>) -> Result<(), Reason> {
        if head.stream == 0 {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let (padding, length) = match first.filter(|_| head.has(flag::PADDED)) {
            None if head.has(flag::PADDED) => return Err(Reason::PROTOCOL_ERROR),
            None => (0, head.length),
            Some(padding) => (usize::from(padding), head.length - 1),
        };
        let content = length.checked_sub(padding).ok_or(Reason::PROTOCOL_ERROR)?;
        let counted = u32::try_from(head.length).expect("a payload is bounded");
        if !self.window.receive(counted) {
            return Err(Reason::FLOW_CONTROL_ERROR);
        }
        let taken = match self.streams.get_mut(&head.stream) {
            None => {
                self.stray(head.stream)?;
                false
            }
            Some(stream) => match admit(stream, counted, content) {
                Ok(taken) => taken,
                Err(Reason::STREAM_CLOSED) if matches!(stream.error, Some(Error::Reset(_))) => {
                    return Err(Reason::STREAM_CLOSED);
                }
                Err(reason) => {
                    self.fault(head.stream, reason);
                    false
                }
            },
        };
        // Padding is given back at once.
        if taken && head.length > content {
            self.give_back_stream(head.stream, head.length - content);
        }
        let stream = taken.then_some(head.stream);
        let data = Data { stream, left: content, padding, end: head.has(flag::END_STREAM) };
        self.payload(data, &mut &[][..]);
        Ok(())
    }

    /// Takes of a payload what has come.
    fn payload(&mut self, mut data: Data, bytes: &mut &[u8]) {
        let (content, rest) = bytes.split_at(bytes.len().min(data.left));
        data.left -= content.len();
        let (padding, rest) = rest.split_at(rest.len().min(if data.left == 0 { data.padding } else { 0 }));
        data.padding -= padding.len();
        *bytes = rest;
        if let (Some(number), false) = (data.stream, content.is_empty()) {
            let taking = self.streams.get_mut(&number).filter(|stream| stream.read_held && stream.error.is_none());
            // Otherwise nobody takes it any more.
            if let Some(stream) = taking {
                if stream.held() == 0 {
                    stream.moved = self.share.account().seconds();
                }
                stream.data.push(content);
                stream.wake(Half::Reading);
                self.share.receive(content.len());
            }
        }
        if data.left + data.padding > 0 {
            self.data = Some(data);
        } else if let (Some(number), true) = (data.stream, data.end) {
            self.received(number);
        }
        self.replenish();
    }

    /// A stream is over on the other side.
    pub(super) fn received(&mut self, number: u32) {
        let Some(stream) = self.streams.get_mut(&number).filter(|stream| stream.error.is_none()) else { return };
        if stream.length.is_some_and(|left| left > 0) {
            return self.fault(number, Reason::PROTOCOL_ERROR);
        }
        stream.received = true;
        stream.wake(Half::Reading);
        self.settle(number);
    }

    fn was_reset(&mut self, head: Head, payload: &[u8]) -> Result<(), Reason> {
        let (Some(code), 4) = (frame::number(payload), payload.len()) else { return Err(Reason::FRAME_SIZE_ERROR) };
        if self.idle(head.stream) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        // Whoever reset it first, nothing may come after this (§5.1).
        if let Some(place) = self.resets.iter().rposition(|number| *number == head.stream) {
            self.resets.remove(place);
        }
        let Some(stream) = self.streams.get_mut(&head.stream) else { return Ok(()) };
        if matches!(stream.error, Some(Error::Fault(_))) {
            stream.error = None;
        }
        stream.fail(Error::Reset(Reason(code)));
        if self.retract(head.stream) {
            self.seen.retracted += 1;
        }
        self.settle(head.stream);
        Ok(())
    }
}

/// How many bytes of the frame that begins here must come before it is looked at; `None` while its head is not complete.
fn together(bytes: &[u8]) -> Result<Option<usize>, Reason> {
    let Some(head) = Head::read(bytes) else { return Ok(None) };
    if head.length > MAX_PAYLOAD {
        return Err(Reason::FRAME_SIZE_ERROR);
    }
    // A payload of DATA is passed on as it comes, once it is known how much of it is padding.
    let payload = match head.kind {
        kind::DATA => head.length.min(usize::from(head.has(flag::PADDED))),
        _ => head.length,
    };
    Ok(Some(HEAD + payload))
}

/// Whether a DATA frame is for the stream; false: nobody takes it.
fn admit(stream: &mut Stream, counted: u32, content: usize) -> Result<bool, Reason> {
    match stream.error {
        Some(Error::Reset(_)) => return Err(Reason::STREAM_CLOSED),
        Some(_) => return Ok(false),
        None => {}
    }
    if stream.received {
        return Err(Reason::STREAM_CLOSED);
    }
    if stream.awaited {
        return Err(Reason::PROTOCOL_ERROR);
    }
    if !stream.window.receive(counted) {
        return Err(Reason::FLOW_CONTROL_ERROR);
    }
    if let Some(left) = &mut stream.length {
        *left = left.checked_sub(content as u64).ok_or(Reason::PROTOCOL_ERROR)?;
    }
    Ok(true)
}
