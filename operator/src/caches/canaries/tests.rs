use futures::FutureExt;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::*;

fn mk_object(name: &str) -> Value {
    json!({
        "apiVersion": "sluice.dev/v1beta1", "kind": "Canary",
        "metadata": { "name": name, "namespace": "shop", "uid": name },
        "spec": { "targetRef": { "kind": "Deployment", "name": name }, "service": { "port": 80 } }
    })
}

fn good(name: &str) -> DeserializeGuard<Canary> {
    serde_json::from_value(mk_object(name)).unwrap()
}

fn bad(name: &str) -> DeserializeGuard<Canary> {
    let mut object = mk_object(name);
    object["spec"]["service"]["port"] = json!("eighty");
    serde_json::from_value(object).unwrap()
}

struct Watch {
    writer: Writer<Canary>,
    waker: Waker,
    wakes: crate::wakes::Wakes,
}

fn mk_watch() -> Watch {
    let (waker, mut wakes) = Waker::new(1);
    Watch { writer: Writer::default(), waker, wakes: wakes.remove(0) }
}

impl Watch {
    /// A list of `objects`; whom it wakes.
    fn list(&mut self, objects: Vec<DeserializeGuard<Canary>>) -> Vec<String> {
        let applies = objects.into_iter().map(watcher::Event::InitApply);
        let all: Vec<_> = [watcher::Event::Init].into_iter().chain(applies).chain([watcher::Event::InitDone]).collect();
        all.into_iter().flat_map(|event| self.take(event)).collect()
    }

    fn take(&mut self, event: watcher::Event<DeserializeGuard<Canary>>) -> Vec<String> {
        take(event, &mut self.writer, &self.waker);
        std::iter::from_fn(|| self.wakes.next().now_or_never()).map(|key| key.name).collect()
    }

    fn held(&self) -> Vec<String> {
        let mut names: Vec<_> = self.writer.as_reader().state().iter().map(|canary| canary.name_any()).collect();
        names.sort();
        names
    }
}

#[test]
fn a_canary_that_went_between_two_lists_is_woken() {
    let mut watch = mk_watch();
    assert_eq!(watch.list(vec![good("web"), good("api")]), ["web", "api"]);
    assert_eq!(watch.list(vec![good("web")]), ["web", "api"]);
    assert_eq!(watch.held(), ["web"]);
    assert_eq!(watch.list(vec![good("web")]), ["web"]);
}

#[test]
fn a_canary_that_cannot_be_decoded_stays_as_it_was_until_it_goes() {
    let mut watch = mk_watch();
    watch.list(vec![good("web")]);
    watch.take(watcher::Event::Apply(bad("web")));
    assert_eq!(watch.held(), ["web"]);
    watch.list(vec![bad("web"), bad("never-good")]);
    assert_eq!(watch.held(), ["web"], "a new list freezes it as an event does");
    assert_eq!(watch.take(watcher::Event::Delete(bad("web"))), ["web"]);
    assert!(watch.held().is_empty());
}
