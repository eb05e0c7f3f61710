//! The hub's and the agent's own answers: problem details (RFC 9457) with the reason in `Proxy-Status` (RFC
//! 9209).

use alloc::vec::Vec;

use super::cors::Sharing;
use super::fields::{Class, Field, begins_like, members};
use super::head::RequestHead;
use super::put;
use super::start_line::Version;

/// The body may come (RFC 9110 section 15.2.1): to a client that asked by `Expect: 100-continue` (section
/// 10.1.1), and on a tunnel to `Slime-Expect: connect`, once the upstream connection stands.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// An answer that no upstream gave.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// The status: 4xx or 5xx.
    pub status: u16,
    /// What happened and what to do about it. Never a secret, nor anything that the client did not send or
    /// may not know.
    pub detail: &'a str,
    /// An error type of RFC 9209 section 2.3, if one fits.
    pub error: Option<&'a str>,
    /// The reason in one word, for programs.
    pub code: &'a str,
    /// After how many seconds another attempt is worth it.
    pub retry_after: Option<u32>,
    /// Where a 308 leads (RFC 9110 section 15.4.9).
    pub location: Option<&'a str>,
    /// The challenge of a 401 (RFC 9110 section 11.6.1).
    pub challenge: Option<&'a str>,
    /// The methods that a 405 allows (RFC 9110 section 15.5.6).
    pub allow: Option<&'a str>,
    /// Whether the connection is closed after it.
    pub close: bool,
    /// Whether the request was HEAD, so that no body follows.
    pub head_only: bool,
    /// The version of the client.
    pub version: Version,
    /// In which form the error is told.
    pub form: Form,
    /// Seconds since 1970; none by a clock that is not set.
    pub date: Option<u64>,
    /// Whether an agent says to the hub that it is its own, since its upstream gave none.
    pub is_agents_own: bool,
    /// Which pages may see it, where the hub speaks for its upstreams.
    pub sharing: Option<Sharing<'a>>,
    /// What its request is called. Nothing at an agent, whose hub says it, and for a handshake.
    pub id: Option<&'a str>,
}

/// The form in which a client is told of an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// As problem details, with the member `error` that OpenAI's clients print.
    #[default]
    Problem,
    /// The same, where `error` is the text that Ollama's clients print.
    Ollama,
    /// As a page, to a person who opened an address in a browser.
    Page,
}

impl Form {
    /// The form for the client that sent this request.
    pub fn of(head: &RequestHead<'_, '_>) -> Self {
        if is_navigation(head) {
            Self::Page
        } else if head.path().starts_with("/api/") {
            Self::Ollama
        } else {
            Self::Problem
        }
    }
}

/// Whether a browser asks for a page that a person opens. Browsers say so by `Sec-Fetch-*` (W3C Fetch
/// Metadata), but only over TLS and to the machine itself; else it is their `Accept` that tells.
fn is_navigation(head: &RequestHead<'_, '_>) -> bool {
    if !matches!(head.method.as_str(), "GET" | "HEAD") {
        return false;
    }
    let (mut says, mut navigates, mut is_document, mut takes_html) = (false, false, false, false);
    for Field { name, value } in head.fields.iter() {
        match name.len() {
            6 if name.eq_ignore_ascii_case("Accept") => {
                let kind = |member: &[u8]| member.split(|byte| *byte == b';').next() == Some(b"text/html");
                takes_html |= members(value).any(kind);
            }
            14 if begins_like(name, "Sec-Fetch-") => {
                says = true;
                navigates |= name.eq_ignore_ascii_case("Sec-Fetch-Mode") && *value == b"navigate";
                is_document |= name.eq_ignore_ascii_case("Sec-Fetch-Dest") && *value == b"document";
            }
            _ => {}
        }
    }
    if says { navigates && is_document } else { takes_html }
}

impl<'a> Reply<'a> {
    /// An answer to HTTP/1.1 that closes the connection, and says nothing beyond status and detail.
    pub const fn new(status: u16, detail: &'a str) -> Self {
        Self {
            status,
            detail,
            error: None,
            code: word(status),
            retry_after: None,
            location: None,
            challenge: None,
            allow: None,
            close: true,
            head_only: false,
            version: Version::Http11,
            form: Form::Problem,
            date: None,
            is_agents_own: false,
            sharing: None,
            id: None,
        }
    }
}

/// The longest `Retry-After` that SDKs heed, in seconds. They try again at once where it is longer, unless
/// they are told not to.
const LONGEST_RETRY: u32 = 60;
/// What a page is, and that it loads nothing and is nothing else.
const PAGE: &[u8] = b"\r\nContent-Type: text/html; charset=utf-8\r\n\
    Content-Security-Policy: default-src 'none'\r\nX-Content-Type-Options: nosniff\r\n";

/// Appends the whole answer, head and body.
pub fn write(reply: &Reply<'_>, out: &mut Vec<u8>) {
    let body = body(reply);
    out.extend_from_slice(b"HTTP/1.1 ");
    put::decimal(out, u64::from(reply.status));
    out.push(b' ');
    out.extend_from_slice(reason(reply.status).as_bytes());
    out.extend_from_slice(match reply.form {
        Form::Problem | Form::Ollama => b"\r\nContent-Type: application/problem+json\r\n".as_slice(),
        Form::Page => PAGE,
    });
    if let Some(date) = reply.date {
        put::date(out, date);
    }
    out.extend_from_slice(b"Cache-Control: no-store\r\nContent-Length: ");
    put::decimal(out, body.len() as u64);
    out.extend_from_slice(b"\r\nProxy-Status: slime");
    if let Some(error) = reply.error {
        out.extend_from_slice(b"; error=");
        out.extend_from_slice(error.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    if let Some(seconds) = reply.retry_after {
        out.extend_from_slice(b"Retry-After: ");
        put::decimal(out, u64::from(seconds));
        out.extend_from_slice(b"\r\n");
        if seconds > LONGEST_RETRY {
            out.extend_from_slice(b"x-should-retry: false\r\n");
        }
    }
    if let Some(location) = reply.location {
        put::line(out, b"Location: ", location.as_bytes());
    }
    if let Some(challenge) = reply.challenge {
        put::line(out, b"WWW-Authenticate: ", challenge.as_bytes());
    }
    if let Some(allow) = reply.allow {
        put::line(out, b"Allow: ", allow.as_bytes());
    }
    if reply.is_agents_own {
        out.extend_from_slice(b"Slime-Failed: 1\r\n");
    }
    if let Some(sharing) = &reply.sharing {
        sharing.write(out);
    }
    if let Some(id) = reply.id {
        put::line(out, b"X-Request-Id: ", id.as_bytes());
    }
    match (reply.close, reply.version) {
        (true, _) => out.extend_from_slice(b"Connection: close\r\n"),
        (false, Version::Http10) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        (false, Version::Http11) => {}
    }
    out.extend_from_slice(b"\r\n");
    if !reply.head_only {
        out.extend_from_slice(&body);
    }
}

/// Appends the answer to a TRACE or OPTIONS whose last recipient we are, because its `Max-Forwards` says so
/// (RFC 9110 section 7.6.2): the request as it came, without what is secret or ours, or no content.
///
/// `id` is what the request is called, where this is the one that tells its client.
pub fn write_last(head: &RequestHead<'_, '_>, id: Option<&str>, close: bool, out: &mut Vec<u8>) {
    let mut content = Vec::new();
    if head.method.is_trace() {
        for part in [head.method.as_str(), " ", head.target, " HTTP/1.1\r\n"] {
            content.extend_from_slice(part.as_bytes());
        }
        for (field, class) in head.fields.classified() {
            // RFC 9110 section 9.3.8: nothing sensitive.
            let is_secret = matches!(class, Class::Authorization | Class::HopByHop | Class::Slime)
                || field.name.eq_ignore_ascii_case("Cookie");
            if !is_secret {
                put::field(&mut content, field.name, field.value);
            }
        }
        content.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    if head.method.is_trace() {
        out.extend_from_slice(b"Content-Type: message/http\r\n");
    }
    out.extend_from_slice(b"Cache-Control: no-store\r\nContent-Length: ");
    put::decimal(out, content.len() as u64);
    out.extend_from_slice(b"\r\n");
    if let Some(id) = id {
        put::line(out, b"X-Request-Id: ", id.as_bytes());
    }
    if close {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&content);
}

/// The errors that hub and agent answer with: status, reason phrase (RFC 9110 section 15), and the word for
/// programs where the answer has none of its own.
pub const ERRORS: [(u16, &str, &str); 16] = [
    (400, "Bad Request", "bad_request"),
    (401, "Unauthorized", "unauthorized"),
    (403, "Forbidden", "forbidden"),
    (404, "Not Found", "not_found"),
    (405, "Method Not Allowed", "method_not_allowed"),
    (408, "Request Timeout", "request_timeout"),
    (413, "Content Too Large", "body_too_large"),
    (414, "URI Too Long", "target_too_long"),
    (417, "Expectation Failed", "expectation_failed"),
    (431, "Request Header Fields Too Large", "head_too_large"),
    (501, "Not Implemented", "not_implemented"),
    (502, "Bad Gateway", "bad_response"),
    (503, "Service Unavailable", "unavailable"),
    (504, "Gateway Timeout", "response_timeout"),
    (505, "HTTP Version Not Supported", "version_not_supported"),
    (508, "Loop Detected", "loop_detected"),
];

/// The reason phrase of a status that we answer with; empty if we never do.
pub const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        308 => "Permanent Redirect",
        _ => entry(status).1,
    }
}

/// The word for programs of an error that has none of its own.
pub const fn word(status: u16) -> &'static str {
    entry(status).2
}

const fn entry(status: u16) -> (u16, &'static str, &'static str) {
    let mut rest: &[(u16, &'static str, &'static str)] = &ERRORS;
    while let [first, others @ ..] = rest {
        if first.0 == status {
            return *first;
        }
        rest = others;
    }
    (status, "", "")
}

/// What SDKs call this class of errors.
const fn kind(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        429 => "rate_limit_error",
        400..500 => "invalid_request_error",
        _ => "server_error",
    }
}

fn body(reply: &Reply<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 * reply.detail.len() + 160);
    if reply.form == Form::Page {
        page(reply, &mut out);
        return out;
    }
    out.extend_from_slice(b"{\"title\":\"");
    out.extend_from_slice(reason(reply.status).as_bytes());
    out.extend_from_slice(b"\",\"status\":");
    put::decimal(&mut out, u64::from(reply.status));
    out.extend_from_slice(b",\"detail\":");
    quoted(reply.detail, &mut out);
    if reply.status >= 400 && reply.form == Form::Ollama {
        out.extend_from_slice(b",\"error\":");
        quoted(reply.detail, &mut out);
    } else if reply.status >= 400 {
        out.extend_from_slice(b",\"error\":{\"message\":");
        quoted(reply.detail, &mut out);
        for part in [",\"type\":\"", kind(reply.status), "\",\"code\":\"", reply.code, "\"}"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    out.extend_from_slice(b"}\n");
    out
}

/// An answer that a browser shows.
fn page(reply: &Reply<'_>, out: &mut Vec<u8>) {
    let heading = |out: &mut Vec<u8>| {
        put::decimal(out, u64::from(reply.status));
        out.push(b' ');
        out.extend_from_slice(reason(reply.status).as_bytes());
    };
    out.extend_from_slice(
        b"<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
          <meta name=\"viewport\" content=\"width=device-width\">\n<title>",
    );
    heading(out);
    out.extend_from_slice(b"</title>\n<h1>");
    heading(out);
    out.extend_from_slice(b"</h1>\n<p>");
    for character in reply.detail.chars() {
        match character {
            '<' => out.extend_from_slice(b"&lt;"),
            '>' => out.extend_from_slice(b"&gt;"),
            '&' => out.extend_from_slice(b"&amp;"),
            _ => put::display(out, character),
        }
    }
    out.extend_from_slice(b"</p>\n</html>\n");
}

/// A string of JSON (RFC 8259 section 7).
fn quoted(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for character in text.chars() {
        match character {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\0'..='\x1f' => put::display(out, format_args!("\\u{:04x}", u32::from(character))),
            _ => put::display(out, character),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(reply: &Reply<'_>) -> String {
        let mut out = Vec::new();
        write(reply, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_answer_says_what_happened() {
        let reply = Reply {
            error: Some("destination_unavailable"),
            code: "no_agent",
            retry_after: Some(5),
            ..Reply::new(503, "No agent serves \"gpu\\1\".\nTry é later.")
        };
        let detail = r#""No agent serves \"gpu\\1\".\u000aTry é later.""#;
        let error = format!(r#"{{"message":{detail},"type":"server_error","code":"no_agent"}}"#);
        let body = format!(
            "{{\"title\":\"Service Unavailable\",\"status\":503,\"detail\":{detail},\"error\":{error}}}\n"
        );
        assert_eq!(
            written(&reply),
            format!(
                "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nCache-Control: no-store\r\n\
                 Content-Length: {}\r\nProxy-Status: slime; error=destination_unavailable\r\nRetry-After: 5\r\n\
                 Connection: close\r\n\r\n{body}",
                body.len()
            )
        );
        let to_head = written(&Reply { head_only: true, ..reply });
        assert!(
            to_head.contains(&format!("Content-Length: {}\r\n", body.len())) && to_head.ends_with("\r\n\r\n")
        );
    }

    #[test]
    fn an_answer_says_what_becomes_of_the_connection() {
        let reply = Reply { close: false, challenge: Some("Bearer"), ..Reply::new(401, "x") };
        let sent = written(&reply);
        assert!(sent.contains("\r\nWWW-Authenticate: Bearer\r\n\r\n{") && !sent.contains("Connection"));
        assert!(written(&Reply { version: Version::Http10, ..reply }).contains("Connection: keep-alive\r\n"));
    }
}
