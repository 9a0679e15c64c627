//! The limits of the file: the fields of `spec.limits` of a ProxyPool.

use proxy_api::v1beta1 as api;
use serde::Deserialize;

/// As `spec.limits` of a ProxyPool; 0 and what is not there: the default.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Limits {
    max_connections: u32,
    max_connections_per_port: u32,
    max_header_bytes: u32,
    max_headers: u32,
    max_streams: u32,
}

pub(super) fn message(limits: Limits) -> api::Limits {
    let Limits { max_connections, max_connections_per_port, max_header_bytes, max_headers, max_streams } = limits;
    api::Limits {
        max_connections,
        max_connections_per_port,
        max_header_bytes,
        max_headers,
        max_streams,
        ..Default::default()
    }
}
