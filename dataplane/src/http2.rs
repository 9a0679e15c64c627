//! HTTP/2 on crate `h2` itself, on both sides: one task per stream, in which the endpoint's half is awaited too, and one per
//! connection, which alone reads and writes. [`server`] accepts, [`client`] sends to endpoints, [`body`] passes frames on with
//! their flow control. Which request goes where is decided in `proxy`, as for every request.

pub mod body;
pub mod client;
pub mod refusals;
mod resets;
pub mod server;

use std::time::Duration;

use h2::{Ping, PingPong};

use crate::cork::Cork;

/// Silence after which the other end is asked whether it is there, in steps of [`STEP`]: 20 to 30 s.
const QUIET_STEPS: u32 = 2;
const STEP: Duration = Duration::from_secs(10);
/// Time for its answer.
const PONG: Duration = Duration::from_secs(10);

/// Waits until the other end of `cork` has been silent for too long and does not answer a ping; it is not asked while it
/// need not be `wanted`. A timer every few seconds, so that frames cost nothing but a flag.
async fn silent(cork: &Cork, wanted: impl Fn() -> bool, pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    let mut quiet = 0;
    loop {
        tokio::time::sleep(STEP).await;
        quiet = if cork.heard() || !wanted() { 0 } else { quiet + 1 };
        if quiet < QUIET_STEPS {
            continue;
        }
        match tokio::time::timeout(PONG, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => quiet = 0,
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
