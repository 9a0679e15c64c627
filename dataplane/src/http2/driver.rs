//! Moves bytes between a socket and a connection: one read for as many frames as have come, one write for as many as are to
//! be sent, when the tasks of the streams have had their turn. The room to read into is the thread's.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

use super::connection::Role;
use super::link::Link;

/// Bytes of one read.
const READ: usize = 64 * 1024;
/// Reads before other connections have their turn.
const READS: usize = 8;
/// Silence after which the other end is asked whether it is there, in steps of [`STEP`]: 20 to 30 s.
const QUIET_STEPS: u32 = 2;
const STEP: Duration = Duration::from_secs(10);
/// Time for its answer.
const PONG: Duration = Duration::from_secs(10);
/// What is read and thrown away of a client after the end of its connection.
const LINGER_BYTES: usize = 256 * 1024;

thread_local! {
    /// Nothing is kept in it between two reads.
    static ROOM: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// Reads and writes for one connection.
#[derive(Debug)]
pub struct Driver {
    stream: TcpStream,
    link: Link,
    sent: usize,
    /// What may still be thrown away, once all is said.
    lingers: Option<usize>,
}

impl Driver {
    /// Of a connection at its beginning.
    #[must_use]
    pub fn new(stream: TcpStream, link: Link) -> Self {
        Self { stream, link, sent: 0, lingers: None }
    }

    /// Reads what has come, calling `received` after each read, and sends what is to be sent. Ready at the end of the
    /// connection; [`Driver`] is not to be polled again then.
    pub fn poll(&mut self, context: &mut Context<'_>, mut received: impl FnMut(&Link)) -> Poll<io::Result<()>> {
        // What is sent from here on is looked at below.
        {
            let mut connection = self.link.borrow_mut();
            connection.driven_by(None);
            connection.look_for_room();
        }
        let polled = self.work(context, &mut received);
        match polled {
            Poll::Pending => {
                let mut connection = self.link.borrow_mut();
                connection.count_waiting();
                connection.look_again(context);
                connection.driven_by(Some(context.waker().clone()));
            }
            Poll::Ready(_) => self.link.borrow_mut().disconnect(),
        }
        polled
    }

    fn work(&mut self, context: &mut Context<'_>, received: &mut impl FnMut(&Link)) -> Poll<io::Result<()>> {
        for _ in 0..READS {
            let flushed = self.send(context)?;
            if self.link.borrow_mut().ending() {
                // With what was said last, if anything.
                std::task::ready!(self.send(context)?);
                return self.linger(context);
            }
            if flushed.is_pending() && self.link.borrow().congested() {
                return Poll::Pending;
            }
            match self.read(context)? {
                // What was answered at once.
                Poll::Pending => {
                    let _ = self.send(context)?;
                    return Poll::Pending;
                }
                Poll::Ready(0) => return Poll::Ready(Ok(())),
                Poll::Ready(_) => received(&self.link),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Waits for a client to close, which it does once it has read all that was said: what it still sends would turn our close
    /// into a reset, and what of an answer is in the kernel yet would be lost (RFC 9112 §9.6). [`silent`] limits the time.
    fn linger(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut left = match self.lingers {
            Some(left) => left,
            None => {
                std::task::ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
                if self.link.borrow().role() == Role::Client { 0 } else { LINGER_BYTES }
            }
        };
        while left > 0 {
            self.lingers = Some(left);
            let read = ROOM.with_borrow_mut(|room| {
                let mut buffer = ReadBuf::new(room);
                let polled = Pin::new(&mut self.stream).poll_read(context, &mut buffer);
                polled.map_ok(|()| buffer.filled().len())
            });
            left = match std::task::ready!(read)? {
                0 => 0,
                count => left.saturating_sub(count),
            };
        }
        Poll::Ready(Ok(()))
    }

    fn read(&mut self, context: &mut Context<'_>) -> io::Result<Poll<usize>> {
        ROOM.with_borrow_mut(|room| {
            let mut buffer = ReadBuf::new(room);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Pending => Ok(Poll::Pending),
                Poll::Ready(Err(error)) => Err(error),
                Poll::Ready(Ok(())) => {
                    self.link.borrow_mut().receive(buffer.filled());
                    Ok(Poll::Ready(buffer.filled().len()))
                }
            }
        })
    }

    /// Sends what waits; pending while the socket takes no more.
    fn send(&mut self, context: &mut Context<'_>) -> io::Result<Poll<()>> {
        let mut connection = self.link.borrow_mut();
        if connection.out.is_empty() {
            return Ok(Poll::Ready(()));
        }
        while self.sent < connection.out.len() {
            match Pin::new(&mut self.stream).poll_write(context, &connection.out[self.sent..])? {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(count) => {
                    self.sent += count;
                    connection.left(count);
                }
            }
        }
        self.sent = 0;
        connection.flushed();
        Ok(Poll::Ready(()))
    }
}

/// Waits until the other end has been silent for too long and nothing comes when it is asked; it is not asked while it need
/// not be `wanted`, unless the connection is over and what was said last does not leave. A timer every few seconds, so that
/// frames cost nothing but a flag.
pub async fn silent(link: &Link, wanted: impl Fn() -> bool) {
    let mut quiet = 0;
    loop {
        tokio::time::sleep(STEP).await;
        let heard = std::mem::take(&mut link.borrow_mut().heard);
        let over = link.borrow().ended();
        quiet = if heard || !(over || wanted()) { 0 } else { quiet + 1 };
        if quiet < QUIET_STEPS {
            continue;
        }
        link.borrow_mut().ping();
        tokio::time::sleep(PONG).await;
        // Its answer may wait behind what it has begun to send, which tells as much.
        if !link.borrow().heard {
            return;
        }
        quiet = 0;
    }
}
