//! The algorithms on endpoints that answer in a time of their own, in a time that is counted and not waited for.

use std::net::SocketAddr;

use super::*;

const MILLISECOND: Duration = Duration::from_millis(1);

/// Endpoints that the test sees all of.
struct Fake {
    now: Duration,
    all: Vec<One>,
}

struct One {
    ewma: PeakEwma,
    in_flight: u32,
    born: Duration,
    takes: Duration,
    served: u32,
}

impl Endpoints for Fake {
    fn count(&self) -> usize {
        self.all.len()
    }
    fn identity(&self, endpoint: usize) -> u64 {
        hash::identity(SocketAddr::from(([10, 0, 0, endpoint as u8], 80)))
    }
    fn in_flight(&self, endpoint: usize) -> u32 {
        self.all[endpoint].in_flight
    }
    fn load(&self, endpoint: usize) -> f64 {
        self.all[endpoint].ewma.load(self.all[endpoint].in_flight, self.now)
    }
    fn age(&self, endpoint: usize) -> Duration {
        self.now - self.all[endpoint].born
    }
}

impl Fake {
    /// Each takes so many milliseconds for an answer.
    fn new(takes: &[u32]) -> Self {
        let mut fake = Self { now: Duration::ZERO, all: Vec::new() };
        takes.iter().for_each(|takes| fake.join(*takes));
        fake
    }

    fn join(&mut self, takes: u32) {
        let mut peers: Vec<f64> = self.all.iter().map(|one| one.ewma.micros(self.now)).collect();
        let ewma = PeakEwma::among(&mut peers, self.now);
        self.all.push(One { ewma, in_flight: 0, born: self.now, takes: takes * MILLISECOND, served: 0 });
    }

    /// So many requests, one each millisecond, each under way for as long as its endpoint takes; returns who served how
    /// many of them.
    fn serve(&mut self, balance: &Balance, requests: u64) -> Vec<u32> {
        let round = Round::default();
        let mut open: Vec<(Duration, usize)> = Vec::new();
        self.all.iter_mut().for_each(|one| one.served = 0);
        for request in 0..requests {
            self.now += MILLISECOND;
            let now = self.now;
            open.retain(|(end, endpoint)| {
                let one = &mut self.all[*endpoint];
                if *end <= now {
                    one.in_flight -= 1;
                    one.ewma.observe(one.takes, now);
                }
                *end > now
            });
            let chosen = balance.choose(self, &round, mix(request), None, |_| false).unwrap();
            let one = &mut self.all[chosen];
            (one.in_flight, one.served) = (one.in_flight + 1, one.served + 1);
            open.push((now + one.takes, chosen));
        }
        for (_, endpoint) in open {
            self.all[endpoint].in_flight -= 1;
        }
        self.all.iter().map(|one| one.served).collect()
    }
}

fn mk(algorithm: Algorithm) -> Balance {
    Balance { algorithm, warmup: None, locality: None }
}

fn mk_simple(simple: api::load_balancer::Simple, warmup: Option<api::Warmup>) -> Result<Option<Balance>, Invalid> {
    let algorithm = Some(api::load_balancer::Algorithm::Simple(simple.into()));
    Balance::compile(&api::LoadBalancer { algorithm, warmup, ..Default::default() })
}

#[test]
fn equals_get_equal_shares_by_every_algorithm() {
    for algorithm in [Algorithm::PeakEwma, Algorithm::LeastRequest, Algorithm::Random] {
        let served = Fake::new(&[3; 4]).serve(&mk(algorithm.clone()), 40_000);
        assert!(served.iter().all(|count| count.abs_diff(10_000) < 600), "{algorithm:?}: {served:?}");
    }
    assert_eq!(Fake::new(&[3; 4]).serve(&mk(Algorithm::RoundRobin), 40_000), [10_000; 4]);
}

#[test]
fn a_slow_endpoint_is_avoided_by_latency_and_by_what_is_under_way() {
    let takes = [5, 5, 5, 200];
    let by_latency = Fake::new(&takes).serve(&mk(Algorithm::PeakEwma), 20_000);
    assert!(by_latency[3] < 400, "{by_latency:?}");
    // What counts requests only notices later, and more of them are hit.
    let by_requests = Fake::new(&takes).serve(&mk(Algorithm::LeastRequest), 20_000);
    assert!(by_requests[3] < 2_000 && by_requests[3] > by_latency[3], "{by_requests:?}");
    assert_eq!(Fake::new(&takes).serve(&mk(Algorithm::RoundRobin), 20_000)[3], 5_000);
}

#[test]
fn an_endpoint_that_was_slow_is_tried_again_after_a_while_and_comes_back() {
    let mut fake = Fake::new(&[2, 2, 2_000]);
    let balance = mk(Algorithm::PeakEwma);
    fake.serve(&balance, 10_000);
    fake.all[2].takes = 2 * MILLISECOND;
    let soon = fake.serve(&balance, 1_000);
    fake.serve(&balance, 130_000);
    let late = fake.serve(&balance, 9_000);
    assert_eq!(soon[2], 0, "not while the peak is fresh: {soon:?}");
    assert!(late[2] > 1_500, "{late:?}");
}

#[test]
fn a_new_endpoint_gets_its_share_from_the_start_and_not_more() {
    for takes in [1, 5, 100] {
        let mut fake = Fake::new(&[takes; 3]);
        let balance = mk(Algorithm::PeakEwma);
        fake.serve(&balance, 60_000);
        fake.join(takes);
        let served = fake.serve(&balance, 2_000);
        assert!((300..=800).contains(&served[3]), "{takes} ms: {served:?}");
    }
}

#[test]
fn the_share_of_a_new_endpoint_rises_along_its_curve() {
    use api::load_balancer::Simple;
    let warmup = api::Warmup { duration_ms: 100_000, minimum_percent: Some(10), aggression: None };
    for simple in [Simple::PeakEwma, Simple::LeastRequest, Simple::RoundRobin, Simple::Random] {
        let balance = mk_simple(simple, Some(warmup)).unwrap().unwrap();
        let mut fake = Fake::new(&[1; 3]);
        fake.now = Duration::from_secs(200);
        fake.join(1);
        // By latency, who is asked less often looks better than it is: what P2C can make of that is at most double.
        let most = if simple == Simple::PeakEwma { 2 } else { 1 };
        let mut before = 0;
        for (tenth, percent) in [10, 15, 25, 35, 45, 55, 65, 75, 85, 95, 100].into_iter().enumerate() {
            let served = fake.serve(&balance, 10_000);
            // Three whole shares and this part of one; sampled over ten seconds.
            let wanted = 10_000 * percent / (300 + percent);
            let bounds = wanted - wanted.min(200)..=most * wanted + 200;
            assert!(bounds.contains(&served[3]), "{simple:?}, {tenth}: {served:?}, wanted {wanted}");
            assert!(served[3] + 150 > before, "{simple:?}, {tenth}: {served:?} after {before}");
            before = served[3];
        }
    }
}

#[test]
fn where_all_are_new_all_serve_alike() {
    let warmup = api::Warmup { duration_ms: 3_600_000, ..Default::default() };
    let balance = mk_simple(api::load_balancer::Simple::LeastRequest, Some(warmup)).unwrap().unwrap();
    let served = Fake::new(&[1; 4]).serve(&balance, 20_000);
    assert!(served.iter().all(|count| count.abs_diff(5_000) < 400), "{served:?}");
    assert_eq!(Fake::new(&[1]).serve(&balance, 100), [100]);
}

#[test]
fn a_key_has_one_endpoint_and_a_request_without_key_goes_by_the_default() {
    let balance = mk(Algorithm::ConsistentHash(HashKey::SourceIp));
    let (fake, round) = (Fake::new(&[1; 5]), Round::default());
    for key in (0..500).map(mix) {
        let owner = balance.choose(&fake, &round, 1, Some(key), |_| false).unwrap();
        let again = balance.choose(&fake, &round, mix(key), Some(key), |_| false);
        assert_eq!(again, Some(owner));
        let heir = balance.choose(&fake, &round, 1, Some(key), |endpoint| endpoint == owner);
        assert!(heir.is_some_and(|heir| heir != owner), "a retry goes elsewhere");
        assert_eq!(heir, balance.choose(&fake, &round, 2, Some(key), |endpoint| endpoint == owner));
    }
    let served = Fake::new(&[5, 5, 200]).serve(&balance, 10_000);
    assert!(served[2] < 300, "{served:?}");
}

#[test]
fn what_is_asked_for_is_what_is_done() {
    use api::load_balancer::{Algorithm as Asked, Simple};
    for (simple, name) in
        [(Simple::LeastRequest, "LEAST_REQUEST"), (Simple::RoundRobin, "ROUND_ROBIN"), (Simple::Random, "RANDOM")]
    {
        assert_eq!(mk_simple(simple, None).unwrap().unwrap().name(), name);
    }
    assert_eq!(mk_simple(Simple::PeakEwma, None), Ok(None), "the default costs nothing");
    assert_eq!(Balance::compile(&api::LoadBalancer::default()), Ok(None));
    let unknown = api::LoadBalancer { algorithm: Some(Asked::Simple(9)), ..Default::default() };
    assert_eq!(Balance::compile(&unknown), Err(Invalid::Simple(9)));
    let key = Some(api::consistent_hash::Key::UseSourceIp(true));
    let algorithm = Some(Asked::ConsistentHash(api::ConsistentHash { key }));
    let warmup = Some(api::Warmup { duration_ms: 1, ..Default::default() });
    let hashed = api::LoadBalancer { algorithm, warmup, ..Default::default() };
    assert_eq!(Balance::compile(&hashed), Err(Invalid::WarmHash));
    let locality_lb_setting = Some(api::LocalityLbSetting::default());
    let near = api::LoadBalancer { locality_lb_setting, ..Default::default() };
    assert_eq!(Balance::compile(&near).unwrap().unwrap().name(), DEFAULT);
    let both = api::LoadBalancer {
        warmup: None,
        ..api::LoadBalancer { locality_lb_setting: near.locality_lb_setting, ..hashed }
    };
    assert_eq!(Balance::compile(&both), Err(Invalid::NearHash));
}

#[test]
fn every_algorithm_chooses_within_the_zone_and_leaves_it_only_for_want_of_an_endpoint() {
    let target = |place: u8| crate::table::Target {
        address: SocketAddr::from(([10, 0, 0, place], 80)),
        pod: String::new(),
        zone: if place.is_multiple_of(2) { "a".into() } else { "b".into() },
    };
    let targets: Vec<_> = (0..6).map(target).collect();
    let of_zone = |zone: &str| api::ZoneProxies { zone: zone.into(), proxies: 1 };
    let locality = Locality::compile(&api::LocalityLbSetting { proxies: vec![of_zone("a"), of_zone("b")] });
    let [zones, _] = locality.prefer("a", [&targets, &[]], false).unwrap();
    for algorithm in [Algorithm::PeakEwma, Algorithm::LeastRequest, Algorithm::RoundRobin, Algorithm::Random] {
        let (balance, fake) = (mk(algorithm.clone()), Fake::new(&[1; 6]));
        let rounds: Vec<_> = (0..zones.count()).map(|_| Round::default()).collect();
        let round = Round::default();
        let counts = |excluded: &dyn Fn(usize) -> bool| {
            let mut counts = [0_u32; 6];
            for random in (0..6_000).map(mix) {
                let now = || Duration::ZERO;
                let chosen = balance.choose_near(&zones, &fake, (&rounds, &round), random, excluded, now);
                counts[chosen.unwrap()] += 1;
            }
            counts
        };
        let near = counts(&|_| false);
        assert!([0, 2, 4].iter().all(|place| near[*place].abs_diff(2_000) < 250), "{algorithm:?}: {near:?}");
        assert_eq!(near[1] + near[3] + near[5], 0, "{algorithm:?}");
        // Two thirds of the zone are out: two thirds of its requests are for the four that are left of the arm.
        let some = counts(&|place| place == 0 || place == 2);
        assert!((0..6).all(|place| (some[place] == 0) == (place == 0 || place == 2)), "{algorithm:?}: {some:?}");
        assert!(some[4].abs_diff(3_000) < 300, "{algorithm:?}: {some:?}");
        let abroad = counts(&|place| place.is_multiple_of(2));
        assert!([1, 3, 5].iter().all(|place| abroad[*place].abs_diff(2_000) < 250), "{algorithm:?}: {abroad:?}");
        let (now, nobody) = (|| Duration::ZERO, |_| true);
        assert_eq!(balance.choose_near(&zones, &fake, (&rounds, &round), 1, nobody, now), None, "{algorithm:?}");
    }
}

#[test]
fn a_zone_whose_only_endpoint_is_new_keeps_as_much_as_it_may_get_unless_arms_are_compared() {
    let target = |zone: &str, place: u8| crate::table::Target {
        address: SocketAddr::from(([10, 0, 0, place], 80)),
        pod: String::new(),
        zone: zone.into(),
    };
    let targets = [target("a", 1), target("b", 2)];
    let of_zone = |zone: &str| api::ZoneProxies { zone: zone.into(), proxies: 1 };
    let locality = Locality::compile(&api::LocalityLbSetting { proxies: vec![of_zone("a"), of_zone("b")] });
    let warmup = api::Warmup { duration_ms: 100_000, minimum_percent: Some(10), aggression: None };
    let balance = mk_simple(api::load_balancer::Simple::Random, Some(warmup)).unwrap().unwrap();
    let mut fake = Fake::new(&[1]);
    fake.now = Duration::from_secs(200);
    fake.join(1);
    let of_new = |compared: bool| {
        let [zones, _] = locality.prefer("b", [&targets, &targets], compared).unwrap();
        let rounds = [Round::default()];
        let chosen = (0..10_000).filter(|request| {
            let (random, now) = (mix(*request), || Duration::ZERO);
            balance.choose_near(&zones, &fake, (&rounds, &Round::default()), random, |_| false, now) == Some(1)
        });
        chosen.count()
    };
    // A tenth at home; of the rest, which all serve, one of eleven parts.
    assert!(of_new(false).abs_diff(1_000 + 9_000 / 11) < 400, "{}", of_new(false));
    assert_eq!(of_new(true), 10_000);
}
