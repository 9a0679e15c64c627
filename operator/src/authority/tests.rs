//! What the CA issues, through real handshakes; the race of two replicas, on a scripted API server.

use std::convert::Infallible;
use std::sync::Mutex;

use http::{Method, Request, Response};
use kube::client::Body;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

/// An authority of its own, as from a Secret that was just made.
pub(crate) fn mk_authority() -> Authority {
    Authority::from_secret(&secret(&generate().unwrap())).unwrap()
}

fn trusting(bundle: &str) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(bundle.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

type Ends = (tokio_rustls::client::TlsStream<DuplexStream>, tokio_rustls::server::TlsStream<DuplexStream>);

async fn handshake(authority: &Authority, bundle: &str, name: &'static str) -> std::io::Result<Ends> {
    let (here, there) = tokio::io::duplex(64 * 1024);
    let server = TlsAcceptor::from(authority.server_config()).accept(there);
    let client = trusting(bundle).connect(ServerName::try_from(name).unwrap(), here);
    let (client, server) = tokio::join!(client, server);
    Ok((client?, server?))
}

fn shown(ends: &Ends) -> Vec<u8> {
    ends.0.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn what_the_ca_issues_is_trusted_by_its_bundle_and_under_its_name_only() {
    let (authority, other) = (mk_authority(), mk_authority());
    handshake(&authority, &authority.ca_bundle(), SERVER_NAME).await.unwrap();
    assert!(handshake(&authority, &other.ca_bundle(), SERVER_NAME).await.is_err());
    assert!(handshake(&authority, &authority.ca_bundle(), "sluice-proxy").await.is_err());
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart_and_ends_no_connection() {
    let authority = mk_authority();
    let bundle = authority.ca_bundle();
    let mut before = handshake(&authority, &bundle, SERVER_NAME).await.unwrap();
    authority.renew().unwrap();
    let after = handshake(&authority, &bundle, SERVER_NAME).await.unwrap();
    assert_ne!(shown(&before), shown(&after));
    before.1.write_all(b"still here").await.unwrap();
    let mut heard = [0; 10];
    before.0.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"still here");
}

#[test]
fn a_damaged_secret_is_named() {
    let error = Authority::from_secret(&Secret::default()).err().unwrap();
    assert!(error.to_string().contains("tls.crt"), "{error}");
    let mut garbled = secret(&generate().unwrap());
    garbled.data.as_mut().unwrap().insert(KEY.to_owned(), ByteString(b"garbage".to_vec()));
    let error = Authority::from_secret(&garbled).err().unwrap();
    assert!(error.to_string().contains("tls.key"), "{error}");
}

/// Holds one Secret; every read before the first creation was answered finds none, as for replicas that start together.
fn mk_server() -> Client {
    let held: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
    let service = tower::service_fn(move |request: Request<Body>| {
        let held = Arc::clone(&held);
        async move {
            let creates = request.method() == Method::POST;
            let body = request.into_body().collect_bytes().await.unwrap().to_vec();
            let mut held = held.lock().unwrap();
            let (code, answer) = match (&*held, creates) {
                (None, true) => {
                    *held = Some(body.clone());
                    (201, body)
                }
                (None, false) => (404, failure(404)),
                (Some(_), true) => (409, failure(409)),
                (Some(secret), false) => (200, secret.clone()),
            };
            let answer = Response::builder().status(code).body(Body::from(answer)).unwrap();
            Ok::<_, Infallible>(answer)
        }
    });
    Client::new(service, "sluice-system")
}

fn failure(code: u16) -> Vec<u8> {
    let status =
        serde_json::json!({ "kind": "Status", "status": "Failure", "code": code, "message": "", "reason": "" });
    status.to_string().into_bytes()
}

#[tokio::test]
async fn replicas_that_start_together_share_one_ca() {
    let client = mk_server();
    let api: Api<Secret> = Api::namespaced(client.clone(), "sluice-system");
    // Both found none; both create.
    let (one, two) = tokio::join!(create(&api), create(&api));
    let third = Authority::open(&client, "sluice-system").await.unwrap();
    let (one, two) = (Authority::from_secret(&one.unwrap()).unwrap(), Authority::from_secret(&two.unwrap()).unwrap());
    assert_eq!(one.ca_bundle(), two.ca_bundle());
    assert_eq!(one.ca_bundle(), third.ca_bundle());
    handshake(&two, &one.ca_bundle(), SERVER_NAME).await.unwrap();
}
