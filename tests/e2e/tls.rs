//! TLS itself: who is trusted and who is not, what is said when it fails, and what peers can do to it.

mod certificates;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ALL_VERSIONS, Connection, HandshakeKind, ServerConfig};

use crate::harness::pki::{self, Identity};
use crate::harness::{
    Agent, Cut, DEADLINE, Hub, RawUpstream, Rig, Server, Socket, Wire, assert_quiet, command, reply,
    shared_token, upgrade_tunnel,
};

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
/// The paths of the hub's own are answered without an agent.
const OWN: &str = "GET /.slime/x HTTP/1.1\r\nHost: h\r\n\r\n";

/// A hub that shows this.
fn hub_with(identity: &Identity, flags: &[&str]) -> Hub {
    Hub::run(hub_command(identity, flags))
}

fn hub_command(identity: &Identity, flags: &[&str]) -> Command {
    let mut start = command(&["hub", "run", "--host", "127.0.0.1", "--port", "0", "--startup-grace", "60"]);
    start.arg("--tls-cert").arg(&identity.certificate).arg("--tls-key").arg(&identity.key).args(flags);
    start
}

/// Accepts connections with TLS as a server that shows this. The outcome of each handshake.
fn serve(config: Arc<ServerConfig>) -> (SocketAddr, std::sync::mpsc::Receiver<std::io::Result<Socket>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, sockets) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            if sender.send(Socket::server(tcp, Arc::clone(&config))).is_err() {
                return;
            }
        }
    });
    (address, sockets)
}

fn leaf(connection: &Connection) -> Vec<u8> {
    connection.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn both_versions_and_http_as_protocol() {
    let hub = Hub::start(&[]);
    for version in [&TLS12, &TLS13] {
        let socket =
            Socket::client(TcpStream::connect(hub.address()).unwrap(), pki::client_config(&[version]));
        let mut client = Wire::over(socket);
        client.send(OWN);
        assert_eq!(client.response().status(), 404);
        client.socket().inspect(|connection| {
            assert_eq!(connection.protocol_version(), Some(version.version));
            assert_eq!(connection.alpn_protocol(), Some(&b"http/1.1"[..]));
        });
    }
}

#[test]
fn plain_http_on_the_tls_port_is_told_so() {
    let hub = Hub::start(&[]);
    let mut client = Wire::connect_plain(hub.address());
    client.send(GET);
    let response = client.response();
    assert_eq!(response.status(), 400);
    assert!(response.text().contains("https://"), "{}", response.text());
    assert_eq!(client.end(), Cut::Eof);
}

#[test]
fn both_ports_and_the_redirection() {
    let upstream = Server::start(async |_| reply(200, "ok"));
    for redirect in [false, true] {
        let mut flags = vec!["--tls-port", "0"];
        if redirect {
            flags.push("--tls-redirect");
        }
        // The port that the redirection names must be known before.
        let port = free_port();
        flags[1] = &port;
        let hub = hub_with(pki::identity(), &flags);
        let secure: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
        hub.wait_line(&format!("listening on {secure} with TLS"));
        let _agent = Agent::start(&format!("https://{secure}"), shared_token(), &upstream.url(), &[]);
        let mut client = Wire::connect(secure);
        client.send(GET);
        assert_eq!(client.response().text(), "ok");
        let mut plain = Wire::connect_plain(hub.address());
        plain.send("POST /a?b=c HTTP/1.1\r\nHost: hub.example:80\r\nContent-Length: 3\r\n\r\nabc");
        let response = plain.response();
        if !redirect {
            assert_eq!(response.text(), "ok");
            continue;
        }
        assert_eq!(response.status(), 308);
        let location = format!("https://hub.example:{port}/a?b=c");
        assert_eq!(response.head.field("location"), Some(location.as_str()));
        // Tokens are not taken there either.
        let agent =
            Agent::start(&format!("http://{}", hub.address()), shared_token(), "http://127.0.0.1:9", &[]);
        agent.wait_line("should --hub begin with https://?");
        let mut nameless = Wire::connect_plain(hub.address());
        nameless.send("GET / HTTP/1.0\r\n\r\n");
        assert_eq!(nameless.response().status(), 400);
    }
}

fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}

#[test]
fn a_tunnel_that_is_dialled_again_resumes_its_session() {
    for versions in [&[&TLS13][..], &[&TLS12]] {
        let (address, sockets) = serve(pki::server_config(pki::identity(), versions));
        let upstream = Server::start(async |_| reply(200, "ok"));
        let _agent = Agent::start(&format!("https://{address}"), shared_token(), &upstream.url(), &[]);
        let mut kinds = Vec::new();
        for _ in 0..3 {
            let socket = sockets.recv_timeout(DEADLINE).unwrap().unwrap();
            kinds.push(socket.inspect(|connection| connection.handshake_kind().unwrap()));
            let mut tunnel = Wire::over(socket);
            upgrade_tunnel(&mut tunnel);
            tunnel.send(GET);
            assert_eq!(tunnel.response().text(), "ok");
        }
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed]);
    }
    // The hub's half of it.
    let hub = Hub::start(&[]);
    for version in [&TLS12, &TLS13] {
        let config = pki::client_config(&[version]);
        let kinds = [(); 3].map(|()| {
            let tcp = TcpStream::connect(hub.address()).unwrap();
            let mut client = Wire::over(Socket::client(tcp, Arc::clone(&config)));
            client.send(OWN);
            client.response();
            client.socket().inspect(|connection| connection.handshake_kind().unwrap())
        });
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed]);
    }
}

#[test]
fn garbage_and_old_versions_are_refused_and_counted() {
    let hub = Hub::start(&[]);
    let hello = old_hello();
    let oversized = [&[0x16, 3, 1, 0xff, 0xff][..], &[0; 70_000]].concat();
    for round in 0..5 {
        for bytes in
            [&b"\x00\x01\x02\x03garbage that is no TLS at all"[..], &[0x16, 3, 1, 0, 0], &hello, &oversized]
        {
            let mut tcp = TcpStream::connect(hub.address()).unwrap();
            tcp.set_read_timeout(Some(DEADLINE)).unwrap();
            let _ = tcp.write_all(bytes);
            let mut answer = Vec::new();
            // An alert, as far as it can be told one, and the end.
            let _ = tcp.read_to_end(&mut answer);
            assert!(answer.is_empty() || answer[0] == 0x15, "round {round}: {answer:?}");
        }
    }
    assert_eq!(hub.client_sending(OWN).response().status(), 404);
    let output = hub.output();
    let said = output.lines().filter(|line| line.contains("TLS with 127.0.0.1 failed")).count();
    assert_eq!(said, 1, "once a minute: {output}");
    assert_quiet(&[&hub]);
}

#[test]
fn a_client_is_told_why_it_is_refused() {
    let hub = Hub::start(&[]);
    for version in [&TLS12, &TLS13] {
        let mut config = (*pki::client_config(&[version])).clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let socket = Socket::client(TcpStream::connect(hub.address()).unwrap(), Arc::new(config));
        let error = socket.handshake().unwrap_err().to_string();
        assert!(error.contains("NoApplicationProtocol"), "{error}");
    }
}

/// A ClientHello that offers TLS 1.1 and no more.
fn old_hello() -> Vec<u8> {
    let mut body = vec![3, 2];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x13, 1, 0]);
    let mut hello = vec![0x16, 3, 1, 0, u8::try_from(body.len() + 4).unwrap(), 1, 0, 0];
    hello.push(u8::try_from(body.len()).unwrap());
    hello.extend(body);
    hello
}

#[test]
fn a_stalled_handshake_ends_and_delays_nobody() {
    let hub = Hub::start(&["--head-timeout", "1"]);
    let mut stalled = TcpStream::connect(hub.address()).unwrap();
    stalled.set_read_timeout(Some(DEADLINE)).unwrap();
    stalled.write_all(&old_hello()[..20]).unwrap();
    let silent = TcpStream::connect(hub.address()).unwrap();
    silent.set_read_timeout(Some(DEADLINE)).unwrap();
    let start = Instant::now();
    assert_eq!(hub.client_sending(OWN).response().status(), 404);
    assert!(start.elapsed() < Duration::from_millis(900));
    for mut tcp in [stalled, silent] {
        assert!(matches!(tcp.read(&mut [0; 64]), Ok(0) | Err(_)));
    }
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

/// Beyond a thousand at once the oldest one ends, though its time is not over; whoever means it is served.
#[test]
fn stalled_handshakes_are_bounded_in_number() {
    let hub = Hub::start(&["--head-timeout", "60"]);
    let stall = || {
        let mut tcp = TcpStream::connect(hub.address()).unwrap();
        tcp.set_read_timeout(Some(DEADLINE)).unwrap();
        tcp.write_all(&old_hello()[..20]).unwrap();
        tcp
    };
    let mut crowd: Vec<TcpStream> = (0..1024).map(|_| stall()).collect();
    assert_eq!(hub.client_sending(OWN).response().status(), 404);
    assert!(matches!(crowd[0].read(&mut [0]), Ok(0) | Err(_)));
    let last = crowd.last_mut().unwrap();
    last.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(last.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
}

#[test]
fn a_hub_that_stalls_its_handshake_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let flags = ["--connect-timeout", "1"];
    let agent = Agent::start(&url, shared_token(), "http://127.0.0.1:9", &flags);
    let (mut first, _) = listener.accept().unwrap();
    agent.wait_line("the hub did not answer in time");
    first.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut hello = Vec::new();
    first.read_to_end(&mut hello).unwrap();
    assert_eq!(hello[0], 0x16);
    listener.accept().unwrap();
}

/// Passes bytes on in pieces that end wherever a record could be misread: behind its header, before its last
/// byte, behind it.
fn relay_in_pieces(to: SocketAddr) -> SocketAddr {
    fn pass(mut from: TcpStream, mut to: TcpStream) {
        let mut header = [0; 5];
        while from.read_exact(&mut header).is_ok() {
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            let mut body = vec![0; length];
            if from.read_exact(&mut body).is_err() {
                return;
            }
            let last = length.saturating_sub(1);
            for piece in
                [&header[..1], &header[1..], &body[..length / 2], &body[length / 2..last], &body[last..]]
            {
                if to.write_all(piece).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Write);
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let far = TcpStream::connect(to).unwrap();
            for tcp in [&near, &far] {
                tcp.set_nodelay(true).unwrap();
            }
            let (near_too, far_too) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            std::thread::spawn(move || pass(near, far));
            std::thread::spawn(move || pass(far_too, near_too));
        }
    });
    address
}

#[test]
fn records_may_come_in_any_pieces() {
    let hub = Hub::start(&[]);
    let upstream = RawUpstream::new();
    let between = relay_in_pieces(upstream.address());
    let at_hub = relay_in_pieces(hub.address());
    let _agent =
        Agent::start(&format!("https://{at_hub}"), shared_token(), &format!("https://{between}"), &[]);
    for version in [&TLS12, &TLS13] {
        let tcp = TcpStream::connect(at_hub).unwrap();
        let mut client = Wire::over(Socket::client(tcp, pki::client_config(&[version])));
        let body = crate::harness::Pattern::new(5).bytes(100_000);
        client.send(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len()));
        client.send(&body);
        let mut at = upstream.accept();
        assert!(at.request().body == body);
        at.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n");
        at.send(&body);
        assert!(client.response().body == body);
    }
}

#[test]
fn a_cut_never_ends_a_body_cleanly() {
    let rig = Rig::raw();
    for is_cut in [false, true] {
        let (mut client, mut upstream, _) = rig.begin(GET);
        upstream.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nsome of it");
        client.response_head("GET");
        assert_eq!(client.body_bytes(10), b"some of it");
        if is_cut {
            upstream.socket().clone().cut();
        }
        drop(upstream);
        let (rest, cut) = client.rest();
        assert_eq!((rest.len(), cut.is_some()), (0, is_cut));
    }
    // The same for a request, which an agent must not take for complete.
    let (client, mut upstream) = {
        let client = rig
            .hub
            .client_sending("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
        let mut upstream = rig.upstream.accept();
        upstream.request_head();
        (client, upstream)
    };
    assert_eq!(upstream.body_bytes(3), b"abc");
    client.socket().clone().cut();
    client.finish();
    assert!(upstream.rest().1.is_some());
    drop(client);
}

/// As clients of Python's asyncio do, which then wait for ours before they close the socket.
#[test]
fn who_says_the_end_has_left_though_the_socket_is_open() {
    let rig = Rig::raw();
    for is_streaming in [false, true] {
        let (mut client, mut upstream, _) = rig.begin(GET);
        if is_streaming {
            upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nevent\r\n");
            client.response_head("GET");
            assert_eq!(client.body_bytes(5), b"event");
        }
        client.socket().say_end();
        upstream.wait_end();
        drop(upstream);
        let (_, response) = rig.exchange(GET, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(response.text(), "ok");
    }
}

#[test]
fn the_old_protocol_is_served_where_nothing_else_is_offered() {
    let hub = Hub::start(&[]);
    for (offered, chosen) in
        [(vec!["http/1.0"], "http/1.0"), (vec!["http/1.0", "h2", "http/1.1"], "http/1.1")]
    {
        let mut config = (*pki::client_config(ALL_VERSIONS)).clone();
        config.alpn_protocols = offered.into_iter().map(|name| name.as_bytes().to_vec()).collect();
        let mut client =
            Wire::over(Socket::client(TcpStream::connect(hub.address()).unwrap(), Arc::new(config)));
        client.send("GET /.slime/x HTTP/1.0\r\n\r\n");
        assert_eq!(client.response().status(), 404);
        client.socket().inspect(|connection| {
            assert_eq!(connection.alpn_protocol(), Some(chosen.as_bytes()));
        });
    }
}

#[test]
fn names_are_sent_and_checked() {
    let hub = Hub::start(&[]);
    let upstream = Server::start(async |_| reply(200, "ok"));
    let url = format!("https://localhost:{}", hub.address().port());
    let agent = Agent::start(&url, shared_token(), &upstream.url(), &[]);
    agent.wait_line("joined the hub");
    assert_eq!(hub.client_sending(GET).response().text(), "ok");

    let (address, sockets) = serve(pki::server_config(pki::identity(), ALL_VERSIONS));
    let _agent = Agent::start(
        &format!("https://localhost:{}", address.port()),
        shared_token(),
        "http://127.0.0.1:9",
        &[],
    );
    let socket = sockets.recv_timeout(DEADLINE).unwrap().unwrap();
    socket.inspect(|connection| match connection {
        Connection::Server(server) => assert_eq!(server.server_name(), Some("localhost")),
        Connection::Client(_) => unreachable!(),
    });
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    let _alone = crate::harness::alone();
    let rig = Rig::serve(async |_| reply(200, "ok"));
    let hub = &rig.hub;
    let open = |count: usize| -> Vec<Wire> {
        (0..count)
            .map(|_| {
                let mut client = hub.client_sending(GET);
                assert_eq!(client.response().text(), "ok");
                client
            })
            .collect()
    };
    let warm = open(50);
    let before = hub.peak_memory();
    let idle = open(400);
    let each = (hub.peak_memory() - before) / 400;
    assert!(each < 8_000, "{each} bytes for each idle connection");
    drop((warm, idle));
}
