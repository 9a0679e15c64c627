//! An API server in memory, as far as these effects need one: objects by path, `resourceVersion` and `uid` as
//! preconditions, finalizers, apply and merge patches, a route policy, and failures on demand.
//!
//! It has no defaulting, no field managers and no watch; what depends on those is for the stories on a real cluster.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http::{Method, Request, Response};
use kube::{Client, client::Body};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Called on each Service that is written, with all objects by path and the number of the write, as admission is.
type Policy = Box<dyn Fn(&mut Value, &BTreeMap<String, Value>, usize) + Send>;

/// The model; clones share the objects.
#[derive(Clone, Default)]
pub(crate) struct Model(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    objects: BTreeMap<String, Value>,
    version: u64,
    log: Vec<String>,
    writes: usize,
    fail_write: Option<usize>,
    before_write: Option<(usize, String, Value)>,
    policy: Option<Policy>,
    leaving: bool,
}

impl Model {
    /// A client whose requests are answered from here.
    pub(crate) fn client(&self) -> Client {
        let model = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let model = model.clone();
            async move {
                let (parts, body) = request.into_parts();
                let bytes = body.collect_bytes().await.unwrap();
                let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
                let apply =
                    parts.headers.get("content-type").is_some_and(|kind| kind == "application/apply-patch+yaml");
                let (code, answer) = model.0.lock().unwrap().answer(&parts.method, parts.uri.path(), body, apply);
                let body = Body::from(serde_json::to_vec(&answer).unwrap());
                Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
            }
        });
        Client::new(service, "shop")
    }

    /// Puts an object there, as someone else would.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.0.lock().unwrap().store(path, object);
    }

    /// Loses an object, whatever its finalizers say.
    pub(crate) fn remove(&self, path: &str) {
        self.0.lock().unwrap().objects.remove(path);
    }

    /// The object as a cache has it.
    pub(crate) fn get<K: DeserializeOwned>(&self, path: &str) -> Option<K> {
        let inner = self.0.lock().unwrap();
        inner.objects.get(path).map(|object| serde_json::from_value(object.clone()).unwrap())
    }

    /// The requests since the last call, such as `PUT /api/v1/…`.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().log)
    }

    /// Lets the `n`th write from now on, counted from 0, be carried out and its answer be lost.
    pub(crate) fn lose_answer_of_write(&self, n: usize) {
        let mut inner = self.0.lock().unwrap();
        inner.fail_write = Some(inner.writes + n);
    }

    /// Just before the `n`th write from now on, someone else stores an object.
    pub(crate) fn put_before_write(&self, n: usize, path: &str, object: Value) {
        let mut inner = self.0.lock().unwrap();
        inner.before_write = Some((inner.writes + n, path.to_owned(), object));
    }

    /// The namespace is being deleted: nothing new is let in.
    pub(crate) fn leave(&self) {
        self.0.lock().unwrap().leaving = true;
    }

    pub(crate) fn set_policy(&self, policy: impl Fn(&mut Value, &BTreeMap<String, Value>, usize) + Send + 'static) {
        self.0.lock().unwrap().policy = Some(Box::new(policy));
    }
}

impl Inner {
    fn answer(&mut self, method: &Method, path: &str, body: Value, apply: bool) -> (u16, Value) {
        self.log.push(format!("{method} {path}"));
        if *method == Method::GET {
            return self.objects.get(path).map_or_else(|| status(404), |object| (200, object.clone()));
        }
        if let Some((_, path, object)) = self.before_write.take_if(|(write, ..)| *write == self.writes) {
            self.store(&path, object);
        }
        let path = path.trim_end_matches("/status");
        let exists = self.objects.contains_key(path) && *method != Method::POST;
        let answer = match *method {
            _ if self.leaving && !exists => status(403),
            Method::POST => self.create(path, body),
            Method::PUT => self.replace(path, body),
            Method::PATCH => self.patch(path, body, apply),
            Method::DELETE => self.delete(path, &body),
            _ => panic!("unexpected {method} {path}"),
        };
        let lost = self.fail_write == Some(self.writes);
        self.writes += 1;
        if lost { status(504) } else { answer }
    }

    fn create(&mut self, path: &str, body: Value) -> (u16, Value) {
        let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
        if self.objects.contains_key(&path) { status(409) } else { (201, self.store(&path, body)) }
    }

    fn replace(&mut self, path: &str, body: Value) -> (u16, Value) {
        let Some(old) = self.objects.get(path) else { return status(404) };
        // Every replacement of ours must be a compare-and-swap.
        if body["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"] {
            status(409)
        } else {
            (200, self.store(path, body))
        }
    }

    fn patch(&mut self, path: &str, body: Value, apply: bool) -> (u16, Value) {
        let old = self.objects.get(path).cloned();
        let wanted = &body["metadata"]["resourceVersion"];
        match old {
            None if apply && wanted.is_null() => (201, self.store(path, body)),
            None => status(404),
            Some(old) if !wanted.is_null() && *wanted != old["metadata"]["resourceVersion"] => status(409),
            Some(mut old) => {
                merge(&mut old, body);
                (200, self.store(path, old))
            }
        }
    }

    fn delete(&mut self, path: &str, body: &Value) -> (u16, Value) {
        let Some(old) = self.objects.get(path).cloned() else { return status(404) };
        for field in ["uid", "resourceVersion"] {
            let wanted = &body["preconditions"][field];
            if !wanted.is_null() && *wanted != old["metadata"][field] {
                return status(409);
            }
        }
        let mut going = old;
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        (200, self.store(path, going))
    }

    /// Stores the object, or lets it go if it is being deleted and nobody holds it.
    fn store(&mut self, path: &str, mut object: Value) -> Value {
        if let Some(policy) = self.policy.as_ref().filter(|_| object["kind"] == "Service") {
            policy(&mut object, &self.objects, self.writes);
        }
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", self.version));
        }
        let held = object["metadata"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty());
        if object["metadata"]["deletionTimestamp"].is_null() || held {
            self.objects.insert(path.to_owned(), object.clone());
        } else {
            self.objects.remove(path);
        }
        object
    }
}

fn status(code: u16) -> (u16, Value) {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        403 => "Forbidden",
        _ => "Timeout",
    };
    let mut status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason
    });
    if code == 403 {
        // As the admission plugin NamespaceLifecycle says it.
        status["details"] = json!({ "causes": [{ "reason": "NamespaceTerminating", "field": "metadata.namespace" }] });
    }
    (code, status)
}

/// RFC 7396.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(&key);
        } else {
            merge(&mut target[&key], value);
        }
    }
}
