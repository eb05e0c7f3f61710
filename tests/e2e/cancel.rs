//! Applications that leave: the upstream stops at once, the worker is free at once, and nothing is sent for
//! them any more.

use std::time::{Duration, Instant};

use crate::harness::{
    Cut, DEADLINE, Hub, RawUpstream, Rig, Wire, alone, join, respond, shared_token, wait_until,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

/// How soon the upstream must see that the application left. It is the middle of several tries that has to be
/// in time.
const SOON: Duration = Duration::from_millis(100);
const TRIES: usize = 5;

/// A way to leave.
#[derive(Clone, Copy, Debug)]
enum Leave {
    Fin,
    Reset,
}

impl Leave {
    fn now(self, client: Wire) {
        match self {
            Self::Fin => drop(client),
            Self::Reset => client.reset(),
        }
    }
}

/// Brings an exchange to a state, leaves in both ways, and checks how soon the upstream connection ends and
/// that the next request is served.
fn leaves(state: &str, begin: impl Fn(&Rig<RawUpstream>) -> (Wire, Wire)) {
    let _alone = alone();
    let rig = Rig::raw();
    for leave in [Leave::Fin, Leave::Reset] {
        let mut times = Vec::new();
        for _ in 0..TRIES {
            let (client, mut upstream) = begin(&rig);
            let start = Instant::now();
            leave.now(client);
            upstream.wait_end();
            times.push(start.elapsed());
            drop(upstream);
            let (request, response) = rig.exchange("GET /next HTTP/1.1\r\nHost: h\r\n\r\n", OK);
            assert_eq!((request.head.target(), response.text().as_str()), ("/next", "ok"));
        }
        times.sort();
        assert!(times[TRIES / 2] < SOON, "{state}, {leave:?}: {times:?}");
    }
}

#[test]
fn before_the_head() {
    leaves("before the head", |rig| {
        let (client, upstream, _) = rig.begin(GET);
        (client, upstream)
    });
}

#[test]
fn while_uploading() {
    leaves("while uploading", |rig| {
        let client = rig
            .hub
            .client_sending("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
        let mut upstream = rig.upstream.accept();
        upstream.request_head();
        assert_eq!(upstream.body_bytes(3), b"abc");
        (client, upstream)
    });
}

#[test]
fn in_mid_stream() {
    leaves("in mid-stream", |rig| {
        let (mut client, mut upstream, _) = rig.begin(GET);
        upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nevent\r\n");
        client.response_head("GET");
        assert_eq!(client.body_bytes(5), b"event");
        (client, upstream)
    });
}

#[test]
fn with_pipelined_bytes_before_the_end() {
    leaves("with pipelined bytes", |rig| {
        let (mut client, mut upstream, _) = rig.begin(GET);
        upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.response_head("GET");
        client.send("GET /pipelined HTTP/1.1\r\nHost: h\r\n\r\n".repeat(3));
        (client, upstream)
    });
}

#[test]
fn with_many_pipelined_bytes_before_the_end() {
    leaves("with many pipelined bytes", |rig| {
        let (mut client, mut upstream, _) = rig.begin(GET);
        upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.response_head("GET");
        // More than any buffer of the hub, so that input is not being read when the end comes.
        client.send("POST /pipelined HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n");
        client.send(vec![b'x'; 60_000]);
        (client, upstream)
    });
}

#[test]
fn under_back_pressure() {
    let _alone = alone();
    let rig = Rig::raw();
    for leave in [Leave::Fin, Leave::Reset] {
        let mut times = Vec::new();
        for _ in 0..TRIES {
            let (client, mut upstream, _) = rig.begin(GET);
            upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
            // Until nothing more fits anywhere.
            let mut writer = upstream.writer();
            writer.tcp().set_write_timeout(Some(Duration::from_millis(300))).unwrap();
            let piece = vec![0; 1 << 20];
            while std::io::Write::write_all(&mut writer, &piece).is_ok() {}
            let start = Instant::now();
            leave.now(client);
            assert!(matches!(upstream.end(), Cut::Eof | Cut::Reset));
            times.push(start.elapsed());
        }
        times.sort();
        assert!(times[TRIES / 2] < SOON, "{leave:?}: {times:?}");
    }
    let (_, response) = rig.exchange(GET, OK);
    assert_eq!(response.text(), "ok");
}

#[test]
fn a_request_whose_sender_left_the_queue_is_never_sent() {
    let rig = Rig::raw();
    for leave in [Leave::Fin, Leave::Reset] {
        for pipelined in [false, true] {
            let (mut first, mut upstream, _) = rig.begin(GET);
            let mut gone = rig.hub.client_sending("GET /gone HTTP/1.1\r\nHost: h\r\n\r\n");
            if pipelined {
                gone.send("GET /gone-too HTTP/1.1\r\nHost: h\r\n\r\n");
            }
            let mut stays = rig.hub.client_sending("GET /stays HTTP/1.1\r\nHost: h\r\n\r\n");
            leave.now(gone);
            rig.hub.settle();
            upstream.send(OK);
            assert_eq!(first.response().text(), "ok");
            assert_eq!(respond(&mut upstream), "/stays");
            assert_eq!(stays.response().text(), "/stays");
            drop(upstream);
        }
    }
}

#[test]
fn who_cancels_and_asks_again_is_served_a_thousand_times() {
    let rig = Rig::raw_with(&["--startup-grace", "0"], &[]);
    let mut client = rig.hub.client_sending("GET / HTTP/1.1\r\nHost: h\r\nSlime-Block: 1\r\n\r\n");
    let mut upstream = rig.upstream.accept();
    respond(&mut upstream);
    client.response();
    drop((client, upstream));
    let (hub_fds, agent_fds) = (rig.hub.fds(), rig.agent.fds());
    for round in 0..1000 {
        let (client, upstream, _) =
            rig.begin(format!("POST /{round} HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"));
        if round % 2 == 0 {
            drop(client)
        } else {
            client.reset()
        }
        // The next one is sent before anybody can have noticed.
        let mut again = rig
            .hub
            .client_sending(format!("POST /again-{round} HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"));
        let mut at = rig.upstream.accept();
        // The cancelled one was over when this one came.
        let mut upstream = upstream;
        let open = upstream.is_silent();
        let target = format!("/again-{round}");
        assert_eq!(at.request().head.target(), target);
        // This connection ends with the round; saying so leaves no doubt about what the next round may use.
        let length = target.len();
        at.send(format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{target}"));
        assert!(!open, "two requests at once at the upstream, round {round}");
        assert_eq!(again.response().text(), target);
    }
    rig.assert_at_rest(hub_fds + 1, agent_fds + 1);
}

#[test]
fn an_upstream_that_cannot_stop_is_heard_out() {
    let rig = Rig::raw_with(&[], &["--on-cancel", "drain"]);
    for started in [false, true] {
        let (mut client, mut upstream, _) = rig.begin(GET);
        if started {
            upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n");
            client.response_head("GET");
        }
        drop(client);
        let mut next = rig.hub.client_sending("GET /next HTTP/1.1\r\nHost: h\r\n\r\n");
        if !started {
            upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n");
        }
        // Nobody reads it, and yet all of it is taken; until then the worker is not free.
        upstream.send(vec![0; 1_999_999]);
        assert!(upstream.is_silent(), "the connection was closed, or a second request came");
        assert!(rig.upstream.try_accept(Duration::from_millis(300)).is_none(), "a second request came");
        upstream.send("x");
        let mut at = next_at(upstream, &rig);
        assert_eq!(respond(&mut at), "/next");
        assert_eq!(next.response().text(), "/next");
    }
}

/// Where the next request comes: on this connection or on another one; both are right.
fn next_at(mut kept: Wire, rig: &Rig<RawUpstream>) -> Wire {
    let mut other = None;
    wait_until("the next request", DEADLINE, || {
        other = rig.upstream.try_accept(Duration::ZERO);
        other.is_some() || kept.has_bytes()
    });
    other.unwrap_or(kept)
}

/// On the tunnel itself: leaving is its end, and the worker comes back with a new one.
#[test]
fn leaving_ends_the_tunnel() {
    let hub = Hub::start(&[]);
    let token = shared_token();
    let mut tunnel = join(&hub, token, "a", 0);
    let client = hub.client_sending(GET);
    tunnel.request();
    drop(client);
    tunnel.end();
    // A client that goes between two requests leaves the tunnel alone.
    let mut tunnel = join(&hub, token, "a", 0);
    let mut client = hub.client_sending(GET);
    respond(&mut tunnel);
    client.response();
    drop(client);
    let mut client = hub.client_sending("GET /2 HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(respond(&mut tunnel), "/2");
    assert_eq!(client.response().text(), "/2");
}

#[test]
fn who_leaves_the_queue_with_a_large_body_is_never_served() {
    let rig = Rig::raw_with(&["--queue-depth", "1"], &[]);
    let (mut busy, mut upstream, _) = rig.begin(GET);
    for size in [300_000, 1 << 20] {
        let head = format!("POST /left HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n");
        let mut left = rig.hub.client_sending(head);
        left.send(vec![b'x'; size]);
        left.finish();
        // Its place is free, though the worker is not.
        let mut next = None;
        wait_until("there is room in the queue", DEADLINE, || {
            let mut client = rig.hub.client_sending("GET /next HTTP/1.1\r\nHost: h\r\n\r\n");
            rig.hub.settle();
            let waits = client.is_silent();
            next = Some(client);
            waits
        });
        upstream.send(OK);
        assert_eq!(busy.response().text(), "ok");
        assert_eq!(upstream.request().head.target(), "/next");
        busy = next.unwrap();
        drop(left);
    }
    upstream.send(OK);
    assert_eq!(busy.response().text(), "ok");
}
