//! What is wrong with a call: one line that says what to do, and the exit code, which is 2 for wrong usage and 1 for what cannot be used.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;

use crate::harness::*;

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
        ("hub register --name 0123456789abcdef", &hub, "and not 16 hexadecimal digits"),
        ("demo --port x", &[], "'--port' with value 'x': a port is"),
        ("hub --tls-self-signed d --tls-key k", &hub, "leave --tls-cert and --tls-key away"),
        ("hub --tls-port 1", &hub, "--tls-port needs --tls-cert and --tls-key, or --tls-self-signed"),
        ("hub --tls-redirect", &hub, "--tls-redirect needs --tls-port, --tls-cert and --tls-key"),
        (
            "hub --tls-cert c --tls-key k --tls-redirect",
            &hub,
            "--tls-redirect needs --tls-port: plain requests",
        ),
        ("hub --tls-cert c --tls-key k --port 1 --tls-port 1", &hub, "--tls-port is the same as --port"),
        ("agent --hub-ca f", &agent, "--hub-ca and --hub-pin need an address with https://"),
        (
            "agent --hub https://h --hub-ca f --hub-pin p",
            &agent,
            "two ways to know the hub; give one of them",
        ),
        ("agent --upstream-ca f", &agent, "--upstream-ca needs an upstream with https://"),
        ("agent --upstream u,v --agent-id a/b", &agent, "--agent-id: an agent id is"),
    ] {
        fails(args, environment, 2, says);
    }
    let list = |n: usize, length: usize, sign: &str| {
        (0..n).map(|n| format!("{sign}{n:0length$}")).collect::<Vec<_>>().join(",")
    };
    fails(
        &format!("agent --upstream {}", list(1025, 1, "u")),
        &agent,
        2,
        "an agent has at most 1024 upstreams",
    );
    let register = format!("hub register --scopes {}", list(33, 1, ""));
    fails(&register, &hub, 2, "a token has at most 32 scopes and 32 scope paths");
    let register = format!("hub register --scopes {} --scope-paths {}", list(32, 64, ""), list(32, 200, "/"));
    fails(&register, &hub, 2, "give it fewer or shorter scopes and paths");

    // It is not shown: it may be a secret.
    let latin = OsStr::from_bytes(b"sesame-7f3a\xe9");
    let output = command(&["hub", "--secret"], &[]).arg(latin).output().unwrap();
    assert_eq!(
        (output.status.code(), text(&output.stderr).as_str()),
        (Some(2), "slime: an argument is not UTF-8\n")
    );
    let output = command(&["hub"], &[]).env("SLIME_SECRET", latin).output().unwrap();
    let says = "slime: SLIME_SECRET is not UTF-8\n";
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(2), says));
}

#[test]
fn what_cannot_be_used_is_one_line_and_exit_code_1() {
    let folder = Folder::new("unusable");
    let (empty, two) = (folder.file("empty", " \n"), folder.file("two", "sesame-7f3a\nsesame-7f3a\n"));
    let binary = folder.path("binary");
    fs::write(&binary, [0xff, 0xfe]).unwrap();
    let large = folder.file("large", &"x".repeat(70_000));
    let huge = folder.file("huge", &"x".repeat((1 << 20) + 1));
    let broken = folder.file("broken", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n");
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
        (
            format!("hub --revoked {two} --port 0 --host 192.0.2.1"),
            &hub,
            "cannot listen on 192.0.2.1:0: Cannot assign requested address (os error 99); --host must be an address of",
        ),
        (
            format!("hub --host 127.0.0.1 --port {port}"),
            &hub,
            "Address already in use (os error 98); stop the program that uses it, or choose another --port",
        ),
        ("hub --host no.such.name.invalid".into(), &hub, "cannot listen on 'no.such.name.invalid'"),
        ("hub --host localhost:1".into(), &hub, "; --host is a name or an address, without a port"),
        ("agent --hub http:/h".into(), &agent, "--hub: the address must begin with http:// or https://"),
        (format!("hub inspect {two}"), &hub, "printed; a file is read by `< FILE`"),
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
        ("agent --upstream http://".into(), &agent, "--upstream: the address has no valid host name"),
        ("agent --hub https://a..b".into(), &agent, "no certificate can have the name a..b"),
        ("agent --proxy ftp://p".into(), &agent, "--proxy: the address must begin"),
        (
            "agent --proxy http://p/x".into(),
            &agent,
            "--proxy: a proxy is written http://[user:password@]host:port",
        ),
        (format!("agent --hub https://h --hub-ca {empty}"), &agent, "there is no certificate in"),
        (
            format!("agent --upstream https://h --upstream-ca {broken}"),
            &agent,
            "cannot trust a certificate in",
        ),
        (format!("hub --tls-cert {empty} --tls-key {empty}"), &hub, "there is no certificate in"),
        (
            format!("hub --tls-cert {broken} --tls-key /nonexistent"),
            &hub,
            "cannot read a private key from /nonexistent",
        ),
        (format!("hub --tls-cert {broken} --tls-key {empty}"), &hub, "there is no private key in"),
        (format!("hub --revoked {binary}"), &hub, "stream did not contain valid UTF-8"),
        (format!("hub --revoked {huge}"), &hub, "it has more than 1048576 bytes"),
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
    for (line, says) in [
        ("two words", "line 1: it is not KEY=VALUE, with a key of letters, digits and '_'"),
        ("SLIME_SECRET='sesame-7f3a", "line 1: its quotes do not end in the line"),
        ("SLIME_SECRET=sesame-7f3a\\", "line 1: a value does not go on in the next line"),
        ("SLIME_SECRET='sesame-7f3a' x", "line 1: something follows its quotes"),
    ] {
        fails(&format!("hub --env-file {}", folder.file("line.env", line)), &[], 1, says);
    }
    let mut inspect = command(&["hub", "inspect"], &["SLIME_SECRET=s"]);
    let mut inspect = inspect.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    inspect.stdin.take().unwrap().write_all(b"\xff").unwrap();
    let output = inspect.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stderr),
        "slime: cannot read the token from the standard input: it is not UTF-8\n"
    );
}

/// Ports below 1024 are for those who have a privilege, on most machines.
#[test]
fn a_port_that_takes_a_privilege() {
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if first.trim().parse::<u16>().unwrap() <= 1 {
        return;
    }
    let mut hub = command(
        &["hub", "--port=1", "--host=127.0.0.1", "--max-clients=9", "--max-tunnels=9"],
        &["SLIME_SECRET=s"],
    );
    if rustix::process::geteuid().is_root() {
        // Nobody.
        hub.uid(65534);
    }
    match hub.output() {
        Ok(output) => {
            let says =
                "Permission denied (os error 13); ports below 1024 need a privilege; choose another --port";
            assert_eq!(output.status.code(), Some(1));
            assert!(text(&output.stderr).contains(says), "{}", text(&output.stderr));
        }
        // Nobody may start a program here.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
    }
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
    let password = format!("http://u:{PASSWORD}@127.0.0.1:1");
    let agent = Process::start(
        &["agent", "--proxy", &password, "--upstream", &password],
        &[&format!("SLIME_TOKEN={SECRET}"), "SLIME_HUB=127.0.0.1:1"],
    );
    agent
        .wait_line("can read the password of --proxy in the list of processes; use the variable SLIME_PROXY");
    agent.wait_line(
        "can read the password of --upstream in the list of processes; use the variable SLIME_UPSTREAM",
    );
}
