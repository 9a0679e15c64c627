//! The little that must be known of PromQL's grammar to put values into a query: string literals, comments, durations.

use std::{borrow::Cow, time::Duration};

/// Where in a query a character stands (PromQL lexer: literals as in Go, `#` begins a comment).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Outside of literals and comments.
    Code,
    /// Inside `"…"`.
    Double,
    /// Inside `'…'`.
    Single,
    /// Inside `` `…` ``, where nothing is escaped.
    Raw,
    /// Behind `#`.
    Comment,
}

impl Place {
    /// The place behind `character`, which is not escaped.
    pub(super) const fn after(self, character: char) -> Self {
        match (self, character) {
            (Self::Code, '"') => Self::Double,
            (Self::Code, '\'') => Self::Single,
            (Self::Code, '`') => Self::Raw,
            (Self::Code, '#') => Self::Comment,
            (Self::Double, '"') | (Self::Single, '\'') | (Self::Raw, '`') | (Self::Comment, '\n') => Self::Code,
            (place, _) => place,
        }
    }

    /// Whether `character` here takes its special meaning from the next one.
    pub(super) const fn escapes(self, character: char) -> bool {
        matches!((self, character), (Self::Double | Self::Single, '\\'))
    }

    /// `value` as it may stand here without changing the shape of the query; else what would fit.
    pub(super) fn embed(self, value: &str) -> Result<Cow<'_, str>, &'static str> {
        match self {
            Self::Code if plain(value) => Ok(Cow::Borrowed(value)),
            Self::Code => Err("outside of a string literal, a number, a duration or a name was expected"),
            Self::Double => Ok(escaped(value, '"')),
            Self::Single => Ok(escaped(value, '\'')),
            Self::Raw if value.contains('`') => Err("a value without '`' was expected, or a literal in double quotes"),
            Self::Comment if value.contains('\n') => Err("a value without a line break was expected in a comment"),
            Self::Raw | Self::Comment => Ok(Cow::Borrowed(value)),
        }
    }
}

/// A number, a duration or a name: one token, whatever stands beside it.
fn plain(value: &str) -> bool {
    let token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.');
    !value.is_empty() && (value.chars().all(token) || value.parse::<f64>().is_ok())
}

fn escaped(value: &str, quote: char) -> Cow<'_, str> {
    if !value.contains(['\\', quote, '\n']) {
        return Cow::Borrowed(value);
    }
    let mut text = String::with_capacity(value.len() + 8);
    for character in value.chars() {
        match character {
            '\n' => text.push_str("\\n"),
            c if c == '\\' || c == quote => text.extend(['\\', c]),
            c => text.push(c),
        }
    }
    Cow::Owned(text)
}

/// A string literal in double quotes.
pub(super) fn literal(value: &str) -> String {
    format!("\"{}\"", escaped(value, '"'))
}

/// A duration as PromQL writes it, to the millisecond.
pub(super) fn duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis.is_multiple_of(1_000) { format!("{}s", millis / 1_000) } else { format!("{millis}ms") }
}
