//! What is held, waited for and accepted has limits, and at none of them does the hub or the agent fall over.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::framing::assert_own;
use crate::harness::{
    Cut, DEADLINE, Hub, Rig, Wire, assert_quiet, join, reply, respond, secure_hub, shared_token, wait_until,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn a_head_that_does_not_end_is_408() {
    let hub = Hub::start(&["--head-timeout", "1"]);
    for beginning in ["G", "GET / HTTP/1.1\r\nHost: h\r\n", "GET / HTTP/1.1\r\nHost: h\r\nX-A: "] {
        let start = Instant::now();
        let mut client = hub.client_sending(beginning);
        assert_own(&client.response(), 408);
        assert_eq!(client.wait_end(), Cut::Eof);
        assert!(start.elapsed() >= Duration::from_millis(900), "too early");
    }
    // Single bytes do not buy time.
    let mut client = hub.client_sending("GET / HTTP/1.1\r\n");
    let mut writer = client.writer();
    let dripping = std::thread::spawn(move || {
        while std::io::Write::write_all(&mut writer, b"X").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let start = Instant::now();
    assert_own(&client.response(), 408);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    drop(client);
    dripping.join().unwrap();
}

#[test]
fn silent_and_idle_clients_are_let_go() {
    let rig =
        Rig::serve_with(&["--head-timeout", "1", "--idle-timeout", "1"], &[], async |_| reply(200, "ok"));
    let mut silent = rig.hub.client();
    assert_eq!(silent.wait_end(), Cut::Eof);
    let mut idle = rig.hub.client_sending(GET);
    assert_eq!(idle.response().text(), "ok");
    let since = Instant::now();
    // Without a word: the client did nothing wrong.
    assert_eq!(idle.end(), Cut::Eof);
    assert!(since.elapsed() >= Duration::from_millis(900), "too early");
}

#[test]
fn a_body_that_does_not_come_is_408_and_takes_no_worker() {
    let rig = Rig::raw_with(&["--body-timeout", "1"], &[]);
    let mut client = rig.hub.client_sending("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc");
    // Meanwhile the only worker serves somebody else.
    let (_, response) = rig.exchange(GET, OK);
    assert_eq!(response.text(), "ok");
    assert_own(&client.response(), 408);
    client.wait_end();
    assert_eq!(rig.upstream.accepted(), 1);
}

#[test]
fn bodies_over_the_limit_are_413() {
    let rig = Rig::raw_with(&["--max-body", "1000"], &[]);
    let mut client = rig.hub.client_sending("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n");
    assert_own(&client.response(), 413);
    client.wait_end();
    // An expectation is refused at once, too.
    let mut client = rig
        .hub
        .client_sending("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n");
    let response = client.response();
    assert!(response.interim.is_empty());
    assert_own(&response, 413);

    // Of a chunked one it shows only later; the upstream must not take it for complete.
    let mut client =
        rig.hub.client_sending("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n384\r\n");
    client.send("x".repeat(900));
    let mut upstream = rig.upstream.accept();
    upstream.request_head();
    assert_eq!(upstream.body_bytes(900).len(), 900);
    let _ = client.try_send(format!("\r\n65\r\n{}\r\n0\r\n\r\n", "x".repeat(101)));
    assert!(upstream.rest().1.is_some(), "the upstream saw a complete request");
    assert_own(&client.response(), 413);
    drop(upstream);

    let body = "x".repeat(1000);
    let (request, response) =
        rig.exchange(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n{body}"), OK);
    assert_eq!((request.body.len(), response.text().as_str()), (1000, "ok"));
}

/// In chunks so large that they could go from socket to socket without being looked at.
#[test]
fn a_large_body_over_the_limit_is_413() {
    let rig = Rig::raw_with(&["--max-body", "1m"], &[]);
    let mut client =
        rig.hub.client_sending("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1400000\r\n");
    let mut writer = client.writer();
    let sending = std::thread::spawn(move || {
        let piece = vec![b'x'; 1 << 20];
        (0..20).all(|_| std::io::Write::write_all(&mut writer, &piece).is_ok())
    });
    let mut upstream = rig.upstream.accept();
    upstream.request_head();
    let (body, cut) = upstream.rest();
    assert!(cut.is_some() && body.len() <= 1 << 20, "{} bytes passed", body.len());
    assert_own(&client.response(), 413);
    drop(client);
    let _ = sending.join().unwrap();
}

#[test]
fn a_response_that_does_not_begin_is_504() {
    let rig = Rig::raw_with(&["--response-timeout", "1"], &[]);
    let (mut client, mut upstream, _) = rig.begin(GET);
    let start = Instant::now();
    assert_own(&client.response(), 504);
    assert!(start.elapsed() >= Duration::from_millis(700), "too early");
    // The upstream may stop working, and the worker is free.
    upstream.wait_end();
    let (_, response) = rig.exchange(GET, OK);
    assert_eq!(response.text(), "ok");
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let rig = Rig::raw_with(&["--stall-timeout", "1"], &[]);
    let (client, mut upstream, _) = rig.begin(GET);
    let _ = upstream.try_send("HTTP/1.1 200 OK\r\nContent-Length: 300000000\r\n\r\n");
    let piece = vec![0; 1 << 20];
    // Nobody reads: at some time the write fails because the hub and then the agent gave up.
    let gave_up = (0..300).any(|_| upstream.try_send(&piece).is_err());
    assert!(gave_up, "300 MB went to a client that reads nothing");
    drop((client, upstream));
    let (_, response) = rig.exchange(GET, OK);
    assert_eq!(response.text(), "ok");
}

#[test]
fn an_upload_that_stalls_is_cut_off() {
    let rig = Rig::raw_with(&["--stall-timeout", "1"], &[]);
    let mut client = rig
        .hub
        .client_sending("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    let mut upstream = rig.upstream.accept();
    upstream.request_head();
    assert_eq!(upstream.body_bytes(3), b"abc");
    assert!(upstream.rest().1.is_some(), "the upstream saw a complete request");
    assert_own(&client.response(), 408);
}

#[test]
fn clients_beyond_the_limit_do_no_harm() {
    let rig = Rig::raw_with(&["--max-clients", "10"], &[]);
    let (mut served, mut upstream, _) = rig.begin(GET);
    let mut waiting: Vec<Wire> = (0..8).map(|_| rig.hub.client_sending(GET)).collect();
    let mut idle = rig.hub.client_sending("GET /.slime/x HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(idle.response().status(), 404);
    // Those who ask for something are served, whoever comes after them; one who does nothing may have to go.
    let beyond: Vec<Wire> = (0..20).map(|_| rig.hub.client()).collect();
    upstream.send(OK);
    assert_eq!(served.response().text(), "ok");
    for client in &mut waiting {
        respond(&mut upstream);
        assert_eq!(client.response().status(), 200);
    }
    assert_quiet(&[&rig.hub]);
    drop((served, waiting, beyond));
    wait_until("a newcomer is let in", DEADLINE, || {
        let mut client = rig.hub.client();
        let probe = client.try_send("GET /.slime/x HTTP/1.1\r\nHost: h\r\n\r\n");
        probe.is_ok() && client.try_response().is_ok_and(|response| response.status() == 404)
    });
}

#[test]
fn running_out_of_descriptors_is_survived() {
    let mut command = Command::new("sh");
    let slime = env!("CARGO_BIN_EXE_slime");
    command.args(["-c", "ulimit -n 40; exec \"$0\" \"$@\"", slime, "hub", "run"]);
    command.args(["--host", "127.0.0.1", "--port", "0", "--startup-grace", "60"]);
    secure_hub(&mut command);
    let hub = Hub::run(command);
    let upstream = crate::harness::Server::start(async |_| reply(200, "ok"));
    let _agent = hub.agent(&upstream.url(), &[]);
    let mut before = hub.client_sending(GET);
    assert_eq!(before.response().text(), "ok");

    let crowd: Vec<Wire> = (0..200).map(|_| hub.client()).collect();
    wait_until("all descriptors are taken", DEADLINE, || hub.fds() >= 28);
    assert_quiet(&[&hub]);
    assert!(hub.fds() <= 40);
    drop(crowd);
    wait_until("a newcomer is served", DEADLINE, || {
        let mut client = hub.client();
        client.try_send(GET).is_ok() && client.try_head().is_ok_and(|head| head.status() == 200)
    });
    wait_until("the crowd is gone", DEADLINE, || hub.fds() < 20);
    assert_quiet(&[&hub]);
}

/// A reset hits a client, or an upstream, in every state there is. Nothing dies, nothing stays.
#[test]
fn resets_in_every_state_leave_nothing_behind() {
    let rig = Rig::raw();
    let (mut warm, mut upstream, _) = rig.begin(GET);
    upstream.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    warm.response();
    drop((warm, upstream));
    let (hub_fds, agent_fds) = (rig.hub.fds(), rig.agent.fds());

    let large = "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n";
    let chunked = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let piece = vec![0; 1 << 20];
    for _ in 0..5 {
        // The client, before its head, in it, while queued, in its body.
        rig.hub.client().reset();
        rig.hub.client_sending("GET / HT").reset();
        rig.hub.client_sending("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc").reset();
        let (client, upstream, _) = rig.begin(GET);
        let queued = rig.hub.client_sending(GET);
        queued.reset();
        rig.hub.settle();
        drop((client, upstream));
        let client = rig.hub.client_sending(chunked);
        let mut upstream = rig.upstream.accept();
        assert_eq!(upstream.request_head().method(), "POST");
        client.reset();
        upstream.wait_end();
        // Before the response, in it, under back-pressure, after it.
        let (client, mut upstream, _) = rig.begin(GET);
        client.reset();
        upstream.wait_end();
        let (mut client, mut upstream, _) = rig.begin(GET);
        upstream.send(large);
        client.response_head("GET");
        client.reset();
        upstream.wait_end();
        let (client, mut upstream, _) = rig.begin(GET);
        upstream.send(large);
        upstream.send(&piece);
        client.reset();
        while upstream.try_send(&piece).is_ok() {}
        let (mut client, mut upstream, _) = rig.begin(GET);
        upstream.send(OK);
        client.response();
        client.reset();
        drop(upstream);
        // The upstream, before the head, in it, in the body, after it.
        let (mut client, upstream, _) = rig.begin("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx");
        upstream.reset();
        assert_own(&client.response(), 502);
        let (mut client, mut upstream, _) =
            rig.begin("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx");
        upstream.send("HTTP/1.1 200 OK\r\nCon");
        upstream.reset();
        assert_own(&client.response(), 502);
        let (mut client, mut upstream, _) = rig.begin(GET);
        upstream.send(large);
        client.response_head("GET");
        upstream.send(&piece);
        upstream.reset();
        assert!(client.rest().1.is_some());
        let (mut client, mut upstream, _) = rig.begin(GET);
        upstream.send(OK);
        client.response();
        upstream.reset();
    }
    rig.assert_at_rest(hub_fds, agent_fds);
    let (_, response) = rig.exchange(GET, OK);
    assert_eq!(response.text(), "ok");
}

#[test]
fn agents_are_let_in_where_all_clients_wait_for_one() {
    let hub = Hub::start(&["--max-clients", "3"]);
    let mut waiting: Vec<Wire> =
        (0..3).map(|_| hub.client_sending("GET / HTTP/1.1\r\nHost: h\r\nSlime-Block: 1\r\n\r\n")).collect();
    hub.settle();
    assert_own(&hub.client_sending(GET).response(), 503);
    let mut tunnel = join(&hub, shared_token(), "a", 0);
    for client in &mut waiting {
        respond(&mut tunnel);
        assert_eq!(client.response().status(), 200);
    }
}

#[test]
fn heads_without_their_bodies_keep_nobody_out() {
    let rig = Rig::raw_with(&["--queue-depth", "0"], &[]);
    let post = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n";
    let crowd: Vec<Wire> = (0..200).map(|_| rig.hub.client_sending(post)).collect();
    rig.hub.settle();
    for _ in 0..3 {
        let (request, response) = rig.exchange(format!("{post}x"), OK);
        assert_eq!((request.text().as_str(), response.text().as_str()), ("x", "ok"));
    }
    drop(crowd);
}
