//! URLs in fields, as far as the authority that they lead to: where the agent replaces the authority in
//! `Host`, what names it elsewhere in the request, or comes back in the response, is replaced together with
//! it.

use alloc::vec::Vec;

use super::fields::members;
use super::target::is_authority;

/// A URL with an authority, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Url<'a> {
    /// None, if it is that of the page where the URL stands: `//host/path`.
    scheme: Option<Scheme>,
    authority: &'a str,
    /// Path, query and fragment.
    rest: &'a [u8],
}

/// A scheme that is served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

impl Scheme {
    /// What stands before the authority.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Http => "http://",
            Self::Https => "https://",
        }
    }

    /// The port that it means (RFC 9110 section 4.2).
    const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl<'a> Url<'a> {
    pub(super) fn parse(value: &'a [u8]) -> Option<Self> {
        let begins = |scheme: Scheme| {
            let (start, rest) = value.split_at_checked(scheme.prefix().len())?;
            start.eq_ignore_ascii_case(scheme.prefix().as_bytes()).then_some((Some(scheme), rest))
        };
        let (scheme, rest) = begins(Scheme::Http)
            .or_else(|| begins(Scheme::Https))
            .or_else(|| Some((None, value.strip_prefix(b"//")?)))?;
        let end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at_checked(end)?;
        let authority = core::str::from_utf8(authority).ok().filter(|text| is_authority(text))?;
        Some(Self { scheme, authority, rest })
    }

    /// Whether `Origin` or `Referer` names this authority. Host and port count, not the scheme: TLS may end
    /// before the hub.
    pub(super) fn is_of(&self, authority: &str) -> bool {
        let scheme = self.scheme.unwrap_or(Scheme::Http);
        is_same_host(self.authority, authority)
            && port(self.authority).unwrap_or(scheme.port()) == port(authority).unwrap_or(scheme.port())
    }

    /// What follows the base path, if the URL leads to the upstream, below its base path.
    fn below(&self, upstream: &At<'_>, application: Scheme) -> Option<&'a [u8]> {
        let own = port(self.authority);
        let scheme = self.scheme.unwrap_or(application);
        let theirs = port(upstream.authority);
        let is_same_port = own.unwrap_or(scheme.port()) == theirs.unwrap_or(upstream.scheme.port())
            // Services that are told by X-Forwarded-Proto how they are reached write its scheme, and do not
            // know of another port.
            || own.is_none() && theirs.is_none() && scheme == application;
        let rest = self.rest.strip_prefix(upstream.base_path.as_bytes())?;
        (is_same_port
            && is_same_host(self.authority, upstream.authority)
            && matches!(rest, [] | [b'/' | b'?' | b'#', ..]))
        .then_some(rest)
    }

    /// Path, query and fragment.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

/// Where a service is.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// How it is reached.
    pub scheme: Scheme,
    /// Its `Host`.
    pub authority: &'a str,
    /// What stands before every path: empty, or starting with a slash and not ending in one.
    pub base_path: &'a str,
}

/// The value of a `Location` that leads to the upstream, for somebody who knows it as `origin` (scheme and
/// authority).
pub(super) fn seen_from_outside(value: &[u8], upstream: &At<'_>, origin: &str, out: &mut Vec<u8>) -> bool {
    let application = if origin.starts_with(Scheme::Https.prefix()) { Scheme::Https } else { Scheme::Http };
    let Some(rest) = Url::parse(value).and_then(|url| url.below(upstream, application)) else { return false };
    out.extend_from_slice(origin.as_bytes());
    out.extend_from_slice(rest);
    true
}

/// The first member of a list of authorities, if it is one.
pub(super) fn first_authority(value: &[u8]) -> Option<&str> {
    core::str::from_utf8(members(value).next()?).ok().filter(|authority| is_authority(authority))
}

fn is_same_host(one: &str, other: &str) -> bool {
    host(one).eq_ignore_ascii_case(host(other))
}

fn host(authority: &str) -> &str {
    split(authority).0
}

/// The port, if the authority names one.
fn port(authority: &str) -> Option<u16> {
    split(authority).1.parse().ok()
}

fn split(authority: &str) -> (&str, &str) {
    match authority.rsplit_once(':') {
        // The colons of an IPv6 address stand in brackets.
        Some((host, port)) if !port.contains(']') => (host, port),
        Some(_) | None => (authority, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_compared_by_host_and_port() {
        let is_of = |url: &str, authority| Url::parse(url.as_bytes()).is_some_and(|url| url.is_of(authority));
        for (url, authority) in [
            ("http://app.test", "app.test"),
            ("https://app.test", "app.test"),
            ("HTTP://App.Test", "app.test"),
            ("https://app.test:443", "app.test"),
            ("https://app.test", "app.test:443"),
            ("http://app.test:", "app.test:80"),
            ("http://127.0.0.1:8188", "127.0.0.1:8188"),
            ("http://[::1]:8188/x", "[::1]:8188"),
            ("http://app.test/x?y#z", "app.test"),
            ("http://app.test?y", "app.test"),
        ] {
            assert!(is_of(url, authority), "{url} {authority}");
        }
        for (url, authority) in [
            ("http://app.test:8080", "app.test"),
            ("http://app.test", "app.test:8080"),
            ("http://app.test", "app.test:443"),
            ("http://app.test.evil.test", "app.test"),
            ("http://evil.test/app.test", "app.test"),
            ("http://app.test@evil.test", "app.test"),
            ("http://user@app.test", "app.test"),
            ("null", "app.test"),
            ("app.test", "app.test"),
            ("file:///app.test", "app.test"),
            ("http://a http://app.test", "app.test"),
            ("http://", "app.test"),
            ("", "app.test"),
        ] {
            assert!(!is_of(url, authority), "{url} {authority}");
        }
    }

    #[test]
    fn a_location_at_the_upstream_is_the_applications() {
        let seen = |location: &str, upstream: At<'_>, origin: &str| {
            let mut out = Vec::new();
            seen_from_outside(location.as_bytes(), &upstream, origin, &mut out)
                .then(|| String::from_utf8(out).unwrap())
        };
        let up = At { scheme: Scheme::Http, authority: "127.0.0.1:8000", base_path: "" };
        let based = At { base_path: "/base", ..up };
        let usual = At { authority: "up.test", ..up };
        let app = "https://app.test";
        for (location, upstream, to) in [
            ("http://127.0.0.1:8000/docs/", up, "https://app.test/docs/"),
            ("https://127.0.0.1:8000/docs/?a#b", up, "https://app.test/docs/?a#b"),
            ("//127.0.0.1:8000/x", up, "https://app.test/x"),
            ("http://127.0.0.1:8000", up, "https://app.test"),
            ("http://127.0.0.1:8000?x", up, "https://app.test?x"),
            ("http://127.0.0.1:8000/base/x", based, "https://app.test/x"),
            ("http://127.0.0.1:8000/base", based, "https://app.test"),
            ("http://up.test/x", usual, "https://app.test/x"),
            ("http://UP.test:80/x", usual, "https://app.test/x"),
            ("https://up.test/x", usual, "https://app.test/x"),
        ] {
            assert_eq!(seen(location, upstream, app).as_deref(), Some(to), "{location}");
        }
        for (location, upstream, origin) in [
            ("/docs/", up, app),
            ("docs", up, app),
            ("http://127.0.0.1/docs/", up, app),
            ("http://127.0.0.1:8001/docs/", up, app),
            ("http://127.0.0.1:80001/", up, app),
            ("http://127.0.0.1:8000.evil.test/", up, app),
            ("http://127.0.0.1:8000@evil.test/", up, app),
            ("http://other.test/?http://127.0.0.1:8000/", up, app),
            ("http://127.0.0.1:8000/x", based, app),
            ("http://127.0.0.1:8000/based", based, app),
            // The service sends its callers on to its port with TLS, where the agent is not.
            ("https://up.test/x", usual, "http://app.test"),
            ("http://up.test:443/x", usual, app),
        ] {
            assert_eq!(seen(location, upstream, origin), None, "{location}");
        }
    }
}
