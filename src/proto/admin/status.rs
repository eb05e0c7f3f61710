//! What `/api/status` tells: a JSON document (RFC 8259) that is written row by row, into one slice at a time.
//!
//! Each member is always there, and `null` where it is not known. Times are milliseconds since 1970.

use alloc::string::String;
use core::fmt::{self, Write as _};

use crate::proto::tables::timer::{Mono, Now};

/// The type of the answer.
pub(super) const CONTENT_TYPE: &str = "application/json";
/// How many rows of a table are told, unless all are asked for.
const MOST_ROWS: usize = 1000;
/// How far the two clocks may drift apart until the time of day is taken for set, in milliseconds.
const DRIFT: u64 = 2000;

/// What the time of day was at a time of the clock for deadlines. It is kept, so that a time is told alike
/// whenever it is told.
#[derive(Clone, Copy, Debug)]
pub struct Calendar {
    mono: Mono,
    unix_ms: u64,
}

impl Calendar {
    pub(super) fn new(now: Now) -> Self {
        Self { mono: now.mono, unix_ms: now.unix.saturating_mul(1000) }
    }

    /// Follows the time of day once it was set.
    pub(super) fn follow(&mut self, now: Now) {
        let told = now.unix.saturating_mul(1000);
        if self.at(now.mono).abs_diff(told) > DRIFT {
            *self = Self::new(now);
        }
    }

    /// A time of the clock for deadlines, in milliseconds since 1970.
    pub fn at(&self, time: Mono) -> u64 {
        self.unix_ms.saturating_add(time.0).saturating_sub(self.mono.0)
    }
}

/// What whoever tells something has to know for it.
#[derive(Clone, Copy, Debug)]
pub struct Telling {
    /// When things were.
    pub calendar: Calendar,
    /// Which process this is: it begins the ids of its requests.
    pub instance: u32,
    /// Whether all rows are told, however many there are.
    pub is_all: bool,
}

impl Telling {
    /// How many rows of a table are told.
    pub fn most_rows(&self) -> usize {
        if self.is_all { usize::MAX } else { MOST_ROWS }
    }
}

/// How far a document has been told.
#[derive(Debug, Default)]
pub struct Place {
    /// Sections that are told.
    pub section: usize,
    /// Rows of the section that are told.
    pub rows: usize,
    /// The last one of them, if they are told in the order of names.
    pub name: String,
    /// The same, if they are told in the order of numbers.
    pub number: (u64, u64),
    /// Whether a comma comes before the next value.
    pub(super) is_behind: bool,
    /// Whether the document has begun.
    pub(super) is_begun: bool,
}

impl Place {
    /// The section is told: goes on with the next one.
    pub fn end_section(&mut self) {
        self.section += 1;
        (self.rows, self.number) = (0, (0, 0));
        self.name.clear();
    }
}

/// A JSON document, written behind what a slice has already.
pub struct Json<'a> {
    text: &'a mut String,
    limit: usize,
    pub(super) is_behind: bool,
}

impl<'a> Json<'a> {
    /// Goes on with a document in a slice of so many bytes, behind a value or not.
    pub(super) fn new(text: &'a mut String, limit: usize, is_behind: bool) -> Self {
        Self { text, limit, is_behind }
    }

    /// Whether the slice has as much as it should. There is still room for a row.
    pub fn is_full(&self) -> bool {
        self.text.len() >= self.limit
    }

    fn separate(&mut self) {
        if core::mem::replace(&mut self.is_behind, true) {
            self.text.push(',');
        }
    }

    /// The name of the next member. It is one of ours, and needs no escapes.
    pub fn key(&mut self, name: &str) -> &mut Self {
        self.separate();
        // Writing to a string does not fail.
        let _ = write!(self.text, "\"{name}\":");
        self.is_behind = false;
        self
    }

    /// Begins an object or a list: `{` or `[`.
    pub fn open(&mut self, bracket: char) {
        self.separate();
        self.text.push(bracket);
        self.is_behind = false;
    }

    /// Ends it: `}` or `]`.
    pub fn close(&mut self, bracket: char) {
        self.text.push(bracket);
        self.is_behind = true;
    }

    /// A value that is not known.
    pub fn null(&mut self) {
        self.raw("null");
    }

    /// Yes or no.
    pub fn flag(&mut self, value: bool) {
        self.raw(if value { "true" } else { "false" });
    }

    /// A whole number.
    pub fn number(&mut self, value: impl TryInto<u64>) {
        match value.try_into() {
            Ok(value) => {
                self.separate();
                let _ = write!(self.text, "{value}");
            }
            Err(_) => self.null(),
        }
    }

    /// A whole number, if it is known.
    pub fn maybe(&mut self, value: Option<u64>) {
        match value {
            Some(value) => self.number(value),
            None => self.null(),
        }
    }

    /// A text. Whatever could make it look like something else is escaped: controls, marks of direction, and
    /// what begins markup.
    pub fn text(&mut self, value: impl fmt::Display) {
        self.separate();
        self.text.push('"');
        let _ = write!(Escaped(self.text), "{value}");
        self.text.push('"');
    }

    /// A text, `null` if there is none.
    pub fn text_or_null(&mut self, value: &str) {
        if value.is_empty() { self.null() } else { self.text(value) }
    }

    /// Members that are not known.
    pub fn unknown(&mut self, names: &[&str]) {
        for name in names {
            self.key(name).null();
        }
    }

    /// A list of texts, the first eight of it, and how many there are.
    pub fn texts(&mut self, name: &str, values: &[String]) {
        self.key(name).open('[');
        for value in values.iter().take(8) {
            self.text(value);
        }
        self.close(']');
        let total = format!("{name}_total");
        self.key(&total).number(values.len());
    }

    fn raw(&mut self, word: &str) {
        self.separate();
        self.text.push_str(word);
    }
}

/// Writes into a JSON text.
struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '"' => self.0.push_str("\\\""),
                '\\' => self.0.push_str("\\\\"),
                '\0'..='\u{1f}'
                | '<'
                | '>'
                | '&'
                | '\u{7f}'..='\u{9f}'
                | '\u{61c}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}' => write!(self.0, "\\u{:04x}", u32::from(character))?,
                _ => self.0.push(character),
            }
        }
        Ok(())
    }
}
