//! Ejections at chosen moments.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn policy() -> Policy {
    Policy::compile(&api::OutlierDetection::default()).unwrap()
}

fn targets(count: u16) -> Vec<Target> {
    (1..=count)
        .map(|port| Target { address: ([10, 0, 0, 1], port).into(), pod: format!("pod-{port}"), zone: String::new() })
        .collect()
}

fn ward(policy: Policy, count: u16) -> Ward {
    let targets = targets(count);
    Outliers::new(policy, targets.iter(), None).ward(Arm::Stable, &targets)
}

/// Five 500s of one endpoint at one moment; whether the last of them ejects it.
fn five(ward: &Ward, place: usize, now: Duration) -> bool {
    let ejected: Vec<_> = (0..5).map(|_| ward.answer(&ward.endpoints()[place], 500, now)).collect();
    assert_eq!(ejected[..4], [false; 4]);
    ejected[4]
}

fn ejected(ward: &Ward, place: usize, now: Duration) -> bool {
    ward.endpoints()[place].ejected(|| now)
}

#[test]
fn the_defaults_are_istios_but_for_the_share() {
    let wanted = Policy {
        consecutive_5xx: 5,
        consecutive_gateway: 0,
        interval: 10 * SECOND,
        base_ejection_time: 30 * SECOND,
        max_ejection_percent: 50,
    };
    assert_eq!(policy(), wanted);
    let asked = api::OutlierDetection { max_ejection_percent: Some(101), ..Default::default() };
    assert_eq!(Policy::compile(&asked), Err(Invalid::Percent(101)));
}

#[test]
fn five_in_a_row_eject_and_time_brings_back() {
    let ward = ward(policy(), 2);
    assert!(five(&ward, 0, SECOND));
    assert_eq!((ejected(&ward, 0, SECOND), ejected(&ward, 1, SECOND), ward.active(SECOND)), (true, false, 1));
    assert_eq!(ward.endpoints()[0].ejected_for(11 * SECOND), Some(20 * SECOND));
    assert!(!ejected(&ward, 0, 31 * SECOND));
    assert_eq!(ward.active(31 * SECOND), 0);
}

#[test]
fn a_success_begins_the_count_anew() {
    let ward = ward(policy(), 2);
    for _ in 0..10 {
        for code in [500, 503, 599, 500, 404] {
            assert!(!ward.answer(&ward.endpoints()[0], code, SECOND), "four failures and a 404");
        }
    }
}

#[test]
fn gateway_errors_are_counted_by_themselves() {
    let ward = ward(Policy { consecutive_5xx: 0, consecutive_gateway: 2, ..policy() }, 2);
    for code in [500, 502, 500, 503, 501, 504, 200] {
        assert!(!ward.answer(&ward.endpoints()[0], code, SECOND), "never two gateway errors in a row");
    }
    assert!(!ward.answer(&ward.endpoints()[0], 502, SECOND));
    assert!(ward.answer(&ward.endpoints()[0], 504, SECOND));
}

#[test]
fn ejections_grow_with_their_number_up_to_five_minutes() {
    let ward = ward(policy(), 2);
    let mut now = SECOND;
    for seconds in [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300] {
        assert!(five(&ward, 0, now));
        assert_eq!(ward.endpoints()[0].ejected_for(now), Some(seconds * SECOND));
        now += seconds * SECOND;
    }
    assert_eq!(Policy { base_ejection_time: 400 * SECOND, ..policy() }.ejection_time(3), 400 * SECOND);
}

#[test]
fn each_interval_of_service_forgives_one_ejection() {
    let ward = ward(policy(), 2);
    assert!(five(&ward, 0, SECOND));
    assert!(five(&ward, 0, 31 * SECOND));
    let (health, back) = (&ward.endpoints()[0], 91 * SECOND);
    let left = [0, 9, 10, 19, 20, 1_000].map(|served| health.ejections(10 * SECOND, back + served * SECOND));
    assert_eq!(left, [2, 2, 1, 1, 0, 0]);
    assert!(five(&ward, 0, back + 10 * SECOND));
    assert_eq!(health.ejected_for(back + 10 * SECOND), Some(60 * SECOND), "the second in a row, not the third");
}

#[test]
fn answers_that_were_under_way_do_not_prolong_an_ejection() {
    let ward = ward(policy(), 4);
    assert!(five(&ward, 0, SECOND));
    assert!(!five(&ward, 0, 2 * SECOND));
    assert_eq!(ward.endpoints()[0].ejected_for(2 * SECOND), Some(29 * SECOND));
    assert!(five(&ward, 1, 2 * SECOND));
}

#[test]
fn the_share_is_kept_and_the_last_endpoint_stays() {
    for (endpoints, percent, most) in
        [(1, 100, 0), (2, 100, 1), (2, 50, 1), (2, 49, 0), (3, 50, 1), (4, 50, 2), (9, 10, 0), (10, 10, 1), (5, 100, 4)]
    {
        let ward = ward(Policy { max_ejection_percent: percent, ..policy() }, endpoints);
        let ejected = (0..usize::from(endpoints)).filter(|place| five(&ward, *place, SECOND)).count();
        assert_eq!((ejected, ward.active(SECOND)), (most, most), "{percent} % of {endpoints}");
    }
}

#[test]
fn one_that_is_back_makes_room_for_another() {
    let ward = ward(policy(), 2);
    assert!(five(&ward, 0, SECOND));
    assert!(!five(&ward, 1, 30 * SECOND));
    assert!(five(&ward, 1, 31 * SECOND));
}

#[test]
fn state_outlives_changes_of_the_route_and_follows_a_pod_to_the_other_arm() {
    let pods = targets(3);
    let before = Outliers::new(policy(), pods.iter(), None);
    assert!(five(&before.ward(Arm::Canary, &pods[1..]), 0, SECOND));
    let after = Outliers::new(policy(), pods.iter(), Some(&before));
    let stable = after.ward(Arm::Stable, &pods);
    assert!(ejected(&stable, 1, SECOND));
    assert_eq!((after.ejections(Arm::Canary), after.ejections(Arm::Stable)), (1, 0));
    let other = Target { pod: "another".into(), ..pods[1].clone() };
    let replaced = Outliers::new(policy(), [&other].into_iter(), Some(&after));
    assert!(!ejected(&replaced.ward(Arm::Stable, &[other]), 0, SECOND), "another pod with the address of the first");
}

#[test]
fn workers_that_decide_at_once_keep_the_share() {
    for _ in 0..50 {
        let ward = ward(policy(), 4);
        std::thread::scope(|scope| {
            for place in 0..4 {
                let ward = &ward;
                scope.spawn(move || (0..5).any(|_| ward.answer(&ward.endpoints()[place], 500, SECOND)));
            }
        });
        assert_eq!(ward.active(SECOND), 2);
    }
}
