//! Input that is wrong: specs that the API server refuses, templates and metric servers that talk nonsense.

use anyhow::{Context as _, Result, ensure};
use crds::Phase;
use e2e::cluster::layout;
use e2e::fake_prometheus::{Answer, FakePrometheus};
use e2e::kubectl;
use e2e::world::{RELEASE, SOON, Shop, message_of, phase_of, weight_of};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::releases::{RPS, reason_of};
use crate::story::Story;

/// A change to a good spec, and what the refusal must say.
type BadField = (&'static str, Value, &'static [&'static str]);

fn bad_fields() -> Vec<BadField> {
    let metric = |value: Value| json!([value]);
    vec![
        ("/metadata/name", json!("x".repeat(64)), &["metadata.name", "63 characters"]),
        ("/spec/targetRef/name", json!("x".repeat(243)), &["spec.targetRef.name", "242"]),
        (
            "/spec",
            json!({ "targetRef": { "kind": "Deployment", "name": "x".repeat(64) }, "service": { "port": 80 } }),
            &["service.name is needed"],
        ),
        ("/spec/targetRef/kind", json!("StatefulSet"), &["targetRef.kind", "Deployment"]),
        ("/spec/targetRef/apiVersion", json!("apps/v2"), &["targetRef.apiVersion", "apps/v1"]),
        ("/spec/targetRef/name", json!(""), &["spec.targetRef.name"]),
        ("/spec/service/port", json!(0), &["spec.service.port"]),
        ("/spec/service/port", json!(65_536), &["spec.service.port", "65535"]),
        ("/spec/service/port", json!("http"), &["spec.service.port", "integer"]),
        ("/spec/service/timeout", json!("soon"), &["spec.service.timeout"]),
        ("/spec/service/gateways", json!(["mesh"]), &["unknown field", "gateways"]),
        (
            "/spec/service/retries",
            json!({ "attempts": 2, "retryOn": "sometimes" }),
            &["retries.retryOn", "gateway-error", "connect-failure"],
        ),
        ("/spec/service/retries", json!({ "attempts": 1_000, "retryOn": "5xx" }), &["service.retries.attempts", "10"]),
        (
            "/spec/service/trafficPolicy",
            json!({ "outlierDetection": { "maxEjectionPercent": 101 } }),
            &["trafficPolicy.outlierDetection.maxEjectionPercent", "100"],
        ),
        (
            "/spec/service/trafficPolicy",
            json!({ "outlierDetection": { "baseEjectionTime": "2h" } }),
            &["outlierDetection.baseEjectionTime"],
        ),
        (
            "/spec/service/trafficPolicy",
            json!({ "outlierDetection": { "interval": "0s" } }),
            &["outlierDetection.interval", "1ms"],
        ),
        (
            "/spec/service/trafficPolicy",
            json!({ "outlierDetection": { "splitExternalLocalOriginErrors": true } }),
            &["unknown field", "splitExternalLocalOriginErrors"],
        ),
        (
            "/spec/service/trafficPolicy",
            json!({ "connectionPool": { "tcp": { "maxConnections": 0 } } }),
            &["connectionPool.tcp.maxConnections", "1"],
        ),
        (
            "/spec/service/trafficPolicy",
            json!({ "connectionPool": { "http": { "http2MaxRequests": 0 } } }),
            &["connectionPool.http.http2MaxRequests", "1"],
        ),
        (
            "/spec/service/trafficPolicy",
            json!({ "connectionPool": { "http": { "maxRetries": 3 } } }),
            &["unknown field", "maxRetries"],
        ),
        (
            "/spec/service/trafficPolicy",
            json!({ "connectionPool": { "tcp": { "connectTimeout": "5m" } } }),
            &["tcp.connectTimeout", "1m"],
        ),
        (
            "/spec/service/trafficPolicy",
            json!({ "connectionPool": { "tcp": { "tcpKeepalive": { "time": "10ms" } } } }),
            &["connectionPool.tcp.tcpKeepalive.time"],
        ),
        (
            "/spec/service/trafficPolicy",
            json!({ "connectionPool": { "http": { "idleTimeout": "2h" } } }),
            &["connectionPool.http.idleTimeout"],
        ),
        (
            "/spec/service/rules",
            json!([{ "matches": [{ "path": { "type": "RegularExpression", "value": "((" } }], "timeouts": { "request": "1s" } }]),
            &["rules[0].matches[0].path", "regular expression"],
        ),
        (
            "/spec/service/rules",
            json!([{ "requestHeaderModifier": { "remove": ["host"] } }]),
            &["rules[0].requestHeaderModifier", "cannot be changed"],
        ),
        (
            "/spec/service/trafficPolicy",
            json!({ "loadBalancer": { "simple": "FASTEST" } }),
            &["loadBalancer.simple", "PEAK_EWMA", "LEAST_REQUEST"],
        ),
        (
            "/spec/service/trafficPolicy",
            json!({ "loadBalancer": {} }),
            &["loadBalancer needs simple, consistentHash, warmup or localityLbSetting"],
        ),
        (
            "/spec/service/trafficPolicy",
            json!({ "loadBalancer": { "simple": "RANDOM", "consistentHash": { "useSourceIp": true } } }),
            &["either simple or consistentHash"],
        ),
        (
            "/spec/service/trafficPolicy",
            json!({ "loadBalancer": { "consistentHash": { "useSourceIp": true, "httpHeaderName": "x-user" } } }),
            &["one of httpHeaderName, httpCookie and useSourceIp"],
        ),
        (
            "/spec/service/trafficPolicy",
            json!({ "loadBalancer": { "consistentHash": { "useSourceIp": false } } }),
            &["consistentHash.useSourceIp can only be true"],
        ),
        (
            "/spec/service/trafficPolicy",
            json!({ "loadBalancer": { "consistentHash": { "httpCookie": { "name": "pod", "ttl": "525601m" } } } }),
            &["httpCookie.ttl must be at most a year"],
        ),
        (
            "/spec/service/trafficPolicy",
            json!({ "loadBalancer": { "consistentHash": { "useSourceIp": true }, "warmup": { "duration": "60s" } } }),
            &["warmup does not go with consistentHash"],
        ),
        (
            "/spec/service/trafficPolicy",
            json!({ "loadBalancer": { "consistentHash": { "useSourceIp": true }, "localityLbSetting": { "enabled": true } } }),
            &["localityLbSetting does not go with consistentHash"],
        ),
        (
            "/spec/service/trafficPolicy",
            json!({ "loadBalancer": { "localityLbSetting": {} } }),
            &["localityLbSetting.enabled", "Required"],
        ),
        (
            "/spec/service/trafficPolicy",
            json!({ "loadBalancer": { "warmup": { "duration": "0s" } } }),
            &["warmup.duration must lie between 1s and 60m"],
        ),
        (
            "/spec/service/trafficPolicy",
            json!({ "loadBalancer": { "warmup": { "duration": "60s", "aggression": 0.5 } } }),
            &["warmup.aggression", "greater than or equal to 1"],
        ),
        (
            "/spec/analysis/sessionAffinity",
            json!({ "cookieName": "a", "headerName": "b" }),
            &["sessionAffinity", "either cookieName or headerName"],
        ),
        ("/spec/progressDeadlineSeconds", json!(0), &["spec.progressDeadlineSeconds"]),
        ("/spec/analysis/interval", json!("10"), &["spec.analysis.interval"]),
        ("/spec/analysis/interval", json!("0s"), &["analysis.interval", "1s"]),
        ("/spec/analysis/interval", json!("2h"), &["analysis.interval", "1h"]),
        ("/spec/analysis/threshold", json!(0), &["spec.analysis.threshold"]),
        ("/spec/analysis/stepWeights", json!([]), &["spec.analysis.stepWeights"]),
        ("/spec/analysis/stepWeights", json!([10, 10]), &["analysis.stepWeights", "rising"]),
        ("/spec/analysis/stepWeights", json!([50, 25]), &["analysis.stepWeights", "rising"]),
        ("/spec/analysis/stepWeights", json!([0, 50]), &["analysis.stepWeights", "1", "100"]),
        ("/spec/analysis/stepWeights", json!([50, 101]), &["analysis.stepWeights", "100"]),
        ("/spec/analysis/stepWeight", json!(10), &["stepWeights", "stepWeight", "not both"]),
        ("/spec/analysis/canaryReadyThreshold", json!(50), &["unknown field", "canaryReadyThreshold"]),
        ("/spec/analysis/mirrorWeight", json!(50), &["analysis.mirrorWeight", "analysis.mirror"]),
        ("/spec/analysis/mirrorWeight", json!(0), &["spec.analysis.mirrorWeight"]),
        ("/spec/analysis/iterations", json!(5), &["analysis.match", "iterations"]),
        (
            "/spec/analysis/match",
            json!([{ "headers": { "x-beta": { "exact": "a", "prefix": "a" } } }]),
            &["exactly one of exact, prefix, suffix and regex"],
        ),
        (
            "/spec/analysis/match",
            json!([{ "headers": { "x-beta": { "regex": "((" } } }]),
            &["spec.analysis.match[0].headers", "regular expression"],
        ),
        ("/spec/analysis/match", json!([{ "headers": { "x beta": { "exact": "a" } } }]), &["names of header fields"]),
        ("/spec/analysis/verdict", json!({ "alpha": 0.5 }), &["analysis.verdict.alpha", "0.2"]),
        ("/spec/analysis/verdict", json!({ "mode": "perhaps" }), &["analysis.verdict.mode", "enforce"]),
        (
            "/spec/analysis/verdict",
            json!({ "minStepSeconds": 60, "maxStepSeconds": 30 }),
            &["verdict.minStepSeconds", "maxStepSeconds"],
        ),
        ("/spec/analysis/metrics", json!([]), &["spec.analysis.metrics"]),
        (
            "/spec/analysis/metrics",
            metric(json!({ "name": "no-such-metric", "thresholdRange": { "min": 1 } })),
            &["request-success-rate", "request-duration", "templateRef"],
        ),
        (
            "/spec/analysis/metrics",
            metric(json!({ "name": "request-success-rate", "thresholdRange": {} })),
            &["thresholdRange", "min", "max"],
        ),
        (
            "/spec/analysis/metrics",
            metric(json!({ "name": "request-success-rate", "thresholdRange": { "min": 2, "max": 1 } })),
            &["thresholdRange.min", "thresholdRange.max"],
        ),
        (
            "/spec/analysis/metrics",
            metric(json!({ "name": "request-success-rate", "thresholdRange": { "min": 99 }, "interval": "often" })),
            &["interval"],
        ),
        (
            "/spec/analysis/alerts",
            json!([{ "name": "a", "severity": "fatal", "providerRef": { "name": "a" } }]),
            &["severity", "info", "warn", "error"],
        ),
        ("/spec/suspend", json!("yes"), &["spec.suspend", "boolean"]),
    ]
}

/// Specs of a ProxyPool, and what the refusal must say.
fn bad_pools() -> Vec<(Value, &'static [&'static str])> {
    vec![
        (json!({ "limits": { "maxConnections": 0 } }), &["limits.maxConnections", "1"]),
        (
            json!({ "limits": { "maxConnections": 10, "maxConnectionsPerPort": 11 } }),
            &["limits.maxConnectionsPerPort", "maxConnections"],
        ),
        (json!({ "limits": { "maxHeaderBytes": 4096 } }), &["limits.maxHeaderBytes", "8192"]),
        (json!({ "limits": { "maxHeaders": 257 } }), &["limits.maxHeaders", "256"]),
        (json!({ "limits": { "maxStreams": 0 } }), &["limits.maxStreams", "1"]),
        (json!({ "limits": { "maxRequests": 1 } }), &["unknown field", "maxRequests"]),
    ]
}

pub(crate) async fn bad_fields_are_refused(story: Story) -> Result<()> {
    let shop = story.bare_shop(story.manifests()?).await?;
    let good = shop.git().canary;
    let cases = bad_fields();
    let count = cases.len() + bad_pools().len();
    let mut slips = Vec::new();
    for (pointer, value, words) in cases {
        let mut bad = good.clone();
        set(&mut bad, pointer, value.clone())?;
        let output = kubectl::run(&["create", "-n", &shop.namespace, "-f", "-"], &bad.to_string()).await?;
        if output.code == 0 {
            slips.push(format!("{pointer} = {value} was accepted"));
            kubectl::kubectl(&["delete", "canary", "--all", "-n", &shop.namespace, "--wait=true"]).await?;
        } else if let Some(word) = words.iter().find(|word| !output.err.contains(**word)) {
            slips.push(format!("{pointer} = {value}: the refusal does not say {word:?}: {}", output.err.trim()));
        }
    }
    for (spec, words) in bad_pools() {
        let pool = json!({
            "apiVersion": "sluice.dev/v1beta1", "kind": "ProxyPool", "metadata": { "name": "default" }, "spec": spec
        });
        // Nothing is written: a pool that slips through must not stay.
        let create = ["create", "--dry-run=server", "-n", &shop.namespace, "-f", "-"];
        let output = kubectl::run(&create, &pool.to_string()).await?;
        if output.code == 0 {
            slips.push(format!("ProxyPool {spec} was accepted"));
        } else if let Some(word) = words.iter().find(|word| !output.err.contains(**word)) {
            slips.push(format!("ProxyPool {spec}: the refusal does not say {word:?}: {}", output.err.trim()));
        }
    }
    ensure!(slips.is_empty(), "{} of {count}:\n{}", slips.len(), slips.join("\n"));
    kubectl::apply(&shop.namespace, &good.to_string(), kubectl::Side::Client).await?;
    shop.until_phase(Phase::Initialized).await?;
    // The target of a Canary stays.
    let mut moved = good.clone();
    set(&mut moved, "/spec/targetRef/name", json!("other"))?;
    let output = kubectl::run(&["apply", "-n", &shop.namespace, "-f", "-"], &moved.to_string()).await?;
    ensure!(output.code != 0 && output.err.contains("targetRef cannot be changed"), "{}", output.err);
    story.say(&format!("{count} bad fields refused, each with a sentence that names it"));
    Ok(())
}

/// Sets the value at a JSON pointer whose parent exists.
fn set(object: &mut Value, pointer: &str, value: Value) -> Result<()> {
    let (parent, field) = pointer.rsplit_once('/').context("a pointer has a slash")?;
    object.pointer_mut(parent).with_context(|| format!("no {parent}"))?[field] = value;
    Ok(())
}

pub(crate) async fn bad_answers_hold(story: Story) -> Result<()> {
    let fake = FakePrometheus::serve(TcpListener::bind((layout::NODE_ADDRESS, 0)).await?, Answer::Value("100"))?;
    let shop = story.shop(with_template(&story, &fake, "max(up{namespace=\"{{ namespace }}\"})")?).await?;
    let bystander = story.shop(story.manifests()?).await?;
    let load = (shop.load(RPS).await?, bystander.load(RPS).await?);
    fake.answer(Answer::Value("NaN"));
    shop.commit(|git| git.version("v2")).await?;
    shop.until_weight(10).await?;
    let answers = [
        (Answer::Value("NaN"), "NaN"),
        (Answer::Value("+Inf"), "Inf"),
        (Answer::Several, "series"),
        (Answer::Text, "string"),
        (Answer::Html, ""),
        (Answer::Large(5 << 20), ""),
        (Answer::Error, ""),
        (Answer::Nothing, ""),
    ];
    for (answer, word) in answers {
        let name = format!("{answer:?}");
        let name = name.get(..name.len().min(30)).unwrap_or(&name);
        let before = message_of(&shop.canary().await?);
        fake.answer(answer);
        let said = |canary: &crds::Canary| {
            let message = message_of(canary);
            reason_of(canary) == "NoEvidence" && message.contains(word) && (message != before || !word.is_empty())
        };
        let canary = shop.until(name, SOON, said).await?;
        story.say(&format!("{name}: {}", message_of(&canary)));
        ensure!(message_of(&canary).contains("custom"), "the metric is not named: {}", message_of(&canary));
        let outcome = (phase_of(&canary), weight_of(&canary));
        ensure!(outcome == (Phase::Progressing, 10), "{name} led to {outcome:?}");
    }
    let events = shop.events().await?;
    ensure!(events.iter().any(|(_, note)| note.contains("custom")), "no Event names the metric: {events:?}");
    // No other Canary is affected, and this one goes on when the answers are good again.
    bystander.commit(|git| git.version("v2")).await?;
    bystander.until_phase(Phase::Succeeded).await?;
    fake.answer(Answer::Value("100"));
    shop.until_phase(Phase::Succeeded).await?;
    ensure!(load.0.stop().await.lost() + load.1.stop().await.lost() == 0, "lost requests");
    Ok(())
}

pub(crate) async fn template_that_does_not_parse(story: Story) -> Result<()> {
    let fake = FakePrometheus::serve(TcpListener::bind((layout::NODE_ADDRESS, 0)).await?, Answer::Value("100"))?;
    let shop = story.bare_shop(with_template(&story, &fake, "sum({{ namespace )")?).await?;
    kubectl::apply(&shop.namespace, &shop.git().canary.to_string(), kubectl::Side::Client).await?;
    let load = shop.load(RPS).await?;
    let said = |canary: &crds::Canary| message_of(canary).contains("custom");
    // Whether it is seen at set-up or in the release: it is said, and nothing is promoted.
    let early = shop.until("it says so", std::time::Duration::from_secs(15), said).await;
    let canary = if let Ok(canary) = early {
        canary
    } else {
        shop.commit(|git| git.version("v2")).await?;
        shop.until("it says so", RELEASE, said).await?
    };
    story.say(&format!("said: {}", message_of(&canary)));
    ensure!(weight_of(&canary) < 25 && phase_of(&canary) != Phase::Succeeded, "{:?}", canary.status);
    let events = shop.events().await?;
    ensure!(
        events.iter().any(|(_, note)| note.contains("custom") || note.contains("template")),
        "no Event: {events:?}"
    );
    load.stop().await;
    Ok(())
}

pub(crate) async fn template_of_flagger_works(story: Story) -> Result<()> {
    // Go-template spelling and the application's own counter: what a Flagger user brings along.
    let query = "100 * sum(rate(app_requests_total{namespace=\"{{ .Namespace }}\", pod=~\"{{ target }}-.*\", \
                 code=\"200\"}[{{ interval }}])) / sum(rate(app_requests_total{namespace=\"{{ namespace }}\", \
                 pod=~\"{{ target }}-.*\"}[{{ interval }}]))";
    let mut manifests = template(&story, None, query)?;
    manifests.canary["spec"]["analysis"]["metrics"][0]["interval"] = json!("10s");
    let shop = story.shop(manifests).await?;
    let load = shop.load(RPS).await?;
    shop.commit(|git| git.version("v2")).await?;
    shop.until_phase(Phase::Succeeded).await?;
    load.stop().await;
    Ok(())
}

fn with_template(story: &Story, fake: &FakePrometheus, query: &str) -> Result<e2e::manifests::Manifests> {
    template(story, Some(format!("http://{}", fake.address())), query)
}

fn template(story: &Story, address: Option<String>, query: &str) -> Result<e2e::manifests::Manifests> {
    let metric = json!([{ "name": "custom", "templateRef": { "name": "custom" }, "thresholdRange": { "min": 99 } }]);
    let mut manifests = story.manifests()?.analysis("metrics", metric);
    let mut provider = json!({ "type": "prometheus" });
    if let Some(address) = address {
        provider["address"] = json!(address);
    }
    manifests.others.push(json!({
        "apiVersion": "sluice.dev/v1beta1", "kind": "MetricTemplate", "metadata": { "name": "custom" },
        "spec": { "provider": provider, "query": query },
    }));
    Ok(manifests)
}

pub(crate) async fn rollback_is_told_to_slack(story: Story) -> Result<()> {
    let path = format!("/services/{}", story.name);
    let alert = json!([{ "name": "team", "severity": "error", "providerRef": { "name": "team" } }]);
    let mut manifests = story.manifests()?.analysis("alerts", alert);
    let address = format!("http://{}{path}", story.world.slack.address());
    manifests.others.extend([
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "sluice-alerts" }, "stringData": { "address": address } }),
        json!({
            "apiVersion": "sluice.dev/v1beta1", "kind": "AlertProvider", "metadata": { "name": "team" },
            "spec": { "type": "slack", "channel": "#releases", "secretRef": { "name": "sluice-alerts" } },
        }),
    ]);
    let shop = story.shop(manifests).await?;
    let load = shop.load(RPS).await?;
    shop.commit(|git| git.version("errors")).await?;
    shop.until_phase(Phase::Failed).await?;
    let deadline = std::time::Instant::now() + SOON;
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(100));
    let messages = loop {
        tick.tick().await;
        let mut messages = story.world.slack.messages();
        messages.retain(|message| message.path == path);
        if !messages.is_empty() || std::time::Instant::now() > deadline {
            break messages;
        }
    };
    load.stop().await;
    ensure!(messages.len() == 1, "{} messages of severity error", messages.len());
    let text = messages.first().map(e2e::slack::Message::text).unwrap_or_default();
    story.say(&format!("Slack read: {}", text.replace('\n', " · ")));
    for part in [shop.name.as_str(), shop.namespace.as_str(), "request-success-rate"] {
        ensure!(text.contains(part), "the message does not say {part}: {text}");
    }
    ensure!(messages.iter().all(|message| message.body["channel"] == "#releases"), "{:?}", messages.first());
    ensure_secret_not_shown(&shop, &address).await
}

/// The address is a credential: no status, event or log shows it.
async fn ensure_secret_not_shown(shop: &Shop, address: &str) -> Result<()> {
    let canary = serde_json::to_string(&shop.canary().await?)?;
    ensure!(!canary.contains(address), "the Canary shows the webhook's address");
    ensure!(
        !shop.events().await?.iter().any(|(_, note)| note.contains(address)),
        "an Event shows the webhook's address"
    );
    let logs = e2e::operator::logs().await?;
    ensure!(!logs.contains(address), "the operator's log shows the webhook's address");
    Ok(())
}
