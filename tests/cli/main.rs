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
mod errors;
mod flags;
mod harness;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use harness::*;

// ---- The one-shot commands ----

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

#[test]
fn register_and_inspect() {
    let folder = Folder::new("register");
    let secret = folder.file("secret", &format!("{SECRET}\n"));
    let (code, token, err) = run(&["hub", "register", "--secret-file", &secret], &[]);
    assert_eq!(code, 0);
    assert!(token.starts_with("slime1_") && token.ends_with('\n') && one_line(&token), "{token}");
    let name = err.lines().find_map(|line| line.strip_prefix("name:")).unwrap().trim().to_owned();
    assert_eq!(name.split('-').count(), 3, "a readable name: {name}");
    for part in [
        "id:          ",
        "expires:     never",
        "scopes:      none",
        "scope paths: all paths",
        "max workers: no limit",
    ] {
        assert!(err.contains(part), "{err}");
    }
    assert!(!err.contains(SECRET) && !err.contains("slime1_"));
    let (_, again, _) = run(&["hub", "register", "--secret-file", &secret], &[]);
    assert_ne!(token, again);

    let line = "hub register --name gpu-1 --age 1h2m3s --scopes a,b --scopePaths /x,/y/ --max-workers=3";
    let long = "sesame-7f3a-and-more";
    let secret = folder.file("long", long);
    let (code, token, made) = run(&words(line), &[&format!("SLIME_SECRET={long}")]);
    assert_eq!(code, 0, "{made}");
    for part in ["name:        gpu-1", "scopes:      a,b", "scope paths: /x,/y", "max workers: 3"] {
        assert!(made.contains(part), "{made}");
    }
    assert!(!made.contains("never"), "{made}");
    let (code, said, err) = run(&["hub", "inspect", token.trim(), "--secret-file", &secret], &[]);
    let (made, _) = made.split_once("agent: ").unwrap();
    assert_eq!((code, said.as_str(), err.as_str()), (0, made, ""));
    let mut child = command(&["hub", "inspect", "--secret-file", &secret], &[]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    assert_eq!(text(&child.wait_with_output().unwrap().stdout), made);

    let other = ["SLIME_SECRET=other"];
    fails(&format!("hub inspect {token}"), &other, 1, "made with another secret");
    fails("hub inspect slime2_abc", &other, 1, "another version of slime");
    let variables = [
        "SLIME_SECRET=s",
        "SLIME_NAME=n",
        "SLIME_AGE=90",
        "SLIME_SCOPES=s",
        "SLIME_SCOPE_PATHS=/p",
        "SLIME_MAX_WORKERS=2",
    ];
    let (_, _, made) = run(&["hub", "register"], &variables);
    for part in ["name:        n\n", "scopes:      s\n", "scope paths: /p\n", "max workers: 2\n"] {
        assert!(made.contains(part), "{made}");
    }
}

/// The last line of `slime hub register`: the command that runs the agent.
fn agent_command(said: &str) -> &str {
    said.lines().find_map(|line| line.strip_prefix("agent:       ")).unwrap()
}

#[test]
fn register_shows_the_command_that_runs_the_agent() {
    let folder = Folder::new("agent-command");
    let secret = format!("SLIME_SECRET={SECRET}");
    let shown = |line: &str| {
        let (code, token, said) = run(&words(&format!("hub register {line}")), &[&secret]);
        assert_eq!(code, 0, "{said}");
        assert!(token.is_empty() || one_line(&token), "{token}");
        for hidden in [SECRET, PASSWORD, "slime1_"] {
            assert!(!said.contains(hidden), "{said}");
        }
        agent_command(&said).to_owned()
    };
    for (line, expected) in [
        ("", "HOST:8080"),
        ("--hub hub.example.org", "hub.example.org:8080"),
        ("--hub https://hub.example.org/x", "https://hub.example.org:443/x"),
        ("--hub http://hub.example.org", "http://hub.example.org:80"),
        ("--hub http://me:hush-91c2@h:81", "http://USER:PASSWORD@h:81"),
        ("--tls-self-signed /nonexistent", "https://HOST:8080 --hub-pin PIN"),
        ("--tls-self-signed /nonexistent --hub http://h", "http://h:80"),
    ] {
        let expected = format!("slime agent --token-file FILE --hub {expected} --upstream ADDRESS");
        assert_eq!(shown(line), expected, "{line}");
    }

    // With what it is told, it is complete, and joins.
    let (tls, token) = (folder.path("tls"), folder.path("token"));
    let hub = Hub::start(&["--tls-self-signed", &tls], &[&secret]);
    let line = shown(&format!("--tls-self-signed {tls} --hub {} --out {token}", hub.address));
    let line = line.replace("ADDRESS", &echo());
    let agent = Process::start(&words(line.strip_prefix("slime ").unwrap()), &[]);
    agent.wait_line("joined the hub");
    assert_eq!(agent.stop(), 0);

    let quoted = folder.path("it's");
    let (_, _, said) = run(&["hub", "register", "--out", &quoted], &[&secret]);
    let expected = format!("slime agent --token-file '{}' ", quoted.replace('\'', "'\\''"));
    assert!(agent_command(&said).starts_with(&expected), "{said}");
}

#[test]
fn register_shows_the_token_in_the_command_on_a_terminal_only() {
    let (terminal, screen) = terminal();
    let mut register = command(&["hub", "register"], &["SLIME_SECRET=s"]);
    let said = register.stdin(Stdio::null()).stdout(screen).stderr(Stdio::piped()).output().unwrap().stderr;
    let mut token = String::new();
    BufReader::new(fs::File::from(terminal)).read_line(&mut token).unwrap();
    let expected = format!("slime agent --token {} --hub HOST:8080 --upstream ADDRESS", token.trim());
    assert_eq!(agent_command(&text(&said)), expected);
}

/// A terminal, by both its ends: the second is the program's.
fn terminal() -> (std::os::fd::OwnedFd, fs::File) {
    use std::os::unix::fs::OpenOptionsExt as _;

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    const NOCTTY: i32 = 0o400;
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let end =
        fs::File::options().read(true).write(true).custom_flags(NOCTTY).open(name.to_str().unwrap()).unwrap();
    (terminal, end)
}

#[test]
fn inspect_says_on_a_terminal_that_it_waits() {
    let (terminal, keyboard) = terminal();
    let mut inspect = command(&["hub", "inspect"], &["SLIME_SECRET=s"]);
    let mut inspect = inspect.stdin(keyboard).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(inspect.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "Paste the token, then press Enter and Ctrl-D.\n");
    let typed = format!("{}\n\x04", register("s", &["--name", "gpu-1"]));
    fs::File::from(terminal.try_clone().unwrap()).write_all(typed.as_bytes()).unwrap();
    let output = inspect.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("name:        gpu-1"));
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
    hub.wait_line("refused a request of 127.0.0.1 with 401: the app password is missing or wrong");
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
    hub.wait_line("a request failed with 503: no worker became free in time");

    let hub = Hub::start(&["--startup-grace=0"], &["SLIME_SECRET=s"]);
    assert!(get(&hub.address, "").contains("no agent that could serve this is connected"));
    hub.wait_line("a request failed with 503: no agent that could serve this is connected");
    let hub = Hub::start(&["--queue-depth=0"], &["SLIME_SECRET=s"]);
    assert!(get(&hub.address, "").contains("queue is full"));

    let hub = Hub::start(&["--response-timeout=0.2"], &[&format!("SLIME_SECRET={SECRET}")]);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let agent = hub.agent(&register(SECRET, &[]), &silent.local_addr().unwrap().to_string(), &[]);
    agent.wait_line("joined the hub at");
    let late = get(&hub.address, "");
    assert!(late.starts_with("HTTP/1.1 504") && late.contains("--response-timeout"), "{late}");
    hub.wait_line("failed with 504: the upstream did not answer within --response-timeout");
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

// ---- The service manager ----

#[test]
fn the_service_manager_is_told_what_becomes_of_a_hub() {
    let folder = Folder::new("notify");
    let fifo = folder.file("revoked", "");
    // By a path, too long for a socket in some folders that tests are built in.
    let path = std::env::temp_dir().join(format!("slime-notify-{}", std::process::id()));
    let manager = Manager::at(&SocketAddr::from_pathname(&path).unwrap());
    let named = format!("NOTIFY_SOCKET={}", path.display());
    let hub = Hub::start(&["--revoked", &fifo], &["SLIME_SECRET=s", &named, "WATCHDOG_USEC=300000"]);
    manager.wait("READY=1");
    for _ in 0..3 {
        // Twice in each period at least: the margin is for the machine.
        assert!(manager.wait("WATCHDOG=1") < Duration::from_secs(5));
    }
    fs::remove_file(&path).unwrap();
    hub.wait_line("the service manager at NOTIFY_SOCKET cannot be told anything: No such file");
    drop((hub, manager));

    let (manager, named) = Manager::new("hub");
    let hub = Hub::start(&["--revoked", &fifo], &["SLIME_SECRET=s", &named, "WATCHDOG_USEC=300000"]);
    manager.wait("READY=1");
    manager.wait("WATCHDOG=1");
    // A loop that hangs is silent: this one waits for somebody who writes into the pipe.
    fs::remove_file(&fifo).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .unwrap();
    hub.signal(Signal::HUP);
    manager.wait("RELOADING=1\nMONOTONIC_USEC=");
    assert_eq!(manager.hear(Duration::from_secs(1)), None);
    fs::write(&fifo, "somebody\n").unwrap();
    assert_eq!(manager.hear(DEADLINE).as_deref(), Some("READY=1"));
    manager.wait("WATCHDOG=1");
    assert_eq!(hub.stop(), 0);
    manager.wait("STOPPING=1");
}

#[test]
fn the_service_manager_is_told_what_becomes_of_an_agent() {
    let hub = Hub::start(&[], &[&format!("SLIME_SECRET={SECRET}")]);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (manager, named) = Manager::new("agent");
    let line = format!("agent --hub {} --upstream {}", hub.address, silent.local_addr().unwrap());
    let token = format!("SLIME_TOKEN={}", register(SECRET, &[]));
    // Its own number is what nobody knows but a process itself.
    let mut command = Command::new("sh");
    command.args(["-c", "WATCHDOG_PID=$$ exec \"$0\" \"$@\"", SLIME]).args(words(&line));
    let agent = Process::spawn(clean(&mut command, &[&token, &named, "WATCHDOG_USEC=300000"]));
    manager.wait("READY=1");
    agent.wait_line("joined");
    manager.wait("WATCHDOG=1");
    agent.signal(Signal::HUP);
    manager.wait("RELOADING=1");
    manager.wait("READY=1");
    // Also while it drains.
    let _application = send(&hub.address, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let _job = loop {
        let (mut stream, _) = silent.accept().unwrap();
        if stream.read(&mut [0; 1024]).unwrap() > 0 {
            break stream;
        }
    };
    agent.signal(Signal::TERM);
    manager.wait("STOPPING=1");
    manager.wait("WATCHDOG=1");
    manager.wait("WATCHDOG=1");
}

#[test]
fn a_service_manager_that_cannot_be_told_stops_nothing() {
    // The watchdog is another process's.
    let (manager, named) = Manager::new("other");
    let hub = Hub::start(&[], &["SLIME_SECRET=s", &named, "WATCHDOG_USEC=1000", "WATCHDOG_PID=1"]);
    manager.wait("READY=1");
    assert!(get(&hub.address, "Slime-Block: 0\r\n").starts_with("HTTP/1.1 503"));
    assert_eq!(hub.stop(), 0);
    assert_eq!(manager.hear(DEADLINE).as_deref(), Some("STOPPING=1"));

    for (socket, micros, says) in [
        (named.as_str(), "soon", "WATCHDOG_USEC is not a whole number above zero"),
        (
            "NOTIFY_SOCKET=relative",
            "1",
            "NOTIFY_SOCKET cannot be used, so the service manager is told nothing: ",
        ),
        (
            "NOTIFY_SOCKET=/nonexistent/socket",
            "1",
            "the service manager at NOTIFY_SOCKET cannot be told anything: No such",
        ),
    ] {
        let hub = Hub::start(&[], &["SLIME_SECRET=s", socket, &format!("WATCHDOG_USEC={micros}")]);
        hub.wait_line(says);
        assert!(get(&hub.address, "Slime-Block: 0\r\n").starts_with("HTTP/1.1 503"));
        assert_eq!(hub.stop(), 0);
        assert_eq!(hub.log().matches("NOTIFY_SOCKET").count(), usize::from(micros == "1"), "{}", hub.log());
    }
}

// ---- The log ----

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
