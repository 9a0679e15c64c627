//! The admission table of a namespace: which Deployments are held, and which port of the pool serves which port of
//! which Service.
//!
//! Here is the pure part: its form in the ConfigMap `sluice-table` (flat keys, because CEL looks them up), the merge of
//! one Canary's entries, the allocation of ports. `store` writes it by compare-and-swap, `bindings` tells the API server
//! in which namespaces it is consulted. It may not touch Services or Deployments.

mod bindings;
mod store;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::RangeInclusive,
};

use crds::{
    Canary,
    names::{TABLE_HELD_PREFIX, TABLE_ROUTE_PREFIX},
};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Service},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt;
use proxy_api::{PROXY_PORT_FIRST, PROXY_PORT_LAST};

pub use self::{
    bindings::{Binding, Bindings},
    store::{TableError, ensure, forget, release},
};
use crate::services;

/// Key that no policy reads: which Canary owns the Service's routes. `owner.<service>`.
const OWNER_PREFIX: &str = "owner.";
/// Key that no policy reads: a port that the proxies go on serving after the Service left them.
/// `draining.<service>.<port>.<protocol>`.
const DRAINING_PREFIX: &str = "draining.";
/// The ports that are given out.
const PORTS: RangeInclusive<u16> = PROXY_PORT_FIRST..=PROXY_PORT_LAST;

/// The admission table of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Held Deployments, each with the Canary that holds it.
    pub held: BTreeMap<String, String>,
    /// Port of the pool for each port of a routed Service; no port is given twice, `draining` included.
    pub routes: BTreeMap<RouteKey, u16>,
    /// Canary that owns a Service's entries.
    pub owners: BTreeMap<String, String>,
    /// Ports that are no longer handed to a Service and wait for their last connections.
    pub draining: BTreeMap<RouteKey, u16>,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// Name of the Service.
    pub service: String,
    /// The Service's port, 1 to 65535.
    pub port: u16,
    /// As in the Service, in upper case: `TCP`.
    pub protocol: String,
}

impl fmt::Display for RouteKey {
    /// As in the table's keys: `web.80.TCP`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.service, self.port, self.protocol)
    }
}

impl RouteKey {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.rsplitn(3, '.');
        let (protocol, port, service) = (parts.next()?, parts.next()?, parts.next()?);
        if service.is_empty() || protocol.is_empty() {
            return None;
        }
        Some(Self { service: service.to_owned(), port: port.parse().ok()?, protocol: protocol.to_owned() })
    }
}

/// What one Canary needs in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries {
    /// The Canary's name.
    pub canary: String,
    /// Its target.
    pub deployment: String,
    /// Its Service.
    pub service: String,
    /// Every port of the Service.
    pub ports: BTreeSet<RouteKey>,
    /// Ports of the pool that must not be given to this Service: a targetPort equal to a proxy port would be taken for
    /// our own and not be recorded by the route policy.
    pub avoid: BTreeSet<u16>,
}

impl Entries {
    /// What `canary` needs for the ports that `service` has now.
    #[must_use]
    pub fn of(canary: &Canary, service: &Service) -> Self {
        let name = service.name_any();
        let asked = services::asked(service);
        let number = |target: &IntOrString| match target {
            IntOrString::Int(number) => u16::try_from(*number).ok(),
            IntOrString::String(_) => None,
        };
        Self {
            canary: canary.name_any(),
            deployment: canary.spec.target_ref.name.clone(),
            ports: asked
                .ports
                .iter()
                .map(|port| RouteKey { service: name.clone(), port: port.port, protocol: port.protocol.clone() })
                .collect(),
            avoid: asked.ports.iter().filter_map(|port| number(&port.target)).collect(),
            service: name,
        }
    }
}

/// Why a Canary's entries cannot be merged into the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// `what` belongs to the Canary `by`.
    Taken { what: String, by: String },
    /// No port is free.
    Full,
}

impl Table {
    /// Reads the ConfigMap; entries that cannot be read, or that give a port a second time, are left out (and so are
    /// written anew by the next [`ensure`]).
    #[must_use]
    pub fn parse(map: Option<&ConfigMap>) -> Self {
        let mut table = Self::default();
        let mut used = BTreeSet::new();
        let data = map.and_then(|map| map.data.as_ref());
        for (key, value) in data.into_iter().flatten() {
            let port = value.parse().ok().filter(|port| PORTS.contains(port));
            if let Some(deployment) = key.strip_prefix(TABLE_HELD_PREFIX) {
                table.held.insert(deployment.to_owned(), value.clone());
            } else if let Some(service) = key.strip_prefix(OWNER_PREFIX) {
                table.owners.insert(service.to_owned(), value.clone());
            } else if let (Some(route), Some(port)) =
                (key.strip_prefix(TABLE_ROUTE_PREFIX).and_then(RouteKey::parse), port)
            {
                if used.insert(port) {
                    table.routes.insert(route, port);
                }
            } else if let (Some(route), Some(port)) =
                (key.strip_prefix(DRAINING_PREFIX).and_then(RouteKey::parse), port)
                && used.insert(port)
            {
                table.draining.insert(route, port);
            }
        }
        table
    }

    /// The routes that the Services themselves still show, for a table that was lost: a routed Service's targetPort is
    /// the pool's port. Owners and holds are added by the Canaries' own passes.
    #[must_use]
    pub fn rebuild<'a>(services: impl IntoIterator<Item = &'a Service>) -> Self {
        let mut table = Self::default();
        let mut used = BTreeSet::new();
        for service in services {
            for (key, port) in services::routed_ports(service) {
                if used.insert(port) {
                    table.routes.insert(key, port);
                }
            }
        }
        table
    }

    /// The ConfigMap's data.
    #[must_use]
    pub fn data(&self) -> BTreeMap<String, String> {
        let held = self.held.iter().map(|(name, canary)| (format!("{TABLE_HELD_PREFIX}{name}"), canary.clone()));
        let owners = self.owners.iter().map(|(name, canary)| (format!("{OWNER_PREFIX}{name}"), canary.clone()));
        let routes = self.routes.iter().map(|(key, port)| (format!("{TABLE_ROUTE_PREFIX}{key}"), port.to_string()));
        let draining = self.draining.iter().map(|(key, port)| (format!("{DRAINING_PREFIX}{key}"), port.to_string()));
        held.chain(owners).chain(routes).chain(draining).collect()
    }

    /// The pool's port for a Service's port, also while it drains.
    #[must_use]
    pub fn port(&self, key: &RouteKey) -> Option<u16> {
        self.routes.get(key).or_else(|| self.draining.get(key)).copied()
    }

    /// The pool's ports for a Service, draining ones included.
    #[must_use]
    pub fn ports_of(&self, service: &str) -> BTreeMap<RouteKey, u16> {
        let both = self.draining.iter().chain(&self.routes);
        both.filter(|(key, _)| key.service == service).map(|(key, port)| (key.clone(), *port)).collect()
    }

    /// Whether the Service's entries are this Canary's.
    #[must_use]
    pub fn is_owner(&self, canary: &str, service: &str) -> bool {
        self.owners.get(service).is_some_and(|owner| owner == canary)
    }

    /// Whether no Canary needs it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { held, routes, owners, draining } = self;
        held.is_empty() && routes.is_empty() && owners.is_empty() && draining.is_empty()
    }

    /// The table with one Canary's entries, and without those of Canaries that are not in `live`. A key that exists
    /// keeps its port.
    pub(crate) fn with(&self, live: &BTreeSet<String>, entries: &Entries) -> Result<Self, Refusal> {
        let mut next = self.of_live(live);
        let Entries { canary, deployment, service, ports, avoid } = entries;
        claim(&mut next.held, deployment, canary, "Deployment")?;
        claim(&mut next.owners, service, canary, "Service")?;
        next.routes.retain(|key, _| key.service != *service || ports.contains(key));
        let used: BTreeSet<u16> = next.routes.values().chain(next.draining.values()).copied().collect();
        let mut free = PORTS.filter(|port| !used.contains(port) && !avoid.contains(port));
        for key in ports {
            let port = match (next.routes.get(key), next.draining.remove(key)) {
                (Some(port), _) => *port,
                (None, Some(port)) => port,
                (None, None) => free.next().ok_or(Refusal::Full)?,
            };
            next.routes.insert(key.clone(), port);
        }
        next.draining.retain(|key, _| key.service != *service);
        Ok(next)
    }

    /// The table after a Canary let go of its target and its Service: the proxies go on serving the ports.
    pub(crate) fn released(&self, canary: &str) -> Self {
        let mut next = self.clone();
        next.held.retain(|_, holder| holder != canary);
        let (leaving, staying): (BTreeMap<_, _>, BTreeMap<_, _>) =
            self.routes.clone().into_iter().partition(|(key, _)| self.owns(canary, key));
        next.routes = staying;
        next.draining.extend(leaving);
        next
    }

    /// The table after the proxies have let go of a Canary's ports, too.
    pub(crate) fn forgotten(&self, canary: &str) -> Self {
        let mut next = self.released(canary);
        next.draining.retain(|key, _| !self.owns(canary, key));
        next.owners.retain(|_, owner| owner != canary);
        next
    }

    fn owns(&self, canary: &str, key: &RouteKey) -> bool {
        self.is_owner(canary, &key.service)
    }

    /// A Canary whose finalizer was taken away by hand never released its entries.
    fn of_live(&self, live: &BTreeSet<String>) -> Self {
        let mut next = self.clone();
        next.held.retain(|_, canary| live.contains(canary));
        next.owners.retain(|_, canary| live.contains(canary));
        let gone = |key: &RouteKey| self.owners.get(&key.service).is_some_and(|owner| !live.contains(owner));
        next.routes.retain(|key, _| !gone(key));
        next.draining.retain(|key, _| !gone(key));
        next
    }
}

fn claim(map: &mut BTreeMap<String, String>, name: &str, canary: &str, kind: &str) -> Result<(), Refusal> {
    let holder = map.entry(name.to_owned()).or_insert_with(|| canary.to_owned());
    if holder == canary { Ok(()) } else { Err(Refusal::Taken { what: format!("{kind} {name}"), by: holder.clone() }) }
}

#[cfg(test)]
mod tests;
