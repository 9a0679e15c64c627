//! A client of the application's second port: sends a line, expects it back, on one connection that it keeps.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

/// Between two echoes.
const PACE: Duration = Duration::from_millis(50);
/// Without an echo for so long, it is missing.
const LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Counts {
    rounds: AtomicU64,
    broken: AtomicU64,
}

/// A client that runs until it is stopped. When its connection ends it opens a new one and sends the line again, as
/// clients of such protocols do; an echo counts as broken when that fails too.
#[derive(Debug)]
pub struct Probe {
    counts: Arc<Counts>,
    _task: AbortOnDropHandle<()>,
}

impl Probe {
    /// Starts it.
    #[must_use]
    pub fn start(address: SocketAddr) -> Self {
        let counts = Arc::new(Counts::default());
        let shared = counts.clone();
        let task = tokio::spawn(async move {
            let mut stream = None;
            let mut tick = tokio::time::interval(PACE);
            loop {
                tick.tick().await;
                match tokio::time::timeout(LIMIT, echo(address, &mut stream)).await {
                    Ok(Ok(())) => shared.rounds.fetch_add(1, Ordering::Relaxed),
                    Ok(Err(_)) | Err(_) => {
                        stream = None;
                        shared.broken.fetch_add(1, Ordering::Relaxed)
                    }
                };
            }
        });
        Self { counts, _task: AbortOnDropHandle::new(task) }
    }

    /// Waits for so many more echoes.
    ///
    /// # Errors
    /// When one is broken meanwhile, or they take more than half a minute.
    pub async fn rounds(&mut self, more: u64) -> Result<()> {
        let wanted = self.counts.rounds.load(Ordering::Relaxed) + more;
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut tick = tokio::time::interval(PACE);
        while self.counts.rounds.load(Ordering::Relaxed) < wanted {
            let broken = self.counts.broken.load(Ordering::Relaxed);
            ensure!(broken == 0, "{broken} echoes failed");
            ensure!(Instant::now() < deadline, "the echoes have stopped");
            tick.tick().await;
        }
        Ok(())
    }

    /// Ends it: echoes, and failed ones.
    pub async fn stop(self) -> (u64, u64) {
        (self.counts.rounds.load(Ordering::Relaxed), self.counts.broken.load(Ordering::Relaxed))
    }
}

async fn echo(address: SocketAddr, kept: &mut Option<TcpStream>) -> std::io::Result<()> {
    if let Some(stream) = kept.take().filter(is_open)
        && let Ok(stream) = round(stream).await
    {
        *kept = Some(stream);
        return Ok(());
    }
    *kept = Some(round(TcpStream::connect(address).await?).await?);
    Ok(())
}

async fn round(mut stream: TcpStream) -> std::io::Result<TcpStream> {
    stream.write_all(b"sluice").await?;
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).await?;
    if &answer != b"sluice" {
        return Err(std::io::Error::other("another answer"));
    }
    Ok(stream)
}

/// Whether the other side has not closed it: there is nothing to read, not even the end.
fn is_open(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0; 1]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}
