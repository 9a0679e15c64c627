//! Gathers what HTTP/2 writes while its connection is polled and sends it in one go afterwards: `h2` writes every DATA
//! frame by itself, and a system call costs more than copying a frame. Used by one task; holds at most [`LIMIT`] and a
//! frame, and nothing at rest.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::http2::refusals::Refusals;

/// Bytes that may wait; then what is written waits for the socket.
const LIMIT: usize = 64 * 1024;
/// First room: the answers to a handful of small requests.
const ROOM: usize = 16 * 1024;

/// A stream whose writes wait until [`Cork::drive`] has polled the connection that makes them.
#[derive(Clone, Debug)]
pub struct Cork(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    stream: RefCell<TcpStream>,
    /// Read before, to be read again.
    start: RefCell<Bytes>,
    waiting: RefCell<Vec<u8>>,
    sent: Cell<usize>,
    failed: Cell<Option<io::ErrorKind>>,
    heard: Cell<bool>,
    /// Of a client's connection.
    refusals: Option<RefCell<Refusals>>,
}

impl Cork {
    /// Of `stream`, of which `start` was read already.
    #[must_use]
    pub fn new(stream: TcpStream, start: Bytes) -> Self {
        Self::with(stream, start, None)
    }

    /// Of a client: what it is refused is counted.
    #[must_use]
    pub fn of_client(stream: TcpStream, start: Bytes) -> Self {
        Self::with(stream, start, Some(RefCell::default()))
    }

    fn with(stream: TcpStream, start: Bytes, refusals: Option<RefCell<Refusals>>) -> Self {
        Self(Rc::new(Inner {
            stream: RefCell::new(stream),
            start: RefCell::new(start),
            waiting: RefCell::default(),
            sent: Cell::new(0),
            failed: Cell::new(None),
            heard: Cell::new(false),
            refusals,
        }))
    }

    /// Streams that were refused since the last call.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.0.refusals.as_ref().map_or(0, |refusals| refusals.borrow_mut().take())
    }

    /// Whether anything was read since the last call.
    #[must_use]
    pub fn heard(&self) -> bool {
        self.0.heard.take()
    }

    /// Runs the connection that writes here, and sends what it has written whenever it rests.
    pub async fn drive<F: Future>(&self, connection: F) -> F::Output {
        let mut connection = pin!(connection);
        poll_fn(|context| {
            let polled = connection.as_mut().poll(context);
            if let Poll::Ready(Err(error)) = self.0.send(context) {
                // The connection is told at its next write or flush.
                self.0.failed.set(Some(error.kind()));
                context.waker().wake_by_ref();
            }
            polled
        })
        .await
    }
}

impl Inner {
    /// Sends what is waiting; pending while the socket takes no more.
    fn send(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut waiting = self.waiting.borrow_mut();
        while self.sent.get() < waiting.len() {
            self.check()?;
            let mut stream = self.stream.borrow_mut();
            let count = ready!(Pin::new(&mut *stream).poll_write(context, &waiting[self.sent.get()..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent.set(self.sent.get() + count);
        }
        // An idle connection holds no memory for what may never come.
        *waiting = Vec::new();
        self.sent.set(0);
        Poll::Ready(Ok(()))
    }

    fn check(&self) -> io::Result<()> {
        self.failed.get().map_or(Ok(()), |kind| Err(kind.into()))
    }

    /// Takes `slices` over, once there is room.
    fn take(&self, context: &mut Context<'_>, slices: &[&[u8]]) -> Poll<io::Result<usize>> {
        self.check()?;
        if self.waiting.borrow().len() >= LIMIT {
            ready!(self.send(context))?;
        }
        let mut waiting = self.waiting.borrow_mut();
        if waiting.capacity() == 0 {
            waiting.reserve(ROOM);
        }
        slices.iter().for_each(|slice| waiting.extend_from_slice(slice));
        if let Some(refusals) = &self.refusals {
            let mut refusals = refusals.borrow_mut();
            slices.iter().for_each(|slice| refusals.pass(slice));
        }
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }
}

impl AsyncRead for Cork {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut start = self.0.start.borrow_mut();
        if start.is_empty() {
            ready!(Pin::new(&mut *self.0.stream.borrow_mut()).poll_read(context, buffer))?;
            self.0.heard.set(true);
            return Poll::Ready(Ok(()));
        }
        let count = start.len().min(buffer.remaining());
        buffer.put_slice(&start[..count]);
        start.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Cork {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.take(context, &[bytes])
    }

    /// What was written is on its way as soon as [`Cork::drive`] has polled the connection.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.send(context))?;
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut parts = [&[][..]; 8];
        for (part, slice) in parts.iter_mut().zip(slices) {
            *part = slice;
        }
        self.0.take(context, &parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (one, other) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (one.unwrap(), other.unwrap().0)
    }

    #[tokio::test]
    async fn what_is_written_in_one_poll_leaves_after_it_and_all_of_it() {
        let (stream, mut peer) = pair().await;
        let cork = Cork::new(stream, Bytes::from_static(b"before"));
        let mut writer = cork.clone();
        let work = async move {
            let mut start = [0; 6];
            writer.read_exact(&mut start).await.unwrap();
            assert_eq!(&start, b"before");
            for _ in 0..200 {
                writer.write_all(&[7; 1000]).await.unwrap();
                writer.flush().await.unwrap();
            }
            assert!(writer.0.waiting.borrow().len() < LIMIT + 1000, "what waits is bounded");
            writer.shutdown().await.unwrap();
        };
        let read = async {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).await.unwrap();
            all
        };
        let ((), all) = tokio::join!(cork.drive(work), read);
        assert_eq!(all.len(), 200_000);
        assert_eq!(cork.0.waiting.borrow().capacity(), 0);
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_is_told_to_the_writer() {
        let (stream, peer) = pair().await;
        socket2::SockRef::from(&peer).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(peer);
        let cork = Cork::new(stream, Bytes::new());
        let mut writer = cork.clone();
        let work = async move {
            loop {
                if let Err(error) = writer.write_all(&[7; 1000]).await {
                    return error;
                }
                tokio::task::yield_now().await;
            }
        };
        let error = tokio::time::timeout(std::time::Duration::from_secs(20), cork.drive(work)).await.unwrap();
        assert!(matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe), "{error}");
    }
}
