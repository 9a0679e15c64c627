//! Keeps the publisher's routes and limits equal to what the caches say, on every replica, leader or not.
//!
//! A route is a pure function of objects in the API server (`routes::build`); this loop only says when to compute it.

use std::collections::HashMap;

use kube::{ResourceExt, runtime::reflector::ObjectRef};

use crate::{
    caches::Caches,
    observe::World,
    pool,
    publish::Publisher,
    routes::{self, Overlap, RouteInputs},
    table::Table,
    wakes::{Key, Wakes},
};

/// Computes every route once, lets the publisher begin, then follows the wake-ups, for ever.
pub async fn run(caches: Caches, publisher: Publisher, mut wakes: Wakes) {
    let mut published = HashMap::new();
    for canary in caches.canaries.state() {
        publish(&caches, &publisher, &ObjectRef::from_obj(canary.as_ref()), &mut published);
    }
    publisher.synced();
    loop {
        publish(&caches, &publisher, &wakes.next().await, &mut published);
    }
}

/// `published`: uid of the route that was last published for a key, so that it can be taken back.
fn publish(caches: &Caches, publisher: &Publisher, key: &Key, published: &mut HashMap<Key, String>) {
    let Some(canary) = caches.canaries.get(key) else {
        if let Some(uid) = published.remove(key) {
            publisher.remove(&uid);
        }
        return;
    };
    let uid = canary.uid().unwrap_or_default();
    if let Some(old) = published.insert(key.clone(), uid.clone()).filter(|old| *old != uid) {
        publisher.remove(&old);
    }
    let world = World::read(caches, canary);
    match route(&world) {
        Some(route) => drop(publisher.set(route)),
        None => drop(publisher.remove(&uid)),
    }
    if let Some(pool) = &world.pool {
        publisher.limit(&world.namespace, &pool::limits(pool));
    }
}

/// The route of one Canary, if it has a place in the table.
#[must_use]
pub fn route(world: &World) -> Option<proxy_api::v1beta1::Route> {
    with_inputs(world, routes::build)?
}

/// Which pods are behind both arms, and which behind one; none without a Service.
#[must_use]
pub fn overlap(world: &World) -> Overlap {
    with_inputs(world, routes::overlap).unwrap_or_default()
}

fn with_inputs<T>(world: &World, act: impl FnOnce(&RouteInputs<'_>) -> T) -> Option<T> {
    let stable: Vec<_> = world.stable_slices.iter().map(AsRef::as_ref).collect();
    let canary: Vec<_> = world.canary_slices.iter().map(AsRef::as_ref).collect();
    Some(act(&RouteInputs {
        canary: &world.canary,
        table: &Table::parse(world.table.as_deref()),
        service: world.service.as_deref()?,
        stable_slices: &stable,
        canary_slices: &canary,
        proxies: &world.live_proxies,
    }))
}
