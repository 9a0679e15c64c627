//! What `spec.service` says about traffic, as the proxies are told: names and units change, nothing is decided. Pure.
//!
//! Form and ranges are the schema's affair; the proxies refuse what they do not know, and say so in their acknowledgement.

use crds::canary::CanaryService;
use std::collections::BTreeMap;

use crds::load_balancer::{ConsistentHash, LoadBalancer, LocalityLbSetting, SimpleBalancer};
use crds::traffic_policy::{ConnectionPool, OutlierDetection};
use proxy_api::v1beta1 as api;

/// `spec.service.retries`.
#[must_use]
pub fn retries(service: &CanaryService) -> Option<api::Retries> {
    let asked = service.retries.as_ref()?;
    let budget = asked.budget.clone().unwrap_or_default();
    Some(api::Retries {
        attempts: unsigned(asked.attempts),
        per_try_timeout_ms: millis(asked.per_try_timeout.as_deref()),
        retry_on: asked.retry_on.clone().unwrap_or_default(),
        budget_percent: budget.percent.map(unsigned),
        min_retries_per_second: budget.min_retries_per_second.map(unsigned),
    })
}

/// `spec.service.trafficPolicy`, less the connect timeout, which the route has already. `proxies`: how many of the pool are in
/// which zone; asked only where zones count, or each of them that comes or goes would change every route.
#[must_use]
pub fn traffic(service: &CanaryService, proxies: impl FnOnce() -> BTreeMap<String, u32>) -> Option<api::TrafficPolicy> {
    let asked = service.traffic_policy.as_ref()?;
    Some(api::TrafficPolicy {
        connection_pool: asked.connection_pool.as_ref().map(connection_pool),
        outlier_detection: asked.outlier_detection.as_ref().map(outlier_detection),
        load_balancer: asked.load_balancer.as_ref().map(|asked| load_balancer(asked, proxies)),
    })
}

/// `trafficPolicy.connectionPool.tcp.connectTimeout` in milliseconds; 0 where there is none.
#[must_use]
pub fn connect_timeout_ms(service: &CanaryService) -> u64 {
    let pool = service.traffic_policy.as_ref().and_then(|policy| policy.connection_pool.as_ref());
    millis(pool.and_then(|pool| pool.tcp.as_ref()?.connect_timeout.as_deref()))
}

fn outlier_detection(asked: &OutlierDetection) -> api::OutlierDetection {
    api::OutlierDetection {
        consecutive_5xx_errors: asked.consecutive_5xx_errors.map(unsigned),
        consecutive_gateway_errors: asked.consecutive_gateway_errors.map(unsigned),
        interval_ms: millis(asked.interval.as_deref()),
        base_ejection_time_ms: millis(asked.base_ejection_time.as_deref()),
        max_ejection_percent: asked.max_ejection_percent.map(unsigned),
    }
}

fn connection_pool(asked: &ConnectionPool) -> api::ConnectionPool {
    let (tcp, http) = (asked.tcp.clone().unwrap_or_default(), asked.http.clone().unwrap_or_default());
    let seconds = |text: Option<String>| u32::try_from(millis(text.as_deref()) / 1_000).unwrap_or(u32::MAX);
    let number = |asked: Option<i32>| unsigned(asked.unwrap_or_default());
    api::ConnectionPool {
        tcp_keepalive: tcp.tcp_keepalive.map(|asked| api::TcpKeepalive {
            time_seconds: seconds(asked.time),
            interval_seconds: seconds(asked.interval),
            probes: unsigned(asked.probes.unwrap_or_default()),
        }),
        idle_timeout_ms: millis(http.idle_timeout.as_deref()),
        max_connections: number(tcp.max_connections),
        max_pending_requests: number(http.http1_max_pending_requests),
        max_requests: number(http.http2_max_requests),
        max_requests_per_connection: number(http.max_requests_per_connection),
    }
}

fn load_balancer(asked: &LoadBalancer, proxies: impl FnOnce() -> BTreeMap<String, u32>) -> api::LoadBalancer {
    use api::load_balancer::{Algorithm, Simple};
    let simple = |simple| match simple {
        SimpleBalancer::PeakEwma => Simple::PeakEwma,
        SimpleBalancer::LeastRequest => Simple::LeastRequest,
        SimpleBalancer::RoundRobin => Simple::RoundRobin,
        SimpleBalancer::Random => Simple::Random,
    };
    let by_hash = asked.consistent_hash.as_ref().map(|hash| Algorithm::ConsistentHash(consistent_hash(hash)));
    api::LoadBalancer {
        algorithm: by_hash.or_else(|| Some(Algorithm::Simple(simple(asked.simple?).into()))),
        warmup: asked.warmup.as_ref().map(|warmup| api::Warmup {
            duration_ms: millis(Some(&warmup.duration)),
            minimum_percent: warmup.minimum_percent.map(unsigned),
            aggression: warmup.aggression,
        }),
        locality_lb_setting: asked.locality_lb_setting.filter(|LocalityLbSetting { enabled }| *enabled).map(|_| {
            let of_zone = |(zone, proxies)| api::ZoneProxies { zone, proxies };
            api::LocalityLbSetting { proxies: proxies().into_iter().map(of_zone).collect() }
        }),
    }
}

fn consistent_hash(asked: &ConsistentHash) -> api::ConsistentHash {
    use api::consistent_hash::Key;
    let ConsistentHash { http_header_name, http_cookie, use_source_ip } = asked;
    let cookie = http_cookie.as_ref().map(|cookie| api::HashCookie {
        name: cookie.name.clone(),
        ttl_seconds: cookie.ttl.as_deref().map(|ttl| millis(Some(ttl)) / 1_000),
        path: cookie.path.clone().unwrap_or_default(),
    });
    let header = http_header_name.clone().map(Key::HttpHeaderName);
    let key = header.or_else(|| cookie.map(Key::HttpCookie)).or_else(|| use_source_ip.map(Key::UseSourceIp));
    api::ConsistentHash { key }
}

/// A time such as `250ms`, `15s` or `2m` in milliseconds; 0 where there is none.
#[must_use]
pub fn millis(text: Option<&str>) -> u64 {
    let text = text.unwrap_or_default();
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit_ms = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => 0,
    };
    digits.parse::<u64>().unwrap_or_default().saturating_mul(unit_ms)
}

/// A number of the spec. The schema lets none below 0 through; one that was stored before it counts as 0.
#[must_use]
pub fn unsigned(number: i32) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn retries_are_passed_on_in_milliseconds_and_with_their_budget() {
        let service = |retries: serde_json::Value| -> CanaryService {
            serde_json::from_value(json!({ "port": 80, "retries": retries })).unwrap()
        };
        let full = json!({
            "attempts": 2, "perTryTimeout": "250ms", "retryOn": "5xx,reset",
            "budget": { "percent": 5, "minRetriesPerSecond": 0 }
        });
        let wanted = api::Retries {
            attempts: 2,
            per_try_timeout_ms: 250,
            retry_on: "5xx,reset".to_owned(),
            budget_percent: Some(5),
            min_retries_per_second: Some(0),
        };
        assert_eq!(retries(&service(full)), Some(wanted));
        let least = api::Retries { attempts: 1, ..Default::default() };
        assert_eq!(retries(&service(json!({ "attempts": 1 }))), Some(least));
        assert_eq!(retries(&service(json!(null))), None);
    }

    #[test]
    fn a_traffic_policy_is_passed_on_and_its_connect_timeout_goes_with_the_route() {
        let service = |policy: serde_json::Value| -> CanaryService {
            serde_json::from_value(json!({ "port": 80, "trafficPolicy": policy })).unwrap()
        };
        let pool = service(json!({ "connectionPool": {
            "tcp": { "maxConnections": 9, "connectTimeout": "250ms", "tcpKeepalive": { "time": "2m", "interval": "5s", "probes": 4 } },
            "http": {
                "idleTimeout": "30s", "http1MaxPendingRequests": 8, "http2MaxRequests": 7, "maxRequestsPerConnection": 6
            }
        } }));
        let wanted = api::ConnectionPool {
            tcp_keepalive: Some(api::TcpKeepalive { time_seconds: 120, interval_seconds: 5, probes: 4 }),
            idle_timeout_ms: 30_000,
            max_connections: 9,
            max_pending_requests: 8,
            max_requests: 7,
            max_requests_per_connection: 6,
        };
        assert_eq!(traffic(&pool, BTreeMap::new).unwrap().connection_pool, Some(wanted));
        assert_eq!(connect_timeout_ms(&pool), 250);
        let outliers = service(json!({ "outlierDetection": {
            "consecutive5xxErrors": 3, "consecutiveGatewayErrors": 2, "interval": "1s", "baseEjectionTime": "1m",
            "maxEjectionPercent": 0
        } }));
        let wanted = api::OutlierDetection {
            consecutive_5xx_errors: Some(3),
            consecutive_gateway_errors: Some(2),
            interval_ms: 1_000,
            base_ejection_time_ms: 60_000,
            max_ejection_percent: Some(0),
        };
        assert_eq!(traffic(&outliers, BTreeMap::new).unwrap().outlier_detection, Some(wanted));
        assert_eq!(traffic(&service(json!({})), BTreeMap::new), Some(api::TrafficPolicy::default()));
        assert_eq!(traffic(&service(json!(null)), BTreeMap::new), None);
        assert_eq!(connect_timeout_ms(&service(json!(null))), 0);
    }
    #[test]
    fn a_load_balancer_is_passed_on_as_it_is_asked_for() {
        use api::consistent_hash::Key;
        use api::load_balancer::{Algorithm, Simple};
        let balancer = |asked: serde_json::Value| {
            let service = json!({ "port": 80, "trafficPolicy": { "loadBalancer": asked } });
            let service: CanaryService = serde_json::from_value(service).unwrap();
            traffic(&service, BTreeMap::new).unwrap().load_balancer.unwrap()
        };
        let warmup = api::Warmup { duration_ms: 120_000, minimum_percent: Some(5), aggression: Some(1.5) };
        assert_eq!(
            balancer(json!({ "warmup": { "duration": "2m", "minimumPercent": 5, "aggression": 1.5 } })),
            api::LoadBalancer { warmup: Some(warmup), ..Default::default() }
        );
        for (word, simple) in [
            ("PEAK_EWMA", Simple::PeakEwma),
            ("LEAST_REQUEST", Simple::LeastRequest),
            ("ROUND_ROBIN", Simple::RoundRobin),
            ("RANDOM", Simple::Random),
        ] {
            let algorithm = Some(Algorithm::Simple(simple.into()));
            assert_eq!(balancer(json!({ "simple": word })), api::LoadBalancer { algorithm, ..Default::default() });
        }
        let cookie = |ttl_seconds, path: &str| {
            Key::HttpCookie(api::HashCookie { name: "pod".to_owned(), ttl_seconds, path: path.to_owned() })
        };
        for (asked, key) in [
            (json!({ "httpHeaderName": "x-user" }), Key::HttpHeaderName("x-user".to_owned())),
            (json!({ "httpCookie": { "name": "pod" } }), cookie(None, "")),
            (json!({ "httpCookie": { "name": "pod", "ttl": "0s", "path": "/a" } }), cookie(Some(0), "/a")),
            (json!({ "useSourceIp": true }), Key::UseSourceIp(true)),
        ] {
            let algorithm = Some(Algorithm::ConsistentHash(api::ConsistentHash { key: Some(key) }));
            assert_eq!(
                balancer(json!({ "consistentHash": asked })),
                api::LoadBalancer { algorithm, ..Default::default() }
            );
        }
    }

    #[test]
    fn zones_are_passed_on_only_where_they_count() {
        let balancer = |asked: serde_json::Value, proxies: fn() -> BTreeMap<String, u32>| {
            let service = json!({ "port": 80, "trafficPolicy": { "loadBalancer": asked } });
            let service: CanaryService = serde_json::from_value(service).unwrap();
            traffic(&service, proxies).unwrap().load_balancer.unwrap().locality_lb_setting
        };
        let zones = || BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)]);
        let of_zone = |zone: &str, proxies| api::ZoneProxies { zone: zone.to_owned(), proxies };
        let wanted = api::LocalityLbSetting { proxies: vec![of_zone("a", 2), of_zone("b", 1)] };
        assert_eq!(balancer(json!({ "localityLbSetting": { "enabled": true } }), zones), Some(wanted));
        let nobody_asks: fn() -> BTreeMap<String, u32> = || panic!("proxies do not concern this route");
        assert_eq!(balancer(json!({ "localityLbSetting": { "enabled": false } }), nobody_asks), None);
        assert_eq!(balancer(json!({ "simple": "RANDOM" }), nobody_asks), None);
    }
}
