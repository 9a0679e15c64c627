//! `trafficPolicy` of the file: the fields of `spec.service.trafficPolicy` of a Canary.

use proxy_api::v1beta1 as api;
use serde::Deserialize;

use super::balancer::{self, LoadBalancer};
use crate::args;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TrafficPolicy {
    connection_pool: Option<ConnectionPool>,
    load_balancer: Option<LoadBalancer>,
    outlier_detection: Option<OutlierDetection>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct OutlierDetection {
    #[serde(rename = "consecutive5xxErrors")]
    consecutive_5xx_errors: Option<u32>,
    consecutive_gateway_errors: Option<u32>,
    interval: Option<String>,
    base_ejection_time: Option<String>,
    max_ejection_percent: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct ConnectionPool {
    tcp: TcpPool,
    http: HttpPool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct TcpPool {
    max_connections: u32,
    connect_timeout: Option<String>,
    tcp_keepalive: Option<TcpKeepalive>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct TcpKeepalive {
    time: Option<String>,
    interval: Option<String>,
    probes: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct HttpPool {
    #[serde(rename = "http1MaxPendingRequests")]
    max_pending_requests: u32,
    #[serde(rename = "http2MaxRequests")]
    max_requests: u32,
    max_requests_per_connection: u32,
    idle_timeout: Option<String>,
}

/// As the stream says it.
///
/// # Errors
/// What was expected in place of a value.
pub(super) fn message(policy: &TrafficPolicy) -> Result<api::TrafficPolicy, String> {
    let connection_pool = policy.connection_pool.as_ref().map(connection_pool).transpose()?;
    let outlier_detection = policy.outlier_detection.as_ref().map(outlier_detection).transpose()?;
    let load_balancer = policy.load_balancer.as_ref().map(balancer::message).transpose()?;
    Ok(api::TrafficPolicy { connection_pool, outlier_detection, load_balancer })
}

/// `connectionPool.tcp.connectTimeout`, which is the route's.
pub(super) fn connect_timeout(policy: &TrafficPolicy) -> Option<&str> {
    policy.connection_pool.as_ref()?.tcp.connect_timeout.as_deref()
}

fn outlier_detection(asked: &OutlierDetection) -> Result<api::OutlierDetection, String> {
    Ok(api::OutlierDetection {
        consecutive_5xx_errors: asked.consecutive_5xx_errors,
        consecutive_gateway_errors: asked.consecutive_gateway_errors,
        interval_ms: millis(asked.interval.as_deref())?,
        base_ejection_time_ms: millis(asked.base_ejection_time.as_deref())?,
        max_ejection_percent: asked.max_ejection_percent,
    })
}

fn connection_pool(pool: &ConnectionPool) -> Result<api::ConnectionPool, String> {
    let keepalive = |asked: &TcpKeepalive| -> Result<_, String> {
        let seconds = |text: &Option<String>| {
            Ok::<_, String>(u32::try_from(millis(text.as_deref())? / 1_000).unwrap_or(u32::MAX))
        };
        let (time_seconds, interval_seconds) = (seconds(&asked.time)?, seconds(&asked.interval)?);
        Ok(api::TcpKeepalive { time_seconds, interval_seconds, probes: asked.probes })
    };
    Ok(api::ConnectionPool {
        tcp_keepalive: pool.tcp.tcp_keepalive.as_ref().map(keepalive).transpose()?,
        idle_timeout_ms: millis(pool.http.idle_timeout.as_deref())?,
        max_connections: pool.tcp.max_connections,
        max_pending_requests: pool.http.max_pending_requests,
        max_requests: pool.http.max_requests,
        max_requests_per_connection: pool.http.max_requests_per_connection,
    })
}

/// In milliseconds; 0 where there is none.
pub(super) fn millis(text: Option<&str>) -> Result<u64, String> {
    text.map_or(Ok(0), |text| args::duration(text).map(|duration| duration.as_millis() as u64))
}
