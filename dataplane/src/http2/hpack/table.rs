//! The tables of HPACK: the static one (RFC 7541 Appendix A) and a dynamic one (§2.3.2), both with fields that were parsed.

use std::collections::VecDeque;
use std::sync::LazyLock;

use super::field::{Field, Name, OVERHEAD};

/// Largest dynamic table, in bytes as the RFC counts them: what holds as long as nobody says otherwise (§6.5.2 of RFC 9113).
pub(super) const MAX_SIZE: usize = 4096;

/// RFC 7541 Appendix A, from index 1.
#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];

static PARSED: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let parse = |(name, value): &(&str, &str)| {
        let name = Name::parse(name.as_bytes());
        let field = Field::parse(&name, value.as_bytes());
        Entry { size: name.len() + value.len() + OVERHEAD, name, field }
    };
    STATIC.iter().map(parse).collect()
});

/// A field with what it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Name,
    pub(super) field: Field,
    /// In bytes (RFC 7541 §4.1).
    pub(super) size: usize,
}

/// The dynamic table, with the static one before it.
#[derive(Debug)]
pub(super) struct Table {
    /// Newest first.
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self { entries: VecDeque::new(), size: 0, max: MAX_SIZE }
    }
}

impl Table {
    /// By the index that is sent, from 1.
    pub(super) fn get(&self, index: usize) -> Option<&Entry> {
        let index = index.checked_sub(1)?;
        if index < STATIC.len() { PARSED.get(index) } else { self.entries.get(index - STATIC.len()) }
    }

    /// Adds an entry, and drops those that have no place beside it (RFC 7541 §4.4).
    pub(super) fn insert(&mut self, entry: Entry) {
        self.shrink(self.max.saturating_sub(entry.size));
        if entry.size <= self.max {
            self.size += entry.size;
            self.entries.push_front(entry);
        }
    }

    /// The other end says how large it is from now on (§6.3); false if that is more than may be.
    pub(super) fn resize(&mut self, max: usize) -> bool {
        if max > MAX_SIZE {
            return false;
        }
        self.max = max;
        self.shrink(max);
        true
    }

    /// Bytes in use (§4.1).
    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    fn shrink(&mut self, max: usize) {
        while self.size > max {
            let Some(oldest) = self.entries.pop_back() else { return };
            self.size -= oldest.size;
        }
    }
}
