//! The real `kubectl`, as a user runs it. Nothing here retries or interprets.

use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::cluster;

/// Whether `apply` and `diff` compute the change here or in the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `kubectl apply`: three-way merge with the annotation of the last one.
    Client,
    /// `kubectl apply --server-side`.
    Server,
}

/// What a finished command printed.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its exit code; −1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// A kubectl to run by hand: the local cluster's, or with `is_foreign` the one on the PATH.
#[must_use]
pub fn command(is_foreign: bool) -> std::process::Command {
    if is_foreign { std::process::Command::new("kubectl") } else { cluster::kubectl() }
}

/// Runs kubectl with `arguments` and `input` on its standard input.
///
/// # Errors
/// When it cannot be started; a failure of the command is in the [`Output`].
pub async fn run(arguments: &[&str], input: &str) -> Result<Output> {
    let mut child = Command::from(cluster::kubectl())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start kubectl")?;
    let mut stdin = child.stdin.take().context("kubectl has no standard input")?;
    // A command that does not read its input closes it early.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await.context("cannot wait for kubectl")?;
    Ok(Output {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs kubectl and returns what it printed.
///
/// # Errors
/// When it fails; the message holds what it printed to standard error.
pub async fn kubectl(arguments: &[&str]) -> Result<String> {
    let Output { code, out, err } = run(arguments, "").await?;
    ensure!(code == 0, "kubectl {} failed: {}", arguments.join(" "), err.trim());
    Ok(out)
}

/// Applies manifests to a namespace.
///
/// # Errors
/// When kubectl fails; the message is what it printed.
pub async fn apply(namespace: &str, manifests: &str, side: Side) -> Result<String> {
    let mut arguments = vec!["apply", "--namespace", namespace, "--filename", "-"];
    if side == Side::Server {
        arguments.extend(["--server-side", "--field-manager=git"]);
    }
    let Output { code, out, err } = run(&arguments, manifests).await?;
    if code != 0 {
        bail!("kubectl apply failed: {}", err.trim());
    }
    Ok(out)
}

/// What `kubectl diff` shows; empty when nothing would change.
///
/// # Errors
/// When kubectl fails for another reason than a difference.
pub async fn diff(namespace: &str, manifests: &str, side: Side) -> Result<String> {
    let mut arguments = vec!["diff", "--namespace", namespace, "--filename", "-"];
    if side == Side::Server {
        arguments.extend(["--server-side", "--field-manager=git"]);
    }
    let Output { code, out, err } = run(&arguments, manifests).await?;
    if !matches!(code, 0 | 1) {
        bail!("kubectl diff failed: {}", err.trim());
    }
    Ok(out)
}
