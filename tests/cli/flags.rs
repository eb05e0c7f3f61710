//! Every flag and every variable: what each does, what is said of a value that cannot be used, and which of
//! several values counts.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use rustix::process::Signal;

use crate::harness::*;

// ---- Values that cannot be used ----

const TIME: &str = "a time is a number of seconds";
const NUMBER: &str = "whole number";
const PACE: &str = "this is 50ms at least and 1d at most";
const NOT_ZERO: &str = "the time must not be zero";
const ONE_LINE: &str = "must be one line of text";
const NO_FILE: &str = "No such file or directory";

/// All flags of a command; of each a value that cannot be used, the exit code, and what is said.
type Table = [(&'static str, &'static str, i32, &'static str)];

const HUB_RUN: &Table = &[
    ("--host", "192.0.2.1", 1, "cannot listen on 192.0.2.1:0"),
    ("--port", "65536", 2, "a port is a number up to 65535"),
    ("--trusted-proxy", "10.0.0.0/33", 2, "is not an address or a range of addresses"),
    ("--cors", "app.example", 2, "give origins as a browser names them"),
    ("--tls-cert", "/nonexistent", 2, "--tls-cert needs --tls-key: the file of the private key"),
    ("--tls-key", "/nonexistent", 2, "--tls-key needs --tls-cert: the file of the certificate"),
    ("--tls-self-signed", "/dev/null/x", 1, "cannot make a certificate in /dev/null/x: Not a directory"),
    ("--tls-port", "-1", 2, "a port is a number up to 65535"),
    ("--tls-redirect", "maybe", 2, "true or false"),
    ("--secret", "a\tb", 2, ONE_LINE),
    ("--secret-file", "/nonexistent", 1, NO_FILE),
    ("--app-password", "a\tb", 2, ONE_LINE),
    ("--app-password-file", "/nonexistent", 1, NO_FILE),
    ("--revoked", "/nonexistent", 1, "cannot read the file of --revoked, /nonexistent: No such file"),
    ("--admin", "h:x", 2, "an admin address is a port, HOST:PORT"),
    ("--admin-password", "a\tb", 2, ONE_LINE),
    ("--admin-password-file", "/nonexistent", 1, NO_FILE),
    ("--admin-view-password", "a\tb", 2, ONE_LINE),
    ("--admin-view-password-file", "/nonexistent", 1, NO_FILE),
    ("--concurrent", "0", 2, NUMBER),
    ("--queue-depth", "-1", 2, NUMBER),
    ("--hold", "1x", 2, "a size is a number of bytes"),
    ("--max-body", "1x", 2, "a size is a number of bytes"),
    ("--max-clients", "0", 2, NUMBER),
    ("--max-tunnels", "1048577", 2, NUMBER),
    ("--queue-timeout", "soon", 2, TIME),
    ("--response-timeout", "0", 2, NOT_ZERO),
    ("--head-timeout", "0s", 2, NOT_ZERO),
    ("--body-timeout", "1x", 2, TIME),
    ("--stall-timeout", "36501d", 2, "at most a hundred years"),
    ("--idle-timeout", "101y", 2, TIME),
    ("--heartbeat", "0", 2, PACE),
    ("--heartbeat", "49ms", 2, PACE),
    ("--heartbeat", "1d1ms", 2, PACE),
    ("--agent-grace", "-1", 2, TIME),
    ("--startup-grace", "1h1h", 2, TIME),
    ("--drain-delay", "-1", 2, TIME),
    ("--drain-timeout", "-1", 2, TIME),
    ("--upgrade-drain", "-1", 2, TIME),
    ("--env-file", "/nonexistent", 1, NO_FILE),
    ("--log-level", "loud", 2, "error, warn, info or debug"),
    ("--syslog", "maybe", 2, "true or false"),
    ("--check", "maybe", 2, "true or false"),
];
const HUB_REGISTER: &Table = &[
    ("--secret", "a\tb", 2, ONE_LINE),
    ("--secret-file", "/nonexistent", 1, NO_FILE),
    ("--name", "a b", 2, "a token's name is"),
    ("--age", "0", 2, "good for at least one second"),
    ("--out", "/nonexistent/token", 1, NO_FILE),
    ("--scopes", "a b", 2, "a scope is"),
    ("--scope-paths", "/a/../b", 2, "a scope path begins"),
    ("--max-workers", "0", 2, NUMBER),
    ("--hub", "::1", 2, "an IPv6 address must be in brackets"),
    ("--tls-self-signed", "/dev/null/x", 1, "cannot read /dev/null/x/cert.pem: Not a directory"),
    ("--env-file", "/nonexistent", 1, NO_FILE),
];
const HUB_INSPECT: &Table = &[
    ("--secret", "a\tb", 2, ONE_LINE),
    ("--secret-file", "/nonexistent", 1, NO_FILE),
    ("--env-file", "/nonexistent", 1, NO_FILE),
];
const AGENT_RUN: &Table = &[
    ("--hub", "::1", 2, "an IPv6 address must be in brackets"),
    ("--proxy", "https://p", 2, "a proxy is written http://"),
    ("--upstream", "11434", 2, "this is a port without a host; write 127.0.0.1:11434"),
    ("--hub-ca", "/nonexistent", 1, "cannot read certificates from /nonexistent"),
    ("--hub-pin", "sha256:12", 2, "a pin is sha256: and 64 hexadecimal digits"),
    ("--upstream-ca", "/nonexistent", 1, "cannot read certificates from /nonexistent"),
    ("--upstream-pin", "sha256:12", 2, "a pin is sha256: and 64 hexadecimal digits"),
    ("--token", "a\tb", 2, ONE_LINE),
    ("--token-file", "/nonexistent", 1, NO_FILE),
    ("--upstream-header-file", "/nonexistent", 1, NO_FILE),
    ("--admin", "h:x", 2, "an admin address is a port, HOST:PORT"),
    ("--admin-password", "a\tb", 2, ONE_LINE),
    ("--admin-password-file", "/nonexistent", 1, NO_FILE),
    ("--admin-view-password", "a\tb", 2, ONE_LINE),
    ("--admin-view-password-file", "/nonexistent", 1, NO_FILE),
    ("--num-worker", "0", 2, NUMBER),
    ("--extra-upgrades", "x", 2, NUMBER),
    ("--extra-streams", "x", 2, NUMBER),
    ("--light-paths", "/a,/b?c", 2, "a light path begins with '/'"),
    ("--on-cancel", "wait", 2, "close or drain"),
    ("--websocket", "maybe", 2, "true or false"),
    ("--preserve-host", "maybe", 2, "true or false"),
    ("--agent-id", "a/b", 2, "an agent id is"),
    ("--health-path", "health", 2, "begins with '/'"),
    ("--connect-timeout", "0", 2, NOT_ZERO),
    ("--head-timeout", "x", 2, TIME),
    ("--stall-timeout", "x", 2, TIME),
    ("--drain-timeout", "x", 2, TIME),
    ("--upgrade-drain", "x", 2, TIME),
    ("--env-file", "/nonexistent", 1, NO_FILE),
    ("--log-level", "trace", 2, "error, warn, info or debug"),
    ("--syslog", "maybe", 2, "true or false"),
    ("--check", "maybe", 2, "true or false"),
];
const DEMO: &Table = &[
    ("--upstream", "ftp://u", 2, "the address must begin with http://"),
    ("--port", "x", 2, "a port is a number up to 65535"),
];
const TABLES: [(&str, &Table); 5] = [
    ("hub run", HUB_RUN),
    ("hub register", HUB_REGISTER),
    ("hub inspect", HUB_INSPECT),
    ("agent run", AGENT_RUN),
    ("demo", DEMO),
];

/// The flags that the help of a command shows, and whether each names a file.
fn shown(command: &str) -> Vec<(String, bool)> {
    let (_, help, _) = run(&[words(command), vec!["--help"]].concat(), &[]);
    let flag = |line: &str| {
        let line = line.strip_prefix("  --").filter(|line| !line.starts_with("help"))?;
        let mut words = line.split_whitespace();
        Some((format!("--{}", words.next()?), words.next() == Some("FILE")))
    };
    help.lines().filter_map(flag).collect()
}

#[test]
fn the_tables_have_every_flag_of_every_command() {
    let (_, help, _) = run(&["--help"], &[]);
    // A line for each command, and the tables have them all but one, which has no flags.
    let commands = help.lines().filter(|line| line.starts_with("  slime ") && line.contains("  ")).count();
    assert!(commands >= TABLES.len(), "{help}");
    for (command, table) in TABLES {
        let sorted = |flags: Vec<String>| flags.into_iter().collect::<BTreeSet<_>>();
        let known = sorted(table.iter().map(|(flag, ..)| (*flag).to_owned()).collect());
        let shown = sorted(shown(command).into_iter().map(|(flag, _)| flag).collect());
        assert_eq!(shown, known, "{command}: a flag without a test");
    }
}

/// As a flag, as a variable, as a line of a file, and as a credential where it names a file.
#[test]
fn values_that_cannot_be_used_are_named() {
    let folder = Folder::new("values");
    for (command, table) in TABLES {
        let files: Vec<String> =
            shown(command).into_iter().filter_map(|(flag, is_file)| is_file.then_some(flag)).collect();
        for (flag, value, code, says) in table {
            let variable = variable(flag);
            let given = all_that_is_needed_but(&variable);
            let given: Vec<&str> = given.iter().map(String::as_str).collect();
            let check = |line: &[&str], environment: &[&str], name: &str| {
                let (actual, out, err) = run(line, environment);
                // Secrets that are typed earn a line of their own.
                let is_line = |line: &&str| !line.contains("every user of this machine can read");
                let lines = err.lines().filter(is_line).count();
                assert!(actual == *code && lines == 1 && out.is_empty(), "{line:?}: {actual} {err}");
                assert!(err.contains(says), "{line:?}: {err}");
                // Who is told of a value can find it.
                assert!(err.contains(name) || says.contains(flag) || says.contains(value), "{name}: {err}");
            };
            check(&[words(command), vec![&format!("{flag}={value}")]].concat(), &given, flag);
            let assignment = format!("{variable}={value}");
            check(&words(command), &[&given[..], &[&assignment]].concat(), &variable);
            if *flag != "--env-file" && command != "demo" {
                let file = folder.file("env", &assignment);
                let line = [words(command), vec!["--env-file", &file]].concat();
                check(&line, &given, &format!("{variable} in {file}"));
            }
            if !["--env-file", "--out"].contains(flag) && files.iter().any(|file| file == flag) {
                let name = format!("slime_{}", flag.trim_start_matches('-').trim_end_matches("-file"));
                fs::create_dir(folder.path(&name)).unwrap();
                let directory = format!("CREDENTIALS_DIRECTORY={}", folder.0.display());
                let (code, _, err) = run(&words(command), &[&given[..], &[&directory]].concat());
                fs::remove_dir(folder.path(&name)).unwrap();
                assert!(code != 0 && one_line(&err), "{name}: {code} {err}");
                assert!(err.contains(&name) || err.contains(says), "{name}: {err}");
            }
        }
    }
}

/// Variables with which every command could do its work, without those that say the same as this one.
fn all_that_is_needed_but(variable: &str) -> Vec<String> {
    let base = variable.trim_end_matches("_FILE");
    // As few connections as every machine has descriptors for, about which there would be another line.
    [
        "SECRET=s",
        "TOKEN=slime1_dHdlbHZlIGJ5dGVzAAAAAAAAAAAAAAAAAAAAAAAA",
        "HUB=https://h",
        "UPSTREAM=https://u",
        "HOST=127.0.0.1",
        "PORT=0",
        "MAX_CLIENTS=9",
        "MAX_TUNNELS=9",
    ]
    .map(|assignment| format!("SLIME_{assignment}"))
    .into_iter()
    .filter(|assignment| assignment.split('=').next() != Some(base))
    .collect()
}

// ---- Which of several values counts ----

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
    fails("agent --hub h --upstream u", &[&directory], 2, "the token is missing: use --token-file");
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
        2,
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

#[test]
fn a_variable_that_no_flag_has_is_warned_of() {
    // Of another command, of a container platform, of another program, and mistyped.
    let environment = [
        "SLIME_SECRET=s",
        "SLIME_NUM_WORKER=4",
        "SLIME_SERVICE_PORT_HTTP=80",
        "SLIME_HUB_SERVICE_HOST=10.0.0.1",
        "SLIME_HUB_PORT=tcp://10.0.0.1:80",
        "SLIME_HUB_PORT_80_TCP_ADDR=10.0.0.1",
        "SLIMEX=1",
        "SLIME_NUM_WROKER=hush",
    ];
    let (code, _, err) = run(&["hub", "register"], &environment);
    let warned: Vec<&str> = err.lines().filter(|line| line.contains("ignored")).collect();
    assert_eq!(
        (code, warned),
        (0, vec!["WARN  SLIME_NUM_WROKER is ignored: no flag has this variable"]),
        "{err}"
    );
}

// ---- Values that can be used, and what they do ----

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
const AGENT_FLAGS: [(&str, &str); 18] = [
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
