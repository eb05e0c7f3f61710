//! What accompanies a job: event streams that stay open beside it.

use std::time::Duration;

use crate::framing::assert_own;
use crate::harness::{RawUpstream, Rig, Wire};

const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 0\n\n";
const GET: &str = "GET /events HTTP/1.1\r\nHost: h\r\n\r\n";
const POST: &str = "POST /job HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\njob";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// A stream of events whose first event has come.
fn stream(rig: &Rig<RawUpstream>) -> (Wire, Wire) {
    let (mut client, mut upstream, _) = rig.begin(GET);
    upstream.send(EVENTS);
    assert_eq!(client.response_head("GET").1.status(), 200);
    assert_eq!(client.piece().unwrap().unwrap(), b"data: 0\n\n");
    (client, upstream)
}

fn has_worker(rig: &Rig<RawUpstream>) {
    let (request, response) = rig.exchange(POST, OK);
    assert_eq!((request.head.target(), response.text().as_str()), ("/job", "ok"));
}

#[test]
fn jobs_go_on_beside_an_event_stream() {
    let rig = Rig::raw_with(&[], &["--extra-streams", "2"]);
    let (mut first, mut source) = stream(&rig);
    let second = stream(&rig);
    for round in 0..20 {
        has_worker(&rig);
        let event = format!("data: {round}\n\n");
        source.send(&event);
        assert_eq!(first.piece().unwrap().unwrap(), event.as_bytes());
    }
    // No more than that, and jobs do not notice.
    let (mut client, mut upstream, _) = rig.begin(GET);
    upstream.send(EVENTS);
    let refused = client.response();
    assert_own(&refused, 503);
    assert!(refused.text().contains("--extra-streams"), "{}", refused.text());
    rig.agent.wait_line("was refused with 503");
    has_worker(&rig);
    // One ends, and there is room for another one.
    drop(second);
    rig.hub.settle();
    let third = stream(&rig);
    has_worker(&rig);
    // The end of a stream is seen, and its worker is not one too many.
    drop(source);
    assert_eq!(first.piece().unwrap(), None);
    let (client, at, _) = rig.begin(POST);
    let mut never = rig.hub.client_sending("GET / HTTP/1.1\r\nHost: h\r\nSlime-Block: 0\r\n\r\n");
    assert_own(&never.response(), 503);
    drop((client, at, third));
}

#[test]
fn an_event_stream_is_a_request_like_others_unless_told_otherwise() {
    let rig = Rig::raw();
    let (client, source) = stream(&rig);
    let mut waiting = rig.hub.client_sending(POST);
    rig.hub.settle();
    assert!(waiting.is_silent() && rig.upstream.try_accept(Duration::ZERO).is_none());
    drop((client, source));
    let mut upstream = rig.upstream.accept();
    upstream.request();
    upstream.send(OK);
    assert_eq!(waiting.response().text(), "ok");
}

#[test]
fn a_stop_button_works_while_the_worker_is_busy() {
    let rig = Rig::raw_with(&[], &["--light-paths", "/progress,/stop"]);
    rig.agent.wait_line("joined the hub");
    let (mut client, mut job, _) = rig.begin(POST);
    for target in ["/progress?of=job", "/stop", "/progress/1"] {
        let (request, response) = rig.exchange(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"), OK);
        assert_eq!((request.head.target(), response.text().as_str()), (target, "ok"));
    }
    // Another job waits, and a small question that comes after it does not.
    let mut waiting = rig.hub.client_sending(POST);
    rig.hub.settle();
    let (request, _) = rig.exchange("GET /stop HTTP/1.1\r\nHost: h\r\nSlime-Block: 0\r\n\r\n", OK);
    assert_eq!(request.head.target(), "/stop");
    assert!(waiting.is_silent() && rig.upstream.try_accept(Duration::ZERO).is_none());
    job.send(OK);
    assert_eq!(client.response().text(), "ok");
    let mut upstream = rig.upstream.accept();
    assert_eq!(upstream.request().head.target(), "/job");
    upstream.send(OK);
    assert_eq!(waiting.response().text(), "ok");
}
