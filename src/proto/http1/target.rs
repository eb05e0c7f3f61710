//! The target of a request and the authority it is meant for (RFC 9112 section 3.2).

use super::start_line::{Method, TargetForm};
use crate::proto::error::Violation;

/// The longest authority in bytes: a name in the domain name system has 253. It is repeated in forwarding
/// fields.
const AUTHORITY_LIMIT: usize = 512;

/// A target, taken apart.
pub(super) struct Target<'b> {
    pub(super) form: TargetForm,
    /// The authority of an absolute-form target; empty otherwise.
    pub(super) authority: &'b str,
    /// Path and query as sent. In absolute-form the path may be empty.
    pub(super) path_and_query: &'b str,
}

impl<'b> Target<'b> {
    pub(super) fn parse(target: &'b str, method: Method<'_>) -> Result<Self, Violation> {
        // A fragment is never sent (RFC 9110 section 7.1); upstreams disagree on what a `#` means here.
        if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            return Err(Violation::malformed("a byte in the request target that is not allowed there"));
        }
        if target.starts_with('/') {
            return Ok(Self { form: TargetForm::Origin, authority: "", path_and_query: target });
        }
        if target == "*" && method.is_options() {
            return Ok(Self { form: TargetForm::Asterisk, authority: "", path_and_query: target });
        }
        let rest = after_scheme(target)
            .ok_or(Violation::malformed("the request target is neither a path nor an http(s) URI"))?;
        let (authority, path_and_query) =
            rest.split_at_checked(rest.find(['/', '?']).unwrap_or(rest.len())).unwrap_or((rest, ""));
        // RFC 9110 section 4.2.1: an empty host is invalid. User information is refused with it: no `@` is
        // let through.
        if authority.is_empty() || !is_authority(authority) {
            return Err(Violation::malformed("the request target has no valid authority"));
        }
        Ok(Self { form: TargetForm::Absolute, authority, path_and_query })
    }
}

/// Whether this is `uri-host [":" port]` (RFC 9110 section 7.2), without commas, which RFC 3986 allows in
/// names and lists of hosts are made of.
pub(super) fn is_authority(authority: &str) -> bool {
    if authority.len() > AUTHORITY_LIMIT {
        return false;
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let Some((literal, port)) = rest.split_once(']') else { return false };
            if !is_ip_literal(literal) {
                return false;
            }
            (literal, port)
        }
        None => {
            let (host, port) = authority
                .split_at_checked(authority.bytes().position(|byte| byte == b':').unwrap_or(authority.len()))
                .unwrap_or((authority, ""));
            if !is_reg_name(host) {
                return false;
            }
            (host, port)
        }
    };
    !host.is_empty() && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

/// What follows `http://` or `https://`.
fn after_scheme(target: &str) -> Option<&str> {
    ["http://", "https://"].into_iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    })
}

fn is_port(digits: &str) -> bool {
    digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits.is_empty() || digits.parse::<u16>().is_ok())
}

/// What may stand in the brackets (RFC 3986 section 3.2.2): an IPv6 address. Zones and future versions are
/// for nobody's `Host`.
fn is_ip_literal(literal: &str) -> bool {
    literal.parse::<core::net::Ipv6Addr>().is_ok()
}

/// Whether a byte may stand in a registered name for itself.
const IN_REG_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128u8 {
        let is_mark =
            matches!(byte, b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*');
        table[byte as usize] = byte.is_ascii_alphanumeric() || is_mark || matches!(byte, b'+' | b';' | b'=');
        byte += 1;
    }
    table
};

/// RFC 3986 section 3.2.2 without the comma. Percent-encoding must be complete.
fn is_reg_name(name: &str) -> bool {
    // Nearly all have nothing to decode.
    if name.bytes().all(|byte| IN_REG_NAME[usize::from(byte)]) {
        return true;
    }
    let mut rest = name.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = match (byte, tail) {
            (b'%', [high, low, tail @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => tail,
            _ if IN_REG_NAME[usize::from(*byte)] => tail,
            _ => return false,
        };
    }
    true
}
