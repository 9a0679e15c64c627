//! What a route says of the connections to its endpoints: Istio's `connectionPool`, compiled. Opening, keeping and closing
//! them is the sockets' affair.

use std::time::Duration;

use proxy_api::v1beta1 as api;

/// Idle time after which an HTTP/1.1 connection is closed, where the route does not say: below the 5 s after which Node's
/// servers close theirs.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Connections of one route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Time without a request after which a connection is closed; none: [`IDLE_TIMEOUT`] for HTTP/1.1, and HTTP/2
    /// connections stay.
    pub idle_timeout: Option<Duration>,
    /// Probes on silent connections.
    pub keepalive: Keepalive,
    /// Connections of HTTP/1.1 and TCP to an arm at a time, idle ones included; none: any number.
    pub max_connections: Option<u32>,
    /// Requests that may wait for one of them.
    pub max_pending: u32,
    /// Requests under way at an arm; none: any number.
    pub max_requests: Option<u32>,
    /// Requests over one connection, after which it is closed; none: any number.
    pub max_requests_per_connection: Option<u32>,
}

/// Requests that may wait for a connection, where the route does not say: Envoy's.
pub const DEFAULT_MAX_PENDING: u32 = 1024;

impl Default for Pool {
    fn default() -> Self {
        Self {
            idle_timeout: None,
            keepalive: Keepalive::default(),
            max_connections: None,
            max_pending: DEFAULT_MAX_PENDING,
            max_requests: None,
            max_requests_per_connection: None,
        }
    }
}

/// Probes on silent connections, of both neighbours of the proxy where nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first one; whole seconds.
    pub time: Duration,
    /// Between two; whole seconds.
    pub interval: Duration,
    /// Without an answer, after which the connection ends.
    pub probes: u32,
}

impl Default for Keepalive {
    /// Notices within 90 s that the other end is gone without a word.
    fn default() -> Self {
        Self { time: Duration::from_secs(60), interval: Duration::from_secs(10), probes: 3 }
    }
}

impl Pool {
    /// Whether anything is counted over the whole arm.
    #[must_use]
    pub fn limited(&self) -> bool {
        self.max_connections.is_some() || self.max_requests.is_some()
    }

    /// What the message says, with defaults for what it does not.
    #[must_use]
    pub fn compile(pool: &api::ConnectionPool) -> Self {
        let millis = |value: u64| (value != 0).then(|| Duration::from_millis(value));
        let number = |value: u32| (value != 0).then_some(value);
        Self {
            idle_timeout: millis(pool.idle_timeout_ms),
            keepalive: pool.tcp_keepalive.as_ref().map(Keepalive::compile).unwrap_or_default(),
            max_connections: number(pool.max_connections),
            max_pending: number(pool.max_pending_requests).unwrap_or(DEFAULT_MAX_PENDING),
            max_requests: number(pool.max_requests),
            max_requests_per_connection: number(pool.max_requests_per_connection),
        }
    }
}

impl Keepalive {
    fn compile(asked: &api::TcpKeepalive) -> Self {
        let default = Self::default();
        let seconds = |asked: u32, default| if asked == 0 { default } else { Duration::from_secs(asked.into()) };
        Self {
            time: seconds(asked.time_seconds, default.time),
            interval: seconds(asked.interval_seconds, default.interval),
            probes: if asked.probes == 0 { default.probes } else { asked.probes },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_has_its_default() {
        assert_eq!(Pool::compile(&api::ConnectionPool::default()), Pool::default());
        let keepalive = api::TcpKeepalive { interval_seconds: 2, ..Default::default() };
        let pool = api::ConnectionPool {
            tcp_keepalive: Some(keepalive),
            idle_timeout_ms: 1_500,
            max_connections: 7,
            ..Default::default()
        };
        let keepalive = Keepalive { interval: Duration::from_secs(2), ..Keepalive::default() };
        let wanted = Pool {
            idle_timeout: Some(Duration::from_millis(1_500)),
            keepalive,
            max_connections: Some(7),
            ..Pool::default()
        };
        assert_eq!(Pool::compile(&pool), wanted);
        assert!(wanted.limited() && !Pool::default().limited());
    }
}
