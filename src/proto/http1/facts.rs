//! What the fields of a head say together, of both kinds of messages.

use super::fields::{Class, Classes, Connection, Field, binds_connection, has_member, members};
use super::framing::Delimiters;
use super::reading::Reading;
use super::start_line::Version;
use super::target::is_authority;
use crate::proto::error::Violation;

/// What one look at each field tells.
#[derive(Default)]
pub(super) struct Facts<'b> {
    pub(super) connection: Connection,
    pub(super) delimiters: Delimiters<'b>,
    pub(super) hosts: usize,
    pub(super) host: &'b [u8],
    pub(super) expects: bool,
    pub(super) trailers_welcome: bool,
    pub(super) upgrades: usize,
    pub(super) protocol: &'b [u8],
    pub(super) has_via: bool,
    pub(super) has_request_id: bool,
    pub(super) binds_connection: bool,
}

impl<'b> Facts<'b> {
    pub(super) fn gather(
        fields: &[Field<'b>],
        classes: &mut Classes,
        reading: Reading,
    ) -> Result<Self, Violation> {
        let mut facts = Self { delimiters: Delimiters::new(reading), ..Self::default() };
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
                Class::Authorization | Class::Challenge | Class::ProxyChallenge => {
                    facts.binds_connection |= binds_connection(field.value);
                }
                Class::Via => facts.has_via = true,
                Class::RequestId => facts.has_request_id = true,
                Class::EndToEnd
                | Class::Forwarded
                | Class::HopByHop
                | Class::Location
                | Class::MaxForwards
                | Class::Origin
                | Class::ProxyStatus
                | Class::Referer
                | Class::Slime
                | Class::Twin
                | Class::XForwardedFor
                | Class::XForwardedHost
                | Class::XForwardedProto => {}
            }
        }
        facts.connection.mark(fields, classes);
        Ok(facts)
    }

    /// The value of `Host` (RFC 9112 section 3.2): exactly one in HTTP/1.1, at most one in HTTP/1.0. An empty
    /// one is legal.
    pub(super) fn authority(&self, version: Version) -> Result<&'b str, Violation> {
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

    pub(super) fn persistent(&self, version: Version) -> bool {
        !self.connection.close && (version == Version::Http11 || self.connection.keep_alive)
    }

    /// RFC 9110 section 10.1.1: there is one expectation, and HTTP/1.0 has none.
    pub(super) fn expect_continue(
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
    pub(super) fn upgrade(&self, version: Version) -> Option<&'b [u8]> {
        (version == Version::Http11 && self.connection.upgrade && self.upgrades == 1).then_some(self.protocol)
    }
}
