//! The operator's own certificate authority, and the serving certificate of the config stream.
//!
//! The CA is kept in Secret `sluice-ca`, made by whichever replica comes first; serving certificates live in memory only
//! and are renewed at half their life. The CA itself is valid for ten years and is not rotated by the operator: deleting
//! the Secret and restarting the operator makes a new one, and the pools pick up its bundle (`docs/operations.md`).

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_util::sync::CancellationToken;

use crate::api::{ApiError, call};

/// The Secret, in the operator's namespace.
pub const SECRET: &str = "sluice-ca";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// DNS name that proxies expect, whichever address they dial.
const SERVER_NAME: &str = crds::names::OPERATOR_SERVICE;
/// A serving certificate lives for two days and is renewed after one; proxies check it at each connect only.
const RENEW_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
const SERVING_DAYS: i64 = 2;
const CA_DAYS: i64 = 3_650;
/// Certificates are valid from a while ago, for peers whose clock is behind.
const BACKDATED_MINUTES: i64 = 5;

/// The CA could not be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The Secret could not be read or created; a retry may help.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A person has to delete the Secret.
    #[error("Secret {SECRET} has no usable {0}: delete it and restart the operator, which makes a new CA")]
    Damaged(&'static str),
    /// The key or the names of a certificate were refused; a retry does not help.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// rustls does not take what was issued; a retry does not help.
    #[error("cannot use the serving certificate")]
    Tls(#[from] rustls::Error),
}

/// The CA and what it issues; cheap to clone.
#[derive(Clone)]
pub struct Authority {
    inner: Arc<Inner>,
}

struct Inner {
    bundle: String,
    key: String,
    serving: Arc<Serving>,
    config: Arc<ServerConfig>,
}

impl Authority {
    /// Reads Secret `sluice-ca`, or makes it where there is none.
    ///
    /// # Errors
    /// A call failed (a retry may help), or the Secret is damaged (a person has to delete it).
    pub async fn open(client: &Client, namespace: &str) -> Result<Self, AuthorityError> {
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let secret = match call(format!("read Secret {SECRET}"), api.get(SECRET)).await {
            Ok(secret) => secret,
            Err(error) if error.is_not_found() => create(&api).await?,
            Err(error) => return Err(error.into()),
        };
        Self::from_secret(&secret)
    }

    /// PEM of the certificates that proxies are to trust.
    #[must_use]
    pub fn ca_bundle(&self) -> String {
        self.inner.bundle.clone()
    }

    /// TLS of the config stream.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.inner.config.clone()
    }

    /// Renews the serving certificate until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RENEW_EVERY) => {}
            }
            match self.renew() {
                Ok(()) => tracing::info!("serving certificate renewed"),
                Err(error) => {
                    tracing::error!(error = %crate::telemetry::Chain(&error), "serving certificate not renewed")
                }
            }
        }
    }

    /// The next handshake gets a new certificate; connections that are open go on.
    fn renew(&self) -> Result<(), AuthorityError> {
        self.inner.serving.0.store(Arc::new(issue(&self.inner.bundle, &self.inner.key)?));
        Ok(())
    }

    fn from_secret(secret: &Secret) -> Result<Self, AuthorityError> {
        let text = |key: &'static str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key)).ok_or(AuthorityError::Damaged(key))?;
            String::from_utf8(bytes.0.clone()).map_err(|_| AuthorityError::Damaged(key))
        };
        let (bundle, key) = (text(CERTIFICATE)?, text(KEY)?);
        let serving = Arc::new(Serving(ArcSwap::from_pointee(issue(&bundle, &key)?)));
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(serving.clone());
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { inner: Arc::new(Inner { bundle, key, serving, config: Arc::new(config) }) })
    }
}

/// Creates the Secret; where another replica was quicker, reads theirs.
async fn create(api: &Api<Secret>) -> Result<Secret, AuthorityError> {
    match call(format!("create Secret {SECRET}"), api.create(&PostParams::default(), &secret(&generate()?))).await {
        Err(error) if error.is_conflict() => Ok(call(format!("read Secret {SECRET}"), api.get(SECRET)).await?),
        other => Ok(other?),
    }
}

fn secret(ca: &CertifiedIssuer<'static, KeyPair>) -> Secret {
    let data = [(CERTIFICATE, ca.pem()), (KEY, ca.key().serialize_pem())];
    Secret {
        metadata: ObjectMeta { name: Some(SECRET.to_owned()), ..ObjectMeta::default() },
        data: Some(data.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).collect()),
        type_: Some("kubernetes.io/tls".to_owned()),
        ..Secret::default()
    }
}

fn generate() -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    CertifiedIssuer::self_signed(ca_params(), KeyPair::generate()?)
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "sluice operator CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, CA_DAYS);
    params
}

fn issue(bundle: &str, key: &str) -> Result<CertifiedKey, AuthorityError> {
    let key = KeyPair::from_pem(key).map_err(|_| AuthorityError::Damaged(KEY))?;
    CertificateDer::from_pem_slice(bundle.as_bytes()).map_err(|_| AuthorityError::Damaged(CERTIFICATE))?;
    // Name and key are all that an issuer lends to what it signs.
    let issuer = Issuer::new(ca_params(), key);
    let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, SERVER_NAME);
    valid_for(&mut params, SERVING_DAYS);
    let own = KeyPair::generate()?;
    let certificate = params.signed_by(&own, &issuer)?;
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.serialize_der()));
    let signing = rustls::crypto::ring::sign::any_supported_type(&private)?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], signing))
}

fn valid_for(params: &mut CertificateParams, days: i64) {
    let now = chrono::Utc::now();
    let date = |time: chrono::DateTime<chrono::Utc>| {
        let date = chrono::Datelike::year(&time);
        rcgen::date_time_ymd(date, chrono::Datelike::month(&time) as u8, chrono::Datelike::day(&time) as u8)
    };
    // To the day: a certificate begins at the midnight before and ends at the one after.
    params.not_before = date(now - chrono::TimeDelta::minutes(BACKDATED_MINUTES));
    params.not_after = date(now + chrono::TimeDelta::days(days + 1));
}

/// Hands out the serving certificate of the moment.
struct Serving(ArcSwap<CertifiedKey>);

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Serving")
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

#[cfg(test)]
pub(crate) mod tests;
