//! Who sees the canary before everybody does: copies that nobody gets an answer from, and A/B tests.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use crds::{Canary, Phase};
use e2e::app::{COPIES_TOTAL, HTTP_PORT};
use e2e::proxies::{self, total};
use e2e::visitor::Visitor;
use e2e::world::{RELEASE, SOON, Shop, message_of, phase_of, weight_of};
use proxy_api::metrics::{ARM_STABLE, LABEL_RESULT, MIRRORED_REQUESTS_TOTAL};
use serde_json::json;

use crate::releases::{RPS, ensure_stable_serves, reason_of, until_proxies_hold};
use crate::requests::{ROUND, of_arm, until_counted};
use crate::story::Story;

pub(crate) async fn copies_come_before_the_first_weight(story: Story) -> Result<()> {
    let manifests = story.manifests()?.analysis("mirror", json!(true)).analysis("mirrorWeight", json!(50));
    let shop = story.shop(manifests.analysis("stepWeights", json!([50]))).await?;
    shop.commit(|git| git.version("v2")).await?;
    let mut visitor = Visitor::of(&shop).await?;
    let deadline = Instant::now() + RELEASE;
    let (mut at_copies, mut had_weight) = (0, false);
    loop {
        let mut canarys = 0;
        for _ in 0..ROUND {
            let answer = visitor.get("/", &[]).await?;
            ensure!(answer.status.is_success(), "{answer:?}");
            canarys += usize::from(answer.version() == "v2");
        }
        let canary = shop.canary().await?;
        if phase_of(&canary) == Phase::Succeeded {
            break;
        }
        // The clients stay to the end: at a weight their requests are what is judged.
        had_weight |= weight_of(&canary) > 0;
        ensure!(canarys == 0 || had_weight, "{canarys} clients saw the canary at weight 0");
        at_copies += usize::from(step_of(&canary) == "mirror");
        ensure!(Instant::now() < deadline, "not promoted: {}", message_of(&canary));
    }
    ensure!(at_copies > 0, "there was no step of copies");

    let answered = total(&shop, MIRRORED_REQUESTS_TOTAL, &[(LABEL_RESULT, "answered")]).await?;
    let failed = total(&shop, MIRRORED_REQUESTS_TOTAL, &[(LABEL_RESULT, "failed")]).await?;
    ensure!(answered > 0 && failed == 0, "{answered} copies were answered, {failed} failed");
    // The judged pods serve on, and remember.
    let got = copies(&shop).await?;
    ensure!(got == answered, "the canary's pods got {got} copies, the proxies speak of {answered}");
    until_counted(&shop, visitor.answers()).await?;
    let counted = total(&shop, proxy_api::metrics::REQUESTS_TOTAL, &[]).await?;
    ensure!(counted == visitor.answers(), "{} clients' requests, {counted} in the arms", visitor.answers());
    story
        .say(&format!("{answered} copies in {at_copies} rounds, in no arm; {} requests of clients", visitor.answers()));
    ensure_stable_serves(&story, &shop, "v2").await
}

pub(crate) async fn what_fails_on_copies_is_seen_by_nobody(story: Story) -> Result<()> {
    let shop = story.shop(story.manifests()?.analysis("mirror", json!(true))).await?;
    let timeline = shop.timeline();
    let broken = json!([{ "name": "ERROR_RATE", "value": "50" }]);
    shop.commit(|git| {
        let mut git = git.version("v2");
        git.deployment["spec"]["template"]["spec"]["containers"][0]["env"] = broken;
        git
    })
    .await?;
    let mut visitor = Visitor::of(&shop).await?;
    let deadline = Instant::now() + RELEASE;
    let canary = loop {
        for _ in 0..ROUND {
            let answer = visitor.get("/", &[]).await?;
            ensure!(answer.status.is_success() && answer.version() == "v1", "a client saw {answer:?}");
        }
        let canary = shop.canary().await?;
        if phase_of(&canary) == Phase::Failed {
            break canary;
        }
        ensure!(Instant::now() < deadline, "not rolled back: {}", message_of(&canary));
    };
    let message = message_of(&canary);
    story.say(&format!("said: {message}"));
    ensure!(reason_of(&canary) == "MetricBreached" && message.contains("request-success-rate"), "{message}");
    ensure!(timeline.weights().iter().all(|weight| *weight == 0), "weights went {:?}", timeline.weights());
    until_counted(&shop, visitor.answers()).await?;
    let stable = of_arm(&shop, ARM_STABLE).await?;
    ensure!(stable == visitor.answers(), "{} requests of clients, {stable} in the stable arm", visitor.answers());
    let failed = total(&shop, MIRRORED_REQUESTS_TOTAL, &[(LABEL_RESULT, "failed")]).await?;
    ensure!(failed > 0, "no copy failed");
    ensure_stable_serves(&story, &shop, "v1").await
}

pub(crate) async fn an_ab_test_is_for_its_audience(story: Story) -> Result<()> {
    let mut manifests = story.manifests()?.analysis("iterations", json!(5));
    let testers = json!([{ "headers": { "cookie": { "regex": "(.*; )?group=b(;.*)?" } } }, { "headers": { "x-beta": { "exact": "yes" } } }]);
    manifests = manifests.analysis("match", testers);
    if let Some(analysis) = manifests.canary["spec"]["analysis"].as_object_mut() {
        analysis.remove("stepWeights");
    }
    let shop = story.shop(manifests).await?;
    let load = shop.load(RPS).await?;
    shop.commit(|git| git.version("v2")).await?;
    shop.until_weight(100).await?;
    until_proxies_hold(&shop, 100).await?;
    let mut visitor = Visitor::of(&shop).await?;
    let deadline = Instant::now() + RELEASE;
    let mut rounds = 0;
    loop {
        let (mut others, mut audience) = (0, 0);
        for _ in 0..ROUND {
            others += usize::from(visitor.get("/", &[]).await?.version() == "v2");
            audience += usize::from(visitor.get("/", &[("x-beta", "yes")]).await?.version() == "v2");
            audience += usize::from(visitor.get("/", &[("cookie", "a=1; group=b")]).await?.version() == "v2");
        }
        let canary = shop.canary().await?;
        ensure!(audience == 2 * ROUND, "{audience} of {} requests that match saw the canary", 2 * ROUND);
        ensure!(phase_of(&canary) != Phase::Failed, "{}", message_of(&canary));
        if phase_of(&canary) != Phase::Progressing {
            break;
        }
        // The test was still on when all of these were answered.
        ensure!(
            step_of(&canary).ends_with(" match"),
            "the status does not say whose weight it is: {}",
            step_of(&canary)
        );
        ensure!(others == 0, "{others} requests that do not match saw the canary");
        rounds += 1;
        ensure!(Instant::now() < deadline, "not promoted: {}", message_of(&canary));
    }
    ensure!(rounds > 0, "the test was over before it was looked at");
    shop.until_phase(Phase::Succeeded).await?;
    shop.until_available().await?;
    let report = load.stop().await;
    story.say(&format!("{rounds} rounds of {ROUND} others and {} of the audience; {report}", 2 * ROUND));
    ensure!(report.lost() == 0, "lost requests: {report}");
    ensure_stable_serves(&story, &shop, "v2").await
}

pub(crate) async fn an_audience_is_split_by_the_weight(story: Story) -> Result<()> {
    let testers = json!([{ "headers": { "x-beta": { "exact": "yes" } } }]);
    let manifests = story.manifests()?.analysis("match", testers).analysis("stepWeights", json!([50]));
    let shop = story.shop(manifests).await?;
    let load = shop.load(RPS).await?;
    shop.commit(|git| git.version("v2")).await?;
    shop.until_weight(50).await?;
    until_proxies_hold(&shop, 50).await?;
    let mut visitor = Visitor::of(&shop).await?;
    let deadline = Instant::now() + RELEASE;
    let (mut asked, mut seen, mut others) = (0, 0, 0);
    loop {
        let (mut audience, mut rest) = (0, 0);
        for _ in 0..ROUND {
            audience += usize::from(visitor.get("/", &[("x-beta", "yes")]).await?.version() == "v2");
            rest += usize::from(visitor.get("/", &[]).await?.version() == "v2");
        }
        let canary = shop.canary().await?;
        ensure!(phase_of(&canary) != Phase::Failed, "{}", message_of(&canary));
        if phase_of(&canary) != Phase::Progressing {
            break;
        }
        ensure!(step_of(&canary) == "1/1 match", "the status does not say whose weight it is: {}", step_of(&canary));
        (asked, seen, others) = (asked + ROUND, seen + audience, others + rest);
        ensure!(Instant::now() < deadline, "not promoted: {}", message_of(&canary));
    }
    story.say(&format!("{seen} of {asked} requests that match saw the canary, {others} of the others"));
    ensure!(asked > 0, "the release was over before it was looked at");
    ensure!(others == 0, "{others} requests that do not match saw the canary");
    // Two proxies with their workers, each exact to within two requests.
    ensure!((asked / 2).abs_diff(seen) <= 16, "{seen} of {asked} is no half");
    shop.until_phase(Phase::Succeeded).await?;
    let report = load.stop().await;
    ensure!(report.lost() == 0, "lost requests: {report}");
    ensure_stable_serves(&story, &shop, "v2").await
}

fn step_of(canary: &Canary) -> &str {
    canary.status.as_ref().map(|status| status.step.as_str()).unwrap_or_default()
}

/// Copies that the application's pods got, once no more come.
async fn copies(shop: &Shop) -> Result<u64> {
    let deadline = Instant::now() + SOON;
    let mut last = None;
    loop {
        let mut sum = 0;
        for pod in shop.app_pods().await? {
            let Some(address) = pod.status.and_then(|status| status.pod_ip) else { continue };
            let text = proxies::metrics_of(&format!("http://{address}:{HTTP_PORT}/metrics")).await?;
            sum += proxies::counted(&text, COPIES_TOTAL, &[("version", "v2")]);
        }
        if last == Some(sum) {
            return Ok(sum);
        }
        last = Some(sum);
        ensure!(Instant::now() < deadline, "copies go on coming: {sum}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
