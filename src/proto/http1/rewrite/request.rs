//! The heads of requests, as the hub writes them for agents and the agent for its upstream.

use alloc::vec::Vec;
use core::net::IpAddr;

use super::super::cors;
use super::super::credentials::Credentials;
use super::super::fields::{Class, Field, is_like};
use super::super::head::{self, RequestHead};
use super::super::put;
use super::super::url::{At, Url, first_authority};
use super::{ADDED, framing_field, via};
use crate::config::SetField;

/// How an expectation of the application goes on (RFC 9110 section 10.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectForward {
    /// Not at all: it was met here, or there was none.
    Drop,
    /// To the upstream, which answers it.
    EndToEnd,
    /// To the agent, which answers it itself once its upstream connection stands.
    Connect,
}

/// What the hub knows of a request beyond its head.
#[derive(Clone, Copy, Debug)]
pub struct ToAgent<'a> {
    /// What this hub is called in `Via`.
    pub name: &'a str,
    /// The address that it came from.
    pub client: IpAddr,
    /// Whether it came over TLS.
    pub secure: bool,
    /// Whether it came from a trusted proxy, whose forwarding fields are kept.
    pub trusted: bool,
    /// The fields that held keys of the hub.
    pub spent: Credentials,
    /// Whether the hub speaks for its upstreams to the page that sent this: then they hear nothing of it.
    pub hides_origin: bool,
    /// What becomes of its expectation.
    pub expect: ExpectForward,
    /// What it is called.
    pub id: &'a str,
}

impl ToAgent<'_> {
    /// Whether a field was meant for the hub alone.
    fn keeps(&self, name: &str, class: Class) -> bool {
        self.spent.has(name) || self.hides_origin && (class == Class::Origin || cors::is_request_field(name))
    }
}

/// Writes the head of an application's request for the agent: what a hub does. Always HTTP/1.1, origin-form
/// or `*`.
pub fn request_to_agent(head: &RequestHead<'_, '_>, how: &ToAgent<'_>, out: &mut Vec<u8>) {
    request_line(head, "", head.authority().as_bytes(), out);
    let (mut has_proto, mut has_host) = (false, false);
    let keeps_some = how.hides_origin || how.spent != Credentials::NONE;
    for (field, class) in head.fields.classified() {
        let goes_on = match class {
            Class::Challenge
            | Class::EndToEnd
            | Class::Location
            | Class::Origin
            | Class::ProxyStatus
            | Class::Referer
            | Class::Via => true,
            Class::Authorization => true,
            Class::MaxForwards => {
                max_forwards(head, field, out);
                false
            }
            Class::Forwarded => how.trusted,
            Class::XForwardedProto => {
                has_proto |= how.trusted;
                how.trusted
            }
            Class::XForwardedHost => {
                has_host |= how.trusted;
                how.trusted
            }
            // It gets a member more, in one field, because many applications look at the first field only.
            Class::XForwardedFor => false,
            Class::Connection
            | Class::ContentLength
            | Class::Expect
            | Class::HopByHop
            | Class::Host
            | Class::ProxyChallenge
            | Class::RequestId
            | Class::Slime
            | Class::Te
            | Class::TransferEncoding
            | Class::Twin
            | Class::Upgrade => false,
        };
        if goes_on && !(keeps_some && how.keeps(field.name, class)) {
            put::field(out, field.name, field.value);
        }
    }
    forwarded_for(head, how, out);
    if !has_proto {
        match how.secure {
            true => out.extend_from_slice(b"X-Forwarded-Proto: https\r\n"),
            false => out.extend_from_slice(b"X-Forwarded-Proto: http\r\n"),
        }
    }
    if !has_host && !head.authority().is_empty() {
        put::line(out, b"X-Forwarded-Host: ", head.authority().as_bytes());
    }
    via(head.version, how.name, out);
    put::line(out, b"X-Request-Id: ", how.id.as_bytes());
    request_hop(head, out);
    match how.expect {
        ExpectForward::Drop => {}
        ExpectForward::EndToEnd => out.extend_from_slice(b"Expect: 100-continue\r\n"),
        ExpectForward::Connect => out.extend_from_slice(b"Expect: 100-continue\r\nSlime-Expect: connect\r\n"),
    }
    out.extend_from_slice(b"\r\n");
}

/// What the agent knows of the upstream that a request goes to.
#[derive(Clone, Copy, Debug)]
pub struct ToUpstream<'a> {
    /// Where it is.
    pub at: At<'a>,
    /// Whether it gets the application's `Host` instead, if there is one.
    pub preserve_host: bool,
    /// The value of `Authorization` that replaces the application's.
    pub authorization: Option<&'a str>,
    /// Fields that it gets in place of the application's of the same names.
    pub fields: &'a [SetField],
    /// Whether the upstream is the one to answer the expectation.
    pub keep_expect: bool,
}

/// Writes the head of a request that came through the tunnel for the upstream: what an agent does.
pub fn request_to_upstream(head: &RequestHead<'_, '_>, how: &ToUpstream<'_>, out: &mut Vec<u8>) {
    let preserved = Some(head.authority()).filter(|host| how.preserve_host && !host.is_empty());
    request_line(head, how.at.base_path, preserved.unwrap_or(how.at.authority).as_bytes(), out);
    for (field, class) in head.fields.classified() {
        let goes_on = match class {
            Class::Challenge
            | Class::EndToEnd
            | Class::Forwarded
            | Class::Location
            | Class::ProxyStatus
            | Class::Via
            | Class::XForwardedFor
            | Class::XForwardedHost
            | Class::XForwardedProto => true,
            Class::Authorization => how.authorization.is_none(),
            Class::Expect => how.keep_expect,
            Class::MaxForwards => {
                max_forwards(head, field, out);
                false
            }
            Class::Origin | Class::Referer | Class::RequestId => true,
            Class::Connection
            | Class::ContentLength
            | Class::HopByHop
            | Class::Host
            | Class::ProxyChallenge
            | Class::Slime
            | Class::Te
            | Class::TransferEncoding
            | Class::Twin
            | Class::Upgrade => false,
        };
        if !goes_on || how.fields.iter().any(|set| is_like(field.name, &set.name)) {
            continue;
        }
        let moved = matches!(class, Class::Origin | Class::Referer) && preserved.is_none();
        match Url::parse(field.value).filter(|url| moved && is_own(head, url)) {
            Some(url) => origin(field, class, &url, &how.at, out),
            None => put::field(out, field.name, field.value),
        }
    }
    if let Some(authorization) = how.authorization {
        put::line(out, b"Authorization: ", authorization.as_bytes());
    }
    for set in how.fields {
        put::field(out, &set.name, set.value.as_bytes());
    }
    request_hop(head, out);
    out.extend_from_slice(b"\r\n");
}

/// Whether a URL names the service as the application knows it: by the `Host` that is replaced, or the one
/// that the proxies before it replaced.
fn is_own(head: &RequestHead<'_, '_>, url: &Url<'_>) -> bool {
    let is_named = |(field, class): (&Field<'_>, Class)| {
        class == Class::XForwardedHost && first_authority(field.value).is_some_and(|named| url.is_of(named))
    };
    url.is_of(head.authority()) || head.fields.classified().any(is_named)
}

/// A service that compares `Origin` with `Host` takes a page of its own for a stranger's, unless both are
/// replaced.
fn origin(field: &Field<'_>, class: Class, url: &Url<'_>, at: &At<'_>, out: &mut Vec<u8>) {
    for part in [field.name, ": ", at.scheme.prefix(), at.authority] {
        out.extend_from_slice(part.as_bytes());
    }
    if class == Class::Referer {
        out.extend_from_slice(at.base_path.as_bytes());
    }
    out.extend_from_slice(url.rest());
    out.extend_from_slice(b"\r\n");
}

fn request_line(head: &RequestHead<'_, '_>, base_path: &str, host: &[u8], out: &mut Vec<u8>) {
    let fields: usize = head.fields.iter().map(|field| field.name.len() + field.value.len() + 4).sum();
    out.reserve(head.target.len() + fields + ADDED);
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    let target = head.path_and_query();
    // `*` is about the server, not about anything below its base path.
    if target != "*" {
        out.extend_from_slice(base_path.as_bytes());
    }
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    put::line(out, b"Host: ", host);
}

/// Framing, and what is asked of the next hop alone.
fn request_hop(head: &RequestHead<'_, '_>, out: &mut Vec<u8>) {
    framing_field(head.framing, out);
    // RFC 9110 sections 7.8 and 10.1.4: who sends Upgrade or TE nominates it.
    match (head.trailers_welcome, head.upgrade) {
        (false, None) => {}
        (true, None) => out.extend_from_slice(b"TE: trailers\r\nConnection: TE\r\n"),
        (false, Some(protocol)) => {
            put::line(out, b"Upgrade: ", protocol.as_bytes());
            out.extend_from_slice(b"Connection: Upgrade\r\n");
        }
        (true, Some(protocol)) => {
            put::line(out, b"Upgrade: ", protocol.as_bytes());
            out.extend_from_slice(b"TE: trailers\r\nConnection: Upgrade, TE\r\n");
        }
    }
}

/// `X-Forwarded-For`: what a trusted proxy said of those before it, and its own address; or the client's.
fn forwarded_for(head: &RequestHead<'_, '_>, how: &ToAgent<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"X-Forwarded-For: ");
    if how.trusted {
        for (field, class) in head.fields.classified() {
            if class == Class::XForwardedFor && !field.value.is_empty() {
                out.extend_from_slice(field.value);
                out.extend_from_slice(b", ");
            }
        }
    }
    // An IPv4 client of a listener on `::` is an IPv4 client.
    put::address(out, how.client.to_canonical());
    out.extend_from_slice(b"\r\n");
}

/// One recipient fewer (RFC 9110 section 7.6.2). In other methods, and if it is no number, it says nothing
/// that we heed.
fn max_forwards(request: &RequestHead<'_, '_>, field: &Field<'_>, out: &mut Vec<u8>) {
    match head::max_forwards(field.value).filter(|_| request.max_forwards().is_some()) {
        Some(number) => {
            out.extend_from_slice(b"Max-Forwards: ");
            put::decimal(out, number.saturating_sub(1));
            out.extend_from_slice(b"\r\n");
        }
        None => put::field(out, field.name, field.value),
    }
}
