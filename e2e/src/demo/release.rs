//! Follows one release of the demo from the commit to its end.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use crds::{Canary, Phase};

use super::screen::Screen;
use super::stage::{APP, Stage};
use super::view::View;
use crate::load::Report;
use crate::watching::{PodWatch, Timeline};

/// Between two frames.
const FRAME: Duration = Duration::from_millis(500);
/// Frames over which the shown p99 is taken.
const WINDOW: usize = 10;
/// Longest time that a release of the demo may take.
const LIMIT: Duration = Duration::from_secs(300);

/// How a release went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// `Succeeded` or `Failed`.
    pub phase: Phase,
    /// The status's sentence at the end.
    pub message: String,
    /// From commit to end.
    pub took: Duration,
    /// From commit to the first ready canary pod.
    pub first_pod: Option<Duration>,
    /// From commit to the first weight.
    pub first_weight: Option<Duration>,
    /// The load's counts between commit and end.
    pub counts: Report,
}

/// Commits `version` and shows the release until it has ended.
///
/// # Errors
/// When it does not end in five minutes, or the cluster does not answer.
pub async fn follow(stage: &Stage, screen: &mut Screen, version: &str) -> Result<Outcome> {
    let before = stage.report().await?;
    let revision_before = revision(&stage.canary().await?);
    let timeline = Timeline::start(stage.canaries(), APP);
    let pods = PodWatch::start(stage.pods(), &format!("app={APP}"));
    stage.commit(version).await?;
    let committed = Instant::now();
    let mut recent = VecDeque::from([before.clone()]);
    let mut tick = tokio::time::interval(FRAME);
    loop {
        tick.tick().await;
        let (canary, now) = (stage.canary().await?, stage.report().await?);
        recent.push_back(now.clone());
        if recent.len() > WINDOW {
            recent.pop_front();
        }
        let counts = now.since(&before);
        let p99 = recent.front().map_or(Duration::ZERO, |oldest| now.since(oldest).quantile(99.0));
        let view = view(&canary, version, committed.elapsed(), &counts, p99);
        let begun = revision(&canary) != revision_before;
        if begun || view.phase == Phase::Progressing {
            screen.show(&view);
        }
        if begun && matches!(view.phase, Phase::Succeeded | Phase::Failed) {
            let of_this = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(committed));
            let revision = revision(&canary).unwrap_or_default();
            return Ok(Outcome {
                phase: view.phase,
                message: view.message,
                took: committed.elapsed(),
                first_pod: of_this(pods.first_ready(&revision)),
                first_weight: of_this(
                    timeline.first(|moment| moment.at > committed && moment.weight > 0).map(|m| m.at),
                ),
                counts,
            });
        }
        if committed.elapsed() > LIMIT {
            bail!("the release of {version} has not ended after {} s: {}", LIMIT.as_secs(), view.message);
        }
    }
}

fn view(canary: &Canary, version: &str, elapsed: Duration, counts: &Report, p99: Duration) -> View {
    let status = canary.status.clone().unwrap_or_default();
    View {
        elapsed,
        phase: status.phase,
        step: status.step,
        weight: status.canary_weight,
        message: status.message,
        version: version.to_owned(),
        success_percent: counts.success_percent(version),
        p99,
        requests: counts.requests,
        lost: counts.lost(),
    }
}

fn revision(canary: &Canary) -> Option<String> {
    canary.status.as_ref().and_then(|status| status.canary_revision.clone())
}
