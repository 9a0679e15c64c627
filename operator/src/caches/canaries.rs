//! The watch of Canaries: the only one whose objects users write by hand, so one that cannot be decoded is no error of the
//! watch.

use crds::Canary;
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Client,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        reflector::{ObjectRef, Store, store::Writer},
        watcher,
    },
};

use super::config;
use crate::{telemetry::Chain, wakes::Waker};

/// Like the other watches, but an object that cannot be decoded counts as it was when it last could be: its release
/// freezes, the others go on.
pub(super) async fn watch(client: Client, mut writer: Writer<Canary>, waker: Waker) {
    let api = Api::<DeserializeGuard<Canary>>::all(client);
    let mut events = watcher(api, config()).default_backoff().boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => take(event, &mut writer, &waker),
            Err(error) => {
                tracing::warn!(watch = "canaries", error = %Chain(&error), "watch failed, retrying")
            }
        }
    }
}

/// Takes one event into the store and wakes whom it concerns. A list that begins anew sends no event for what has gone in
/// the meantime, so its end wakes that, too.
fn take(event: watcher::Event<DeserializeGuard<Canary>>, writer: &mut Writer<Canary>, waker: &Waker) {
    let store = writer.as_reader();
    let Some(event) = decoded(event, &store) else { return };
    let before = if matches!(event, watcher::Event::InitDone) { store.state() } else { Vec::new() };
    writer.apply_watcher_event(&event);
    match &event {
        watcher::Event::Apply(canary) | watcher::Event::Delete(canary) | watcher::Event::InitApply(canary) => {
            waker.wake(&ObjectRef::from_obj(canary));
        }
        watcher::Event::Init => {}
        watcher::Event::InitDone => {
            let keys = before.iter().map(|canary| ObjectRef::from_obj(canary.as_ref()));
            keys.filter(|key| store.get(key).is_none()).for_each(|key| waker.wake(&key));
        }
    }
}

fn decoded(event: watcher::Event<DeserializeGuard<Canary>>, store: &Store<Canary>) -> Option<watcher::Event<Canary>> {
    let object = |guard: DeserializeGuard<Canary>| {
        guard.0.map_or_else(|error| frozen(&error.metadata, &error.error, store), Some)
    };
    match event {
        watcher::Event::Apply(guard) => object(guard).map(watcher::Event::Apply),
        watcher::Event::Delete(guard) => object(guard).map(watcher::Event::Delete),
        watcher::Event::InitApply(guard) => object(guard).map(watcher::Event::InitApply),
        watcher::Event::Init => Some(watcher::Event::Init),
        watcher::Event::InitDone => Some(watcher::Event::InitDone),
    }
}

/// What the store holds of an object that cannot be decoded.
fn frozen(metadata: &ObjectMeta, error: &str, store: &Store<Canary>) -> Option<Canary> {
    let name = metadata.name.as_deref().unwrap_or_default();
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    tracing::error!(k8s.namespace.name = namespace, canary = name, error, "canary cannot be decoded, frozen");
    store.get(&ObjectRef::new(name).within(namespace)).map(|canary| Canary::clone(&canary))
}

#[cfg(test)]
mod tests;
