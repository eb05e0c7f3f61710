//! Message heads (RFC 9112 sections 2 to 5): found in a stream of bytes, parsed once they are complete, and judged.
//!
//! httparse takes the bytes apart; it is laxer than we want to be in one respect, bare LF, which is caught here. How
//! the body ends is decided in [`super::framing`], what a field is to us in [`super::fields`].

use core::mem::MaybeUninit;
use std::borrow::Cow;

pub use httparse::Header as Field;

use super::fields::{Class, Connection, has_member, is_token, is_token_byte, members};
use super::framing::{Delimiters, Framing};
use super::target::{Target, is_authority};
use crate::proto::error::Violation;

/// The longest head in bytes, and the longest trailer section: what one buffer holds.
pub const HEAD_LIMIT: usize = 16 * 1024;
/// The longest request target in bytes. RFC 9112 section 3 asks for 8000 at least.
pub const TARGET_LIMIT: usize = 8 * 1024;
/// The most fields of a head or a trailer section. Browsers behind two proxies send forty.
pub const MAX_FIELDS: usize = 100;

/// The longest start line in bytes without its CRLF: the longest target and room for method and version.
const LINE_LIMIT: usize = TARGET_LIMIT + 64;

/// The version of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// The search for the end of a head in bytes that arrive bit by bit. It looks at no byte twice.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScan {
    /// No line end but those before `line` lies in the first `seen` bytes.
    seen: u16,
    /// Where the current line begins.
    line: u16,
    /// The one empty line before the head was dropped.
    skipped: bool,
}

impl HeadScan {
    /// How many bytes to drop before the head begins: 2 if there is an empty line, and none was dropped before. Some clients
    /// send one after a body (RFC 9112 section 2.2). To be asked before each [`HeadScan::advance`]; for requests only.
    pub fn leading_crlf(&mut self, input: &[u8]) -> usize {
        if self.skipped || !input.starts_with(b"\r\n") {
            return 0;
        }
        *self = Self { skipped: true, ..Self::default() };
        2
    }

    /// Whether any byte of the head has been looked at.
    pub const fn is_begun(self) -> bool {
        self.seen > 0
    }

    /// The length of the head with the empty line that ends it, once it is complete. `input` always begins with the head's
    /// first byte.
    ///
    /// Fails with 400 at a bare LF, at an empty line in place of a start line, and at a first byte that begins no message (TLS on
    /// a plain port); with 414 when the start line, and with 431 when the head, is beyond its limit.
    pub fn advance(&mut self, input: &[u8]) -> Result<Option<usize>, Violation> {
        let window = input.get(..HEAD_LIMIT).unwrap_or(input);
        if window.first().is_some_and(|&byte| !is_token_byte(byte) && byte != b'\r') {
            return Err(Violation::malformed("this is not HTTP/1"));
        }
        while let Some(found) = window.get(usize::from(self.seen)..).and_then(line_feed) {
            let line = usize::from(self.line);
            let at = usize::from(self.seen) + found;
            if at.checked_sub(1).and_then(|before| window.get(before)) != Some(&b'\r') {
                return Err(Violation::malformed("a line ends in LF without CR"));
            }
            if line == 0 && at > LINE_LIMIT {
                return Err(TARGET_TOO_LONG);
            }
            if at == line + 1 {
                if line == 0 {
                    return Err(Violation::malformed("an empty line in place of a start line"));
                }
                // Asked again, it finds the same end again.
                self.seen = offset(at);
                return Ok(Some(at + 1));
            }
            self.seen = offset(at + 1);
            self.line = self.seen;
        }
        self.seen = offset(window.len());
        if self.line == 0 && window.len() > LINE_LIMIT {
            return Err(TARGET_TOO_LONG);
        }
        if window.len() == HEAD_LIMIT {
            return Err(Violation::new(431, "the head is larger than 16 KiB"));
        }
        Ok(None)
    }
}

/// Room for the fields of one head, left as it is until they are parsed into it.
pub struct Storage<'b> {
    fields: [MaybeUninit<Field<'b>>; MAX_FIELDS],
    classes: [Class; MAX_FIELDS],
}

impl Storage<'_> {
    /// Room for [`MAX_FIELDS`].
    pub const fn new() -> Self {
        Self { fields: [const { MaybeUninit::uninit() }; MAX_FIELDS], classes: [Class::EndToEnd; MAX_FIELDS] }
    }
}

impl Default for Storage<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// A request method (RFC 9110 section 9); its case matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method<'b>(&'b str);

impl<'b> Method<'b> {
    /// As it was sent.
    pub const fn as_str(self) -> &'b str {
        self.0
    }

    /// Whether responses to it have no body.
    pub fn is_head(self) -> bool {
        self.0 == "HEAD"
    }

    /// Whether it may be asked of the server as a whole (`*`).
    pub fn is_options(self) -> bool {
        self.0 == "OPTIONS"
    }

    /// Whether executing it twice is as good as once (RFC 9110 section 9.2.2).
    pub fn is_idempotent(self) -> bool {
        matches!(self.0, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
    }
}

/// The form of a request target (RFC 9112 section 3.2); authority-form is for CONNECT alone, which is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetForm {
    /// A path and perhaps a query.
    Origin,
    /// A whole URI. Its authority overrides `Host`.
    Absolute,
    /// `*`.
    Asterisk,
}

/// A request head that can be read in one way only.
#[derive(Clone, Debug)]
pub struct RequestHead<'s, 'b> {
    /// What is asked for.
    pub method: Method<'b>,
    /// The target as it was sent: visible ASCII without `#`, at most [`TARGET_LIMIT`].
    pub target: &'b str,
    /// Its form.
    pub form: TargetForm,
    /// The version of the sender.
    pub version: Version,
    /// All fields, in order.
    pub fields: &'s [Field<'b>],
    /// How the body is delimited; never [`Framing::UntilClose`].
    pub framing: Framing,
    /// Whether the sender wants to use the connection again (RFC 9112 section 9.3).
    pub persistent: bool,
    /// The protocol that the sender would rather speak: the first one of its `Upgrade` field that may be offered on. None in
    /// HTTP/1.0, or if `Connection` does not say so too (RFC 9110 section 7.8).
    pub upgrade: Option<&'b str>,
    /// Whether the sender holds its body back until it is asked for it (RFC 9110 section 10.1.1).
    pub expect_continue: bool,
    pub(super) classes: &'s [Class],
    pub(super) trailers_welcome: bool,
    authority: &'b str,
    path_and_query: &'b str,
}

impl<'s, 'b> RequestHead<'s, 'b> {
    /// Parses a complete head, as [`HeadScan`] finds it.
    pub fn parse(head: &'b [u8], storage: &'s mut Storage<'b>) -> Result<Self, Violation> {
        let Storage { fields, classes } = storage;
        let mut request = httparse::Request::new(&mut []);
        let parsed = request.parse_with_uninit_headers(head, fields);
        complete(head, parsed, request.headers.len())?;
        let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
        else {
            return Err(Violation::malformed("incomplete request line"));
        };
        let (method, version, fields) = (Method(method), Version::from_minor(minor), &*request.headers);
        if method.0 == "CONNECT" {
            return Err(Violation::new(501, "CONNECT is not for a gateway"));
        }
        if target.len() > TARGET_LIMIT {
            return Err(TARGET_TOO_LONG);
        }
        let parts = Target::parse(target, method)?;
        let facts = Facts::gather(fields, classes)?;
        let expect_continue = facts.expect_continue(fields, classes, version)?;
        let host = facts.authority(version)?;
        let framing = facts.delimiters.request(version)?;
        Ok(Self {
            method,
            target,
            form: parts.form,
            version,
            fields,
            framing,
            persistent: facts.persistent(version),
            upgrade: facts.upgrade(version).and_then(|protocols| members(protocols).find_map(offered)),
            expect_continue: expect_continue && framing != Framing::None && framing != Framing::Length(0),
            trailers_welcome: facts.trailers_welcome && version == Version::Http11,
            classes: classes.get(..fields.len()).unwrap_or_default(),
            authority: if parts.form == TargetForm::Absolute { parts.authority } else { host },
            path_and_query: parts.path_and_query,
        })
    }

    /// The value of the first field with this name.
    pub fn field(&self, name: &str) -> Option<&'b [u8]> {
        fields_named(self.fields, name).next()
    }

    /// The values of all fields with this name.
    pub fn fields_named(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        fields_named(self.fields, name)
    }

    /// Host and port that the request is meant for: those of an absolute-form target, else those of `Host` (RFC 9112 section
    /// 3.2.2). Empty if the sender left them out.
    pub fn authority(&self) -> &'b str {
        self.authority
    }

    /// The target in origin-form: the path, never empty, and the query; or `*`. It is as sent, save that an absolute-form
    /// target with an empty path gets its slash (RFC 9112 section 3.2.1).
    pub fn path_and_query(&self) -> Cow<'b, str> {
        match self.path_and_query {
            "" => Cow::Borrowed("/"),
            text if text.starts_with('?') => Cow::Owned(format!("/{text}")),
            text => Cow::Borrowed(text),
        }
    }

    /// The path without the query, never empty; or `*`.
    pub fn path(&self) -> &'b str {
        match self.path_and_query.split('?').next() {
            None | Some("") => "/",
            Some(path) => path,
        }
    }
}

/// A response head that can be read in one way only.
#[derive(Clone, Debug)]
pub struct ResponseHead<'s, 'b> {
    /// The status, 100 to 999.
    pub status: u16,
    /// The reason phrase; it may hold any byte from 0x80 on.
    pub reason: &'b [u8],
    /// The version of the sender.
    pub version: Version,
    /// All fields, in order.
    pub fields: &'s [Field<'b>],
    /// How the body is delimited.
    pub framing: Framing,
    /// Whether the sender lets the connection be used again.
    pub persistent: bool,
    /// The protocol that is spoken from now on: only with status 101.
    pub upgrade: Option<&'b str>,
    pub(super) classes: &'s [Class],
    pub(super) length_of_get: Option<u64>,
}

impl<'s, 'b> ResponseHead<'s, 'b> {
    /// Parses a complete head, as [`HeadScan`] finds it. All violations have status 502.
    pub fn parse(
        head: &'b [u8],
        storage: &'s mut Storage<'b>,
        request_was_head: bool,
    ) -> Result<Self, Violation> {
        Self::judge(head, storage, request_was_head).map_err(Violation::in_response)
    }

    fn judge(
        head: &'b [u8],
        storage: &'s mut Storage<'b>,
        request_was_head: bool,
    ) -> Result<Self, Violation> {
        let Storage { fields, classes } = storage;
        let mut response = httparse::Response::new(&mut []);
        let parsed =
            httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, head, fields);
        complete(head, parsed, response.headers.len())?;
        let (Some(status), Some(reason), Some(minor)) = (response.code, response.reason, response.version)
        else {
            return Err(Violation::malformed("incomplete status line"));
        };
        let (version, fields) = (Version::from_minor(minor), &*response.headers);
        if status < 100 {
            return Err(Violation::malformed("a status below 100"));
        }
        // RFC 9110 section 15.2: HTTP/1.0 has no 1xx.
        if status < 200 && version == Version::Http10 {
            return Err(Violation::malformed("an interim response of HTTP/1.0"));
        }
        let facts = Facts::gather(fields, classes)?;
        let body = facts.delimiters.response(version, status, request_was_head)?;
        let upgrade = facts.upgrade(version).filter(|_| status == 101);
        Ok(Self {
            status,
            reason: if reason.is_empty() { obsolete_reason(head) } else { reason.as_bytes() },
            version,
            fields,
            framing: body.framing,
            persistent: facts.persistent(version) && body.framing != Framing::UntilClose,
            upgrade: upgrade.and_then(|protocol| core::str::from_utf8(protocol).ok()),
            classes: classes.get(..fields.len()).unwrap_or_default(),
            length_of_get: body.length_of_get,
        })
    }

    /// The value of the first field with this name.
    pub fn field(&self, name: &str) -> Option<&'b [u8]> {
        fields_named(self.fields, name).next()
    }

    /// The values of all fields with this name.
    pub fn fields_named(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        fields_named(self.fields, name)
    }

    /// Whether another response to the same request follows: all of 1xx but 101 (RFC 9110 section 15.2).
    pub const fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }
}

/// What one look at each field tells.
#[derive(Default)]
struct Facts<'b> {
    connection: Connection,
    delimiters: Delimiters<'b>,
    hosts: usize,
    host: &'b [u8],
    expects: bool,
    trailers_welcome: bool,
    upgrades: usize,
    protocol: &'b [u8],
}

impl<'b> Facts<'b> {
    fn gather(fields: &[Field<'b>], classes: &mut [Class; MAX_FIELDS]) -> Result<Self, Violation> {
        let mut facts = Self::default();
        for (field, class) in fields.iter().zip(classes.iter_mut()) {
            *class = Class::of(field.name);
            match *class {
                Class::Connection => facts.connection.add(field.value)?,
                Class::ContentLength => facts.delimiters.content_length(field.value)?,
                Class::Expect => facts.expects = true,
                Class::Host => {
                    facts.hosts += 1;
                    facts.host = field.value;
                }
                Class::Te => facts.trailers_welcome |= has_member(field.value, "trailers"),
                Class::TransferEncoding => facts.delimiters.transfer_encoding(field.value)?,
                Class::Upgrade => {
                    facts.upgrades += 1;
                    facts.protocol = field.value;
                }
                Class::Authorization
                | Class::EndToEnd
                | Class::Forwarded
                | Class::HopByHop
                | Class::Slime
                | Class::XForwardedFor
                | Class::XForwardedHost
                | Class::XForwardedProto => {}
            }
        }
        facts.connection.mark(fields, classes);
        Ok(facts)
    }

    /// The value of `Host` (RFC 9112 section 3.2): exactly one in HTTP/1.1, at most one in HTTP/1.0. An empty one is legal.
    fn authority(&self, version: Version) -> Result<&'b str, Violation> {
        if self.hosts > 1 {
            return Err(Violation::malformed("several Host fields"));
        }
        if self.hosts == 0 && version == Version::Http11 {
            return Err(Violation::malformed("no Host field"));
        }
        match core::str::from_utf8(self.host) {
            Ok(host) if host.is_empty() || is_authority(host) => Ok(host),
            Ok(_) | Err(_) => Err(Violation::malformed("Host is not a host with an optional port")),
        }
    }

    fn persistent(&self, version: Version) -> bool {
        !self.connection.close && (version == Version::Http11 || self.connection.keep_alive)
    }

    /// RFC 9110 section 10.1.1: there is one expectation, and HTTP/1.0 has none.
    fn expect_continue(
        &self,
        fields: &[Field<'_>],
        classes: &[Class],
        version: Version,
    ) -> Result<bool, Violation> {
        if !self.expects || version == Version::Http10 {
            return Ok(false);
        }
        let mut expected = false;
        for (field, _) in fields.iter().zip(classes).filter(|(_, class)| **class == Class::Expect) {
            for expectation in members(field.value).filter(|expectation| !expectation.is_empty()) {
                if !expectation.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Violation::new(417, "the only expectation that can be met is 100-continue"));
                }
                expected = true;
            }
        }
        Ok(expected)
    }

    /// The `Upgrade` field, if it counts (RFC 9110 section 7.8). Several are not worth a guess.
    fn upgrade(&self, version: Version) -> Option<&'b [u8]> {
        (version == Version::Http11 && self.connection.upgrade && self.upgrades == 1).then_some(self.protocol)
    }
}

impl Version {
    const fn from_minor(minor: u8) -> Self {
        if minor == 0 { Self::Http10 } else { Self::Http11 }
    }
}

const TARGET_TOO_LONG: Violation = Violation::new(414, "the request target is longer than 8 KiB");

/// The protocol, if it may be offered to an upstream: anything but HTTP itself, over TLS or not, inside of which further
/// requests would pass unseen.
fn offered(protocol: &[u8]) -> Option<&str> {
    let text = core::str::from_utf8(protocol).ok()?;
    let mut parts = text.splitn(2, '/');
    let name = parts.next()?;
    let well_formed =
        is_token(name.as_bytes()) && parts.next().is_none_or(|version| is_token(version.as_bytes()));
    let hides_requests = ["h2c", "h2", "http", "tls"].iter().any(|other| name.eq_ignore_ascii_case(other));
    (well_formed && !hides_requests).then_some(text)
}

/// Whether httparse took the whole head, and all its line ends are CRLF: it takes LF for one, too. It accepts CR nowhere
/// but before LF, hence there are as many CR as lines exactly if no line ends in LF alone.
fn complete(
    head: &[u8],
    parsed: Result<httparse::Status<usize>, httparse::Error>,
    fields: usize,
) -> Result<(), Violation> {
    match parsed {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(httparse::Status::Complete(_) | httparse::Status::Partial) => {
            return Err(Violation::malformed("not one complete head"));
        }
        Err(httparse::Error::HeaderName) => return Err(Violation::malformed("malformed field name")),
        Err(httparse::Error::HeaderValue) => return Err(Violation::malformed("malformed field value")),
        Err(httparse::Error::NewLine) => return Err(Violation::malformed("malformed line end")),
        Err(httparse::Error::Status) => return Err(Violation::malformed("malformed status line")),
        Err(httparse::Error::Token) => return Err(Violation::malformed("malformed request line")),
        Err(httparse::Error::TooManyHeaders) => return Err(Violation::new(431, "more than 100 fields")),
        Err(httparse::Error::Version) => {
            return Err(if names_a_version(head) {
                Violation::new(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
            } else {
                Violation::malformed("malformed HTTP version")
            });
        }
    }
    // It drops empty lines before the start line, and they count here, unless they are bare LF.
    let lines = fields + 2;
    if head.first() == Some(&b'\n') || head.iter().filter(|&&byte| byte == b'\r').count() != lines {
        return Err(Violation::malformed("a line ends in LF without CR, or is empty"));
    }
    Ok(())
}

/// Whether a start line begins or ends in `HTTP/n.n`.
fn names_a_version(head: &[u8]) -> bool {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let version = line.last_chunk::<8>();
    matches!(version, Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// The reason phrase of a status line as it was sent. httparse gives none if it holds obs-text (RFC 9112 section 4).
fn obsolete_reason(head: &[u8]) -> &[u8] {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    line.get("HTTP/1.1 200 ".len()..).unwrap_or_default()
}

fn fields_named<'b>(fields: &[Field<'b>], name: &str) -> impl Iterator<Item = &'b [u8]> {
    fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
}

/// Where the first LF is. Eight bytes at a time: a head is looked at once more than anything else in it.
fn line_feed(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        // A byte of `zeroed` is zero where the word has LF; the lowest high bit that is left marks the first of them.
        let zeroed = u64::from_le_bytes(*word) ^ (ONES * u64::from(b'\n'));
        let marks = zeroed.wrapping_sub(ONES) & !zeroed & HIGHS;
        if marks != 0 {
            return Some(index * 8 + marks.trailing_zeros() as usize / 8);
        }
    }
    rest.iter().position(|&byte| byte == b'\n').map(|at| words.len() * 8 + at)
}

/// A place in a head. All of them are at most [`HEAD_LIMIT`].
fn offset(at: usize) -> u16 {
    u16::try_from(at).unwrap_or(u16::MAX)
}
