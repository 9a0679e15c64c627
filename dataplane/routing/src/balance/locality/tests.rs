//! Flows between zones, counted exactly from the shares, and the draws that follow them.

use std::collections::BTreeSet;

use super::*;
use crate::balance::draw;
use crate::outlier::{Outliers, Policy};
use crate::split::Arm;

fn mk_locality(proxies: &[(&str, u32)]) -> Locality {
    let of_zone = |(zone, proxies): &(&str, u32)| api::ZoneProxies { zone: (*zone).into(), proxies: *proxies };
    Locality::compile(&api::LocalityLbSetting { proxies: proxies.iter().map(of_zone).collect() })
}

/// An endpoint per letter, in the zone of that name; `-`: unknown.
fn mk_targets(zones: &str) -> Vec<Target> {
    let target = |(place, zone): (usize, char)| Target {
        address: ([10, 0, 0, place as u8], 80).into(),
        pod: format!("pod-{place}"),
        zone: if zone == '-' { String::new() } else { zone.to_string() },
    };
    zones.chars().enumerate().map(target).collect()
}

fn alone(locality: &Locality, zone: &str, targets: &[Target]) -> Zones {
    let [stable, _] = locality.prefer(zone, [targets, &[]], false).unwrap();
    stable
}

/// The part of a proxy's requests that goes to each endpoint, where all in a zone are equal.
fn parts(zones: &Zones, targets: usize) -> Vec<f64> {
    let mut parts = vec![0.0; targets];
    let mut from = 0.0;
    for zone in &zones.zones {
        for place in &zone.members {
            parts[*place] += (zone.until - from) / zone.members.len() as f64;
        }
        from = zone.until;
    }
    parts
}

/// What each endpoint gets of all requests, times the number of endpoints: 1 is an even share.
fn loads(proxies: &[(&str, u32)], targets: &[Target]) -> Vec<f64> {
    let locality = mk_locality(proxies);
    let all: u32 = proxies.iter().map(|(_, count)| count).sum();
    let mut loads = vec![0.0; targets.len()];
    for (zone, count) in proxies {
        let zones = alone(&locality, zone, targets);
        for (load, part) in loads.iter_mut().zip(parts(&zones, targets.len())) {
            *load += part * f64::from(*count) / f64::from(all) * targets.len() as f64;
        }
    }
    loads
}

fn places(zones: &Zones, requests: u64, excluded: impl Fn(usize) -> bool) -> Vec<Option<usize>> {
    let draw = |random| {
        let (_, members) = zones.draw(random, &excluded, || Duration::ZERO)?;
        draw::any(members.len(), random, |member| excluded(members[member]), |_, _| true).map(|member| members[member])
    };
    (0..requests).map(|request| draw(mix(request))).collect()
}

#[test]
fn requests_stay_in_their_zone_where_each_has_its_share() {
    let proxies = [("a", 1), ("b", 1), ("c", 1)];
    for targets in ["abc", "aabbcc", "aaaabbbccc"] {
        let targets = mk_targets(targets);
        for zone in ["a", "b", "c"] {
            let zones = alone(&mk_locality(&proxies), zone, &targets);
            assert_eq!((zones.kept(), zones.count()), (1.0, 1), "{zone}");
            assert!(places(&zones, 100, |_| false).iter().all(|place| targets[place.unwrap()].zone == zone));
        }
    }
}

#[test]
fn a_zone_with_few_endpoints_keeps_what_they_can_bear_and_the_rest_goes_where_there_is_room() {
    // Half of the requests come through zone a, which has a quarter of the endpoints: 1.2 quarters stay.
    let (proxies, targets) = ([("a", 1), ("b", 1)], mk_targets("abbb"));
    let from_a = alone(&mk_locality(&proxies), "a", &targets);
    assert!((from_a.kept() - 0.6).abs() < 1e-9, "{}", from_a.kept());
    assert_eq!(alone(&mk_locality(&proxies), "b", &targets).kept(), 1.0);
    let drawn = places(&from_a, 10_000, |_| false);
    let near = drawn.iter().filter(|place| **place == Some(0)).count();
    assert!(near.abs_diff(6_000) < 300, "{near}");
    let loads = loads(&proxies, &targets);
    assert!((loads[0] - 1.2).abs() < 1e-9 && loads[1..].iter().all(|load| *load < 1.0), "{loads:?}");
}

#[test]
fn a_zone_without_endpoints_is_served_by_those_that_have_room() {
    let (proxies, targets) = ([("a", 2), ("b", 1), ("c", 1)], mk_targets("aabc"));
    assert_eq!(alone(&mk_locality(&proxies), "c", &targets).kept(), 1.0);
    let targets = mk_targets("aabb");
    let from_c = alone(&mk_locality(&proxies), "c", &targets);
    // Zone a has its share already: all of c goes to b.
    assert_eq!((from_c.kept(), parts(&from_c, 4)), (0.0, vec![0.0, 0.0, 0.5, 0.5]));
    assert_eq!(loads(&proxies, &targets), [1.0; 4]);
}

#[test]
fn no_endpoint_is_ever_overloaded_and_no_request_is_lost() {
    let zones = ["a", "b", "c", ""];
    for seed in 0..3_000_u64 {
        let random = |n: u64, below: u64| mix(mix(seed) ^ n) % below;
        let proxies: Vec<_> = zones.iter().zip(0..).map(|(zone, n)| (*zone, random(n, 5) as u32)).collect();
        let proxies: Vec<_> = proxies.into_iter().filter(|(_, count)| *count > 0).collect();
        let letters: String = (0..=random(10, 12)).map(|n| ['a', 'b', 'c', '-'][random(20 + n, 4) as usize]).collect();
        if proxies.is_empty() {
            continue;
        }
        let loads = loads(&proxies, &mk_targets(&letters));
        let all: f64 = loads.iter().sum();
        assert!((all - letters.len() as f64).abs() < 1e-6, "{proxies:?}, {letters}: {loads:?}");
        assert!(loads.iter().all(|load| *load < 1.2 + 1e-6), "{proxies:?}, {letters}: {loads:?}");
    }
}

#[test]
fn where_no_zone_is_known_all_endpoints_are_drawn_alike() {
    for (proxies, zone) in [(vec![("", 2)], ""), (vec![], "")] {
        let zones = alone(&mk_locality(&proxies), zone, &mk_targets("---"));
        assert_eq!((zones.kept(), parts(&zones, 3)), (0.0, vec![1.0 / 3.0; 3]));
    }
    // A proxy that does not know its own zone lightens those that others keep less of.
    let zones = alone(&mk_locality(&[("a", 1), ("", 1)]), "", &mk_targets("ab"));
    assert_eq!(parts(&zones, 2), [0.0, 1.0]);
}

#[test]
fn a_proxy_that_is_not_counted_yet_counts_itself() {
    let zones = alone(&mk_locality(&[("a", 1)]), "b", &mk_targets("ab"));
    assert_eq!(zones.kept(), 1.0);
    let lonely = alone(&Locality::default(), "a", &mk_targets("ab"));
    // All requests come through zone a, which has half of the endpoints.
    assert!((lonely.kept() - 0.6).abs() < 1e-9);
    assert_eq!(alone(&mk_locality(&[("a", 1)]), "a", &[]).count(), 0);
    assert_eq!(alone(&mk_locality(&[("a", 1)]), "a", &[]).draw(7, |_| false, || Duration::ZERO), None);
}

#[test]
fn arms_that_are_compared_stay_in_their_zones_both_or_not_at_all() {
    let locality = mk_locality(&[("a", 1), ("b", 1), ("c", 1)]);
    let stable = mk_targets("aaaabbbccc");
    for (canary, fair) in
        [("abc", true), ("aabbcc", true), ("a", false), ("ab", false), ("aabc", false), ("ab-", false)]
    {
        let canary = mk_targets(canary);
        for (stable, canary) in [(&stable, &canary), (&canary, &stable)] {
            for zone in ["a", "b", "c"] {
                let preferred = locality.prefer(zone, [stable, canary], true);
                assert_eq!(preferred.is_some(), fair, "{zone}: {canary:?}");
                assert!(preferred.is_none_or(|arms| arms.iter().all(|arm| arm.kept() == 1.0 && arm.count() == 1)));
            }
        }
    }
    // Where the proxies are not known to be, no arm can be said to be near.
    assert!(mk_locality(&[("a", 1), ("", 1)]).prefer("a", [&mk_targets("aa-"), &mk_targets("a-")], true).is_none());
    assert!(mk_locality(&[("", 1)]).prefer("", [&mk_targets("--"), &mk_targets("-")], true).is_none());
}

#[test]
fn who_is_left_out_takes_its_part_of_the_zone_along() {
    let zones = alone(&mk_locality(&[("a", 1), ("b", 1)]), "a", &mk_targets("aabb"));
    let drawn = places(&zones, 10_000, |place| place == 0);
    let near: BTreeSet<_> = drawn.iter().flatten().collect();
    assert_eq!(near, BTreeSet::from([&1]));
    let abroad = drawn.iter().filter(|place| place.is_none()).count();
    assert!(abroad.abs_diff(5_000) < 300, "{abroad}");
    assert!(places(&zones, 1_000, |place| place < 2).iter().all(Option::is_none), "nobody is left: all of the arm");
}

#[test]
fn who_is_left_out_of_one_arm_sends_as_many_of_the_other_abroad() {
    let locality = mk_locality(&[("a", 1), ("b", 1)]);
    let stable = mk_targets("aabb");
    let mut canary = stable.clone();
    canary.iter_mut().for_each(|target| target.pod.push_str("-new"));
    let asked = api::OutlierDetection { consecutive_5xx_errors: Some(1), ..Default::default() };
    let outliers = Outliers::new(Policy::compile(&asked).unwrap(), stable.iter().chain(&canary), None);
    let wards = [Arc::new(outliers.ward(Arm::Stable, &stable)), Arc::new(outliers.ward(Arm::Canary, &canary))];
    let [zones, _] = Zones::paired(locality.prefer("a", [&stable, &canary], true).unwrap(), &wards);
    let [_, ward] = wards;
    let abroad = |now: Duration| {
        let draws = (0..10_000).map(|request| zones.draw(mix(request), |_| false, || now));
        draws.filter(Option::is_none).count()
    };
    assert_eq!(abroad(Duration::ZERO), 0);
    assert!(ward.answer(&ward.endpoints()[1], 500, Duration::ZERO));
    assert!(abroad(Duration::from_secs(1)).abs_diff(5_000) < 300);
    assert_eq!(abroad(Duration::from_secs(100)), 0, "it is back");
}
