//! Who sees the canary: the audience and the copies that the journal pins, and `analysis.sessionAffinity`, as messages.
//!
//! What was pinned is read from the journal, not from the spec: an edit in the middle of a release is for the next one.

use crds::{
    Canary, CanaryStatus,
    audience::{AudienceMatch, StringMatch},
    canary::DEFAULT_MAX_AGE_SECONDS,
};
use proxy_api::v1beta1::{Affinity, Match, Mirror, NamedMatch, TextMatch, text_match::Kind};

/// Of whose requests the weight is a share, as pinned in the journal; empty: of everybody's. None: it cannot be read.
pub(super) fn audience(status: &CanaryStatus) -> Option<Vec<Match>> {
    let Some(pinned) = status.journal.as_ref().and_then(|journal| journal.get("audience")) else {
        return Some(Vec::new());
    };
    let matches: Vec<AudienceMatch> = serde_json::from_str(pinned.get("matches")?.as_str()?).ok()?;
    let named =
        |(name, text): (&String, &StringMatch)| NamedMatch { name: name.clone(), value: Some(text_match(text)) };
    let matches =
        matches.iter().map(|one| Match { headers: one.headers.iter().map(named).collect(), ..Match::default() });
    Some(matches.collect()).filter(|matches: &Vec<Match>| !matches.is_empty())
}

/// Patterns are for the whole value; the proxies know a prefix for paths only.
fn text_match(text: &StringMatch) -> TextMatch {
    let StringMatch { exact, prefix, suffix, regex } = text;
    let kind = match (exact, prefix, suffix, regex) {
        (Some(exact), ..) => Kind::Exact(exact.clone()),
        (None, Some(prefix), ..) => Kind::Regex(format!("(?s){}.*", escaped(prefix))),
        (None, None, Some(suffix), _) => Kind::Regex(format!("(?s).*{}", escaped(suffix))),
        (None, None, None, regex) => Kind::Regex(regex.clone().unwrap_or_default()),
    };
    TextMatch { kind: Some(kind) }
}

/// `text` as a pattern for itself: what is neither a letter nor a digit of ASCII is escaped, which RE2's syntax takes.
fn escaped(text: &str) -> String {
    let escape = |c: char| (c.is_ascii() && !c.is_ascii_alphanumeric()).then_some('\\').into_iter().chain([c]);
    text.chars().flat_map(escape).collect()
}

/// The copies that the journal asks for.
pub(super) fn mirror(status: &CanaryStatus) -> Option<Mirror> {
    let percent = status.journal.as_ref()?.pointer("/mirror/Copying")?.as_u64()?;
    let percent = u32::try_from(percent).ok().filter(|percent| (1..=100).contains(percent))?;
    Some(Mirror { percent, all_methods: false })
}

/// `spec.analysis.sessionAffinity`; the proxies apply it while the weight leaves a choice.
pub(super) fn affinity(canary: &Canary) -> Option<Affinity> {
    let asked = canary.spec.analysis.as_ref()?.session_affinity.as_ref()?;
    let max_age = asked.max_age.and_then(|seconds| u32::try_from(seconds).ok());
    Some(Affinity {
        cookie: asked.cookie_name.clone().unwrap_or_default(),
        max_age_seconds: max_age.unwrap_or(DEFAULT_MAX_AGE_SECONDS),
        header: asked.header_name.clone().unwrap_or_default(),
    })
}
