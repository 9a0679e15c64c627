//! What the proxies do, as compiled from the operator's messages: by listening port. Immutable; a change makes a new
//! table that shares every route that stayed as it was.

mod compile;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use proxy_api::v1beta1 as api;

use crate::affinity::{self, Affinity};
use crate::audience::Audience;
use crate::balance::{self, Balance, Keyed, Zones};
use crate::mirror::{self, Mirror};
use crate::outlier::{self, Outliers, Ward};
use crate::pool::Pool;
use crate::retry::{BadCondition, Retry};
use crate::rules::{Head, RuleError, Rules};
use crate::split::{Arm, Split};
use compile::compile;

/// Time to establish a connection where the route does not say; pods of one cluster answer in a few milliseconds or not
/// at all.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Every route in force.
#[derive(Clone, Debug, Default)]
pub struct Table {
    salt: u64,
    zone: Arc<str>,
    routes: BTreeMap<String, Arc<Route>>,
    ports: BTreeMap<u16, Arc<Port>>,
}

/// What is done for one Canary.
#[derive(Debug)]
pub struct Route {
    /// Of the Canary.
    pub uid: String,
    /// Fence: only rises for one `uid`.
    pub counter: u64,
    /// Namespace of the Canary.
    pub namespace: String,
    /// Service that is routed.
    pub service: String,
    /// Name of the Canary.
    pub canary: String,
    /// The canary's share, 0..=100.
    pub weight: u8,
    /// Pod-template hash behind the stable arm; empty if unknown.
    pub stable_revision: String,
    /// Pod-template hash behind the canary arm; empty if there is none.
    pub canary_revision: String,
    /// Longest time that a request may take, body included.
    pub request_timeout: Option<Duration>,
    /// Longest time to establish a connection to an endpoint.
    pub connect_timeout: Duration,
    /// Connections to the endpoints.
    pub pool: Pool,
    /// Endpoints that go on failing, if the route looks for them.
    pub outliers: Option<Outliers>,
    /// How endpoints are chosen among; none: by [`balance::choose`].
    pub balance: Option<Arc<Balance>>,
    /// Who stays where; only while there is a choice, that is, with a weight of 1..=99.
    pub affinity: Option<Affinity>,
    /// What is done about failed attempts.
    pub retry: Option<Retry>,
    /// What is done with single requests; none: forwarded, all of them.
    pub rules: Option<Arc<Rules>>,
    /// Who may see the canary; none: everybody.
    pub audience: Option<Audience>,
    /// What is copied to the canary.
    pub mirror: Option<Mirror>,
    /// Keeps its positions over changes of the route.
    pub split: Arc<Split>,
    listening: Vec<u16>,
}

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
    wards: Option<[Arc<Ward>; 2]>,
    /// Where the arms' requests go, if zones count and the preference is in force: stable, canary.
    zones: Option<[Arc<Zones>; 2]>,
}

/// Who answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The version.
    pub arm: Arm,
    /// Bucket to tell the client with the answer, by [`Affinity::write_cookie`].
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

/// Why a route cannot be taken into force; the one before stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No uid.
    #[error("route has no uid")]
    NoUid,
    /// Weight above 100.
    #[error("weight is {0}, must be at most 100")]
    Weight(u32),
    /// Port outside 1..=65535.
    #[error("port is {0}, must lie between 1 and 65535")]
    Port(u32),
    /// Address that is not an IP address.
    #[error("endpoint address {0:?} is not an IP address")]
    Address(String),
    /// Protocol that this proxy does not know.
    #[error("protocol {0} is not known to this proxy")]
    Protocol(i32),
    /// Session affinity that cannot be carried out.
    #[error(transparent)]
    Affinity(#[from] affinity::Invalid),
    /// Retry conditions that this proxy does not know.
    #[error(transparent)]
    Condition(#[from] BadCondition),
    /// A rule that has no meaning.
    #[error("rules are not valid")]
    Rules(#[from] RuleError),
    /// Mirror that cannot be carried out.
    #[error(transparent)]
    Mirror(#[from] mirror::Invalid),
    /// Outlier detection that cannot be carried out.
    #[error(transparent)]
    Outlier(#[from] outlier::Invalid),
    /// Load balancer that cannot be carried out.
    #[error(transparent)]
    Balance(#[from] balance::Invalid),
    /// Another route has the port.
    #[error("port {port} belongs to {holder}")]
    Taken {
        /// The port.
        port: u16,
        /// `<namespace>/<canary>` that has it.
        holder: String,
    },
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

impl Route {
    /// The arm of a connection of which nothing else is known.
    #[must_use]
    pub fn pick(&self) -> Arm {
        if self.audience.is_some() { Arm::Stable } else { self.split.pick(self.weight) }
    }

    /// Whether both arms get requests, so that somebody may compare them. Copies are held against no arm.
    fn compares(&self) -> bool {
        if self.audience.is_some() { self.weight > 0 } else { (1..=99).contains(&self.weight) }
    }
}

impl Table {
    /// No route. `salt` is random per process, so that two proxies do not pick in step.
    #[must_use]
    pub fn new(salt: u64) -> Self {
        Self { salt, ..Self::default() }
    }

    /// For a proxy in this zone; routes that it has already are not compiled anew.
    #[must_use]
    pub fn in_zone(self, zone: &str) -> Self {
        Self { zone: zone.into(), ..self }
    }

    /// The zone of this proxy, empty if unknown.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// The ports to listen on.
    #[must_use]
    pub fn ports(&self) -> &BTreeMap<u16, Arc<Port>> {
        &self.ports
    }

    /// The routes by uid.
    #[must_use]
    pub fn routes(&self) -> &BTreeMap<String, Arc<Route>> {
        &self.routes
    }

    /// This table with `route` in place of what it had for the same uid.
    ///
    /// # Errors
    /// When the route is not valid or asks for another route's port.
    pub fn upsert(&self, route: &api::Route) -> Result<Self, Refusal> {
        let previous = self.routes.get(&route.uid).map(Arc::as_ref);
        let before = previous.and_then(|previous| previous.rules.as_deref());
        let rules = route.http.as_ref().map_or(Ok(None), |http| Rules::compile(&http.rules, before))?;
        self.insert(route, rules.map(Arc::new))
    }

    /// As [`Table::upsert`], with the rules that are in force in place of the route's, which were refused: endpoints must
    /// not go stale for a rule that has no meaning.
    ///
    /// # Errors
    /// When the rest of the route is not valid either.
    pub fn upsert_with_old_rules(&self, route: &api::Route) -> Result<Self, Refusal> {
        self.insert(route, self.routes.get(&route.uid).and_then(|previous| previous.rules.clone()))
    }

    fn insert(&self, route: &api::Route, rules: Option<Arc<Rules>>) -> Result<Self, Refusal> {
        let previous = self.routes.get(&route.uid).map(Arc::as_ref);
        let ports = compile(route, previous, rules, self)?;
        for port in &ports {
            if let Some(holder) = self.ports.get(&port.number).filter(|held| held.route.uid != route.uid) {
                let holder = format!("{}/{}", holder.route.namespace, holder.route.canary);
                return Err(Refusal::Taken { port: port.number, holder });
            }
        }
        let mut table = self.without(&route.uid);
        let Some(compiled) = ports.first().map(|port| Arc::clone(&port.route)) else {
            // A route without listeners serves nothing; it is not kept.
            return Ok(table);
        };
        table.routes.insert(route.uid.clone(), compiled);
        table.ports.extend(ports.into_iter().map(|port| (port.number, Arc::new(port))));
        Ok(table)
    }

    /// This table less the route of `uid`.
    #[must_use]
    pub fn without(&self, uid: &str) -> Self {
        let mut table = self.clone();
        if let Some(route) = table.routes.remove(uid) {
            for port in &route.listening {
                table.ports.remove(port);
            }
        }
        table
    }
}
