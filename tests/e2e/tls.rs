//! TLS itself: who is trusted and who is not, what is said when it fails, and what peers can do to it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::KeyPair;
use rustix::process::Signal;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ALL_VERSIONS, Connection, HandshakeKind, ServerConfig};

use crate::harness::pki::{self, Authority, Identity};
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
fn keys_and_chains_of_every_kind() {
    for (name, algorithm) in [("ed25519", &rcgen::PKCS_ED25519), ("p384", &rcgen::PKCS_ECDSA_P384_SHA384)] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let hub = hub_with(&pki::authority().sign_key(name, &key, |_| {}), &[]);
        let mut client = hub.client_sending(OWN);
        assert_eq!(client.response().status(), 404, "{name}");
    }
    let (middle, identity) = pki::authority().below("middle");
    let chain = [&identity.certificate, &middle].map(|file| std::fs::read_to_string(file).unwrap()).concat();
    let chained = Identity { certificate: pki::file("chain.pem", &chain), key: identity.key.clone() };
    let hub = hub_with(&chained, &[]);
    assert_eq!(hub.client_sending(OWN).response().status(), 404);
    // An agent trusts it for the authority at its end, too.
    let upstream = Server::start(async |_| reply(200, "ok"));
    let _agent = hub.agent(&upstream.url(), &[]);
    assert_eq!(hub.client_sending(GET).response().text(), "ok");
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

/// Of X.509 version 1, as `openssl x509 -req` makes it without extensions, with its key. Valid until 2126.
const VERSION_1: [&str; 2] = [
    "-----BEGIN CERTIFICATE-----\n\
     MIIBJTCBywIUbRJuENiLEDHUz5DiPtL4Tbv4GdQwCgYIKoZIzj0EAwIwFDESMBAG\n\
     A1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyNzA1MjEyMFoYDzIxMjYxMTAzMDUyMTIw\n\
     WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC\n\
     AARCvNubcbqp7ivazrlJy/C3ehleouwdB+mpTPJ6T7kgbct7CWi9X3fBOBA7c0Es\n\
     TR+b22v8rimYezR36JKbbjdbMAoGCCqGSM49BAMCA0kAMEYCIQCZzhVybib9tXQk\n\
     flsAvF4n/rrZI7aaTYxaSF9Z1iKp5gIhAMg8bje9JTyUnDDVCc0aVp5vOOI9XN0x\n\
     wt4uPEXATkzo\n\
     -----END CERTIFICATE-----\n",
    "-----BEGIN PRIVATE KEY-----\n\
     MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgw9bKaKL98DraW4/j\n\
     XuctpgBzThgBeYF1MqPju3kDComhRANCAARCvNubcbqp7ivazrlJy/C3ehleouwd\n\
     B+mpTPJ6T7kgbct7CWi9X3fBOBA7c0EsTR+b22v8rimYezR36JKbbjdb\n\
     -----END PRIVATE KEY-----\n",
];

fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}

#[test]
fn what_cannot_be_shown_is_said_at_the_start() {
    let good = pki::identity();
    let other = pki::authority().sign("other", |_| {});
    let expired = expired();
    let nothing = pki::file("nothing.pem", "nothing\n");
    let with = |certificate: &std::path::Path, key: &std::path::Path| Identity {
        certificate: certificate.into(),
        key: key.into(),
    };
    let missing = std::path::Path::new("/nonexistent/file.pem");
    let [old, old_key] = VERSION_1;
    let (old, old_key) = (pki::file("version-1.pem", old), pki::file("version-1-key.pem", old_key));
    for (identity, reason) in [
        (with(&old, &old_key), "it is of X.509 version 1 or 2"),
        (with(&good.certificate, &other.key), "does not belong to the certificate in"),
        (expired, "has expired"),
        (with(missing, &good.key), "cannot read certificates from /nonexistent/file.pem"),
        (with(&good.certificate, missing), "cannot read a private key from /nonexistent/file.pem"),
        (with(&nothing, &good.key), "there is no certificate in"),
        (with(&good.certificate, &nothing), "there is no private key in"),
    ] {
        let mut start = hub_command(&identity, &[]);
        let output = start.env("SLIME_SECRET", "s").output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && text.contains(reason), "{reason}: {text}");
    }
    for (flag, file) in [("--hub-ca", missing), ("--hub-ca", &nothing)] {
        let mut start = command(&["agent", "--hub", "https://127.0.0.1:1", "--upstream", "127.0.0.1:1"]);
        let output = start.env("SLIME_TOKEN", shared_token()).arg(flag).arg(file).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && text.contains(file.to_str().unwrap()), "{text}");
    }
}

#[test]
fn a_certificate_of_an_authority_is_trusted_when_it_is_the_servers_own() {
    // As `openssl req -x509` makes it, but for its name, which does not count either.
    let identity = pki::self_signed_ca("openssl");
    let hub = hub_with(&identity, &[]);
    let url = format!("https://{}", hub.address());
    let file = identity.certificate.to_str().unwrap();
    let (upstream, _sockets) = serve(pki::server_config(&identity, ALL_VERSIONS));
    let pin = hub.wait_line("--hub-pin sha256:").rsplit(' ').next().unwrap().to_owned();
    for trust in [["--upstream-ca", file], ["--upstream-pin", &pin]] {
        let flags = [&["--hub-ca", file][..], &trust].concat();
        let agent = Agent::start(&url, shared_token(), &format!("https://{upstream}"), &flags);
        agent.wait_line("joined the hub");
        assert!(!agent.output().contains("TLS with"), "{}", agent.output());
    }
}

/// The most that a handshake takes.
#[test]
fn long_chains_are_read() {
    let mut identity = pki::authority().sign("long", |_| {});
    let leaf = std::fs::read_to_string(&identity.certificate).unwrap();
    let other = std::fs::read_to_string(pki::authority().file()).unwrap();
    let der = other.len() * 3 / 4;
    identity.certificate = pki::file("long.pem", &format!("{leaf}{}", other.repeat(55_000 / der)));
    let hub = hub_with(&identity, &[]);
    let longer = pki::file("longer.pem", &format!("{leaf}{}", other.repeat(80_000 / der)));
    let too_long = Identity { certificate: longer, key: identity.key.clone() };
    let output = hub_command(&too_long, &[]).env("SLIME_SECRET", "s").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("take more than 60 KB"), "{output:?}");
    let authority = pki::authority().file();
    let flags = ["--hub-ca", authority.to_str().unwrap()];
    let agent =
        Agent::start(&format!("https://{}", hub.address()), shared_token(), "http://127.0.0.1:9", &flags);
    agent.wait_line("joined the hub");
}

#[test]
fn an_encrypted_key_is_called_so() {
    let good = pki::identity();
    for (name, text) in [
        (
            "encrypted.key",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n",
        ),
        (
            "legacy.key",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nMIIB\n-----END RSA PRIVATE KEY-----\n",
        ),
    ] {
        let identity = Identity { certificate: good.certificate.clone(), key: pki::file(name, text) };
        let output = hub_command(&identity, &[]).env("SLIME_SECRET", "s").output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && text.contains("is encrypted; write it without"), "{text}");
    }
}

/// A key without a certificate is used, a certificate without a key is not, and nothing is overwritten.
#[test]
fn a_key_that_is_there_is_never_overwritten() {
    let folder = pki::folder().join("half");
    std::fs::create_dir_all(&folder).unwrap();
    let (key, certificate) = (folder.join("key.pem"), folder.join("cert.pem"));
    let start = || {
        let mut start = command(&["hub", "--host", "127.0.0.1", "--port", "0", "--tls-self-signed"]);
        start.arg(&folder);
        start
    };
    let text = KeyPair::generate().unwrap().serialize_pem();
    std::fs::write(&key, &text).unwrap();
    let hub = Hub::run(start());
    let pin = hub.wait_line("--hub-pin sha256:").rsplit(' ').next().unwrap().to_owned();
    assert_eq!(std::fs::read_to_string(&key).unwrap(), text);
    drop(hub);
    Hub::run(start()).wait_line(&pin);

    let fails = |says: &str| {
        let output = start().env("SLIME_SECRET", "s").output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && text.contains(says), "{text}");
    };
    std::fs::remove_file(&key).unwrap();
    let made = std::fs::read_to_string(&certificate).unwrap();
    fails("there is a cert.pem, but no key.pem");
    assert_eq!(std::fs::read_to_string(&certificate).unwrap(), made);
    std::fs::remove_file(&certificate).unwrap();
    std::fs::write(&key, "no key").unwrap();
    fails("its key.pem cannot be used");
    assert_eq!(std::fs::read_to_string(&key).unwrap(), "no key");
}

fn expired() -> Identity {
    pki::authority().sign("expired", |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    })
}

/// Certificates that are not good, and what is said of each.
fn bad_identities() -> Vec<(Identity, &'static str)> {
    let wrong_name = pki::authority().sign("elsewhere", |params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("elsewhere.example".try_into().unwrap())];
    });
    vec![
        (wrong_name, "not valid for"),
        (expired(), "expired"),
        (pki::self_signed("self-signed"), "issued by nobody that this agent trusts; give"),
        (pki::self_signed_ca("ca"), "CA:TRUE); give the same certificate with --"),
        (Authority::new("stranger").sign("host", |_| {}), "issued by nobody that this agent trusts; give"),
    ]
}

#[test]
fn a_hub_that_is_not_who_it_should_be_gets_no_token() {
    for (identity, reason) in bad_identities() {
        let (address, sockets) = serve(pki::server_config(&identity, ALL_VERSIONS));
        let agent = Agent::start(&format!("https://{address}"), shared_token(), "http://127.0.0.1:9", &[]);
        let line = agent.wait_line("TLS with 127.0.0.1");
        assert!(line.contains(reason), "{reason}: {line}");
        for _ in 0..3 {
            let mut byte = [0];
            let outcome = sockets.recv_timeout(DEADLINE).unwrap();
            assert!(!outcome.is_ok_and(|mut socket| socket.read(&mut byte).is_ok_and(|n| n > 0)), "{reason}");
        }
        let said = agent.output().lines().filter(|line| line.contains("TLS with 127.0.0.1")).count();
        assert_eq!(said, 1, "once a minute: {}", agent.output());
    }
}

#[test]
fn a_pin_trusts_one_certificate() {
    let identity = pki::self_signed("pinned");
    let hub = hub_with(&identity, &[]);
    let line = hub.wait_line("--hub-pin sha256:");
    let pin = line.rsplit(' ').next().unwrap();
    let upstream = Server::start(async |_| reply(200, "ok"));
    let token = shared_token();
    let url = format!("https://{}", hub.address());
    let wrong = format!("{}{}", &pin[..pin.len() - 1], if pin.ends_with('0') { '1' } else { '0' });
    let mistaken = Agent::start(&url, token, &upstream.url(), &["--hub-pin", &wrong]);
    let line = mistaken.wait_line("TLS with 127.0.0.1");
    assert!(line.contains("--hub-pin"), "{line}");
    let _agent = Agent::start(&url, token, &upstream.url(), &["--hub-pin", pin]);
    _agent.wait_line("joined the hub");
    assert!(!mistaken.output().contains("joined"));
}

#[test]
fn a_hub_makes_its_own_certificate_and_keeps_it() {
    let folder = pki::folder().join("own");
    let start = |folder: &std::path::Path| {
        let mut start = command(&["hub", "--host", "127.0.0.1", "--port", "0", "--tls-self-signed"]);
        start.arg(folder);
        start
    };
    let hub = Hub::run(start(&folder));
    let line = hub.wait_line("agents join with: slime agent --hub https://");
    let words: Vec<&str> = line.split_whitespace().collect();
    let pin = words[words.iter().position(|word| *word == "--hub-pin").unwrap() + 1].to_owned();
    let upstream = Server::start(async |_| reply(200, "ok"));
    let url = format!("https://{}", hub.address());
    assert!(line.contains(&format!(" --hub {url} ")), "{line}");
    let agent = Agent::start(&url, shared_token(), &upstream.url(), &["--hub-pin", &pin]);
    agent.wait_line("joined the hub");
    // It is its own authority for applications.
    let agent = Agent::start(
        &url,
        shared_token(),
        &upstream.url(),
        &["--hub-ca", folder.join("cert.pem").to_str().unwrap()],
    );
    agent.wait_line("joined the hub");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(folder.join("key.pem")).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    drop(hub);
    let again = Hub::run(start(&folder));
    again.wait_line(&pin);

    let mut hopeless = start(std::path::Path::new("/proc/nowhere"));
    let output = hopeless.env("SLIME_SECRET", "s").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(1) && text.contains("cannot make a certificate in /proc/nowhere"),
        "{text}"
    );
}

#[test]
fn an_upstream_that_is_not_who_it_should_be_gets_no_request() {
    let hub = Hub::start(&["--startup-grace", "0"]);
    for (identity, reason) in bad_identities() {
        let (address, sockets) = serve(pki::server_config(&identity, ALL_VERSIONS));
        let agent = hub.agent(&format!("https://{address}"), &[]);
        let line = agent.wait_line("TLS with 127.0.0.1");
        assert!(line.contains(reason), "{reason}: {line}");
        let mut client = hub.client_sending("GET / HTTP/1.1\r\nHost: h\r\nSlime-Max-Wait: 0.2\r\n\r\n");
        assert!(matches!(client.response().status(), 502 | 503));
        while let Ok(outcome) = sockets.try_recv() {
            let mut byte = [0];
            assert!(!outcome.is_ok_and(|mut socket| socket.read(&mut byte).is_ok_and(|n| n > 0)), "{reason}");
        }
    }
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
fn certificates_are_read_again_on_sighup() {
    let authority = pki::authority();
    let (first, second) = (authority.sign("first", |_| {}), authority.sign("second", |_| {}));
    let shown = authority.sign("shown", |_| {});
    let show = |identity: &Identity| {
        std::fs::copy(&identity.certificate, &shown.certificate).unwrap();
        std::fs::copy(&identity.key, &shown.key).unwrap();
    };
    show(&first);
    let hub = hub_with(&shown, &[]);
    let look = || {
        let client = hub.client();
        client.socket().handshake().unwrap();
        client.socket().inspect(leaf)
    };
    let upstream = Server::start(async |_| reply(200, "ok"));
    let agent = hub.agent(&upstream.url(), &[]);
    let mut before = hub.client_sending(GET);
    assert_eq!(before.response().text(), "ok");
    let old = before.socket().inspect(leaf);
    assert_eq!(look(), old);

    show(&second);
    hub.signal(Signal::HUP);
    hub.wait_line("the certificate was read again");
    let new = look();
    assert!(new != old);
    // Nobody was disturbed.
    before.send(GET);
    assert_eq!(before.response().text(), "ok");
    assert_eq!(agent.output().matches("joined the hub").count(), 1);

    std::fs::copy(&first.key, &shown.key).unwrap();
    hub.signal(Signal::HUP);
    let line = hub.wait_line("stays in force");
    assert!(line.contains("does not belong to"), "{line}");
    assert_eq!(look(), new);
    std::fs::write(&shown.certificate, "garbage").unwrap();
    hub.signal(Signal::HUP);
    hub.wait_line("there is no certificate in");
    assert_eq!(look(), new);
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
