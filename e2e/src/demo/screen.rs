//! Where frames go: redrawn in place on a terminal, a line for each change elsewhere.

use std::io::{IsTerminal as _, Write as _};

use super::view::{self, View};

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
        println!("  {mark} {text:<58} {detail}");
    }

    /// Shows the release as it is now. A change of phase or weight leaves a line behind.
    pub fn show(&mut self, view: &View) {
        let is_change = self.last.as_ref().is_none_or(|last| (last.phase, last.weight) != (view.phase, view.weight));
        let is_news = is_change || self.last.as_ref().is_none_or(|last| last.message != view.message);
        if self.is_terminal {
            // The figures of the step that is over are the ones worth keeping.
            if let (true, Some(last)) = (is_change, self.last.take()) {
                self.say(&view::line(&last));
            }
            self.draw(view);
        } else if is_news {
            println!("{}", view::line(view));
        }
        self.last = Some(view.clone());
    }

    fn draw(&mut self, view: &View) {
        self.clear();
        let lines = view::frame(view, true);
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

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}
