//! How the admin side answers: heads with what all of them have, problem details (RFC 9457), chunks.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

use crate::config::Page;
use crate::proto::http1::start_line::Version;

/// What every answer has: nothing of it is for other pages, caches, or guesses.
const COMMON: &str = "X-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\nReferrer-Policy: no-referrer\r\n\
                      Cross-Origin-Opener-Policy: same-origin\r\nCross-Origin-Resource-Policy: same-origin\r\n";

/// What is answered.
#[derive(Debug)]
pub(super) struct Answer {
    status: u16,
    content_type: &'static str,
    /// A field that only this answer has, with its line end.
    field: &'static str,
    body: Body,
}

#[derive(Debug)]
enum Body {
    /// All of it.
    Whole(Cow<'static, str>),
    /// The page, or that the client has it already.
    Page(Page),
    /// It follows, framed like this.
    Follows(Framing),
}

/// What a path can be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowed {
    /// Reading.
    Read,
    /// Acting.
    Post,
}

/// How the end of a body is told whose length is not known when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// By a last chunk (RFC 9112 section 7.1): a document that was cut does not look whole.
    Chunked,
    /// By the end of the connection, which is all that HTTP/1.0 knows.
    UntilClose,
}

impl Answer {
    /// A text of one line or a few.
    pub(super) fn text(status: u16, body: Cow<'static, str>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", field: "", body: Body::Whole(body) }
    }

    /// An error.
    pub(super) fn refusal(status: u16, detail: &'static str) -> Self {
        let title = reason(status);
        let detail = detail.replace('\\', "\\\\").replace('"', "\\\"");
        let body = format!("{{\"title\":\"{title}\",\"status\":{status},\"detail\":\"{detail}\"}}\n");
        let content_type = "application/problem+json";
        let field = match status {
            401 => "WWW-Authenticate: Basic realm=\"slime admin\", charset=\"UTF-8\"\r\n",
            429 => "Retry-After: 10\r\n",
            _ => "",
        };
        Self { status, content_type, field, body: Body::Whole(Cow::Owned(body)) }
    }

    /// The method cannot be used here (RFC 9110 section 15.5.6).
    pub(super) fn not_allowed(allowed: Allowed) -> Self {
        let (field, detail) = match allowed {
            Allowed::Read => ("Allow: GET, HEAD\r\n", "this can only be read: use GET"),
            Allowed::Post => ("Allow: POST\r\n", "this is an action: use POST"),
        };
        Self { field, ..Self::refusal(405, detail) }
    }

    /// A short JSON document.
    pub(super) fn json(body: String) -> Self {
        Self { content_type: "application/json", ..Self::text(200, Cow::Owned(body)) }
    }

    /// The page.
    pub(super) fn page(page: Page, has_it: bool) -> Self {
        let status = if has_it { 304 } else { 200 };
        Self { status, content_type: "text/html; charset=utf-8", field: "", body: Body::Page(page) }
    }

    /// A document that follows in slices.
    pub(super) fn document(content_type: &'static str, framing: Framing) -> Self {
        Self { status: 200, content_type, field: "", body: Body::Follows(framing) }
    }

    /// The head, and the body if it is there and wanted.
    pub(super) fn write(&self, head_only: bool, version: Version, is_kept: bool) -> Vec<u8> {
        let Self { status, content_type, field, .. } = self;
        let mut out = String::new();
        let title = reason(*status);
        // Writing to a string does not fail.
        let _ = write!(out, "HTTP/1.1 {status} {title}\r\nContent-Type: {content_type}\r\n{COMMON}{field}");
        let _ = match &self.body {
            Body::Page(Page { etag, csp, .. }) => write!(
                out,
                "Cache-Control: no-cache\r\nETag: {etag}\r\nVary: Accept-Encoding\r\n\
                 Content-Security-Policy: {csp}\r\n"
            ),
            Body::Whole(_) | Body::Follows(_) => write!(out, "Cache-Control: no-store\r\n"),
        };
        let _ = match &self.body {
            // RFC 9110 section 15.4.5: no body, and nothing about one.
            Body::Page(_) if *status == 304 => Ok(()),
            Body::Page(Page { gzip, .. }) => {
                write!(out, "Content-Encoding: gzip\r\nContent-Length: {}\r\n", gzip.len())
            }
            Body::Whole(body) => write!(out, "Content-Length: {}\r\n", body.len()),
            Body::Follows(Framing::Chunked) => write!(out, "Transfer-Encoding: chunked\r\n"),
            Body::Follows(Framing::UntilClose) => Ok(()),
        };
        out.push_str(match (is_kept, version) {
            (false, _) => "Connection: close\r\n\r\n",
            (true, Version::Http10) => "Connection: keep-alive\r\n\r\n",
            (true, Version::Http11) => "\r\n",
        });
        let mut out = out.into_bytes();
        match &self.body {
            Body::Whole(body) if !head_only => out.extend_from_slice(body.as_bytes()),
            Body::Page(page) if !head_only && *status == 200 => out.extend_from_slice(page.gzip),
            Body::Whole(_) | Body::Page(_) | Body::Follows(_) => {}
        }
        out
    }
}

impl Framing {
    /// For a document whose length is not known.
    pub(super) fn of_unknown_length(version: Version) -> Self {
        match version {
            Version::Http10 => Self::UntilClose,
            Version::Http11 => Self::Chunked,
        }
    }

    /// A slice of a document, and its end if it is the last one.
    pub(super) fn wrap(self, slice: &[u8], is_last: bool) -> Vec<u8> {
        if self == Self::UntilClose {
            return slice.to_vec();
        }
        let mut out = Vec::with_capacity(slice.len() + 16);
        // An empty chunk would be the end.
        if !slice.is_empty() {
            out.extend_from_slice(format!("{:x}\r\n", slice.len()).as_bytes());
            out.extend_from_slice(slice);
            out.extend_from_slice(b"\r\n");
        }
        if is_last {
            out.extend_from_slice(b"0\r\n\r\n");
        }
        out
    }
}

/// The reason phrase of a status that the admin side answers with (RFC 9110 section 15).
const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        _ => "Service Unavailable",
    }
}
