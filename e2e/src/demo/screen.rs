//! Where frames go: redrawn in place on a terminal, a line for each change elsewhere.

use std::io::{IsTerminal as _, Write as _};

use super::fit;
use super::view::{self, View};

/// Columns of a terminal that does not say how many it has.
const COLUMNS: usize = 80;

/// Standard output as a display.
#[derive(Debug)]
pub struct Screen {
    is_terminal: bool,
    /// Lines of the frame that is on the terminal now.
    drawn: usize,
    last: Option<View>,
}

impl Screen {
    /// Looks at what standard output is. `NO_COLOR` and `TERM=dumb` make it a plain one.
    #[must_use]
    pub fn new() -> Self {
        let is_dumb =
            std::env::var_os("NO_COLOR").is_some() || std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { is_terminal: std::io::stdout().is_terminal() && !is_dumb, drawn: 0, last: None }
    }

    /// Prints a line that stays.
    pub fn say(&mut self, text: &str) {
        self.clear();
        println!("{text}");
    }

    /// Prints text that stays, in lines that fit, each after `indent` blanks.
    pub fn paragraph(&mut self, text: &str, indent: usize) {
        fit::wrapped(text, indent, width()).iter().for_each(|line| self.say(line));
    }

    /// Prints a row that stays, or as much of it as fits.
    pub fn row(&mut self, text: &str) {
        self.say(&fit::cut(text, width()));
    }

    /// Prints two columns that stay, the first `pad` wide; one below the other where that is too wide.
    pub fn pair(&mut self, left: &str, pad: usize, right: &str) {
        fit::pair(left, pad, right, 4, width()).iter().for_each(|line| self.say(line));
    }

    /// A heading, with room around it.
    pub fn heading(&mut self, text: &str) {
        self.clear();
        if self.is_terminal {
            println!("\n  \u{1b}[1m{text}\u{1b}[0m\n")
        } else {
            println!("\n  {text}\n")
        }
        self.last = None;
    }

    /// Something that is done, and a detail.
    pub fn done(&mut self, text: &str, detail: &str) {
        self.clear();
        let mark = if self.is_terminal { "\u{1b}[32m✓\u{1b}[0m" } else { "✓" };
        // The mark takes two of the four columns; where it is coloured it has more characters than columns.
        for (place, line) in fit::pair(text, 58, detail, 4, width()).iter().enumerate() {
            if place == 0 { println!("  {mark} {}", line.trim_start()) } else { println!("{line}") }
        }
    }

    /// Shows the release as it is now. A change of phase or weight leaves a line behind.
    pub fn show(&mut self, view: &View) {
        let is_change = self.last.as_ref().is_none_or(|last| (last.phase, last.weight) != (view.phase, view.weight));
        let is_news = is_change || self.last.as_ref().is_none_or(|last| last.message != view.message);
        if self.is_terminal {
            // The figures of the step that is over are the ones worth keeping.
            if let (true, Some(last)) = (is_change, self.last.take()) {
                self.say(&view::line(&last, width()));
            }
            self.draw(view);
        } else if is_news {
            println!("{}", view::line(view, width()));
        }
        self.last = Some(view.clone());
    }

    fn draw(&mut self, view: &View) {
        self.clear();
        let lines = view::frame(view, true, width());
        // Without line wrap: a frame must be as many lines as were counted.
        print!("\u{1b}[?7l{}\n\u{1b}[?7h", lines.join("\n"));
        let _ = std::io::stdout().flush();
        self.drawn = lines.len();
    }

    fn clear(&mut self) {
        if self.drawn > 0 {
            print!("\u{1b}[{}A\u{1b}[J", self.drawn);
            let _ = std::io::stdout().flush();
            self.drawn = 0;
        }
    }
}

/// Columns of standard output now: people resize windows. No end where it is no terminal.
fn width() -> usize {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return usize::MAX;
    }
    let columns = rustix::termios::tcgetwinsize(&stdout).map_or(0, |size| usize::from(size.ws_col));
    if columns == 0 { COLUMNS } else { columns }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}
