//! What is asked of the admin side: a request, found in bytes, and where it leads.

use alloc::string::String;
use alloc::vec::Vec;

use super::access::Access;
use super::answer::{Allowed, Answer};
use crate::config::Page;
use crate::proto::http1::framing::Framing;
use crate::proto::http1::head::{HeadScan, RequestHead};
use crate::proto::http1::start_line::Version;
use crate::proto::http1::storage::Storage;

/// The longest head in bytes.
const HEAD_LIMIT: usize = 8 * 1024;
/// The longest body in bytes. Nothing is read from it.
const BODY_LIMIT: u64 = 1024;

/// What was found in the bytes that came.
pub(super) enum Found<'b> {
    /// Not all of a request. `expects` if the rest of it is held back until it is asked for.
    Part { expects: bool },
    /// What cannot be read, or is too large; nothing after it can be read either.
    Wrong(Answer),
    /// A request with its body.
    Whole(Asked<'b>),
}

/// A request.
pub(super) struct Asked<'b> {
    /// In bytes, with its body.
    pub(super) length: usize,
    pub(super) version: Version,
    /// Whether nothing but the head is wanted.
    pub(super) head_only: bool,
    /// Whether the connection is kept.
    pub(super) is_kept: bool,
    is_get: bool,
    is_post: bool,
    path: &'b str,
    query: &'b str,
    /// What it calls us: host and port.
    pub(super) authority: &'b str,
    pub(super) origin: Option<&'b [u8]>,
    pub(super) authorization: Option<&'b [u8]>,
    content_type: Option<&'b [u8]>,
    accept_encoding: Option<&'b [u8]>,
    if_none_match: Option<&'b [u8]>,
    /// It has come through a proxy.
    pub(super) is_forwarded: bool,
}

/// What a request leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/`: the page, unless the client has it already.
    Page { has_it: bool },
    /// `/api/status`, perhaps with all rows.
    Status { all: bool },
    /// `/healthz`.
    Health,
    /// `/readyz`, perhaps for a number of agents.
    Ready { agents: Option<usize> },
    /// `/metrics`.
    Metrics,
    /// An action.
    Act(Act),
}

/// What is to be done. What it is done to is as it was named, without escapes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// `/api/agents/{id}/pause`, or `resume`.
    Agent { id: String, pause: bool },
    /// `/api/names/{name}/pause`, or `resume`.
    Name { name: String, pause: bool },
    /// `/api/queue/pause`, or `resume`.
    Queue { pause: bool },
    /// `/api/exchanges/{id}/cancel`.
    Cancel { id: String },
}

/// The fields by which a proxy shows that it had the request.
const FORWARDED: [&str; 6] =
    ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via"];

/// The request that `input` begins with.
pub(super) fn find<'b>(scan: &mut HeadScan, input: &'b [u8]) -> Found<'b> {
    let mut storage = Storage::default();
    // A head whose body is awaited is looked for once more.
    let mut trial = *scan;
    let too_long = || Found::Wrong(Answer::refusal(431, "the request head is longer than 8 KiB"));
    let head = match RequestHead::find(&mut trial, input, &mut storage) {
        Ok(Some(head)) if head.length > HEAD_LIMIT => return too_long(),
        Ok(None) if input.len() > HEAD_LIMIT => return too_long(),
        Ok(Some(head)) => head,
        Ok(None) => {
            *scan = trial;
            return Found::Part { expects: false };
        }
        Err(violation) if matches!(violation.status, 414 | 431) => return too_long(),
        Err(violation) => return Found::Wrong(Answer::refusal(400, violation.detail)),
    };
    let body = match head.framing {
        Framing::None => 0,
        Framing::Length(length) if length <= BODY_LIMIT => usize::try_from(length).unwrap_or(usize::MAX),
        Framing::Length(_) | Framing::Chunked | Framing::UntilClose => {
            let detail = "the request body is longer than 1 KiB, or its length is not known";
            return Found::Wrong(Answer::refusal(413, detail));
        }
    };
    let length = head.length.saturating_add(body);
    if input.len() < length {
        return Found::Part { expects: head.expect_continue };
    }
    let path = head.path();
    let target = head.target;
    Found::Whole(Asked {
        length,
        version: head.version,
        head_only: head.method.as_str() == "HEAD",
        is_kept: head.persistent,
        is_get: matches!(head.method.as_str(), "GET" | "HEAD"),
        is_post: head.method.as_str() == "POST",
        path,
        query: target.split_once('?').map_or("", |(_, query)| query),
        authority: head.authority(),
        origin: head.fields.first("Origin"),
        authorization: head.fields.first("Authorization"),
        content_type: head.fields.first("Content-Type"),
        accept_encoding: head.fields.first("Accept-Encoding"),
        if_none_match: head.fields.first("If-None-Match"),
        is_forwarded: FORWARDED.iter().any(|name| head.fields.first(name).is_some()),
    })
}

impl Asked<'_> {
    /// Whether anybody may ask it: a balancer has no password.
    pub(super) fn is_probe(&self) -> bool {
        matches!(self.path, "/healthz" | "/readyz")
    }

    /// What it leads to.
    pub(super) fn route(&self, page: Option<Page>, access: Access) -> Result<Route, Answer> {
        if let Some(act) = act(self.path) {
            return self.check_act(access).and_then(|()| act.map(Route::Act));
        }
        let route = match (self.path, page) {
            ("/", Some(page)) if self.is_get => self.page(page)?,
            ("/", Some(_)) => Route::Page { has_it: false },
            ("/api/status", _) => Route::Status { all: self.query.split('&').any(|part| part == "all=1") },
            ("/healthz", _) => Route::Health,
            ("/readyz", _) => Route::Ready { agents: self.agents()? },
            ("/metrics", _) => Route::Metrics,
            _ => {
                let detail =
                    "there is /, /api/status, /healthz, /readyz and /metrics, and actions below /api/";
                return Err(Answer::refusal(404, detail));
            }
        };
        if self.is_get { Ok(route) } else { Err(Answer::not_allowed(Allowed::Read)) }
    }

    /// Whether this may be an action.
    fn check_act(&self, access: Access) -> Result<(), Answer> {
        // Pages of others can send a form, but no JSON, without being asked about it first.
        let media_type = self.content_type.map(|it| it.split(|byte| *byte == b';').next().unwrap_or(it));
        let is_json = media_type.is_some_and(|it| it.trim_ascii().eq_ignore_ascii_case(b"application/json"));
        if !self.is_post {
            Err(Answer::not_allowed(Allowed::Post))
        } else if access != Access::All {
            Err(Answer::refusal(403, "whoever has this password may look and not act"))
        } else if !is_json {
            Err(Answer::refusal(415, "an action needs Content-Type: application/json"))
        } else {
            Ok(())
        }
    }

    fn page(&self, page: Page) -> Result<Route, Answer> {
        if self.accept_encoding.is_some_and(|accepted| !takes_gzip(accepted)) {
            return Err(Answer::refusal(
                406,
                "the page is only there as gzip, which the client does not take",
            ));
        }
        // A weak comparison (RFC 9110 section 13.1.2).
        let has_it = self.if_none_match.is_some_and(|known| {
            let mut tags = known.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            tags.any(|tag| tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == page.etag.as_bytes())
        });
        Ok(Route::Page { has_it })
    }

    /// The number of `?agents=N`. Other parameters mean nothing.
    fn agents(&self) -> Result<Option<usize>, Answer> {
        let Some(digits) = self.query.split('&').find_map(|part| part.strip_prefix("agents=")) else {
            return Ok(None);
        };
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        match digits.parse() {
            Ok(agents) if is_number => Ok(Some(agents)),
            Ok(_) | Err(_) => Err(Answer::refusal(400, "agents= must be a number")),
        }
    }
}

/// The action of a path, if it is one.
fn act(path: &str) -> Option<Result<Act, Answer>> {
    let mut parts = path.strip_prefix("/api/")?.split('/');
    let (what, parts) = (parts.next()?, parts.collect::<Vec<_>>());
    let pause = |verb: &str| match verb {
        "pause" => Some(true),
        "resume" => Some(false),
        _ => None,
    };
    let named = |text: &str, make: &dyn Fn(String) -> Act| {
        let name = unescaped(text).ok_or_else(|| Answer::refusal(400, "this is no name in UTF-8"));
        name.map(make)
    };
    match (what, parts.as_slice()) {
        ("queue", [verb]) => pause(verb).map(|pause| Ok(Act::Queue { pause })),
        ("agents", [id, verb]) => pause(verb).map(|pause| named(id, &|id| Act::Agent { id, pause })),
        ("names", [name, verb]) => pause(verb).map(|pause| named(name, &|name| Act::Name { name, pause })),
        ("exchanges", [id, "cancel"]) => Some(named(id, &|id| Act::Cancel { id })),
        _ => None,
    }
}

/// A part of a path, without its percent-encoding (RFC 3986 section 2.1); none if that is broken, or there is
/// nothing.
fn unescaped(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok().filter(|text| !text.is_empty())
}

/// Whether an `Accept-Encoding` allows gzip (RFC 9110 section 12.5.3).
fn takes_gzip(accepted: &[u8]) -> bool {
    let find = |name: &[u8]| {
        let mut codings = accepted.split(|byte| *byte == b',').map(|coding| {
            let mut parts = coding.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
        });
        let (_, weight) = codings.find(|(coding, _)| coding.eq_ignore_ascii_case(name))?;
        let is_weight = matches!(weight, [b'q' | b'Q', b'=', ..]);
        Some(!is_weight || weight.iter().any(|byte| matches!(byte, b'1'..=b'9')))
    };
    find(b"gzip").or_else(|| find(b"x-gzip")).or_else(|| find(b"*")).unwrap_or(false)
}
