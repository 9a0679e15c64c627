//! Zone preference (Istio's `localityLbSetting`, by the rule of Envoy's zone aware routing): how much of an arm's requests
//! stays in the zone of this proxy, and where the rest goes.
//!
//! Only says the zone; the endpoint in it is the algorithm's choice, and the arm was picked before. Requests come through the
//! proxies in equal parts. What those of a zone bring stays there up to [`OVERLOAD`] times the even share of its endpoints;
//! the rest goes to zones that have less than their even share, in proportion to what they lack. So nobody is overloaded by
//! it, and zones whose name is unknown are one zone like the others, to which nobody is near.
//!
//! While two arms are compared, a request must be as likely to leave its zone in one as in the other: the preference is
//! either in force for all requests of both, in all zones, or for none (docs/decisions/zones-are-fair-to-both-arms.md).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proxy_api::v1beta1 as api;

use super::unit;
use crate::outlier::Ward;
use crate::split::mix;
use crate::table::Target;

/// Times its even share that an endpoint may get because it is near, as (6, 5): Kubernetes' topology hints' threshold
/// (`overloadThreshold`), so that four pods in three zones do not send a tenth of all requests abroad.
const OVERLOAD: (u64, u64) = (6, 5);
/// Proxies of a zone that are told apart; keeps products of counts far below the end of a `u64`.
const MOST_PROXIES: u32 = 65_535;
/// Makes independent draws of one random number.
const ZONE: u64 = 0x5a6f_6e65;
const NEAR: u64 = 0x4e65_6172;
const PEER: u64 = 0x5065_6572;

/// What a route asks for: its proxies by zone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locality {
    proxies: BTreeMap<String, u32>,
}

/// Where the requests of one arm go that come through this proxy.
#[derive(Debug, Default)]
pub struct Zones {
    /// The share that stays, 0..=1.
    kept: f64,
    /// The first one is this proxy's own zone, if any stays.
    zones: Vec<Zone>,
    /// Held against the other arm's.
    compared: bool,
    /// Endpoints of the other arm in this zone, if the two are compared and any may be left out.
    peers: Option<Peers>,
}

#[derive(Debug)]
struct Zone {
    /// End of its part of 0..1; parts follow each other.
    until: f64,
    /// Places in the arm's list.
    members: Vec<usize>,
}

#[derive(Debug)]
struct Peers {
    members: Vec<usize>,
    ward: Arc<Ward>,
}

/// What one zone has of one arm, in units of which all zones together have the same number of each.
#[derive(Debug, Default)]
struct Share {
    /// Of the requests.
    requests: u64,
    /// Of the endpoints.
    even: u64,
    /// Of the requests, those that stay.
    kept: u64,
    members: Vec<usize>,
}

impl Locality {
    /// As asked for.
    #[must_use]
    pub fn compile(asked: &api::LocalityLbSetting) -> Self {
        let mut proxies = BTreeMap::<String, u32>::new();
        for of_zone in &asked.proxies {
            let count = proxies.entry(of_zone.zone.clone()).or_default();
            *count = count.saturating_add(of_zone.proxies).min(MOST_PROXIES);
        }
        Self { proxies }
    }

    /// For a proxy in `zone` ("": unknown), for stable and canary. `None`: not in force, because the arms are `compared`
    /// and one of them cannot serve every zone by itself.
    #[must_use]
    pub fn prefer(&self, zone: &str, arms: [&[Target]; 2], compared: bool) -> Option<[Zones; 2]> {
        let shares = arms.map(|targets| self.shares(zone, targets));
        let all_stay = |shares: &BTreeMap<&str, Share>| {
            shares.iter().all(|(zone, share)| share.kept == share.requests && (share.requests == 0 || !zone.is_empty()))
        };
        (!compared || shares.iter().all(all_stay)).then(|| shares.map(|shares| Zones::new(zone, shares, compared)))
    }

    fn shares<'a>(&'a self, own: &'a str, targets: &'a [Target]) -> BTreeMap<&'a str, Share> {
        // This proxy is one of its zone's, even if it is not counted yet.
        let mut proxies: BTreeMap<&str, u64> =
            self.proxies.iter().map(|(zone, count)| (zone.as_str(), u64::from(*count))).collect();
        let of_own = proxies.entry(own).or_default();
        *of_own = (*of_own).max(1);
        let (all_proxies, all_targets) = (proxies.values().sum::<u64>(), targets.len() as u64);
        let mut shares = BTreeMap::<&str, Share>::new();
        for (zone, count) in proxies {
            shares.entry(zone).or_default().requests = count * all_targets * OVERLOAD.1;
        }
        for (place, target) in targets.iter().enumerate() {
            let share = shares.entry(&target.zone).or_default();
            share.even += all_proxies * OVERLOAD.1;
            share.members.push(place);
        }
        for (zone, share) in &mut shares {
            let most = share.even / OVERLOAD.1 * OVERLOAD.0;
            share.kept = if zone.is_empty() { 0 } else { share.requests.min(most) };
        }
        shares
    }
}

impl Zones {
    fn new(own: &str, mut shares: BTreeMap<&str, Share>, compared: bool) -> Self {
        let mut zones = Vec::new();
        let mut kept = 0.0;
        if let Some(share) = shares.get_mut(own).filter(|share| share.kept > 0) {
            kept = share.kept as f64 / share.requests as f64;
            zones.push(Zone { until: kept, members: std::mem::take(&mut share.members) });
        }
        let lacking = |share: &Share| share.even.saturating_sub(share.kept);
        let all: u64 = shares.values().map(lacking).sum();
        let mut passed = 0;
        for share in shares.into_values().filter(|share| kept < 1.0 && lacking(share) > 0) {
            passed += lacking(&share);
            let until = kept + (1.0 - kept) * passed as f64 / all as f64;
            zones.push(Zone { until, members: share.members });
        }
        Self { kept, zones, compared, peers: None }
    }

    /// Of arms that are compared: what is left out of one counts in the other, too.
    #[must_use]
    pub fn paired([stable, canary]: [Self; 2], [of_stable, of_canary]: &[Arc<Ward>; 2]) -> [Self; 2] {
        let near = |arm: &Self, ward| {
            let own = arm.zones.first()?;
            Some(Peers { members: own.members.clone(), ward: Arc::clone(ward) })
        };
        let (stable_peers, canary_peers) = (near(&canary, of_canary), near(&stable, of_stable));
        [Self { peers: stable_peers, ..stable }, Self { peers: canary_peers, ..canary }]
    }

    /// The share of this proxy's requests that stays in its zone while no endpoint is left out, 0..=1.
    #[must_use]
    pub fn kept(&self) -> f64 {
        self.kept
    }

    /// Whether the arm's requests are held against the other arm's.
    #[must_use]
    pub fn compared(&self) -> bool {
        self.compared
    }

    /// How many zones are drawn from.
    #[must_use]
    pub fn count(&self) -> usize {
        self.zones.len()
    }

    /// The zone of one request: its number, below [`Zones::count`], and the places of its endpoints, not all of them
    /// `excluded`; `None`: any endpoint of the arm. A zone gives up as large a part of its requests as there are endpoints
    /// of it excluded, to all of the arm, so that those that are left do not serve for them; and the same part of them in
    /// both arms, where they are compared. `now` is asked for only if an endpoint of the other arm was ever left out.
    pub fn draw(
        &self,
        random: u64,
        excluded: impl Fn(usize) -> bool,
        now: impl Fn() -> Duration,
    ) -> Option<(usize, &[usize])> {
        let part = unit(mix(random ^ ZONE));
        let number = self.zones.iter().position(|zone| part < zone.until)?;
        let members = self.zones[number].members.as_slice();
        let any =
            |members: &[usize], salt: u64| members.get(mix(random ^ salt) as usize % members.len().max(1)).copied();
        let out = any(members, NEAR).is_none_or(excluded)
            || self.peers.as_ref().is_some_and(|peers| {
                let peer = any(&peers.members, PEER).and_then(|place| peers.ward.endpoints().get(place));
                peer.is_none_or(|health| health.ejected(now))
            });
        (!out).then_some((number, members))
    }
}

#[cfg(test)]
mod tests;
