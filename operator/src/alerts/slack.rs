//! A message in the form of Slack's incoming webhooks, which Mattermost, Rocket.Chat and Discord (`/slack`) take, too.
//!
//! The headline says who, what and why, because a phone shows nothing else. The numbers stand below it as fields of an
//! attachment, the one form that all receivers show. Text that comes from a cluster is escaped, so that it cannot
//! mention `@channel` or forge a link.

use std::collections::HashSet;

use crds::{AlertProviderSpec, canary::Severity};
use serde_json::{Value, json};

use super::{Kind, Message, queue::Delivery};

/// Name under which messages are posted, unless the provider names one.
const USERNAME: &str = "sluice";
/// Longest reason that is shown: Slack folds longer texts.
const REASON_CHARS_MAX: usize = 600;
/// Facts that are shown.
const FACTS_MAX: usize = 12;

/// The body to post.
pub(super) fn payload(provider: &AlertProviderSpec, delivery: &Delivery) -> Value {
    let message = &delivery.message;
    let headline = headline(message);
    let mut body = json!({
        "text": format!("{} {headline}", emoji(message)),
        "username": provider.username.as_deref().unwrap_or(USERNAME),
        "attachments": [{
            "color": color(message.severity),
            "fallback": headline,
            "fields": fields(message),
            "footer": "Sluice",
            "ts": delivery.at.timestamp(),
        }],
    });
    if let Some(channel) = &provider.channel {
        body["channel"] = json!(channel);
    }
    body
}

/// `*shop/web* rolled back to 7c4b: success rate 94.80 % is below 99 %`
fn headline(message: &Message) -> String {
    let stable = message.stable_revision.as_deref().unwrap_or("the stable revision");
    let canary = message.canary_revision.as_deref().unwrap_or("a new revision");
    let weight = message.weight_percent;
    let what = match message.id.kind {
        Kind::Initialized => "is set up".to_owned(),
        Kind::Started => format!("began to release {canary}"),
        Kind::Restarted => format!("started over with {canary}"),
        Kind::CopiesBegan => format!("sends copies of requests to {canary}"),
        Kind::CopiesEnded => format!("sends no more copies to {canary}"),
        Kind::Weight if message.of_audience => format!("gives {canary} {weight} % of the requests that match"),
        Kind::Weight => format!("gives {canary} {weight} % of the traffic"),
        Kind::Held => format!("holds {canary} at {weight} %"),
        Kind::CheckFailed => format!("saw a check of {canary} fail at {weight} %"),
        Kind::Promoted => format!("promoted {canary}"),
        Kind::RolledBack => format!("rolled {canary} back to {stable}"),
        Kind::Reverted => format!("went back to {stable}"),
        Kind::Waiting => format!("waits for a person before {canary} goes on"),
        Kind::Notice => "needs a look".to_owned(),
    };
    let subject = format!("*{}/{}*", escaped(&message.namespace), escaped(&message.canary));
    let reason = shortened(message.reason.trim());
    if reason.is_empty() {
        return format!("{subject} {}", escaped(&what));
    }
    format!("{subject} {}: {}", escaped(&what), escaped(&reason))
}

fn fields(message: &Message) -> Vec<Value> {
    let field = |title: &str, value: &str| json!({ "title": escaped(title), "value": escaped(value), "short": true });
    let mut fields = Vec::new();
    if let Some(revision) = &message.canary_revision {
        fields.push(field("Canary", revision));
    }
    if let Some(revision) = &message.stable_revision {
        fields.push(field("Stable", revision));
    }
    let weight = match message.step.as_str() {
        "" => format!("{} %", message.weight_percent),
        step => format!("{} % (step {step})", message.weight_percent),
    };
    fields.push(field("Weight", &weight));
    // Two metrics over the same requests bring the same count.
    let mut shown = HashSet::new();
    let facts = message.facts.iter().filter(|fact| shown.insert(&fact.name)).take(FACTS_MAX);
    fields.extend(facts.map(|fact| field(&capitalized(&fact.name), &fact.value)));
    fields
}

const fn color(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "#2eb67d",
        Severity::Warn => "#ecb22e",
        Severity::Error => "#e01e5a",
    }
}

const fn emoji(message: &Message) -> &'static str {
    match message.id.kind {
        Kind::Initialized | Kind::Promoted => ":white_check_mark:",
        Kind::Started | Kind::Restarted => ":rocket:",
        Kind::CopiesBegan | Kind::CopiesEnded => ":busts_in_silhouette:",
        Kind::Weight => ":chart_with_upwards_trend:",
        Kind::Held | Kind::Waiting => ":hourglass_flowing_sand:",
        Kind::CheckFailed | Kind::Notice => ":warning:",
        Kind::RolledBack => ":rotating_light:",
        Kind::Reverted => ":leftwards_arrow_with_hook:",
    }
}

/// Slack's three control characters ("Formatting text for app surfaces"); line breaks would end the headline.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace(['\n', '\r'], " ")
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(REASON_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::DateTime;
    use crds::alert_provider::AlertProviderKind;

    use super::{super::tests::mk_message, *};
    use crate::alerts::Fact;

    fn mk_provider() -> AlertProviderSpec {
        AlertProviderSpec {
            kind: AlertProviderKind::Slack,
            channel: Some("#releases".to_owned()),
            username: None,
            address: Some("https://hooks.slack.com/services/T0/B0/x".to_owned()),
            secret_ref: None,
        }
    }

    fn posted(message: Message) -> Value {
        let at = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        payload(&mk_provider(), &Delivery { message: Arc::new(message), alert: "team".to_owned(), at })
    }

    #[test]
    fn a_rollback_says_who_what_why_and_the_numbers() {
        let fact = |name: &str, value: &str| Fact { name: name.to_owned(), value: value.to_owned() };
        let mut message = mk_message(7);
        message.facts = vec![fact("success rate", "94.80 %"), fact("requests", "1,204"), fact("requests", "1,204")];
        let expected = json!({
            "text": ":rotating_light: *shop/web* rolled 5d9f back to 7c4b: success rate 94.80 % is below 99 %",
            "username": "sluice",
            "channel": "#releases",
            "attachments": [{
                "color": "#e01e5a",
                "fallback": "*shop/web* rolled 5d9f back to 7c4b: success rate 94.80 % is below 99 %",
                "fields": [
                    { "title": "Canary", "value": "5d9f", "short": true },
                    { "title": "Stable", "value": "7c4b", "short": true },
                    { "title": "Weight", "value": "25 % (step 2/4)", "short": true },
                    { "title": "Success rate", "value": "94.80 %", "short": true },
                    { "title": "Requests", "value": "1,204", "short": true },
                ],
                "footer": "Sluice",
                "ts": 1_700_000_000,
            }],
        });
        assert_eq!(posted(message), expected);
    }

    #[test]
    fn text_from_the_cluster_cannot_mention_or_link() {
        let mut message = mk_message(7);
        message.reason = "<!channel> & <https://evil|click>\nsecond line".to_owned();
        let text = posted(message)["text"].as_str().unwrap().to_owned();
        assert!(text.ends_with("7c4b: &lt;!channel&gt; &amp; &lt;https://evil|click&gt; second line"), "{text}");
        let mut message = mk_message(7);
        message.reason = "é".repeat(5_000);
        assert!(posted(message)["text"].as_str().unwrap().chars().count() < REASON_CHARS_MAX + 100);
    }

    #[test]
    fn every_kind_has_a_headline_in_its_colour() {
        for (kind, expected) in [
            (Kind::Initialized, "*shop/web* is set up"),
            (Kind::Started, "*shop/web* began to release 5d9f"),
            (Kind::Restarted, "*shop/web* started over with 5d9f"),
            (Kind::CopiesBegan, "*shop/web* sends copies of requests to 5d9f"),
            (Kind::CopiesEnded, "*shop/web* sends no more copies to 5d9f"),
            (Kind::Weight, "*shop/web* gives 5d9f 25 % of the traffic"),
            (Kind::Held, "*shop/web* holds 5d9f at 25 %"),
            (Kind::CheckFailed, "*shop/web* saw a check of 5d9f fail at 25 %"),
            (Kind::Promoted, "*shop/web* promoted 5d9f"),
            (Kind::RolledBack, "*shop/web* rolled 5d9f back to 7c4b"),
            (Kind::Reverted, "*shop/web* went back to 7c4b"),
            (Kind::Waiting, "*shop/web* waits for a person before 5d9f goes on"),
            (Kind::Notice, "*shop/web* needs a look"),
        ] {
            let mut message = mk_message(1);
            (message.id.kind, message.severity, message.reason) = (kind, kind.severity(), String::new());
            let body = posted(message);
            assert_eq!(body["attachments"][0]["fallback"], expected);
            assert_eq!(body["attachments"][0]["color"], color(kind.severity()));
        }
    }
}
