//! One worker's view of the table: with its own connection pools and counters resolved, so that a request looks up
//! nothing by name.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use routing::balance::{self, Balance, Endpoints, Round, Zones};
use routing::outlier::Ward;
use routing::table::Target;
use routing::{Arm, Port, Table};

use crate::error::ProxyError;
use crate::gate::{Admission, Gate};
use crate::limits::PortConnections;
use crate::mirror::Mirrored;
use crate::stats::{Cell, Registry};
use crate::upstream::{Glance, Upstream};

/// A port of the table as one worker uses it.
#[derive(Debug)]
pub struct PortView {
    /// As compiled.
    pub port: Arc<Port>,
    /// The version that serves.
    pub stable: ArmView,
    /// The version under test.
    pub canary: ArmView,
    /// Where copies are counted, if there are any.
    pub mirrored: Option<Arc<Mirrored>>,
}

/// An arm of a port.
#[derive(Debug)]
pub struct ArmView {
    /// Where its requests go.
    pub endpoints: Vec<Rc<Upstream>>,
    /// How one of them is chosen, where the route says.
    balance: Option<Arc<Balance>>,
    round: Round,
    /// Their zones, each with its round, if the route prefers the proxy's own and may now.
    zones: Option<(Arc<Zones>, Vec<Round>)>,
    /// What is counted of them.
    pub cell: Arc<Cell>,
    /// Their limits, if the route has any.
    pub gate: Option<Arc<Gate>>,
    /// Who looks after them, if the route says so.
    pub ward: Option<Arc<Ward>>,
}

/// Holds the current view of a port; shared by its listener and every connection.
#[derive(Debug)]
pub struct Slot {
    view: RefCell<Rc<PortView>>,
    open: Arc<PortConnections>,
}

/// Every port of one worker.
#[derive(Debug, Default)]
pub struct Views {
    slots: BTreeMap<u16, Rc<Slot>>,
    upstreams: HashMap<Place, Rc<Upstream>>,
}

/// An endpoint of a route, by the route's uid and the endpoint's address: two routes to one address share nothing.
pub type Place = (String, SocketAddr);

impl PortView {
    /// The arm itself.
    #[must_use]
    pub fn arm(&self, arm: Arm) -> &ArmView {
        match arm {
            Arm::Stable => &self.stable,
            Arm::Canary => &self.canary,
        }
    }

    fn arms(&self) -> impl Iterator<Item = &ArmView> {
        [&self.stable, &self.canary].into_iter()
    }

    /// Tells the counters of each arm how many connections to its endpoints there are.
    fn count_connections(&self) {
        for arm in self.arms() {
            let counts = arm.endpoints.iter().map(|upstream| upstream.connections());
            let (active, idle) = counts.fold((0, 0), |sum, (active, idle)| (sum.0 + active, sum.1 + idle));
            arm.cell.connections(active, idle);
        }
    }

    /// All its endpoints.
    fn places(&self) -> impl Iterator<Item = Place> {
        let endpoints = self.arms().flat_map(|arm| &arm.endpoints);
        endpoints.map(|upstream| (self.port.route.uid.clone(), upstream.address()))
    }
}

impl ArmView {
    /// One more request of the arm, for as long as what is returned lives.
    ///
    /// # Errors
    /// When as many as may be are under way.
    pub fn admit(&self) -> Result<Option<Admission>, ProxyError> {
        self.gate.as_ref().map(Gate::admit).transpose().map_err(|_| ProxyError::Overflow)
    }

    /// The place in the list of the endpoint for a request with this `key`, never one that is `excluded`. `now` as in
    /// [`Upstream::ejected`].
    pub fn choose(
        &self,
        random: u64,
        key: Option<u64>,
        excluded: impl Fn(usize) -> bool,
        now: impl Fn() -> Duration,
    ) -> Option<usize> {
        match (&self.balance, &self.zones) {
            (None, _) => balance::choose(self.count(), random, excluded, |endpoint| self.load(endpoint)),
            (Some(balance), None) => balance.choose(self, &self.round, random, key, excluded),
            (Some(balance), Some((zones, rounds))) => {
                balance.choose_near(zones, self, (rounds, &self.round), random, excluded, now)
            }
        }
    }
}

impl Endpoints for ArmView {
    fn count(&self) -> usize {
        self.endpoints.len()
    }

    fn identity(&self, endpoint: usize) -> u64 {
        self.endpoints[endpoint].identity()
    }

    fn in_flight(&self, endpoint: usize) -> u32 {
        self.endpoints[endpoint].in_flight()
    }

    fn load(&self, endpoint: usize) -> f64 {
        self.endpoints[endpoint].load()
    }

    fn age(&self, endpoint: usize) -> Duration {
        self.endpoints[endpoint].age()
    }
}

impl Slot {
    /// The view to handle one request by; a request keeps what it began with.
    #[must_use]
    pub fn current(&self) -> Rc<PortView> {
        Rc::clone(&self.view.borrow())
    }

    /// Connections that are open to this port, on all workers.
    #[must_use]
    pub fn open(&self) -> &Arc<PortConnections> {
        &self.open
    }
}

impl Views {
    /// Takes a table over. Ports that did not change are not touched; connection pools live on by route and address, and those of
    /// addresses that are in no arm any more are closed as soon as their requests are over.
    pub fn apply(&mut self, table: &Table, registry: &Registry, worker: usize) {
        // Addresses that a change may have left without an arm: none when only weights change.
        let mut left = HashSet::new();
        self.slots.retain(|number, slot| {
            let keep = table.ports().contains_key(number);
            if !keep {
                slot.current().arms().for_each(|arm| arm.cell.connections(0, 0));
                left.extend(slot.current().places());
            }
            keep
        });
        for (number, port) in table.ports() {
            match self.slots.get(number) {
                Some(slot) if Arc::ptr_eq(&slot.view.borrow().port, port) => {}
                Some(slot) => {
                    let view = Rc::new(view(&mut self.upstreams, port, registry, worker));
                    let before = slot.view.replace(Rc::clone(&view));
                    before.arms().for_each(|arm| arm.cell.connections(0, 0));
                    view.count_connections();
                    left.extend(before.places());
                    for place in view.places() {
                        left.remove(&place);
                    }
                }
                None => {
                    let view = view(&mut self.upstreams, port, registry, worker);
                    let (view, open) = (RefCell::new(Rc::new(view)), registry.limits().port(*number));
                    self.slots.insert(*number, Rc::new(Slot { view, open }));
                }
            }
        }
        self.retire_unused(left);
    }

    /// The ports that should be open.
    #[must_use]
    pub fn slots(&self) -> &BTreeMap<u16, Rc<Slot>> {
        &self.slots
    }

    /// Every endpoint as it is now.
    #[must_use]
    pub fn glance(&self) -> HashMap<Place, Glance> {
        self.upstreams.iter().map(|(place, upstream)| (place.clone(), upstream.glance())).collect()
    }

    /// Closes connections to endpoints that nobody has used for a while.
    pub fn sweep(&self) {
        for upstream in self.upstreams.values() {
            upstream.sweep();
        }
    }

    /// Tells the counters of every arm how many connections to its endpoints there are.
    pub fn count_connections(&self) {
        for slot in self.slots.values() {
            slot.current().count_connections();
        }
    }

    /// Closes idle connections for those who wait for one.
    pub fn make_room(&self) {
        for upstream in self.upstreams.values() {
            upstream.make_room();
        }
    }

    fn retire_unused(&mut self, mut left: HashSet<Place>) {
        for slot in self.slots.values() {
            if left.is_empty() {
                return;
            }
            for place in slot.current().places() {
                left.remove(&place);
            }
        }
        for place in left {
            if let Some(upstream) = self.upstreams.remove(&place) {
                upstream.retire();
            }
        }
    }
}

fn view(
    upstreams: &mut HashMap<Place, Rc<Upstream>>,
    port: &Arc<Port>,
    registry: &Registry,
    worker: usize,
) -> PortView {
    let mut arm = |arm: Arm, targets: &[Target]| {
        let place = |target: &Target| (port.route.uid.clone(), target.address);
        let known = targets.iter().filter_map(|target| upstreams.get(&place(target)));
        let mut peers: Vec<f64> = known.map(|upstream| upstream.micros()).collect();
        let endpoint = |target: &Target| {
            let known = upstreams.entry(place(target));
            let upstream =
                known.or_insert_with(|| Rc::new(Upstream::new(target.address, port.route.pool, worker, &mut peers)));
            upstream.set_pool(port.route.pool);
            Rc::clone(upstream)
        };
        ArmView {
            endpoints: targets.iter().map(endpoint).collect(),
            balance: port.route.balance.clone().filter(|_| port.split),
            round: Round::default(),
            zones: port.zones(arm).map(|zones| {
                let rounds = (0..zones.count()).map(|_| Round::default()).collect();
                (Arc::clone(zones), rounds)
            }),
            // The arms are compared by the port that is split: what a further port serves is counted nowhere.
            cell: if port.split { registry.cell(worker, &port.route, arm) } else { Arc::default() },
            gate: if port.split { registry.gates().of(&port.route, arm) } else { None },
            ward: port.ward(arm).cloned(),
        }
    };
    let stable = arm(Arm::Stable, &port.stable);
    let canary = arm(Arm::Canary, &port.canary);
    if port.split {
        for (upstream, target) in stable.endpoints.iter().zip(&port.stable) {
            upstream.count_in(registry.pod(worker, &port.route, Arm::Stable, &target.pod));
        }
    }
    for arm in [&stable, &canary] {
        for (place, upstream) in arm.endpoints.iter().enumerate() {
            upstream.set_gate(arm.gate.clone());
            upstream.set_health(arm.ward.as_ref().map(|ward| Arc::clone(&ward.endpoints()[place])));
        }
    }
    let mirrored = port.route.mirror.as_ref().filter(|_| port.split).map(|_| registry.mirrors().of(&port.route));
    PortView { port: Arc::clone(port), stable, canary, mirrored }
}
