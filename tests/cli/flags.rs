//! What is said of a value that cannot be used, for every flag.

use std::collections::BTreeSet;
use std::fs;

use crate::harness::*;

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
    ("--note", "a\tb", 2, "a note is one line of at most 128 bytes"),
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
pub(super) fn shown(command: &str) -> Vec<(String, bool)> {
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
