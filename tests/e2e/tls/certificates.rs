//! Certificates and keys: which can be shown, which are trusted, and what is said of the others.

use std::io::Read as _;

use rcgen::KeyPair;
use rustix::process::Signal;
use tokio_rustls::rustls::ALL_VERSIONS;

use super::{GET, OWN, hub_command, hub_with, leaf, serve};
use crate::harness::pki::{self, Authority, Identity};
use crate::harness::{Agent, DEADLINE, Hub, Server, command, reply, shared_token};

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
