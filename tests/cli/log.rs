//! The log: its lines, levels and priorities, and readers that do not read.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::*;

#[test]
fn the_log_of_a_day() {
    let hub = Hub::start(&["--startup-grace=0"], &[&format!("SLIME_SECRET={SECRET}")]);
    let token = register(SECRET, &["--name", "gpu-1"]);
    // Nobody listens there at first.
    let upstream = address_of_nobody();
    let agent = hub.agent(&token, &upstream.to_string(), &["--agent-id=me", "--num-worker=4"]);
    agent.wait_line(&format!(
        "upstream {upstream} cannot be used: nothing is listening there; trying again every second"
    ));
    hub.wait_line("agent gpu-1 (me) joined, but takes no work: nothing is listening there");
    agent.wait_line(&format!("joined the hub at {} as me: 4 workers for upstream {upstream}", hub.address));
    echo_on(TcpListener::bind(upstream).unwrap());
    agent.wait_line(&format!("upstream {upstream} can be used again"));
    hub.wait_line("agent gpu-1 (me) takes work again");

    // Ordinary requests, and one whose application leaves, are no news.
    let before = (hub.log(), agent.log());
    for _ in 0..20 {
        assert!(get(&hub.address, "Slime-Block: 1\r\n").starts_with("HTTP/1.1 200"));
    }
    drop(send(&hub.address, "GET /slow HTTP/1.1\r\nHost: h\r\n\r\n"));
    assert!(get(&hub.address, "Slime-Block: 1\r\n").starts_with("HTTP/1.1 200"));
    assert_eq!((hub.log(), agent.log()), before);

    // The hub goes and another one comes, to which nobody can connect in between.
    let address = hub.address.clone();
    assert_eq!(hub.stop(), 0);
    agent.wait_line("the hub is shutting down; reconnecting until it is back");
    agent.wait_line(&format!("cannot join the hub at {address}: nothing is listening there; retrying"));
    let hub = Hub::start_at(&address, &[], &[&format!("SLIME_SECRET={SECRET}")]);
    hub.wait_line("agent gpu-1 (me) joined");
    assert!(get(&address, "Slime-Block: 1\r\n").starts_with("HTTP/1.1 200"));
    // That it is back is said at once, and what was so before is not said after it.
    wait_until("the agent says that it is back", || agent.log().matches("joined the hub at").count() == 2);
    agent.signal(Signal::TERM);
    hub.wait_line("agent gpu-1 (me) withdrew: draining");
    assert_eq!(agent.wait(), 0);
    let log = agent.log();
    let after = log.rsplit("joined the hub at").next().unwrap();
    assert!(after.contains(": 4 workers") && !after.contains("cannot join"), "{log}");
    hub.wait_line("agent gpu-1 (me) left: ");
}

#[test]
fn a_thousand_alike_are_two_lines() {
    let hub = Hub::start(&[], &[&format!("SLIME_SECRET={SECRET}")]);
    for _ in 0..40 {
        let handshake = "GET /.slime/tunnel HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: slime/1\r\n\
                         Slime-Agent-Token: sesame-7f3a\r\nSlime-Agent-Id: a\r\nSlime-Worker: 0\r\nSlime-Ready: ?1\r\n\r\n";
        assert!(exchange(&hub.address, handshake).starts_with("HTTP/1.1 401"));
    }
    assert_eq!(hub.stop(), 0);
    let refused: Vec<String> =
        hub.log().lines().filter(|line| line.contains("refused an agent")).map(String::from).collect();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused[1].contains("and 38 more like it before"), "{refused:?}");
}

#[test]
fn log_levels() {
    for (level, wanted, unwanted) in [
        ("error", "", "INFO"),
        ("warn", "", "INFO"),
        ("info", "listening on", "DEBUG"),
        ("debug", "listening on", "TRACE"),
    ] {
        let mut hub =
            command(&["hub", "--host=127.0.0.1", "--port=0", "--log-level", level], &["SLIME_SECRET=s"]);
        let hub = Process::spawn(&mut hub);
        if wanted.is_empty() {
            // It is there when it has its descriptors: ask it to end until it does.
            wait_until("the hub ends", || {
                hub.signal(Signal::TERM);
                hub.has_ended()
            });
        } else {
            hub.wait_line(wanted);
            assert_eq!(hub.stop(), 0);
        }
        assert!(!hub.log().contains(unwanted), "{level}: {}", hub.log());
    }
}

/// The journal of systemd writes times of its own, and takes the level from the priority.
#[test]
fn lines_for_the_journal_have_a_priority_and_no_time() {
    use std::os::unix::fs::MetadataExt as _;

    let folder = Folder::new("journal");
    let path = folder.file("log", "");
    let log = fs::File::options().append(true).open(&path).unwrap();
    let file = log.metadata().unwrap();
    for (journal, begins) in [
        (format!("JOURNAL_STREAM={}:{}", file.dev(), file.ino()), "<3>ERROR the hub stopped: "),
        (format!("JOURNAL_STREAM={}:{}", file.dev(), file.ino() + 1), "20"),
    ] {
        let environment = ["SLIME_SECRET=s", "SLIME_MAX_CLIENTS=9", "SLIME_MAX_TUNNELS=9", &journal];
        let mut hub = command(&["hub", "--port=0", "--host=192.0.2.1"], &environment);
        assert_eq!(hub.stderr(log.try_clone().unwrap()).status().unwrap().code(), Some(1));
        let lines = fs::read_to_string(&path).unwrap();
        assert!(lines.lines().last().unwrap().starts_with(begins), "{lines}");
    }
}

#[test]
fn a_reader_of_the_log_that_is_gone_or_slow_stops_nothing() {
    // Gone: the pipe is closed. Slow: nobody reads it.
    for close in [true, false] {
        let mut command = command(
            &["hub", "--log-level=debug", "--startup-grace=0", "--host=127.0.0.1", "--port=0"],
            &["SLIME_SECRET=s"],
        );
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening on ") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "it does not listen");
        }
        let address = line.trim_end().rsplit(' ').next().unwrap().to_owned();
        let log = (!close).then_some(log);
        // More than a pipe holds.
        let path = "x".repeat(4000);
        for _ in 0..30 {
            assert!(
                exchange(&address, &format!("GET /{path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"))
                    .starts_with("HTTP/1.1 503")
            );
        }
        assert_eq!(child.try_wait().unwrap(), None);
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        drop(log);
    }
}
