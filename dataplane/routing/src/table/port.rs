//! One listening port: what is spoken on it, the endpoints of both arms, and which of them a request is for.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Route;
use crate::balance::{Balance, Keyed, Zones};
use crate::outlier::Ward;
use crate::rules::Head;
use crate::split::Arm;

/// One listening port.
#[derive(Debug)]
pub struct Port {
    /// The pool's listening port.
    pub number: u16,
    /// Port of the Service that it serves.
    pub service_port: u16,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// False: always to stable.
    pub split: bool,
    /// The route that it belongs to.
    pub route: Arc<Route>,
    /// Endpoints of the stable arm.
    pub stable: Vec<Target>,
    /// Endpoints of the canary arm.
    pub canary: Vec<Target>,
    /// Who looks after the arms' endpoints, if the route says so and the port is split: stable, canary.
    pub(super) wards: Option<[Arc<Ward>; 2]>,
    /// Where the arms' requests go, if zones count and the preference is in force: stable, canary.
    pub(super) zones: Option<[Arc<Zones>; 2]>,
}

/// Who answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The version.
    pub arm: Arm,
    /// Bucket to tell the client with the answer, by [`Affinity::write_cookie`](crate::affinity::Affinity::write_cookie).
    pub told: Option<u8>,
}

/// One endpoint of an arm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// Name of its pod, empty if unknown.
    pub pod: String,
    /// Zone of its node, empty if unknown.
    pub zone: String,
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, or HTTP/2 if the client opens with its preface; the endpoint is spoken to likewise.
    Detect,
    /// HTTP by either version from the client, HTTP/1.1 to the endpoint.
    Http1,
    /// HTTP by either version from the client, HTTP/2 to the endpoint.
    Http2,
    /// Bytes, spliced.
    Tcp,
}

impl Port {
    /// The endpoints of an arm.
    #[must_use]
    pub fn targets(&self, arm: Arm) -> &[Target] {
        match arm {
            Arm::Stable => &self.stable,
            Arm::Canary => &self.canary,
        }
    }

    /// Who looks after the endpoints of an arm, in its order.
    #[must_use]
    pub fn ward(&self, arm: Arm) -> Option<&Arc<Ward>> {
        self.wards.as_ref().map(|[stable, canary]| match arm {
            Arm::Stable => stable,
            Arm::Canary => canary,
        })
    }

    /// Where the requests of an arm go, by zone; `None` if zones do not count, or must not for now.
    #[must_use]
    pub fn zones(&self, arm: Arm) -> Option<&Arc<Zones>> {
        self.zones.as_ref().map(|[stable, canary]| match arm {
            Arm::Stable => stable,
            Arm::Canary => canary,
        })
    }

    /// The arm of a request with these header fields; `head` is asked for where an audience is to be told from the others,
    /// `random` is used where a client is new.
    pub fn choose<'a, 'h>(
        &self,
        fields: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        head: impl FnOnce() -> Head<'h>,
        random: u64,
    ) -> Choice {
        let route = &self.route;
        let (arm, told) = match (&route.audience, &route.affinity) {
            _ if !self.split => (Arm::Stable, None),
            (Some(audience), _) if !audience.holds(&head()) => (Arm::Stable, None),
            (_, None) => (route.split.pick(route.weight), None),
            (_, Some(affinity)) => affinity.pick(affinity.bucket(fields), &route.split, route.weight, random),
        };
        Choice { arm, told }
    }

    /// Where within the arm a request with these header fields, from `client`, belongs; `random` is asked where a client is
    /// new.
    pub fn key<'a>(
        &self,
        fields: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        client: IpAddr,
        random: impl FnOnce() -> u64,
    ) -> Keyed {
        match self.route.balance.as_deref().and_then(Balance::hash_key) {
            None => Keyed::default(),
            Some(key) => key.of(fields, client, random()),
        }
    }
}
