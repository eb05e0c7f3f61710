//! Upstream connections that were kept, and die.

use std::time::Duration;

use super::{GET, OK, POST};
use crate::framing::assert_own;
use crate::harness::{Message, RawUpstream, Rig, Wire, respond};

/// An upstream on which one connection was used and is kept.
fn with_kept_connection() -> (Rig<RawUpstream>, Wire) {
    let rig = Rig::raw();
    let (mut client, mut upstream, _) = rig.begin(GET);
    upstream.send(OK);
    client.response();
    (rig, upstream)
}

#[test]
fn a_kept_connection_that_dies_in_use_does_not_show() {
    for reset in [false, true] {
        for request in [
            GET,
            "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody",
            "POST / HTTP/1.1\r\nHost: h\r\nIdempotency-Key: x\r\nContent-Length: 4\r\n\r\nbody",
        ] {
            let (rig, mut kept) = with_kept_connection();
            let mut client = rig.hub.client_sending(request);
            let seen = kept.request();
            if reset {
                kept.reset()
            } else {
                drop(kept)
            }
            let mut fresh = rig.upstream.accept();
            let again = fresh.request();
            assert_eq!((again.head.raw, again.body), (seen.head.raw, seen.body));
            fresh.send(OK);
            assert_eq!(client.response().text(), "ok");
        }
    }
}

#[test]
fn a_kept_connection_that_dies_in_use_never_runs_a_request_twice() {
    for reset in [false, true] {
        let (rig, mut kept) = with_kept_connection();
        let mut client = rig.hub.client_sending(POST);
        // Used within a second of the last one, so the kept connection is good enough.
        let message: Message = kept.request();
        assert_eq!(message.text(), "body");
        if reset {
            kept.reset()
        } else {
            drop(kept)
        }
        assert_own(&client.response(), 502);
        assert!(rig.upstream.try_accept(Duration::from_millis(300)).is_none(), "it ran twice");
    }
}

#[test]
fn a_request_that_may_not_be_retried_takes_no_old_connection() {
    let (rig, mut kept) = with_kept_connection();
    // A second has to pass; nothing tells when it has.
    std::thread::sleep(Duration::from_millis(1200));
    let mut client = rig.hub.client_sending(POST);
    let mut fresh = rig.upstream.accept();
    assert_eq!(respond(&mut fresh), "/");
    assert_eq!(client.response().status(), 200);
    assert!(!kept.has_bytes());
}
