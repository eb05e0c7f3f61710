//! Pages of other origins: the fields by which a browser is told that such a page may see an answer (Fetch
//! standard, "CORS protocol"), and whether a request may be another site's doing.

use alloc::string::String;
use alloc::vec::Vec;

use super::fields::{is_token, members};
use super::framing::Framing;
use super::head::RequestHead;
use super::put;
use super::request_id::RequestId;
use super::target::is_authority;
use super::url::{Url, first_authority};

/// For how many seconds a browser keeps the answer to a preflight: the longest that any keeps it.
const MAX_AGE: &[u8] = b"Access-Control-Max-Age: 7200\r\n";
/// The fields of a response that a script may read beyond those that it may read anyway.
const EXPOSED: &[u8] =
    b"Access-Control-Expose-Headers: X-Request-Id, Retry-After, Server-Timing, Slime-Agent-Id\r\n";

/// The origins whose pages may use the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// All of them.
    Any,
    /// These, as browsers write them: `https://app.example`, in lower case, without the usual port.
    Listed(Vec<String>),
}

/// Whom an answer may be seen by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Grant {
    /// Pages of its own origin.
    #[default]
    Nobody,
    /// Pages of every origin.
    Everybody,
    /// Pages of the listed origin with this number.
    Listed(u16),
}

impl Origins {
    /// Reads a list of origins, or `*`. None, if it is neither.
    pub fn parse<'t>(items: impl IntoIterator<Item = &'t str>) -> Option<Self> {
        let items: Vec<&str> = items.into_iter().collect();
        if items == ["*"] {
            return Some(Self::Any);
        }
        let listed: Option<Vec<String>> = items.into_iter().map(origin).collect();
        listed.filter(|it| u16::try_from(it.len()).is_ok()).map(Self::Listed)
    }

    /// Who may see the answer to a request.
    pub fn grant(&self, head: &RequestHead<'_, '_>) -> Grant {
        let mut origins = head.fields.named("Origin");
        // One that says two origins says none.
        let (Some(origin), None) = (origins.next(), origins.next()) else { return Grant::Nobody };
        match self {
            Self::Any => Grant::Everybody,
            Self::Listed(_) => self.number(origin).map_or(Grant::Nobody, Grant::Listed),
        }
    }

    fn number(&self, origin: &[u8]) -> Option<u16> {
        let Self::Listed(listed) = self else { return None };
        (0..).zip(listed).find(|(_, it)| it.as_bytes() == origin).map(|(number, _)| number)
    }

    fn name(&self, grant: Grant) -> Option<&str> {
        match (self, grant) {
            (Self::Any, Grant::Everybody) => Some("*"),
            (Self::Listed(listed), Grant::Listed(number)) => {
                listed.get(usize::from(number)).map(String::as_str)
            }
            (Self::Any | Self::Listed(_), _) => None,
        }
    }
}

/// An origin as browsers write it. Desktop programs and extensions have schemes of their own.
fn origin(text: &str) -> Option<String> {
    let mut origin = text.to_ascii_lowercase();
    let (scheme, authority) = origin.split_once("://")?;
    let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    if scheme.is_empty() || !scheme.bytes().all(is_scheme) || authority.is_empty() || !is_authority(authority)
    {
        return None;
    }
    let usual = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    if authority.ends_with(usual) {
        origin.truncate(origin.len() - usual.len());
    }
    Some(origin)
}

/// What an answer says of the pages that may see it.
#[derive(Clone, Copy, Debug)]
pub struct Sharing<'a> {
    /// The origins whose pages may use the hub.
    pub origins: &'a Origins,
    /// Who may see this answer.
    pub grant: Grant,
}

impl Sharing<'_> {
    /// Writes the fields of an answer.
    pub fn write(&self, out: &mut Vec<u8>) {
        if let Some(origin) = self.origins.name(self.grant) {
            put::line(out, b"Access-Control-Allow-Origin: ", origin.as_bytes());
            out.extend_from_slice(EXPOSED);
        }
        // A cache must not give the answer to one origin to another one.
        if matches!(self.origins, Origins::Listed(_)) {
            out.extend_from_slice(b"Vary: Origin\r\n");
        }
    }
}

/// Whether a browser asks by this request whether it may send another one. It carries no credentials by its
/// nature.
pub fn is_preflight(head: &RequestHead<'_, '_>) -> bool {
    head.method.is_options()
        && matches!(head.framing, Framing::None | Framing::Length(0))
        && head.fields.first("Origin").is_some()
        && head.fields.first("Access-Control-Request-Method").is_some()
}

/// Answers a preflight: with leave to do what was asked for, or without a word of it, which is No.
pub fn answer_preflight(
    head: &RequestHead<'_, '_>,
    origins: Option<&Origins>,
    id: &RequestId,
    close: bool,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"HTTP/1.1 204 No Content\r\n");
    if let Some(origins) = origins {
        let grant = origins.grant(head);
        if let Some(origin) = origins.name(grant) {
            put::line(out, b"Access-Control-Allow-Origin: ", origin.as_bytes());
            if let Some(method) = head.fields.first("Access-Control-Request-Method").filter(|it| is_token(it))
            {
                put::line(out, b"Access-Control-Allow-Methods: ", method);
            }
            allow_fields(head, out);
            let asks = head.fields.first("Access-Control-Request-Private-Network") == Some(b"true");
            if asks && matches!(grant, Grant::Listed(_)) {
                out.extend_from_slice(b"Access-Control-Allow-Private-Network: true\r\n");
            }
            out.extend_from_slice(MAX_AGE);
        }
        out.extend_from_slice(
            b"Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\r\n",
        );
    }
    put::line(out, b"X-Request-Id: ", id.as_str().as_bytes());
    if close {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// All fields that were asked for and have the form of a name.
fn allow_fields(head: &RequestHead<'_, '_>, out: &mut Vec<u8>) {
    let asked = head.fields.named("Access-Control-Request-Headers").flat_map(members);
    let mut gap: &[u8] = b"Access-Control-Allow-Headers: ";
    for name in asked.filter(|name| is_token(name)) {
        out.extend_from_slice(gap);
        out.extend_from_slice(name);
        gap = b", ";
    }
    if gap == b", " {
        out.extend_from_slice(b"\r\n");
    }
}

/// Whether a page of another origin may have made a browser send this request. `is_trusted`: it came from a
/// proxy that is believed when it says under which name it was asked.
pub fn is_foreign(head: &RequestHead<'_, '_>, origins: Option<&Origins>, is_trusted: bool) -> bool {
    if head.fields.named("Sec-Fetch-Site").any(|site| site.eq_ignore_ascii_case(b"cross-site")) {
        return true;
    }
    let forwarded = head.fields.first("X-Forwarded-Host").filter(|_| is_trusted).and_then(first_authority);
    let is_own = |origin: &[u8]| {
        Url::parse(origin).is_some_and(|url| {
            url.is_of(head.authority()) || forwarded.is_some_and(|authority| url.is_of(authority))
        })
    };
    let is_listed = |origin: &[u8]| origins.is_some_and(|origins| origins.number(origin).is_some());
    head.fields.named("Origin").any(|origin| !is_own(origin) && !is_listed(origin))
}

/// Whether a field is part of the protocol.
pub(super) fn is_field(name: &str) -> bool {
    begins(name, "Access-Control-")
}

/// Whether a field of a request is part of the protocol.
pub(super) fn is_request_field(name: &str) -> bool {
    begins(name, "Access-Control-Request-")
}

fn begins(name: &str, start: &str) -> bool {
    name.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start))
}

#[cfg(test)]
mod tests {
    use super::super::storage::Storage;
    use super::*;

    fn listed() -> Origins {
        Origins::Listed(vec!["https://a.example".to_owned(), "http://localhost:3000".to_owned()])
    }

    fn with<T>(head: &str, see: impl FnOnce(&RequestHead<'_, '_>) -> T) -> T {
        let mut storage = Storage::new();
        see(&RequestHead::parse(head.as_bytes(), &mut storage).unwrap())
    }

    fn preflight(fields: &str, origins: Option<&Origins>) -> String {
        let head =
            format!("OPTIONS /x HTTP/1.1\r\nHost: hub\r\nAccess-Control-Request-Method: PUT\r\n{fields}\r\n");
        with(&head, |head| {
            let mut out = Vec::new();
            assert!(is_preflight(head));
            answer_preflight(head, origins, &RequestId::of_unread(7), false, &mut out);
            String::from_utf8(out).unwrap().replace("X-Request-Id: 0000000000000007\r\n", "")
        })
    }

    #[test]
    fn a_preflight_gets_what_it_asks_for_or_nothing() {
        const VARY: &str = "Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\r\n";
        let origin = "Origin: https://a.example\r\n";
        let asks = "Access-Control-Request-Headers: authorization,x-b\r\n";
        assert_eq!(preflight(origin, None), "HTTP/1.1 204 No Content\r\n\r\n");
        for (origins, fields, said) in [
            (listed(), "Origin: https://b.example\r\n", ""),
            (listed(), "Origin: https://a.example:444\r\n", ""),
            (listed(), "Origin: null\r\n", ""),
            (listed(), "Origin: https://a.example\r\nOrigin: https://a.example\r\n", ""),
            (
                listed(),
                &format!("{origin}{asks}"),
                "Access-Control-Allow-Origin: https://a.example\r\nAccess-Control-Allow-Methods: PUT\r\n\
                 Access-Control-Allow-Headers: authorization, x-b\r\nAccess-Control-Max-Age: 7200\r\n",
            ),
            (
                listed(),
                &format!("{origin}Access-Control-Request-Private-Network: true\r\n"),
                "Access-Control-Allow-Origin: https://a.example\r\nAccess-Control-Allow-Methods: PUT\r\n\
                 Access-Control-Allow-Private-Network: true\r\nAccess-Control-Max-Age: 7200\r\n",
            ),
            (
                Origins::Any,
                &format!("{origin}Access-Control-Request-Private-Network: true\r\n"),
                "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Methods: PUT\r\n\
                 Access-Control-Max-Age: 7200\r\n",
            ),
        ] {
            let expected = format!("HTTP/1.1 204 No Content\r\n{said}{VARY}\r\n");
            assert_eq!(preflight(fields, Some(&origins)), expected, "{fields}");
        }
    }

    #[test]
    fn not_every_options_is_a_preflight() {
        for head in [
            "OPTIONS / HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\n\r\n",
            "OPTIONS / HTTP/1.1\r\nHost: a\r\nAccess-Control-Request-Method: GET\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\nAccess-Control-Request-Method: GET\r\n\r\n",
            "OPTIONS / HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\nAccess-Control-Request-Method: GET\r\n\
             Content-Length: 1\r\n\r\n",
        ] {
            assert!(!with(head, is_preflight), "{head}");
        }
    }

    #[test]
    fn origins_are_read_as_browsers_write_them() {
        let parse = |text: &str| Origins::parse(text.split(','));
        assert_eq!(parse("*"), Some(Origins::Any));
        let listed =
            |origins: &[&str]| Some(Origins::Listed(origins.iter().map(|&it| it.to_owned()).collect()));
        assert_eq!(
            parse("HTTPS://App.Example:443,http://localhost:3000,http://[::1]:80,app://a"),
            listed(&["https://app.example", "http://localhost:3000", "http://[::1]", "app://a"])
        );
        for wrong in
            ["", "*,https://a", "a.example", "https://a/", "https://a/b", "//a", "https://", "://a", "null"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn other_sites_are_told_from_our_own() {
        for (fields, origins, is_trusted, expected) in [
            ("", None, false, false),
            ("Sec-Fetch-Site: same-origin\r\n", None, false, false),
            ("Sec-Fetch-Site: cross-site\r\n", None, false, true),
            ("Origin: https://hub\r\n", None, false, false),
            ("Origin: http://HUB:80\r\n", None, false, false),
            ("Origin: http://hub:81\r\n", None, false, true),
            ("Origin: null\r\n", None, false, true),
            ("Origin: https://a.example\r\n", None, false, true),
            ("Origin: https://a.example\r\n", Some(listed()), false, false),
            ("Origin: https://a.example\r\n", Some(Origins::Any), false, true),
            ("Origin: https://a.example\r\nSec-Fetch-Site: cross-site\r\n", Some(listed()), false, true),
            ("Origin: http://hub\r\nOrigin: http://evil\r\n", None, false, true),
            ("X-Forwarded-Host: app\r\nOrigin: https://app\r\n", None, true, false),
            ("X-Forwarded-Host: app\r\nOrigin: https://app\r\n", None, false, true),
        ] {
            let head = format!("POST / HTTP/1.1\r\nHost: hub\r\n{fields}\r\n");
            let found = with(&head, |head| is_foreign(head, origins.as_ref(), is_trusted));
            assert_eq!(found, expected, "{fields} {origins:?}");
        }
    }
}
