//! Heads as they go on (RFC 9110 section 7.6): written anew from the parsed fields, so that the next hop
//! reads the message that was judged here and no other.
//!
//! Spelling and order of the fields that go on are kept, and so are bytes beyond ASCII in their values. What
//! we set ourselves comes last, save `Host`, which comes first (RFC 9110 section 7.2).

mod request;
mod response;

use alloc::vec::Vec;

pub use request::{ExpectForward, ToAgent, ToUpstream, request_to_agent, request_to_upstream};
pub use response::{
    FromUpstream, Timing, ToClient, last_response_to_hub, response_to_client, response_to_hub,
};

use super::framing::Framing;
use super::put;
use super::start_line::Version;

/// Room for the start line and what we add.
const ADDED: usize = 512;

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
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::super::cors::{Grant, Origins, Sharing};
    use super::super::credentials::{Credential, Credentials};
    use super::super::head::{RequestHead, ResponseHead};
    use super::super::storage::Storage;
    use super::super::url::{At, Scheme};
    use super::*;
    use crate::config::SetField;

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
