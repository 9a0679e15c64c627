//! Bytes in both directions, without looking at them: TCP ports, and what follows a protocol switch.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use routing::balance::{Balance, HashKey, hash};
use routing::{Arm, Flag};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::record::Record;
use crate::upstream::{Busy, DialError, Plain, Upstream};
use crate::view::{ArmView, Slot};
use crate::worker::Worker;

/// Buffer per direction.
const BUFFER: usize = 16 * 1024;
/// Endpoints of one arm that are tried for one connection.
const MAX_ENDPOINTS: usize = 3;

/// Serves one connection of a TCP port. On a split port a connection counts as one request, which has succeeded when an
/// endpoint is connected.
pub async fn serve(worker: &Worker, slot: &Slot, mut client: TcpStream, source: IpAddr) {
    let view = slot.current();
    let route = &view.port.route;
    let arm = if view.port.split { route.pick() } else { Arm::Stable };
    // Of what can be hashed, a connection has its address.
    let by_source = route.balance.as_deref().and_then(Balance::hash_key) == Some(&HashKey::SourceIp);
    let key = by_source.then(|| hash::client(source));
    let mut record = view.port.split.then(|| Record::begin(&view.arm(arm).cell, route.counter));
    let mut endpoint = reach(worker, view.arm(arm), key, route.connect_timeout).await;
    if matches!(endpoint, Err(Unreached::Nobody)) {
        if let Some(record) = &mut record {
            record.no_endpoint();
            let none = view.arm(arm).endpoints.is_empty();
            record.flag(if none { Flag::NoHealthyUpstream } else { Flag::UpstreamConnectionFailure });
        }
        if arm == Arm::Canary {
            endpoint = reach(worker, &view.stable, key, route.connect_timeout).await;
        }
    }
    drop(view);
    if let Some(mut record) = record {
        match &endpoint {
            Ok(_) => record.complete(),
            Err(reason) => {
                if *reason == Unreached::Overflow {
                    record.flag(Flag::UpstreamOverflow);
                }
                record.broken();
            }
        }
    }
    let Ok((mut endpoint, _busy)) = endpoint else { return };
    both(&mut client, &mut endpoint.stream).await;
}

/// Why a connection leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unreached {
    /// No endpoint took it.
    Nobody,
    /// The arm has as many as it may have; none was asked.
    Overflow,
}

async fn reach(
    worker: &Worker,
    arm: &ArmView,
    key: Option<u64>,
    timeout: Duration,
) -> Result<(Plain, Busy), Unreached> {
    let mut tried: Vec<SocketAddr> = Vec::new();
    while tried.len() < MAX_ENDPOINTS {
        let endpoints = &arm.endpoints;
        let clock = || worker.registry().now();
        let choose = |excluded: &dyn Fn(&Upstream) -> bool| {
            let excluded = |i: usize| excluded(&endpoints[i]);
            arm.choose(worker.random(), key, excluded, clock)
        };
        let unreachable = |upstream: &Upstream| tried.contains(&upstream.address());
        let picked = match &arm.ward {
            None => choose(&unreachable),
            Some(_) => {
                choose(&|upstream| unreachable(upstream) || upstream.ejected(clock)).or_else(|| choose(&unreachable))
            }
        };
        let Some(picked) = picked else { break };
        let upstream = &endpoints[picked];
        let address = upstream.address();
        let busy = upstream.busy();
        let dialled = upstream.dial_plain(timeout).await;
        if matches!(dialled, Err(DialError::Overflow)) {
            return Err(Unreached::Overflow);
        }
        if let (Some(ward), Some(health)) = (&arm.ward, upstream.health()) {
            ward.answer(&health, if dialled.is_ok() { 200 } else { 503 }, clock());
        }
        match dialled {
            Ok(endpoint) => return Ok((endpoint, busy)),
            Err(error) => {
                tracing::debug!(server.address = %address, error = %crate::telemetry::Chain(&error), "endpoint not reached");
            }
        }
        tried.push(address);
    }
    Err(Unreached::Nobody)
}

/// Copies until both sides have closed, or one has failed. A half-closed side goes on receiving.
pub async fn both<A, B>(a: &mut A, b: &mut B)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    if let Err(error) = tokio::io::copy_bidirectional_with_sizes(a, b, BUFFER, BUFFER).await {
        tracing::trace!(%error, "spliced connection broke off");
    }
}
