//! Messages that have come, and their parts.

use std::fmt;

use super::BodyState;

/// The start line and fields of a message.
#[derive(Clone)]
pub struct Head {
    pub start: String,
    pub fields: Vec<(String, Vec<u8>)>,
    pub raw: Vec<u8>,
}

/// A complete message.
#[derive(Clone, Debug)]
pub struct Message {
    /// The 1xx heads before it.
    pub interim: Vec<Head>,
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, Vec<u8>)>,
}

impl Head {
    #[track_caller]
    pub fn parse(raw: Vec<u8>) -> Self {
        let text = &raw[..raw.len() - 4];
        let lines: Vec<&[u8]> = split_lines(text);
        for line in &lines {
            assert!(
                !line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)),
                "a bare CR, LF or NUL in {:?}",
                String::from_utf8_lossy(&raw)
            );
        }
        let start = String::from_utf8(lines[0].to_vec()).expect("a start line in UTF-8");
        let fields = lines[1..].iter().map(|line| parse_field(line)).collect();
        Self { start, fields, raw }
    }

    /// The only value of this field; `None` if it is not there.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() < 2, "{name} came more than once: {self:?}");
        values.first().map(|value| std::str::from_utf8(value).expect("a value in UTF-8"))
    }

    /// All values of this field, in order.
    pub fn all(&self, name: &str) -> Vec<&[u8]> {
        let named = self.fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_slice()).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    /// Whether a field whose name begins so is there.
    pub fn has_prefix(&self, prefix: &str) -> bool {
        self.fields.iter().any(|(name, _)| name.to_ascii_lowercase().starts_with(prefix))
    }

    #[track_caller]
    pub fn status(&self) -> u16 {
        let mut words = self.start.split(' ');
        assert!(words.next().unwrap().starts_with("HTTP/1."), "no status line: {self:?}");
        words.next().and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status: {self:?}"))
    }

    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap()
    }

    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap()
    }

    fn is_chunked(&self) -> bool {
        match self.field("transfer-encoding") {
            None => false,
            Some(coding) => {
                assert_eq!(coding.to_ascii_lowercase(), "chunked", "{self:?}");
                assert!(!self.has("content-length"), "both framings: {self:?}");
                true
            }
        }
    }

    fn content_length(&self) -> Option<u64> {
        self.field("content-length").map(|length| length.parse().expect("digits"))
    }

    /// RFC 9112 section 6.3 for responses.
    pub(super) fn response_framing(&self, method: &str) -> BodyState {
        if method == "HEAD" || matches!(self.status(), 101 | 204 | 304) {
            return BodyState::Done;
        }
        if self.is_chunked() {
            assert!(self.start.starts_with("HTTP/1.1"), "chunked to HTTP/1.0: {self:?}");
            return BodyState::ChunkLine;
        }
        self.content_length().map_or(BodyState::UntilClose, BodyState::Length)
    }

    /// RFC 9112 section 6.3 for requests.
    pub(super) fn request_framing(&self) -> BodyState {
        if self.is_chunked() {
            return BodyState::ChunkLine;
        }
        self.content_length().map_or(BodyState::Done, BodyState::Length)
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.raw))
    }
}

impl Message {
    #[track_caller]
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

#[track_caller]
pub(super) fn parse_field(line: &[u8]) -> (String, Vec<u8>) {
    let colon = line.iter().position(|byte| *byte == b':');
    let colon = colon.unwrap_or_else(|| panic!("no colon in {:?}", String::from_utf8_lossy(line)));
    let name = String::from_utf8(line[..colon].to_vec()).expect("a field name in ASCII");
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    assert!(!name.is_empty() && name.bytes().all(token), "field name {name:?}");
    (name, line[colon + 1..].trim_ascii().to_vec())
}

pub(super) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn split_lines(text: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = find(rest, b"\r\n") {
        lines.push(&rest[..end]);
        rest = &rest[end + 2..];
    }
    lines.push(rest);
    lines
}
