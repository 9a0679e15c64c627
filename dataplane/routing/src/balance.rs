//! Which endpoint of an arm serves a request. Only endpoints of the arm that was picked are seen: the split comes first.
//!
//! A route without a word on it has no [`Balance`]: the better of two random endpoints, by peak-EWMA latency and requests
//! in flight ([`choose`]; Finagle's `Balancers.p2cPeakEwma`, Linkerd's `p2c`). [`draw`] has the draws, [`ewma`] the
//! estimate, [`hash`] keys and their owners, [`warmup`] the share of new endpoints, [`locality`] the zone.

pub mod draw;
pub mod ewma;
pub mod hash;
pub mod locality;
pub mod warmup;

use std::time::Duration;

use proxy_api::v1beta1 as api;

pub use draw::Round;
pub use ewma::PeakEwma;
pub use hash::{HashKey, Keyed};
pub use locality::{Locality, Zones};
pub use warmup::Warmup;

use crate::split::mix;

/// How the endpoints of one route are chosen among; the words are Istio's.
#[derive(Clone, Debug, PartialEq)]
pub struct Balance {
    /// By what.
    pub algorithm: Algorithm,
    /// What new endpoints get of their share; none: all of it.
    pub warmup: Option<Warmup>,
    /// Whether, and how, endpoints of the proxy's own zone come first.
    pub locality: Option<Locality>,
}

/// By what one is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// The better of two by latency and requests in flight.
    PeakEwma,
    /// The better of two by requests in flight.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
    /// The owner of the request's key; without a key as [`Self::PeakEwma`].
    ConsistentHash(HashKey),
}

/// A load balancer that cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not one of this proxy's.
    #[error("load balancer {0} is not known to this proxy")]
    Simple(i32),
    /// Nothing to hash.
    #[error("consistentHash takes httpHeaderName, httpCookie or useSourceIp")]
    NoKey,
    /// Not a token (RFC 9110 §5.6.2), too long, or a cookie name that browsers keep for `Secure` cookies.
    #[error("consistentHash cannot use the name {0:?}")]
    Name(String),
    /// Not one that a cookie can have.
    #[error("consistentHash cannot use the path {0:?}")]
    Path(String),
    /// Out of range.
    #[error("consistentHash has a ttl of {0} s, must be at most a year")]
    Ttl(u64),
    /// A hash leaves no choice.
    #[error("warmup does not go with consistentHash")]
    WarmHash,
    /// A key has one owner, wherever it is.
    #[error("localityLbSetting does not go with consistentHash")]
    NearHash,
    /// Without length.
    #[error("warmup needs a duration")]
    NoDuration,
    /// Out of range.
    #[error("warmup has a minimum of {0} %, must be at most 100")]
    MinimumPercent(u32),
    /// Out of range.
    #[error("warmup needs an aggression of at least 1")]
    Aggression,
}

/// The endpoints of one arm, as what chooses among them sees them; by their place in the list.
pub trait Endpoints {
    /// How many.
    fn count(&self) -> usize;
    /// [`hash::identity`] of its address.
    fn identity(&self, endpoint: usize) -> u64;
    /// Requests under way.
    fn in_flight(&self, endpoint: usize) -> u32;
    /// [`PeakEwma::load`].
    fn load(&self, endpoint: usize) -> f64;
    /// Since it was first heard of.
    fn age(&self, endpoint: usize) -> Duration;
}

impl Balance {
    /// As asked for; `None` if that is what is done anyway.
    ///
    /// # Errors
    /// When it cannot be carried out.
    pub fn compile(asked: &api::LoadBalancer) -> Result<Option<Self>, Invalid> {
        use api::load_balancer::{Algorithm as Asked, Simple};
        let algorithm = match &asked.algorithm {
            None => Algorithm::PeakEwma,
            Some(Asked::ConsistentHash(hash)) => Algorithm::ConsistentHash(HashKey::compile(hash)?),
            Some(Asked::Simple(simple)) => match Simple::try_from(*simple).map_err(|_| Invalid::Simple(*simple))? {
                Simple::Unspecified | Simple::PeakEwma => Algorithm::PeakEwma,
                Simple::LeastRequest => Algorithm::LeastRequest,
                Simple::RoundRobin => Algorithm::RoundRobin,
                Simple::Random => Algorithm::Random,
            },
        };
        let warmup = asked.warmup.as_ref().map(Warmup::compile).transpose()?;
        let locality = asked.locality_lb_setting.as_ref().map(Locality::compile);
        match (&algorithm, &warmup, &locality) {
            (Algorithm::PeakEwma, None, None) => Ok(None),
            (Algorithm::ConsistentHash(_), Some(_), _) => Err(Invalid::WarmHash),
            (Algorithm::ConsistentHash(_), None, Some(_)) => Err(Invalid::NearHash),
            _ => Ok(Some(Self { algorithm, warmup, locality })),
        }
    }

    /// What requests are told apart by, if anything.
    #[must_use]
    pub fn hash_key(&self) -> Option<&HashKey> {
        match &self.algorithm {
            Algorithm::ConsistentHash(key) => Some(key),
            Algorithm::PeakEwma | Algorithm::LeastRequest | Algorithm::RoundRobin | Algorithm::Random => None,
        }
    }

    /// The word for it in `trafficPolicy.loadBalancer`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match &self.algorithm {
            Algorithm::PeakEwma => DEFAULT,
            Algorithm::LeastRequest => "LEAST_REQUEST",
            Algorithm::RoundRobin => "ROUND_ROBIN",
            Algorithm::Random => "RANDOM",
            Algorithm::ConsistentHash(_) => "consistentHash",
        }
    }

    /// The part of its share that an endpoint of this age gets, 0..=1.
    #[must_use]
    pub fn share(&self, age: Duration) -> f64 {
        self.warmup.map_or(1.0, |warmup| warmup.share(age))
    }

    /// The endpoint for a request with this `key`, never one that is `excluded` (tried before, ejected); `None` if all are.
    /// `round` belongs to these endpoints.
    pub fn choose(
        &self,
        endpoints: &impl Endpoints,
        round: &Round,
        random: u64,
        key: Option<u64>,
        excluded: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let count = endpoints.count();
        let admit = |endpoint: usize, random: u64| self.admits(endpoints, endpoint, random);
        let latency = |endpoint: usize| endpoints.load(endpoint);
        match (&self.algorithm, key) {
            (Algorithm::ConsistentHash(_), Some(key)) => {
                hash::rendezvous(count, key, excluded, |endpoint| endpoints.identity(endpoint))
            }
            (Algorithm::PeakEwma, _) | (Algorithm::ConsistentHash(_), None) => {
                draw::better_of_two(count, random, excluded, admit, latency)
            }
            (Algorithm::LeastRequest, _) => {
                draw::better_of_two(count, random, excluded, admit, |endpoint| endpoints.in_flight(endpoint).into())
            }
            (Algorithm::RoundRobin, _) => round.next(count, random, excluded, admit),
            (Algorithm::Random, _) => draw::any(count, mix(random), excluded, admit),
        }
    }

    /// Whether an endpoint is old enough for one of its draws.
    fn admits(&self, endpoints: &impl Endpoints, endpoint: usize, random: u64) -> bool {
        self.warmup.is_none_or(|warmup| {
            let share = warmup.share(endpoints.age(endpoint));
            share >= 1.0 || unit(random) < share
        })
    }

    /// As [`Balance::choose`] without a key, in the zone that [`Zones::draw`] says. `rounds` has one for each zone, `round` is
    /// that of the whole arm.
    pub fn choose_near(
        &self,
        zones: &Zones,
        endpoints: &impl Endpoints,
        (rounds, round): (&[Round], &Round),
        random: u64,
        excluded: impl Fn(usize) -> bool,
        now: impl Fn() -> Duration,
    ) -> Option<usize> {
        // Who is new in a zone of few would else get what all of them bring. Not where arms are compared: all of a canary is
        // new, and it would leave its zones more often than stable.
        let new = |endpoint| !zones.compared() && !self.admits(endpoints, endpoint, mix(!random));
        let out = |endpoint| excluded(endpoint) || new(endpoint);
        let near = zones.draw(random, out, now).and_then(|(number, members)| {
            let of_zone = Members { endpoints, members };
            let chosen =
                self.choose(&of_zone, rounds.get(number)?, random, None, |member| excluded(members[member]))?;
            Some(members[chosen])
        });
        near.or_else(|| self.choose(endpoints, round, random, None, excluded))
    }
}

/// Some of the endpoints, by their places among all.
struct Members<'a, E> {
    endpoints: &'a E,
    members: &'a [usize],
}

impl<E: Endpoints> Endpoints for Members<'_, E> {
    fn count(&self) -> usize {
        self.members.len()
    }

    fn identity(&self, endpoint: usize) -> u64 {
        self.endpoints.identity(self.members[endpoint])
    }

    fn in_flight(&self, endpoint: usize) -> u32 {
        self.endpoints.in_flight(self.members[endpoint])
    }

    fn load(&self, endpoint: usize) -> f64 {
        self.endpoints.load(self.members[endpoint])
    }

    fn age(&self, endpoint: usize) -> Duration {
        self.endpoints.age(self.members[endpoint])
    }
}

/// What is done where nothing is said.
pub const DEFAULT: &str = "PEAK_EWMA";

/// As [`Balance::choose`], for a route without one.
pub fn choose(
    count: usize,
    random: u64,
    excluded: impl Fn(usize) -> bool,
    load: impl Fn(usize) -> f64,
) -> Option<usize> {
    draw::better_of_two(count, random, excluded, |_, _| true, load)
}

/// In 0..1.
fn unit(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests;
