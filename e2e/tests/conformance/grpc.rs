//! gRPC's interoperability tests with the client and server of grpc-go: each case directly and through the proxy.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::cluster::binaries::{self, Program};
use e2e::standalone::{Proxy, Route, free_port};

/// Every case that needs neither TLS nor credentials and that grpc-go's own server has
/// (grpc/doc/interop-test-descriptions.md).
const CASES: [&str; 16] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "rpc_soak",
    "channel_soak",
];
/// A machine that is busy elsewhere may need more than the 10 s and 1 s that the client allows by itself.
const SOAK: [&str; 3] =
    ["-soak_iterations=20", "-soak_overall_timeout_seconds=60", "-soak_per_iteration_max_acceptable_latency_ms=20000"];
/// grpc-go cancels after it has begun and then half-closes: when the machine takes the processor away from the client between the two reads
/// of its select, the answer of the server is there first, and Go picks either (interop/test_utils.go, `DoCancelAfterBegin`). It is the
/// client's own race, with no proxy in between as well; such a run says nothing, and is repeated, a bounded number of times.
const UNDECIDED: (&str, &str) = ("cancel_after_begin", "got error code 0, want 1");
const RUNS: usize = 10;
const STARTS_WITHIN: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread")]
async fn grpc_go_has_the_same_calls_through_the_proxy_as_directly() -> Result<()> {
    let server = tokio::task::spawn_blocking(Server::start).await??;
    // A Service that says it speaks gRPC, and one that says nothing.
    let told = Proxy::start(&Route::new("grpc", server.address)).await?;
    let detected = Proxy::start(&Route::new("detect", server.address)).await?;
    let ways =
        [("directly", server.address), ("through the proxy", told.address()), ("by detection", detected.address())];
    let client = tokio::task::spawn_blocking(|| binaries::ensure(Program::GrpcClient)).await??;
    tokio::task::spawn_blocking(move || {
        for case in CASES {
            for (way, address) in ways {
                run(&client, case, address).with_context(|| format!("{case} fails {way}"))?;
            }
        }
        println!("grpc-go: {} of {} cases passed, directly, through the proxy, by detection", CASES.len(), CASES.len());
        Ok(())
    })
    .await?
}

/// One case, to its first run that says something.
fn run(client: &Path, case: &str, server: SocketAddr) -> Result<()> {
    for _ in 0..RUNS {
        let output = Command::new(client)
            .args(["-server_host", &server.ip().to_string(), "-server_port", &server.port().to_string()])
            .args(["-test_case", case])
            .args(SOAK)
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(case == UNDECIDED.0 && said.contains(UNDECIDED.1), "{said}");
    }
    bail!("the call was never seen cancelled in {RUNS} runs")
}

struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start() -> Result<Self> {
        let program = binaries::ensure(Program::GrpcServer)?;
        let address = free_port()?;
        let child = Command::new(program)
            .args(["-port", &address.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let server = Self { child, address };
        let deadline = Instant::now() + STARTS_WITHIN;
        while std::net::TcpStream::connect(address).is_err() {
            if Instant::now() > deadline {
                bail!("the server of grpc-go does not listen on {address}");
            }
            std::thread::sleep(POLL);
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
