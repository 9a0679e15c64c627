//! What single requests meet while a release runs: rules, retries, sticky sessions. Told by clients that look at each
//! answer, and by what the proxies counted.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use crds::{Canary, Phase};
use e2e::manifests::Manifests;
use e2e::proxies::{self, total};
use e2e::visitor::Visitor;
use e2e::world::{RELEASE, SOON, Shop, message_of, phase_of};
use proxy_api::metrics::{
    ARM_CANARY, ARM_STABLE, LABEL_ACTION, LABEL_ARM, LABEL_CODE, LABEL_RULE, REQUESTS_TOTAL, RETRIES_RECOVERED_TOTAL,
    RULE_ACTIONS_TOTAL,
};
use serde_json::json;

use crate::releases::{ensure_stable_serves, reason_of, until_proxies_hold};
use crate::story::Story;

/// Requests between two looks at the Canary.
pub(crate) const ROUND: usize = 10;

pub(crate) async fn rules_hold_and_are_no_arms(story: Story) -> Result<()> {
    const EACH: u64 = 20;
    let mut manifests = story.manifests()?.analysis("stepWeights", json!([50])).analysis("interval", json!("60s"));
    manifests.canary["spec"]["service"]["rules"] = json!([
        {
            "name": "moved",
            "matches": [{ "path": { "type": "PathPrefix", "value": "/old" } }],
            "requestRedirect": {
                "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": "/new" }, "statusCode": 301,
            },
        },
        {
            "name": "api",
            "matches": [{ "path": { "type": "PathPrefix", "value": "/api" }, "headers": [{ "name": "x-team", "value": "a" }] }],
            "urlRewrite": { "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": "/" } },
            "requestHeaderModifier": { "set": [{ "name": "x-from", "value": "rule" }], "remove": ["x-team"] },
            "responseHeaderModifier": { "set": [{ "name": "x-edited", "value": "yes" }], "remove": ["x-pod"] },
        },
        {
            "name": "chaos",
            "matches": [{ "headers": [{ "name": "x-test", "value": "chaos" }] }],
            "fault": { "abort": { "httpStatus": 503 } },
        },
    ]);
    let shop = story.shop(manifests).await?;
    shop.commit(|git| git.version("v2")).await?;
    shop.until_weight(50).await?;
    until_proxies_hold(&shop, 50).await?;

    let mut visitor = Visitor::of(&shop).await?;
    // What the visitor asked to find the proxies is counted too.
    let (mut v1, mut v2) = (of_arm(&shop, ARM_STABLE).await?, of_arm(&shop, ARM_CANARY).await?);
    let asked = v1 + v2;
    ensure!(asked == visitor.answers(), "{asked} requests are counted, {} were asked", visitor.answers());
    for _ in 0..EACH {
        let moved = visitor.get("/old/page?x=1", &[]).await?;
        ensure!((moved.status.as_u16(), moved.field("location")) == (301, "/new/page?x=1"), "{moved:?}");
        ensure!(moved.version().is_empty(), "a redirect came from {}", moved.version());
        let chaos = visitor.get("/", &[("x-test", "chaos")]).await?;
        ensure!(chaos.status.as_u16() == 503 && chaos.version().is_empty(), "{chaos:?}");
        let edited = visitor.get("/api/echo", &[("x-team", "a")]).await?;
        ensure!(edited.status.is_success() && edited.body.starts_with("GET /echo\n"), "{edited:?}");
        ensure!(edited.body.contains("x-from: rule") && !edited.body.contains("x-team"), "{edited:?}");
        ensure!(edited.field("x-edited") == "yes" && edited.field("x-pod").is_empty(), "{edited:?}");
        // Another team's is as if there were no rule.
        let plain = visitor.get("/api/echo", &[("x-team", "b")]).await?;
        ensure!(plain.status.is_success() && plain.field("x-edited").is_empty(), "{plain:?}");
        for answer in [edited, plain] {
            match answer.version() {
                "v1" => v1 += 1,
                "v2" => v2 += 1,
                other => anyhow::bail!("an answer of {other:?}"),
            }
        }
    }
    ensure!(v1 > 0 && v2 > 0 && v1 + v2 == asked + 2 * EACH, "rules know no version: {v1} of v1, {v2} of v2");
    until_counted(&shop, v1 + v2).await?;
    let arms = (of_arm(&shop, ARM_STABLE).await?, of_arm(&shop, ARM_CANARY).await?);
    ensure!(arms == (v1, v2), "clients had {v1} and {v2}, the arms count {arms:?}");
    for (rule, action) in [("moved", "redirect"), ("chaos", "abort")] {
        let done = total(&shop, RULE_ACTIONS_TOTAL, &[(LABEL_RULE, rule), (LABEL_ACTION, action)]).await?;
        ensure!(done == EACH, "rule {rule} counts {done}, not {EACH}");
    }

    // Errors on purpose speak against no version.
    shop.commit_canary(|git| git.analysis("interval", json!("1s"))).await?;
    let canary =
        visit_until(&shop, &mut visitor, |canary| phase_of(canary) == Phase::Succeeded, chaos_and_plain).await?;
    let failed = canary.status.map(|status| status.failed_checks);
    ensure!(failed == Some(0), "{failed:?} failed checks");
    story.say(&format!("{v1} + {v2} requests in the arms, {} answered by rules in none", 2 * EACH));
    Ok(())
}

async fn chaos_and_plain(mut visitor: Visitor) -> Result<Visitor> {
    let plain = visitor.get("/", &[]).await?;
    ensure!(plain.status.is_success(), "{plain:?}");
    let chaos = visitor.get("/", &[("x-test", "chaos")]).await?;
    ensure!(chaos.status.as_u16() == 503, "{chaos:?}");
    Ok(visitor)
}

pub(crate) async fn retries_shield_users_not_the_version(story: Story) -> Result<()> {
    let mut manifests = story.manifests()?.analysis("stepWeights", json!([50]));
    manifests.canary["spec"]["service"]["retries"] = json!({ "attempts": 3, "retryOn": "5xx" });
    let shop = story.shop(manifests).await?;
    shop.commit(|git| every_fifth_fails(git.version("v2"))).await?;
    let mut visitor = Visitor::of(&shop).await?;
    // One request at a time: after a refusal a pod takes the next four, so three retries are enough on two pods.
    let is_over = |canary: &Canary| matches!(phase_of(canary), Phase::Failed | Phase::Succeeded);
    let canary = visit_until(&shop, &mut visitor, is_over, plain).await?;
    until_counted(&shop, visitor.answers()).await?;
    let message = message_of(&canary);
    story.say(&format!("said: {message}"));
    ensure!(phase_of(&canary) == Phase::Failed, "one failure in five was promoted");
    ensure!(reason_of(&canary) == "MetricBreached" && message.contains("request-success-rate"), "{message}");
    let canarys_failures = [(LABEL_ARM, ARM_CANARY), (LABEL_CODE, "500")];
    let first_attempts = total(&shop, REQUESTS_TOTAL, &canarys_failures).await?;
    let recovered = total(&shop, RETRIES_RECOVERED_TOTAL, &[(LABEL_ARM, ARM_CANARY)]).await?;
    ensure!(first_attempts > 0, "no first attempt failed");
    ensure!(first_attempts == recovered, "{first_attempts} first attempts failed, {recovered} were made good");
    story.say(&format!("{first_attempts} first attempts failed, and no client saw it"));
    ensure_stable_serves(&story, &shop, "v1").await
}

fn every_fifth_fails(mut git: Manifests) -> Manifests {
    let env = json!([{ "name": "ERROR_RATE", "value": "20" }]);
    git.deployment["spec"]["template"]["spec"]["containers"][0]["env"] = env;
    git
}

async fn plain(mut visitor: Visitor) -> Result<Visitor> {
    let answer = visitor.get("/", &[]).await?;
    ensure!(answer.status.is_success(), "a client saw {answer:?}");
    Ok(visitor)
}

pub(crate) async fn who_saw_the_canary_keeps_it(story: Story) -> Result<()> {
    const VISITORS: usize = 40;
    let manifests = story.manifests()?.analysis("sessionAffinity", json!({ "cookieName": "web-version" }));
    let manifests = manifests.analysis("stepWeights", json!([20, 50, 80, 100])).analysis("interval", json!("5s"));
    let shop = story.shop(manifests).await?;
    let mut visitors = vec![Visitor::of(&shop).await?; VISITORS];
    shop.commit(|git| git.version("v2")).await?;

    // What each visitor saw, in rounds during which every proxy had the same weight; while it changes, a visitor may meet
    // one proxy that has the new one and then one that has not.
    let mut seen: Vec<(i32, Vec<bool>)> = Vec::new();
    let deadline = Instant::now() + RELEASE;
    loop {
        let before = proxies::weights(&shop).await?;
        let mut round = Vec::with_capacity(VISITORS);
        for visitor in &mut visitors {
            let answer = visitor.get("/", &[]).await?;
            ensure!(answer.status.is_success(), "{answer:?}");
            round.push(answer.version() == "v2");
        }
        let even = before.first().copied().flatten().filter(|weight| before.iter().all(|held| *held == Some(*weight)));
        if let Some(weight) = even.filter(|_| !before.is_empty())
            && proxies::weights(&shop).await? == before
        {
            seen.push((weight, round));
        }
        if phase_of(&shop.canary().await?) == Phase::Succeeded {
            break;
        }
        ensure!(Instant::now() < deadline, "not promoted: {}", message_of(&shop.canary().await?));
    }

    let between: BTreeSet<i32> = seen.iter().map(|(weight, _)| *weight).filter(|w| (1..=99).contains(w)).collect();
    ensure!(between.len() >= 2, "clients were watched at {between:?} only");
    for pair in seen.windows(2) {
        let [(earlier, before), (later, after)] = pair else { unreachable!("windows of two") };
        let back = before.iter().zip(after).filter(|(before, after)| **before && !**after).count();
        ensure!(back == 0, "{back} of {VISITORS} clients left the canary between weight {earlier} and {later}");
        let moved = before.iter().zip(after).filter(|(before, after)| before != after).count();
        ensure!(earlier != later || moved == 0, "{moved} clients changed their version at weight {later}");
    }
    let (first, at_first) = seen.iter().find(|(weight, _)| *weight > 0).context("never at a weight")?;
    let canarys = at_first.iter().filter(|canary| **canary).count();
    ensure!(*first > 20 || (4..=12).contains(&canarys), "{canarys} of {VISITORS} at weight 20");
    story.say(&format!("{} rounds of {VISITORS} clients at weights {between:?}, none went back", seen.len()));
    until_proxies_hold(&shop, 0).await?;
    for visitor in &mut visitors {
        let version = visitor.get("/", &[]).await?.version().to_owned();
        ensure!(version == "v2", "somebody was left behind with {version}");
    }
    Ok(())
}

/// Asks again and again until the Canary is as `wanted` says, as long as a release may take.
pub(crate) async fn visit_until<F>(
    shop: &Shop,
    visitor: &mut Visitor,
    wanted: impl Fn(&Canary) -> bool,
    visit: impl Fn(Visitor) -> F,
) -> Result<Canary>
where
    F: Future<Output = Result<Visitor>>,
{
    let deadline = Instant::now() + RELEASE;
    loop {
        for _ in 0..ROUND {
            *visitor = visit(visitor.clone()).await?;
        }
        let canary = shop.canary().await?;
        if wanted(&canary) {
            return Ok(canary);
        }
        ensure!(Instant::now() < deadline, "{:?} for too long: {}", phase_of(&canary), message_of(&canary));
    }
}

/// Requests of an arm, as the proxies counted them.
pub(crate) async fn of_arm(shop: &Shop, arm: &str) -> Result<u64> {
    total(shop, REQUESTS_TOTAL, &[(LABEL_ARM, arm)]).await
}

/// Waits until the arms together have counted so many: the last one is counted when its answer is through.
pub(crate) async fn until_counted(shop: &Shop, requests: u64) -> Result<()> {
    let deadline = Instant::now() + SOON;
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    loop {
        tick.tick().await;
        let counted = total(shop, REQUESTS_TOTAL, &[]).await?;
        if counted >= requests {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{counted} of {requests} requests are counted");
    }
}
