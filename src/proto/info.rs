//! What an agent says of itself, for people: beside its other rows in what the hub tells.
//!
//! On the wire it is one field of the handshake, `key=value; key=value`, in which every byte of a value that
//! could be anything but itself is percent-encoded. Nothing of it decides anything, so nothing of it can be
//! wrong: keys that are not known are left out, and so are values that cannot be read.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

/// The longest value that is kept, in bytes.
pub const LONGEST: usize = 128;

/// What an agent says of itself. A text that is empty is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// The version of the program.
    pub version: String,
    /// What its machine is called.
    pub host: String,
    /// The kind of processor.
    pub arch: String,
    /// Where its upstream is, without credentials.
    pub upstream: String,
    /// What its operator says of it.
    pub note: String,
    /// The processors that it may use.
    pub cpus: Option<u64>,
    /// The memory of its machine, or of its container, in bytes.
    pub memory_bytes: Option<u64>,
}

impl Info {
    /// The value of the field; empty if nothing is known.
    pub fn write(&self) -> String {
        let Self { version, host, arch, upstream, note, cpus, memory_bytes } = self;
        let texts =
            [("version", version), ("host", host), ("arch", arch), ("upstream", upstream), ("note", note)];
        let mut field = String::new();
        for (key, value) in texts.into_iter().filter(|(_, value)| !value.is_empty()) {
            begin(key, &mut field);
            for byte in shortened(value).bytes() {
                match byte {
                    b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b':' | b'/' => {
                        field.push(char::from(byte));
                    }
                    // Writing to a string does not fail.
                    _ => drop(write!(field, "%{byte:02X}")),
                }
            }
        }
        for (key, value) in [("cpus", cpus), ("memory", memory_bytes)] {
            if let Some(value) = value {
                begin(key, &mut field);
                let _ = write!(field, "{value}");
            }
        }
        field
    }

    /// What the value of the field says.
    pub fn read(field: &[u8]) -> Self {
        let mut info = Self::default();
        for pair in field.split(|byte| *byte == b';') {
            let Some(at) = pair.iter().position(|byte| *byte == b'=') else { continue };
            let (key, value) = (pair.get(..at).unwrap_or_default(), pair.get(at + 1..).unwrap_or_default());
            let text = match key.trim_ascii() {
                b"version" => &mut info.version,
                b"host" => &mut info.host,
                b"arch" => &mut info.arch,
                b"upstream" => &mut info.upstream,
                b"note" => &mut info.note,
                b"cpus" => {
                    info.cpus = number(value);
                    continue;
                }
                b"memory" => {
                    info.memory_bytes = number(value);
                    continue;
                }
                _ => continue,
            };
            *text = decoded(value.trim_ascii());
        }
        info
    }
}

fn begin(key: &str, field: &mut String) {
    if !field.is_empty() {
        field.push_str("; ");
    }
    field.push_str(key);
    field.push('=');
}

/// The beginning that is not too long.
fn shortened(text: &str) -> &str {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// The text without its percent-encoding; nothing if there is no text in it.
fn decoded(value: &[u8]) -> String {
    // No longer than what it stands for can be: three bytes for each.
    let value = value.get(..3 * LONGEST).unwrap_or(value);
    let mut bytes = Vec::with_capacity(value.len().min(LONGEST));
    let mut rest = value;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        let mut byte = *first;
        if byte == b'%' {
            let digits = rest.split_at_checked(2).and_then(|(digits, behind)| {
                rest = behind;
                u8::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()
            });
            let Some(digits) = digits else { return String::new() };
            byte = digits;
        }
        bytes.push(byte);
    }
    core::str::from_utf8(&bytes).map(|text| String::from(shortened(text))).unwrap_or_default()
}

fn number(value: &[u8]) -> Option<u64> {
    let value = core::str::from_utf8(value.trim_ascii()).ok()?;
    value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::borrow::ToOwned as _;

    fn full(note: &str) -> Info {
        Info {
            version: "0.2.0".to_owned(),
            host: "box-17".to_owned(),
            arch: "x86_64".to_owned(),
            upstream: "127.0.0.1:11434".to_owned(),
            note: note.to_owned(),
            cpus: Some(8),
            memory_bytes: Some(17_179_869_184),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for note in ["", "two 4090s; 2nd shelf = left", "100 % \u{dc}\u{202e}\"\\\r\n\0<b>", "%41"] {
            let field = full(note).write();
            assert!(field.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{field}");
            assert_eq!(Info::read(field.as_bytes()), full(note));
        }
        assert_eq!(
            full("2nd shelf").write(),
            "version=0.2.0; host=box-17; arch=x86_64; upstream=127.0.0.1:11434; note=2nd%20shelf; cpus=8; \
             memory=17179869184"
        );
        assert_eq!(Info::default().write(), "");
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        let long = "\u{20ac}".repeat(100);
        let short = "\u{20ac}".repeat(42);
        assert_eq!(Info::read(full(&long).write().as_bytes()).note, short);
        assert_eq!(Info::read(format!("note={}", "a".repeat(500)).as_bytes()).note.len(), LONGEST);
    }

    #[test]
    fn what_cannot_be_read_is_not_known() {
        let some = Info { arch: "m".to_owned(), ..Info::default() };
        for field in [
            "arch=m; host=%; note=%4; version=%zz; upstream=%ff; cpus=-1; memory=1e9",
            "arch=m; colour=blue; ; =; host; cpus=99999999999999999999; cpus=",
            ";;arch=m",
            "arch = m;cpus=",
        ] {
            assert_eq!(Info::read(field.as_bytes()), some, "{field}");
        }
        assert_eq!(Info::read(b"\xff=\xff; note=\xff"), Info::default());
    }
}
