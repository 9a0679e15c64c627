//! Delivers what the outbox holds: looks up provider and secret, posts, retries, reports.
//!
//! Provider and Secret are read by name at each attempt, so that a corrected address is used at once, and no Secret is
//! ever listed or watched. An address from a Secret appears in no error and no log.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    sync::Arc,
    time::Duration,
};

use crds::{AlertProvider, AlertProviderSpec, alert_provider::AlertProviderKind};
use futures::{StreamExt, stream::FuturesUnordered};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    Outcome, Shared,
    queue::{Delivery, Lane},
    slack,
};
use crate::outbound::{self, Limits, Outbound};

/// For one attempt's reads from the API server, and for its post.
const STEP_DEADLINE: Duration = Duration::from_secs(5);
/// Longest answer of a receiver that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Attempts before a message is given up: some seven minutes.
const ATTEMPTS_MAX: u32 = 12;
/// Pause after the first failed attempt; doubles with each.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Longest pause that we choose ourselves; `Retry-After` may ask for more.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Attempts under way at once, over all providers.
const CONCURRENT: usize = 16;
/// How long delivery goes on after the stop, for what was offered just before it.
const DRAIN: Duration = Duration::from_secs(3);
/// Key of the Secret that holds the address, as with Flagger.
const SECRET_KEY: &str = "address";
/// What Slack may say in an error; nothing else of a body is repeated ("Sending messages using incoming webhooks").
const SLACK_ERRORS: [&str; 12] = [
    "action_prohibited",
    "channel_is_archived",
    "channel_not_found",
    "invalid_payload",
    "invalid_token",
    "no_active_hooks",
    "no_service",
    "no_service_id",
    "no_team",
    "posting_to_general_channel_denied",
    "team_disabled",
    "user_not_found",
];

/// The task that empties the outbox; one per process.
#[derive(Debug)]
pub struct Sender {
    context: Context,
}

struct Context {
    client: kube::Client,
    outbound: Outbound,
    shared: Arc<Shared>,
    attempts: Semaphore,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

/// Why an attempt failed.
struct Failure {
    /// One sentence for people.
    why: String,
    retry: Retry,
}

enum Retry {
    /// Someone has to change something.
    Never,
    /// After our own pause, and not before this time.
    After(Duration),
}

impl Failure {
    const fn terminal(why: String) -> Self {
        Self { why, retry: Retry::Never }
    }

    const fn passing(why: String) -> Self {
        Self { why, retry: Retry::After(Duration::ZERO) }
    }
}

impl Sender {
    pub(super) fn new(client: kube::Client, outbound: Outbound, shared: Arc<Shared>) -> Self {
        Self { context: Context { client, outbound, shared, attempts: Semaphore::new(CONCURRENT) } }
    }

    /// Delivers until `stop`, then for at most three seconds more. What is left then is offered again by whoever leads
    /// next, if it still matters.
    pub async fn run(self, stop: CancellationToken) {
        let context = &self.context;
        let mut under_way = FuturesUnordered::new();
        let drained = async {
            stop.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::pin!(drained);
        loop {
            // Not in the loop's condition: the lock would be held through its body.
            let next = || context.shared.lock().queue.take();
            while let Some((lane, delivery)) = next() {
                under_way.push(context.deliver(lane, delivery));
            }
            if under_way.is_empty() && stop.is_cancelled() {
                return;
            }
            tokio::select! {
                () = &mut drained => return,
                () = stop.cancelled(), if !stop.is_cancelled() => {}
                () = context.shared.queued.notified() => {}
                Some(lane) = under_way.next() => context.shared.lock().queue.done(lane),
            }
        }
    }
}

impl Context {
    /// Gives the lane back when the message is delivered or given up.
    async fn deliver(&self, lane: Lane, delivery: Delivery) -> Lane {
        let outcome = self.tried(&lane, &delivery).await;
        if let Outcome::Failed { why } = &outcome {
            tracing::warn!(
                k8s.namespace.name = lane.namespace,
                provider = lane.provider,
                reason = why,
                "alert not delivered"
            );
        }
        self.shared.report(&lane, &delivery, outcome);
        lane
    }

    async fn tried(&self, lane: &Lane, delivery: &Delivery) -> Outcome {
        let mut attempts = 1;
        loop {
            let turn = self.attempts.acquire().await;
            let result = self.attempt(lane, delivery).await;
            drop(turn);
            let Failure { why, retry } = match result {
                Ok(()) => return Outcome::Delivered { attempts },
                Err(failure) => failure,
            };
            let not_before = match retry {
                Retry::After(pause) if attempts < ATTEMPTS_MAX => pause,
                Retry::After(_) => {
                    return Outcome::Failed { why: format!("{why}; given up after {attempts} attempts") };
                }
                Retry::Never => return Outcome::Failed { why },
            };
            tracing::debug!(
                k8s.namespace.name = lane.namespace,
                provider = lane.provider,
                attempts,
                reason = why,
                "alert retry"
            );
            tokio::time::sleep(backoff(attempts, jitter()).max(not_before)).await;
            attempts += 1;
        }
    }

    async fn attempt(&self, lane: &Lane, delivery: &Delivery) -> Result<(), Failure> {
        let lookup = async {
            let provider = self.provider(lane).await?;
            let address = self.address(lane, &provider).await?;
            Ok((provider, address))
        };
        let Ok(looked_up) = tokio::time::timeout(STEP_DEADLINE, lookup).await else {
            return Err(Failure::passing(format!("AlertProvider {} could not be read in time", lane.provider)));
        };
        let (provider, address) = looked_up?;
        let url = outbound::parse_address(&address)
            .map_err(|error| Failure::terminal(format!("AlertProvider {}: {error}", lane.provider)))?;
        let body = match provider.kind {
            AlertProviderKind::Slack => slack::payload(&provider, delivery),
        };
        let limits = Limits { deadline: STEP_DEADLINE, answer_bytes: ANSWER_BYTES_MAX };
        let answer = self.outbound.post(&url, "application/json", body.to_string().into_bytes(), limits).await;
        let answer = answer.map_err(|error| {
            let why = format!("AlertProvider {}: {error}", lane.provider);
            if error.passing() { Failure::passing(why) } else { Failure::terminal(why) }
        })?;
        judge(lane, &outbound::place(&url), &answer)
    }

    async fn provider(&self, lane: &Lane) -> Result<AlertProviderSpec, Failure> {
        let api: Api<AlertProvider> = Api::namespaced(self.client.clone(), &lane.namespace);
        let found = api.get_opt(&lane.provider).await;
        let found = found.map_err(|error| unread(&format!("AlertProvider {}", lane.provider), &error))?;
        let missing = || {
            Failure::terminal(format!(
                "AlertProvider {} does not exist in namespace {}: create it there, or correct alerts[].providerRef",
                lane.provider, lane.namespace
            ))
        };
        found.map(|provider| provider.spec).ok_or_else(missing)
    }

    async fn address(&self, lane: &Lane, provider: &AlertProviderSpec) -> Result<String, Failure> {
        let secret = match (&provider.address, &provider.secret_ref) {
            (Some(address), _) => return Ok(address.clone()),
            (None, Some(secret)) => &secret.name,
            (None, None) => {
                return Err(Failure::terminal(format!(
                    "AlertProvider {}: expected spec.address or spec.secretRef",
                    lane.provider
                )));
            }
        };
        let about = |what: &str| Failure::terminal(format!("AlertProvider {}: Secret {secret} {what}", lane.provider));
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &lane.namespace);
        let found = api.get_opt(secret).await.map_err(|error| unread(&format!("Secret {secret}"), &error))?;
        let data = found.ok_or_else(|| about("does not exist"))?.data.unwrap_or_default();
        let value = data.get(SECRET_KEY).ok_or_else(|| about("has no key 'address' with the URL of the webhook"))?;
        let text = std::str::from_utf8(&value.0).map_err(|_| about("holds no text under its key 'address'"))?;
        Ok(text.trim().to_owned())
    }
}

/// An object could not be read from the API server.
fn unread(what: &str, error: &kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) if status.code == 403 => Failure::terminal(format!(
            "{what} could not be read: Sluice may not get it; Secrets have to be named in the chart value alertSecretNames"
        )),
        kube::Error::SerdeError(_) => Failure::terminal(format!("{what} has fields that Sluice cannot read")),
        _ => Failure::passing(format!("{what} could not be read from the API server")),
    }
}

fn judge(lane: &Lane, place: &str, answer: &outbound::Answer) -> Result<(), Failure> {
    let provider = &lane.provider;
    match answer.status {
        200..=299 => Ok(()),
        status @ (408 | 429 | 500..=599) => Err(Failure {
            why: format!("AlertProvider {provider}: {place} answers with status {status}"),
            retry: Retry::After(answer.retry_after.unwrap_or_default()),
        }),
        status => {
            let said = SLACK_ERRORS.iter().find(|word| answer.body.trim_ascii() == word.as_bytes());
            let said = said.map_or_else(String::new, |word| format!(", {word}"));
            Err(Failure::terminal(format!(
                "AlertProvider {provider}: {place} refuses the message (status {status}{said}); expected an incoming \
                 webhook that is still valid, and a channel that it may post to"
            )))
        }
    }
}

/// The pause after `attempts` failed ones; `jitter` from 0 to 1 takes up to half of it away, so that providers that
/// failed together are not asked together again.
fn backoff(attempts: u32, jitter: f64) -> Duration {
    let doubled = BACKOFF_FIRST.saturating_mul(1 << (attempts - 1).min(16));
    doubled.min(BACKOFF_MAX).mul_f64(1.0 - jitter / 2.0)
}

/// From 0 to 1; the standard library's only source of randomness.
fn jitter() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    f64::from((random >> 32) as u32) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_bound() {
        let pauses: Vec<_> = (1..=ATTEMPTS_MAX).map(|attempts| backoff(attempts, 0.0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60]);
        assert_eq!(backoff(3, 1.0), Duration::from_secs(2));
        assert_eq!(backoff(u32::MAX, 0.0), BACKOFF_MAX);
        let drawn: Vec<_> = (0..100).map(|_| jitter()).collect();
        assert!(
            drawn.iter().all(|value| (0.0..=1.0).contains(value)) && drawn.windows(2).any(|pair| pair[0] != pair[1])
        );
    }
}
