//! The cursor: tokens of the text form and their places.
//!
//! Tokens are made on demand and own nothing, so reading takes no memory beyond a table of line starts. The cursor never
//! fails and always comes to an end: what is no token is a token of kind [`Kind::Stray`].

use std::sync::Arc;

use crate::diag::{Code, Diag, Loc};

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A letter or `_`, then letters, digits, `_` and `.`.
    Word,
    /// A number, or what starts like one.
    Number,
    /// Text in quotes.
    Str,
    /// A quote without its partner on the same line.
    OpenStr,
    /// `%` and digits.
    Value,
    /// One of `= , : { } [ ] ( ) @`.
    Mark(u8),
    /// Anything else, one character.
    Stray,
    /// The end of the text.
    End,
}

/// A token: its kind and its bytes in the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Whether a byte can start a word.
pub(super) fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_'
}

/// Whether a byte can continue a word.
pub(super) fn continues_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.')
}

/// A place in a text, and how to read on from there.
pub(super) struct Cursor<'t> {
    text: &'t str,
    file: Arc<str>,
    line_starts: Vec<usize>,
    is_ascii: bool,
    position: usize,
}

impl<'t> Cursor<'t> {
    /// A cursor at the start of a text.
    pub(super) fn new(text: &'t str, file: &str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1);
        let line_starts = [0].into_iter().chain(breaks).collect();
        Cursor { text, file: file.into(), line_starts, is_ascii: text.is_ascii(), position: 0 }
    }

    /// The bytes of a token.
    pub(super) fn slice(&self, token: Token) -> &'t str {
        &self.text[token.start..token.end]
    }

    /// Where the cursor stands.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// Puts the cursor at the start of a token seen before.
    pub(super) fn seek(&mut self, position: usize) {
        self.position = position;
    }

    /// The whole length of the text.
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    /// The place of a byte.
    pub(super) fn loc(&self, at: usize) -> Loc {
        let line = self.line_of(at);
        let before = &self.text[self.line_starts[line]..at];
        let column = if self.is_ascii { before.len() } else { before.chars().count() };
        let count = |n: usize| u32::try_from(n + 1).unwrap_or(u32::MAX);
        Loc::Text { file: Arc::clone(&self.file), line: count(line), column: count(column) }
    }

    fn line_of(&self, at: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= at) - 1
    }

    /// An error at a token.
    pub(super) fn error(&self, code: Code, at: Token, message: impl Into<String>) -> Diag {
        Diag::new(code, message).at(self.loc(at.start))
    }

    /// The error that something else stands where `wanted` should.
    pub(super) fn expected(&self, wanted: &str, got: Token) -> Diag {
        let message = match got.kind {
            Kind::End => format!("expected {wanted}, got the end of the text"),
            Kind::OpenStr => "the text in quotes has no end on this line".into(),
            _ => format!("expected {wanted}, got `{}`", shorten(self.slice(got))),
        };
        self.error(Code::Syntax, got, message)
    }

    /// The next token, without passing it.
    pub(super) fn peek(&mut self) -> Token {
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(self.position) {
                Some(b) if b.is_ascii_whitespace() => self.position += 1,
                Some(b';') => {
                    let rest = &bytes[self.position..];
                    self.position += rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
                }
                _ => break,
            }
        }
        self.token_at(self.position)
    }

    /// The next token, passing it.
    pub(super) fn next(&mut self) -> Token {
        let token = self.peek();
        self.position = token.end;
        token
    }

    /// Passes the given mark if it is next.
    pub(super) fn eat(&mut self, mark: u8) -> bool {
        let token = self.peek();
        let hit = token.kind == Kind::Mark(mark);
        if hit {
            self.position = token.end;
        }
        hit
    }

    /// Passes the given mark, which must be next.
    pub(super) fn expect(&mut self, mark: u8) -> Result<Token, Diag> {
        let token = self.peek();
        if token.kind != Kind::Mark(mark) {
            return Err(self.expected(&format!("`{}`", char::from(mark)), token));
        }
        self.position = token.end;
        Ok(token)
    }

    /// Passes a token of the given kind, which must be next; `wanted` says so in words.
    pub(super) fn expect_kind(&mut self, kind: Kind, wanted: &str) -> Result<Token, Diag> {
        let token = self.peek();
        if token.kind != kind {
            return Err(self.expected(wanted, token));
        }
        self.position = token.end;
        Ok(token)
    }

    /// Whether a token is the first of its line.
    pub(super) fn is_first_of_line(&self, token: Token) -> bool {
        let start = self.line_starts[self.line_of(token.start)];
        self.text.as_bytes()[start..token.start].iter().all(u8::is_ascii_whitespace)
    }

    /// Puts the cursor behind the line on which it stands.
    pub(super) fn skip_line(&mut self) {
        self.position = self.line_starts.get(self.line_of(self.position) + 1).copied().unwrap_or(self.text.len());
    }

    fn token_at(&self, start: usize) -> Token {
        let bytes = self.text.as_bytes();
        let run = |from: usize, keep: fn(u8) -> bool| {
            from + bytes[from..].iter().position(|&b| !keep(b)).unwrap_or(bytes.len() - from)
        };
        let (kind, end) = match bytes.get(start) {
            None => (Kind::End, start),
            Some(&b) if starts_word(b) => (Kind::Word, run(start, continues_word)),
            Some(b'%') => match run(start + 1, |b| b.is_ascii_digit()) {
                end if end > start + 1 => (Kind::Value, end),
                end => (Kind::Stray, end),
            },
            Some(b'0'..=b'9' | b'+' | b'-' | b'.') => (Kind::Number, self.number_end(start)),
            Some(b'"') => self.string_end(start),
            Some(&b @ (b'=' | b',' | b':' | b'{' | b'}' | b'[' | b']' | b'(' | b')' | b'@')) => {
                (Kind::Mark(b), start + 1)
            }
            Some(_) => (Kind::Stray, start + self.text[start..].chars().next().map_or(1, char::len_utf8)),
        };
        Token { kind, start, end }
    }

    /// A number takes every letter and digit after it, so that `12abc` is one malformed number.
    fn number_end(&self, start: usize) -> usize {
        let bytes = self.text.as_bytes();
        let mut end = start + 1;
        while let Some(&b) = bytes.get(end) {
            let signed_exponent = matches!(b, b'+' | b'-') && matches!(bytes[end - 1], b'e' | b'E');
            if !continues_word(b) && !signed_exponent {
                break;
            }
            end += 1;
        }
        end
    }

    fn string_end(&self, start: usize) -> (Kind, usize) {
        let bytes = self.text.as_bytes();
        let mut end = start + 1;
        while let Some(&b) = bytes.get(end) {
            match b {
                b'"' => return (Kind::Str, end + 1),
                b'\n' => break,
                b'\\' if bytes.get(end + 1).is_some_and(|&b| b != b'\n') => end += 2,
                _ => end += 1,
            }
        }
        // A backslash may have jumped into the middle of a character; the end is not used to slice.
        (Kind::OpenStr, start + 1)
    }
}

/// The first characters of a token, for messages.
pub(super) fn shorten(text: &str) -> String {
    const MOST: usize = 40;
    match text.char_indices().nth(MOST) {
        None => text.into(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
