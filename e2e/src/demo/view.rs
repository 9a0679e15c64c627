//! One frame of the progress display, as text. Pure: what is seen goes in, lines come out.

use std::fmt::Write as _;
use std::time::Duration;

use crds::Phase;

/// Cells of the bar that shows the weight.
const BAR: usize = 32;

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

/// The frame: two lines, without colour where `coloured` is false.
#[must_use]
pub fn frame(view: &View, coloured: bool) -> Vec<String> {
    let paint = |code: &str, text: &str| {
        if coloured { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    };
    let filled = BAR * usize::try_from(view.weight.clamp(0, 100)).unwrap_or(0) / 100;
    let bar = format!("{}{}", paint("36", &"█".repeat(filled)), paint("2", &"░".repeat(BAR - filled)));
    let mut first = format!("    {}  {bar} {:>3} %", clock(view.elapsed), view.weight);
    let step = if view.step.is_empty() { "   –".to_owned() } else { format!("{:>4}", view.step) };
    let _ = write!(first, "   step {step}   {}", figures(view));
    vec![first, paint("2", &format!("           {}", standing(view)))]
}

/// The line for a terminal that cannot be redrawn, and for the record above one that can.
#[must_use]
pub fn line(view: &View) -> String {
    let step = if view.step.is_empty() { "–" } else { view.step.as_str() };
    format!(
        "    {}  weight {:>3} %   step {step:>4}   {}   {}",
        clock(view.elapsed),
        view.weight,
        figures(view),
        standing(view)
    )
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
        assert_eq!(frame(&mk(), false).join("\n"), expected);
    }

    #[test]
    fn before_the_first_answer_nothing_is_claimed() {
        let view = View { success_percent: None, step: String::new(), weight: 0, message: String::new(), ..mk() };
        let expected = "    01:07  weight   0 %   step    –   v2       – ok   p99 3.2 ms     6,712 requests   0 lost   progressing";
        assert_eq!(line(&view), expected);
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn colour_changes_no_text() {
        let plain: String = frame(&mk(), false).concat();
        let coloured: String = frame(&mk(), true).concat();
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
