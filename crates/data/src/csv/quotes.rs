//! Whether a file of cells ends inside of quotes.
//!
//! Why it exists: a quote that nobody closes makes everything behind it one cell, to the end of the file, and the parser calls
//! that a cell like any other. Rows would be lost without a word.

use std::io::{self, Read, Seek, SeekFrom};

/// Where a byte stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the beginning of a cell.
    Start,
    /// In a cell without quotes, or behind the quotes of one.
    Plain,
    Quoted,
    /// Behind a quote inside of quotes: the end, or the first of two that stand for one.
    Quote,
}

/// Bytes of cells, looked at on their way to the parser, by the parser's own rules.
pub(super) struct Quotes<R> {
    bytes: R,
    delimiter: u8,
    state: State,
    is_begun: bool,
    is_at_end: bool,
}

impl<R> Quotes<R> {
    pub(super) fn new(bytes: R, delimiter: u8) -> Self {
        Quotes { bytes, delimiter, state: State::Start, is_begun: false, is_at_end: false }
    }

    /// Whether the end was reached inside of quotes.
    pub(super) fn is_open(&self) -> bool {
        self.is_at_end && self.state == State::Quoted
    }
}

impl<R: Read> Read for Quotes<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
        let n = self.bytes.read(to)?;
        let read = &to[..n];
        self.is_at_end |= n == 0 && !to.is_empty();
        let read = if self.is_begun { read } else { read.strip_prefix(BYTE_ORDER_MARK).unwrap_or(read) };
        self.is_begun = true;
        let delimiter = self.delimiter;
        self.state = read.iter().fold(self.state, |state, &byte| match (state, byte) {
            (State::Quoted, b'"') => State::Quote,
            (State::Quoted, _) | (State::Start | State::Quote, b'"') => State::Quoted,
            (_, b'\n' | b'\r') => State::Start,
            (_, byte) if byte == delimiter => State::Start,
            _ => State::Plain,
        });
        Ok(n)
    }
}

impl<R: Seek> Seek for Quotes<R> {
    /// Goes to the beginning of a row.
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        (self.state, self.is_at_end) = (State::Start, false);
        self.bytes.seek(to)
    }
}
