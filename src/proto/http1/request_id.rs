//! What a request is called in the logs of all who pass it on: `X-Request-Id`.

use alloc::string::String;
use core::fmt;

use super::fields::Class;
use super::head::RequestHead;

/// The longest name of a request that is kept, in bytes.
pub const MAX_REQUEST_ID: usize = 128;

/// The name of a request: one to [`MAX_REQUEST_ID`] of `A-Z a-z 0-9 . _ : / + = @ -`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    /// The name that a request has, or else one that is made of a number that does not repeat.
    pub fn of(head: &RequestHead<'_, '_>, number: impl FnOnce() -> u64) -> Self {
        let mut id = Self::default();
        id.set(head, number);
        id
    }

    /// A name for a request that cannot be read.
    pub fn of_unread(number: u64) -> Self {
        let mut id = Self::default();
        id.make(number);
        id
    }

    /// Takes the name that a request has, or else makes one of a number that does not repeat.
    pub fn set(&mut self, head: &RequestHead<'_, '_>, number: impl FnOnce() -> u64) {
        self.0.clear();
        match given(head) {
            Some(name) => self.0.push_str(name),
            None => self.make(number()),
        }
    }

    fn make(&mut self, number: u64) {
        self.0.push_str(core::str::from_utf8(&digits(number)).unwrap_or_default());
    }

    /// As it stands in the field.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name that a request came with. Of two, nobody knows which one other logs have.
fn given<'b>(head: &RequestHead<'_, 'b>) -> Option<&'b str> {
    if !head.has_request_id() {
        return None;
    }
    let mut named = head.fields.classified().filter(|(_, class)| *class == Class::RequestId);
    let (field, _) = named.next()?;
    let is_fit = |byte: &u8| byte.is_ascii_alphanumeric() || b"._:/+=@-".contains(byte);
    let is_name = (1..=MAX_REQUEST_ID).contains(&field.value.len()) && field.value.iter().all(is_fit);
    if !is_name || named.next().is_some() {
        return None;
    }
    core::str::from_utf8(field.value).ok()
}

/// In hexadecimal digits, all of them. Written for each request, and so without the machinery of formatting.
fn digits(number: u64) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0; 16];
    for (at, digit) in digits.iter_mut().enumerate() {
        *digit = DIGITS[(number >> (60 - 4 * at) & 15) as usize];
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::super::storage::Storage;
    use super::*;

    fn name(fields: &str) -> String {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let mut storage = Storage::new();
        let mut id = RequestId("what was before".to_owned());
        id.set(&RequestHead::parse(head.as_bytes(), &mut storage).unwrap(), || 0x0123_4567_89ab_cdef);
        id.to_string()
    }

    #[test]
    fn a_fit_name_is_kept_and_any_other_is_replaced() {
        const MADE: &str = "0123456789abcdef";
        let longest = "x".repeat(MAX_REQUEST_ID);
        for kept in ["a", "AZaz09._:/+=@-", &longest] {
            assert_eq!(name(&format!("x-request-id: {kept}\r\n")), kept);
        }
        assert_eq!(name(""), MADE);
        for unfit in ["", "a b", "a,b", "a\tb", "caf\u{e9}", "\"a\"", "a;b", "<a>", &format!("{longest}x")] {
            assert_eq!(name(&format!("X-Request-Id: {unfit}\r\n")), MADE, "{unfit}");
        }
        assert_eq!(name("X-Request-Id: a\r\nX-Request-ID: a\r\n"), MADE);
        assert_eq!(name("X-Request-Id: a\r\nConnection: X-Request-Id\r\n"), MADE);
    }
}
