//! Trace context: read from a request's fields in W3C's form (`traceparent`) or B3's (`b3`, `x-b3-*`), sampled at the head
//! of the trace, and written anew with the proxy's own span as the parent. Pure: ids come in as random numbers.

use std::fmt::Write as _;

/// Fields that are written anew; all others, `tracestate` included, pass.
pub const FIELDS: [&str; 6] = ["traceparent", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled"];

/// The proxy's span of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Of the whole trace, never zero.
    pub trace_id: u128,
    /// Of this span, never zero.
    pub span_id: u64,
    /// The caller's span, if it sent one.
    pub parent: Option<u64>,
    /// Recorded and exported; said on to the endpoint.
    pub sampled: bool,
    form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    W3c,
    B3Single,
    B3Multi,
}

/// What of a request's fields concerns traces.
#[derive(Clone, Copy, Debug, Default)]
struct Seen<'a> {
    traceparent: Option<&'a str>,
    b3: Option<&'a str>,
    trace: Option<&'a str>,
    span: Option<&'a str>,
    sampled: Option<&'a str>,
    debug: bool,
}

impl Span {
    /// Continues the caller's trace, or begins one that is sampled with `ratio` (0..=1). A decision that the caller has
    /// made is kept (W3C Trace Context §3.2.2.5.1; B3: `x-b3-sampled`, `x-b3-flags: 1`).
    pub fn begin<'a>(fields: impl Iterator<Item = (&'a str, &'a [u8])>, random: [u64; 3], ratio: f64) -> Self {
        let seen = Seen::of(fields);
        let (known, form) = seen.caller();
        let (trace_id, parent, decided) = match known {
            Some(known) => known,
            None => ((u128::from(random[0]) << 64 | u128::from(random[1])).max(1), None, seen.decided()),
        };
        let sampled = decided.unwrap_or((trace_id as u64 as f64) < ratio * u64::MAX as f64);
        Self { trace_id, span_id: random[2].max(1), parent, sampled, form }
    }

    /// Whether the field `name` is one that [`Self::fields`] writes anew.
    #[must_use]
    pub fn replaces(name: &str) -> bool {
        FIELDS.iter().any(|field| name.eq_ignore_ascii_case(field))
    }

    /// What the endpoint gets: always W3C's form, and B3's if the caller spoke it.
    #[must_use]
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        let (trace, span, sampled) = (self.trace_id, self.span_id, u8::from(self.sampled));
        let mut fields = vec![("traceparent", format!("00-{trace:032x}-{span:016x}-{sampled:02x}"))];
        match self.form {
            Form::W3c => {}
            Form::B3Single => {
                let mut value = format!("{trace:032x}-{span:016x}-{sampled}");
                if let Some(parent) = self.parent {
                    // Writing to a String cannot fail.
                    let _ = write!(value, "-{parent:016x}");
                }
                fields.push(("b3", value));
            }
            Form::B3Multi => {
                fields.push(("x-b3-traceid", format!("{trace:032x}")));
                fields.push(("x-b3-spanid", format!("{span:016x}")));
                fields.push(("x-b3-sampled", sampled.to_string()));
                fields.extend(self.parent.map(|parent| ("x-b3-parentspanid", format!("{parent:016x}"))));
            }
        }
        fields
    }
}

type Caller = (u128, Option<u64>, Option<bool>);

impl<'a> Seen<'a> {
    fn of(fields: impl Iterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut seen = Self::default();
        for (name, value) in fields {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            let text = std::str::from_utf8(value).ok().map(str::trim);
            match name.len() {
                2 if is("b3") => seen.b3 = text,
                10 if is("x-b3-flags") => seen.debug = text == Some("1"),
                11 if is("traceparent") => seen.traceparent = text,
                11 if is("x-b3-spanid") => seen.span = text,
                12 if is("x-b3-traceid") => seen.trace = text,
                12 if is("x-b3-sampled") => seen.sampled = text,
                _ => {}
            }
        }
        seen
    }

    /// W3C's form wins over B3's.
    fn caller(&self) -> (Option<Caller>, Form) {
        let form = match (self.b3, self.trace, self.sampled) {
            (Some(_), _, _) => Form::B3Single,
            (None, None, None) => Form::W3c,
            (None, _, _) => Form::B3Multi,
        };
        let w3c = self.traceparent.and_then(w3c);
        let b3 = || match form {
            Form::B3Single => self.b3.and_then(single),
            Form::B3Multi => Some((trace_id(self.trace?)?, Some(span_id(self.span?)?), self.decided())),
            Form::W3c => None,
        };
        (w3c.or_else(b3), form)
    }

    /// A decision without a trace, which B3 knows.
    fn decided(&self) -> Option<bool> {
        if self.debug { Some(true) } else { self.sampled.or(self.b3).and_then(decision) }
    }
}

/// `00-<32>-<16>-<2>`; a later version may go on after that (W3C Trace Context §4.3).
fn w3c(value: &str) -> Option<Caller> {
    let mut parts = value.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let whole = version.len() == 2 && trace.len() == 32 && flags.len() == 2;
    if !whole || hex(version)? == 0xff || (version == "00" && parts.next().is_some()) {
        return None;
    }
    Some((trace_id(trace)?, Some(span_id(span)?), Some(hex(flags)? & 1 == 1)))
}

/// `<32 or 16>-<16>[-<decision>[-<parent>]]`.
fn single(value: &str) -> Option<Caller> {
    let mut parts = value.split('-');
    let (trace, span) = (trace_id(parts.next()?)?, span_id(parts.next()?)?);
    Some((trace, Some(span), parts.next().and_then(decision)))
}

fn decision(value: &str) -> Option<bool> {
    match value {
        "1" | "d" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

fn trace_id(text: &str) -> Option<u128> {
    matches!(text.len(), 16 | 32).then(|| hex(text)).flatten().filter(|id| *id != 0)
}

fn span_id(text: &str) -> Option<u64> {
    let id = (text.len() == 16).then(|| hex(text)).flatten()?;
    u64::try_from(id).ok().filter(|id| *id != 0)
}

/// Lower-case digits only, as both forms have them.
fn hex(text: &str) -> Option<u128> {
    let valid = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    valid.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const RANDOM: [u64; 3] = [1, 2, 3];

    fn begin(fields: &[(&str, &str)], ratio: f64) -> Span {
        Span::begin(fields.iter().map(|(name, value)| (*name, value.as_bytes())), RANDOM, ratio)
    }

    #[test]
    fn a_trace_goes_on_under_our_span_in_the_callers_form() {
        let w3c = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let span = begin(&[("TraceParent", &w3c)], 0.0);
        assert_eq!((span.parent, span.sampled), (Some(0x00f0_67aa_0ba9_02b7), true), "the caller decides");
        assert_eq!(span.fields(), [("traceparent", format!("00-{TRACE}-0000000000000003-01"))]);
        let span = begin(&[("b3", &format!("{TRACE}-00f067aa0ba902b7-0"))], 1.0);
        assert!(!span.sampled);
        assert_eq!(span.fields()[1].1, format!("{TRACE}-0000000000000003-0-00f067aa0ba902b7"));
        let multi = [("x-b3-traceid", TRACE), ("x-b3-spanid", "00f067aa0ba902b7"), ("x-b3-sampled", "1")];
        let fields = begin(&multi, 0.0).fields();
        assert_eq!(fields[1], ("x-b3-traceid", TRACE.to_owned()));
        assert_eq!(fields[4], ("x-b3-parentspanid", "00f067aa0ba902b7".to_owned()));
    }

    #[test]
    fn what_is_not_valid_begins_a_new_trace() {
        let zero = "0".repeat(32);
        for value in [
            String::new(),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{zero}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-00f067aa0ba902b7-01-x"),
            format!("00-{TRACE}-+0f067aa0ba902b7-01"),
        ] {
            let span = begin(&[("traceparent", &value)], 0.0);
            assert_eq!((span.trace_id, span.parent, span.sampled), ((1 << 64) | 2, None, false), "{value}");
        }
    }

    #[test]
    fn without_a_decision_the_ratio_decides() {
        assert!(begin(&[], 1.0).sampled && !begin(&[], 0.0).sampled);
        assert!(begin(&[("b3", "1")], 0.0).sampled && !begin(&[("x-b3-sampled", "0")], 1.0).sampled);
        assert!(begin(&[("x-b3-flags", "1")], 0.0).sampled);
    }
}
