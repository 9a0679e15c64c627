//! Frames of the connection itself: settings, pings, windows, and its end (RFC 9113 §6.5, §6.7 to §6.9).

use super::super::frame::{self, MAX_PAYLOAD, MAX_WINDOW, Reason, flag, kind, setting};
use super::super::stream::{Error, Half};
use super::{Connection, Drain, Role};

/// Payloads of our pings: whether the other end is there, and whether it has read that the connection ends.
const THERE: [u8; 8] = *b"sluice-1";
const READ: [u8; 8] = *b"sluice-2";

impl Connection {
    pub(super) fn settings(&mut self, head: frame::Head, payload: &[u8]) -> Result<(), Reason> {
        if head.stream != 0 {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if head.has(flag::ACK) {
            return if payload.is_empty() { Ok(()) } else { Err(Reason::FRAME_SIZE_ERROR) };
        }
        if !payload.len().is_multiple_of(6) {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        for entry in payload.chunks_exact(6) {
            let value = frame::number(&entry[2..]).expect("an entry has six bytes");
            self.set(u16::from_be_bytes([entry[0], entry[1]]), value)?;
        }
        if self.peer.connects.is_none() {
            self.peer.connects = Some(false);
            self.wake_openers();
        }
        frame::write(&mut self.out, kind::SETTINGS, flag::ACK, 0, &[]);
        Ok(())
    }

    fn set(&mut self, name: u16, value: u32) -> Result<(), Reason> {
        match name {
            setting::ENABLE_PUSH if value > 1 || value == 1 && self.role == Role::Client => {
                return Err(Reason::PROTOCOL_ERROR);
            }
            // Once said, it stays (RFC 8441 §3).
            setting::ENABLE_CONNECT_PROTOCOL if value > 1 || value == 0 && self.peer.connects == Some(true) => {
                return Err(Reason::PROTOCOL_ERROR);
            }
            setting::ENABLE_CONNECT_PROTOCOL => {
                self.peer.connects = Some(value == 1);
                self.wake_openers();
            }
            setting::MAX_CONCURRENT_STREAMS => {
                self.peer.streams = Some(value);
                self.wake_openers();
            }
            setting::INITIAL_WINDOW_SIZE => {
                if value > MAX_WINDOW {
                    return Err(Reason::FLOW_CONTROL_ERROR);
                }
                let by = i64::from(value) - i64::from(self.peer.window);
                self.peer.window = value;
                for stream in self.streams.values_mut() {
                    if !stream.may_send.grow(by) {
                        return Err(Reason::FLOW_CONTROL_ERROR);
                    }
                    if by > 0 {
                        stream.wake(Half::Writing);
                    }
                }
            }
            setting::MAX_FRAME_SIZE => {
                if !(16_384..=16_777_215).contains(&value) {
                    return Err(Reason::PROTOCOL_ERROR);
                }
                // Larger ones bring nothing: they leave together.
                self.peer.payload = (value as usize).min(MAX_PAYLOAD);
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn pinged(&mut self, head: frame::Head, payload: &[u8]) -> Result<(), Reason> {
        if head.stream != 0 {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if payload.len() != 8 {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        if !head.has(flag::ACK) {
            frame::write(&mut self.out, kind::PING, flag::ACK, 0, payload);
        } else if payload == READ && self.drain == Drain::Asked {
            self.drain = Drain::Done;
            frame::go_away(&mut self.out, self.last, Reason::NO_ERROR);
        }
        Ok(())
    }

    /// Asks the other end whether it is there: if it is, something will be heard.
    pub fn ping(&mut self) {
        self.heard = false;
        if !self.ended {
            frame::write(&mut self.out, kind::PING, 0, 0, &THERE);
            self.wake_driver();
        }
    }

    /// Ends a server's connection as soon as the streams that are open, or on their way, are over (§6.8).
    pub fn drain(&mut self) {
        if self.drain == Drain::Not && !self.ended {
            self.drain = Drain::Asked;
            frame::go_away(&mut self.out, MAX_WINDOW, Reason::NO_ERROR);
            frame::write(&mut self.out, kind::PING, 0, 0, &READ);
            self.wake_driver();
        }
    }

    pub(super) fn gone_away(&mut self, head: frame::Head, payload: &[u8]) -> Result<(), Reason> {
        if head.stream != 0 {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let (Some(last), true) = (frame::number(payload), payload.len() >= 8) else {
            return Err(Reason::FRAME_SIZE_ERROR);
        };
        if self.role == Role::Client {
            let last = last & MAX_WINDOW;
            // It may only fall.
            self.gone = Some(self.gone.map_or(last, |before| before.min(last)));
            self.fail_streams(|number| (number > last).then_some(Error::Unprocessed));
        }
        Ok(())
    }

    pub(super) fn window_updated(&mut self, head: frame::Head, payload: &[u8]) -> Result<(), Reason> {
        let (Some(by), 4) = (frame::number(payload), payload.len()) else { return Err(Reason::FRAME_SIZE_ERROR) };
        let by = i64::from(by & MAX_WINDOW);
        if head.stream == 0 {
            if by == 0 {
                return Err(Reason::PROTOCOL_ERROR);
            }
            if !self.may_send.grow(by) {
                return Err(Reason::FLOW_CONTROL_ERROR);
            }
            self.unblock();
            return Ok(());
        }
        match self.streams.get_mut(&head.stream) {
            None => return if self.idle(head.stream) { Err(Reason::PROTOCOL_ERROR) } else { Ok(()) },
            Some(stream) if stream.error.is_some() => {}
            Some(_) if by == 0 => self.fault(head.stream, Reason::PROTOCOL_ERROR),
            Some(stream) => {
                if stream.may_send.grow(by) {
                    stream.wake(Half::Writing);
                } else {
                    self.fault(head.stream, Reason::FLOW_CONTROL_ERROR);
                }
            }
        }
        Ok(())
    }
}
