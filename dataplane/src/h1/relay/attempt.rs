//! A request at the endpoints: which, over which connection, and again if need be. In the common case (no body, or one
//! that came with its head) everything happens in order; a body that is still coming is passed on while the answer is
//! awaited.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use routing::Arm;
use routing::rules::Decision;
use tokio::io::AsyncWriteExt;

use super::Connection;
use crate::error::ProxyError;
use crate::h1::answer::{self, AnswerError, Answered, Context};
use crate::h1::request::{Facts, Framing};
use crate::h1::upload::{Upload, UploadError};
use crate::proxy::{FAILURE_LATENCY, Tried, fall_back, pick};
use crate::record::Record;
use crate::retries::{self, Retries};
use crate::upstream::{DialError, Plain, Upstream};
use crate::view::PortView;

/// An exchange that came to an end.
pub(super) struct Served {
    pub(super) keep: bool,
    pub(super) switched: Option<(Plain, BytesMut)>,
}

/// Why an endpoint did not serve a request.
enum Failure {
    /// It may be sent again.
    Unsent,
    /// It was answered, and the route says to try another endpoint.
    Again,
    Final(ProxyError),
}

impl Connection<'_> {
    /// Endpoint after endpoint, until one serves the request or enough were tried.
    pub(super) async fn forward(
        &mut self,
        view: &PortView,
        (mut arm, key): (Arm, Option<u64>),
        decision: Option<&Decision>,
        facts: Facts,
        upload: &mut Upload<'_>,
        record: &mut Record,
    ) -> Result<Served, ProxyError> {
        let mut tried = Tried::keyed(key);
        record.hold(view.arm(arm).admit()?);
        loop {
            let (upstream, error) = match pick(self.worker, view.arm(arm), &tried) {
                Some(upstream) => {
                    record.attempt(arm, view.arm(arm), &upstream, self.worker.registry());
                    let timeout = view.port.route.connect_timeout;
                    match self.attempt(&upstream, timeout, decision, facts, upload, record).await {
                        Ok(served) => return Ok(served),
                        Err(Failure::Unsent) => {
                            tried.unreachable(upstream.address());
                            record.unreached();
                            continue;
                        }
                        Err(Failure::Again) => (Some(upstream), None),
                        Err(Failure::Final(error)) => (Some(upstream), Some(error)),
                    }
                }
                None => {
                    if fall_back(view, (&mut arm, &mut tried), key, record)? {
                        continue;
                    }
                    (None, Some(ProxyError::NoEndpoint))
                }
            };
            let Some(retries) = upload.retries() else { return Err(error.unwrap_or(ProxyError::Reset)) };
            if let Some(error) = error {
                let failure = retries::failure(error).filter(|_| !self.answered.get());
                if !failure.is_some_and(|failure| retries.again(failure, record)) {
                    return Err(error);
                }
            }
            retries.pause().await;
            tried.again(upstream.map(|upstream| upstream.address()));
        }
    }

    /// One endpoint: over a pooled connection, and once more over a fresh one if the endpoint had closed the pooled one.
    async fn attempt(
        &mut self,
        upstream: &Rc<Upstream>,
        timeout: Duration,
        decision: Option<&Decision>,
        facts: Facts,
        upload: &mut Upload<'_>,
        record: &mut Record,
    ) -> Result<Served, Failure> {
        let _busy = upstream.busy();
        if let Some(endpoint) = upstream.take_idle(!facts.idempotent) {
            match self.send(endpoint, upstream, decision, facts, upload, record).await {
                Err(Failure::Unsent) => {}
                served => return served,
            }
        }
        let endpoint = match upstream.dial_plain(timeout).await {
            Ok(endpoint) => endpoint,
            Err(DialError::Overflow) => return Err(Failure::Final(ProxyError::Overflow)),
            Err(error) => {
                let error = crate::telemetry::Chain(&error).to_string();
                tracing::debug!(server.address = %upstream.address(), error, "endpoint not reached");
                upstream.observe(FAILURE_LATENCY);
                return Err(Failure::Unsent);
            }
        };
        self.send(endpoint, upstream, decision, facts, upload, record).await.map_err(|failure| match failure {
            // A fresh connection was not closed for being idle: the endpoint has the request, and does not answer it.
            Failure::Unsent => {
                upstream.observe(FAILURE_LATENCY);
                Failure::Final(ProxyError::Reset)
            }
            Failure::Again => Failure::Again,
            Failure::Final(error) => Failure::Final(error),
        })
    }

    /// Sends `out` and what is left of the body, and the answer back.
    async fn send(
        &mut self,
        mut endpoint: Plain,
        upstream: &Rc<Upstream>,
        decision: Option<&Decision>,
        facts: Facts,
        upload: &mut Upload<'_>,
        record: &mut Record,
    ) -> Result<Served, Failure> {
        let begun = Instant::now();
        // Idempotent, and nothing of it was sent but what `out` holds: it may be sent again.
        let again = facts.idempotent && (facts.framing == Framing::None || upload.kept());
        let silent = if again { Failure::Unsent } else { Failure::Final(ProxyError::Reset) };
        let sent = match endpoint.stream.write(&self.out).await {
            Ok(sent) => sent,
            // Not a byte of it was taken.
            Err(_) => return Err(Failure::Unsent),
        };
        if endpoint.stream.write_all(&self.out[sent..]).await.is_err() {
            return Err(silent);
        }
        let retries = upload.retries();
        let uploaded = Cell::new(upload.done());
        let context = Context {
            facts,
            added: &self.added,
            decision,
            watch: self.watch,
            answered: &self.answered,
            uploaded: &uploaded,
            worker: self.worker,
            retries,
        };
        let mut received = BytesMut::new();
        let mut answer_out = std::mem::take(&mut self.scratch);
        let answered = {
            let (mut from, mut to) = endpoint.stream.split();
            let (mut client_from, mut client_to) = self.stream.split();
            let first_byte = || upstream.observe(begun.elapsed());
            let relay =
                answer::relay(&context, &mut from, &mut received, &mut client_to, &mut answer_out, record, first_byte);
            if uploaded.get() && retries.is_none() {
                relay.await
            } else {
                let pump = upload.pump(
                    &mut client_from,
                    &mut self.buffer,
                    &mut to,
                    &mut self.out,
                    self.watch,
                    self.copy.as_deref_mut(),
                );
                // Pinned here, and so held once, not in each of the futures around it.
                let (pump, relay) = (pin!(pump), pin!(relay));
                let relay = pin!(alongside(pump, relay, &uploaded));
                match retries.and_then(Retries::per_try_timeout) {
                    None => relay.await,
                    Some(limit) => in_time(relay, limit, &uploaded, &self.answered).await,
                }
            }
        };
        self.scratch = answer_out;
        match answered {
            Err(AnswerError::Silent) => Err(silent),
            Err(AnswerError::Again { keep_endpoint }) => {
                if keep_endpoint && uploaded.get() {
                    upstream.give_idle(endpoint);
                }
                Err(Failure::Again)
            }
            Err(AnswerError::Other(error)) => {
                if error == ProxyError::Timeout {
                    upstream.observe(FAILURE_LATENCY);
                }
                Err(Failure::Final(error))
            }
            Ok(Answered { switched: true, .. }) => Ok(Served { keep: false, switched: Some((endpoint, received)) }),
            Ok(answered) => {
                if answered.keep_endpoint && received.is_empty() && uploaded.get() {
                    upstream.give_idle(endpoint);
                }
                Ok(Served { keep: answered.keep_client, switched: None })
            }
        }
    }
}

/// Limits the time from the end of the request to the head of the answer.
async fn in_time(
    mut relay: Pin<&mut impl Future<Output = Result<Answered, AnswerError>>>,
    limit: Duration,
    uploaded: &Cell<bool>,
    answered: &Cell<bool>,
) -> Result<Answered, AnswerError> {
    loop {
        let waited_from_the_end = uploaded.get();
        if let Ok(result) = tokio::time::timeout(limit, relay.as_mut()).await {
            return result;
        }
        if answered.get() {
            return relay.await;
        }
        if waited_from_the_end {
            return Err(ProxyError::Timeout.into());
        }
    }
}

/// Awaits the answer while the body is passed on. An endpoint may answer early and take no more; a client that breaks
/// its body off ends the exchange.
pub(super) async fn alongside<T, E: From<ProxyError>>(
    mut pump: Pin<&mut impl Future<Output = Result<(), UploadError>>>,
    mut relay: Pin<&mut impl Future<Output = Result<T, E>>>,
    uploaded: &Cell<bool>,
) -> Result<T, E> {
    let mut pumping = true;
    poll_fn(|context| {
        if pumping && let Poll::Ready(pumped) = pump.as_mut().poll(context) {
            pumping = false;
            match pumped {
                Ok(()) => uploaded.set(true),
                Err(UploadError::Endpoint) => {}
                Err(UploadError::Client(error)) => return Poll::Ready(Err(error.into())),
            }
        }
        relay.as_mut().poll(context)
    })
    .await
}
