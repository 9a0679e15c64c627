//! A process that is measured: on cores of its own, killed with the benchmark however that ends, its CPU time and memory
//! read from `/proc`. Knows nothing of proxies.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Time that a process has to listen.
const START_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// A running process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Guest(Child);

impl Guest {
    /// Starts `program` on the given cores (in the form of taskset(1)), its output in `log`.
    ///
    /// It is started through setpriv(1), which execs: the kernel kills it when the thread that started it ends.
    pub(crate) fn start(cores: &str, program: &Path, arguments: &[String], log: &Path) -> Result<Self> {
        let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "taskset", "-c", cores])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self(child))
    }

    /// Waits until it accepts connections on `address`.
    pub(crate) fn listens(&mut self, address: SocketAddr, log: &Path) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect(address).is_err() {
            if let Some(status) = self.0.try_wait()? {
                bail!("process ended ({status}): {}", fs::read_to_string(log).unwrap_or_default().trim());
            }
            if Instant::now() > deadline {
                bail!("nothing listens on {address}: {}", fs::read_to_string(log).unwrap_or_default().trim());
            }
            sleep(POLL);
        }
        Ok(())
    }

    /// Asks it to end and waits until it has.
    pub(crate) fn terminate(&mut self, limit: Duration) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid())?), Signal::SIGTERM)?;
        let deadline = Instant::now() + limit;
        while self.0.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("process does not end within {limit:?}");
            }
            sleep(POLL);
        }
        Ok(())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// CPU time that all its threads have used so far, in user and in kernel mode, in microseconds, with the grain of
    /// the clock tick (proc_pid_stat(5), fields 14 and 15).
    pub(crate) fn cpu_micros(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).context("the process has ended")?;
        let ticks = ticks(&stat).context("/proc/<pid>/stat is not as expected")?;
        let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
        Ok(ticks as f64 * 1e6 / per_second as f64)
    }

    /// Memory that is in RAM, in KiB.
    pub(crate) fn rss_kib(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).context("the process has ended")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(14 - 3);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}
