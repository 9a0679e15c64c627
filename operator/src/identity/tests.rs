//! Answers of the API server, good and bad, and a table of tokens for the tests of the stream.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::authentication::v1::UserInfo;

use super::*;

/// The status that the API server gives for the token of `pod` of the pool in `namespace`.
pub(crate) fn mk_status(namespace: &str, pod: &str) -> TokenReviewStatus {
    TokenReviewStatus {
        authenticated: Some(true),
        audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
        user: Some(UserInfo {
            username: Some(format!("system:serviceaccount:{namespace}:sluice-proxy")),
            extra: Some(BTreeMap::from([(POD_NAME.to_owned(), vec![pod.to_owned()])])),
            ..UserInfo::default()
        }),
        error: None,
    }
}

/// Believes tokens of the form `namespace/pod`; everything else is unknown.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) asked: AtomicUsize,
}

impl Review for Table {
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, kube::Result<TokenReviewStatus>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let status = token.split_once('/').map(|(namespace, pod)| mk_status(namespace, pod)).unwrap_or_default();
        Box::pin(async move { Ok(status) })
    }
}

#[test]
fn the_pools_own_bound_token_is_its_pod() {
    let proxy = Proxy { namespace: "shop".to_owned(), pod: "sluice-proxy-1".to_owned() };
    assert_eq!(judge(&mk_status("shop", "sluice-proxy-1")), Ok(proxy));
}

#[test]
fn every_defect_of_a_token_is_a_refusal() {
    type Break = fn(&mut TokenReviewStatus);
    let defects: [(&str, Break); 8] = [
        ("not authenticated", |status| status.authenticated = Some(false)),
        ("authentication not said", |status| status.authenticated = None),
        ("audience of another", |status| status.audiences = Some(vec!["vault".to_owned()])),
        ("audience ignored", |status| status.audiences = None),
        ("no user", |status| status.user = None),
        ("another account", |status| {
            status.user.as_mut().unwrap().username = Some("system:serviceaccount:shop:default".to_owned());
        }),
        ("a person", |status| status.user.as_mut().unwrap().username = Some("sluice-proxy".to_owned())),
        ("not bound", |status| status.user.as_mut().unwrap().extra = None),
    ];
    for (name, defect) in defects {
        let mut status = mk_status("shop", "sluice-proxy-1");
        defect(&mut status);
        assert!(judge(&status).is_err(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_reviewed_once_a_minute() {
    let table = Arc::new(Table::default());
    let identities = Identities::with(table.clone());
    for _ in 0..5 {
        identities.identify(Some("Bearer shop/a")).await.unwrap();
    }
    assert_eq!(table.asked.load(Ordering::Relaxed), 1);
    tokio::time::advance(CACHE_TTL).await;
    identities.identify(Some("Bearer shop/a")).await.unwrap();
    assert_eq!(table.asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_refusal_is_not_remembered() {
    let table = Arc::new(Table::default());
    let identities = Identities::with(table.clone());
    for _ in 0..2 {
        assert!(matches!(identities.identify(Some("Bearer junk")).await, Err(IdentityError::Refused(_))));
    }
    assert_eq!(table.asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn what_is_no_token_is_not_reviewed() {
    let table = Arc::new(Table::default());
    let identities = Identities::with(table.clone());
    assert!(matches!(identities.identify(None).await, Err(IdentityError::Missing)));
    assert!(matches!(identities.identify(Some("Basic abc")).await, Err(IdentityError::Missing)));
    let long = format!("Bearer {}", "x".repeat(TOKEN_LIMIT + 1));
    assert!(matches!(identities.identify(Some(&long)).await, Err(IdentityError::Refused(_))));
    assert_eq!(table.asked.load(Ordering::Relaxed), 0);
}

struct Hangs;

impl Review for Hangs {
    fn review<'a>(&'a self, _: &'a str) -> BoxFuture<'a, kube::Result<TokenReviewStatus>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_hangs_ends_in_a_deadline() {
    let identities = Identities::with(Arc::new(Hangs));
    assert!(matches!(identities.identify(Some("Bearer a/b")).await, Err(IdentityError::Deadline)));
}
