//! Changes to header fields: Gateway API's HTTPHeaderFilter. They are made last, after the fields of the hop are gone,
//! and can name no field that says where a message ends or that the proxy itself writes.

use http::{HeaderName, HeaderValue};
use proxy_api::v1beta1 as api;

use super::RuleError;

/// Entries of each of the three lists; Gateway API's limit.
const MAX_EDITS: usize = 16;
/// Framing, routing and hop fields: changed by a rule, they could make one message two or send it elsewhere.
const KEPT: [&str; 13] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
];

/// What is changed of a head's fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldEdits {
    gone: Vec<HeaderName>,
    written: Vec<(HeaderName, HeaderValue)>,
}

impl FieldEdits {
    /// As asked for.
    ///
    /// # Errors
    /// When a name or value is not valid, is one of those that are kept, or comes twice.
    pub fn compile(edits: Option<&api::FieldEdits>) -> Result<Self, RuleError> {
        let Some(edits) = edits else { return Ok(Self::default()) };
        if [edits.set.len(), edits.add.len(), edits.remove.len()].iter().any(|count| *count > MAX_EDITS) {
            return Err(RuleError::TooMany("header fields in a list", MAX_EDITS));
        }
        let mut named: Vec<HeaderName> = Vec::new();
        let mut name = |text: &str| {
            let name = HeaderName::try_from(text).map_err(|_| RuleError::Name(text.to_owned()))?;
            if KEPT.contains(&name.as_str()) {
                return Err(RuleError::Kept(name.as_str().to_owned()));
            }
            if named.contains(&name) {
                return Err(RuleError::EditedTwice(name.as_str().to_owned()));
            }
            named.push(name.clone());
            Ok(name)
        };
        let mut compiled = Self::default();
        for text in &edits.remove {
            compiled.gone.push(name(text)?);
        }
        for (field, replaces) in
            edits.set.iter().map(|field| (field, true)).chain(edits.add.iter().map(|field| (field, false)))
        {
            let (name, value) = (name(&field.name)?, HeaderValue::try_from(&field.value));
            let value = value.map_err(|_| RuleError::Value(field.name.clone()))?;
            compiled.gone.extend(replaces.then(|| name.clone()));
            compiled.written.push((name, value));
        }
        Ok(compiled)
    }

    /// Whether the field `name`, in any case, is not passed on as sent.
    #[must_use]
    pub fn drops(&self, name: &str) -> bool {
        self.gone.iter().any(|gone| gone.as_str().eq_ignore_ascii_case(name))
    }

    /// The fields that are not passed on.
    pub fn gone(&self) -> impl Iterator<Item = &HeaderName> {
        self.gone.iter()
    }

    /// The fields that are written in addition.
    pub fn written(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.written.iter().map(|(name, value)| (name, value))
    }
}
