//! What clients may take of one proxy, and what is said to one that wants more. Only numbers and names: who counts, and
//! who refuses, is in crate `dataplane`.

use proxy_api::v1beta1 as api;

use crate::Flag;

/// The limits in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections from clients at a time.
    pub connections: u64,
    /// Connections to one port at a time; `u64::MAX`: only `connections` counts.
    pub port_connections: u64,
    /// Bytes of a request's head; over HTTP/2 of its field list (RFC 9113 §6.5.2).
    pub header_bytes: usize,
    /// Fields of a request.
    pub headers: usize,
    /// Streams that are open at a time on one HTTP/2 connection.
    pub streams: u32,
    /// Bytes of HTTP/2 that all connections together leave in the proxy, before each has no more than it needs to get on. Of the
    /// process, which knows its memory: no configuration says it.
    pub held_bytes: u64,
}

/// Most fields that can be allowed: the room for them is on a stack.
pub const MOST_HEADERS: usize = 256;

/// An eighth of what the operator gives a proxy: with what is lent beside it, and small pieces in large ones, still less than half.
pub const HELD_BYTES: u64 = 64 * 1024 * 1024;

impl Default for Limits {
    /// 32 KiB and 100 fields refuse what other servers refuse, too (nginx: 4 buffers of 8 KiB; Apache: 100 fields).
    fn default() -> Self {
        Self {
            connections: 20_000,
            port_connections: u64::MAX,
            header_bytes: 32 * 1024,
            headers: 100,
            streams: 250,
            held_bytes: HELD_BYTES,
        }
    }
}

/// A value that cannot be in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {value}, must be between {least} and {most}")]
pub struct OutOfRange {
    name: &'static str,
    value: u32,
    least: u32,
    most: u32,
}

impl Limits {
    /// What `message` says; where it says nothing, `default` holds.
    ///
    /// # Errors
    /// When a value is out of its range.
    pub fn read(message: &api::Limits, default: Self) -> Result<Self, OutOfRange> {
        let within = |name, value, default: u64, least, most| match value {
            0 => Ok(default),
            value if (least..=most).contains(&value) => Ok(u64::from(value)),
            value => Err(OutOfRange { name, value, least, most }),
        };
        let read = Self {
            connections: within("maxConnections", message.max_connections, default.connections, 1, 1_000_000)?,
            port_connections: within(
                "maxConnectionsPerPort",
                message.max_connections_per_port,
                default.port_connections,
                1,
                1_000_000,
            )?,
            header_bytes: within(
                "maxHeaderBytes",
                message.max_header_bytes,
                default.header_bytes as u64,
                8 * 1024,
                256 * 1024,
            )? as usize,
            headers: within("maxHeaders", message.max_headers, default.headers as u64, 16, MOST_HEADERS as u32)?
                as usize,
            streams: within("maxStreams", message.max_streams, default.streams.into(), 1, 10_000)? as u32,
            held_bytes: default.held_bytes,
        };
        Ok(read)
    }
}

impl Limits {
    /// The value of one of them, `None` if it is not limited.
    #[must_use]
    pub fn value(&self, limit: Limit) -> Option<u64> {
        match limit {
            Limit::Connections => Some(self.connections),
            Limit::PortConnections => Some(self.port_connections).filter(|most| *most < u64::MAX),
            Limit::HeaderBytes => Some(self.header_bytes as u64),
            Limit::Headers => Some(self.headers as u64),
            Limit::Streams => Some(self.streams.into()),
            Limit::Resets => None,
            Limit::Held => Some(self.held_bytes),
        }
    }
}

/// Whether `said` counts where `held` is in force: of one pool, nothing older does. A pool that was made anew begins anew.
#[must_use]
pub fn supersedes(said: &api::Limits, held: Option<&api::Limits>) -> bool {
    held.is_none_or(|held| held.pool != said.pool || held.generation <= said.generation)
}

/// A limit that was reached. The order is that of the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Limit {
    /// [`Limits::connections`].
    Connections,
    /// [`Limits::port_connections`].
    PortConnections,
    /// [`Limits::header_bytes`].
    HeaderBytes,
    /// [`Limits::headers`].
    Headers,
    /// [`Limits::streams`].
    Streams,
    /// Streams that a client resets; how many is the proxy's own business.
    Resets,
    /// [`Limits::held_bytes`].
    Held,
}

/// Every limit: its name in metrics, and the flag of what was refused because of it.
pub const LIMITS: [(Limit, &str, Flag); 7] = [
    (Limit::Connections, "max_connections", Flag::OverloadManager),
    (Limit::PortConnections, "max_connections_per_port", Flag::OverloadManager),
    (Limit::HeaderBytes, "max_header_bytes", Flag::DownstreamProtocolError),
    (Limit::Headers, "max_headers", Flag::DownstreamProtocolError),
    (Limit::Streams, "max_streams", Flag::OverloadManager),
    (Limit::Resets, "max_resets", Flag::OverloadManager),
    (Limit::Held, "max_held_bytes", Flag::OverloadManager),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_the_default() {
        let default = Limits { connections: 7, ..Limits::default() };
        assert_eq!(Limits::read(&api::Limits::default(), default), Ok(default));
        let message = api::Limits { max_streams: 3, max_connections_per_port: 5, ..Default::default() };
        assert_eq!(Limits::read(&message, default), Ok(Limits { streams: 3, port_connections: 5, ..default }));
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let message = api::Limits { max_headers: 257, ..Default::default() };
        let error = Limits::read(&message, Limits::default()).unwrap_err();
        assert_eq!(error.to_string(), "maxHeaders is 257, must be between 16 and 256");
        let message = api::Limits { max_header_bytes: 8191, ..Default::default() };
        assert!(Limits::read(&message, Limits::default()).is_err());
    }

    #[test]
    fn an_older_generation_of_the_same_pool_counts_no_more() {
        let limits = |pool: &str, generation| api::Limits { pool: pool.into(), generation, ..Default::default() };
        let held = limits("a", 3);
        assert!(supersedes(&held, None));
        assert!(supersedes(&limits("a", 3), Some(&held)) && supersedes(&limits("a", 4), Some(&held)));
        assert!(!supersedes(&limits("a", 2), Some(&held)));
        assert!(supersedes(&limits("b", 1), Some(&held)));
    }

    #[test]
    fn the_table_follows_the_enum() {
        for (number, (limit, ..)) in LIMITS.iter().enumerate() {
            assert_eq!(*limit as usize, number);
        }
    }
}
