//! The limits of a pool as its proxies get them. Pure.

use crds::{ProxyPool, proxy_pool::Limits};
use kube::ResourceExt;
use proxy_api::v1beta1 as api;

/// `spec.limits`, with what the proxies need to tell newer ones from older ones.
#[must_use]
pub fn limits(pool: &ProxyPool) -> api::Limits {
    let Limits { max_connections, max_connections_per_port, max_header_bytes, max_headers, max_streams } =
        pool.spec.limits;
    // The schema allows no negative ones; 0 is the proxy's default.
    let number = |value: i32| u32::try_from(value).unwrap_or(0);
    api::Limits {
        pool: pool.uid().unwrap_or_default(),
        generation: pool.metadata.generation.and_then(|generation| u64::try_from(generation).ok()).unwrap_or_default(),
        max_connections: number(max_connections),
        max_connections_per_port: max_connections_per_port.map_or(0, number),
        max_header_bytes: number(max_header_bytes),
        max_headers: number(max_headers),
        max_streams: number(max_streams),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::build::fixtures::mk_pool, *};

    #[test]
    fn a_pool_says_its_limits_and_which_generation_they_are_of() {
        let said = limits(&mk_pool(json!({ "limits": { "maxStreams": 7, "maxConnectionsPerPort": 9 } })));
        let expected = api::Limits {
            pool: "p-1".into(),
            generation: 4,
            max_connections: 20_000,
            max_connections_per_port: 9,
            max_header_bytes: 32_768,
            max_headers: 100,
            max_streams: 7,
        };
        assert_eq!(said, expected);
        assert_eq!(limits(&mk_pool(json!({}))).max_streams, 250);
    }
}
