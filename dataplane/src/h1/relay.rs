//! One client connection, request after request: heads are read and what cannot be served is refused here; what becomes
//! of a request is in [`exchange`] (which arm, its record, its end), how an endpoint serves it in [`attempt`]. Where endpoints speak
//! HTTP/2, requests go through [`translate`] instead.

mod attempt;
mod exchange;
mod translate;

use std::cell::Cell;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::StatusCode;
use routing::{Flag, Limit, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::h1::answer;
use crate::h1::intake::Intake;
use crate::h1::request::{self, Facts, Framing, Reject};
use crate::h1::text::HeadScan;
use crate::mirror::Copy;
use crate::record::cut;
use crate::sight::refused::Refused;
use crate::splice;
use crate::upstream::Plain;
use crate::view::Slot;
use crate::watch::{Stage, Watch};
use crate::worker::{Phase, Worker};

/// Seconds between two requests: longer than the 90 s after which Go's clients close idle connections, so that they and
/// not we close them.
const IDLE_SECONDS: u64 = 120;
/// Seconds for a head, from its first byte.
const HEAD_SECONDS: u64 = 10;
/// First room of a connection's read buffer: most heads fit.
const ROOM: usize = 4 * 1024;
/// What is read and thrown away of a client that goes on sending after its connection was given up, and how long.
const LINGER_BYTES: u64 = 256 * 1024;
const LINGER: Duration = Duration::from_secs(1);
/// Time for a client that has more to send than that to read the answer, before its connection is reset under it.
const MOMENT: Duration = Duration::from_millis(100);

/// Serves a client that speaks HTTP/1, of which `start` was read already.
pub async fn serve(worker: &Worker, slot: &Slot, stream: TcpStream, start: &[u8], client: IpAddr) {
    let watch = worker.watches().watch(worker.registry().limits().patience());
    let mut connection = Connection {
        worker,
        slot,
        watch: &watch,
        source: client,
        client: client.to_string(),
        stream,
        buffer: BytesMut::from(start),
        out: Vec::new(),
        scratch: Vec::new(),
        added: Vec::new(),
        copy: None,
        answered: Cell::new(false),
    };
    let ended = {
        let mut run = pin!(Some(connection.run()));
        let ended = watch.guard(run.as_mut().as_pin_mut().expect("it is dropped after this")).await;
        if ended.is_none() {
            // If there is a request, it ends for the client's slowness.
            cut(Flag::StreamIdleTimeout, || run.set(None));
        }
        ended
    };
    if ended.is_none() && watch.stage() == Stage::Head {
        // One attempt: the watch has done its work, and a client that reads as slowly as it writes is not waited for.
        connection.tell_rejected(StatusCode::REQUEST_TIMEOUT, Flag::StreamIdleTimeout);
        let mut answer = Vec::new();
        answer::own(&mut answer, StatusCode::REQUEST_TIMEOUT, "request head took too long", true, false);
        let _ = connection.stream.try_write(&answer);
    }
}

struct Connection<'a> {
    worker: &'a Worker,
    slot: &'a Slot,
    watch: &'a Watch,
    source: IpAddr,
    /// The same in writing.
    client: String,
    stream: TcpStream,
    /// Read from the client and not used yet.
    buffer: BytesMut,
    /// The request as the endpoint gets it, for as long as it may have to be sent again.
    out: Vec<u8>,
    /// Room for what is written to the client.
    scratch: Vec<u8>,
    /// Header lines that the endpoint's answer gets in addition.
    added: Vec<u8>,
    /// Of the request, for the canary, while its body is coming.
    copy: Option<Box<Copy>>,
    /// The head of the answer is on its way: no other answer can be given.
    answered: Cell<bool>,
}

/// What becomes of the client's connection.
enum Next {
    Request,
    /// Closed with care: the client may be sending still.
    Linger,
    /// Closed in a moment: the client has too much to send.
    Moment,
    Close,
}

impl Next {
    /// The same for a client that is to send more than is thrown away.
    fn in_a_moment(self) -> Self {
        match self {
            Self::Linger => Self::Moment,
            Self::Request | Self::Moment | Self::Close => self,
        }
    }
}

impl Connection<'_> {
    async fn run(&mut self) {
        loop {
            let next = match self.read_head().await {
                // Boxed: a task is as large as the largest of what it may become, and most endpoints speak HTTP/1.
                Ok(Some(length)) if self.http2() => Box::pin(self.translate(length)).await,
                Ok(Some(length)) => match self.open(length) {
                    Ok(opened) => Ok(self.exchange(opened).await),
                    Err(reject) => Err(reject),
                },
                Ok(None) => Ok(Next::Close),
                Err(reject) => Err(reject),
            };
            let next = match next {
                Ok(next) => next,
                Err(reject) => self.reject(reject).await,
            };
            match next {
                Next::Request => {}
                Next::Linger => return self.linger().await,
                Next::Moment => return self.moment().await,
                Next::Close => return,
            }
        }
    }

    /// Whether the endpoints speak HTTP/2.
    fn http2(&self) -> bool {
        self.slot.current().port.protocol == Protocol::Http2
    }

    /// Reads until a whole head is in the buffer; `None` if the client is done.
    async fn read_head(&mut self) -> Result<Option<usize>, Reject> {
        let mut scan = HeadScan::default();
        let most = self.worker.registry().limits().header_bytes();
        self.watch.enter(Stage::Idle, IDLE_SECONDS);
        loop {
            if !self.buffer.is_empty() && self.watch.stage() == Stage::Idle {
                self.watch.enter(Stage::Head, HEAD_SECONDS);
            }
            match scan.advance(&self.buffer).map_err(|_| request::BARE_LF)? {
                // An empty line before a request line is skipped (RFC 9112 §2.2).
                Some(2) => {
                    self.buffer.advance(2);
                    scan = HeadScan::default();
                    continue;
                }
                Some(length) if length <= most => return Ok(Some(length)),
                None if self.buffer.len() <= most => {}
                Some(_) | None => return Err(request::TOO_LARGE),
            }
            if self.buffer.is_empty() {
                if self.worker.current_phase() >= Phase::Ending {
                    return Ok(None);
                }
                // An idle connection holds no memory for what may never come.
                self.buffer = BytesMut::new();
                (self.out, self.scratch) = (Vec::new(), Vec::new());
                // Not `readable()`, which keeps a list of those who wait.
                if poll_fn(|context| self.stream.poll_read_ready(context)).await.is_err() {
                    return Ok(None);
                }
            }
            self.buffer.reserve(ROOM);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) => {}
            }
        }
    }

    /// Whether the connection can go on after an answer that is not an endpoint's: no body is left to be read.
    fn may_keep(&self, facts: Facts) -> bool {
        facts.framing == Framing::None && facts.keep_alive && self.worker.current_phase() < Phase::Draining
    }

    /// Sends the answer of the proxy's own that is in `out`.
    async fn say(&mut self, keep: bool) -> Next {
        let (_, mut to) = self.stream.split();
        match answer::write(&mut to, self.watch, &self.out).await {
            Ok(()) if keep => Next::Request,
            Ok(()) => Next::Linger,
            Err(_) => Next::Close,
        }
    }

    /// After a 101: bytes both ways, those first that came with the heads.
    async fn tunnel(&mut self, mut endpoint: Plain, rest: &[u8]) {
        self.watch.busy();
        let ahead = std::mem::take(&mut self.buffer);
        if self.stream.write_all(rest).await.is_ok() && endpoint.stream.write_all(&ahead).await.is_ok() {
            splice::both(&mut self.stream, &mut endpoint.stream).await;
        }
    }

    async fn reject(&mut self, reject: Reject) -> Next {
        if reject == request::NOT_HTTP {
            return Next::Linger;
        }
        self.tell_rejected(reject.status, Flag::DownstreamProtocolError);
        match reject {
            request::TOO_LARGE => self.worker.registry().limits().reach(Limit::HeaderBytes),
            request::TOO_MANY => self.worker.registry().limits().reach(Limit::Headers),
            _ => {}
        }
        self.refuse(reject.status, reject.reason).await
    }

    /// Counts a request of which the proxy does not know what it asks for.
    fn tell_rejected(&self, status: StatusCode, flag: Flag) {
        let (view, status) = (self.slot.current(), status.as_u16());
        let refused = Refused { port: &view.port, client: self.source, asked: None, status, flag: Some(flag) };
        self.worker.reject(refused);
    }

    /// Answers a request that cannot be read; where the next one would begin is not known.
    async fn refuse(&mut self, status: StatusCode, reason: &str) -> Next {
        self.out.clear();
        answer::own(&mut self.out, status, reason, true, false);
        self.say(false).await
    }

    /// Closes without a reset, which could destroy the answer before the client has read it (RFC 9112 §9.6).
    async fn linger(&mut self) {
        self.watch.busy();
        if self.stream.shutdown().await.is_err() {
            return;
        }
        let drained = async {
            let (mut left, mut intake) = (LINGER_BYTES, Intake::default());
            let (mut from, _to) = self.stream.split();
            self.buffer.clear();
            while let Ok(count @ 1..) = intake.read(&mut from, &mut self.buffer, usize::MAX).await {
                self.buffer.clear();
                left = left.saturating_sub(count as u64);
                if left == 0 {
                    return;
                }
            }
        };
        // Not closed by the client in time: it is closed by us.
        let _ = tokio::time::timeout(LINGER, drained).await;
    }

    /// Closes when the client has had time to read the answer: as it is to send more than [`LINGER_BYTES`], its connection is
    /// reset in any case, and to read what it sends until then would be the worker's time for nothing.
    async fn moment(&mut self) {
        self.watch.busy();
        (self.buffer, self.out, self.scratch) = (BytesMut::new(), Vec::new(), Vec::new());
        if self.stream.shutdown().await.is_ok() {
            tokio::time::sleep(MOMENT).await;
        }
    }
}
