//! Names of the proxies' Prometheus series: used by the exporter and by the operator's queries.

/// Counter: requests finished, by `canary_namespace`, `canary`, `service`, `arm`, `revision`, `code`.
pub const REQUESTS_TOTAL: &str = "sluice_proxy_requests_total";
/// Histogram in seconds: time from the first byte of the request to the last of the answer, same labels less `code`.
pub const REQUEST_DURATION_SECONDS: &str = "sluice_proxy_request_duration_seconds";
/// Counter: requests with a response flag (`routing::flag`), same labels as the histogram and `flag`.
pub const RESPONSE_FLAGS_TOTAL: &str = "sluice_proxy_response_flags_total";
/// Counter: copies of requests for the canary, by `canary_namespace`, `canary`, `service`, `result`; in no other series.
pub const MIRRORED_REQUESTS_TOTAL: &str = "sluice_proxy_mirrored_requests_total";
/// Counter: attempts after the first of a request, same labels less `code`.
pub const RETRIES_TOTAL: &str = "sluice_proxy_retries_total";
/// Counter: attempts that were not made because the route's retry budget was spent, same labels.
pub const RETRIES_DENIED_TOTAL: &str = "sluice_proxy_retries_denied_total";
/// Counter: requests that ended well after their first attempt had failed, same labels. In [`REQUESTS_TOTAL`] they have the
/// code of the first attempt.
pub const RETRIES_RECOVERED_TOTAL: &str = "sluice_proxy_retries_recovered_total";
/// Counter: endpoints left out because they failed one request after the other, by `canary_namespace`, `canary`, `service`,
/// `arm`.
pub const OUTLIER_EJECTIONS_TOTAL: &str = "sluice_proxy_outlier_ejections_total";
/// Gauge: endpoints that are left out now, same labels.
pub const OUTLIER_EJECTED_ENDPOINTS: &str = "sluice_proxy_outlier_ejected_endpoints";
/// Gauge: the weight in force, by `canary_namespace`, `canary`, `service`.
pub const WEIGHT: &str = "sluice_proxy_weight_percent";
/// Gauge: open downstream connections.
pub const CONNECTIONS: &str = "sluice_proxy_connections";
/// Gauge: bytes of HTTP/2 that are held for those who do not take them.
pub const HELD_BYTES: &str = "sluice_proxy_held_bytes";
/// Counter: connections that were closed at once because too many were open.
pub const CONNECTIONS_REFUSED_TOTAL: &str = "sluice_proxy_connections_refused_total";

/// Gauge: requests begun and not over, same labels as the histogram; those that wait for a connection included.
pub const REQUESTS_IN_FLIGHT: &str = "sluice_proxy_requests_in_flight";
/// Gauge: open connections to endpoints, same labels as the histogram and `state`; of the last second.
pub const UPSTREAM_CONNECTIONS: &str = "sluice_proxy_upstream_connections";
/// Gauge: limits of an arm in force, by `canary_namespace`, `canary`, `service`, `arm`, `limit` (`max_connections`,
/// `max_pending_requests`, `max_requests`).
pub const POOL_LIMIT: &str = "sluice_proxy_pool_limit";
/// Gauge: what an arm uses of them, same labels.
pub const POOL_USED: &str = "sluice_proxy_pool_used";
/// Counter: requests that were refused because of them, same labels.
pub const POOL_OVERFLOWS_TOTAL: &str = "sluice_proxy_pool_overflows_total";

/// Counter: connections, requests and streams that were refused because of a limit, by `limit` and `flag`.
pub const LIMITED_TOTAL: &str = "sluice_proxy_limited_total";
/// Gauge: the limits in force, by `limit`.
pub const LIMIT: &str = "sluice_proxy_limit";

/// Counter: what rules did themselves, by `canary_namespace`, `canary`, `service`, `rule`, `action` (`preflight`,
/// `rate_limit`, `delay`, `abort`, `redirect`). All but delayed ones are no arm's requests.
pub const RULE_ACTIONS_TOTAL: &str = "sluice_proxy_rule_actions_total";

/// Label: namespace of the Canary. `sluice_`-prefixed labels would read badly; Prometheus renames a scrape label that
/// clashes to `exported_namespace`, so ours say what they are of.
pub const LABEL_NAMESPACE: &str = "canary_namespace";
/// Label: name of the Canary.
pub const LABEL_CANARY: &str = "canary";
/// Label: name of the Service.
pub const LABEL_SERVICE: &str = "service";
/// Label: `stable` or `canary`.
pub const LABEL_ARM: &str = "arm";
/// Label: pod-template hash behind the arm.
pub const LABEL_REVISION: &str = "revision";
/// Label: name of a rule, `rule-<place>` if it has none.
pub const LABEL_RULE: &str = "rule";
/// Label: what a rule did.
pub const LABEL_ACTION: &str = "action";
/// Label: HTTP status code, `0` where none was sent (reset by the client before an answer).
pub const LABEL_CODE: &str = "code";
/// Counter: requests that were refused before they had a route, by `code`: 400, 408, 431 and others.
pub const REJECTED_TOTAL: &str = "sluice_proxy_rejected_total";
/// Counter: access log lines that were lost.
pub const ACCESS_LOG_DROPPED_TOTAL: &str = "sluice_proxy_access_log_dropped_total";
/// Counter: spans that the collector took.
pub const SPANS_EXPORTED_TOTAL: &str = "sluice_proxy_spans_exported_total";
/// Counter: spans that were lost.
pub const SPANS_DROPPED_TOTAL: &str = "sluice_proxy_spans_dropped_total";
/// Label: name of a limit, such as `max_connections`.
pub const LABEL_LIMIT: &str = "limit";
/// Label: `active` or `idle`.
pub const LABEL_STATE: &str = "state";
/// Label: short name of a response flag, such as `UH`.
pub const LABEL_FLAG: &str = "flag";

/// Label: what became of a copy: `answered` (with anything but a 5xx), `failed`, or not sent: `no_endpoint`, `too_large`,
/// `overflow`, `incomplete`.
pub const LABEL_RESULT: &str = "result";

/// Value of [`LABEL_ARM`] for the stable version.
pub const ARM_STABLE: &str = "stable";
/// Value of [`LABEL_ARM`] for the version under test.
pub const ARM_CANARY: &str = "canary";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    fn names(text: &str) -> BTreeSet<&str> {
        let parts = text.match_indices("sluice_proxy_").map(|(at, _)| &text[at..]);
        parts.map(|part| part.split(|c: char| !c.is_ascii_lowercase() && c != '_').next().unwrap()).collect()
    }

    /// Only the constants: this module has names in its text, too.
    fn ours() -> BTreeSet<&'static str> {
        include_str!("metrics.rs").lines().filter(|line| line.starts_with("pub const ")).flat_map(names).collect()
    }

    #[test]
    fn every_series_is_documented_and_nothing_else_is() {
        assert_eq!(ours(), names(include_str!("../../../docs/observability.md")));
    }
}
