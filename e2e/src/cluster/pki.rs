//! The cluster's certificates: one authority, a serving certificate for the
//! API server, and a client certificate with a kubeconfig for every part.
//!
//! Everything is made anew for each cluster and removed with it.

use std::fs;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

use super::layout;

/// A client of the API server, by the certificate it shows.
struct Client {
    /// Name of its files.
    file: &'static str,
    user: &'static str,
    group: Option<&'static str>,
}

const MASTERS: Option<&str> = Some("system:masters");

const CLIENTS: [Client; 8] = [
    Client { file: "admin", user: "admin", group: MASTERS },
    Client { file: "kubelet", user: "system:node:sluice", group: Some("system:nodes") },
    Client { file: "kube-controller-manager", user: "system:kube-controller-manager", group: None },
    Client { file: "kube-scheduler", user: "system:kube-scheduler", group: None },
    Client { file: "kube-proxy", user: "system:kube-proxy", group: None },
    Client { file: "coredns", user: "coredns", group: MASTERS },
    Client { file: "prometheus", user: "prometheus", group: MASTERS },
    Client { file: "apiserver-kubelet-client", user: "kube-apiserver", group: MASTERS },
];

/// Writes every key, certificate and kubeconfig of a new cluster.
///
/// # Errors
/// When a key cannot be made or a file cannot be written.
pub(super) fn write_all() -> Result<()> {
    let authority = authority()?;
    write("pki/ca.crt", &authority.pem())?;
    write("pki/ca.key", &authority.key().serialize_pem())?;
    let accounts = KeyPair::generate()?;
    write("pki/sa.key", &accounts.serialize_pem())?;
    write("pki/sa.pub", &accounts.public_key_pem())?;
    issue(&authority, "apiserver", serving_params()?)?;
    for client in &CLIENTS {
        issue(&authority, client.file, client_params(client)?)?;
        let path = match client.file {
            "admin" => "kubeconfig".to_owned(),
            file => format!("conf/{file}.kubeconfig"),
        };
        write(&path, &kubeconfig(client.file)?)?;
    }
    Ok(())
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = name("sluice-ca", None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

fn serving_params() -> Result<CertificateParams> {
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        "127.0.0.1",
        layout::NODE_ADDRESS,
        layout::API_SERVICE_ADDRESS,
    ];
    let mut params = CertificateParams::new(names.map(str::to_owned).to_vec())?;
    params.distinguished_name = name("kube-apiserver", None);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn client_params(client: &Client) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = name(client.user, client.group);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

/// The API server reads the user from the common name and the group from the
/// organisation.
fn name(user: &str, group: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, user);
    if let Some(group) = group {
        name.push(DnType::OrganizationName, group);
    }
    name
}

fn issue(authority: &CertifiedIssuer<'static, KeyPair>, file: &str, params: CertificateParams) -> Result<()> {
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, authority)?;
    write(&format!("pki/{file}.crt"), &certificate.pem())?;
    write(&format!("pki/{file}.key"), &key.serialize_pem())
}

fn kubeconfig(file: &str) -> Result<String> {
    let pki = |name: String| layout::state("pki").join(name);
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "sluice",
        "clusters": [{"name": "sluice", "cluster": {
            "server": layout::API_SERVER,
            "certificate-authority": pki("ca.crt".to_owned()),
        }}],
        "users": [{"name": file, "user": {
            "client-certificate": pki(format!("{file}.crt")),
            "client-key": pki(format!("{file}.key")),
        }}],
        "contexts": [{"name": "sluice", "context": {"cluster": "sluice", "user": file}}],
    });
    // JSON is YAML.
    Ok(serde_json::to_string_pretty(&config)?)
}

fn write(path: &str, text: &str) -> Result<()> {
    let path = layout::state(path);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
