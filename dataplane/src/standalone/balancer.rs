//! `trafficPolicy.loadBalancer` of the file: the fields of `spec.service.trafficPolicy.loadBalancer` of a Canary.

use std::collections::BTreeMap;

use proxy_api::v1beta1 as api;
use proxy_api::v1beta1::consistent_hash::Key;
use proxy_api::v1beta1::load_balancer::{Algorithm, Simple as Name};
use serde::Deserialize;

use super::policy::millis;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LoadBalancer {
    simple: Option<Simple>,
    consistent_hash: Option<ConsistentHash>,
    warmup: Option<Warmup>,
    locality_lb_setting: Option<LocalityLbSetting>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Simple {
    PeakEwma,
    LeastRequest,
    RoundRobin,
    Random,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct ConsistentHash {
    http_header_name: Option<String>,
    http_cookie: Option<HashCookie>,
    use_source_ip: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HashCookie {
    name: String,
    ttl: Option<String>,
    #[serde(default)]
    path: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Warmup {
    duration: String,
    minimum_percent: Option<u32>,
    aggression: Option<f64>,
}

/// A file has no pool to count proxies in, so it says itself how many there are in which zone.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LocalityLbSetting {
    enabled: bool,
    #[serde(default)]
    proxies: BTreeMap<String, u32>,
}

/// As the stream says it.
///
/// # Errors
/// What was expected in place of a value.
pub(super) fn message(asked: &LoadBalancer) -> Result<api::LoadBalancer, String> {
    let algorithm = match (asked.simple, &asked.consistent_hash) {
        (None, None) => None,
        (Some(simple), None) => Some(Algorithm::Simple(name(simple).into())),
        (None, Some(hash)) => Some(Algorithm::ConsistentHash(api::ConsistentHash { key: Some(key(hash)?) })),
        (Some(_), Some(_)) => return Err("loadBalancer takes either simple or consistentHash, not both".to_owned()),
    };
    let warmup = asked.warmup.as_ref().map(|asked| {
        let (minimum_percent, aggression) = (asked.minimum_percent, asked.aggression);
        Ok::<_, String>(api::Warmup { duration_ms: millis(Some(&asked.duration))?, minimum_percent, aggression })
    });
    let locality_lb_setting = asked.locality_lb_setting.as_ref().filter(|asked| asked.enabled).map(|asked| {
        let of_zone = |(zone, proxies): (&String, &u32)| api::ZoneProxies { zone: zone.clone(), proxies: *proxies };
        api::LocalityLbSetting { proxies: asked.proxies.iter().map(of_zone).collect() }
    });
    Ok(api::LoadBalancer { algorithm, warmup: warmup.transpose()?, locality_lb_setting })
}

fn name(simple: Simple) -> Name {
    match simple {
        Simple::PeakEwma => Name::PeakEwma,
        Simple::LeastRequest => Name::LeastRequest,
        Simple::RoundRobin => Name::RoundRobin,
        Simple::Random => Name::Random,
    }
}

fn key(hash: &ConsistentHash) -> Result<Key, String> {
    match (&hash.http_header_name, &hash.http_cookie, hash.use_source_ip) {
        (Some(name), None, false) => Ok(Key::HttpHeaderName(name.clone())),
        (None, Some(cookie), false) => {
            let ttl_seconds =
                cookie.ttl.as_deref().map(|ttl| Ok::<_, String>(millis(Some(ttl))? / 1_000)).transpose()?;
            Ok(Key::HttpCookie(api::HashCookie { name: cookie.name.clone(), ttl_seconds, path: cookie.path.clone() }))
        }
        (None, None, true) => Ok(Key::UseSourceIp(true)),
        _ => Err("consistentHash takes one of httpHeaderName, httpCookie and useSourceIp".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<api::LoadBalancer, String> {
        message(&serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?)
    }

    #[test]
    fn a_load_balancer_is_read_in_istios_words() {
        let warmup = Some(api::Warmup { duration_ms: 60_000, minimum_percent: Some(5), aggression: Some(1.5) });
        let simple = Some(Algorithm::Simple(Name::LeastRequest.into()));
        assert_eq!(
            read("{simple: LEAST_REQUEST, warmup: {duration: 60s, minimumPercent: 5, aggression: 1.5}}"),
            Ok(api::LoadBalancer { algorithm: simple, warmup, ..Default::default() })
        );
        let cookie = api::HashCookie { name: "pod".into(), ttl_seconds: Some(0), path: String::new() };
        for (text, key) in [
            ("{httpHeaderName: x-user}", Key::HttpHeaderName("x-user".into())),
            ("{httpCookie: {name: pod, ttl: 0s}}", Key::HttpCookie(cookie)),
            ("{useSourceIp: true}", Key::UseSourceIp(true)),
        ] {
            let algorithm = Some(Algorithm::ConsistentHash(api::ConsistentHash { key: Some(key) }));
            assert_eq!(
                read(&format!("consistentHash: {text}")),
                Ok(api::LoadBalancer { algorithm, ..Default::default() })
            );
        }
    }

    #[test]
    fn zones_count_if_they_are_enabled() {
        let setting = |text: &str| read(&format!("localityLbSetting: {text}")).map(|read| read.locality_lb_setting);
        let of_zone = |zone: &str, proxies| api::ZoneProxies { zone: zone.into(), proxies };
        let wanted = api::LocalityLbSetting { proxies: vec![of_zone("a", 2), of_zone("b", 1)] };
        assert_eq!(setting("{enabled: true, proxies: {b: 1, a: 2}}"), Ok(Some(wanted)));
        assert_eq!(setting("{enabled: false}"), Ok(None));
        assert!(setting("{}").unwrap_err().contains("missing field `enabled`"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        for (text, reason) in [
            ("{simple: FASTEST}", "unknown variant `FASTEST`"),
            ("{simple: RANDOM, consistentHash: {useSourceIp: true}}", "either simple or consistentHash"),
            ("consistentHash: {}", "takes one of"),
            ("consistentHash: {useSourceIp: true, httpHeaderName: a}", "takes one of"),
            ("warmup: {duration: soon}", "whole number"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
