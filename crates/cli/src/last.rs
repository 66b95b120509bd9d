//! What was read last, for messages about what happened to it.

use std::sync::{Mutex, PoisonError};

/// The source that was read last, as the command line names it, and its text: what a panic happened on.
static LAST: Mutex<Option<(String, String)>> = Mutex::new(None);

/// Remembers a source, as the command line names it, and its text.
pub(crate) fn keep(source: &str, text: &str) {
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some((source.to_owned(), text.to_owned()));
}

/// The name of the source that was read last.
pub(crate) fn source() -> Option<String> {
    LAST.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|last| last.0.clone())
}

/// The text of the source that was read last.
pub(crate) fn text() -> Option<String> {
    LAST.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|last| last.1.clone())
}
