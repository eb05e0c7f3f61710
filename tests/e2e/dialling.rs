//! How agents connect to upstreams and hubs, and what they make of connections that end as soon as they
//! stand.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::Signal;

use crate::harness::{Agent, DEADLINE, Hub, shared_token, wait_until};

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

/// A listener whose backlog is one connection: while that waits, whoever dials is not answered, and tries
/// again a second later.
fn narrow_listener() -> TcpListener {
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .unwrap();
    rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    TcpListener::from(socket)
}

/// Whether a connection to this port of 127.0.0.1 is being made.
fn is_dialled(port: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let to = format!("0100007F:{port:04X}");
    table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|fields| {
        // SYN_SENT
        fields.get(2) == Some(&to.as_str()) && fields.get(3) == Some(&"02")
    })
}

#[test]
fn a_connection_whose_end_comes_with_its_beginning_has_ended() {
    let upstream = narrow_listener();
    let address = upstream.local_addr().unwrap();
    let hub = Hub::start(&[]);
    let agent = hub.agent(&format!("http://{address}"), &[]);
    // It looks whether somebody is there.
    drop(upstream.accept().unwrap());
    agent.wait_line("joined");
    let first = TcpStream::connect(address).unwrap();
    let mut client = hub.client_sending(GET);
    wait_until("the agent dials", DEADLINE, || is_dialled(address.port()));
    agent.signal(Signal::STOP);
    drop((upstream.accept().unwrap(), first));
    let (mut connection, _) = upstream.accept().unwrap();
    connection.write_all(b"HTTP/1.1 200 OK\r\n\r\nwhole").unwrap();
    connection.shutdown(Shutdown::Write).unwrap();
    agent.signal(Signal::CONT);
    assert_eq!(client.response().text(), "whole");
}

#[test]
fn a_request_goes_on_where_a_connection_ended_before_it_stood() {
    let upstream = narrow_listener();
    let address = upstream.local_addr().unwrap();
    let hub = Hub::start(&[]);
    let agent = hub.agent(&format!("http://{address}"), &[]);
    // It looks whether somebody is there.
    drop(upstream.accept().unwrap());
    agent.wait_line("joined");
    let first = TcpStream::connect(address).unwrap();
    // It may be served once only.
    let mut client = hub.client_sending("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody");
    wait_until("the agent dials", DEADLINE, || is_dialled(address.port()));
    agent.signal(Signal::STOP);
    drop((upstream.accept().unwrap(), first));
    drop(upstream.accept().unwrap());
    agent.signal(Signal::CONT);
    // It looks again, and the same request follows.
    drop(upstream.accept().unwrap());
    let (mut connection, _) = upstream.accept().unwrap();
    connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nonce").unwrap();
    assert_eq!(client.response().text(), "once");
}

#[test]
fn the_end_of_a_connection_in_its_handshake_is_noticed_at_once() {
    let hub = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", hub.local_addr().unwrap());
    let _agent = Agent::start(&url, shared_token(), "http://127.0.0.1:9", &[]);
    let start = Instant::now();
    // The agent would wait five seconds for the handshake of each.
    for _ in 0..3 {
        let (mut connection, _) = hub.accept().unwrap();
        let _ = connection.read(&mut [0; 4096]).unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        connection.set_read_timeout(Some(DEADLINE)).unwrap();
        let _ = connection.read_to_end(&mut rest);
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}
