//! `cargo demo`: a good version promoted and a bad one rolled back, on a real cluster, with everything set up first.
//!
//! `cargo demo -- status | logs [part] | kubectl … | down` look around and stop. With `KUBECONFIG` set it uses that
//! cluster, else one of its own on this machine.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use crds::Phase;
use e2e::cluster::{self, Cluster, layout};
use e2e::demo::release::{self, Outcome};
use e2e::demo::screen::Screen;
use e2e::demo::stage::{APP, METRICS_SERVER, NAMESPACE, RPS, Stage, check_version};
use e2e::demo::{table, view};
use e2e::install::{self, Target};
use e2e::kubectl;
use e2e::manifests::IMAGE;
use kube::Client;

/// The versions of the sample application that are good; the demo takes turns.
const GOOD: [&str; 4] = ["v1", "v2", "v3", "v4"];
/// The version whose answers fail in 5 of 100 cases.
const BAD: &str = "errors";

/// Ships a good and a bad version on a real cluster and shows what becomes of them.
#[derive(Parser)]
#[command(name = "demo", bin_name = "cargo demo --")]
struct Arguments {
    /// Registry that the cluster of KUBECONFIG pulls from; not needed for kind and k3d.
    #[arg(long, global = true)]
    registry: Option<String>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// What runs, and how the Canary stands.
    Status,
    /// What a part has printed: operator, proxy, load, slack, web, or a part of the local cluster.
    Logs {
        #[arg(default_value = "operator")]
        part: String,
    },
    /// Run kubectl on the local cluster.
    #[command(trailing_var_arg = true)]
    Kubectl {
        #[arg(allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Stop everything and remove what the demo brought.
    Down,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let is_foreign = std::env::var_os("KUBECONFIG").is_some_and(|path| !path.is_empty());
    if !is_foreign {
        cluster::reexec_in_netns()?;
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        match arguments.verb {
            None => demo(is_foreign, arguments.registry.as_deref()).await,
            Some(Verb::Status) => status(is_foreign).await,
            Some(Verb::Logs { part }) => logs(is_foreign, &part).await,
            Some(Verb::Kubectl { arguments }) => Err(kubectl::command(is_foreign).args(arguments).exec().into()),
            Some(Verb::Down) => down(is_foreign, arguments.registry.as_deref()).await,
        }
    })
}

async fn demo(is_foreign: bool, registry: Option<&str>) -> Result<()> {
    let mut screen = Screen::new();
    screen.heading("Sluice: a good and a bad release on a real cluster");
    let (target, client, _cluster) = open(is_foreign, registry, &mut screen).await?;
    let stage = prepare(&target, client, &mut screen).await?;

    let good = next_good(&stage).await?;
    screen.heading(&format!("1. A good version: {APP} {good}"));
    let promoted = release::follow(&stage, &mut screen, good).await?;
    conclude(&mut screen, &promoted);
    if promoted.phase != Phase::Succeeded {
        bail!("the good version was not promoted: {}", promoted.message);
    }
    screen.heading(&format!("2. A bad version: {APP} {BAD}, 5 % of its answers fail"));
    let rolled_back = release::follow(&stage, &mut screen, BAD).await?;
    conclude(&mut screen, &rolled_back);
    if rolled_back.phase != Phase::Failed {
        bail!("the bad version was not rolled back: {}", rolled_back.message);
    }
    epilogue(&stage, &mut screen, is_foreign).await
}

/// The cluster: this machine's own, or the one of `KUBECONFIG`.
async fn open(
    is_foreign: bool,
    registry: Option<&str>,
    screen: &mut Screen,
) -> Result<(Target, Client, Option<Cluster>)> {
    let started = Instant::now();
    let (target, client, cluster) = if is_foreign {
        let (target, client) = foreign(registry).await?;
        (target, client, None)
    } else {
        let cluster = Cluster::start_or_reuse().await?;
        (Target::Local, cluster.client().await?, Some(cluster))
    };
    let version = check_version(&client).await?;
    let place = if is_foreign { "the cluster of KUBECONFIG" } else { "this machine" };
    screen.done(&format!("Kubernetes {version} on {place}"), &seconds(started));
    Ok((target, client, cluster))
}

async fn foreign(registry: Option<&str>) -> Result<(Target, Client)> {
    let kubeconfig = kube::config::Kubeconfig::read().context("cannot read the file that KUBECONFIG names")?;
    let context = kubeconfig.current_context.clone().context("the kubeconfig has no current context")?;
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    let path = std::env::var_os("KUBECONFIG").map(PathBuf::from).context("KUBECONFIG is not set")?;
    let target = Target::Foreign { kubeconfig: path, delivery: install::delivery(&context, registry)? };
    Ok((target, Client::try_from(config)?))
}

async fn prepare(target: &Target, client: Client, screen: &mut Screen) -> Result<Stage> {
    let stage = Stage::new(client, target.clone());
    let started = Instant::now();
    stage.ensure_prometheus().await?;
    let place = target.clone();
    tokio::task::spawn_blocking(move || install::bring(&place, METRICS_SERVER)).await??;
    screen.done("images built, chart installed, operator ready", &seconds(started));
    let started = Instant::now();
    let version = stage.serving().await?.unwrap_or_else(|| GOOD[0].to_owned());
    stage.set(&version).await?;
    screen.done(&format!("{APP} behind two proxies, {RPS} requests a second"), &seconds(started));
    Ok(stage)
}

/// A good version other than the one that serves.
async fn next_good(stage: &Stage) -> Result<&'static str> {
    let now = stage.serving().await?;
    let place = GOOD.iter().position(|version| now.as_deref() == Some(*version));
    Ok(GOOD[place.map_or(1, |place| (place + 1) % GOOD.len())])
}

fn conclude(screen: &mut Screen, outcome: &Outcome) {
    let Outcome { phase, message, took, first_pod, first_weight, counts } = outcome;
    screen.say("");
    if let (Some(pod), Some(weight)) = (first_pod, first_weight) {
        screen.done(
            "commit → first pod ready → first traffic",
            &format!("{:.1} s → {:.1} s", pod.as_secs_f64(), weight.as_secs_f64()),
        );
    }
    let what = format!("{} after {}", view::phase(*phase), view::clock(*took));
    let figures = format!(
        "{} requests, {} lost, p99 {}",
        view::grouped(counts.requests),
        view::grouped(counts.lost()),
        view::millis(counts.quantile(99.0))
    );
    screen.done(&what, &figures);
    screen.paragraph(message, 4);
}

async fn epilogue(stage: &Stage, screen: &mut Screen, is_foreign: bool) -> Result<()> {
    screen.heading(&format!("kubectl get canaries -n {NAMESPACE}"));
    for line in canaries(&stage.client).await? {
        screen.row(&format!("    {line}"));
    }
    screen.heading("What Slack was told last");
    match rollback_message(stage).await? {
        Some(text) => text.lines().for_each(|line| screen.paragraph(line, 4)),
        None => screen.paragraph("nothing about the rollback has arrived yet: see `cargo demo -- logs operator`", 4),
    }
    screen.heading("Look around, or stop");
    for (command, what) in commands(is_foreign, &stage.target.image(IMAGE)) {
        screen.pair(&command, 78, what);
    }
    screen.say("");
    Ok(())
}

/// The newest message if it tells of the rollback; waits for it a while, since messages never hold a release up.
async fn rollback_message(stage: &Stage) -> Result<Option<String>> {
    let deadline = Instant::now() + Duration::from_secs(15);
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    loop {
        tick.tick().await;
        let newest = stage.messages().await?.last().map(e2e::slack::text);
        if newest.as_ref().is_some_and(|text| text.contains("rolled")) || Instant::now() > deadline {
            return Ok(newest.filter(|text| text.contains("rolled")));
        }
    }
}

fn commands(is_foreign: bool, image: &str) -> Vec<(String, &'static str)> {
    let kubectl = if is_foreign { "kubectl" } else { "cargo demo -- kubectl" };
    vec![
        (format!("{kubectl} -n {NAMESPACE} get canaries -o wide --watch"), "follow releases"),
        (format!("{kubectl} -n {NAMESPACE} set image deploy/{APP} '*={image}:v3'"), "ship another version"),
        ("cargo demo -- status".to_owned(), "what runs"),
        ("cargo demo -- logs operator".to_owned(), "or proxy, load, …"),
        ("cargo demo -- down".to_owned(), "stop and remove everything"),
    ]
}

async fn canaries(client: &Client) -> Result<Vec<String>> {
    table::get(client, &format!("/apis/sluice.dev/v1beta1/namespaces/{NAMESPACE}/canaries")).await
}

async fn status(is_foreign: bool) -> Result<()> {
    let client = if is_foreign {
        Client::try_default().await?
    } else {
        cluster::status().iter().for_each(|line| println!("{line}"));
        if !layout::kubeconfig().exists() {
            return Ok(());
        }
        let kubeconfig = kube::config::Kubeconfig::read_from(layout::kubeconfig())?;
        let options = kube::config::KubeConfigOptions::default();
        Client::try_from(kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?)?
    };
    println!();
    for path in [
        "/apis/apps/v1/namespaces/sluice-system/deployments".to_owned(),
        format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments"),
        format!("/apis/sluice.dev/v1beta1/namespaces/{NAMESPACE}/canaries"),
    ] {
        if let Ok(lines) = table::get(&client, &path).await {
            lines.iter().for_each(|line| println!("{line}"));
            println!();
        }
    }
    Ok(())
}

async fn logs(is_foreign: bool, part: &str) -> Result<()> {
    let (namespace, deployment) = match part {
        "operator" => (crds::names::SYSTEM_NAMESPACE, crds::names::OPERATOR_SERVICE),
        "proxy" => (NAMESPACE, crds::names::POOL_NAME),
        "load" | "slack" | "web" => (NAMESPACE, part),
        part if is_foreign => bail!("{part} is none of operator, proxy, load, slack and web"),
        part => {
            print!("{}", cluster::logs::read(part)?);
            return Ok(());
        }
    };
    let deployment = format!("deployment/{deployment}");
    let arguments = ["logs", "-n", namespace, &deployment, "--all-pods=true", "--prefix", "--tail=-1"];
    Err(kubectl::command(is_foreign).args(arguments).exec().into())
}

async fn down(is_foreign: bool, registry: Option<&str>) -> Result<()> {
    if !is_foreign {
        return tokio::task::spawn_blocking(cluster::down).await?;
    }
    // Nothing is brought, so it does not matter where from.
    let (target, client) = foreign(registry.or(Some(""))).await?;
    Stage::new(client, target.clone()).strike().await?;
    tokio::task::spawn_blocking(move || install::uninstall_chart(&target)).await?
}

fn seconds(since: Instant) -> String {
    format!("{:.0} s", since.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// As cargo does: the alias, what follows it, and what is the program's from the first `--` on.
    fn parsed(line: &str) -> Result<Arguments, clap::Error> {
        let config = include_str!("../../../.cargo/config.toml");
        let alias = config.lines().find_map(|line| line.strip_prefix("demo = ")).unwrap().trim_matches('"');
        let line = line.replacen("demo", alias, 1);
        let words = line.split_whitespace().skip_while(|word| *word != "--").skip(1);
        Arguments::try_parse_from(std::iter::once("demo").chain(words))
    }

    #[test]
    fn what_the_messages_tell_to_type_is_understood() {
        assert!(parsed("cargo demo").unwrap().verb.is_none());
        assert!(matches!(parsed("cargo demo -- down").unwrap().verb, Some(Verb::Down)));
        let with_registry = parsed("cargo demo -- --registry registry.example.org/team").unwrap();
        assert_eq!(with_registry.registry.as_deref(), Some("registry.example.org/team"));
        let kubectl = parsed("cargo demo -- kubectl get pods -A").unwrap().verb;
        assert!(matches!(kubectl, Some(Verb::Kubectl { arguments }) if arguments == ["get", "pods", "-A"]));
    }
}
