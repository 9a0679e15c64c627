//! The limits in force, shared by all workers, and how often each was reached. A change counts from the next connection,
//! request or stream on; nothing that is open is closed for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use http::HeaderMap;
use routing::limits::LIMITS;
use routing::{Limit, Limits};

/// What an entry of a field list counts besides its name and value (RFC 9113 §6.5.2).
const FIELD_OVERHEAD: usize = 32;

/// Time in which a client must send something of a body that is waited for, or take something of an answer.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Time without a stream after which an HTTP/2 connection of a client ends: Envoy's, and longer than the half hour after which
/// gRPC's own channels go idle, so that they and not we close them. One connection serves many requests, and costs a client
/// that keeps it more to open again than one over HTTP/1.1.
pub const IDLE: Duration = Duration::from_secs(60 * 60);

/// Written by the side thread, read by workers: each value is a load from a line that hardly ever changes.
#[derive(Debug)]
pub struct InForce {
    default: Limits,
    /// Connections that the process's open files allow.
    possible: u64,
    connections: AtomicU64,
    port_connections: AtomicU64,
    header_bytes: AtomicUsize,
    headers: AtomicUsize,
    streams: AtomicU32,
    held_bytes: AtomicU64,
    patience_ms: AtomicU64,
    idle_ms: AtomicU64,
    reached: [AtomicU64; LIMITS.len()],
    ports: Mutex<BTreeMap<u16, Weak<PortConnections>>>,
}

/// Connections that are open to one port, on all workers.
#[derive(Debug, Default)]
pub struct PortConnections(AtomicU64);

impl InForce {
    /// `default` from now on, for a process that can hold `possible` connections.
    #[must_use]
    pub fn new(default: Limits, possible: u64) -> Self {
        let limits = Self {
            default,
            possible,
            connections: AtomicU64::new(0),
            port_connections: AtomicU64::new(0),
            header_bytes: AtomicUsize::new(0),
            headers: AtomicUsize::new(0),
            streams: AtomicU32::new(0),
            held_bytes: AtomicU64::new(0),
            patience_ms: AtomicU64::new(0),
            idle_ms: AtomicU64::new(0),
            reached: Default::default(),
            ports: Mutex::default(),
        };
        limits.set(default);
        limits.set_patience(PATIENCE);
        limits.set_idle(IDLE);
        limits
    }

    /// What holds where nothing else is said.
    #[must_use]
    pub fn default(&self) -> Limits {
        self.default
    }

    /// Brings `limits` into force.
    pub fn set(&self, limits: Limits) {
        let Limits { connections, port_connections, header_bytes, headers, streams, held_bytes } = limits;
        if connections > self.possible {
            tracing::warn!(max_connections = self.possible, "fewer connections than asked for: open files");
        }
        self.connections.store(connections.min(self.possible), Relaxed);
        self.port_connections.store(port_connections, Relaxed);
        self.header_bytes.store(header_bytes, Relaxed);
        self.headers.store(headers, Relaxed);
        self.streams.store(streams, Relaxed);
        self.held_bytes.store(held_bytes, Relaxed);
    }

    /// All of them.
    #[must_use]
    pub fn now(&self) -> Limits {
        Limits {
            connections: self.connections.load(Relaxed),
            port_connections: self.port_connections.load(Relaxed),
            header_bytes: self.header_bytes.load(Relaxed),
            headers: self.headers.load(Relaxed),
            streams: self.streams.load(Relaxed),
            held_bytes: self.held_bytes(),
        }
    }

    /// See [`Limits::connections`].
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    /// See [`Limits::header_bytes`].
    #[must_use]
    pub fn header_bytes(&self) -> usize {
        self.header_bytes.load(Relaxed)
    }

    /// See [`Limits::headers`].
    #[must_use]
    pub fn headers(&self) -> usize {
        self.headers.load(Relaxed)
    }

    /// See [`Limits::held_bytes`].
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Relaxed)
    }

    /// [`PATIENCE`], but in tests.
    #[must_use]
    pub fn patience(&self) -> Duration {
        Duration::from_millis(self.patience_ms.load(Relaxed))
    }

    /// Changes [`InForce::patience`] for connections, over HTTP/2 for streams, that come.
    pub fn set_patience(&self, patience: Duration) {
        self.patience_ms.store(patience.as_millis().try_into().unwrap_or(u64::MAX), Relaxed);
    }

    /// [`IDLE`], but in tests.
    #[must_use]
    pub fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms.load(Relaxed))
    }

    /// Changes [`InForce::idle`] for connections that come.
    pub fn set_idle(&self, idle: Duration) {
        self.idle_ms.store(idle.as_millis().try_into().unwrap_or(u64::MAX), Relaxed);
    }

    /// The limit that the head of an HTTP/2 request is past, if any.
    #[must_use]
    pub fn exceeded(&self, target: usize, headers: &HeaderMap) -> Option<Limit> {
        if headers.len() > self.headers() {
            return Some(Limit::Headers);
        }
        let bytes = |(name, value): (&http::HeaderName, &http::HeaderValue)| name.as_str().len() + value.len();
        let size = target + headers.len() * FIELD_OVERHEAD + headers.iter().map(bytes).sum::<usize>();
        (size > self.header_bytes()).then_some(Limit::HeaderBytes)
    }

    /// Counts that `limit` was reached.
    pub fn reach(&self, limit: Limit) {
        self.reached[limit as usize].fetch_add(1, Relaxed);
    }

    /// Counts that `limit` was reached `times` more.
    pub fn reach_often(&self, limit: Limit, times: u64) {
        if times > 0 {
            self.reached[limit as usize].fetch_add(times, Relaxed);
        }
    }

    /// How often `limit` was reached.
    #[must_use]
    pub fn reached(&self, limit: Limit) -> u64 {
        self.reached[limit as usize].load(Relaxed)
    }

    /// The count of `port`, the same for every worker.
    #[must_use]
    pub fn port(&self, port: u16) -> Arc<PortConnections> {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        ports.retain(|_, count| count.strong_count() > 0);
        if let Some(count) = ports.get(&port).and_then(Weak::upgrade) {
            return count;
        }
        let count = Arc::default();
        ports.insert(port, Arc::downgrade(&count));
        count
    }

    /// One more connection to a port; false, and counted, if it has as many as it may have.
    pub(crate) fn enter(&self, port: &PortConnections) -> bool {
        if port.0.fetch_add(1, Relaxed) < self.port_connections.load(Relaxed) {
            return true;
        }
        port.leave();
        self.reach(Limit::PortConnections);
        false
    }
}

impl PortConnections {
    pub(crate) fn leave(&self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_cap_what_is_asked_for() {
        let limits = InForce::new(Limits::default(), 50);
        assert_eq!(limits.connections(), 50);
        limits.set(Limits { connections: 20, ..Limits::default() });
        assert_eq!(limits.connections(), 20);
    }

    #[test]
    fn a_port_is_counted_for_all_workers_until_nobody_has_it() {
        let limits = InForce::new(Limits { port_connections: 1, ..Limits::default() }, 9);
        let (one, other) = (limits.port(80), limits.port(80));
        assert!(limits.enter(&one) && !limits.enter(&other));
        assert_eq!(limits.reached(Limit::PortConnections), 1);
        one.leave();
        assert!(limits.enter(&other));
        drop((one, other));
        assert!(limits.enter(&limits.port(80)), "a port that was closed begins anew");
    }

    #[test]
    fn a_field_list_is_measured_as_http2_does() {
        let mut headers = HeaderMap::new();
        headers.insert("name", http::HeaderValue::from_static("value"));
        let limits = |header_bytes, headers| InForce::new(Limits { header_bytes, headers, ..Limits::default() }, 9);
        assert_eq!(limits(42, 1).exceeded(1, &headers), None);
        assert_eq!(limits(41, 1).exceeded(1, &headers), Some(Limit::HeaderBytes));
        assert_eq!(limits(42, 0).exceeded(1, &headers), Some(Limit::Headers));
    }
}
