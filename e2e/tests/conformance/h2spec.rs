//! h2spec in strict mode.

use std::process::Command;

use anyhow::{Context as _, Result};
use e2e::cluster::binaries::{self, Program};
use e2e::server::{self, Server};
use e2e::standalone::{Proxy, Route};
use http::StatusCode;
use tokio::net::TcpListener;

/// Seconds that a case waits for an answer; most are answered within a millisecond, on a busy machine too.
const PATIENCE_SECONDS: &str = "5";

/// Over an origin that speaks HTTP/1.1, so that frames are ours and not the origin's.
#[tokio::test(flavor = "multi_thread")]
async fn all_147_cases_of_h2spec_pass() -> Result<()> {
    let suite = tokio::task::spawn_blocking(|| binaries::ensure(Program::H2spec)).await??;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let origin = Server::start(listener, |_| async {
        server::typed(StatusCode::OK, "text/plain", "enough bytes for a frame\n")
    })?;
    let proxy = Proxy::start(&Route::new("http", origin.address())).await?;
    let address = proxy.address().to_string();
    let output =
        tokio::task::spawn_blocking(move || Command::new(suite).args([&address, PATIENCE_SECONDS]).output()).await??;
    let said = String::from_utf8_lossy(&output.stdout);
    let summary = said.lines().rfind(|line| line.starts_with("h2spec: ")).context("h2spec did not finish")?;
    println!("{summary}");
    assert_eq!(summary, "h2spec: 147 of 147 passed, 0 failed, 0 skipped", "{said}");
    Ok(())
}
