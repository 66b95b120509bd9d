//! Text of others as it may reach a terminal.
//!
//! Why it exists: names come from files (of graphs, tensors, arrays, folders), and a name may hold what clears a screen, begins
//! a line that looks like another message, or turns the order of letters round. Whoever prints such a name, or a message that
//! may hold one, prints [`plain`] of it. It stands here because all other crates can see it.
//!
//! Promises: what is printed has no control characters and none that are invisible or change direction; everything else,
//! letters of any script included, is as it was.

use std::fmt::{self, Write};

/// A text to be printed; see [`plain`].
#[derive(Clone, Copy, Debug)]
pub struct Plain<'a> {
    text: &'a str,
    lines: bool,
}

/// The text on one line, with what does not belong on a terminal written as Rust would: `\n`, `\u{1b}`.
pub fn plain(text: &str) -> Plain<'_> {
    Plain { text, lines: false }
}

/// The same for a text of several lines of our own.
pub fn plain_lines(text: &str) -> Plain<'_> {
    Plain { text, lines: true }
}

/// Whether a character does something else than to be seen: control characters, marks of direction (Unicode Standard Annex 9),
/// invisible ones and separators of lines.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.text;
        let is_odd = |c: char| is_hidden(c) && !(self.lines && c == '\n');
        while let Some(at) = rest.find(is_odd) {
            f.write_str(&rest[..at])?;
            let mut after = rest[at..].chars();
            for c in after.next().into_iter().flat_map(char::escape_default) {
                f.write_char(c)?;
            }
            rest = after.as_str();
        }
        f.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_stays_and_what_acts_is_written_out() {
        for (text, shown) in [
            ("größe \"x\" 数 \\ 🙂", "größe \"x\" 数 \\ 🙂"),
            ("a\nerror: b\r\tc\0", "a\\nerror: b\\r\\tc\\u{0}"),
            ("\u{1b}[2J\u{7f}\u{9b}1m", "\\u{1b}[2J\\u{7f}\\u{9b}1m"),
            ("\u{202e}cba\u{2066}x\u{200d}\u{feff}", "\\u{202e}cba\\u{2066}x\\u{200d}\\u{feff}"),
            ("", ""),
        ] {
            assert_eq!(plain(text).to_string(), shown);
            assert!(!plain(text).to_string().chars().any(is_hidden));
        }
        assert_eq!(plain_lines("a\nb\u{1b}").to_string(), "a\nb\\u{1b}");
    }
}
