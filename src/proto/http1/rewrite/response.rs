//! The heads of responses, as the agent writes them for the hub and the hub for its clients.

use alloc::vec::Vec;

use super::super::cors::{self, Sharing};
use super::super::fields::{Class, Field, speaks_as_slime};
use super::super::framing::Framing;
use super::super::head::ResponseHead;
use super::super::put;
use super::super::start_line::Version;
use super::super::url::{At, seen_from_outside};
use super::{ADDED, framing_field, via};

/// What an agent knows of a response beyond its head, where the application's authority was replaced.
#[derive(Clone, Copy, Debug)]
pub struct FromUpstream<'a> {
    /// Where the upstream is.
    pub at: At<'a>,
    /// Scheme and authority by which the application knows it.
    pub origin: &'a str,
}

/// Writes the head of an upstream's response for the hub: what an agent does. `framing` is that of the body
/// as it goes on. A `Location` at the upstream becomes one at the address that the application knows, if that
/// is told.
pub fn response_to_hub(
    head: &ResponseHead<'_, '_>,
    framing: Framing,
    from: Option<&FromUpstream<'_>>,
    out: &mut Vec<u8>,
) {
    begin_response_to_hub(head, framing, from, out);
    out.extend_from_slice(b"\r\n");
}

/// As [`response_to_hub`], for the last response on its tunnel (RFC 9112 section 9.6).
pub fn last_response_to_hub(
    head: &ResponseHead<'_, '_>,
    framing: Framing,
    from: Option<&FromUpstream<'_>>,
    out: &mut Vec<u8>,
) {
    begin_response_to_hub(head, framing, from, out);
    out.extend_from_slice(b"Connection: close\r\n\r\n");
}

/// All of it but what may follow of its last fields, and the empty line.
fn begin_response_to_hub(
    head: &ResponseHead<'_, '_>,
    framing: Framing,
    from: Option<&FromUpstream<'_>>,
    out: &mut Vec<u8>,
) {
    status_line(head, out);
    response_fields(head, Speaker::Upstream(from), out);
    response_hop(head, framing, out);
}

/// What the hub knows of a response beyond its head.
#[derive(Clone, Copy, Debug)]
pub struct ToClient<'a> {
    /// What this hub is called in `Via`.
    pub name: &'a str,
    /// The agent that it came through.
    pub agent_id: &'a str,
    /// The version of the client.
    pub version: Version,
    /// How the body goes on.
    pub framing: Framing,
    /// Whether the client's connection may be used again. It cannot after a body that is delimited by its
    /// end.
    pub persistent: bool,
    /// Which pages may see it, where the hub speaks for its upstreams.
    pub sharing: Option<Sharing<'a>>,
    /// What its request is called.
    pub id: &'a str,
    /// How long it took.
    pub timing: Timing,
}

/// How long a request has taken until the head of its response.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// How long it waited for a worker, in milliseconds.
    pub queue: u64,
    /// How long the worker took, in milliseconds.
    pub head: u64,
}

/// Writes the head of a response for the client: what a hub does. Always HTTP/1.1. Interim responses say
/// nothing of the connection or of a body.
pub fn response_to_client(head: &ResponseHead<'_, '_>, how: &ToClient<'_>, out: &mut Vec<u8>) {
    status_line(head, out);
    response_fields(head, Speaker::Agent { speaks_cors: how.sharing.is_none() }, out);
    put::line(out, b"Slime-Agent-Id: ", how.agent_id.as_bytes());
    via(head.version, how.name, out);
    put::line(out, b"X-Request-Id: ", how.id.as_bytes());
    if head.status >= 200 {
        server_timing(how.timing, out);
    }
    response_hop(head, how.framing, out);
    if head.status >= 200 {
        if let Some(sharing) = &how.sharing {
            sharing.write(out);
        }
        match (how.version, how.persistent && how.framing != Framing::UntilClose) {
            (Version::Http11, true) => {}
            (Version::Http10, true) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
            (Version::Http10 | Version::Http11, false) => out.extend_from_slice(b"Connection: close\r\n"),
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// What browsers show of it (W3C Server Timing), beside what the upstream said of itself.
fn server_timing(timing: Timing, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Server-Timing: queue;dur=");
    put::decimal(out, timing.queue);
    out.extend_from_slice(b", head;dur=");
    put::decimal(out, timing.head);
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

/// Who wrote the response that goes on.
#[derive(Clone, Copy)]
enum Speaker<'a> {
    /// The hub may have taken it over to speak of other origins.
    Agent { speaks_cors: bool },
    /// It does not speak for us.
    Upstream(Option<&'a FromUpstream<'a>>),
}

/// The fields of a response that go on.
fn response_fields(head: &ResponseHead<'_, '_>, speaker: Speaker<'_>, out: &mut Vec<u8>) {
    // One is moved: there is no more room on the tunnel.
    let mut moved = false;
    for (field, class) in head.fields.classified() {
        let goes_on = match class {
            Class::Authorization
            | Class::Challenge
            | Class::Expect
            | Class::Forwarded
            | Class::Host
            | Class::MaxForwards
            | Class::Origin
            | Class::Referer
            | Class::Twin
            | Class::Via
            | Class::XForwardedFor
            | Class::XForwardedHost
            | Class::XForwardedProto => true,
            Class::EndToEnd => {
                !matches!(speaker, Speaker::Agent { speaks_cors: false }) || !cors::is_field(field.name)
            }
            Class::Location => {
                let is_moved = match speaker {
                    Speaker::Upstream(Some(from)) if !moved => location(field, from, out),
                    Speaker::Upstream(_) | Speaker::Agent { .. } => false,
                };
                moved |= is_moved;
                !is_moved
            }
            // The hub says it.
            Class::RequestId => matches!(speaker, Speaker::Upstream(_)),
            Class::ProxyStatus => matches!(speaker, Speaker::Agent { .. }) || !speaks_as_slime(field.value),
            // RFC 9110 section 15.5.22: it says what to upgrade to.
            Class::Upgrade => head.names_upgrades,
            Class::Connection
            | Class::ContentLength
            | Class::HopByHop
            | Class::ProxyChallenge
            | Class::Slime
            | Class::Te
            | Class::TransferEncoding => false,
        };
        match (goes_on, head.is_folded) {
            (true, false) => put::field(out, field.name, field.value),
            (true, true) => put::unfolded(out, field.name, field.value),
            (false, _) => {}
        }
    }
}

/// Writes a `Location` that leads to the upstream as one that leads back through the hub. False if it leads
/// elsewhere.
fn location(field: &Field<'_>, from: &FromUpstream<'_>, out: &mut Vec<u8>) -> bool {
    let begin = out.len();
    out.extend_from_slice(field.name.as_bytes());
    out.extend_from_slice(b": ");
    let is_moved = seen_from_outside(field.value, &from.at, from.origin, out);
    if is_moved {
        out.extend_from_slice(b"\r\n");
    } else {
        out.truncate(begin);
    }
    is_moved
}

fn response_hop(head: &ResponseHead<'_, '_>, framing: Framing, out: &mut Vec<u8>) {
    if let Some(length) = head.length_of_get {
        framing_field(Framing::Length(length), out);
    } else if head.framing != Framing::None {
        framing_field(framing, out);
    }
    if let Some(protocol) = head.upgrade {
        put::line(out, b"Upgrade: ", protocol.as_bytes());
        out.extend_from_slice(b"Connection: Upgrade\r\n");
    } else if head.names_upgrades {
        out.extend_from_slice(b"Connection: Upgrade\r\n");
    }
}
