//! The command line through the binary: every flag, every variable, every line that says what is wrong, and
//! the log.
//!
//! Ports are chosen by the system, files live in a folder of the test's own, and everything is waited for
//! with a deadline.

#![allow(missing_docs, reason = "nobody depends on a test")]
#![allow(clippy::disallowed_methods, reason = "deadlines of real processes")]
#![allow(unreachable_pub, reason = "the modules of a test are nobody's but its own")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod completions;
mod documentation;
mod effects;
mod errors;
mod flags;
mod harness;
mod log;
mod service;
mod sources;
mod tokens;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use harness::*;

#[test]
fn version_and_help() {
    for args in [&["version"][..], &["--version"], &["-V"]] {
        let (code, out, err) = run(args, &[]);
        assert_eq!(
            (code, out.as_str(), err.as_str()),
            (0, concat!("slime ", env!("CARGO_PKG_VERSION"), "\n"), "")
        );
    }
    for args in [
        "--help",
        "-h",
        "help",
        "hub --help",
        "hub --help run",
        "hub register --help --frob",
        "hub run --help",
        "hub register -h",
        "hub inspect --help",
        "agent --help",
        "agent run help",
        "demo --help",
        "ready --help",
        "completions --help",
        "version --help",
    ] {
        let (code, out, err) = run(&words(args), &[]);
        assert_eq!((code, err.as_str()), (0, ""), "{args}");
        assert!(out.starts_with("Usage: slime") && out.contains("--help"), "{args}: {out}");
    }
    for args in ["hub --help", "hub help", "hub run --help"] {
        let (_, help, _) = run(&words(args), &[]);
        for part in [
            "Usage: slime hub [run] [flags]",
            "--secret-file FILE",
            "slime hub register",
            "slime hub inspect",
        ] {
            assert!(help.contains(part), "{args}: {help}");
        }
    }
    let (_, help, _) = run(&["--help"], &[]);
    for part in [
        "slime hub [run]",
        "slime hub register",
        "slime hub inspect",
        "slime agent [run]",
        "slime demo",
        "slime version",
        "Examples:",
    ] {
        assert!(help.contains(part), "{help}");
    }
}

// ---- The long-running commands ----

#[test]
fn addresses_to_listen_on() {
    let hub = Process::start(&["hub", "--port", "0"], &[&format!("SLIME_SECRET={SECRET}")]);
    // Both families, where the machine has both, on one port.
    let line = hub.wait_line("listening on 0.0.0.0:");
    let port: u16 = line.rsplit(':').next().unwrap().parse().unwrap();
    if TcpListener::bind("[::1]:0").is_ok() {
        hub.wait_line(&format!("listening on [::]:{port}"));
    }
    hub.wait_line("there is no app password");
    assert_eq!(hub.stop(), 0);
    assert_eq!(hub.log().matches("there is no app password").count(), 1);

    let hub = Process::start(
        &["hub", "--port=0", "--host", "127.0.0.1", "--host", "127.0.0.2,127.0.0.3"],
        &[&format!("SLIME_SECRET={SECRET}")],
    );
    for host in ["127.0.0.1:", "127.0.0.2:", "127.0.0.3:"] {
        let line = hub.wait_line(&format!("listening on {host}"));
        let address = line.rsplit(' ').next().unwrap().to_owned();
        assert!(get(&address, "Slime-Block: 0\r\n").starts_with("HTTP/1.1 503"));
    }
    assert_eq!(hub.stop(), 0);
    assert!(!hub.log().contains("app password"), "{}", hub.log());

    let with = format!("SLIME_APP_PASSWORD={PASSWORD}");
    let hub = Process::start(&["hub", "--port=0", "--host=0.0.0.0"], &["SLIME_SECRET=s", &with]);
    hub.wait_line("listening on");
    assert_eq!(hub.stop(), 0);
    assert!(!hub.log().contains("there is no app password"), "{}", hub.log());
}

#[test]
fn app_password() {
    let folder = Folder::new("password");
    let file = folder.file("password", &format!("{PASSWORD}\n"));
    let hub = Hub::start(&["--app-password-file", &file], &[&format!("SLIME_SECRET={SECRET}")]);
    let agent = hub.agent(&register(SECRET, &[]), &echo(), &[]);
    agent.wait_line("joined the hub at");
    for wrong in [
        "",
        "Slime-App-Password: x\r\n",
        "Authorization: Bearer x\r\n",
        "Authorization: Basic aHVzaC05MWMyOmg=\r\n",
    ] {
        let refused = get(&hub.address, wrong);
        assert!(
            refused.starts_with("HTTP/1.1 401") && refused.contains("WWW-Authenticate: Bearer"),
            "{refused}"
        );
        assert!(!refused.contains(PASSWORD));
    }
    for right in [
        format!("x-api-key: {PASSWORD}\r\n"),
        "Authorization: Basic aDpodXNoLTkxYzI=\r\n".to_owned(),
        format!("Slime-App-Password: {PASSWORD}\r\n"),
        format!("Authorization: Bearer {PASSWORD}\r\n"),
    ] {
        let served = get(&hub.address, &right);
        assert!(served.starts_with("HTTP/1.1 200"), "{served}");
        assert!(!served.contains(PASSWORD), "the upstream saw it: {served}");
    }
    hub.wait_line("refused a request of 127.0.0.1 with 401 (KR): the app password is missing or wrong");
    assert_eq!(hub.stop(), 0);
    assert_eq!(hub.log().lines().filter(|line| line.contains("the app password is missing")).count(), 2);
    assert!(hub.log().contains("2 more like it before"), "{}", hub.log());
}

/// Where a time limit makes an answer or an end, it does.
#[test]
fn time_limits_of_the_hub() {
    let hub = Hub::start(
        &[
            "--head-timeout=0.2",
            "--body-timeout=0.3",
            "--idle-timeout=0.4",
            "--queue-timeout=0.5",
            "--startup-grace=1h",
            "--max-body=1k",
        ],
        &["SLIME_SECRET=s"],
    );
    for (bytes, status) in [
        ("GET / HT", "HTTP/1.1 408"),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab", "HTTP/1.1 408"),
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "HTTP/1.1 503"),
        // The answer, and then the end of a connection that was to be kept.
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 503"),
    ] {
        let answer = exchange(&hub.address, bytes);
        assert!(answer.starts_with(status), "{bytes:?}: {answer}");
    }
    hub.wait_line("a request failed with 503 (TQ): no worker became free in time");

    let hub = Hub::start(&["--startup-grace=0"], &["SLIME_SECRET=s"]);
    assert!(get(&hub.address, "").contains("no agent that could serve this is connected"));
    hub.wait_line("a request failed with 503 (NQ): no agent that could serve this is connected");
    let hub = Hub::start(&["--queue-depth=0"], &["SLIME_SECRET=s"]);
    assert!(get(&hub.address, "").contains("queue is full"));

    let hub = Hub::start(&["--response-timeout=0.2"], &[&format!("SLIME_SECRET={SECRET}")]);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let agent = hub.agent(&register(SECRET, &[]), &silent.local_addr().unwrap().to_string(), &[]);
    agent.wait_line("joined the hub at");
    let late = get(&hub.address, "");
    assert!(late.starts_with("HTTP/1.1 504") && late.contains("--response-timeout"), "{late}");
    hub.wait_line("failed with 504 (TW): the upstream did not answer within --response-timeout");
}

#[test]
fn limits_are_logged_when_they_are_hit() {
    let secret = format!("SLIME_SECRET={SECRET}");
    let hub = Hub::start(&["--max-clients=1", "--startup-grace=1h"], &[&secret]);
    let [first, second] = [(); 2].map(|()| send(&hub.address, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"));
    hub.wait_line("the limit of --max-clients");
    drop((first, second));

    let hub = Hub::start(&["--max-tunnels=1"], &[&secret]);
    let token = register(SECRET, &["--name", "many"]);
    let agent = hub.agent(&token, &echo(), &["--num-worker=2"]);
    hub.wait_line("the hub has reached its limit of tunnels, --max-tunnels");
    agent.wait_line("(503): the hub has reached its limit of tunnels, --max-tunnels");

    let hub = Hub::start(&[], &[&secret]);
    let agent = hub.agent(&register(SECRET, &["--max-workers=1"]), &echo(), &["--num-worker=2"]);
    agent.wait_line("(403): the agent token allows no more workers");
    agent.wait_line(": 1 of 2 workers for upstream");
    hub.wait_line(": the agent token allows no more workers");

    let hub = Hub::start(&["--concurrent=1"], &[&secret]);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let _agent = hub.agent(&token, &silent.local_addr().unwrap().to_string(), &["--num-worker=2"]);
    hub.wait_line("agent many (");
    let _one = send(&hub.address, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let _other = send(&hub.address, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    hub.wait_line("the limit of --concurrent");
}

#[test]
fn descriptors_are_raised_or_the_line_says_how() {
    let script = "ulimit -n 256; exec \"$0\" \"$@\"";
    let started = |args: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", script, SLIME]).args(args);
        Process::spawn(clean(&mut command, &["SLIME_SECRET=s", FORM]))
    };
    let limit = |process: &Process| -> u64 {
        let limits = fs::read_to_string(format!("/proc/{}/limits", process.id())).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        line.split_whitespace().nth(3).unwrap().parse().unwrap()
    };
    let hub = started(&["hub", "--host=127.0.0.1", "--port=0", "--max-clients=400", "--max-tunnels=100"]);
    hub.wait_line("listening on");
    if limit(&hub) < 500 {
        hub.wait_line("only 256 files can be open, and --max-clients 400 with --max-tunnels 100 needs 653: the limits are now 144 clients and 38 tunnels");
        hub.wait_line("`ulimit -n 653`, or LimitNOFILE=653");
    }
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let agent = started(&["agent", "--hub", &address, "--upstream", &address, "--num-worker=200"]);
    agent.wait_line(if limit(&hub) < 500 {
        "200 workers for each upstream need 529: the limits are now 95 workers, 0 extra upgrades and 0 extra streams"
    } else {
        "the hub did not answer in time"
    });
}

// ---- Revocation, rejection, the end ----

#[test]
fn revoked_tokens_are_read_at_the_start_and_on_sighup() {
    let folder = Folder::new("revoked");
    let secret = format!("SLIME_SECRET={SECRET}");
    let file = folder.file("revoked", "early # a name\n");
    let hub = Hub::start(&["--revoked", &file], &[&secret]);
    let early = hub.agent(&register(SECRET, &["--name", "early"]), &echo(), &[]);
    assert_eq!(early.wait(), 1);
    assert!(
        early.log().contains("rejects the token: the agent token was revoked; make a new one"),
        "{}",
        early.log()
    );
    hub.wait_line("refused an agent at 127.0.0.1, token early (");

    let (other, late) = (register(SECRET, &["--name", "other"]), register(SECRET, &["--name", "late"]));
    let late = hub.agent(&late, &echo(), &["--num-worker=2"]);
    let other = hub.agent(&other, &echo(), &[]);
    other.wait_line("joined");
    late.wait_line("joined");
    hub.wait_line("agent late (");
    fs::write(&file, "not a rule\n").unwrap();
    hub.signal(Signal::HUP);
    hub.wait_line(
        "line 1 is neither a token id or name nor 'issued-before TIME'; the previous rules stay in force",
    );
    fs::write(&file, "early\nlate\n").unwrap();
    hub.signal(Signal::HUP);
    hub.wait_line("was read again, rules: 2");
    hub.wait_line(") was revoked: ");
    late.wait_line("the agent token was revoked");
    assert!(get(&hub.address, "").starts_with("HTTP/1.1 200"), "the other one still serves");
    fs::remove_file(&file).unwrap();
    hub.signal(Signal::HUP);
    hub.wait_line("No such file or directory (os error 2); the previous rules stay in force");
    hub.wait_line("SIGHUP reloads revocations; new flags, secrets and passwords need a restart");
    // An agent has nothing that it could read again, and says so.
    other.signal(Signal::HUP);
    other.wait_line("SIGHUP reloads nothing in an agent: new flags, tokens and certificates need a restart");
    assert!(get(&hub.address, "").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_token_that_is_rejected_at_the_start_ends_the_agent() {
    let hub = Hub::start(&[], &[&format!("SLIME_SECRET={SECRET}")]);
    for (token, says) in [
        (register("other", &[]), "the agent token is not one of this hub's"),
        (FORM.split_once('=').unwrap().1.to_owned(), "the agent token is not one of this hub's"),
    ] {
        let agent = hub.agent(&token, "127.0.0.1:1", &["--num-worker=3"]);
        assert_eq!(agent.wait(), 1);
        assert_eq!(agent.log().matches("rejects the token").count(), 1, "{}", agent.log());
        assert!(agent.log().contains(says) && !agent.log().contains(&token), "{}", agent.log());
    }
    let token = register(SECRET, &["--name", "brief", "--age=1s"]);
    let expired = || {
        run(&["hub", "inspect", &token], &[&format!("SLIME_SECRET={SECRET}")])
            .1
            .contains("the token has expired")
    };
    wait_until("the token expires", expired);
    // The hub asks for the time of day four times a second.
    thread::sleep(Duration::from_millis(300));
    let agent = hub.agent(&token, "127.0.0.1:1", &[]);
    assert_eq!(agent.wait(), 1);
    assert!(agent.log().contains("the agent token has expired"), "{}", agent.log());
    hub.wait_line("token brief (");
}

/// With TLS where there is none, without where there is, and where no hub is at all.
#[test]
fn an_agent_says_what_is_wrong_with_an_address() {
    let folder = Folder::new("address");
    let secret = format!("SLIME_SECRET={SECRET}");
    let hub = Hub::start(&["--tls-self-signed", &folder.path("tls")], &[&secret]);
    let (token, nobody) = (format!("SLIME_TOKEN={}", register(SECRET, &[])), echo());
    let forward = TcpListener::bind("127.0.0.1:0").unwrap();
    let talks_first = forward.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in forward.incoming().map_while(Result::ok) {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    // A front as many are: it passes no upgrade but WebSocket's on.
    let plain = Hub::start(&[], &[&secret]);
    let front = TcpListener::bind("127.0.0.1:0").unwrap();
    let (stripping, behind) = (front.local_addr().unwrap().to_string(), plain.address.clone());
    thread::spawn(move || {
        for stream in front.incoming().map_while(Result::ok) {
            let mut head = String::new();
            for line in
                BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty())
            {
                if !line.starts_with("Upgrade:") && !line.starts_with("Connection:") {
                    head.push_str(&format!("{line}\r\n"));
                }
            }
            let answer = exchange(&behind, &format!("{head}Connection: close\r\n\r\n"));
            let _ = (&stream).write_all(answer.as_bytes());
        }
    });
    for (address, says) in [
        (
            stripping,
            "it answered 400: the handshake came without its Upgrade field: a reverse proxy in front of this hub passes WebSockets",
        ),
        (hub.address.clone(), "it answered 400: this port speaks HTTPS: write https:// instead of http://"),
        (
            format!("https://{}", hub.address),
            "its certificate was issued by nobody that this agent trusts; give",
        ),
        (format!("https://{talks_first}"), "failed: it does not speak TLS"),
        (nobody.clone(), "the server there is not a slime hub, or the path is wrong: status 200"),
    ] {
        let agent = Process::start(&["agent", "--hub", &address, "--upstream", &nobody], &[&token]);
        agent.wait_line(says);
    }
}

#[test]
fn the_first_signal_drains_and_the_second_one_ends() {
    let hub = Hub::start(&[], &[&format!("SLIME_SECRET={SECRET}")]);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let agent = hub.agent(&register(SECRET, &[]), &silent.local_addr().unwrap().to_string(), &[]);
    agent.wait_line("joined the hub at");
    let application = send(&hub.address, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    // The probe first, and then the request.
    let mut job = loop {
        let (mut stream, _) = silent.accept().unwrap();
        if stream.read(&mut [0; 1024]).unwrap() > 0 {
            break stream;
        }
    };
    agent.signal(Signal::TERM);
    agent.wait_line("draining: taking no new requests");
    hub.signal(Signal::INT);
    hub.wait_line("draining: refusing new requests; 1 in progress or waiting");
    assert!(get(&hub.address, "").starts_with("HTTP/1.1 503"));
    // What is there is served.
    job.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
    let mut answer = String::new();
    BufReader::new(application).read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"), "{answer}");
    assert_eq!((agent.wait(), hub.wait()), (0, 0));

    // Again, and impatient.
    let hub = Hub::start(&[], &[&format!("SLIME_SECRET={SECRET}")]);
    let agent = hub.agent(&register(SECRET, &[]), &silent.local_addr().unwrap().to_string(), &[]);
    agent.wait_line("joined the hub at");
    let _application = send(&hub.address, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let _job = loop {
        let (mut stream, _) = silent.accept().unwrap();
        if stream.read(&mut [0; 1024]).unwrap() > 0 {
            break stream;
        }
    };
    for process in [&agent, &hub.process] {
        process.signal(Signal::TERM);
        process.wait_line("draining");
        process.signal(Signal::TERM);
        assert_eq!(process.wait(), 1);
        process.wait_line("second signal: 1 request cut off");
    }
    // And one that runs out of time.
    let hub = Hub::start(&["--drain-timeout=0.2", "--startup-grace=1h"], &["SLIME_SECRET=s"]);
    let _application = send(&hub.address, "GET / HTTP/1.1\r\nHost: h\r\nSlime-Block: 1\r\n\r\n");
    // The hub has taken the request in when it has answered a later one.
    assert!(get(&hub.address, "Slime-Block: 0\r\n").starts_with("HTTP/1.1 503"));
    assert_eq!(hub.stop(), 1);
    assert!(hub.log().contains("the drain timeout is over: 1 request cut off"), "{}", hub.log());
}
