//! One answer of `/metrics`: in Prometheus' text format 0.0.4, or in OpenMetrics 1.0, which alone has exemplars. Both have
//! the same series with the same labels, so that what a scraper asks for changes no query. Knows formats, not names.

use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime};

use crate::exemplars::Exemplar;

/// How series are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `text/plain; version=0.0.4`.
    Text,
    /// `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
}

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
}

/// The answer as far as it is written.
#[derive(Debug)]
pub struct Page {
    text: String,
    format: Format,
}

impl Format {
    /// What `accept` wants most of the two; text if it says neither.
    #[must_use]
    pub fn negotiate(accept: &str) -> Self {
        let (mut open, mut text) = (0.0, 0.0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut quality, mut version) = (1.0, None);
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim() {
                    "q" | "Q" => quality = value.trim().parse().unwrap_or(0.0),
                    "version" => version = Some(value.trim().trim_matches('"')),
                    _ => {}
                }
            }
            match media.as_str() {
                "application/openmetrics-text" if version.is_none_or(|version| version == "1.0.0") => {
                    open = f64::max(open, quality);
                }
                "text/plain" | "text/*" | "*/*" => text = f64::max(text, quality),
                _ => {}
            }
        }
        if open > 0.0 && open >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// Value of `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl fmt::Write for Page {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text.push_str(text);
        Ok(())
    }
}

impl Page {
    /// Empty.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self { text: String::with_capacity(16 * 1024), format }
    }

    /// Whether exemplars can be shown.
    #[must_use]
    pub fn exemplary(&self) -> bool {
        self.format == Format::OpenMetrics
    }

    /// Begins the family of the series `name`; all of it must follow before another one begins.
    pub fn head(&mut self, name: &str, kind: Kind, help: &str) -> fmt::Result {
        let open = self.format == Format::OpenMetrics;
        let family = if open && kind == Kind::Counter { name.strip_suffix("_total").unwrap_or(name) } else { name };
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        writeln!(self, "# HELP {family} {help}\n# TYPE {family} {kind}")?;
        if open && family.ends_with("_seconds") {
            writeln!(self, "# UNIT {family} seconds")?;
        }
        Ok(())
    }

    /// Ends a sample's line; `exemplar` stands for it with `value`, where the format has that.
    pub fn end_sample(&mut self, exemplar: Option<(&Exemplar, f64)>) -> fmt::Result {
        if let (Format::OpenMetrics, Some((exemplar, value))) = (self.format, exemplar) {
            let Exemplar { trace_id, span_id, ended, .. } = exemplar;
            let since = ended.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
            let (seconds, millis) = (since.as_secs(), since.subsec_millis());
            write!(
                self,
                " # {{trace_id=\"{trace_id:032x}\",span_id=\"{span_id:016x}\"}} {value} {seconds}.{millis:03}"
            )?;
        }
        self.write_char('\n')
    }

    /// The whole text.
    #[must_use]
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// A bound of a histogram in OpenMetrics' canonical form, `1.0` and not `1`: the same series whatever the format is.
#[must_use]
pub fn bound(micros: u64) -> String {
    format!("{:?}", micros as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_field_chooses() {
        for (accept, wanted) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/plain", Format::Text),
            // Prometheus 2.42, and 3.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                Format::OpenMetrics,
            ),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("Application/OpenMetrics-Text; version=\"1.0.0\"; charset=utf-8", Format::OpenMetrics),
            ("application/openmetrics-text; version=0.0.1", Format::Text),
            ("application/openmetrics-text; q=0", Format::Text),
            ("application/openmetrics-text; q=0.2, text/plain; q=0.5", Format::Text),
            ("application/json", Format::Text),
        ] {
            assert_eq!(Format::negotiate(accept), wanted, "{accept}");
        }
    }

    #[test]
    fn bounds_are_canonical() {
        assert_eq!([500, 2_500, 1_000_000, 30_000_000].map(bound), ["0.0005", "0.0025", "1.0", "30.0"]);
    }
}
