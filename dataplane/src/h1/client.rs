//! HTTP/1.1 to endpoints for those who ask in `http`'s types: clients that speak HTTP/2, and copies. Heads and bodies are judged as
//! strictly as those that are relayed.
//!
//! No task of its own: who waits for the head sends the request's body meanwhile ([`sending`]), and who reads the answer what is
//! left of it then ([`reply`]). The head of either side is in [`head`].

mod head;
pub mod reply;
mod sending;

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, BytesMut};
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use self::reply::Reply;
use self::sending::{Sending, Stopped};
use crate::body::{Incoming, RequestBody};
use crate::error::ProxyError;
use crate::h1::intake::SMALL;
use crate::h1::request::Facts;
use crate::h1::response;
use crate::h1::text::HeadScan;
use crate::interim::{Interims, MAX_INTERIM};
use crate::patience::UploadFault;
use crate::upstream::{Plain, SendError, Upstream};

/// Bytes of most heads of requests.
const HEAD: usize = 512;
/// Room for one read of a body that turned out to be large; of a head, and before that, it is [`SMALL`].
const LARGE: usize = 64 * 1024;

/// Sends a request over `endpoint`, which goes back to `upstream` when its answer has ended, and waits for the head of that, of which
/// `interims` gets what comes before it.
///
/// # Errors
/// With the request inside if none of it was sent.
pub async fn send(
    mut endpoint: Plain,
    upstream: &Rc<Upstream>,
    request: Request<RequestBody>,
    interims: Option<&Interims>,
) -> Result<Response<Incoming>, SendError> {
    let mut out = Vec::with_capacity(HEAD);
    let facts = head::write(&request, &mut out);
    let sent = match endpoint.stream.write(&out).await {
        Ok(sent) => sent,
        // Not a byte of it was taken.
        Err(_) => return Err(SendError::Unsent(Box::new(request))),
    };
    let rest = endpoint.stream.write_all(&out[sent..]).await;
    rest.map_err(|_| SendError::Failed(ProxyError::Reset))?;
    let mut exchange = Exchange {
        endpoint,
        received: BytesMut::new(),
        room: SMALL,
        sending: Sending::of(request.into_body(), facts.framing).map(Box::new),
        cut: false,
    };
    let mut awaited = Awaited { facts, scan: HeadScan::default(), heard: 0 };
    let opened = poll_fn(|context| exchange.poll_head(context, &mut awaited, interims)).await;
    let Opened { head, framing, keep_alive } = opened.map_err(SendError::Failed)?;
    let upstream = Rc::clone(upstream);
    let reply = if head.status() == StatusCode::SWITCHING_PROTOCOLS {
        Reply::switched(exchange, upstream)
    } else {
        Reply::new(exchange, framing, keep_alive, upstream)
    };
    Ok(head.map(|()| Incoming::Http1(Box::new(reply))))
}

/// A request and its answer on one connection.
#[derive(Debug)]
struct Exchange {
    endpoint: Plain,
    /// Came, and was not taken.
    received: BytesMut,
    /// For the next read.
    room: usize,
    /// What is still to be sent of the request's body.
    sending: Option<Box<Sending>>,
    /// The endpoint took less than all of it.
    cut: bool,
}

/// How far the wait for a head is.
struct Awaited {
    facts: Facts,
    scan: HeadScan,
    /// Interim answers that came.
    heard: u32,
}

/// A final head.
struct Opened {
    head: Response<()>,
    framing: response::Framing,
    keep_alive: bool,
}

impl Exchange {
    /// Sends what can be sent of the request's body.
    fn send(&mut self, context: &mut Context<'_>) -> Result<(), UploadFault> {
        let Some(sending) = &mut self.sending else { return Ok(()) };
        match sending.poll(context, &mut self.endpoint.stream) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => {}
            // Its answer may be there all the same.
            Poll::Ready(Err(Stopped::Endpoint)) => self.cut = true,
            Poll::Ready(Err(Stopped::Client(fault))) => return Err(fault),
        }
        self.sending = None;
        Ok(())
    }

    /// Reads more of the answer, with room for `most`; how much, 0 at its end.
    fn poll_read(&mut self, context: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        self.room = self.room.min(most);
        self.received.reserve(self.room);
        let mut buffer = (&mut self.received).limit(self.room);
        let count = ready!(pin!(self.endpoint.stream.read_buf(&mut buffer)).poll(context))?;
        // A read that filled its room says that there is more.
        if count >= self.room {
            self.room *= 4;
        }
        Poll::Ready(Ok(count))
    }

    fn poll_head(
        &mut self,
        context: &mut Context<'_>,
        awaited: &mut Awaited,
        interims: Option<&Interims>,
    ) -> Poll<Result<Opened, ProxyError>> {
        self.send(context).map_err(|fault| match fault {
            UploadFault::Broken => ProxyError::ClientGone,
            UploadFault::Slow => ProxyError::TooSlow,
        })?;
        loop {
            match awaited.scan.advance(&self.received) {
                Ok(Some(length)) if length <= response::MAX_HEAD => {
                    let opened = awaited.open(&self.received[..length])?;
                    self.received.advance(length);
                    let status = opened.head.status();
                    if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                        return Poll::Ready(Ok(opened));
                    }
                    awaited.interim()?;
                    if let Some(interims) = interims {
                        interims.pass(opened.head);
                    }
                    continue;
                }
                Ok(None) if self.received.len() <= response::MAX_HEAD => {}
                Ok(_) | Err(_) => return Poll::Ready(Err(ProxyError::BadAnswer)),
            }
            match ready!(self.poll_read(context, SMALL)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(ProxyError::Reset)),
                Ok(_) => {}
            }
        }
    }
}

impl Awaited {
    fn open(&self, bytes: &[u8]) -> Result<Opened, ProxyError> {
        let mut room = response::room();
        let parsed = response::parse(bytes, &mut room, &self.facts).map_err(|_| ProxyError::BadAnswer)?;
        // Nobody has asked for it.
        if parsed.status == 101 && !self.facts.websocket {
            return Err(ProxyError::BadAnswer);
        }
        let head = head::translated(&parsed).ok_or(ProxyError::BadAnswer)?;
        Ok(Opened { head, framing: parsed.framing, keep_alive: parsed.keep_alive })
    }

    /// One more came; an endpoint that sends too many is not going to answer.
    fn interim(&mut self) -> Result<(), ProxyError> {
        self.scan = HeadScan::default();
        self.heard += 1;
        if self.heard > MAX_INTERIM { Err(ProxyError::BadAnswer) } else { Ok(()) }
    }
}
