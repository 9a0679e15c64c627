//! A Kubernetes client whose requests are counted and whose watches are seen to go on.
//!
//! The layer looks at each request and at the status of its answer; it changes neither.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Method, Request, Response};
use kube::Client;
use kube::client::ClientBuilder;
use tower::{Layer, Service};

use super::metrics::Verb;
use super::{Health, Metrics};

/// A client as `Client::try_from(config)` makes it, observed by `health` and `metrics`.
///
/// # Errors
/// When the configuration does not make a client (bad certificate, bad URL).
pub fn client(config: kube::Config, health: &Health, metrics: &Metrics) -> kube::Result<Client> {
    Ok(ClientBuilder::try_from(config)?.with_layer(&observe_client(health, metrics)).build())
}

/// The layer by itself, for a client that is built otherwise.
#[must_use]
pub fn observe_client(health: &Health, metrics: &Metrics) -> ClientLayer {
    ClientLayer { health: health.clone(), metrics: metrics.clone() }
}

/// See [`observe_client`].
#[derive(Clone)]
pub struct ClientLayer {
    health: Health,
    metrics: Metrics,
}

impl<S> Layer<S> for ClientLayer {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed { inner, layer: self.clone() }
    }
}

/// A service whose requests are counted.
#[derive(Clone)]
pub struct Observed<S> {
    inner: S,
    layer: ClientLayer,
}

impl<S, B, A> Service<Request<B>> for Observed<S>
where
    S: Service<Request<B>, Response = Response<A>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let verb = verb(&request);
        if verb == Verb::watch {
            self.layer.health.watch_opened(plural(request.uri().path()));
        }
        let metrics = self.layer.metrics.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            metrics.api_request(verb, answer.as_ref().map_or(0, |answer| answer.status().as_u16()));
            answer
        })
    }
}

fn verb<B>(request: &Request<B>) -> Verb {
    let is_watch = || request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
    match *request.method() {
        Method::POST => Verb::create,
        Method::PUT => Verb::update,
        Method::PATCH => Verb::patch,
        Method::DELETE => Verb::delete,
        _ if is_watch() => Verb::watch,
        _ => Verb::get,
    }
}

/// The resource of a list or watch: the last part of its path (`/apis/sluice.dev/v1beta1/canaries`).
fn plural(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
