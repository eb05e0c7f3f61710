//! Tokens: `slime hub register` and `slime hub inspect`.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use crate::harness::*;

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
