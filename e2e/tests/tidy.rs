//! The shape of the workspace: which crate may know which, and what the pure ones may never hold.
//!
//! docs/architecture.md draws the same edges for people. A new edge changes both, and its commit says why.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Crate → the crates of this workspace that it may depend on, tests and build scripts included.
const EDGES: [(&str, &[&str]); 9] = [
    ("admin-server", &[]),
    ("crds", &[]),
    ("dataplane", &["admin-server", "proxy-api", "routing"]),
    ("e2e", &["crds", "proxy-api", "sample-app"]),
    ("operator", &["admin-server", "crds", "proxy-api", "rollout"]),
    ("proxy-api", &[]),
    ("rollout", &[]),
    ("routing", &["proxy-api"]),
    ("sample-app", &["proxy-api"]),
];

/// Crates that decide and do nothing else.
const PURE: [&str; 4] = ["crds", "proxy-api", "rollout", "routing"];

/// What would let a pure crate do something. `kube-core` and `kube-derive` (types and macros) are no client.
const EFFECTS: [&str; 9] =
    ["tokio", "hyper", "hyper-util", "kube-client", "kube-runtime", "mio", "reqwest", "socket2", "tonic"];

/// A second crypto provider or a system library for TLS.
const BANNED: [&str; 5] = ["aws-lc-rs", "aws-lc-sys", "native-tls", "openssl", "openssl-sys"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn edges() -> BTreeMap<String, BTreeSet<String>> {
    let metadata: Value =
        serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--no-deps", "--locked"])).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let of = |package: &Value| -> (String, BTreeSet<String>) {
        let local = package["dependencies"].as_array().unwrap().iter().filter(|other| other.get("path").is_some());
        (text(&package["name"]), local.map(|other| text(&other["name"])).collect())
    };
    metadata["packages"].as_array().unwrap().iter().map(of).collect()
}

#[test]
fn the_edges_between_crates_are_the_allowed_ones() {
    let allowed: BTreeMap<String, BTreeSet<String>> = EDGES
        .iter()
        .map(|(name, others)| ((*name).to_owned(), others.iter().map(|other| (*other).to_owned()).collect()))
        .collect();
    assert_eq!(edges(), allowed);
}

#[test]
fn pure_crates_hold_nothing_that_acts() {
    for name in PURE {
        let arguments = ["tree", "--locked", "-e", "normal", "--prefix", "none", "--format", "{p}", "-p", name];
        let tree = cargo(&arguments);
        let held: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        assert!(held.contains(name), "no tree of {name}: {tree}");
        let effects: Vec<_> = EFFECTS.iter().filter(|effect| held.contains(**effect)).collect();
        assert!(effects.is_empty(), "{name} holds {effects:?}");
    }
}

#[test]
fn pure_crates_ask_neither_clock_nor_environment() {
    for name in ["rollout", "routing", "proxy-api"] {
        let folder = match name {
            "rollout" => "operator/rollout/src",
            "routing" => "dataplane/routing/src",
            _ => "dataplane/proxy-api/src",
        };
        for file in sources(&root().join(folder)) {
            let text = fs::read_to_string(&file).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            for call in ["Instant::now", "SystemTime::now", "Utc::now", "Timestamp::now", "std::env::", "std::fs::"] {
                assert!(!code.contains(call), "{} calls {call}", file.display());
            }
        }
    }
}

#[test]
fn no_second_crypto_provider_is_locked() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    for name in BANNED {
        assert!(!lock.contains(&format!("name = \"{name}\"\n")), "{name} is in Cargo.lock");
    }
}

#[test]
fn every_module_says_what_it_is() {
    let folders = EDGES.iter().map(|(name, _)| match *name {
        "admin-server" => "dataplane/admin-server",
        "rollout" => "operator/rollout",
        "routing" => "dataplane/routing",
        "proxy-api" => "dataplane/proxy-api",
        "sample-app" => "e2e/sample-app",
        other => other,
    });
    for file in folders.flat_map(|folder| sources(&root().join(folder).join("src"))) {
        let text = fs::read_to_string(&file).unwrap();
        // The tests of a module are told by its own header.
        assert!(file.ends_with("tests.rs") || text.starts_with("//! "), "{} has no header", file.display());
    }
}

/// Rust files at and below `folder`.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    found
}
