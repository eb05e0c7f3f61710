//! Upstream connections that are kept from one request to the next.

use super::serve::{POST, POSTED, TO_UPSTREAM, refusal, serving};
use super::*;
use crate::proto::seam::Unreachable;
use crate::proto::testing::scenario::{GET, OK};

/// A request was served, and the upstream connection is kept.
fn kept() -> (Pair, Raw, Raw) {
    let (mut pair, hub, upstream) = serving(Setup::default(), GET);
    pair.send(upstream, OK);
    assert_eq!(pair.got(hub), OK);
    assert_eq!(pair.ended(upstream), None);
    (pair, hub, upstream)
}

#[test]
fn a_kept_connection_is_used_again_if_it_can_be_trusted() {
    for (request, sent, pause, again) in [
        (GET, TO_UPSTREAM, 900, true),
        (GET, TO_UPSTREAM, 4_900, true),
        (GET, TO_UPSTREAM, 5_600, false),
        (POST, POSTED, 900, true),
        (POST, POSTED, 1100, false),
    ] {
        let (mut pair, hub, upstream) = kept();
        pair.advance(Duration::from_millis(pause));
        pair.send(hub, request);
        assert_eq!(pair.ended(upstream).is_none(), again, "after {pause} ms");
        let upstream = if again { upstream } else { pair.upstream() };
        assert_eq!(pair.got(upstream), sent, "after {pause} ms");
        pair.send(upstream, OK);
        assert_eq!((pair.got(hub).as_str(), pair.arrivals()), (OK, 0));
    }
}

#[test]
fn a_kept_connection_that_nothing_uses_is_closed_whatever_its_worker_does() {
    // The hub is gone, so that the worker does other things meanwhile.
    for hub_leaves in [false, true] {
        let (mut pair, hub, upstream) = kept();
        if hub_leaves {
            pair.to_hub = Reach::Silent;
            pair.close(hub);
        }
        pair.advance(Duration::from_millis(4_900));
        assert_eq!(pair.ended(upstream), None);
        pair.advance(Duration::from_millis(700));
        assert_eq!(pair.ended(upstream), Some(Ended::Fin));
        assert_eq!(pair.agents[0].core.census().upstreams, 0);
    }
}

#[test]
fn a_kept_connection_that_ended_is_not_used() {
    for end in [Pair::close, Pair::reset, Pair::finish] {
        let (mut pair, hub, upstream) = kept();
        end(&mut pair, upstream);
        pair.send(hub, POST);
        let fresh = pair.upstream();
        assert_eq!(pair.got(fresh), POSTED);
        pair.send(fresh, OK);
        assert_eq!(pair.got(hub), OK);
    }
    let (mut pair, hub, upstream) = kept();
    pair.send(upstream, "HTTP/1.1 408 Request Timeout\r\n");
    assert!(pair.ended(upstream).is_some());
    pair.send(hub, GET);
    let fresh = pair.upstream();
    assert_eq!(pair.got(fresh), TO_UPSTREAM);
}

#[test]
fn a_kept_connection_that_dies_under_a_request_is_replaced_once_if_that_is_harmless() {
    for end in [Pair::close, Pair::reset, Pair::finish] {
        let (mut pair, hub, upstream) = kept();
        pair.send(hub, GET);
        end(&mut pair, upstream);
        let fresh = pair.upstream();
        assert_eq!(pair.got(fresh), TO_UPSTREAM);
        end(&mut pair, fresh);
        assert_eq!(pair.arrivals(), 0);
        let got = pair.got(hub);
        assert!(got.starts_with("HTTP/1.1 502 "), "{got}");
        // The tunnel is as good as before.
        assert_eq!(pair.ended(hub), None);
        pair.send(hub, GET);
        let fresh = pair.upstream();
        pair.send(fresh, OK);
        assert_eq!(pair.got(hub), OK);

        let (mut pair, hub, upstream) = kept();
        pair.send(hub, POST);
        assert_eq!(pair.got(upstream), format!("{TO_UPSTREAM}{POSTED}").replace(TO_UPSTREAM, ""));
        end(&mut pair, upstream);
        assert_eq!(pair.arrivals(), 0);
        assert!(pair.got(hub).starts_with("HTTP/1.1 502 "));
    }
}

#[test]
fn a_request_that_the_upstream_may_have_seen_is_never_refused() {
    for end in [Pair::close, Pair::reset, Pair::finish] {
        for partial in ["", "HTTP/1.1 20"] {
            for reach in [Reach::Fails(Unreachable::Refused), Reach::Silent] {
                let (mut pair, hub, upstream) = kept();
                pair.to_upstream = reach;
                pair.send(hub, GET);
                assert_eq!(pair.got(upstream), TO_UPSTREAM);
                pair.send(upstream, partial);
                end(&mut pair, upstream);
                pair.advance(seconds(5));
                let got = pair.got(hub);
                assert!(got.starts_with("HTTP/1.1 502 "), "{got}");
                // No other request comes to an upstream that is gone.
                let reason =
                    if reach == Reach::Silent { "it does not answer" } else { "nothing is listening there" };
                assert!(got.ends_with(&refusal(reason)), "{got}");
            }
        }
    }
}

#[test]
fn the_head_of_an_answer_on_a_fresh_connection_is_its_own() {
    for partial in 0..200 {
        let (mut pair, hub, upstream) = kept();
        pair.send(hub, GET);
        let head = format!("HTTP/1.1 200 OK\r\nX-Long: {}", "x".repeat(200));
        pair.send(upstream, &head[..partial]);
        pair.close(upstream);
        let fresh = pair.upstream();
        assert_eq!(pair.got(fresh), TO_UPSTREAM);
        pair.send(fresh, OK);
        assert_eq!(pair.got(hub), OK, "after {partial} bytes of another head");
    }
}

#[test]
fn a_kept_connection_that_dies_after_an_interim_response_is_not_replaced() {
    // What was held is gone by then, and the application has seen something.
    let (mut pair, hub, upstream) = kept();
    pair.send(hub, GET);
    pair.send(upstream, "HTTP/1.1 103 Early Hints\r\n\r\n");
    pair.close(upstream);
    let got = pair.got(hub);
    assert!(got.starts_with("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 502 "), "{got}");
    assert_eq!(pair.arrivals(), 0);
}

#[test]
fn a_connection_that_was_authenticated_is_not_kept() {
    let request = |field: &str| format!("GET /x HTTP/1.1\r\nHost: app.test\r\n{field}\r\n");
    let response = |field: &str| format!("HTTP/1.1 401 Unauthorized\r\n{field}Content-Length: 0\r\n\r\n");
    for (credential, challenge, is_kept) in [
        ("Authorization: Basic eDp5\r\n", "WWW-Authenticate: Basic realm=\"x\"\r\n", true),
        ("Authorization: Bearer NTLM\r\n", "WWW-Authenticate: Digest realm=\"NTLM\"\r\n", true),
        ("Authorization: NTLM TlRMTVNTUAAB\r\n", "", false),
        ("authorization: negotiate YII=\r\n", "", false),
        ("", "WWW-Authenticate: NTLM\r\n", false),
        ("", "www-authenticate: Basic realm=\"a, b\", Negotiate\r\n", false),
        ("", "WWW-Authenticate: Basic realm=\"x\"\r\nWWW-Authenticate: nTLM TlRM\r\n", false),
        ("", "Proxy-Authenticate: NTLM\r\n", false),
        ("", "WWW-Authenticate: Kerberos\r\n", false),
    ] {
        let (mut pair, hub) = joined(Setup::default());
        pair.got(hub);
        pair.send(hub, request(credential));
        let upstream = pair.upstream();
        pair.got(upstream);
        pair.send(upstream, response(challenge));
        assert!(pair.got(hub).starts_with("HTTP/1.1 401 "));
        assert_eq!(pair.ended(upstream).is_none(), is_kept, "{credential}{challenge}");
    }
    // Nor does a request with such credentials go out on a connection that carried another one.
    let (mut pair, hub, upstream) = kept();
    pair.send(hub, request("Authorization: NTLM TlRMTVNTUAAB\r\n"));
    assert!(pair.ended(upstream).is_some());
    let upstream = pair.upstream();
    assert!(pair.got(upstream).contains("\r\nAuthorization: NTLM "));
}
