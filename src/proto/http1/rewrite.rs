//! Heads as they go on (RFC 9110 section 7.6): written anew from the parsed fields, so that the next hop reads the message that
//! was judged here and no other.
//!
//! Spelling and order of the fields that go on are kept, and so are bytes beyond ASCII in their values. What we set
//! ourselves comes last, save `Host`, which comes first (RFC 9110 section 7.2).

use core::net::IpAddr;

use super::fields::{Class, speaks_as_slime};
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
pub struct ToAgent<'a> {
    /// What this hub is called in `Via`.
    pub name: &'a str,
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
pub fn request_to_agent(head: &RequestHead<'_, '_>, how: &ToAgent<'_>, out: &mut Vec<u8>) {
    request_line(head, "", head.authority().as_bytes(), out);
    let (mut has_proto, mut has_host) = (false, false);
    for (field, class) in classified(head.fields, head.classes) {
        let goes_on = match class {
            Class::EndToEnd | Class::Challenge | Class::ProxyStatus | Class::Via => true,
            Class::Authorization => !how.drop_authorization,
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
            | Class::Slime
            | Class::Te
            | Class::TransferEncoding
            | Class::Twin
            | Class::Upgrade => false,
        };
        if goes_on {
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
            Class::Challenge
            | Class::EndToEnd
            | Class::Forwarded
            | Class::ProxyStatus
            | Class::Via
            | Class::XForwardedFor
            | Class::XForwardedHost
            | Class::XForwardedProto => true,
            Class::Authorization => how.authorization.is_none(),
            Class::MaxForwards => {
                max_forwards(head, field, out);
                false
            }
            Class::Expect => how.keep_expect,
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
        if goes_on {
            put::field(out, field.name, field.value);
        }
    }
    if let Some(authorization) = how.authorization {
        put::line(out, b"Authorization: ", authorization.as_bytes());
    }
    request_hop(head, out);
    out.extend_from_slice(b"\r\n");
}

/// Writes the head of an upstream's response for the hub: what an agent does. `framing` is that of the body as it goes on.
pub fn response_to_hub(head: &ResponseHead<'_, '_>, framing: Framing, out: &mut Vec<u8>) {
    status_line(head, out);
    response_fields(head, Speaker::Upstream, out);
    response_hop(head, framing, out);
    out.extend_from_slice(b"\r\n");
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
    /// Whether the client's connection may be used again. It cannot after a body that is delimited by its end.
    pub persistent: bool,
}

/// Writes the head of a response for the client: what a hub does. Always HTTP/1.1. Interim responses say nothing of the
/// connection or of a body.
pub fn response_to_client(head: &ResponseHead<'_, '_>, how: &ToClient<'_>, out: &mut Vec<u8>) {
    status_line(head, out);
    response_fields(head, Speaker::Agent, out);
    put::line(out, b"Slime-Agent-Id: ", how.agent_id.as_bytes());
    via(head.version, how.name, out);
    response_hop(head, how.framing, out);
    if head.status >= 200 {
        match (how.version, how.persistent && how.framing != Framing::UntilClose) {
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
        for (field, class) in classified(head.fields, head.classes) {
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
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaker {
    Agent,
    /// It does not speak for us.
    Upstream,
}

/// The fields of a response that go on.
fn response_fields(head: &ResponseHead<'_, '_>, speaker: Speaker, out: &mut Vec<u8>) {
    for (field, class) in classified(head.fields, head.classes) {
        let goes_on = match class {
            Class::Authorization
            | Class::Challenge
            | Class::EndToEnd
            | Class::Expect
            | Class::Forwarded
            | Class::Host
            | Class::MaxForwards
            | Class::Twin
            | Class::Via
            | Class::XForwardedFor
            | Class::XForwardedHost
            | Class::XForwardedProto => true,
            Class::ProxyStatus => speaker == Speaker::Agent || !speaks_as_slime(field.value),
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

/// One recipient fewer (RFC 9110 section 7.6.2). In other methods, and if it is no number, it says nothing that we heed.
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

/// The hub's member of `Via` (RFC 9110 section 7.6.3): the version that the message came in, and what the hub is called.
fn via(received: Version, name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(match received {
        Version::Http10 => b"Via: 1.0 ",
        Version::Http11 => b"Via: 1.1 ",
    });
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn classified<'s, 'b>(
    fields: &'s [Field<'b>],
    classes: &'s [Class],
) -> impl Iterator<Item = (&'s Field<'b>, Class)> {
    fields.iter().zip(classes.iter().copied())
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::super::head::Storage;
    use super::*;

    const HOW: ToAgent<'_> = ToAgent {
        name: "slime",
        client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        secure: true,
        trusted: false,
        drop_authorization: false,
        expect: ExpectForward::Drop,
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
             X-Forwarded-For: 10.0.0.1, 10.0.0.2, 10.0.0.3, 192.0.2.7\r\nVia: 1.1 slime\r\n\r\n"
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
        assert!(!to_agent(head, &ToAgent { drop_authorization: true, ..HOW }).contains("x\r\n"));
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
            authority: "up",
            preserve_host: false,
            base_path: "",
            authorization: None,
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
            authority: "up:8080",
            preserve_host: false,
            base_path: "/base",
            authorization: Some("Basic eA=="),
            keep_expect: false,
        };
        assert_eq!(
            to_upstream(head, &how),
            "GET /base/v1/x?y HTTP/1.1\r\nHost: up:8080\r\nX-Forwarded-For: 1\r\nVia: 1.1 slime\r\n\
             Authorization: Basic eA==\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        let preserved = ToUpstream { preserve_host: true, base_path: "", authorization: None, ..how };
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
                &ToClient { name: "slime", agent_id: "gpu-1", version, framing, persistent },
                &mut out,
            );
            let expected = format!("HTTP/1.1 200 OK\r\nSlime-Agent-Id: gpu-1\r\nVia: 1.1 slime\r\n{hop}");
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
        };
        let mut out = Vec::new();
        response_to_client(&head, &how, &mut out);
        assert_eq!(
            out,
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\nSlime-Agent-Id: a\r\nVia: 1.1 slime\r\n\r\n"
        );
        out.clear();
        response_to_hub(&head, Framing::None, &mut out);
        assert_eq!(out, b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n");
    }
}
