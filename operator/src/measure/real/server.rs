//! A real Prometheus, installed where it is missing, and an exporter for it to scrape.

use std::{
    net::SocketAddr,
    process::{Command as BlockingCommand, Stdio},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use axum::{Router, http::StatusCode, routing};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::watch,
    task::JoinHandle,
};

/// For whatever takes seconds on a healthy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// What brings the program where the tests cannot install it themselves.
const REMEDY: &str =
    "prometheus is missing: run `apt-get update && apt-get install --no-install-recommends prometheus` as root";

/// An exporter whose text the test sets, and which counts how often it was scraped.
pub(super) struct Exporter {
    address: SocketAddr,
    text: Arc<Mutex<String>>,
    pub(super) status: Arc<AtomicU16>,
    scrapes: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Exporter {
    pub(super) async fn start() -> Self {
        let (text, status) = (Arc::new(Mutex::new(String::new())), Arc::new(AtomicU16::new(200)));
        let (count, scrapes) = watch::channel(0);
        let (served, answered) = (Arc::clone(&text), Arc::clone(&status));
        let handler = move || {
            count.send_modify(|count| *count += 1);
            let status = StatusCode::from_u16(answered.load(Ordering::SeqCst)).unwrap();
            let text = served.lock().unwrap().clone();
            async move { (status, text) }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/metrics", routing::get(handler));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, text, status, scrapes, task }
    }

    pub(super) fn show(&self, lines: &[String]) {
        *self.text.lock().unwrap() = lines.concat();
    }

    pub(super) async fn scraped(&self, times: usize) {
        let mut scrapes = self.scrapes.clone();
        let target = *scrapes.borrow() + times;
        let reached = tokio::time::timeout(PATIENCE, scrapes.wait_for(|count| *count >= target)).await;
        reached.expect("Prometheus must scrape each second").unwrap();
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A Prometheus with data of its own, ended with the value.
pub(super) struct Prometheus {
    pub(super) url: String,
    _process: Child,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    pub(super) async fn start(exporters: &[&Exporter]) -> Self {
        ensure_installed();
        let folder = tempfile::tempdir().unwrap();
        let targets: Vec<_> = exporters.iter().map(|exporter| format!("'{}'", exporter.address)).collect();
        let config = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs: [{{job_name: proxies, static_configs: [{{targets: [{}]}}]}}]\n",
            targets.join(", ")
        );
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, config).unwrap();
        let mut process = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("prometheus can be run");
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let ready = tokio::time::timeout(PATIENCE, async {
            let (mut address, mut is_ready) = (None, false);
            while let Some(line) = log.next_line().await.unwrap() {
                if let Some((_, listening)) = line.split_once(r#"msg="Listening on" address="#) {
                    address = Some(listening.trim().to_owned());
                }
                // Between the two it answers with 503.
                is_ready |= line.contains(r#"msg="Server is ready to receive web requests.""#);
                if let Some(address) = address.take_if(|_| is_ready) {
                    return address;
                }
            }
            panic!("prometheus ended before it was ready")
        });
        let address = ready.await.expect("prometheus must be ready");
        // Drained for ever, so that it never blocks on a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        Self { url: format!("http://{address}"), _process: process, _folder: folder }
    }
}

/// Installs Debian's package, as the stories do for their cluster. A test that did without would be silent about it.
fn ensure_installed() {
    const INSTALL: &[&str] = &["install", "--no-install-recommends", "-y", "prometheus"];
    /// One after the other until the program is there: the lists may be missing or old.
    const ATTEMPTS: [&[&[&str]]; 3] = [&[], &[INSTALL], &[&["update"], INSTALL]];
    static IS_THERE: OnceLock<bool> = OnceLock::new();
    let runs = || BlockingCommand::new("prometheus").arg("--version").output().is_ok_and(|done| done.status.success());
    let is_there = IS_THERE.get_or_init(|| {
        ATTEMPTS.iter().any(|commands| {
            commands.iter().for_each(|arguments| apt(arguments));
            runs()
        })
    });
    assert!(is_there, "{REMEDY}");
}

/// Waits for another apt-get, for two minutes at most. Whether it helped, the program tells.
fn apt(arguments: &[&str]) {
    let mut command = BlockingCommand::new("apt-get");
    command.args(["-q", "-o", "DPkg::Lock::Timeout=120"]).args(arguments);
    // Its service is of no use here.
    let done = command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1").output();
    if let Err(error) = done {
        eprintln!("cannot run apt-get: {error}");
    }
}
