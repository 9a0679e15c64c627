//! The state of one HTTP/2 connection (RFC 9113), as client or as server: bytes in by [`Connection::receive`], bytes out in
//! one buffer. No sockets, no clock, no runtime: whoever waits is woken through `std::task`. By frames: `receive`
//! (framing, bodies), `blocks` (heads), `control` (the connection's own); for those who use it: `take`, `send`; `life` begins and
//! ends streams; `room` opens the connection's window.
//!
//! Bounded: what is received and not passed on by the connection's window and by what all connections hold ([`super::held`]),
//! a field block by [`Config::field_list`], what waits to be sent by [`ROOM`] and, past that, by reading nothing more ([`Connection::congested`]).

mod blocks;
mod control;
mod life;
mod receive;
mod room;
mod send;
mod take;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::task::Waker;

use http::Request;

use super::flow::{Ahead, Growth, Sending};
use super::frame::{self, DEFAULT_WINDOW, PREFACE, Reason, setting};
use super::held::{Account, Share};
use super::hpack::decode::Decoder;
use super::stream::{Error, Half, Stream};

pub use self::room::HURRY;

/// Bytes that may wait to be sent before bodies wait for room.
pub const ROOM: usize = 64 * 1024;
/// Bytes that a body sends before others have their turn.
pub const TURN: usize = frame::MAX_PAYLOAD;
/// Bytes that may wait before nothing more is read: the other end asks for answers, and takes none.
const CONGESTED: usize = 2 * ROOM;
/// Streams that are opened before the other end has said how many it takes, which it does at once (§3.4): what it would refuse
/// could not always be sent again.
const FIRST_STREAMS: u32 = 1;

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens streams.
    Client,
    /// Answers them.
    Server,
}

/// What the other end may do.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Bytes that it may send ahead on one stream at first.
    pub stream_window: u32,
    /// Bytes by which this grows, on all of them together, for those that are passed on as fast as they come.
    pub growth: u32,
    /// Bytes that it may send ahead on all of them, with what is not passed on.
    pub window: u32,
    /// Bytes of a field list that are kept (§6.5.2).
    pub field_list: usize,
    /// Streams that it may have open.
    pub streams: u32,
    /// Whether it may ask for an extended CONNECT (RFC 8441 §3).
    pub connects: bool,
    /// Streams that may be reset for its faults, beyond those that end in order, before the connection is given up.
    pub faults: u32,
}

/// Whether a stream can be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opens {
    /// It can.
    Now,
    /// The other end takes no more at a time.
    Full,
    /// None can be any more.
    Never,
}

/// A request that came.
#[derive(Debug)]
pub struct Accepted {
    /// Its stream.
    pub stream: u32,
    /// Its head; empty if it is too large.
    pub request: Request<()>,
    /// Whether its field list is larger than what is kept.
    pub too_large: bool,
}

/// What happened that is counted elsewhere, since it was last asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Streams that were refused, because too many are open.
    pub refused: u32,
    /// Streams that were reset before they were accepted.
    pub retracted: u32,
    /// Streams that we reset for a fault of the other end while nobody served them, who would tell.
    pub malformed: u32,
    /// The fault of the other end that ended the connection.
    pub violated: Option<Reason>,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    config: Config,
    pub(super) out: Vec<u8>,
    driver: Option<Waker>,
    decoder: Decoder,
    /// Boxed: the table is filled and emptied all the time, and a stream is large.
    streams: HashMap<u32, Box<Stream>, BuildHasherDefault<Numbers>>,
    /// Not closed yet, as §5.1.2 counts them.
    open: u32,
    accepted: VecDeque<Accepted>,
    pub(super) seen: Seen,
    /// Start of a frame that has not come to its end.
    partial: Vec<u8>,
    data: Option<receive::Data>,
    block: Option<blocks::Block>,
    window: Ahead,
    growth: Growth,
    share: Share,
    /// There is no more window for it, nor was at the last look.
    hungry: bool,
    looks: room::Looks,
    may_send: Sending,
    peer: Peer,
    /// Last stream that the other end opened.
    last: u32,
    /// Next stream that we open.
    next: u32,
    /// Blocks were sent before.
    said_no_table: bool,
    /// Wait for room, or for the connection's window.
    blocked: VecDeque<u32>,
    /// Bytes of bodies that were sent, and, while others wait for them to leave, that left: what tells that the other end takes some.
    passed: u64,
    /// Wait until a stream may be opened.
    openers: Vec<Waker>,
    /// Reset by us.
    resets: VecDeque<u32>,
    /// More of them than are kept.
    forgotten: bool,
    faults: u32,
    /// The other end takes no streams past this one.
    gone: Option<u32>,
    drain: Drain,
    /// Nothing is received any more; the rest of `out` is to be sent.
    ended: bool,
    /// Those who open streams.
    pub(super) senders: u32,
    /// Streams that are about to be opened.
    pub(super) seats: u32,
    /// Something came, since this was last looked at.
    pub(super) heard: bool,
}

/// What the other end has said of itself.
#[derive(Clone, Copy, Debug)]
struct Peer {
    window: u32,
    payload: usize,
    /// Streams that it takes at a time; any number if it does not say.
    streams: Option<u32>,
    /// Whether it takes an extended CONNECT; not known before its first settings.
    connects: Option<bool>,
}

/// How far a server's end has come (§6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    Not,
    /// Said, and asked for an answer, before which streams may still come.
    Asked,
    /// No streams are taken past the last one.
    Done,
}

/// Numbers of streams are their own hash, nearly: few are open at a time, and the other end gains nothing by choosing them.
#[derive(Debug, Default)]
struct Numbers(u64);

impl Hasher for Numbers {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

impl Connection {
    /// At its beginning: a client's first bytes, and what is said of `config`, are to be sent. A server's begins after
    /// [`PREFACE`].
    #[must_use]
    pub fn new(role: Role, config: Config) -> Self {
        let mut out = Vec::new();
        let field_list = u32::try_from(config.field_list).unwrap_or(u32::MAX);
        let mut settings =
            vec![(setting::INITIAL_WINDOW_SIZE, config.stream_window), (setting::MAX_HEADER_LIST_SIZE, field_list)];
        match role {
            Role::Client => {
                out.extend_from_slice(PREFACE);
                settings.push((setting::ENABLE_PUSH, 0));
            }
            Role::Server => {
                settings.push((setting::MAX_CONCURRENT_STREAMS, config.streams));
                if config.connects {
                    settings.push((setting::ENABLE_CONNECT_PROTOCOL, 1));
                }
            }
        }
        frame::settings(&mut out, &settings);
        Self {
            role,
            config,
            out,
            driver: None,
            decoder: Decoder::default(),
            streams: HashMap::default(),
            open: 0,
            accepted: VecDeque::new(),
            seen: Seen::default(),
            partial: Vec::new(),
            data: None,
            block: None,
            window: Ahead::new(config.window),
            growth: Growth::new(config.growth),
            share: Share::new(Account::ours()),
            hungry: false,
            looks: room::Looks::default(),
            may_send: Sending::new(DEFAULT_WINDOW),
            peer: Peer { window: DEFAULT_WINDOW, payload: frame::MAX_PAYLOAD, streams: None, connects: None },
            last: 0,
            next: 1,
            said_no_table: false,
            blocked: VecDeque::new(),
            passed: 0,
            openers: Vec::new(),
            resets: VecDeque::new(),
            forgotten: false,
            faults: 0,
            gone: None,
            drain: Drain::Not,
            ended: false,
            senders: 0,
            seats: 0,
            heard: false,
        }
    }

    /// The next request that came.
    pub fn accept(&mut self) -> Option<Accepted> {
        self.accepted.pop_front()
    }

    /// What is to be sent.
    #[must_use]
    pub fn waiting(&self) -> &[u8] {
        &self.out
    }

    /// Whether so much waits to be sent that nothing more should be read.
    #[must_use]
    pub fn congested(&self) -> bool {
        self.out.len() >= CONGESTED
    }

    /// Which end this is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether nothing is received any more; see [`Connection::ending`].
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Whether nothing more will be received or sent, once `out` is sent.
    pub fn ending(&mut self) -> bool {
        if self.ended {
            return true;
        }
        let idle = self.streams.is_empty() && self.accepted.is_empty();
        let over = match self.role {
            Role::Client => self.senders == 0 || self.gone.is_some(),
            Role::Server => self.drain == Drain::Done,
        };
        if idle && over {
            if self.role == Role::Client {
                frame::go_away(&mut self.out, 0, Reason::NO_ERROR);
            }
            self.ended = true;
        }
        self.ended
    }

    /// Who is woken when there is something to send; `None` while it looks by itself.
    pub fn driven_by(&mut self, waker: Option<Waker>) {
        self.driver = waker;
    }

    pub(super) fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// So many bytes of `out` left.
    pub fn left(&mut self, bytes: usize) {
        if self.out.len() >= ROOM {
            self.passed += bytes as u64;
        }
    }

    /// All of `out` was sent: those who waited for room go on.
    pub fn flushed(&mut self) {
        // An idle connection holds no memory for what may never come.
        self.out = Vec::new();
        self.unblock();
    }

    fn unblock(&mut self) {
        for number in std::mem::take(&mut self.blocked) {
            if let Some(stream) = self.streams.get_mut(&number) {
                stream.blocked = false;
                stream.wake(Half::Writing);
            }
        }
    }

    /// The socket is gone.
    pub fn disconnect(&mut self) {
        self.ended = true;
        self.out = Vec::new();
        self.partial = Vec::new();
        (self.data, self.block) = (None, None);
        self.accepted.clear();
        self.hungry = false;
        self.count_waiting();
        self.fail_streams(|_| Some(Error::Closed));
    }

    /// Ends the connection for `reason`, which the other end is told.
    pub fn end(&mut self, reason: Reason) {
        if self.ended {
            return;
        }
        frame::go_away(&mut self.out, self.last, reason);
        self.ended = true;
        self.accepted.clear();
        let error = match self.role {
            Role::Server => Error::Fault(reason),
            // Who has not even said its settings does not speak HTTP/2.
            Role::Client if self.peer.connects.is_none() => Error::Fault(reason),
            // A stream is not to blame for what another one, or none, has done.
            Role::Client => Error::Closed,
        };
        self.fail_streams(|_| Some(error));
        self.wake_driver();
    }
}
