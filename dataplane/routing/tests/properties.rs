//! What holds for every sequence of weights, messages and endpoints.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use proxy_api::v1beta1 as api;
use routing::merge::Merge;
use routing::{Arm, Split, balance};

#[derive(Clone, Debug)]
enum Said {
    Connected(u64),
    Snapshot(u64, Vec<(u8, u64)>),
    Upsert(u64, u8, u64),
    Removed(u64, u8),
    Disconnected(u64),
}

fn mk(uid: u8, counter: u64) -> api::Route {
    // The weight is a function of the counter, as it is in the operator.
    api::Route { uid: uid.to_string(), counter, weight: (counter * 7 % 101) as u32, ..Default::default() }
}

fn said() -> impl Strategy<Value = Said> {
    let (replica, uid, counter) = (0..3_u64, 0..3_u8, 1..6_u64);
    prop_oneof![
        replica.clone().prop_map(Said::Connected),
        (replica.clone(), prop::collection::vec((uid.clone(), counter.clone()), 0..3))
            .prop_map(|(replica, routes)| Said::Snapshot(replica, routes)),
        (replica.clone(), uid.clone(), counter).prop_map(|(replica, uid, counter)| Said::Upsert(replica, uid, counter)),
        (replica.clone(), uid).prop_map(|(replica, uid)| Said::Removed(replica, uid)),
        replica.prop_map(Said::Disconnected),
    ]
}

proptest! {
    #[test]
    fn the_share_is_exact_after_every_request_whatever_the_weights_were(
        seed: u64,
        weights in prop::collection::vec((0..=100_u8, 1..50_u32), 1..40),
    ) {
        let (split, mut owed, mut got) = (Split::new(seed), 0_i64, 0_i64);
        for (weight, requests) in weights {
            for _ in 0..requests {
                owed += i64::from(weight);
                got += i64::from(split.pick(weight) == Arm::Canary);
                prop_assert!((got * 100 - owed).abs() < 300, "{got} of {owed} / 100");
            }
        }
    }

    #[test]
    fn a_picked_endpoint_is_one_of_the_arm_and_was_not_excluded(count in 0..8_usize, random: u64, excluded: u8) {
        let is_excluded = |i: usize| excluded >> i & 1 == 1;
        match balance::choose(count, random, is_excluded, |_| 1.0) {
            Some(picked) => prop_assert!(picked < count && !is_excluded(picked)),
            None => prop_assert!((0..count).all(is_excluded)),
        }
    }

    #[test]
    fn no_replica_turns_a_route_back_or_removes_what_another_has(events in prop::collection::vec(said(), 0..60)) {
        let mut merge = Merge::default();
        // A model of what each live replica that has sent its state knows.
        let mut known: BTreeMap<u64, (bool, BTreeMap<String, u64>)> = BTreeMap::new();
        for event in events {
            let before: BTreeMap<String, u64> = merge.held().map(|r| (r.uid.clone(), r.counter)).collect();
            match event {
                Said::Connected(replica) => {
                    merge.connected(replica);
                    known.insert(replica, (false, BTreeMap::new()));
                }
                Said::Snapshot(replica, routes) => {
                    merge.snapshot(replica, routes.iter().map(|(uid, counter)| mk(*uid, *counter)).collect());
                    if let Some(state) = known.get_mut(&replica) {
                        *state = (true, routes.into_iter().map(|(uid, counter)| (uid.to_string(), counter)).collect());
                    }
                }
                Said::Upsert(replica, uid, counter) => {
                    merge.upsert(replica, mk(uid, counter));
                    if let Some(state) = known.get_mut(&replica) {
                        state.1.insert(uid.to_string(), counter);
                    }
                }
                Said::Removed(replica, uid) => {
                    merge.remove(replica, &uid.to_string());
                    if let Some(state) = known.get_mut(&replica) {
                        state.1.remove(&uid.to_string());
                    }
                }
                Said::Disconnected(replica) => {
                    merge.disconnected(replica);
                    known.remove(&replica);
                }
            }
            let after: BTreeMap<String, u64> = merge.held().map(|r| (r.uid.clone(), r.counter)).collect();
            let synced = || known.values().filter(|(synced, _)| *synced).map(|(_, routes)| routes);
            for (uid, counter) in &before {
                match after.get(uid) {
                    Some(now) => prop_assert!(now >= counter, "{uid} was turned back"),
                    None => prop_assert!(synced().count() > 0 && synced().all(|r| !r.contains_key(uid)), "{uid} lost"),
                }
            }
            for routes in synced() {
                for (uid, counter) in routes {
                    prop_assert!(after.get(uid).is_some_and(|held| held >= counter), "{uid} {counter} not in force");
                }
            }
        }
    }
}
