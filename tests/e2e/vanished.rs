//! Machines that vanish: nothing of theirs arrives any more, and nobody says so.
//!
//! Hub, upstream and test are in one network namespace, the agent in another one, with a link of its own to
//! each of the two. Both namespaces are made here, which takes a privilege: without it the test says so, and
//! passes.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::harness::{Hub, Message, Proc, RawUpstream, Wire, command, pki, shared_token};

/// Within about a minute. Half of it the silence must last at least; the kernel doubles its pauses meanwhile.
const NOTICED: Duration = Duration::from_secs(85);
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const UPGRADED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
const LINKS: [&str; 2] = ["hub", "upstream"];

fn run(line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let status = Command::new(words[0]).args(&words[1..]).status().unwrap();
    assert!(status.success(), "{line}");
}

#[test]
fn whoever_vanishes_is_noticed_within_about_a_minute() {
    if pki::is_tls() {
        return;
    }
    let may =
        Command::new("unshare").args(["-n", "ip", "link", "set", "lo", "up"]).stderr(Stdio::null()).status();
    if !may.is_ok_and(|status| status.success()) {
        eprintln!("not tested: no network namespaces without root and iproute2");
        return;
    }
    let inner = |test: &str| {
        let mut command = Command::new("unshare");
        command.arg("-n").arg(std::env::current_exe().unwrap());
        command
            .args([test, "--exact", "--ignored", "--nocapture"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut runs = ["vanished::the_link_to_the_hub", "vanished::the_link_to_the_upstream"].map(inner);
    for run in &mut runs {
        assert!(run.wait().unwrap().success());
    }
}

/// An agent in a namespace of its own.
struct Apart {
    place: Child,
    agent: Option<Proc>,
    hub: Hub,
    upstream: RawUpstream,
}

impl Apart {
    fn new() -> Self {
        run("ip link set lo up");
        let place = Command::new("unshare").args(["-n", "sleep", "600"]).spawn().unwrap();
        let pid = place.id();
        // Its namespace is there as soon as it is another one than ours.
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        crate::harness::wait_until("a namespace", crate::harness::DEADLINE, || {
            namespace(&pid.to_string()) != namespace("self")
        });
        for (number, name) in LINKS.iter().enumerate() {
            run(&format!("ip link add {name} type veth peer name {name} netns {pid}"));
            for (side, inside) in [(1, String::new()), (2, format!("nsenter -t {pid} -n "))] {
                run(&format!("{inside}ip addr add 10.9.{number}.{side}/24 dev {name}"));
                run(&format!("{inside}ip link set {name} up"));
            }
        }
        let hub = Hub::start_on("10.9.0.1", 0, &[]);
        let upstream = RawUpstream::on(SocketAddr::from(([10, 9, 1, 1], 0)));
        let ours = command(&[
            "agent",
            "run",
            "--hub",
            &hub.url(),
            "--upstream",
            &upstream.url(),
            "--num-worker",
            "5",
        ]);
        let mut agent = Command::new("nsenter");
        agent.args(["-t", &pid.to_string(), "-n"]).arg(ours.get_program()).args(ours.get_args());
        agent.env("SLIME_TOKEN", shared_token());
        Self { place, agent: Some(Proc::spawn("agent", agent)), hub, upstream }
    }

    fn begin(&self, fields: &str, response: &str) -> (Wire, Wire) {
        // A method that may be tried again would wait for an agent.
        let method = if fields == UPGRADE { "GET" } else { "POST" };
        let client = self.hub.client_sending(format!("{method} / HTTP/1.1\r\nHost: h\r\n{fields}\r\n"));
        let mut upstream = self.upstream.accept();
        let _: Message = upstream.request();
        upstream.send(response);
        (client, upstream)
    }

    /// From now on nothing passes this link: both ends send to an address that nobody has.
    fn cut(&self, link: usize) {
        let (name, pid) = (LINKS[link], self.place.id());
        for (side, inside) in [(2, String::new()), (1, format!("nsenter -t {pid} -n "))] {
            run(&format!(
                "{inside}ip neigh replace 10.9.{link}.{side} lladdr 02:00:00:00:00:99 dev {name} nud permanent"
            ));
        }
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        drop(self.agent.take());
        let _ = self.place.kill();
        let _ = self.place.wait();
    }
}

/// Waits for the ends of all these connections.
fn wait_ends(wires: Vec<(&'static str, Wire)>) {
    let start = Instant::now();
    let (sender, ends) = channel();
    let mut left: Vec<&str> = wires.iter().map(|(name, _)| *name).collect();
    for (name, mut wire) in wires {
        let sender = sender.clone();
        std::thread::spawn(move || {
            wire.socket().tcp().set_read_timeout(Some(NOTICED * 2)).unwrap();
            let mut buffer = [0; 4096];
            while matches!(std::io::Read::read(&mut wire.writer(), &mut buffer), Ok(1..)) {}
            let _ = sender.send(name);
            // Its half must not end before.
            drop(wire.try_send(""));
        });
    }
    while !left.is_empty() {
        match ends.recv_timeout(NOTICED.saturating_sub(start.elapsed())) {
            Ok(name) => left.retain(|other| *other != name),
            Err(_) => panic!("not noticed within {NOTICED:?}: {left:?}"),
        }
    }
}

const UPGRADE: &str = "Connection: upgrade\r\nUpgrade: x\r\n";
/// So that the end of the connection tells of the end of the exchange.
const CLOSE: &str = "Connection: close\r\n";

#[test]
#[ignore = "in a network namespace of its own: see above"]
fn the_link_to_the_hub() {
    let apart = Apart::new();
    let (waiting, at_waiting) = apart.begin(CLOSE, "");
    let (quiet, at_quiet) = apart.begin(CLOSE, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx");
    let (streaming, at_streaming) = apart.begin(CLOSE, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx");
    let (idle, at_idle) = apart.begin(UPGRADE, UPGRADED);
    let (mut busy, mut at_busy) = apart.begin(UPGRADE, UPGRADED);
    apart.cut(0);
    busy.send("down");
    at_busy.send("up");
    let mut pieces = at_streaming.writer();
    std::thread::spawn(move || {
        while std::io::Write::write_all(&mut pieces, b"x").is_ok() {
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    wait_ends(vec![
        ("the client of a request without an answer", waiting),
        ("the client of a quiet response", quiet),
        ("the client of a response that goes on", streaming),
        ("the client of a quiet upgrade", idle),
        ("the client of an upgrade", busy),
        ("the upstream of a request without an answer", at_waiting),
        ("the upstream of a quiet response", at_quiet),
        ("the upstream of a response that goes on", at_streaming),
        ("the upstream of a quiet upgrade", at_idle),
        ("the upstream of an upgrade", at_busy),
    ]);
}

#[test]
#[ignore = "in a network namespace of its own: see above"]
fn the_link_to_the_upstream() {
    let apart = Apart::new();
    let (quiet, _at_quiet) = apart.begin(CLOSE, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx");
    let (idle, _at_idle) = apart.begin(UPGRADE, UPGRADED);
    let (mut busy, _at_busy) = apart.begin(UPGRADE, UPGRADED);
    let (waiting, _at_waiting) = apart.begin(CLOSE, "");
    let (mut kept, _at_kept) = apart.begin("", OK);
    assert_eq!(kept.response().status(), 200);
    apart.cut(1);
    busy.send("x");
    // On the connection that the last one left. What becomes of it then is a matter of those who may serve
    // it.
    kept.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nSlime-Block: 0\r\n\r\n");
    wait_ends(vec![
        ("the client of a quiet response", quiet),
        ("the client of a quiet upgrade", idle),
        ("the client of an upgrade", busy),
        ("the client of a request that was under way", waiting),
        ("the client of a request on a kept connection", kept),
    ]);
}
