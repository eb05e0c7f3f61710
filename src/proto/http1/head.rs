//! Message heads (RFC 9112 sections 2 to 5): found in a stream of bytes, parsed once they are complete, and
//! judged.
//!
//! Nearly all heads come in one piece. They are parsed as they stand; only if that fails, because it is not
//! the whole head or because something is wrong with it, the head's end is looked for, from then on without
//! looking at a byte twice.
//!
//! httparse takes the bytes apart; it is laxer than we want to be in one respect, bare LF, which is caught
//! here. How the body ends is decided in [`super::framing`], what a field is to us in [`super::fields`].

use alloc::borrow::Cow;
use alloc::string::String;

pub use super::scan::HeadScan;

use super::facts::Facts;
use super::fields::{Class, Classes, Field, Fields, is_received_by, is_token, is_token_byte, members};
use super::framing::Framing;
use super::limits::{MAX_FIELDS, TARGET_LIMIT, TARGET_TOO_LONG};
use super::reading::{self, Reading};
use super::start_line::{Method, TargetForm, Version};
use super::storage::{LenientRoom, Room, Storage};
use super::target::Target;
use super::url::{Scheme, first_authority};
use crate::proto::error::Violation;

/// A request head that can be read in one way only.
#[derive(Clone, Debug)]
pub struct RequestHead<'s, 'b> {
    /// How many bytes the head has, with the empty line that ends it.
    pub length: usize,
    /// What is asked for.
    pub method: Method<'b>,
    /// The target as it was sent: visible ASCII without `#`, at most [`TARGET_LIMIT`].
    pub target: &'b str,
    /// Its form.
    pub form: TargetForm,
    /// The version of the sender.
    pub version: Version,
    /// All fields, in order.
    pub fields: Fields<'s, 'b>,
    /// How the body is delimited; never [`Framing::UntilClose`].
    pub framing: Framing,
    /// Whether the sender wants to use the connection again (RFC 9112 section 9.3).
    pub persistent: bool,
    /// The protocol that the sender would rather speak: the first one of its `Upgrade` field that may be
    /// offered on. None in HTTP/1.0, or if `Connection` does not say so too (RFC 9110 section 7.8).
    pub upgrade: Option<&'b str>,
    /// Whether the sender holds its body back until it is asked for it (RFC 9110 section 10.1.1).
    pub expect_continue: bool,
    /// Whether its credentials authenticate the connection that it goes out on, and with it whatever follows
    /// there.
    pub binds_connection: bool,
    pub(super) trailers_welcome: bool,
    has_via: bool,
    has_request_id: bool,
    authority: &'b str,
    path_and_query: &'b str,
}

impl<'s, 'b> RequestHead<'s, 'b> {
    /// The head that `input` begins with, once it is complete.
    ///
    /// # Errors
    /// As [`HeadScan::advance`]; what makes a head one that could be read in more than one way, or that a
    /// gateway refuses.
    pub fn find(
        scan: &mut HeadScan,
        input: &'b [u8],
        storage: &'s mut Storage<'b>,
    ) -> Result<Option<Self>, Violation> {
        if let Some(likely) = scan.likely(input)
            && let Ok(head) = Self::judge(likely, &mut storage.first)
        {
            return Ok(Some(head));
        }
        let Some(length) = scan.advance(input)? else { return Ok(None) };
        Self::judge(input.get(..length).unwrap_or(input), &mut storage.second).map(Some)
    }

    /// These bytes, which are one head from beginning to end, as [`HeadScan::advance`] finds it.
    ///
    /// # Errors
    /// What [`Self::find`] says of such a head, or that they are more or less than one.
    pub fn parse(head: &'b [u8], storage: &'s mut Storage<'b>) -> Result<Self, Violation> {
        let found = Self::judge(head, &mut storage.second)?;
        if found.length == head.len() { Ok(found) } else { Err(Violation::malformed("more than a head")) }
    }

    /// The head that `input` begins with; it is an error if it is not complete.
    fn judge(input: &'b [u8], room: &'s mut Room<'b>) -> Result<Self, Violation> {
        let Room { fields, classes, limit } = room;
        let fields = fields.get_mut(..*limit).unwrap_or_default();
        let mut request = httparse::Request::new(&mut []);
        let parsed = request.parse_with_uninit_headers(input, fields);
        let length = complete(input, parsed, request.headers.len())?;
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
        let facts = Facts::gather(fields, classes, Reading::Strict)?;
        let expect_continue = facts.expect_continue(fields, classes, version)?;
        let host = facts.authority(version)?;
        let framing = facts.delimiters.request(version)?;
        Ok(Self {
            length,
            method,
            target,
            form: parts.form,
            version,
            fields: Fields::new(fields, classes),
            framing,
            persistent: facts.persistent(version),
            upgrade: facts.upgrade(version).and_then(|protocols| members(protocols).find_map(offered)),
            expect_continue: expect_continue && framing != Framing::None && framing != Framing::Length(0),
            binds_connection: facts.binds_connection,
            trailers_welcome: facts.trailers_welcome && version == Version::Http11,
            has_via: facts.has_via,
            has_request_id: facts.has_request_id,
            authority: if parts.form == TargetForm::Absolute { parts.authority } else { host },
            path_and_query: parts.path_and_query,
        })
    }

    /// Whether a proxy of this name has had it before (RFC 9110 section 7.6.3).
    pub fn came_by(&self, name: &str) -> bool {
        self.has_via
            && self
                .fields
                .classified()
                .any(|(field, class)| class == Class::Via && is_received_by(field.value, name))
    }

    /// How many more recipients it may have: `Max-Forwards`, which counts in TRACE and OPTIONS (RFC 9110
    /// section 7.6.2).
    pub fn max_forwards(&self) -> Option<u64> {
        if !self.method.is_options() && !self.method.is_trace() {
            return None;
        }
        let fields = self.fields.classified().filter(|(_, class)| *class == Class::MaxForwards);
        fields.filter_map(|(field, _)| max_forwards(field.value)).min()
    }

    /// Whether it has an `X-Request-Id`, be it one that can be kept or not.
    pub(super) fn has_request_id(&self) -> bool {
        self.has_request_id
    }

    /// Host and port that the request is meant for: those of an absolute-form target, else those of `Host`
    /// (RFC 9112 section 3.2.2). Empty if the sender left them out.
    pub fn authority(&self) -> &'b str {
        self.authority
    }

    /// Scheme and authority by which the application knows the service: as the proxies before it say, which
    /// the hub has believed. Nothing if nobody said an authority.
    pub fn write_origin(&self, out: &mut String) {
        let (mut scheme, mut authority) = (Scheme::Http, self.authority);
        for (field, class) in self.fields.classified() {
            if class == Class::XForwardedHost {
                authority = first_authority(field.value).unwrap_or(authority);
            } else if class == Class::XForwardedProto
                && members(field.value).next().is_some_and(|it| it.eq_ignore_ascii_case(b"https"))
            {
                scheme = Scheme::Https;
            }
        }
        if !authority.is_empty() {
            out.push_str(scheme.prefix());
            out.push_str(authority);
        }
    }

    /// The target in origin-form: the path, never empty, and the query; or `*`. It is as sent, save that an
    /// absolute-form target with an empty path gets its slash (RFC 9112 section 3.2.1).
    pub fn path_and_query(&self) -> Cow<'b, str> {
        match self.path_and_query {
            "" => Cow::Borrowed("/"),
            text if text.starts_with('?') => Cow::Owned(format!("/{text}")),
            text => Cow::Borrowed(text),
        }
    }

    /// The path without the query, never empty; or `*`.
    pub fn path(&self) -> &'b str {
        let end = self.path_and_query.bytes().position(|byte| byte == b'?');
        match end.and_then(|end| self.path_and_query.get(..end)).unwrap_or(self.path_and_query) {
            "" => "/",
            path => path,
        }
    }
}

/// A response head that can be read in one way only.
#[derive(Clone, Debug)]
pub struct ResponseHead<'s, 'b> {
    /// How many bytes the head has, with the empty line that ends it.
    pub length: usize,
    /// The status, 100 to 999.
    pub status: u16,
    /// The reason phrase; it may hold any byte from 0x80 on.
    pub reason: &'b [u8],
    /// The version of the sender.
    pub version: Version,
    /// All fields, in order.
    pub fields: Fields<'s, 'b>,
    /// How the body is delimited.
    pub framing: Framing,
    /// Whether the sender lets the connection be used again.
    pub persistent: bool,
    /// The protocol that is spoken from now on: only with status 101.
    pub upgrade: Option<&'b str>,
    /// Whether it asks for credentials that authenticate the connection, and with it whatever follows there.
    pub binds_connection: bool,
    pub(super) length_of_get: Option<u64>,
    pub(super) names_upgrades: bool,
    pub(super) is_folded: bool,
}

/// A response head as a parser leaves it.
struct Parsed<'s, 'b> {
    length: usize,
    status: u16,
    reason: &'b [u8],
    version: Version,
    fields: &'s [Field<'b>],
    is_folded: bool,
}

impl<'s, 'b> ResponseHead<'s, 'b> {
    /// The head that `input` begins with, once it is complete.
    ///
    /// # Errors
    /// As [`RequestHead::find`]; all with status 502.
    pub fn find(
        scan: &mut HeadScan,
        input: &'b [u8],
        storage: &'s mut Storage<'b>,
        request_was_head: bool,
    ) -> Result<Option<Self>, Violation> {
        if let Some(likely) = scan.likely(input)
            && let Ok(head) = Self::judge(likely, &mut storage.first, request_was_head)
        {
            return Ok(Some(head));
        }
        let Some(length) = scan.advance(input).map_err(Violation::in_response)? else { return Ok(None) };
        let input = input.get(..length).unwrap_or(input);
        let head = match Self::judge(input, &mut storage.second, request_was_head) {
            Err(_) if scan.reading() == Reading::Lenient => {
                Self::judge_leniently(input, &mut storage.lenient, request_was_head)
            }
            head => head,
        };
        head.map(Some).map_err(Violation::in_response)
    }

    /// Status and length of the head that `input` begins with, once it is complete, whatever its fields say.
    /// For answers to CONNECT: what they say of a body means nothing (RFC 9110 section 9.3.6).
    ///
    /// # Errors
    /// As [`ResponseHead::find`].
    pub fn find_status(scan: &mut HeadScan, input: &[u8]) -> Result<Option<(u16, usize)>, Violation> {
        let Some(length) = scan.advance(input).map_err(Violation::in_response)? else { return Ok(None) };
        let line = reading::status_line(input.get(..length).unwrap_or(input));
        line.map(|line| Some((line.status, length))).map_err(Violation::in_response)
    }

    /// These bytes, which are one head from beginning to end, as [`HeadScan::advance`] finds it.
    ///
    /// # Errors
    /// What [`Self::find`] says of such a head, or that they are more or less than one.
    pub fn parse(
        head: &'b [u8],
        storage: &'s mut Storage<'b>,
        request_was_head: bool,
    ) -> Result<Self, Violation> {
        let found =
            Self::judge(head, &mut storage.second, request_was_head).map_err(Violation::in_response)?;
        if found.length == head.len() { Ok(found) } else { Err(Violation::new(502, "more than a head")) }
    }

    /// The head that `input` begins with; it is an error if it is not complete.
    fn judge(input: &'b [u8], room: &'s mut Room<'b>, request_was_head: bool) -> Result<Self, Violation> {
        let Room { fields, classes, limit } = room;
        let fields = fields.get_mut(..*limit).unwrap_or_default();
        let mut response = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut response,
            input,
            fields,
        );
        let length = complete(input, parsed, response.headers.len())?;
        let (Some(status), Some(reason), Some(minor)) = (response.code, response.reason, response.version)
        else {
            return Err(Violation::malformed("incomplete status line"));
        };
        Self::of(
            Parsed {
                length,
                status,
                reason: if reason.is_empty() { obsolete_reason(input) } else { reason.as_bytes() },
                version: Version::from_minor(minor),
                fields: response.headers,
                is_folded: false,
            },
            classes,
            Reading::Strict,
            request_was_head,
        )
    }

    /// The head that `input` is, in whatever form it is written.
    fn judge_leniently(
        input: &'b [u8],
        room: &'s mut LenientRoom<'b>,
        request_was_head: bool,
    ) -> Result<Self, Violation> {
        let LenientRoom { fields, classes } = room;
        let (line, is_folded) = reading::response_head(input, MAX_FIELDS, fields)?;
        Self::of(
            Parsed {
                length: input.len(),
                status: line.status,
                reason: line.reason,
                version: line.version,
                fields,
                is_folded,
            },
            classes,
            Reading::Lenient,
            request_was_head,
        )
    }

    fn of(
        parsed: Parsed<'s, 'b>,
        classes: &'s mut Classes,
        reading: Reading,
        request_was_head: bool,
    ) -> Result<Self, Violation> {
        let Parsed { length, status, reason, version, fields, is_folded } = parsed;
        if status < 100 {
            return Err(Violation::malformed("a status below 100"));
        }
        // RFC 9110 section 15.2: HTTP/1.0 has no 1xx.
        if status < 200 && version == Version::Http10 && reading == Reading::Strict {
            return Err(Violation::malformed("an interim response of HTTP/1.0"));
        }
        let facts = Facts::gather(fields, classes, reading)?;
        let is_plain = |(field, class): (&Field<'_>, &Class)| {
            matches!(class, Class::EndToEnd | Class::Challenge | Class::RequestId)
                || !field.value.contains(&b'\n')
        };
        // RFC 9112 section 5.2 has a proxy unfold what it passes on; what it heeds itself may mean anything.
        if is_folded && !fields.iter().zip(classes.iter()).all(is_plain) {
            return Err(Violation::malformed("a folded line in a field that frames or routes the message"));
        }
        let body = facts.delimiters.response(version, status, request_was_head)?;
        let upgrade = facts.upgrade(version).filter(|_| status == 101);
        Ok(Self {
            length,
            status,
            reason,
            version,
            fields: Fields::new(fields, classes),
            framing: body.framing,
            persistent: facts.persistent(version) && body.framing != Framing::UntilClose && !body.closes,
            upgrade: upgrade.and_then(|protocol| core::str::from_utf8(protocol).ok()),
            binds_connection: facts.binds_connection,
            length_of_get: body.length_of_get,
            names_upgrades: status == 426 && facts.upgrades > 0,
            is_folded,
        })
    }

    /// Whether another response to the same request follows: all of 1xx but 101 (RFC 9110 section 15.2).
    pub const fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }
}

/// A number of recipients: plain digits. A number beyond 64 bits is as good as the largest.
pub(super) fn max_forwards(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(
        value
            .iter()
            .fold(0u64, |number, digit| number.saturating_mul(10).saturating_add(u64::from(digit - b'0'))),
    )
}

/// The protocol, if it may be offered to an upstream: anything but HTTP itself, over TLS or not, inside of
/// which further requests would pass unseen.
fn offered(protocol: &[u8]) -> Option<&str> {
    let text = core::str::from_utf8(protocol).ok()?;
    let mut parts = text.splitn(2, '/');
    let name = parts.next()?;
    let well_formed =
        is_token(name.as_bytes()) && parts.next().is_none_or(|version| is_token(version.as_bytes()));
    let hides_requests = ["h2c", "h2", "http", "tls"].iter().any(|other| name.eq_ignore_ascii_case(other));
    (well_formed && !hides_requests).then_some(text)
}

/// The length of the head that httparse has found, if all its line ends are CRLF: httparse takes LF for one,
/// too. It accepts CR nowhere but before LF, hence there are as many CR as lines exactly if no line ends in
/// LF alone.
fn complete(
    input: &[u8],
    parsed: Result<httparse::Status<usize>, httparse::Error>,
    fields: usize,
) -> Result<usize, Violation> {
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Err(Violation::malformed("not one complete head")),
        Err(httparse::Error::HeaderName) => return Err(Violation::malformed("malformed field name")),
        Err(httparse::Error::HeaderValue) => return Err(Violation::malformed("malformed field value")),
        Err(httparse::Error::NewLine) => return Err(Violation::malformed("malformed line end")),
        Err(httparse::Error::Status) => return Err(Violation::malformed("malformed status line")),
        Err(httparse::Error::Token) => return Err(Violation::malformed("malformed request line")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Violation::new(431, "more fields than the 100 that are allowed"));
        }
        Err(httparse::Error::Version) => {
            return Err(if names_a_version(input) {
                Violation::new(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
            } else {
                Violation::malformed("malformed HTTP version")
            });
        }
    };
    let head = input.get(..length).unwrap_or(input);
    // It drops empty lines before the start line.
    let lines = fields + 2;
    if !head.first().copied().is_some_and(is_token_byte) || carriage_returns(head) != lines {
        return Err(Violation::malformed("a line ends in LF without CR, or is empty"));
    }
    Ok(length)
}

/// How many CR there are. Counted in single bytes, which the compiler does sixteen at a time.
fn carriage_returns(head: &[u8]) -> usize {
    let few = |part: &[u8]| part.iter().map(|&byte| u8::from(byte == b'\r')).sum::<u8>();
    head.chunks(u8::MAX.into()).map(|part| usize::from(few(part))).sum()
}

/// Whether a request line is well-formed but for a version that is not ours.
fn names_a_version(head: &[u8]) -> bool {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let version = line.splitn(3, |&byte| byte == b' ').nth(2).unwrap_or_default();
    matches!(version.strip_prefix(b"HTTP/"), Some([b'0'..=b'9', b'.', b'0'..=b'9']))
}

/// The reason phrase of a status line as it was sent. httparse gives none if it holds obs-text (RFC 9112
/// section 4).
fn obsolete_reason(head: &[u8]) -> &[u8] {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    line.get("HTTP/1.1 200 ".len()..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::testing::every_split;

    fn with_request<T>(head: &str, look: impl FnOnce(Result<RequestHead<'_, '_>, Violation>) -> T) -> T {
        look(RequestHead::parse(head.as_bytes(), &mut Storage::new()))
    }

    /// A request with these fields, each with its CRLF.
    fn request(line: &str, fields: &str) -> String {
        format!("{line}\r\n{fields}\r\n")
    }

    #[test]
    fn a_request_says_all_it_means() {
        let text = request(
            "POST /v1/chat?stream=1 HTTP/1.1",
            "Host: a:80\r\nSlime-Scope: llm\r\ncontent-length: 7\r\nslime-scope: b\r\nX: \r\n",
        );
        with_request(&text, |head| {
            let head = head.unwrap();
            assert_eq!((head.method.as_str(), head.target), ("POST", "/v1/chat?stream=1"));
            assert_eq!((head.path(), &*head.path_and_query()), ("/v1/chat", "/v1/chat?stream=1"));
            assert_eq!((head.form, head.version), (TargetForm::Origin, Version::Http11));
            assert_eq!((head.authority(), head.framing), ("a:80", Framing::Length(7)));
            assert_eq!(head.fields.first("SLIME-scope"), Some(b"llm".as_slice()));
            assert_eq!(head.fields.named("Slime-Scope").count(), 2);
            assert_eq!((head.fields.first("x"), head.fields.first("y")), (Some(b"".as_slice()), None));
            assert_eq!((head.persistent, head.upgrade, head.expect_continue), (true, None, false));
        });
    }

    #[test]
    fn targets_give_path_and_authority() {
        for (target, path, path_and_query, authority) in [
            ("/", "/", "/", "h"),
            ("/?a/b", "/", "/?a/b", "h"),
            ("//x/y", "//x/y", "//x/y", "h"),
            ("http://b", "/", "/", "b"),
            ("http://b/", "/", "/", "b"),
            ("http://b?q", "/", "/?q", "b"),
            ("HTTP://b:1/c?q", "/c", "/c?q", "b:1"),
            ("https://[::1]/c", "/c", "/c", "[::1]"),
        ] {
            with_request(&request(&format!("GET {target} HTTP/1.1"), "Host: h\r\n"), |head| {
                let head = head.unwrap();
                assert_eq!(
                    (head.path(), &*head.path_and_query(), head.authority()),
                    (path, path_and_query, authority)
                );
            });
        }
        with_request(&request("OPTIONS * HTTP/1.1", "Host: h\r\n"), |head| {
            let head = head.unwrap();
            assert_eq!((head.form, head.path(), &*head.path_and_query()), (TargetForm::Asterisk, "*", "*"));
        });
        let long = "a".repeat(600);
        with_request(&request("GET / HTTP/1.1", &format!("Host: {long}\r\n")), |head| {
            assert_eq!(head.unwrap_err().status, 400);
        });
    }

    #[test]
    fn persistence_depends_on_version_and_options() {
        for (version, fields, persistent) in [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: a, CLOSE\r\n", false),
            ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
            ("1.0", "Proxy-Connection: keep-alive\r\n", false),
        ] {
            with_request(
                &request(&format!("GET / HTTP/{version}"), &format!("Host: h\r\n{fields}")),
                |head| {
                    assert_eq!(head.unwrap().persistent, persistent, "{version} {fields}");
                },
            );
            let response = format!("HTTP/{version} 200 OK\r\nContent-Length: 0\r\n{fields}\r\n");
            let head =
                ResponseHead::parse(response.as_bytes(), &mut Storage::new(), false).unwrap().persistent;
            assert_eq!(head, persistent);
        }
        let until_close = b"HTTP/1.1 200 OK\r\n\r\n";
        assert!(!ResponseHead::parse(until_close, &mut Storage::new(), false).unwrap().persistent);
        assert!(ResponseHead::parse(until_close, &mut Storage::new(), true).unwrap().persistent);
    }

    #[test]
    fn upgrades_count_only_when_they_are_meant() {
        for (version, fields, upgrade) in [
            ("1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n", Some("websocket")),
            ("1.1", "Connection: keep-alive, upgrade\r\nUpgrade: slime/1\r\n", Some("slime/1")),
            ("1.1", "Connection: Upgrade\r\nUpgrade: h2c, , TLS/1.0, HTTP/3, a/b/c, x/2, y\r\n", Some("x/2")),
            ("1.1", "Connection: Upgrade\r\nUpgrade: h2c\r\n", None),
            ("1.1", "Connection: Upgrade\r\n", None),
            ("1.1", "Upgrade: websocket\r\n", None),
            ("1.0", "Connection: Upgrade\r\nUpgrade: websocket\r\n", None),
        ] {
            with_request(
                &request(&format!("GET / HTTP/{version}"), &format!("Host: h\r\n{fields}")),
                |head| {
                    assert_eq!(head.unwrap().upgrade, upgrade, "{fields}");
                },
            );
        }
        for (status, fields, upgrade) in [
            (101, "Connection: upgrade\r\nUpgrade: websocket\r\n", Some("websocket")),
            (101, "Upgrade: websocket\r\n", None),
            (101, "", None),
            (426, "Connection: upgrade\r\nUpgrade: websocket\r\n", None),
        ] {
            let response = format!("HTTP/1.1 {status} X\r\n{fields}\r\n");
            let mut storage = Storage::new();
            let head = ResponseHead::parse(response.as_bytes(), &mut storage, false).unwrap();
            assert_eq!((head.upgrade, head.is_interim()), (upgrade, false));
        }
    }

    #[test]
    fn a_body_is_held_back_only_if_there_is_one() {
        for (version, fields, expected) in [
            ("1.1", "Expect: 100-continue\r\nContent-Length: 1\r\n", true),
            ("1.1", "Expect: , 100-CONTINUE\r\nTransfer-Encoding: chunked\r\n", true),
            ("1.1", "Expect: 100-continue\r\n", false),
            ("1.1", "Expect: 100-continue\r\nContent-Length: 0\r\n", false),
            ("1.1", "Expect:\r\nContent-Length: 1\r\n", false),
            ("1.0", "Expect: 100-continue\r\nContent-Length: 1\r\n", false),
        ] {
            with_request(
                &request(&format!("PUT / HTTP/{version}"), &format!("Host: h\r\n{fields}")),
                |head| {
                    assert_eq!(head.unwrap().expect_continue, expected, "{fields}");
                },
            );
        }
    }

    #[test]
    fn idempotent_methods_are_those_of_the_rfc() {
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
            assert!(Method(method).is_idempotent());
        }
        for method in ["POST", "PATCH", "get", "PROPFIND"] {
            assert!(!Method(method).is_idempotent());
        }
    }

    #[test]
    fn a_head_is_found_in_one_look_as_in_many() {
        let field = format!("X: {}\r\n", "y".repeat(3000));
        for (head, status) in [
            ("GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 0),
            (format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", field.repeat(4)), 0),
            (format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", field.repeat(6)), 431),
            (format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "y".repeat(8100)), 0),
            (format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "y".repeat(8200)), 414),
            ("GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n".to_owned(), 400),
            ("GET / HTTP/1.1\r\nHost: h\n\r\n".to_owned(), 400),
            ("GET / HTTP/1.1\nHost: h\r\n\r\n".to_owned(), 400),
            ("\r\nGET / HTTP/1.1\nHost: h\r\n\r\n".to_owned(), 400),
            ("GET / HTTP/2.0\r\nHost: h\r\n\r\n".to_owned(), 505),
        ] {
            let found = every_split(head.as_bytes(), b"GET / HTTP/1.1\r\nHost: i\r\n\r\n", |pieces| {
                let (mut scan, mut input, mut found) = (HeadScan::default(), Vec::new(), Ok(None));
                for piece in pieces {
                    input.extend_from_slice(piece);
                    found = RequestHead::find(&mut scan, &input, &mut Storage::new())
                        .map(|head| head.map(|head| (head.length, head.authority().to_owned())))
                        .map_err(|violation| violation.status);
                    if found != Ok(None) {
                        break;
                    }
                }
                found
            });
            let expected = if status == 0 { Ok(Some((head.len(), "h".to_owned()))) } else { Err(status) };
            assert_eq!(found, expected, "{head}");
        }
    }

    #[test]
    fn only_one_complete_head_is_parsed() {
        let whole = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        for head in [
            &whole[..whole.len() - 1],
            &format!("{whole}x"),
            &format!("\r\n{whole}"),
            &format!("\n{whole}"),
            "",
        ] {
            with_request(head, |head| assert_eq!(head.unwrap_err().status, 400));
        }
    }

    #[test]
    fn a_tunnel_has_room_for_what_the_hub_adds() {
        let head = request("GET / HTTP/1.1", &format!("Host: h\r\n{}", "X: y\r\n".repeat(MAX_FIELDS)));
        assert_eq!(RequestHead::parse(head.as_bytes(), &mut Storage::new()).unwrap_err().status, 431);
        assert_eq!(
            RequestHead::parse(head.as_bytes(), &mut Storage::on_tunnel()).unwrap().fields.len(),
            MAX_FIELDS + 1
        );
    }

    #[test]
    fn interim_responses_are_told_apart() {
        for (status, interim) in
            [(100, true), (102, true), (103, true), (199, true), (101, false), (200, false)]
        {
            let response = format!("HTTP/1.1 {status} X\r\n\r\n");
            let mut storage = Storage::new();
            let head = ResponseHead::parse(response.as_bytes(), &mut storage, false).unwrap();
            assert_eq!(head.is_interim(), interim);
        }
    }
}
