//! Memory of each proxy: at rest after its first request, and per idle keep-alive connection.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::Bench;
use crate::peers::Kind;
use crate::report::{Limit, Report};
use crate::setup;

pub(crate) const NAME: &str = "memory";
/// Idle connections, where the limit of open files allows that many.
const CLIENTS: u64 = 10_000;
/// Time for buffers of the last requests to be given back.
const SETTLE: Duration = Duration::from_secs(3);

/// Measures every proxy, one after the other.
pub(crate) fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let clients = CLIENTS.min(bench.clients - 200);
    let (mut idle, mut each) = (Vec::new(), Vec::new());
    for peer in &bench.peers {
        let proxy = setup::start(peer, &bench.origin, &bench.cores.proxy, bench.clients, &bench.folder.join(NAME))?;
        request(proxy.http1)?;
        std::thread::sleep(SETTLE);
        let before = proxy.guest.rss_kib()?;
        let open: Vec<TcpStream> = (0..clients).map(|_| request(proxy.http1)).collect::<Result<_>>()?;
        std::thread::sleep(SETTLE);
        let after = proxy.guest.rss_kib()?;
        drop(open);
        idle.push((peer.kind, before as f64 / 1024.0));
        each.push((peer.kind, after.saturating_sub(before) as f64 / clients as f64));
    }
    report.figure(NAME, "RSS idle, MiB", &idle);
    report.figure(NAME, "KiB per idle connection", &each);
    let ours = |values: &[(Kind, f64)]| values.iter().find(|(kind, _)| *kind == Kind::Sluice).map(|(_, value)| *value);
    report.bar(NAME, "RSS idle, MiB", Limit::AtMost(12.0), ours(&idle), "");
    let note = format!("{clients} connections");
    report.bar(NAME, "KiB per idle connection", Limit::AtMost(12.0), ours(&each), &note);
    Ok(())
}

/// One request on a connection of its own, which stays open.
fn request(to: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(to).with_context(|| format!("cannot connect to {to}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\naccept: */*\r\nuser-agent: bench/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut room = [0; 4096];
    while !crate::latency::complete(&answer) {
        let count = stream.read(&mut room)?;
        if count == 0 {
            bail!("connection closed after {:?}", String::from_utf8_lossy(&answer));
        }
        answer.extend_from_slice(&room[..count]);
    }
    Ok(stream)
}
