//! Heads as they go on (RFC 9110 section 7.6): written anew from the parsed fields, so that the next hop reads the message that
//! was judged here and no other.
//!
//! Spelling and order of the fields that go on are kept, and so are bytes beyond ASCII in their values. What we set
//! ourselves comes last, save `Host`, which comes first (RFC 9110 section 7.2).

use core::net::IpAddr;

use super::fields::Class;
use super::framing::Framing;
use super::head::{Field, RequestHead, ResponseHead, Version};
use super::put;

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
pub struct ToAgent {
    /// The address that it came from.
    pub client: IpAddr,
    /// Whether it came over TLS.
    pub secure: bool,
    /// Whether it came from a trusted proxy, whose forwarding fields are kept.
    pub trusted: bool,
    /// Whether `Authorization` was meant for the hub.
    pub drop_authorization: bool,
    /// What becomes of its expectation.
    pub expect: ExpectForward,
}

/// Writes the head of an application's request for the agent: what a hub does. Always HTTP/1.1, origin-form or `*`.
pub fn request_to_agent(head: &RequestHead<'_, '_>, how: &ToAgent, out: &mut Vec<u8>) {
    request_line(head, "", head.authority().as_bytes(), out);
    let (mut has_proto, mut has_host) = (false, false);
    for (field, class) in classified(head.fields, head.classes) {
        let goes_on = match class {
            Class::EndToEnd => true,
            Class::Authorization => !how.drop_authorization,
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
            | Class::Slime
            | Class::Te
            | Class::TransferEncoding
            | Class::Upgrade => false,
        };
        if goes_on {
            put::field(out, field.name, field.value);
        }
    }
    forwarded_for(head, how, out);
    if !has_proto {
        put::field(out, "X-Forwarded-Proto", if how.secure { b"https" } else { b"http" });
    }
    if !has_host && !head.authority().is_empty() {
        put::field(out, "X-Forwarded-Host", head.authority().as_bytes());
    }
    put::field(out, "Via", via(head.version));
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
    /// Its `Host`.
    pub authority: &'a str,
    /// Whether it gets the application's `Host` instead, if there is one.
    pub preserve_host: bool,
    /// What stands before every path: empty, or starting with a slash and not ending in one.
    pub base_path: &'a str,
    /// The value of `Authorization` that replaces the application's.
    pub authorization: Option<&'a str>,
    /// Whether the upstream is the one to answer the expectation.
    pub keep_expect: bool,
}

/// Writes the head of a request that came through the tunnel for the upstream: what an agent does.
pub fn request_to_upstream(head: &RequestHead<'_, '_>, how: &ToUpstream<'_>, out: &mut Vec<u8>) {
    let preserved = Some(head.authority()).filter(|host| how.preserve_host && !host.is_empty());
    request_line(head, how.base_path, preserved.unwrap_or(how.authority).as_bytes(), out);
    for (field, class) in classified(head.fields, head.classes) {
        let goes_on = match class {
            Class::EndToEnd
            | Class::Forwarded
            | Class::XForwardedFor
            | Class::XForwardedHost
            | Class::XForwardedProto => true,
            Class::Authorization => how.authorization.is_none(),
            Class::Expect => how.keep_expect,
            Class::Connection
            | Class::ContentLength
            | Class::HopByHop
            | Class::Host
            | Class::Slime
            | Class::Te
            | Class::TransferEncoding
            | Class::Upgrade => false,
        };
        if goes_on {
            put::field(out, field.name, field.value);
        }
    }
    if let Some(authorization) = how.authorization {
        put::field(out, "Authorization", authorization.as_bytes());
    }
    request_hop(head, out);
    out.extend_from_slice(b"\r\n");
}

/// Writes the head of an upstream's response for the hub: what an agent does. `framing` is that of the body as it goes on.
pub fn response_to_hub(head: &ResponseHead<'_, '_>, framing: Framing, out: &mut Vec<u8>) {
    status_line(head, out);
    response_fields(head, out);
    response_hop(head, framing, out);
    out.extend_from_slice(b"\r\n");
}

/// What the hub knows of a response beyond its head.
#[derive(Clone, Copy, Debug)]
pub struct ToClient<'a> {
    /// The agent that it came through.
    pub agent_id: &'a str,
    /// The version of the client.
    pub version: Version,
    /// How the body goes on.
    pub framing: Framing,
    /// Whether the client's connection may be used again.
    pub persistent: bool,
}

/// Writes the head of a response for the client: what a hub does. Always HTTP/1.1. Interim responses say nothing of the
/// connection or of a body.
pub fn response_to_client(head: &ResponseHead<'_, '_>, how: &ToClient<'_>, out: &mut Vec<u8>) {
    status_line(head, out);
    response_fields(head, out);
    put::field(out, "Slime-Agent-Id", how.agent_id.as_bytes());
    put::field(out, "Via", via(head.version));
    response_hop(head, how.framing, out);
    if head.status >= 200 {
        match (how.version, how.persistent) {
            (Version::Http11, true) => {}
            (Version::Http10, true) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
            (Version::Http10 | Version::Http11, false) => out.extend_from_slice(b"Connection: close\r\n"),
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Room for the start line and what we add.
const ADDED: usize = 512;

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
    put::field(out, "Host", host);
}

/// Framing, and what is asked of the next hop alone.
fn request_hop(head: &RequestHead<'_, '_>, out: &mut Vec<u8>) {
    framing_field(head.framing, out);
    // RFC 9110 sections 7.8 and 10.1.4: who sends Upgrade or TE nominates it.
    match (head.trailers_welcome, head.upgrade) {
        (false, None) => {}
        (true, None) => out.extend_from_slice(b"TE: trailers\r\nConnection: TE\r\n"),
        (false, Some(protocol)) => {
            put::field(out, "Upgrade", protocol.as_bytes());
            out.extend_from_slice(b"Connection: Upgrade\r\n");
        }
        (true, Some(protocol)) => {
            put::field(out, "Upgrade", protocol.as_bytes());
            out.extend_from_slice(b"TE: trailers\r\nConnection: Upgrade, TE\r\n");
        }
    }
}

/// `X-Forwarded-For`: what a trusted proxy said of those before it, and its own address; or the client's.
fn forwarded_for(head: &RequestHead<'_, '_>, how: &ToAgent, out: &mut Vec<u8>) {
    out.extend_from_slice(b"X-Forwarded-For: ");
    if how.trusted {
        for (field, class) in classified(head.fields, head.classes) {
            if class == Class::XForwardedFor && !field.value.is_empty() {
                out.extend_from_slice(field.value);
                out.extend_from_slice(b", ");
            }
        }
    }
    // An IPv4 client of a listener on `::` is an IPv4 client.
    put::display(out, how.client.to_canonical());
    out.extend_from_slice(b"\r\n");
}

fn status_line(head: &ResponseHead<'_, '_>, out: &mut Vec<u8>) {
    let fields: usize = head.fields.iter().map(|field| field.name.len() + field.value.len() + 4).sum();
    out.reserve(head.reason.len() + fields + ADDED);
    out.extend_from_slice(b"HTTP/1.1 ");
    put::decimal(out, u64::from(head.status));
    out.push(b' ');
    out.extend_from_slice(head.reason);
    out.extend_from_slice(b"\r\n");
}

/// The fields of a response that go on, at the agent as at the hub.
fn response_fields(head: &ResponseHead<'_, '_>, out: &mut Vec<u8>) {
    for (field, class) in classified(head.fields, head.classes) {
        match class {
            Class::Authorization
            | Class::EndToEnd
            | Class::Expect
            | Class::Forwarded
            | Class::Host
            | Class::XForwardedFor
            | Class::XForwardedHost
            | Class::XForwardedProto => put::field(out, field.name, field.value),
            Class::Connection
            | Class::ContentLength
            | Class::HopByHop
            | Class::Slime
            | Class::Te
            | Class::TransferEncoding
            | Class::Upgrade => {}
        }
    }
}

fn response_hop(head: &ResponseHead<'_, '_>, framing: Framing, out: &mut Vec<u8>) {
    if let Some(length) = head.length_of_get {
        framing_field(Framing::Length(length), out);
    } else if head.framing != Framing::None {
        framing_field(framing, out);
    }
    if let Some(protocol) = head.upgrade {
        put::field(out, "Upgrade", protocol.as_bytes());
        out.extend_from_slice(b"Connection: Upgrade\r\n");
    }
}

fn framing_field(framing: Framing, out: &mut Vec<u8>) {
    match framing {
        Framing::None | Framing::UntilClose => {}
        Framing::Length(length) => {
            out.extend_from_slice(b"Content-Length: ");
            put::decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
}

/// The hub's member of `Via` (RFC 9110 section 7.6.3): the version that the message came in, and a name for its host.
const fn via(received: Version) -> &'static [u8] {
    match received {
        Version::Http10 => b"1.0 slime",
        Version::Http11 => b"1.1 slime",
    }
}

fn classified<'s, 'b>(
    fields: &'s [Field<'b>],
    classes: &'s [Class],
) -> impl Iterator<Item = (&'s Field<'b>, Class)> {
    fields.iter().zip(classes.iter().copied())
}
