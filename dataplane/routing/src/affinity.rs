//! Sticky sessions: a client that was given to an arm stays with it while the release goes on.
//!
//! Every client has a bucket, 0..=99; it sees the canary as long as its bucket lies below the weight, so a rising weight
//! only ever moves clients from stable to canary, and weight 0 leaves nobody behind. The bucket comes from a cookie that
//! the proxy sets, or from the hash of a header. The first request of a client that has neither is split as if there were
//! no affinity, exactly ([`Split`]); the cookie then says a bucket on that side of the weight. Both arms are pinned: where
//! only the canary is (Flagger), a canary of 10 % has 88 % of the clients after 20 requests each.
//!
//! The cookie carries no secret and no identity: the release it belongs to, as 8 hex digits, and the bucket. One of
//! another release, or one that was tampered with, counts as absent.

use proxy_api::v1beta1 as api;

use crate::split::{Arm, Split, mix};

/// Longest name of a cookie or header.
const MAX_NAME: usize = 64;
/// A year, longer than any release.
const MAX_AGE_SECONDS: u32 = 31_536_000;
/// As weights are counted.
const BUCKETS: u8 = 100;

/// How the clients of one route are told apart during one release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affinity {
    key: Key,
    /// Of the release: so that a cookie or hash of another one says nothing.
    tag: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Key {
    /// Set by the proxy.
    Cookie { name: String, max_age_seconds: u32 },
    /// Sent by the client, hashed.
    Header(String),
}

/// An affinity that cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Neither or both.
    #[error("session affinity takes either a cookie or a header")]
    Key,
    /// Not a token (RFC 9110 §5.6.2), too long, or a cookie name that browsers keep for `Secure` cookies.
    #[error("session affinity cannot use the name {0:?}")]
    Name(String),
    /// Out of range.
    #[error("session affinity has a cookie of {0} s, must lie between 1 and 31536000")]
    MaxAge(u32),
}

impl Affinity {
    /// For the release of `revision` by the Canary of `uid`.
    ///
    /// # Errors
    /// When it cannot be carried out.
    pub fn compile(affinity: &api::Affinity, uid: &str, revision: &str) -> Result<Self, Invalid> {
        let key = match (affinity.cookie.as_str(), affinity.header.as_str()) {
            (name, "") if !name.is_empty() => {
                if !(1..=MAX_AGE_SECONDS).contains(&affinity.max_age_seconds) {
                    return Err(Invalid::MaxAge(affinity.max_age_seconds));
                }
                Key::Cookie { name: valid(name)?, max_age_seconds: affinity.max_age_seconds }
            }
            ("", name) if !name.is_empty() => Key::Header(valid(name)?),
            _ => return Err(Invalid::Key),
        };
        let release = hash(hash(0, uid.as_bytes()), revision.as_bytes());
        Ok(Self { key, tag: (release >> 32) as u32 })
    }

    /// The client's bucket by the fields of its request; `None` if they do not say.
    pub fn bucket<'a>(&self, fields: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Option<u8> {
        let mut fields = fields.into_iter();
        match &self.key {
            Key::Cookie { name, .. } => fields
                .filter(|(field, _)| field.eq_ignore_ascii_case("cookie"))
                .flat_map(|(_, value)| value.split(|byte| *byte == b';'))
                .filter_map(|pair| pair.trim_ascii_start().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
                .find_map(|value| self.read(value)),
            Key::Header(name) => fields
                .find(|(field, value)| !value.is_empty() && field.eq_ignore_ascii_case(name))
                .map(|(_, value)| (hash(self.tag.into(), value) % u64::from(BUCKETS)) as u8),
        }
    }

    /// The arm of a request at `weight` (1..=99), and the bucket that its client is to be told, if any.
    #[must_use]
    pub fn pick(&self, bucket: Option<u8>, split: &Split, weight: u8, random: u64) -> (Arm, Option<u8>) {
        if let Some(bucket) = bucket {
            return (if bucket < weight { Arm::Canary } else { Arm::Stable }, None);
        }
        let arm = split.pick(weight);
        let side = match arm {
            Arm::Canary => 0..weight.min(BUCKETS),
            Arm::Stable => weight.min(BUCKETS)..BUCKETS,
        };
        let told = match (&self.key, side.end - side.start) {
            (Key::Header(_), _) | (Key::Cookie { .. }, 0) => None,
            (Key::Cookie { .. }, width) => Some(side.start + (random % u64::from(width)) as u8),
        };
        (arm, told)
    }

    /// Appends the value of the `Set-Cookie` that tells a client its bucket (RFC 6265 §4.1); nothing for a header.
    pub fn write_cookie(&self, bucket: u8, out: &mut Vec<u8>) {
        use std::io::Write as _;
        if let Key::Cookie { name, max_age_seconds } = &self.key {
            // Writing to a Vec cannot fail.
            let _ = write!(
                out,
                "{name}={:08x}.{bucket:02}; Path=/; Max-Age={max_age_seconds}; HttpOnly; SameSite=Lax",
                self.tag
            );
        }
    }

    fn read(&self, value: &[u8]) -> Option<u8> {
        let value = value.trim_ascii_end();
        // `from_str_radix` would take signs and shorter numbers.
        if value.len() != 11 || value[8] != b'.' {
            return None;
        }
        let (tag, bucket) = (std::str::from_utf8(&value[..8]).ok()?, &value[9..]);
        let digits = tag.bytes().all(|byte| byte.is_ascii_hexdigit()) && bucket.iter().all(u8::is_ascii_digit);
        let ours = digits && u32::from_str_radix(tag, 16) == Ok(self.tag);
        ours.then(|| (bucket[0] - b'0') * 10 + (bucket[1] - b'0'))
    }
}

/// A name that can be written into a head, and that browsers take without `Secure`.
pub(crate) fn valid(name: &str) -> Result<String, Invalid> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.len() > MAX_NAME || !name.bytes().all(token) || name.starts_with("__") {
        return Err(Invalid::Name(name.to_owned()));
    }
    Ok(name.to_owned())
}

/// The same on every proxy and in every version of it: a client may meet any of them.
pub(crate) fn hash(seed: u64, bytes: &[u8]) -> u64 {
    // FNV-1a, and a finalizer, because its low bits alone are not spread.
    mix(bytes.iter().fold(mix(seed), |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_cookie(revision: &str) -> Affinity {
        let affinity = api::Affinity { cookie: "sid".into(), max_age_seconds: 60, header: String::new() };
        Affinity::compile(&affinity, "uid", revision).unwrap()
    }

    fn by_header(revision: &str) -> Affinity {
        let affinity = api::Affinity { header: "X-User".into(), ..Default::default() };
        Affinity::compile(&affinity, "uid", revision).unwrap()
    }

    /// The bucket of a client that brings back what `Set-Cookie` said.
    fn returned(affinity: &Affinity, told: u8) -> Option<u8> {
        let mut set = Vec::new();
        affinity.write_cookie(told, &mut set);
        let pair = set.split(|byte| *byte == b';').next().unwrap();
        affinity.bucket([("accept", &b"*/*"[..]), ("Cookie", &[b"a=b; ", pair, b"; c"].concat())])
    }

    #[test]
    fn a_rising_weight_moves_clients_to_the_canary_only_and_by_exactly_its_share() {
        let (affinity, split) = (by_cookie("new"), Split::new(1));
        let clients: Vec<(Arm, u8)> = (0..10_000)
            .map(|client| affinity.pick(None, &split, 10, mix(client)))
            .map(|(arm, told)| (arm, returned(&affinity, told.unwrap()).unwrap()))
            .collect();
        let first = clients.iter().filter(|(arm, _)| *arm == Arm::Canary).count();
        assert!(first.abs_diff(1_000) <= 2, "new clients are split exactly: {first}");
        let mut before: Vec<Arm> = clients.iter().map(|(arm, _)| *arm).collect();
        for weight in [10, 25, 50, 80, 99] {
            let now: Vec<Arm> =
                clients.iter().map(|(_, bucket)| affinity.pick(Some(*bucket), &split, weight, 0).0).collect();
            assert!(before.iter().zip(&now).all(|(before, now)| before <= now), "somebody left the canary at {weight}");
            let share = now.iter().filter(|arm| **arm == Arm::Canary).count();
            assert!(share.abs_diff(usize::from(weight) * 100) < 200, "{share} of 10000 at {weight}");
            before = now;
        }
        assert!(clients.iter().all(|(_, bucket)| affinity.pick(Some(*bucket), &split, 0, 0).0 == Arm::Stable));
    }

    #[test]
    fn a_falling_weight_lets_go_of_those_above_it_only() {
        let (affinity, split) = (by_cookie("new"), Split::new(1));
        let arms =
            |weight| -> Vec<Arm> { (0..100).map(|bucket| affinity.pick(Some(bucket), &split, weight, 0).0).collect() };
        let (high, low) = (arms(50), arms(20));
        assert!(high.iter().zip(&low).all(|(high, low)| low <= high));
        assert_eq!(low.iter().filter(|arm| **arm == Arm::Canary).count(), 20);
    }

    #[test]
    fn a_header_gives_a_client_the_same_bucket_for_one_release_and_spreads_clients() {
        let (this, next, split) = (by_header("new"), by_header("newer"), Split::new(1));
        let bucket = |affinity: &Affinity, user: &str| affinity.bucket([("x-user", user.as_bytes())]).unwrap();
        let users: Vec<String> = (0..10_000).map(|user| format!("user-{user}")).collect();
        let low = users.iter().filter(|user| bucket(&this, user) < 10).count();
        assert!(low.abs_diff(1_000) < 120, "{low} of 10000 below 10");
        let both = users.iter().filter(|user| bucket(&this, user) < 10 && bucket(&next, user) < 10).count();
        assert!(both < 200, "another release has other guinea pigs: {both}");
        assert_eq!(this.bucket([("x-user", &b""[..])]), None);
        assert_eq!(this.pick(None, &split, 10, 7).1, None, "no cookie where a header says who it is");
    }

    #[test]
    fn cookies_that_are_not_ours_count_as_absent() {
        let affinity = by_cookie("new");
        let mut set = Vec::new();
        affinity.write_cookie(7, &mut set);
        let set = String::from_utf8(set).unwrap();
        let (value, attributes) = set.strip_prefix("sid=").unwrap().split_once("; ").unwrap();
        assert_eq!(attributes, "Path=/; Max-Age=60; HttpOnly; SameSite=Lax");
        let read = |cookie: &str| affinity.bucket([("cookie", cookie.as_bytes())]);
        assert_eq!(read(&format!("sid={value}")), Some(7));
        assert_eq!(read(&format!("x=y; sid=bad; sid={value}")), Some(7), "one of a parent domain does not hide ours");
        assert_eq!(by_cookie("newer").bucket([("cookie", format!("sid={value}").as_bytes())]), None);
        let (tag, _) = value.split_once('.').unwrap();
        for bad in [
            "",
            "7",
            &format!("{tag}.7"),
            &format!("{tag}.+7"),
            &format!("{tag}.777"),
            &format!("+{}.07", &tag[1..]),
            &"9".repeat(4096),
            "é.......é07",
        ] {
            assert_eq!(read(&format!("sid={bad}")), None, "{bad}");
        }
        assert_eq!(read(&format!("other={value}")), None);
        assert_eq!(read(&format!("xsid={value}")), None);
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused() {
        let refusal = |cookie: &str, header: &str, max_age_seconds| {
            let affinity = api::Affinity { cookie: cookie.into(), header: header.into(), max_age_seconds };
            Affinity::compile(&affinity, "u", "r").unwrap_err()
        };
        assert_eq!(refusal("", "", 60), Invalid::Key);
        assert_eq!(refusal("a", "b", 60), Invalid::Key);
        assert_eq!(refusal("a", "", 0), Invalid::MaxAge(0));
        for name in ["a;b", "a=b", "a\r\nx: y", "__Host-a", &"a".repeat(65)] {
            assert_eq!(refusal(name, "", 60), Invalid::Name(name.into()));
        }
    }
}
