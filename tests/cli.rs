//! The command line through the binary: every flag, every variable, every line that says what is wrong, and the log.
//!
//! Ports are chosen by the system, files live in a folder of the test's own, and everything is waited for with a deadline.

#![allow(missing_docs, reason = "nobody depends on a test")]
#![allow(clippy::disallowed_methods, reason = "deadlines of real processes")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// For everything that must happen.
const DEADLINE: Duration = Duration::from_secs(60);
const SLIME: &str = env!("CARGO_BIN_EXE_slime");
/// None of these may ever be seen in a log or an error.
const SECRET: &str = "sesame-7f3a";
const PASSWORD: &str = "hush-91c2";

// ---- The one-shot commands, and what is wrong with a call ----

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
        "hub run --help",
        "hub register -h",
        "hub inspect --help",
        "agent --help",
        "agent run help",
        "demo --help",
        "version --help",
    ] {
        let (code, out, err) = run(&words(args), &[]);
        assert_eq!((code, err.as_str()), (0, ""), "{args}");
        assert!(out.starts_with("Usage: slime") && out.contains("--help"), "{args}: {out}");
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
fn wrong_usage_is_one_line_and_exit_code_2() {
    let hub = ["SLIME_SECRET=s"];
    let agent = ["SLIME_TOKEN=t", "SLIME_HUB=h", "SLIME_UPSTREAM=u"];
    for (args, environment, says) in [
        ("", &hub[..], "which command? hub, agent, demo or version"),
        ("frob", &[], "there is no command 'frob', but hub, agent, demo, version; see `slime --help`"),
        ("hub frob", &[], "there is no command 'frob', but run, register, inspect"),
        ("hub --frob", &[], "there is no flag --frob; see `slime hub run --help`"),
        ("hub --sercet x", &[], "did you mean --secret?"),
        ("hub --port", &hub, "--port needs a value"),
        ("hub --port 1 --port 2", &hub, "--port is given twice"),
        ("hub -p 1", &hub, "a word too many"),
        ("hub --secret open sesame-7f3a", &[], "a word too many after --secret"),
        ("agent --hub h sesame-7f3a", &[], "a word too many after --hub"),
        ("version sesame-7f3a", &[], "a word too many"),
        ("hub inspect a sesame-7f3a", &hub, "a word too many"),
        ("agent --preserve-host=maybe", &agent, "--preserve-host is true or false"),
        ("agent --upstream u", &["SLIME_TOKEN=t"], "--hub is missing"),
        ("agent --hub h", &["SLIME_TOKEN=t"], "--upstream is missing"),
        ("agent --num-worker 4294967295", &agent, "more than 1048576 workers"),
        ("hub register --name a/b", &hub, "--name 'a/b': a token's name is"),
        ("hub register --scopes a;b", &hub, "--scopes 'a;b': a scope is"),
        ("hub register --scope-paths v1", &hub, "--scope-paths 'v1': a scope path begins"),
        ("demo --port x", &[], "'--port' with value 'x': a port is"),
    ] {
        fails(args, environment, 2, says);
    }
}

/// Each flag that can have a wrong value, with one, as a flag and as a variable.
#[test]
fn wrong_values_are_named() {
    const TIME: &str = "a time is a number of seconds";
    const NUMBER: &str = "whole number";
    let hub = [
        ("--port", "65536", "a port is a number up to 65535"),
        ("--trusted-proxy", "10.0.0.0/33", "no address or range of addresses"),
        ("--concurrent", "0", NUMBER),
        ("--queue-depth", "-1", NUMBER),
        ("--max-clients", "0", NUMBER),
        ("--max-tunnels", "1048577", NUMBER),
        ("--max-body", "1x", "a size is a number of bytes"),
        ("--queue-timeout", "soon", TIME),
        ("--startup-grace", "1h1h", TIME),
        ("--drain-timeout", "-1", TIME),
        ("--response-timeout", "0", "the time must not be zero"),
        ("--head-timeout", "0s", "the time must not be zero"),
        ("--body-timeout", "1x", TIME),
        ("--idle-timeout", "101y", TIME),
        ("--stall-timeout", "36501d", "at most a hundred years"),
        ("--heartbeat", "0", "the time must not be zero"),
        ("--log-level", "loud", "error, warn, info or debug"),
    ];
    let register = [
        ("--name", "a b", "a token's name is"),
        ("--age", "0", "good for a second at least"),
        ("--scopes", "a b", "a scope is"),
        ("--scope-paths", "/a/../b", "a scope path begins"),
        ("--max-workers", "0", NUMBER),
    ];
    let agent = [
        ("--num-worker", "0", NUMBER),
        ("--extra-upgrades", "x", "invalid digit"),
        ("--on-cancel", "wait", "close or drain"),
        ("--preserve-host", "maybe", "true or false"),
        ("--agent-id", "a/b", "an agent id is"),
        ("--health-path", "health", "begins with '/'"),
        ("--connect-timeout", "0", "the time must not be zero"),
        ("--head-timeout", "x", TIME),
        ("--stall-timeout", "x", TIME),
        ("--drain-timeout", "x", TIME),
        ("--log-level", "trace", "error, warn, info or debug"),
    ];
    let given = ["SLIME_SECRET=s", "SLIME_TOKEN=t", "SLIME_HUB=h", "SLIME_UPSTREAM=u"];
    let folder = Folder::new("values");
    for (command, flags) in [("hub", &hub[..]), ("hub register", &register), ("agent", &agent)] {
        for (flag, value, says) in flags {
            let arg = format!("{flag}={value}");
            let line = [words(command), vec![&arg]].concat();
            let (code, _, err) = run(&line, &given);
            assert!(
                code == 2 && one_line(&err) && err.contains(says) && err.contains(flag),
                "{arg}: {code} {err}"
            );

            let variable = variable(flag);
            let assignment = format!("{variable}={value}");
            let (code, _, err) = run(&words(command), &[&given[..], &[&assignment]].concat());
            assert!(
                code == 2 && one_line(&err) && err.contains(says) && err.contains(&variable),
                "{assignment}: {err}"
            );

            let file = folder.file("env", &assignment);
            let (code, _, err) = run(&[words(command), vec!["--env-file", &file]].concat(), &given);
            let place = format!("{variable} in {file}");
            assert!(code == 2 && one_line(&err) && err.contains(&place), "{place}: {err}");
        }
    }
}

#[test]
fn what_cannot_be_used_is_one_line_and_exit_code_1() {
    let folder = Folder::new("unusable");
    let (empty, two) = (folder.file("empty", " \n"), folder.file("two", "sesame-7f3a\nsesame-7f3a\n"));
    let binary = folder.path("binary");
    fs::write(&binary, [0xff, 0xfe]).unwrap();
    let large = folder.file("large", &"x".repeat(70_000));
    let bad_env = folder.file("bad.env", "SLIME_PORT=1\nSLIME_SECRET='sesame-7f3a\n");
    // Few enough for any limit of descriptors, about which there would be another line.
    let hub = ["SLIME_SECRET=sesame-7f3a", "SLIME_MAX_CLIENTS=9", "SLIME_MAX_TUNNELS=9"];
    let agent = ["SLIME_TOKEN=sesame-7f3a", "SLIME_HUB=h", "SLIME_UPSTREAM=u"];
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (args, environment, says) in [
        ("hub".to_owned(), &[][..], "the hub's secret is missing: use --secret-file"),
        ("hub register".into(), &[], "the hub's secret is missing"),
        ("hub inspect x".into(), &[], "the hub's secret is missing"),
        ("hub".into(), &["SLIME_SECRET= "], "SLIME_SECRET is empty"),
        (format!("hub --secret-file {empty}"), &[], "the file of --secret-file is empty"),
        (format!("hub --secret-file {two}"), &[], "the file of --secret-file must be one line of text"),
        (
            "hub --secret-file /nonexistent".into(),
            &[],
            "cannot read the file of --secret-file, /nonexistent: No such file",
        ),
        (format!("hub --secret-file {binary}"), &[], "it is not UTF-8"),
        (format!("hub --secret-file {large}"), &[], "it has more than 65536 bytes"),
        ("hub --app-password-file /nonexistent".into(), &hub, "cannot read the file of --app-password-file"),
        (
            "hub --env-file /nonexistent".into(),
            &hub,
            "cannot read the file of --env-file, /nonexistent: No such file",
        ),
        (format!("hub --env-file {bad_env}"), &hub, "bad.env, line 2: its quotes do not end"),
        (
            "hub --revoked /nonexistent".into(),
            &hub,
            "cannot read the file of --revoked, /nonexistent: No such file",
        ),
        (format!("hub --revoked {two} --port 0 --host 192.0.2.1"), &hub, "cannot listen on 192.0.2.1:0"),
        (
            format!("hub --host 127.0.0.1 --port {port}"),
            &hub,
            "Address already in use (os error 98); end the program that has it, or choose another --port",
        ),
        ("hub --host no.such.name.invalid".into(), &hub, "cannot listen on 'no.such.name.invalid'"),
        ("hub inspect slime1_sesame-7f3a".into(), &hub, "not a complete agent token"),
        (
            "agent --hub h --upstream u".into(),
            &[],
            "the token is missing: use --token-file FILE or the variable SLIME_TOKEN",
        ),
        (
            "agent --hub h --upstream u --token-file /nonexistent".into(),
            &[],
            "cannot read the file of --token-file",
        ),
        (
            "agent --upstream ftp://u:hush-91c2@h".into(),
            &agent,
            "--upstream: the address must begin with http://",
        ),
        ("agent --upstream ::1".into(), &agent, "stands in brackets"),
        ("agent --upstream h:0".into(), &agent, "the port of the address must be a number from 1 to 65535"),
        ("agent --upstream h/a?b".into(), &agent, "the path of the address must be a plain path"),
        (
            "agent --hub http://u%zz:hush-91c2@h".into(),
            &agent,
            "--hub: user and password in the address must be percent-encoded",
        ),
        ("agent".into(), &["SLIME_TOKEN=t", "SLIME_HUB=h:x", "SLIME_UPSTREAM=u"], "SLIME_HUB: the port"),
        ("demo --upstream ftp://h".into(), &[], "--upstream: the address must begin"),
        (format!("demo --port {port}"), &[], "--port: Address already in use"),
    ] {
        fails(&args, environment, 1, says);
    }
    let bad = folder.file("revoked", "# fine\ngpu-1\nslime1_sesame-7f3a/x\n");
    fails(
        &format!("hub --revoked {bad}"),
        &hub,
        1,
        "line 3 is neither a token id or name nor 'issued-before TIME'",
    );
}

#[test]
fn output_that_goes_nowhere_is_a_failure() {
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    for args in ["version", "hub register", "hub inspect"] {
        let mut command = command(&words(args), &["SLIME_SECRET=s"]);
        if args == "hub inspect" {
            command.arg(register("s", &[]));
        }
        let output = command.stdin(Stdio::null()).stdout(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args}");
        assert!(text(&output.stderr).contains("cannot write to the standard output"), "{args}");
    }
    // Nobody to complain to.
    let mut command = command(&["hub", "--frob"], &[]);
    assert_eq!(command.stderr(full()).status().unwrap().code(), Some(2));
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
    let (code, token, made) = run(&words(line), &[&format!("SLIME_SECRET={SECRET}")]);
    assert_eq!(code, 0, "{made}");
    for part in ["name:        gpu-1", "scopes:      a,b", "scope paths: /x,/y", "max workers: 3"] {
        assert!(made.contains(part), "{made}");
    }
    assert!(!made.contains("never"), "{made}");
    let (code, said, err) = run(&["hub", "inspect", token.trim(), "--secret-file", &secret], &[]);
    assert_eq!((code, said.as_str(), err.as_str()), (0, made.as_str(), ""));
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

#[test]
fn secrets_in_flags_earn_a_warning_that_shows_nothing() {
    let (code, _, err) = run(&["hub", "register", "--secret", SECRET], &[]);
    assert!(
        code == 0
            && err.contains("every user of this machine can read --secret")
            && err.contains("--secret-file"),
        "{err}"
    );
    assert!(!err.contains(SECRET));
    let hub = Hub::start(&["--secret", SECRET, "--app-password", PASSWORD], &[]);
    hub.wait_line("can read --secret in the list of processes; use --secret-file");
    hub.wait_line("can read --app-password in the list of processes");
    let agent = Process::start(
        &[
            "agent",
            "--token",
            SECRET,
            "--hub",
            &format!("http://u:{PASSWORD}@{}", hub.address),
            "--upstream",
            "127.0.0.1:1",
        ],
        &[],
    );
    agent.wait_line("can read --token in the list of processes");
    agent.wait_line("can read the password of --hub in the list of processes; use the variable SLIME_HUB");
    assert_eq!(agent.wait(), 1);
}

#[test]
fn the_order_of_sources() {
    let folder = Folder::new("order");
    let file = folder.file("secret", "from file flag");
    let other = folder.file("other", "from file variable");
    let env_file = folder.file("env", "# a comment\nexport SLIME_SECRET=\"from env file\"\nSLIME_NAME=from-env-file\nSLIME_FROB=1\nPATH=/\n");
    let env_file_of_file = folder.file("env2", &format!("SLIME_SECRET_FILE='{other}'\n"));
    let variable = "SLIME_SECRET=from variable";
    let file_variable = format!("SLIME_SECRET_FILE={other}");
    let named = format!("SLIME_ENV_FILE={env_file}");
    for (args, environment, secret) in [
        (
            vec!["--secret", "from flag", "--secret-file", &file, "--env-file", &env_file],
            vec![variable],
            "from flag",
        ),
        (vec!["--secret-file", &file, "--env-file", &env_file], vec![variable], "from file flag"),
        (vec!["--env-file", &env_file], vec![variable, &file_variable], "from variable"),
        (vec!["--env-file", &env_file], vec![&file_variable], "from file variable"),
        (vec!["--env-file", &env_file], vec!["SLIME_SECRET="], "from env file"),
        (vec![], vec![&named], "from env file"),
        (vec!["--env-file", &env_file_of_file], vec![], "from file variable"),
    ] {
        let (code, token, err) = run(&[vec!["hub", "register"], args.clone()].concat(), &environment);
        assert_eq!(code, 0, "{err}");
        let (code, said, err) = run(&["hub", "inspect", token.trim()], &[&format!("SLIME_SECRET={secret}")]);
        assert_eq!(code, 0, "{args:?} {environment:?}: {secret}: {err}");
        assert_eq!(
            said.contains("name:        from-env-file"),
            args.contains(&env_file.as_str()) || environment.contains(&named.as_str())
        );
    }
    let (_, _, err) = run(&["hub", "register", "--env-file", &env_file, "--name", "typed"], &[]);
    assert!(
        err.contains("name:        typed") && err.contains(&format!("SLIME_FROB in {env_file} is ignored")),
        "{err}"
    );
    assert!(!err.contains("PATH"), "{err}");
}

#[test]
fn credentials_are_files_that_are_named_nowhere() {
    let folder = Folder::new("credentials");
    folder.file("slime_secret", SECRET);
    folder.file("slime_app-password", PASSWORD);
    folder.file("slime_revoked", "nobody\n");
    let directory = format!("CREDENTIALS_DIRECTORY={}", folder.0.display());
    let hub = Hub::start(&[], &[&directory]);
    assert!(get(&hub.address, "").starts_with("HTTP/1.1 401"));
    let fields = format!("Slime-App-Password: {PASSWORD}\r\nSlime-Block: 0\r\n");
    assert!(get(&hub.address, &fields).starts_with("HTTP/1.1 503"));
    hub.signal(Signal::HUP);
    hub.wait_line("/slime_revoked was read again, rules: 1");
    // The last source of all: a line of a file comes before it.
    let env_file = folder.file("env", "SLIME_SECRET=from env file\n");
    let (code, token, err) = run(&["hub", "register", "--env-file", &env_file], &[&directory]);
    assert_eq!(code, 0, "{err}");
    let inspected = |environment: &[&str]| run(&["hub", "inspect", token.trim()], environment);
    assert_eq!(inspected(&["SLIME_SECRET=from env file", &directory]).0, 0);
    assert_eq!(inspected(&[&directory]).0, 1);

    for (content, says) in [
        (" \n", "the file of the credential slime_token is empty"),
        ("two\nlines", "the file of the credential slime_token must be one line of text"),
    ] {
        folder.file("slime_token", content);
        fails("agent --hub h --upstream u", &[&directory], 1, says);
    }
    fs::remove_file(folder.path("slime_token")).unwrap();
    fails("agent --hub h --upstream u", &[&directory], 1, "the token is missing: use --token-file");
    fs::create_dir(folder.path("slime_token")).unwrap();
    fails(
        "agent --hub h --upstream u",
        &[&directory],
        1,
        "cannot read the file of the credential slime_token, ",
    );
    fails(
        "hub",
        &["CREDENTIALS_DIRECTORY=/nonexistent"],
        1,
        "the hub's secret is missing: use --secret-file",
    );
}

#[test]
fn what_container_platforms_make_up_is_ignored_with_one_warning() {
    let (code, _, err) = run(&["hub", "register"], &["SLIME_SECRET=s", "SLIME_NAME=/app/slime"]);
    assert!(code == 0 && err.matches("SLIME_NAME is ignored").count() == 1, "{err}");
    let environment = [
        "SLIME_PORT=tcp://10.0.0.1:8080",
        "SLIME_SERVICE_HOST=10.0.0.1",
        "SLIME_PORT_8080_TCP=tcp://10.0.0.1:8080",
    ];
    let mut demo = command(&["demo", "--upstream", "ftp://h"], &environment);
    let err = text(&demo.output().unwrap().stderr);
    assert!(err.contains("SLIME_PORT is ignored"), "{err}");
}

// ---- The long-running commands: flags and their effect ----

/// The flags of the tables below must be all that there are.
#[test]
fn the_tests_know_every_flag() {
    let shown = |command: &str| -> Vec<String> {
        let (_, help, _) = run(&[words(command), vec!["--help"]].concat(), &[]);
        let mut flags: Vec<String> = help
            .lines()
            .filter_map(|line| {
                line.strip_prefix("  --")?.split_whitespace().next().map(|flag| format!("--{flag}"))
            })
            .filter(|flag| flag != "--help")
            .collect();
        flags.sort();
        flags
    };
    let sorted = |flags: &[(&str, &str)], more: &[&str]| {
        let mut flags: Vec<String> =
            flags.iter().map(|(flag, _)| *flag).chain(more.iter().copied()).map(String::from).collect();
        flags.sort();
        flags
    };
    // Those that name secrets and files have tests of their own, and so has TLS (e2e).
    assert_eq!(
        shown("hub run"),
        sorted(
            &HUB_FLAGS,
            &[
                "--secret",
                "--secret-file",
                "--app-password",
                "--app-password-file",
                "--revoked",
                "--tls-cert",
                "--tls-key",
                "--tls-port",
                "--tls-redirect",
                "--tls-self-signed",
                "--env-file"
            ]
        )
    );
    assert_eq!(
        shown("agent run"),
        sorted(
            &AGENT_FLAGS,
            &[
                "--token",
                "--token-file",
                "--hub",
                "--hub-ca",
                "--hub-pin",
                "--proxy",
                "--upstream",
                "--upstream-ca",
                "--env-file"
            ]
        )
    );
}

/// Every flag with a value that is not its default.
const HUB_FLAGS: [(&str, &str); 18] = [
    ("--host", "127.0.0.1"),
    ("--port", "0"),
    ("--trusted-proxy", "127.0.0.0/8,::1"),
    ("--concurrent", "10"),
    ("--queue-depth", "11"),
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
    ("--startup-grace", "0"),
    ("--drain-timeout", "1h"),
    ("--log-level", "debug"),
];
const AGENT_FLAGS: [(&str, &str); 11] = [
    ("--num-worker", "2"),
    ("--extra-upgrades", "1"),
    ("--on-cancel", "drain"),
    ("--preserve-host", "true"),
    ("--agent-id", "me"),
    ("--health-path", "/health"),
    ("--connect-timeout", "9s"),
    ("--head-timeout", "8s"),
    ("--stall-timeout", "70s"),
    ("--drain-timeout", "5m"),
    ("--log-level", "debug"),
];

/// What `HUB_FLAGS` and `AGENT_FLAGS` make of a request, however they were given.
fn check_all_flags(hub: &Hub, agent: &Process) {
    agent.wait_line("joined the hub at");
    hub.wait_line("agent all (me) joined");
    let body = answer(
        hub,
        "GET /a HTTP/1.1\r\nHost: app.example\r\nX-Forwarded-For: 203.0.113.9\r\nConnection: close\r\n\r\n",
    );
    for part in ["Slime-Agent-Id: me", "GET /a HTTP/1.1", "Host: app.example", "203.0.113.9"] {
        assert!(body.contains(part), "{part}: {body}");
    }
    let large = answer(hub, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1025\r\n\r\n");
    assert!(large.starts_with("HTTP/1.1 413"), "{large}");
    // At debug.
    agent.wait_line("GET /a to ");
    assert_eq!(agent.stop(), 0);
    assert_eq!(hub.stop(), 0);
}

#[test]
fn every_flag_every_variable_and_every_line_of_an_env_file() {
    let folder = Folder::new("all");
    let token = register(SECRET, &["--name", "all"]);
    let upstream = echo();
    let (secret, token_file) = (folder.file("secret", SECRET), folder.file("token", &format!("{token}\n")));
    let join = |(flag, value): &(&str, &str)| format!("{flag}={value}");
    let flags: Vec<String> = HUB_FLAGS.iter().map(join).collect();
    let hub_args =
        [vec!["hub", "run", "--secret-file", &secret], flags.iter().map(String::as_str).collect()].concat();
    let hub = Hub::of(Process::start(&hub_args, &[]));
    let flags: Vec<String> = AGENT_FLAGS.iter().map(join).collect();
    let agent_args =
        ["agent", "run", "--token-file", &token_file, "--hub", &hub.address, "--upstream", &upstream];
    let agent = Process::start(
        &[&agent_args[..], &flags.iter().map(String::as_str).collect::<Vec<_>>()].concat(),
        &[],
    );
    check_all_flags(&hub, &agent);

    let assign = |(flag, value): &(&str, &str)| format!("{}={value}", variable(flag));
    let mut variables: Vec<String> = HUB_FLAGS.iter().map(assign).collect();
    variables.push(format!("SLIME_SECRET={SECRET}"));
    let hub = Hub::of(Process::start(&["hub"], &variables.iter().map(String::as_str).collect::<Vec<_>>()));
    let mut variables: Vec<String> = AGENT_FLAGS.iter().map(assign).collect();
    variables.extend([
        format!("SLIME_TOKEN={token}"),
        format!("SLIME_HUB={}", hub.address),
        format!("SLIME_UPSTREAM={upstream}"),
    ]);
    let agent = Process::start(&["agent"], &variables.iter().map(String::as_str).collect::<Vec<_>>());
    check_all_flags(&hub, &agent);

    let mut lines: Vec<String> = HUB_FLAGS.iter().map(assign).collect();
    lines.push(format!("SLIME_SECRET_FILE={secret}"));
    let hub =
        Hub::of(Process::start(&["hub", "--env-file", &folder.file("hub.env", &lines.join("\n"))], &[]));
    let mut lines: Vec<String> = AGENT_FLAGS.iter().map(assign).collect();
    lines.extend([
        format!("SLIME_TOKEN_FILE={token_file}"),
        format!("SLIME_HUB={}", hub.address),
        format!("SLIME_UPSTREAM={upstream}"),
    ]);
    let agent = Process::start(&["agent", "--env-file", &folder.file("agent.env", &lines.join("\r\n"))], &[]);
    check_all_flags(&hub, &agent);
}

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
        "Authorization: Basic aDpodXNoLTkxYzI=\r\n",
    ] {
        let refused = get(&hub.address, wrong);
        assert!(
            refused.starts_with("HTTP/1.1 401") && refused.contains("WWW-Authenticate: Bearer"),
            "{refused}"
        );
        assert!(!refused.contains(PASSWORD));
    }
    for right in
        [format!("Slime-App-Password: {PASSWORD}\r\n"), format!("Authorization: Bearer {PASSWORD}\r\n")]
    {
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
    let hub = Hub::start(&["--max-clients=1"], &[&secret]);
    let first = TcpStream::connect(&hub.address).unwrap();
    let second = TcpStream::connect(&hub.address).unwrap();
    hub.wait_line("the limit of --max-clients");
    drop((first, second));

    let hub = Hub::start(&["--max-tunnels=1"], &[&secret]);
    let token = register(SECRET, &["--name", "many"]);
    let agent = hub.agent(&token, &echo(), &["--num-worker=2"]);
    hub.wait_line("the hub has all the tunnels that it takes; see --max-tunnels");
    agent.wait_line("(503): the hub has all the tunnels that it takes; see --max-tunnels");

    let hub = Hub::start(&[], &[&secret]);
    let agent = hub.agent(&register(SECRET, &["--max-workers=1"]), &echo(), &["--num-worker=2"]);
    agent.wait_line("(403): the agent token has all the workers that it allows");
    hub.wait_line(": the agent token has all the workers that it allows");

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
        Process::spawn(clean(&mut command, &["SLIME_SECRET=s", "SLIME_TOKEN=t"]))
    };
    let limit = |process: &Process| -> u64 {
        let limits = fs::read_to_string(format!("/proc/{}/limits", process.id())).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        line.split_whitespace().nth(3).unwrap().parse().unwrap()
    };
    let hub = started(&["hub", "--host=127.0.0.1", "--port=0", "--max-clients=400", "--max-tunnels=100"]);
    hub.wait_line("listening on");
    if limit(&hub) < 500 {
        hub.wait_line("only 256 files can be open, and --max-clients 400 with --max-tunnels 100 needs 628: it is 154 clients and 38 tunnels now");
        hub.wait_line("`ulimit -n 628`, or LimitNOFILE=628");
    }
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let agent = started(&["agent", "--hub", &address, "--upstream", &address, "--num-worker=200"]);
    agent.wait_line(if limit(&hub) < 500 {
        "200 workers for each upstream need 529: it is 95 workers and 0 extra upgrades now"
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
    hub.wait_line("line 1 is neither a token id or name nor 'issued-before TIME'; the rules that were read before stay in force");
    fs::write(&file, "early\nlate\n").unwrap();
    hub.signal(Signal::HUP);
    hub.wait_line("was read again, rules: 2");
    hub.wait_line(") was revoked: ");
    late.wait_line("the agent token was revoked");
    assert!(get(&hub.address, "").starts_with("HTTP/1.1 200"), "the other one still serves");
    fs::remove_file(&file).unwrap();
    hub.signal(Signal::HUP);
    hub.wait_line("No such file or directory (os error 2); the rules that were read before stay in force");
    // Without rules to read again a signal changes nothing.
    other.signal(Signal::HUP);
    assert!(get(&hub.address, "").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_token_that_is_rejected_at_the_start_ends_the_agent() {
    let hub = Hub::start(&[], &[&format!("SLIME_SECRET={SECRET}")]);
    for (token, says) in [
        (register("other", &[]), "the agent token is not one of this hub's"),
        ("nonsense".to_owned(), "the agent token is not one of this hub's"),
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
    let agent = hub.agent(&token, "127.0.0.1:1", &[]);
    assert_eq!(agent.wait(), 1);
    assert!(agent.log().contains("the agent token has expired"), "{}", agent.log());
    hub.wait_line("token brief (");
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
    agent.wait_line("draining: no new requests are taken");
    hub.signal(Signal::INT);
    hub.wait_line("draining: new requests are refused, 1 are being served or wait");
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
        process.wait_line("told again to end");
    }
    // And one that runs out of time.
    let hub = Hub::start(&["--drain-timeout=0.2", "--startup-grace=1h"], &["SLIME_SECRET=s"]);
    let _application = send(&hub.address, "GET / HTTP/1.1\r\nHost: h\r\nSlime-Block: 1\r\n\r\n");
    // The hub has taken the request in when it has answered a later one.
    assert!(get(&hub.address, "Slime-Block: 0\r\n").starts_with("HTTP/1.1 503"));
    assert_eq!(hub.stop(), 1);
    assert!(hub.log().contains("the drain timeout is over; 1 requests are cut off"), "{}", hub.log());
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
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let agent = hub.agent(&token, &upstream.to_string(), &["--agent-id=me", "--num-worker=4"]);
    agent.wait_line(&format!(
        "upstream {upstream} cannot be used: nobody listens there; asking again every second"
    ));
    hub.wait_line("agent gpu-1 (me) joined, but takes no work: nobody listens there");
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
    agent.wait_line("the hub is ending; dialling until one is there again");
    agent.wait_line(&format!("cannot join the hub at {address}: nobody listens there; trying on"));
    let hub = Hub::start_at(&address, &[], &[&format!("SLIME_SECRET={SECRET}")]);
    hub.wait_line("agent gpu-1 (me) joined");
    assert!(get(&address, "Slime-Block: 1\r\n").starts_with("HTTP/1.1 200"));
    agent.signal(Signal::TERM);
    hub.wait_line("agent gpu-1 (me) withdrew: draining");
    assert_eq!(agent.wait(), 0);
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

#[test]
fn a_reader_of_the_log_that_is_gone_or_slow_stops_nothing() {
    // Gone: the pipe is closed. Slow: nobody reads it.
    for close in [true, false] {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = command(
            &[
                "hub",
                "--log-level=debug",
                "--startup-grace=0",
                "--host=127.0.0.1",
                "--port",
                &port.port().to_string(),
            ],
            &["SLIME_SECRET=s"],
        );
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = child.stderr.take().unwrap();
        let log = if close {
            drop(log);
            None
        } else {
            Some(log)
        };
        let address = port.to_string();
        wait_until("the hub listens", || TcpStream::connect(&address).is_ok());
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

// ---- Tools ----

/// Exit code, standard output, standard error of a command that ends.
fn run(args: &[&str], environment: &[&str]) -> (i32, String, String) {
    let mut command = command(args, environment);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = Pid::from_child(&child);
    let (sender, done) = std::sync::mpsc::channel();
    let waiting = thread::spawn(move || {
        let output = child.wait_with_output().unwrap();
        let _ = sender.send(());
        output
    });
    if done.recv_timeout(DEADLINE).is_err() {
        let _ = kill_process(id, Signal::KILL);
        panic!("{args:?} does not end");
    }
    let Output { status, stdout, stderr } = waiting.join().unwrap();
    (status.code().unwrap_or(-1), text(&stdout), text(&stderr))
}

/// A call that fails, with this code and one line that says so, and shows nothing.
#[track_caller]
fn fails(args: &str, environment: &[&str], code: i32, says: &str) {
    let (actual, out, err) = run(&words(args), environment);
    assert_eq!(actual, code, "{args}: {err}");
    assert!(out.is_empty(), "{args}: {out}");
    assert!(one_line(&err) && err.contains(says), "{args}: {err}");
    assert!(!err.contains("sesame-7f3a") && !err.contains("hush"), "{args} shows a secret: {err}");
}

fn command(args: &[&str], environment: &[&str]) -> Command {
    let mut command = Command::new(SLIME);
    command.args(args);
    clean(&mut command, environment);
    command
}

fn clean<'a>(command: &'a mut Command, environment: &[&str]) -> &'a mut Command {
    for key in ["CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"] {
        command.env_remove(key);
    }
    for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("SLIME_")) {
        command.env_remove(key);
    }
    command.envs(environment.iter().map(|pair| pair.split_once('=').unwrap()))
}

fn register(secret: &str, args: &[&str]) -> String {
    let (code, token, err) =
        run(&[&["hub", "register"], args].concat(), &[&format!("SLIME_SECRET={secret}")]);
    assert_eq!(code, 0, "{err}");
    token.trim().to_owned()
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

fn one_line(text: &str) -> bool {
    text.ends_with('\n') && text.lines().count() == 1
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn variable(flag: &str) -> String {
    format!("SLIME_{}", flag.trim_start_matches('-').replace('-', "_").to_uppercase())
}

#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "not within the deadline: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A folder for one test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process that runs until it is told to end. Dropping it kills it.
struct Process {
    child: Mutex<Child>,
    log: Arc<(Mutex<Log>, Condvar)>,
}

#[derive(Default)]
struct Log {
    lines: Vec<String>,
    ended: bool,
}

impl Process {
    fn start(args: &[&str], environment: &[&str]) -> Self {
        Self::spawn(&mut command(args, environment))
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new((Mutex::new(Log::default()), Condvar::new()));
        let (stderr, writer) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&log));
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                writer.0.lock().unwrap().lines.push(line);
                writer.1.notify_all();
            }
            writer.0.lock().unwrap().ended = true;
            writer.1.notify_all();
        });
        Self { child: Mutex::new(child), log }
    }

    fn id(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    /// Waits for a line that contains this.
    #[track_caller]
    fn wait_line(&self, needle: &str) -> String {
        let start = Instant::now();
        let mut log = self.log.0.lock().unwrap();
        loop {
            if let Some(line) = log.lines.iter().find(|line| line.contains(needle)) {
                return line.clone();
            }
            let left = DEADLINE.saturating_sub(start.elapsed());
            assert!(!left.is_zero() && !log.ended, "no line with {needle:?} in:\n{}", log.lines.join("\n"));
            log = self.log.1.wait_timeout(log, left).unwrap().0;
        }
    }

    fn log(&self) -> String {
        self.log.0.lock().unwrap().lines.join("\n")
    }

    fn signal(&self, signal: Signal) {
        // It may have ended.
        let _ = kill_process(Pid::from_child(&self.child.lock().unwrap()), signal);
    }

    fn has_ended(&self) -> bool {
        self.child.lock().unwrap().try_wait().unwrap().is_some()
    }

    /// The exit code, when it has ended by itself and its log is complete.
    #[track_caller]
    fn wait(&self) -> i32 {
        wait_until("the process ends", || self.has_ended() && self.log.0.lock().unwrap().ended);
        self.child.lock().unwrap().wait().unwrap().code().unwrap_or(-1)
    }

    #[track_caller]
    fn stop(&self) -> i32 {
        self.signal(Signal::TERM);
        self.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill().and_then(|()| child.wait());
        if !thread::panicking() {
            let log = self.log.0.lock().unwrap().lines.join("\n");
            for secret in [SECRET, PASSWORD, "slime1_"] {
                assert!(!log.contains(secret), "a secret in the log:\n{log}");
            }
        }
    }
}

/// A service manager that listens.
struct Manager(UnixDatagram);

impl Manager {
    /// Behind an abstract socket, and the variable that names it.
    fn new(name: &str) -> (Self, String) {
        let name = format!("slime-cli-{name}-{}", std::process::id());
        (Self::at(&SocketAddr::from_abstract_name(&name).unwrap()), format!("NOTIFY_SOCKET=@{name}"))
    }

    fn at(address: &SocketAddr) -> Self {
        Self(UnixDatagram::bind_addr(address).unwrap())
    }

    /// The next message, if there is one within this time.
    fn hear(&self, within: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(within)).unwrap();
        let mut buffer = [0; 1024];
        let n = self.0.recv(&mut buffer).ok()?;
        Some(text(&buffer[..n]))
    }

    /// Waits for a message that begins so. How long it took.
    #[track_caller]
    fn wait(&self, wanted: &str) -> Duration {
        let start = Instant::now();
        let mut heard = Vec::new();
        while !heard.last().is_some_and(|message: &String| message.starts_with(wanted)) {
            assert!(start.elapsed() < DEADLINE, "no {wanted} in {heard:?}");
            heard.extend(self.hear(DEADLINE));
        }
        start.elapsed()
    }
}

struct Hub {
    process: Process,
    address: String,
}

impl Hub {
    fn start(args: &[&str], environment: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", args, environment)
    }

    fn start_at(address: &str, args: &[&str], environment: &[&str]) -> Self {
        let (host, port) = address.split_once(':').unwrap();
        Self::of(Process::start(&[&["hub", "--host", host, "--port", port], args].concat(), environment))
    }

    fn of(process: Process) -> Self {
        let line = process.wait_line("listening on ");
        Self { process, address: line.rsplit(' ').next().unwrap().to_owned() }
    }

    fn agent(&self, token: &str, upstream: &str, args: &[&str]) -> Process {
        let line = [&["agent", "--hub", &self.address, "--upstream", upstream], args].concat();
        Process::start(&line, &[&format!("SLIME_TOKEN={token}")])
    }
}

impl std::ops::Deref for Hub {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

fn send(address: &str, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(bytes.as_bytes()).unwrap();
    stream
}

/// Everything that comes back until the connection ends.
#[track_caller]
fn exchange(address: &str, bytes: &str) -> String {
    let mut answer = Vec::new();
    send(address, bytes).read_to_end(&mut answer).unwrap();
    text(&answer)
}

#[track_caller]
fn get(address: &str, fields: &str) -> String {
    exchange(address, &format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{fields}\r\n"))
}

#[track_caller]
fn answer(hub: &Hub, bytes: &str) -> String {
    exchange(&hub.address, bytes)
}

/// An upstream whose answer is the head of the request. Its address.
fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    echo_on(listener);
    address
}

fn echo_on(listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut reader = BufReader::new(&stream);
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    if reader.read_line(&mut head).unwrap_or(0) == 0 {
                        return;
                    }
                }
                if head.starts_with("GET /slow") {
                    // Until the application, and so the agent, leaves.
                    let _ = reader.read(&mut [0]);
                    return;
                }
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{head}",
                    head.len()
                );
                let _ = (&stream).write_all(answer.as_bytes());
            });
        }
    });
}
