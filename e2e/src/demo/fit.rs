//! Text that fits the width of a terminal. Pure; every character counts as one column.

/// `text`, or as much of it as `width` columns hold and an ellipsis.
#[must_use]
pub fn cut(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// `text` in lines of at most `width` columns, each after `indent` blanks, broken between words. A word that is longer has
/// a line of its own and is left whole: it may be a command or an address.
#[must_use]
pub fn wrapped(text: &str, indent: usize, width: usize) -> Vec<String> {
    let margin = " ".repeat(indent);
    if columns(text).saturating_add(indent) <= width {
        return vec![format!("{margin}{text}")];
    }
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if columns(line) + 1 + columns(word) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) | None => lines.push(format!("{margin}{word}")),
        }
    }
    lines
}

/// `left` padded to `pad` columns with `right` behind it; `right` on a line of its own, farther in, where that is too wide.
#[must_use]
pub fn pair(left: &str, pad: usize, right: &str, indent: usize, width: usize) -> Vec<String> {
    let margin = " ".repeat(indent);
    let one = format!("{margin}{left:<pad$} {right}");
    if columns(one.trim_end()) <= width {
        return vec![one.trim_end().to_owned()];
    }
    let mut lines = vec![format!("{margin}{left}")];
    lines.extend(wrapped(right, indent + 4, width));
    lines
}

/// Columns that `text` takes.
#[must_use]
pub fn columns(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_not_touched() {
        assert_eq!(cut("promoted", 8), "promoted");
        assert_eq!(wrapped("two  words", 2, 80), ["  two  words"]);
        assert_eq!(wrapped("anything", 4, usize::MAX), ["    anything"]);
        assert_eq!(pair("a command", 12, "what it does", 4, 80), ["    a command    what it does"]);
    }

    #[test]
    fn what_does_not_fit_is_cut_or_broken_between_words() {
        assert_eq!(cut("rolled back: too many errors", 13), "rolled back:…");
        assert_eq!(wrapped("rolled back: too many errors", 2, 14), ["  rolled back:", "  too many", "  errors"]);
        assert_eq!(wrapped("see https://example.org/long", 2, 10), ["  see", "  https://example.org/long"]);
        assert_eq!(pair("a command", 12, "what it does", 4, 20), ["    a command", "        what it does"]);
    }
}
