//! Files of `KEY=VALUE` lines: what `EnvironmentFile=` of systemd and `--env-file` of container engines read.
//!
//! Those readers differ in details. This one takes what all of them mean, and refuses what they read in
//! different ways and what is more likely a slip:
//!
//! - empty lines, and lines that begin with `#` or `;`, say nothing; a `#` further on belongs to the value;
//! - `export` before the key is skipped, so that a shell can read the same file;
//! - white space around key and value is dropped; what stands in one pair of quotes is the value, with `\"`,
//!   `\\`, `\$` and `` \` `` meaning the second character between double quotes, and nothing meaning anything
//!   else between single ones;
//! - outside double quotes a backslash is a character like others, but not the last one, which systemd takes
//!   for "goes on";
//! - of two lines with one key the second counts.

use core::fmt;

/// What is wrong with a line. The text shows nothing of the line, which may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadLine {
    /// Which one, from 1 on.
    pub(super) number: usize,
    what: &'static str,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.number, self.what)
    }
}

const NO_ASSIGNMENT: &str = "it is not KEY=VALUE, with a key of letters, digits and '_'";

/// Reads the lines: keys and values, in their order.
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>, BadLine> {
    let mut variables = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let wrong = |what| BadLine { number: index + 1, what };
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let exported = line.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t']));
        let line = exported.map_or(line, str::trim_start);
        let Some((key, value)) = line.split_once('=') else { return Err(wrong(NO_ASSIGNMENT)) };
        let (key, value) = (key.trim_end(), value.trim_start());
        let first_fits = key.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        if !first_fits || !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(wrong(NO_ASSIGNMENT));
        }
        variables.push((key.to_owned(), unquote(value).map_err(wrong)?));
    }
    Ok(variables)
}

/// The value without its quotes, if it has them.
fn unquote(text: &str) -> Result<String, &'static str> {
    const OPEN: &str = "its quotes are not closed on the same line";
    let (value, rest) = match text.chars().next() {
        Some('\'') => {
            let (value, rest) = text.get(1..).and_then(|text| text.split_once('\'')).ok_or(OPEN)?;
            (value.to_owned(), rest)
        }
        Some('"') => double_quoted(text.get(1..).unwrap_or_default()).ok_or(OPEN)?,
        Some(_) | None if text.ends_with('\\') => {
            return Err(
                "a value cannot continue on the next line; put quotes around a value that ends with a backslash",
            );
        }
        Some(_) | None => (text.to_owned(), ""),
    };
    let rest = rest.trim_start();
    if rest.is_empty() || rest.starts_with('#') {
        Ok(value)
    } else {
        Err("there is text after its closing quote")
    }
}

/// What stands before the closing quote, and what stands behind it.
fn double_quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.chars();
    loop {
        match characters.next()? {
            '"' => return Some((value, characters.as_str())),
            '\\' => match characters.next()? {
                escaped @ ('"' | '\\' | '$' | '`') => value.push(escaped),
                other => value.extend(['\\', other]),
            },
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read() {
        for (line, value) in [
            ("K=v", "v"),
            ("  K = v w  ", "v w"),
            ("export K=v", "v"),
            ("export\tK=v", "v"),
            ("K=", ""),
            ("K=a=b==", "a=b=="),
            ("K=a#b #c", "a#b #c"),
            ("K='a \"b\" $c \\'", "a \"b\" $c \\"),
            ("K=\"a b\"", "a b"),
            ("K=\"a\\\"b\\\\c\\$d\\`e\\f\" # said", "a\"b\\c$d`e\\f"),
            ("K=''", ""),
            ("K=a'b'", "a'b'"),
            ("K=a\\b", "a\\b"),
            ("K=v\r", "v"),
            ("K=w\u{f6}rd", "w\u{f6}rd"),
        ] {
            let expected = Ok(vec![("K".to_owned(), value.to_owned())]);
            assert_eq!(parse(line), expected, "{line}");
        }
        let text = "# comment\n\n; comment\nA=1\nA=2\n";
        let pairs = [("A".to_owned(), "1".to_owned()), ("A".to_owned(), "2".to_owned())];
        assert_eq!(parse(text), Ok(pairs.into()));
    }

    #[test]
    fn what_is_refused_is_not_shown() {
        for (text, number) in [
            ("hush hush", 1),
            ("A=1\nhush", 2),
            ("export hush", 1),
            ("A=1\n=hush", 2),
            ("1A=hush", 1),
            ("A-B=hush", 1),
            ("A='hush", 1),
            ("A=\"hush", 1),
            ("A=\"hush\\\"", 1),
            ("A='hu'sh", 1),
            ("A=hush\\\nB=1", 1),
            ("H\u{fc}sh=1", 1),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.number, number, "{text}");
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }
}
