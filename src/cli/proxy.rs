//! The HTTP proxy on an agent's way to its hub: `--proxy`, or what the environment says.

use core::net::IpAddr;
use std::ffi::OsString;

use super::Failure;
use super::address::Address;
use super::normalise::{Normalised, variable};
use super::values::cidr;

/// The port of a proxy that names none, as curl has it.
const PROXY_PORT: u16 = 1080;

/// The proxy, if there is one. Without `--proxy`, the environment is asked for a hub that is reached by TLS:
/// `HTTPS_PROXY`, unless the hub is in `NO_PROXY`.
pub(super) fn find(
    flag: Option<&str>,
    hub: &Address,
    environment: impl Fn(&str) -> Option<OsString>,
    given: &Normalised,
) -> Result<Option<Address>, Failure> {
    // curl reads both spellings, the small one first.
    let look_up = |names: [&str; 2]| {
        let found = names.into_iter().find_map(|name| environment(name).filter(|value| !value.is_empty()));
        found.and_then(|value| value.into_string().ok())
    };
    let (text, origin) = match flag {
        // `--proxy ""` means none, whatever the environment says.
        Some(text) => (text.trim().to_owned(), given.origin("--proxy")),
        None if !hub.is_tls => return Ok(None),
        None => match look_up(["https_proxy", "HTTPS_PROXY"]) {
            Some(_) if is_excepted(&look_up(["no_proxy", "NO_PROXY"]).unwrap_or_default(), hub) => {
                return Ok(None);
            }
            Some(text) => (text, "HTTPS_PROXY".to_owned()),
            None => return Ok(None),
        },
    };
    if text.is_empty() || text == "none" {
        return Ok(None);
    }
    let proxy =
        Address::parse(&text, PROXY_PORT).map_err(|error| Failure::Usage(format!("{origin}: {error}")))?;
    if proxy.is_tls || !proxy.base_path.is_empty() {
        return Err(Failure::Usage(format!("{origin}: a proxy is written http://[user:password@]host:port")));
    }
    if proxy.authorization.is_some() && flag.is_some() && given.is_typed("--proxy") {
        log::warn!(
            "every user of this machine can read the password of --proxy in the list of processes; use the variable {}",
            variable("--proxy")
        );
    }
    Ok(Some(proxy))
}

/// Whether a hub is in such a list: `*`, names with all below them, addresses, ranges of addresses; each may
/// have a port.
fn is_excepted(list: &str, hub: &Address) -> bool {
    let endpoint = &hub.endpoint;
    let address: Option<IpAddr> = endpoint.host.parse().ok();
    list.split([',', ' ']).filter(|entry| !entry.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let (Some(address), Ok(range)) = (address, cidr(entry)) {
            return range.contains(address);
        }
        let (name, port) = match entry.rsplit_once(':') {
            Some((name, port)) if !name.contains(':') || name.ends_with(']') => {
                (name, port.parse::<u16>().ok())
            }
            Some(_) | None => (entry, None),
        };
        if port.is_some_and(|port| port != endpoint.port) {
            return false;
        }
        let name = name.trim_start_matches('[').trim_end_matches(']').trim_start_matches('.');
        if name.is_empty() {
            return false;
        }
        let host = endpoint.host.as_bytes();
        let Some(above) = host.len().checked_sub(name.len()) else { return false };
        let (below, tail) = host.split_at(above);
        tail.eq_ignore_ascii_case(name.as_bytes())
            && (below.is_empty() || below.ends_with(b".") && address.is_none())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(flag: Option<&str>, hub: &str, environment: &[(&str, &str)]) -> Option<String> {
        let look_up = |name: &str| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        let hub = Address::parse(hub, 8080).unwrap();
        find(flag, &hub, look_up, &Normalised::default()).unwrap().map(|proxy| proxy.authority)
    }

    #[test]
    fn flag_and_environment() {
        let environment = [("HTTPS_PROXY", "http://e:3128")];
        assert_eq!(found(None, "https://h", &[]), None);
        assert_eq!(found(None, "https://h", &environment).as_deref(), Some("e:3128"));
        assert_eq!(found(None, "http://h", &environment), None);
        assert_eq!(found(Some("f"), "http://h", &environment).as_deref(), Some("f:1080"));
        assert_eq!(found(Some("http://f"), "https://h", &environment).as_deref(), Some("f"));
        assert_eq!(found(Some("none"), "https://h", &environment), None);
        let both = [("HTTPS_PROXY", "http://e:3128"), ("https_proxy", "small:1")];
        assert_eq!(found(None, "https://h", &both).as_deref(), Some("small:1"));
    }

    #[test]
    fn exceptions() {
        let excepted = |list: &str, hub: &str| {
            found(None, hub, &[("HTTPS_PROXY", "http://e:3128"), ("NO_PROXY", list)]).is_none()
        };
        for (list, hub) in [
            ("*", "https://h"),
            ("h", "https://h"),
            ("a, example.org", "https://hub.Example.org"),
            (".example.org", "https://hub.example.org"),
            (".example.org", "https://example.org"),
            ("example.org:443", "https://example.org"),
            ("10.0.0.0/8", "https://10.1.2.3"),
            ("10.1.2.3", "https://10.1.2.3:8443"),
            ("10.1.2.3:8443", "https://10.1.2.3:8443"),
            ("::1", "https://[::1]"),
            ("[::1]:443", "https://[::1]"),
        ] {
            assert!(excepted(list, hub), "{list} {hub}");
        }
        for (list, hub) in [
            ("", "https://h"),
            (".", "https://h"),
            ("example.org", "https://badexample.org"),
            ("example.org:1", "https://example.org"),
            ("hub.example.org", "https://example.org"),
            ("10.0.0.0/8", "https://11.1.2.3"),
            ("2.3", "https://10.1.2.3"),
        ] {
            assert!(!excepted(list, hub), "{list} {hub}");
        }
    }

    #[test]
    fn what_is_no_proxy() {
        let hub = Address::parse("https://h", 1).unwrap();
        for text in ["https://p:1", "http://p:1/x", "socks5://p:1", "p:x"] {
            assert!(find(Some(text), &hub, |_| None, &Normalised::default()).is_err(), "{text}");
        }
    }
}
