//! The short form of `cargo bench -p e2e --bench abuse`: counts and memory, no times.

use std::time::Duration;

use anyhow::Result;
use e2e::abuse::{self, ATTACKS, Force};
use futures::future::try_join_all;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Attacks at a time.
const AT_ONCE: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn abuse_costs_honest_clients_nothing_and_is_forgotten() -> Result<()> {
    // The attackers' connections are this process's files.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    // Longer than the 10 s after which slow heads and slow bodies are cut.
    let force =
        Force { time: Duration::from_secs(18), calm: Duration::from_millis(500), rps: 20, idle: 1_000, core: None };
    let mut faults = Vec::new();
    for group in ATTACKS.chunks(AT_ONCE) {
        let harms = try_join_all(group.iter().map(|attack| abuse::run(attack, &force))).await?;
        for (attack, harm) in group.iter().zip(harms) {
            println!("{}: {:?}, KiB {:?}, files {:?}", harm.name, harm.ends, harm.resident_kib, harm.files);
            faults.extend(harm.faults(attack));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    Ok(())
}
