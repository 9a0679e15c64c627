//! What the proxies do, as compiled from the operator's messages: by listening port. Immutable; a change makes a new
//! table that shares every route that stayed as it was.
//!
//! Here: the table and its routes. What a port does with a request is in `port`, how a message becomes a route in `compile`,
//! why one does not in `refusal`.

mod compile;
mod port;
mod refusal;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proxy_api::v1beta1 as api;

use self::compile::compile;
pub use self::port::{Choice, Port, Protocol, Target};
pub use self::refusal::Refusal;
use crate::affinity::Affinity;
use crate::audience::Audience;
use crate::balance::Balance;
use crate::mirror::Mirror;
use crate::outlier::Outliers;
use crate::pool::Pool;
use crate::retry::Retry;
use crate::rules::Rules;
use crate::split::{Arm, Split};

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
    /// How endpoints are chosen among; none: by [`crate::balance::choose`].
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
