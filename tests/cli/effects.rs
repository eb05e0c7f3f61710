//! What each flag and each variable does.

use std::collections::BTreeSet;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use rustix::process::Signal;

use crate::flags::shown;
use crate::harness::*;

/// Before a service is started again with other flags: would it start?
#[test]
fn flags_and_files_are_checked_without_a_hub_or_an_agent() {
    let folder = Folder::new("check");
    let (rules, wrong) = (folder.file("revoked", "nobody\n"), folder.file("wrong", "not a rule\n"));
    let token = register(SECRET, &[]);
    // It is in use: nothing is bound.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().port();
    let hub = format!("hub --check --host 127.0.0.1 --port {taken} --revoked");
    let secret = format!("SLIME_SECRET={SECRET}");
    let token = format!("SLIME_TOKEN={token}");
    let agent = "agent --check --upstream u";
    for (line, environment, wanted) in [
        (format!("{hub} {rules}"), &secret, 0),
        (format!("{hub} {wrong}"), &secret, 1),
        (format!("{hub} {rules} --queue-timeout soon"), &secret, 2),
        (format!("{hub} {rules} --tls-cert {rules} --tls-key {rules}"), &secret, 1),
        (format!("{agent} --hub h"), &token, 0),
        (agent.to_owned(), &token, 2),
        (format!("{agent} --hub https://h --hub-ca {rules}"), &token, 1),
    ] {
        let (code, out, err) = run(&words(&line), &[environment]);
        assert!(code == wanted && out.is_empty() && err.is_empty() == (wanted == 0), "{line}: {code} {err}");
    }
}

/// Where nothing listens at `/dev/log`, as in most containers, nothing is lost.
#[test]
fn a_log_that_no_syslog_takes_goes_to_the_standard_error() {
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    if socket.connect("/dev/log").is_err() {
        let hub = Hub::start(&["--syslog"], &[&format!("SLIME_SECRET={SECRET}")]);
        assert!(hub.log().contains("WARN  nothing listens at /dev/log"), "{}", hub.log());
        assert_eq!(hub.stop(), 0);
    }
}

/// Every flag with a value that is not its default.
const HUB_FLAGS: [(&str, &str); 26] = [
    ("--host", "127.0.0.1"),
    ("--port", "0"),
    ("--trusted-proxy", "127.0.0.0/8,::1"),
    ("--cors", "https://app.example,http://localhost:3000"),
    ("--admin", "127.0.0.1:0"),
    ("--admin-password", "of-the-admin"),
    ("--admin-view-password", "of-who-looks"),
    ("--concurrent", "10"),
    ("--queue-depth", "11"),
    ("--hold", "12m"),
    ("--max-body", "1k"),
    ("--max-clients", "12"),
    ("--max-tunnels", "13"),
    ("--queue-timeout", "1m"),
    ("--response-timeout", "2m"),
    ("--head-timeout", "3s"),
    ("--body-timeout", "4.5"),
    ("--stall-timeout", "50s"),
    ("--idle-timeout", "60s"),
    ("--heartbeat", "7s"),
    ("--agent-grace", "9s"),
    ("--startup-grace", "0"),
    ("--drain-delay", "10ms"),
    ("--drain-timeout", "1h"),
    ("--upgrade-drain", "6s"),
    ("--log-level", "debug"),
];

const AGENT_FLAGS: [(&str, &str); 19] = [
    ("--admin", "127.0.0.1:0"),
    ("--admin-password", "of-the-admin"),
    ("--admin-view-password", "of-who-looks"),
    ("--num-worker", "2"),
    ("--extra-upgrades", "1"),
    ("--extra-streams", "1"),
    ("--light-paths", "/v1/models,/health"),
    ("--on-cancel", "drain"),
    ("--preserve-host", "true"),
    ("--websocket", "true"),
    ("--agent-id", "me"),
    ("--note", "second shelf"),
    ("--health-path", "/health"),
    ("--connect-timeout", "9s"),
    ("--head-timeout", "8s"),
    ("--stall-timeout", "70s"),
    ("--drain-timeout", "5m"),
    ("--upgrade-drain", "6s"),
    ("--log-level", "debug"),
];

/// How flags can be given.
#[derive(Clone, Copy, Debug)]
enum Way {
    Flags,
    Variables,
    EnvFile,
}

/// Starts commands, and remembers which flags they had.
struct Starter {
    way: Way,
    folder: Folder,
    given: BTreeSet<(String, String)>,
    started: u32,
}

impl Starter {
    fn start(&mut self, command: &str, tables: &[&[(&str, &str)]]) -> Process {
        let flags = tables.concat();
        self.started += 1;
        self.given.extend(flags.iter().map(|(flag, _)| (command.to_owned(), (*flag).to_owned())));
        let typed: Vec<String> = flags.iter().map(|(flag, value)| format!("{flag}={value}")).collect();
        let assigned: Vec<String> =
            flags.iter().map(|(flag, value)| format!("{}={value}", variable(flag))).collect();
        let words = words(command);
        match self.way {
            Way::Flags => Process::start(&[words, typed.iter().map(String::as_str).collect()].concat(), &[]),
            Way::Variables => {
                Process::start(&words, &assigned.iter().map(String::as_str).collect::<Vec<_>>())
            }
            Way::EnvFile => {
                self.given.insert((command.to_owned(), "--env-file".to_owned()));
                // Line ends as some editors make them.
                let file = self.folder.file(&format!("{}.env", self.started), &assigned.join("\r\n"));
                Process::start(&[words, vec!["--env-file", &file]].concat(), &[])
            }
        }
    }
}

#[test]
fn every_flag_every_variable_and_every_line_of_an_env_file() {
    let mut starter =
        Starter { way: Way::Flags, folder: Folder::new("all"), given: BTreeSet::new(), started: 0 };
    for way in [Way::Flags, Way::Variables, Way::EnvFile] {
        starter.way = way;
        hubs_and_agents(&mut starter);
    }
    for command in ["hub run", "agent run"] {
        for (flag, _) in shown(command) {
            assert!(
                starter.given.contains(&(command.to_owned(), flag.clone())),
                "{command} {flag} is not tried"
            );
        }
    }
}

/// Three hubs and four agents, which have all flags together.
fn hubs_and_agents(starter: &mut Starter) {
    let folder = Folder::new("files");
    let secret = folder.file("secret", SECRET);
    let password = folder.file("password", PASSWORD);
    let revoked = folder.file("revoked", "nobody\n");
    let token = register(SECRET, &["--name", "all"]);
    let token_file = folder.file("token", &format!("{token}\n"));
    let headers = folder.file("headers", "# of the upstream\nX-Own-Key: a-key-of-its-own\n");
    let scoped = register(SECRET, &["--name", "scoped", "--scopes", "tls"]);
    let (tls, upstream) = (folder.path("tls"), echo());
    let (certificate, key) = (folder.path("tls/cert.pem"), folder.path("tls/key.pem"));
    let on_loopback = [("--host", "127.0.0.1"), ("--port", "0")];

    // A hub with a certificate of its own, which the others use, too, and an agent that knows it by its pin.
    let own = [("--tls-self-signed", tls.as_str()), ("--secret", SECRET)];
    let own = Hub::of(starter.start("hub run", &[&on_loopback, &own]));
    let line = own.wait_line("need --hub-pin sha256:");
    let own_address = format!("https://{}", own.address);
    let pinned = [
        ("--hub", own_address.as_str()),
        ("--hub-pin", line.rsplit(' ').next().unwrap()),
        ("--token", &token),
        ("--upstream", &upstream),
    ];
    let pinned = starter.start("agent run", &[&pinned]);
    pinned.wait_line("joined the hub at");

    // A plain hub with everything else, an agent likewise, and one whose upstream is that first hub.
    let files = [("--secret-file", secret.as_str()), ("--app-password", PASSWORD), ("--revoked", &revoked)];
    let plain = Hub::of(starter.start("hub run", &[&HUB_FLAGS, &files]));
    let to_plain = [("--hub", plain.address.as_str())];
    let files = [
        ("--token-file", token_file.as_str()),
        ("--upstream", &upstream),
        ("--upstream-header-file", &headers),
    ];
    let agent = starter.start("agent run", &[&AGENT_FLAGS, &to_plain, &files]);
    let pin = line.rsplit(' ').next().unwrap();
    let sure = [("--upstream", own_address.as_str()), ("--upstream-pin", pin), ("--token", &scoped)];
    let sure = starter.start("agent run", &[&to_plain, &sure]);
    sure.wait_line("joined the hub at");
    assert_eq!(sure.stop(), 0);
    let trusting =
        [("--upstream", own_address.as_str()), ("--upstream-ca", &certificate), ("--token", &scoped)];
    let trusting = starter.start("agent run", &[&to_plain, &trusting]);
    agent.wait_line("joined the hub at");
    plain.wait_line("agent all (me) joined");
    trusting.wait_line("joined the hub at");
    let asked = |fields: &str| {
        let known = format!("X-Forwarded-For: 203.0.113.9\r\nSlime-App-Password: {PASSWORD}\r\n");
        exchange(
            &plain.address,
            &format!("GET /a HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n{known}{fields}\r\n"),
        )
    };
    // Both agents serve what names no scope.
    let mut body = String::new();
    wait_until("the agent with all flags is asked", || {
        body = asked("");
        body.contains("Slime-Agent-Id: me")
    });
    for part in ["GET /a HTTP/1.1", "Host: app.example", "203.0.113.9", "X-Own-Key: a-key-of-its-own"] {
        assert!(body.contains(part), "{part}: {body}");
    }
    let body = asked("Slime-Scope: tls\r\n");
    assert!(body.starts_with("HTTP/1.1 200") && body.contains("GET /a HTTP/1.1"), "{body}");
    let large = format!(
        "POST / HTTP/1.1\r\nHost: h\r\nSlime-App-Password: {PASSWORD}\r\nContent-Length: 1025\r\n\r\n"
    );
    assert!(exchange(&plain.address, &large).starts_with("HTTP/1.1 413"));
    assert!(get(&plain.address, "").starts_with("HTTP/1.1 401"));
    // At debug.
    agent.wait_line("GET /a to ");
    plain.signal(Signal::HUP);
    plain.wait_line("was read again, rules: 1");

    // A hub that sends plain requests on, and an agent that comes through a proxy and trusts an authority.
    let port = address_of_nobody().port().to_string();
    let files = [
        ("--secret", SECRET),
        ("--app-password-file", &password),
        ("--admin-password-file", &password),
        ("--admin-view-password-file", &password),
        ("--tls-cert", &certificate),
        ("--tls-key", &key),
        ("--tls-port", &port),
        ("--tls-redirect", "true"),
        ("--syslog", "false"),
        ("--check", "false"),
    ];
    let both = Hub::of(starter.start("hub run", &[&on_loopback, &files]));
    both.wait_line(&format!("listening on 127.0.0.1:{port} with TLS"));
    let (proxy, asked) = proxy();
    let there = format!("https://127.0.0.1:{port}");
    let proxied = [
        ("--hub", there.as_str()),
        ("--hub-ca", &certificate),
        ("--admin-password-file", &password),
        ("--admin-view-password-file", &password),
        ("--proxy", &proxy),
        ("--token", &token),
        ("--upstream", &upstream),
        ("--syslog", "false"),
        ("--check", "false"),
    ];
    let proxied = starter.start("agent run", &[&proxied]);
    proxied.wait_line("joined the hub at");
    assert_eq!(asked.recv_timeout(DEADLINE).unwrap(), format!("CONNECT 127.0.0.1:{port} HTTP/1.1\r\n"));
    let sent_on = get(&both.address, "");
    assert!(
        sent_on.starts_with("HTTP/1.1 308") && sent_on.contains(&format!("https://h:{port}/")),
        "{sent_on}"
    );

    for agent in [pinned, agent, trusting, proxied] {
        assert_eq!(agent.stop(), 0);
    }
    for hub in [own, plain, both] {
        assert_eq!(hub.stop(), 0);
    }
}

/// A proxy that connects to whatever it is asked for: its address, and the lines that it was asked with.
fn proxy() -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, asked) = channel();
    thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let (mut reader, mut head) = (BufReader::new(near), Vec::new());
            while head.last().is_none_or(|line| line != "\r\n") {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                head.push(line);
            }
            // The agent says nothing before it is answered, so that nothing of it is in the reader.
            let mut near = reader.into_inner();
            let mut far = TcpStream::connect(head[0].split(' ').nth(1).unwrap()).unwrap();
            near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let (mut from, mut to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            thread::spawn(move || io::copy(&mut from, &mut to).and_then(|_| to.shutdown(Shutdown::Both)));
            thread::spawn(move || io::copy(&mut far, &mut near).and_then(|_| near.shutdown(Shutdown::Both)));
            let _ = sender.send(head.swap_remove(0));
        }
    });
    (address, asked)
}

#[test]
fn the_environment_may_name_a_proxy() {
    let agent = [FORM, "SLIME_HUB=https://127.0.0.1:1", "SLIME_UPSTREAM=u", "SLIME_HUB_CA=/nonexistent"];
    for proxy in ["HTTPS_PROXY=https://sesame-7f3a", "https_proxy=https://sesame-7f3a"] {
        fails("agent", &[&agent[..], &[proxy]].concat(), 2, "HTTPS_PROXY: a proxy is written http://");
        for excepted in ["NO_PROXY=127.0.0.0/8", "no_proxy=127.0.0.1"] {
            let environment = [&agent[..], &[proxy, excepted]].concat();
            fails("agent", &environment, 1, "cannot read certificates from /nonexistent");
        }
        let environment = [&agent[..], &[proxy, "SLIME_PROXY=none"]].concat();
        fails("agent", &environment, 1, "cannot read certificates from /nonexistent");
    }
}
