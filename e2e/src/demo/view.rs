//! One frame of the progress display, as text. Pure: what is seen goes in, lines come out.

use std::time::Duration;

use crds::Phase;

use super::fit::{columns, cut};

/// Fewest and most cells of the bar that shows the weight.
const BAR: (usize, usize) = (8, 32);

/// What is known at one moment of a release.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Since the commit.
    pub elapsed: Duration,
    /// As in the Canary's status.
    pub phase: Phase,
    /// As in the Canary's status: `2/4`; empty when no release runs.
    pub step: String,
    /// The canary's share in percent.
    pub weight: i32,
    /// As in the Canary's status: why it stands where it stands.
    pub message: String,
    /// The version under test.
    pub version: String,
    /// Percent of its answers below 500 since the commit; `None` before the first.
    pub success_percent: Option<f64>,
    /// 99th percentile over all versions in the last seconds.
    pub p99: Duration,
    /// Requests since the commit.
    pub requests: u64,
    /// Of those, without a complete answer below 500.
    pub lost: u64,
}

/// The frame: two lines of at most `width` columns, or three where the figures need one of their own; without colour
/// where `coloured` is false.
#[must_use]
pub fn frame(view: &View, coloured: bool, width: usize) -> Vec<String> {
    let paint = |code: &str, text: &str| {
        if coloured { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    };
    let step = if view.step.is_empty() { "   –".to_owned() } else { format!("{:>4}", view.step) };
    let (before, after) = (format!("    {}  ", clock(view.elapsed)), format!(" {:>3} %   step {step}", view.weight));
    let (figures, margin) = (format!("   {}", figures(view)), " ".repeat(11));
    let around = columns(&before) + columns(&after);
    let is_narrow = around + BAR.0 + columns(&figures) > width;
    let taken = if is_narrow { around } else { around + columns(&figures) };
    let cells = width.saturating_sub(taken).clamp(BAR.0, BAR.1);
    let filled = cells * usize::try_from(view.weight.clamp(0, 100)).unwrap_or(0) / 100;
    let bar = format!("{}{}", paint("36", &"█".repeat(filled)), paint("2", &"░".repeat(cells - filled)));
    let standing = paint("2", &cut(&format!("{margin}{}", standing(view)), width));
    if is_narrow {
        let figures = cut(&format!("{margin}{}", figures.trim_start()), width);
        return vec![format!("{before}{bar}{after}"), figures, standing];
    }
    vec![format!("{before}{bar}{after}{figures}"), standing]
}

/// The line for a terminal that cannot be redrawn, and for the record above one that can; at most `width` columns.
#[must_use]
pub fn line(view: &View, width: usize) -> String {
    let step = if view.step.is_empty() { "–" } else { view.step.as_str() };
    let text = format!(
        "    {}  weight {:>3} %   step {step:>4}   {}   {}",
        clock(view.elapsed),
        view.weight,
        figures(view),
        standing(view)
    );
    cut(&text, width)
}

/// The phase and why, without saying the same word twice.
fn standing(view: &View) -> String {
    let phase = phase(view.phase);
    match view.message.as_str() {
        "" => phase.to_owned(),
        message if message.starts_with(phase) => message.to_owned(),
        message => format!("{phase}: {message}"),
    }
}

fn figures(view: &View) -> String {
    let success = match view.success_percent {
        Some(percent) => format!("{percent:.1} %"),
        None => "–".to_owned(),
    };
    format!(
        "{} {success:>7} ok   p99 {:>6}   {:>7} requests   {} lost",
        view.version,
        millis(view.p99),
        grouped(view.requests),
        grouped(view.lost)
    )
}

/// Minutes and seconds.
#[must_use]
pub fn clock(elapsed: Duration) -> String {
    format!("{:02}:{:02}", elapsed.as_secs() / 60, elapsed.as_secs() % 60)
}

/// A duration in milliseconds, as short as it stays true.
#[must_use]
pub fn millis(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1_000.0;
    if millis < 10.0 { format!("{millis:.1} ms") } else { format!("{millis:.0} ms") }
}

/// A number with thousands apart.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The phase in a word that needs no manual.
#[must_use]
pub fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Initializing => "setting up",
        Phase::Initialized => "ready",
        Phase::Waiting => "waiting",
        Phase::Progressing => "progressing",
        Phase::WaitingPromotion => "waiting for promotion",
        Phase::Promoting => "promoting",
        Phase::Finalising => "finalising",
        Phase::Succeeded => "promoted",
        Phase::Failed => "rolled back",
        Phase::Terminating => "being removed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: usize = 200;

    fn mk() -> View {
        View {
            elapsed: Duration::from_secs(67),
            phase: Phase::Progressing,
            step: "2/4".to_owned(),
            weight: 25,
            message: "the step is being judged".to_owned(),
            version: "v2".to_owned(),
            success_percent: Some(100.0),
            p99: Duration::from_micros(3_200),
            requests: 6_712,
            lost: 0,
        }
    }

    #[test]
    fn a_frame_shows_step_weight_success_p99_requests_and_lost() {
        let expected = "    01:07  ████████░░░░░░░░░░░░░░░░░░░░░░░░  25 %   step  2/4   v2 100.0 % ok   p99 3.2 ms     6,712 requests   0 lost\n           progressing: the step is being judged";
        assert_eq!(frame(&mk(), false, WIDE).join("\n"), expected);
    }

    #[test]
    fn every_line_fits_the_terminal() {
        let message =
            "weight 10%: canary failed 49/100 requests, stable 1/901; chance if healthy <= 1 in 5984; decided in 3s";
        let view = View { message: message.to_owned(), requests: 1_234_567, lost: 1_234, ..mk() };
        for width in [80, 100, 120, 130, 200] {
            let lines = [frame(&view, false, width), vec![line(&view, width)]].concat();
            for text in &lines {
                assert!(columns(text) <= width, "{} columns of {width}: {text}", columns(text));
            }
            // The counts are what people look for.
            assert!(lines[..lines.len() - 1].concat().contains("1,234 lost"), "{width}: {lines:?}");
        }
    }

    #[test]
    fn a_narrow_frame_has_a_shorter_bar_or_the_figures_below() {
        let expected = "    01:07  ███░░░░░░░░░░░  25 %   step  2/4   v2 100.0 % ok   p99 3.2 ms     6,712 requests   0 lost\n           progressing: the step is being judged";
        assert_eq!(frame(&mk(), false, 100).join("\n"), expected);
        let expected = "    01:07  ████████░░░░░░░░░░░░░░░░░░░░░░░░  25 %   step  2/4\n           v2 100.0 % ok   p99 3.2 ms     6,712 requests   0 lost\n           progressing: the step is being judged";
        assert_eq!(frame(&mk(), false, 80).join("\n"), expected);
    }

    #[test]
    fn before_the_first_answer_nothing_is_claimed() {
        let view = View { success_percent: None, step: String::new(), weight: 0, message: String::new(), ..mk() };
        let expected = "    01:07  weight   0 %   step    –   v2       – ok   p99 3.2 ms     6,712 requests   0 lost   progressing";
        assert_eq!(line(&view, WIDE), expected);
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn colour_changes_no_text() {
        let plain: String = frame(&mk(), false, WIDE).concat();
        let coloured: String = frame(&mk(), true, WIDE).concat();
        let mut stripped = String::new();
        let mut rest = coloured.as_str();
        while let Some((before, after)) = rest.split_once('\u{1b}') {
            stripped.push_str(before);
            rest = after.split_once('m').map_or("", |(_, text)| text);
        }
        stripped.push_str(rest);
        assert_eq!(stripped, plain);
    }
}
