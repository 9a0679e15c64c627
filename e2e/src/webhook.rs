//! A mutating webhook that edits pod templates, as image-rewriting and injecting webhooks do.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::cluster::layout::NODE_ADDRESS;
use crate::kubectl::{self, Side};
use crate::server;
use crate::world::Shop;

/// Adds a variable to the first container of every Deployment that is written in one namespace, while it lives.
#[derive(Debug)]
pub struct TagWebhook {
    configuration: String,
    _task: AbortOnDropHandle<()>,
}

impl TagWebhook {
    /// Starts it and registers it for the shop's namespace.
    ///
    /// # Errors
    /// When no certificate can be made or the API server refuses the registration.
    pub async fn install(shop: &Shop, value: &str) -> Result<Self> {
        let certified =
            rcgen::generate_simple_self_signed([NODE_ADDRESS.to_owned()]).context("cannot make a certificate")?;
        let listener = TcpListener::bind((NODE_ADDRESS, 0)).await?;
        let port = listener.local_addr()?.port();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let tls = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key.into())
            .context("cannot use the certificate")?;
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let task = tokio::spawn(serve(listener, acceptor, value.to_owned()));
        let configuration = format!("edits-{}", shop.namespace);
        let bundle = base64(certified.cert.pem().as_bytes());
        let registration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": { "name": configuration },
            "webhooks": [{
                "name": "edits.sluice.dev", "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 5,
                "clientConfig": { "url": format!("https://{NODE_ADDRESS}:{port}/"), "caBundle": bundle },
                "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": shop.namespace } },
                "rules": [{ "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"],
                            "resources": ["deployments"] }],
            }],
        });
        kubectl::apply(&shop.namespace, &registration.to_string(), Side::Client).await?;
        Ok(Self { configuration, _task: AbortOnDropHandle::new(task) })
    }

    /// Takes the registration back.
    ///
    /// # Errors
    /// When kubectl fails.
    pub async fn remove(self) -> Result<()> {
        kubectl::kubectl(&["delete", "mutatingwebhookconfiguration", &self.configuration]).await.map(drop)
    }
}

async fn serve(listener: TcpListener, acceptor: tokio_rustls::TlsAcceptor, value: String) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, value) = (acceptor.clone(), value.clone());
        connections.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(|request| review(request, &value));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn review(request: Request<Incoming>, value: &str) -> Result<Response<Full<Bytes>>> {
    let body = request.into_body().collect().await?.to_bytes();
    let review: Value = serde_json::from_slice(&body)?;
    let container = "/spec/template/spec/containers/0";
    let environment = review["request"]["object"].pointer(container).map(|container| container["env"].clone());
    let variable = json!({ "name": "EDITED", "value": value });
    let mut variables = environment.and_then(|environment| environment.as_array().cloned()).unwrap_or_default();
    let mut response = json!({ "uid": review["request"]["uid"], "allowed": true });
    if !variables.contains(&variable) {
        variables.push(variable);
        let patch = json!([{ "op": "add", "path": format!("{container}/env"), "value": variables }]);
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(base64(patch.to_string().as_bytes()));
    }
    let answer = json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response });
    Ok(server::json(StatusCode::OK, answer.to_string()))
}

/// RFC 4648 §4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let index = (word >> (18 - 6 * place)) as usize & 63;
            text.push(if place <= chunk.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, encoded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
