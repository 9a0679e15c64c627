//! Consistent hashing: which endpoint a key belongs to, and what the key of a request is.
//!
//! Rendezvous (Thaler and Ravishankar 1998): every endpoint has a score for every key, and the highest serves. No table and
//! no state, so every worker and every proxy agrees; an endpoint that leaves, or is passed over, gives up its own keys and
//! no others, each to the next in that key's own order (docs/decisions/consistent-hash-is-rendezvous.md).

use std::net::{IpAddr, SocketAddr};

use proxy_api::v1beta1 as api;

use super::Invalid;
use crate::affinity::{hash, valid};
use crate::split::mix;

/// A year.
const MAX_TTL_SECONDS: u64 = 31_536_000;
/// Longest path of a cookie.
const MAX_PATH: usize = 256;

/// What of a request says where it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// Value of a request header.
    Header(String),
    /// Value of a cookie.
    Cookie {
        /// Of the cookie.
        name: String,
        /// Lifetime of the one that a client without gets; 0: until it closes. `None`: it gets none.
        ttl_seconds: Option<u64>,
        /// What it is sent for.
        path: String,
    },
    /// The address that the connection came from.
    SourceIp,
}

/// Where a request belongs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keyed {
    /// Its key; `None`: it does not say.
    pub key: Option<u64>,
    /// Cookie to tell the client with the answer, by [`HashKey::write_cookie`].
    pub told: Option<u64>,
}

impl HashKey {
    /// As asked for.
    ///
    /// # Errors
    /// When no key, or one that cannot be used.
    pub fn compile(asked: &api::ConsistentHash) -> Result<Self, Invalid> {
        use api::consistent_hash::Key;
        match asked.key.as_ref().ok_or(Invalid::NoKey)? {
            Key::HttpHeaderName(name) => Ok(Self::Header(token(name)?)),
            Key::HttpCookie(cookie) => {
                let printable = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b';';
                let path = if cookie.path.is_empty() { "/" } else { &cookie.path };
                if path.len() > MAX_PATH || !path.starts_with('/') || !path.bytes().all(printable) {
                    return Err(Invalid::Path(path.to_owned()));
                }
                if let Some(ttl) = cookie.ttl_seconds.filter(|ttl| *ttl > MAX_TTL_SECONDS) {
                    return Err(Invalid::Ttl(ttl));
                }
                Ok(Self::Cookie { name: token(&cookie.name)?, ttl_seconds: cookie.ttl_seconds, path: path.to_owned() })
            }
            Key::UseSourceIp(true) => Ok(Self::SourceIp),
            Key::UseSourceIp(false) => Err(Invalid::NoKey),
        }
    }

    /// Where a request with these header fields, from `client`, belongs; `random` becomes the cookie of a client that has
    /// none.
    pub fn of<'a>(&self, fields: impl IntoIterator<Item = (&'a str, &'a [u8])>, client: IpAddr, random: u64) -> Keyed {
        let mut fields = fields.into_iter();
        let keyed = |value: &[u8]| Keyed { key: Some(hash(0, value)), told: None };
        match self {
            Self::SourceIp => Keyed { key: Some(self::client(client)), told: None },
            Self::Header(name) => fields
                .find(|(field, value)| !value.is_empty() && field.eq_ignore_ascii_case(name))
                .map_or(Keyed::default(), |(_, value)| keyed(value)),
            Self::Cookie { name, ttl_seconds, .. } => {
                let value = fields
                    .filter(|(field, _)| field.eq_ignore_ascii_case("cookie"))
                    .flat_map(|(_, value)| value.split(|byte| *byte == b';'))
                    .filter_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
                    .find(|value| !value.is_empty());
                match (value, ttl_seconds) {
                    (Some(value), _) => keyed(value),
                    (None, None) => Keyed::default(),
                    (None, Some(_)) => Keyed { key: Some(hash(0, &digits(random))), told: Some(random) },
                }
            }
        }
    }

    /// Appends the value of the `Set-Cookie` that tells a client what it was [`told`](Keyed::told) (RFC 6265 §4.1).
    pub fn write_cookie(&self, told: u64, out: &mut Vec<u8>) {
        use std::io::Write as _;
        let Self::Cookie { name, ttl_seconds, path } = self else { return };
        out.extend_from_slice(name.as_bytes());
        out.push(b'=');
        out.extend_from_slice(&digits(told));
        // Writing to a Vec cannot fail.
        let _ = write!(out, "; Path={path}");
        if let Some(ttl) = ttl_seconds.filter(|ttl| *ttl > 0) {
            let _ = write!(out, "; Max-Age={ttl}");
        }
        out.extend_from_slice(b"; HttpOnly; SameSite=Lax");
    }
}

/// The key of everything that comes from `address`.
#[must_use]
pub fn client(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => hash(0, &address.octets()),
        IpAddr::V6(address) => hash(0, &address.octets()),
    }
}

/// What tells an endpoint from others, the same on every proxy.
#[must_use]
pub fn identity(endpoint: SocketAddr) -> u64 {
    hash(client(endpoint.ip()), &endpoint.port().to_be_bytes())
}

/// The endpoint of `key` among `count` with these identities.
pub fn rendezvous(
    count: usize,
    key: u64,
    excluded: impl Fn(usize) -> bool,
    identity: impl Fn(usize) -> u64,
) -> Option<usize> {
    let score = |endpoint: &usize| {
        let identity = identity(*endpoint);
        // The identity decides between equals, not the place in the list.
        (mix(key ^ identity), identity)
    };
    (0..count).filter(|endpoint| !excluded(*endpoint)).max_by_key(score)
}

fn token(name: &str) -> Result<String, Invalid> {
    if name.is_empty() {
        return Err(Invalid::NoKey);
    }
    valid(name).map_err(|_| Invalid::Name(name.to_owned()))
}

fn digits(value: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    for (place, digit) in digits.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(value >> (60 - 4 * place)) as usize & 0xf];
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn pods(count: u8) -> Vec<u64> {
        (0..count).map(|pod| identity(SocketAddr::from(([10, 0, 0, pod], 8080)))).collect()
    }

    /// Owners of 20,000 keys, by identity.
    fn owners(pods: &[u64]) -> Vec<u64> {
        let owner = |key: u64| pods[rendezvous(pods.len(), mix(key), |_| false, |pod| pods[pod]).unwrap()];
        (0..20_000).map(owner).collect()
    }

    #[test]
    fn keys_are_spread_evenly() {
        let pods = pods(10);
        let owners = owners(&pods);
        for pod in pods {
            let keys = owners.iter().filter(|owner| **owner == pod).count();
            assert!(keys.abs_diff(2_000) < 200, "{keys} of 20000 keys");
        }
    }

    #[test]
    fn an_endpoint_that_leaves_or_comes_moves_its_own_keys_only() {
        let (all, gone) = (pods(10), pods(10)[3]);
        let rest: Vec<u64> = all.iter().copied().filter(|pod| *pod != gone).collect();
        let (before, after) = (owners(&all), owners(&rest));
        let mut heirs = std::collections::BTreeMap::<u64, u32>::new();
        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || *before == gone, "a key moved between two that stayed");
            *heirs.entry(*after).or_default() += u32::from(*before == gone);
        }
        let moved: u32 = heirs.values().sum();
        assert!(moved < 2_200, "{moved} of 20000 keys moved");
        assert!(heirs.values().all(|keys| *keys > moved / 18), "all others take their part: {heirs:?}");
    }

    #[test]
    fn an_endpoint_that_is_passed_over_moves_its_own_keys_only() {
        let pods = pods(7);
        for key in (0..2_000).map(mix) {
            let first = rendezvous(7, key, |_| false, |pod| pods[pod]).unwrap();
            let without = rendezvous(7, key, |pod| pod == 2, |pod| pods[pod]).unwrap();
            assert!(without != 2 && (first == without || first == 2));
        }
        assert_eq!(rendezvous(7, 1, |_| true, |pod| pods[pod]), None);
        assert_eq!(rendezvous(0, 1, |_| false, |pod| pods[pod]), None);
    }

    proptest! {
        #[test]
        fn the_order_of_the_list_does_not_matter(key: u64, pods in prop::collection::vec(any::<u64>(), 1..20), by: usize) {
            let mut turned = pods.clone();
            turned.rotate_left(by % pods.len());
            let one = rendezvous(pods.len(), key, |_| false, |pod| pods[pod]).map(|pod| pods[pod]);
            let other = rendezvous(pods.len(), key, |_| false, |pod| turned[pod]).map(|pod| turned[pod]);
            prop_assert_eq!(one, other);
        }
    }

    #[test]
    fn addresses_are_told_apart_and_mapped_ones_are_not() {
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(client(mapped), client("10.0.0.1".parse().unwrap()));
        let identities =
            ["10.0.0.1:80", "10.0.0.1:81", "10.0.0.2:80", "[fd00::1]:80"].map(|a| identity(a.parse().unwrap()));
        assert!((1..4).all(|one| (0..one).all(|other| identities[one] != identities[other])));
        // A golden value: proxies of different versions must agree while they are replaced.
        assert_eq!(identities[0], 3_030_783_587_412_263_673);
    }

    fn mk(key: api::consistent_hash::Key) -> Result<HashKey, Invalid> {
        HashKey::compile(&api::ConsistentHash { key: Some(key) })
    }

    fn mk_cookie(name: &str, ttl_seconds: Option<u64>, path: &str) -> Result<HashKey, Invalid> {
        let cookie = api::HashCookie { name: name.into(), ttl_seconds, path: path.into() };
        mk(api::consistent_hash::Key::HttpCookie(cookie))
    }

    #[test]
    fn a_header_says_the_key_and_without_it_there_is_none() {
        let key = mk(api::consistent_hash::Key::HttpHeaderName("X-User".into())).unwrap();
        let of = |value: &str| key.of([("accept", &b"*/*"[..]), ("x-user", value.as_bytes())], LOCAL, 7);
        assert_eq!(of("ann"), of("ann"));
        assert_ne!(of("ann").key, of("bob").key);
        assert_eq!((of(""), key.of([], LOCAL, 7)), (Keyed::default(), Keyed::default()));
    }

    #[test]
    fn a_client_without_cookie_is_told_one_that_leads_to_where_it_went() {
        let key = mk_cookie("pod", Some(60), "").unwrap();
        let first = key.of([("cookie", &b"a=b"[..])], LOCAL, 0x0123_4567_89ab_cdef);
        let mut set = Vec::new();
        key.write_cookie(first.told.unwrap(), &mut set);
        let set = String::from_utf8(set).unwrap();
        assert_eq!(set, "pod=0123456789abcdef; Path=/; Max-Age=60; HttpOnly; SameSite=Lax");
        let again = key.of([("Cookie", &b"a=b; pod=0123456789abcdef; c=d"[..])], LOCAL, 9);
        assert_eq!(again, Keyed { key: first.key, told: None });
        let empty = key.of([("cookie", &b"pod=; xpod=1"[..])], LOCAL, 9);
        assert_eq!(empty.told, Some(9));
    }

    #[test]
    fn a_ttl_of_0_is_a_session_cookie_and_none_is_no_cookie() {
        let mut set = Vec::new();
        mk_cookie("pod", Some(0), "/shop").unwrap().write_cookie(1, &mut set);
        assert_eq!(String::from_utf8(set).unwrap(), "pod=0000000000000001; Path=/shop; HttpOnly; SameSite=Lax");
        assert_eq!(mk_cookie("pod", None, "").unwrap().of([], LOCAL, 9), Keyed::default());
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused() {
        use api::consistent_hash::Key;
        assert_eq!(HashKey::compile(&api::ConsistentHash { key: None }), Err(Invalid::NoKey));
        assert_eq!(mk(Key::UseSourceIp(false)), Err(Invalid::NoKey));
        assert_eq!(mk(Key::HttpHeaderName("a b".into())), Err(Invalid::Name("a b".into())));
        assert_eq!(mk_cookie("", Some(1), ""), Err(Invalid::NoKey));
        assert_eq!(mk_cookie("a", Some(31_536_001), ""), Err(Invalid::Ttl(31_536_001)));
        for path in ["shop", "/a;b", "/a\r\nx: y", "/ä"] {
            assert_eq!(mk_cookie("a", None, path), Err(Invalid::Path(path.into())));
        }
    }
}
