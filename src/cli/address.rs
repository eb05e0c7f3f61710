//! Addresses of hubs and upstreams, as people write them.

use core::fmt;
use core::net::Ipv6Addr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::values::number;
use crate::net::run::Endpoint;

/// What `http://` means where it names no port (RFC 9110 section 4.2.1).
pub(super) const HTTP_PORT: u16 = 80;
/// What `https://` means where it names no port (RFC 9110 section 4.2.2).
const HTTPS_PORT: u16 = 443;
/// The longest host name (RFC 1035 section 2.3.4).
const MAX_HOST: usize = 253;
/// The longest base path: it stands before the target of every request, which has a limit of 8 KiB.
const MAX_BASE_PATH: usize = 1024;

/// An address that was understood.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// Where to connect to.
    pub(super) endpoint: Endpoint,
    /// What the `Host` field says: the port is left out where it is that of the scheme.
    pub(super) authority: String,
    /// Whether it is reached by TLS: `https://`.
    pub(super) is_tls: bool,
    /// Empty, or begins with a slash and does not end with one.
    pub(super) base_path: String,
    /// A value for `Authorization`, if the address has a user and a password.
    pub(super) authorization: Option<String>,
}

impl Address {
    /// Reads `host`, `host:port`, `[IPv6]:port` or `http[s]://[user:password@]host[:port][/path]`. What names
    /// neither a scheme nor a port has `default_port`.
    pub(super) fn parse(text: &str, default_port: u16) -> Result<Self, AddressError> {
        let (default_port, is_tls, rest) = match text.split_once("://") {
            // A slip, not a host of that name.
            None if text.starts_with("http:/") || text.starts_with("https:/") => {
                return Err(AddressError::Scheme);
            }
            None => (default_port, false, text),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (HTTP_PORT, false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (HTTPS_PORT, true, rest),
            Some(_) => return Err(AddressError::Scheme),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (user, host) =
            authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let endpoint = parse_endpoint(host, default_port)?;
        Ok(Self {
            authority: authority_of(&endpoint, if is_tls { HTTPS_PORT } else { HTTP_PORT }),
            endpoint,
            is_tls,
            base_path: parse_base_path(path)?,
            authorization: user.map(basic).transpose()?,
        })
    }
}

impl Address {
    /// Host and port, the latter always (RFC 9112 section 3.2.3).
    pub(super) fn host_and_port(&self) -> String {
        authority_of(&self.endpoint, 0)
    }
}

/// Why an address was not understood. The text shows nothing of the address, which may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressError {
    /// It has a scheme that is not spoken.
    Scheme,
    /// User or password are not valid.
    User,
    /// The host is missing or not valid.
    Host,
    /// A port, and no host before it.
    PortAlone(u16),
    /// An IPv6 address without its brackets.
    Brackets,
    /// The port is not a number from 1 to 65535.
    Port,
    /// The path has characters that no path has, or a query.
    Path,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::PortAlone(port) => {
                return write!(f, "this is a port without a host; write 127.0.0.1:{port}");
            }
            Self::Scheme => "the address must begin with http:// or https://, or be host:port",
            Self::User => {
                "user and password in the address must be percent-encoded, such as user:p%40ss@host"
            }
            Self::Host => "the address has no valid host name; write host:port or http://host:port/path",
            Self::Brackets => "an IPv6 address must be in brackets, such as [::1]:8080",
            Self::Port => "the port of the address must be a number from 1 to 65535",
            Self::Path => {
                "the path of the address must be a plain path, percent-encoded, without '?' and '#'"
            }
        };
        f.write_str(text)
    }
}

impl core::error::Error for AddressError {}

fn parse_endpoint(text: &str, default_port: u16) -> Result<Endpoint, AddressError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(AddressError::Host)?;
            let address: Ipv6Addr = host.parse().map_err(|_| AddressError::Host)?;
            (address.to_string(), port)
        }
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            if port.matches(':').count() > 1 {
                return Err(AddressError::Brackets);
            }
            // `11434` and `:11434`. No host is a bare number, though resolvers of names read one as an
            // address.
            let alone = if host.is_empty() { port.trim_start_matches(':') } else { host };
            if (host.is_empty() || port.is_empty())
                && let Some(port) = number(alone).filter(|&port| port != 0)
            {
                return Err(AddressError::PortAlone(port));
            }
            let valid = (1..=MAX_HOST).contains(&host.len())
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
                && !host.bytes().all(|byte| byte.is_ascii_digit());
            (if valid { Ok(host.to_owned()) } else { Err(AddressError::Host) }?, port)
        }
    };
    let port = match port.strip_prefix(':') {
        // RFC 3986 section 3.2.3: an empty port is none.
        Some("") => default_port,
        Some(digits) => number(digits).filter(|&port| port != 0).ok_or(AddressError::Port)?,
        None if port.is_empty() => default_port,
        None => return Err(AddressError::Host),
    };
    Ok(Endpoint { host, port })
}

fn authority_of(endpoint: &Endpoint, usual_port: u16) -> String {
    let Endpoint { host, port } = endpoint;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    if *port == usual_port { host } else { format!("{host}:{port}") }
}

fn parse_base_path(path: &str) -> Result<String, AddressError> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte);
    if path.len() > MAX_BASE_PATH || !path.bytes().all(plain) {
        return Err(AddressError::Path);
    }
    Ok(path.trim_end_matches('/').to_owned())
}

/// RFC 7617: the Basic scheme.
fn basic(user: &str) -> Result<String, AddressError> {
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let (user, password) = (percent_decode(user)?, percent_decode(password)?);
    // Section 2: no colon in the user, no control character anywhere.
    if user.contains(&b':') || user.iter().chain(&password).any(u8::is_ascii_control) {
        return Err(AddressError::User);
    }
    Ok(format!("Basic {}", STANDARD.encode([&user[..], b":", &password].concat())))
}

fn percent_decode(text: &str) -> Result<Vec<u8>, AddressError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    let digit = |rest: &mut core::str::Bytes<'_>| {
        let digit = rest.next().and_then(|byte| char::from(byte).to_digit(16));
        digit.and_then(|digit| u8::try_from(digit).ok()).ok_or(AddressError::User)
    };
    while let Some(byte) = rest.next() {
        decoded.push(if byte == b'%' { digit(&mut rest)? << 4 | digit(&mut rest)? } else { byte });
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, host: &str, port: u16, authority: &str, base_path: &str) {
        let address = Address::parse(text, 8080).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(address.endpoint, Endpoint { host: host.into(), port }, "{text}");
        assert_eq!(address.authority, authority, "{text}");
        assert_eq!(address.base_path, base_path, "{text}");
    }

    #[test]
    fn what_is_understood() {
        check("hub", "hub", 8080, "hub:8080", "");
        check("hub.example.org:9000", "hub.example.org", 9000, "hub.example.org:9000", "");
        check("127.0.0.1:80", "127.0.0.1", 80, "127.0.0.1", "");
        check("[::1]:8081", "::1", 8081, "[::1]:8081", "");
        check("[2001:DB8::1]", "2001:db8::1", 8080, "[2001:db8::1]:8080", "");
        check("http://hub", "hub", 80, "hub", "");
        check("HTTP://hub:/", "hub", 80, "hub", "");
        check("http://hub:8080/", "hub", 8080, "hub:8080", "");
        check("http://hub/a/b/", "hub", 80, "hub", "/a/b");
        check("http://[::1]/a", "::1", 80, "[::1]", "/a");
        check("my_service:1/v1", "my_service", 1, "my_service:1", "/v1");
        check("http://u:p@hub:81//", "hub", 81, "hub:81", "");
        check("https://hub", "hub", 443, "hub", "");
        check("HTTPS://hub:80/a", "hub", 80, "hub:80", "/a");
        check("http://hub:443", "hub", 443, "hub:443", "");
        assert!(Address::parse("https://hub", 1).is_ok_and(|address| address.is_tls));
        assert!(Address::parse("hub:443", 1).is_ok_and(|address| !address.is_tls));
    }

    #[test]
    fn credentials() {
        let authorization = |text| Address::parse(text, 1).map(|address| address.authorization);
        assert_eq!(authorization("http://hub"), Ok(None));
        assert_eq!(
            authorization("http://Aladdin:open%20sesame@hub"),
            Ok(Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==".into()))
        );
        assert_eq!(authorization("http://u@hub"), Ok(Some("Basic dTo=".into())));
        assert_eq!(authorization("http://u:a@b:c@hub"), Ok(Some("Basic dTphQGI6Yw==".into())));
        for text in ["http://u%3A:p@hub", "http://u:%0d%0a@hub", "http://u:%4@hub", "http://u:%zz@hub"] {
            assert_eq!(authorization(text), Err(AddressError::User), "{text}");
        }
    }

    #[test]
    fn what_is_not_understood() {
        for (text, error) in [
            ("https://", AddressError::Host),
            ("ftp://hub", AddressError::Scheme),
            ("http:/hub", AddressError::Scheme),
            ("://hub", AddressError::Scheme),
            ("", AddressError::Host),
            (":80", AddressError::PortAlone(80)),
            ("11434", AddressError::PortAlone(11434)),
            ("http://11434/v1", AddressError::PortAlone(11434)),
            ("http://u:p@:11434", AddressError::PortAlone(11434)),
            ("65536", AddressError::Host),
            ("0", AddressError::Host),
            ("11434:80", AddressError::Host),
            ("http://", AddressError::Host),
            ("http:///path", AddressError::Host),
            ("a b", AddressError::Host),
            ("h\u{fc}b", AddressError::Host),
            ("[::1", AddressError::Host),
            ("[::1]x", AddressError::Host),
            ("[hub]:1", AddressError::Host),
            ("::1", AddressError::Brackets),
            ("2001:db8::1", AddressError::Brackets),
            ("hub:0", AddressError::Port),
            ("hub:65536", AddressError::Port),
            ("hub:+80", AddressError::Port),
            ("hub:x", AddressError::Port),
            ("http://hub/a?b", AddressError::Path),
            ("http://hub?b", AddressError::Path),
            ("http://hub/a#b", AddressError::Path),
            ("http://hub/a b", AddressError::Path),
            ("http://hub/\r\nX: y", AddressError::Path),
        ] {
            assert_eq!(Address::parse(text, 8080).err(), Some(error), "{text}");
        }
        assert_eq!(Address::parse(&"h".repeat(254), 1).err(), Some(AddressError::Host));
    }
}
