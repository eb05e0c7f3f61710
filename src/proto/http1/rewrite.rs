//! Heads as they go on (RFC 9110 section 7.6): written anew from the parsed fields, so that the next hop
//! reads the message that was judged here and no other.
//!
//! Spelling and order of the fields that go on are kept, and so are bytes beyond ASCII in their values. What
//! we set ourselves comes last, save `Host`, which comes first (RFC 9110 section 7.2).

use alloc::vec::Vec;
use core::net::IpAddr;

use super::cors::{self, Sharing};
use super::credentials::Credentials;
use super::fields::Field;
use super::fields::{Class, is_like, speaks_as_slime};
use super::framing::Framing;
use super::head::{RequestHead, ResponseHead};
use super::put;
use super::start_line::Version;
use super::url::{At, Url, first_authority, seen_from_outside};
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

/// One recipient fewer (RFC 9110 section 7.6.2). In other methods, and if it is no number, it says nothing
/// that we heed.
fn max_forwards(head: &RequestHead<'_, '_>, field: &Field<'_>, out: &mut Vec<u8>) {
    match super::head::max_forwards(field.value).filter(|_| head.max_forwards().is_some()) {
        Some(number) => {
            out.extend_from_slice(b"Max-Forwards: ");
            put::decimal(out, number.saturating_sub(1));
            out.extend_from_slice(b"\r\n");
        }
        None => put::field(out, field.name, field.value),
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

/// The hub's member of `Via` (RFC 9110 section 7.6.3): the version that the message came in, and what the hub
/// is called.
fn via(received: Version, name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(match received {
        Version::Http10 => b"Via: 1.0 ",
        Version::Http11 => b"Via: 1.1 ",
    });
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::super::cors::{Grant, Origins};
    use super::super::credentials::Credential;
    use super::super::storage::Storage;
    use super::super::url::Scheme;
    use super::*;

    const OURS: &str = "X-Request-Id: r-1\r\nServer-Timing: queue;dur=0, head;dur=0\r\n";
    const HOW: ToAgent<'_> = ToAgent {
        name: "slime",
        client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        secure: true,
        trusted: false,
        spent: Credentials::NONE,
        hides_origin: false,
        expect: ExpectForward::Drop,
        id: "r-1",
    };

    fn to_agent(head: &str, how: &ToAgent<'_>) -> String {
        let mut storage = Storage::new();
        let mut out = Vec::new();
        request_to_agent(&RequestHead::parse(head.as_bytes(), &mut storage).unwrap(), how, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn to_upstream(head: &str, how: &ToUpstream<'_>) -> String {
        let mut storage = Storage::on_tunnel();
        let mut out = Vec::new();
        request_to_upstream(&RequestHead::parse(head.as_bytes(), &mut storage).unwrap(), how, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_trusted_proxy_is_continued() {
        let head = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.1, 10.0.0.2\r\nForwarded: for=x\r\nx-forwarded-for:\r\n\
                    X-Forwarded-For: 10.0.0.3\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: b\r\n\r\n";
        assert_eq!(
            to_agent(head, &ToAgent { trusted: true, ..HOW }),
            "GET / HTTP/1.1\r\nHost: a\r\nForwarded: for=x\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: b\r\n\
             X-Forwarded-For: 10.0.0.1, 10.0.0.2, 10.0.0.3, 192.0.2.7\r\nVia: 1.1 slime\r\nX-Request-Id: r-1\r\n\r\n"
        );
        assert_eq!(
            to_agent("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &ToAgent { trusted: true, ..HOW }),
            to_agent("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &HOW)
        );
    }

    #[test]
    fn the_client_is_named_as_it_connected() {
        for (client, name) in [
            (IpAddr::V6(Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped()), "X-Forwarded-For: 192.0.2.7\r\n"),
            (IpAddr::V6(Ipv6Addr::LOCALHOST), "X-Forwarded-For: ::1\r\n"),
        ] {
            let sent = to_agent("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &ToAgent { client, ..HOW });
            assert!(sent.contains(name) && sent.contains("X-Forwarded-Proto: https\r\n"), "{sent}");
        }
    }

    #[test]
    fn credentials_for_the_hub_stop_there() {
        let head = "GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\nSlime-App-Password: x\r\n\r\n";
        assert!(to_agent(head, &HOW).contains("\r\nAuthorization: Bearer x\r\n"));
        let mut spent = Credentials::NONE;
        spent.insert(Credential::Authorization);
        assert!(!to_agent(head, &ToAgent { spent, ..HOW }).contains("x\r\n"));
    }

    #[test]
    fn an_expectation_goes_where_it_is_met() {
        let head = "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\nSlime-Expect: x\r\n\r\n";
        assert!(!to_agent(head, &HOW).contains("Expect"));
        let end_to_end = to_agent(head, &ToAgent { expect: ExpectForward::EndToEnd, ..HOW });
        assert!(end_to_end.contains("\r\nExpect: 100-continue\r\n") && !end_to_end.contains("Slime-"));
        let connect = to_agent(head, &ToAgent { expect: ExpectForward::Connect, ..HOW });
        assert!(connect.contains("\r\nExpect: 100-continue\r\nSlime-Expect: connect\r\n"));

        let how = ToUpstream {
            at: At { scheme: Scheme::Http, authority: "up", base_path: "" },
            preserve_host: false,
            authorization: None,
            fields: &[],
            keep_expect: false,
        };
        assert!(!to_upstream(&connect, &how).contains("xpect"));
        assert_eq!(
            to_upstream(&end_to_end, &ToUpstream { keep_expect: true, ..how }).matches("xpect").count(),
            1
        );
    }

    #[test]
    fn the_upstream_gets_its_own_host_path_and_credentials() {
        let head = "GET /v1/x?y HTTP/1.1\r\nHost: app\r\nAuthorization: Bearer a\r\nX-Forwarded-For: 1\r\nVia: 1.1 slime\r\n\
                    Slime-Heartbeat: ?1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let how = ToUpstream {
            at: At { scheme: Scheme::Http, authority: "up:8080", base_path: "/base" },
            preserve_host: false,
            authorization: Some("Basic eA=="),
            fields: &[],
            keep_expect: false,
        };
        assert_eq!(
            to_upstream(head, &how),
            "GET /base/v1/x?y HTTP/1.1\r\nHost: up:8080\r\nX-Forwarded-For: 1\r\nVia: 1.1 slime\r\n\
             Authorization: Basic eA==\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        let at = At { base_path: "", ..how.at };
        let preserved = ToUpstream { at, preserve_host: true, authorization: None, ..how };
        assert!(
            to_upstream(head, &preserved)
                .starts_with("GET /v1/x?y HTTP/1.1\r\nHost: app\r\nAuthorization: Bearer a\r\n")
        );
        let nameless = "OPTIONS * HTTP/1.1\r\nHost: \r\n\r\n";
        assert_eq!(
            to_upstream(nameless, &ToUpstream { preserve_host: true, authorization: None, ..how }),
            "OPTIONS * HTTP/1.1\r\nHost: up:8080\r\n\r\n"
        );
    }

    #[test]
    fn old_clients_are_told_what_becomes_of_the_connection() {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
        let mut storage = Storage::on_tunnel();
        let head = ResponseHead::parse(head, &mut storage, false).unwrap();
        for (version, framing, persistent, hop) in [
            (Version::Http11, Framing::Chunked, true, "Transfer-Encoding: chunked\r\n\r\n"),
            (
                Version::Http11,
                Framing::Chunked,
                false,
                "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
            ),
            (Version::Http10, Framing::UntilClose, true, "Connection: close\r\n\r\n"),
            (
                Version::Http10,
                Framing::Length(5),
                true,
                "Content-Length: 5\r\nConnection: keep-alive\r\n\r\n",
            ),
        ] {
            let mut out = Vec::new();
            response_to_client(
                &head,
                &ToClient {
                    name: "slime",
                    agent_id: "gpu-1",
                    version,
                    framing,
                    persistent,
                    sharing: None,
                    id: "r-1",
                    timing: Timing { queue: 12, head: 3400 },
                },
                &mut out,
            );
            let expected = format!(
                "HTTP/1.1 200 OK\r\nSlime-Agent-Id: gpu-1\r\nVia: 1.1 slime\r\nX-Request-Id: r-1\r\n\
                 Server-Timing: queue;dur=12, head;dur=3400\r\n{hop}"
            );
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn the_hub_speaks_of_origins_for_its_upstreams() {
        let request =
            "GET / HTTP/1.1\r\nHost: a\r\nOrigin: https://b\r\naccess-control-request-method: GET\r\n\r\n";
        assert!(
            to_agent(request, &HOW).contains("Origin: https://b\r\naccess-control-request-method: GET\r\n")
        );
        let hidden = to_agent(request, &ToAgent { hides_origin: true, ..HOW });
        assert!(!hidden.contains("Origin") && !hidden.contains("access-control"), "{hidden}");

        let response = b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: null\r\naccess-control-max-age: 1\r\nVary: A\r\n\r\n";
        let origins = Origins::Listed(vec!["https://b".to_owned()]);
        let exposed =
            "Access-Control-Expose-Headers: X-Request-Id, Retry-After, Server-Timing, Slime-Agent-Id\r\n";
        let granted = format!("Access-Control-Allow-Origin: https://b\r\n{exposed}Vary: Origin\r\n");
        let all = format!("Access-Control-Allow-Origin: *\r\n{exposed}");
        for (origins, grant, said) in [
            (&origins, Grant::Nobody, "Vary: Origin\r\n"),
            (&origins, Grant::Listed(0), &granted),
            (&Origins::Any, Grant::Nobody, ""),
            (&Origins::Any, Grant::Everybody, &all),
        ] {
            let mut storage = Storage::on_tunnel();
            let head = ResponseHead::parse(response, &mut storage, false).unwrap();
            let how = ToClient {
                name: "slime",
                agent_id: "a",
                version: Version::Http11,
                framing: Framing::None,
                persistent: true,
                sharing: Some(Sharing { origins, grant }),
                id: "r-1",
                timing: Timing::default(),
            };
            let mut out = Vec::new();
            response_to_client(&head, &how, &mut out);
            let expected = format!(
                "HTTP/1.1 200 OK\r\nVary: A\r\nSlime-Agent-Id: a\r\nVia: 1.1 slime\r\n{OURS}{said}\r\n"
            );
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn interim_responses_say_nothing_of_the_connection() {
        let head = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\nSlime-X: y\r\n\r\n";
        let mut storage = Storage::on_tunnel();
        let head = ResponseHead::parse(head, &mut storage, false).unwrap();
        let how = ToClient {
            name: "slime",
            agent_id: "a",
            version: Version::Http11,
            framing: Framing::None,
            persistent: false,
            sharing: None,
            id: "r-1",
            timing: Timing::default(),
        };
        let mut out = Vec::new();
        response_to_client(&head, &how, &mut out);
        assert_eq!(
            out,
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\nSlime-Agent-Id: a\r\nVia: 1.1 slime\r\nX-Request-Id: r-1\r\n\r\n"
        );
        out.clear();
        response_to_hub(&head, Framing::None, None, &mut out);
        assert_eq!(out, b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n");
    }

    #[test]
    fn origin_and_referer_are_replaced_with_host() {
        let how = ToUpstream {
            at: At { scheme: Scheme::Https, authority: "up:8188", base_path: "/base" },
            preserve_host: false,
            authorization: None,
            fields: &[],
            keep_expect: false,
        };
        let head = |fields: &str| format!("POST /x HTTP/1.1\r\nHost: app:8080\r\n{fields}\r\n");
        let start = "POST /base/x HTTP/1.1\r\nHost: up:8188\r\n";
        for (came, went) in [
            ("Origin: http://app:8080\r\n", "Origin: https://up:8188\r\n"),
            ("origin: https://APP:8080\r\n", "origin: https://up:8188\r\n"),
            ("Referer: http://app:8080/a?b\r\n", "Referer: https://up:8188/base/a?b\r\n"),
            ("Referer: http://app:8080\r\n", "Referer: https://up:8188/base\r\n"),
            ("Origin: null\r\n", "Origin: null\r\n"),
            ("Origin: http://app\r\n", "Origin: http://app\r\n"),
            ("Origin: http://evil.example\r\n", "Origin: http://evil.example\r\n"),
            ("Referer: http://evil/http://app:8080/\r\n", "Referer: http://evil/http://app:8080/\r\n"),
            // The proxy before the hub has replaced the authority, and the hub believed it.
            (
                "X-Forwarded-Host: app.example\r\nOrigin: https://app.example\r\n",
                "X-Forwarded-Host: app.example\r\nOrigin: https://up:8188\r\n",
            ),
        ] {
            assert_eq!(to_upstream(&head(came), &how), format!("{start}{went}\r\n"));
            let preserved = to_upstream(&head(came), &ToUpstream { preserve_host: true, ..how });
            assert!(preserved.ends_with(&format!("\r\nHost: app:8080\r\n{came}\r\n")), "{preserved}");
        }
    }

    #[test]
    fn fields_of_the_agent_replace_the_applications() {
        let set = |name: &str, value: &str| SetField { name: name.to_owned(), value: value.to_owned() };
        let fields = [set("Authorization", "Bearer own"), set("X-Api-Key", "k")];
        let how = ToUpstream {
            at: At { scheme: Scheme::Http, authority: "up", base_path: "" },
            preserve_host: false,
            authorization: None,
            fields: &fields,
            keep_expect: false,
        };
        let head = "GET / HTTP/1.1\r\nHost: app\r\nauthorization: Bearer theirs\r\nX_API_KEY: z\r\nx-api-key: z\r\nX-Api-Keys: y\r\n\r\n";
        let expected = "GET / HTTP/1.1\r\nHost: up\r\nX-Api-Keys: y\r\nAuthorization: Bearer own\r\nX-Api-Key: k\r\n\r\n";
        assert_eq!(to_upstream(head, &how), expected);
    }

    #[test]
    fn a_location_at_the_upstream_leads_back_through_the_hub() {
        let from = FromUpstream {
            at: At { scheme: Scheme::Http, authority: "up:8000", base_path: "" },
            origin: "https://app.example",
        };
        let head = b"HTTP/1.1 307 X\r\nlocation: http://up:8000/docs/\r\nLocation: http://up:8000/y\r\n\r\n";
        let mut storage = Storage::on_tunnel();
        let head = ResponseHead::parse(head, &mut storage, true).unwrap();
        for (from, first) in [(Some(&from), "https://app.example"), (None, "http://up:8000")] {
            let mut out = Vec::new();
            response_to_hub(&head, Framing::None, from, &mut out);
            let expected =
                format!("HTTP/1.1 307 X\r\nlocation: {first}/docs/\r\nLocation: http://up:8000/y\r\n\r\n");
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
