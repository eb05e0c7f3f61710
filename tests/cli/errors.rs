//! What is wrong with a call: one line that says what to do, and the exit code, which is 2 for wrong usage
//! and 1 for what cannot be used.

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
    let agent = [FORM, "SLIME_HUB=h", "SLIME_UPSTREAM=u"];
    for (args, environment, says) in [
        ("", &hub[..], "a command is missing: hub, agent, demo, ready or version"),
        (
            "frob",
            &[],
            "unknown command 'frob'; commands are hub, agent, demo, ready, version, completions; see `slime --help`",
        ),
        ("ready --live --agents 2", &[], "--live does not ask for agents: leave --agents out"),
        ("ready --agents two", &[], "invalid value 'two' for --agents"),
        ("ready --admin https://h:1", &[], "--admin 'https://h:1': this command does not speak HTTPS"),
        (
            "ready",
            &["SLIME_ADMIN=h"],
            "SLIME_ADMIN 'h': an admin address is a port, HOST:PORT, unix:PATH or unix",
        ),
        ("completions", &[], "a shell is bash, zsh or fish"),
        ("completions tcsh", &[], "a shell is bash, zsh or fish"),
        ("hub frob", &[], "unknown command 'frob'; commands are run, register, inspect"),
        ("hub --frob", &[], "unknown flag --frob; see `slime hub run --help`"),
        ("hub --sercet x", &[], "did you mean --secret?"),
        ("hub --port", &hub, "--port needs a value"),
        ("hub --port 1 --port 2", &hub, "--port is given twice"),
        ("hub -p 1", &hub, "unexpected argument '-p'; flags begin with '--'"),
        ("hub --host 0.0.0.0 8080", &hub, "unexpected argument '8080' after --host"),
        (
            "hub --host 0.0.0.0:8080",
            &hub,
            "--host '0.0.0.0:8080' is not a name or an address; write --host 0.0.0.0 --port 8080",
        ),
        ("hub --host http://h", &hub, "leave out the scheme"),
        (
            "hub --secret open sesame-7f3a",
            &[],
            "unexpected argument after --secret; put a value with spaces in quotes",
        ),
        ("agent --hub h upstream", &[], "unexpected argument 'upstream' after --hub"),
        ("agent slime1_sesame-7f3a", &[], "unexpected argument; flags begin"),
        ("agent --token hush-91c2 sesame-7f3a", &[], "unexpected argument after --token"),
        ("version please", &[], "unexpected argument 'please'"),
        ("hub inspect a sesame-7f3a", &hub, "unexpected argument; flags begin"),
        ("agent --preserve-host=maybe", &agent, "--preserve-host is true or false"),
        ("agent --upstream u", &[FORM], "--hub is missing"),
        ("agent --hub h", &[FORM], "--upstream is missing"),
        ("agent --num-worker 4294967295", &agent, "more than 1048576 workers"),
        ("hub register --name a/b", &hub, "--name 'a/b': a token's name is"),
        ("hub register --scopes a;b", &hub, "--scopes 'a;b': a scope is"),
        ("hub register --scope-paths v1", &hub, "--scope-paths 'v1': a scope path begins"),
        ("hub register --name 0123456789abcdef", &hub, "and not 16 hexadecimal digits"),
        ("demo --port x", &[], "invalid value 'x' for --port: a port is"),
        ("hub --tls-self-signed d --tls-key k", &hub, "leave out --tls-cert and --tls-key"),
        ("hub --tls-port 1", &hub, "--tls-port needs --tls-cert and --tls-key, or --tls-self-signed"),
        ("hub --tls-redirect", &hub, "--tls-redirect needs --tls-port, --tls-cert and --tls-key"),
        (
            "hub --tls-cert c --tls-key k --tls-redirect",
            &hub,
            "--tls-redirect needs --tls-port; plain requests",
        ),
        ("hub --tls-cert c --tls-key k --port 1 --tls-port 1", &hub, "--tls-port is the same as --port"),
        ("agent --hub-ca f", &agent, "--hub-ca and --hub-pin need a hub with https://"),
        (
            "agent --hub https://h --hub-ca f --hub-pin p",
            &agent,
            "two ways to recognise the hub; use one of them",
        ),
        (
            "agent --upstream https://h --upstream-ca f --upstream-pin p",
            &agent,
            "two ways to recognise an upstream; use one of them",
        ),
        ("agent --upstream-ca f", &agent, "--upstream-ca and --upstream-pin need an upstream with https://"),
        ("agent --upstream u,v --agent-id a/b", &agent, "--agent-id: an agent id is"),
        ("hub", &[], "the hub's secret is missing: use --secret-file"),
        ("hub register", &[], "the hub's secret is missing"),
        ("hub inspect x", &[], "the hub's secret is missing"),
        ("hub", &["SLIME_SECRET= "], "SLIME_SECRET is empty"),
        (
            "agent --hub h --upstream u",
            &[],
            "the token is missing: use --token-file FILE or the variable SLIME_TOKEN",
        ),
        // The hub's secret, which must not be sent to anybody.
        (
            "agent --hub h --upstream u",
            &["SLIME_TOKEN=sesame-7f3a"],
            "SLIME_TOKEN: this is no agent token; is it the hub's secret?",
        ),
        (
            "agent --hub h --upstream u",
            &["SLIME_TOKEN=slime1_dHdlbHZl"],
            "SLIME_TOKEN: this is not a complete agent token",
        ),
        ("agent --hub http:/h", &agent, "--hub: the address must begin with http:// or https://"),
        ("agent --upstream ftp://u:hush-91c2@h", &agent, "--upstream: the address must begin with http://"),
        (
            "agent --upstream 11434",
            &agent,
            "--upstream: this is a port without a host; write 127.0.0.1:11434",
        ),
        (
            "agent --upstream :11434",
            &agent,
            "--upstream: this is a port without a host; write 127.0.0.1:11434",
        ),
        ("demo --upstream 11434", &[], "--upstream: this is a port without a host; write 127.0.0.1:11434"),
        ("agent --upstream ::1", &agent, "must be in brackets"),
        ("agent --upstream h:0", &agent, "the port of the address must be a number from 1 to 65535"),
        ("agent --upstream h/a?b", &agent, "the path of the address must be a plain path"),
        (
            "agent --hub http://u%zz:hush-91c2@h",
            &agent,
            "--hub: user and password in the address must be percent-encoded",
        ),
        ("agent", &[FORM, "SLIME_HUB=h:x", "SLIME_UPSTREAM=u"], "SLIME_HUB: the port"),
        ("agent --upstream http://", &agent, "--upstream: the address has no valid host name"),
        ("agent --proxy ftp://p", &agent, "--proxy: the address must begin"),
        ("agent --proxy http://p/x", &agent, "--proxy: a proxy is written http://[user:password@]host:port"),
        ("demo --upstream ftp://h", &[], "--upstream: the address must begin"),
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
        "an agent can have at most 1024 upstreams",
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
    fs::write(&binary, [0xff, 0xff]).unwrap();
    let large = folder.file("large", &"x".repeat(70_000));
    let huge = folder.file("huge", &"x".repeat((1 << 20) + 1));
    let broken = folder.file("broken", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n");
    let bad_env = folder.file("bad.env", "SLIME_PORT=1\nSLIME_SECRET='sesame-7f3a\n");
    // Few enough for any limit of descriptors, about which there would be another line.
    let hub = ["SLIME_SECRET=sesame-7f3a", "SLIME_MAX_CLIENTS=9", "SLIME_MAX_TUNNELS=9"];
    let agent = [FORM, "SLIME_HUB=h", "SLIME_UPSTREAM=u"];
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for (args, environment, says) in [
        (format!("hub --secret-file {empty}"), &[][..], "the file of --secret-file is empty"),
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
        (format!("hub --env-file {bad_env}"), &hub, "bad.env, line 2: its quotes are not closed"),
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
        (format!("hub inspect {two}"), &hub, "printed; to read a file, use `< FILE`"),
        ("hub inspect slime1_sesame-7f3a".into(), &hub, "not a complete agent token"),
        (
            "agent --hub h --upstream u --token-file /nonexistent".into(),
            &[],
            "cannot read the file of --token-file",
        ),
        ("agent --hub https://a..b".into(), &agent, "no certificate can have the name a..b"),
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
        ("sesame-7f3a", "line 1: it is not KEY=VALUE, with a key of letters, digits and '_'"),
        ("SLIME_SECRET='sesame-7f3a", "line 1: its quotes are not closed on the same line"),
        ("SLIME_SECRET=sesame-7f3a\\", "line 1: a value cannot continue on the next line"),
        ("SLIME_SECRET='sesame-7f3a' x", "line 1: there is text after its closing quote"),
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
            FORM.split_once('=').unwrap().1,
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
        &[FORM, "SLIME_HUB=127.0.0.1:1"],
    );
    agent
        .wait_line("can read the password of --proxy in the list of processes; use the variable SLIME_PROXY");
    agent.wait_line(
        "can read the password of --upstream in the list of processes; use the variable SLIME_UPSTREAM",
    );
}

/// Whatever names the hub, no byte of what is no token goes there.
#[test]
fn a_hubs_secret_is_not_sent_by_an_agent() {
    let folder = Folder::new("secret-as-token");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let hub = listener.local_addr().unwrap();
    let secret = folder.file("secret", &format!("{SECRET}\n"));
    let line = format!("agent --hub {hub} --upstream {hub} --token-file {secret}");
    fails(&line, &[], 2, "--token-file: this is no agent token; is it the hub's secret?");
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_weak_secret_earns_a_warning() {
    let token = register(SECRET, &[]);
    for (secret, says) in [
        ("fifteen bytes..", "the hub's secret has fewer than 16 bytes"),
        (token.as_str(), "the hub's secret is an agent token"),
    ] {
        let variable = format!("SLIME_SECRET={secret}");
        let hub = Hub::start(&[], &[&variable]);
        hub.wait_line(says);
        let (code, _, err) = run(&["hub", "register"], &[&variable]);
        assert!(code == 0 && err.contains(says), "{err}");
    }
    let strong = ["SLIME_SECRET=sixteen bytes..."];
    let hub = Hub::start(&[], &strong);
    assert_eq!(hub.stop(), 0);
    assert!(!hub.log().contains("secret"), "{}", hub.log());
    assert!(!run(&["hub", "register"], &strong).2.contains("secret"));
}

#[test]
fn a_token_is_written_into_a_file_that_nobody_else_reads() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = Folder::new("out");
    let file = folder.path("token.txt");
    let line = format!("hub register --name gpu-1 --out {file}");
    let (code, out, err) = run(&words(&line), &["SLIME_SECRET=s"]);
    assert_eq!((code, out.as_str()), (0, ""), "{err}");
    assert!(err.contains("name:        gpu-1"), "{err}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let token = fs::read_to_string(&file).unwrap();
    assert!(one_line(&token), "{token}");
    assert_eq!(run(&["hub", "inspect", token.trim()], &["SLIME_SECRET=s"]).0, 0);
    fails(&line, &["SLIME_SECRET=s"], 1, "a file that is there is not overwritten");
    assert_eq!(fs::read_to_string(&file).unwrap(), token);
}

/// Editors put them there, and the shell of Windows writes UTF-16.
#[test]
fn byte_order_marks_are_dropped() {
    let folder = Folder::new("marks");
    let wide = |text: &str, bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
        format!("\u{feff}{text}").encode_utf16().flat_map(bytes).collect()
    };
    let expected = register("s", &[]);
    for (name, content) in [
        ("utf8", "\u{feff}s\r\n".as_bytes().to_vec()),
        ("little", wide("s\r\n", u16::to_le_bytes)),
        ("big", wide("s\r\n", u16::to_be_bytes)),
    ] {
        let file = folder.path(name);
        fs::write(&file, content).unwrap();
        let (code, _, err) = run(&["hub", "inspect", &expected, "--secret-file", &file], &[]);
        assert_eq!(code, 0, "{name}: {err}");
    }
    let env = folder.file("env", "\u{feff}SLIME_SECRET=s\n");
    let marked = format!("\u{feff}{expected}");
    assert_eq!(run(&["hub", "inspect", &marked, "--env-file", &env], &[]).0, 0);
    let revoked = folder.file("revoked", "\u{feff}gpu-1\n");
    let hub = Hub::start(&["--revoked", &revoked], &["SLIME_SECRET=s"]);
    hub.signal(rustix::process::Signal::HUP);
    hub.wait_line("was read again, rules: 1");
}
