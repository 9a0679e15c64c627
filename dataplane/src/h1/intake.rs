//! Reads of a body, and whose turn it is. Who moves a large body has more room from read to read, and lets the other
//! connections of its worker go first in between, however fast its bytes come and go.

use std::io;

use bytes::{BufMut as _, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::tcp::ReadHalf;
use tokio::task::yield_now;

/// Room for the first read, in bytes.
pub const SMALL: usize = 8 * 1024;
/// Most room for one read, in bytes. To copy so many in and out takes some 0.05 ms, which is the turn of one connection.
const LARGE: usize = 128 * 1024;
/// By what the room grows when a read has filled it.
const GROWTH: usize = 4;

/// How a body was read so far.
#[derive(Debug)]
pub struct Intake {
    room: usize,
    /// Bytes of this turn, and how many it has.
    moved: usize,
    turn: usize,
}

impl Default for Intake {
    fn default() -> Self {
        Self { room: SMALL, moved: 0, turn: SMALL }
    }
}

impl Intake {
    /// Reads more into `buffer`, of which `left` bytes at most are to come; 0 at the end. Others have their turn before, as
    /// soon as a turn's bytes were moved: at the start of a body soon, so that an answer that comes early is seen early. May be
    /// dropped at any time.
    ///
    /// # Errors
    /// When the socket cannot be read.
    pub async fn read(&mut self, from: &mut ReadHalf<'_>, buffer: &mut BytesMut, left: usize) -> io::Result<usize> {
        if self.moved >= self.turn {
            (self.moved, self.turn) = (0, self.room);
            yield_now().await;
        }
        let room = self.room.min(left.max(SMALL));
        buffer.reserve(room);
        let count = from.read_buf(&mut (&mut *buffer).limit(room)).await?;
        self.moved += count;
        // A read that filled its room says that there is more.
        if count >= room {
            self.room = (room * GROWTH).min(LARGE);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn others_go_first_in_between() {
        const BODY: usize = 120 * 1024;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        client.write_all(&[0; BODY]).await.unwrap();
        stream.readable().await.unwrap();
        let (others, done) = (Cell::new(0), Cell::new(false));
        let body = async {
            let (mut from, _to) = stream.split();
            let (mut intake, mut buffer) = (Intake::default(), BytesMut::new());
            while buffer.len() < BODY {
                let left = BODY - buffer.len();
                assert_ne!(intake.read(&mut from, &mut buffer, left).await.unwrap(), 0);
            }
            done.set(true);
        };
        let other = async {
            while !done.get() {
                others.set(others.get() + 1);
                yield_now().await;
            }
        };
        tokio::join!(body, other);
        // After 8 KiB, and after 32 more.
        assert!(others.get() >= 2, "{} turns", others.get());
    }
}
