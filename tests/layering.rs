//! The layers of the crate depend on each other one way: `main -> cli -> net -> proto`.
//!
//! `cargo check --lib --no-default-features` proves that the core needs no crate that does I/O. This test
//! covers what that cannot see: the standard library, and the borders inside the shell.

// A test may fail loudly.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// A file may have so many lines before its tests.
const LONGEST: usize = 800;

/// What the core must not name, with the reason.
const CORE: &[(&str, &str)] = &[
    ("std::net", "the core knows no socket"),
    ("std::io", "the core does no I/O"),
    ("std::fs", "the core does no I/O"),
    ("std::process", "the core does not end the process"),
    ("std::thread", "the core never blocks"),
    ("std::time::Instant", "time is an argument"),
    ("std::time::SystemTime", "time is an argument"),
    ("SystemRandom", "randomness is an argument"),
    ("mio", "only net::sys knows it"),
    ("rustix", "only net::sys knows it"),
    ("signal_hook", "only net knows it"),
    ("rustls", "TLS is the shell's"),
    ("argh", "only cli knows it"),
    ("simple_logger", "the binary chooses where lines go"),
    ("crate::net", "the core does not know the shell"),
    ("crate::cli", "the core does not know the command line"),
];

/// What the shell must not name.
const SHELL: &[(&str, &str)] = &[
    ("crate::cli", "the shell does not know the command line"),
    ("argh", "only cli knows it"),
    ("httparse", "no protocol decision is taken in the shell"),
];

/// What only the files that talk to the operating system may name.
const SYSTEM: &[(&str, &str)] = &[("mio", "only net::sys knows it"), ("rustix", "only net::sys knows it")];

#[test]
fn the_sources_keep_the_layers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join("src"), &mut files);
    assert!(files.len() > 8, "the sources were not found");
    let mut faults = Vec::new();
    for file in files {
        let name = file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        faults.extend(check(&name, &fs::read_to_string(&file).unwrap()));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn the_checker_catches_what_it_is_for() {
    let faults = |name: &str, text: &str| check(name, text).len();
    // In every way in which a path can be written.
    for text in [
        "use std::net::TcpStream;",
        "use std::{fmt, net::{TcpStream, UdpSocket}};",
        "use std::{\n    fmt,\n    io::{self, Read},\n};",
        "fn f(at: std::time::Instant) {}",
        "use std::time::{Duration, Instant};",
        "use ::std::{time::{Duration, SystemTime}};",
        "use std :: thread;",
        "use mio::Poll;",
        "extern crate rustls;",
        "use crate::{net, proto};",
        "use crate::{proto::{key, seam}, cli::Options};",
        "/* a */ use /* b */ crate::cli; // c",
        "const A: &str = \"// not a comment\"; use std::io;",
        "const A: char = '\"'; use std::io;",
        "const A: &str = r#\"\"#; use std::io;",
        "fn f(reader: &mut dyn ::std::io::Read) {}",
        "use super::super::net::Net;",
    ] {
        assert!(faults("src/proto/x.rs", text) > 0, "{text}");
    }
    for text in [
        "use core::net::IpAddr;",
        "use core::time::Duration;",
        "// use std::net::TcpStream;",
        "/// [`std::io::Error`] and crate::net",
        "/* std::io /* nested mio */ rustls */",
        "const A: &str = \"std::io\";",
        "const A: &str = r#\"crate::net \" std::io\"#;",
        "fn f<'a>(minion: &'a str, rustlsx: u8) { let amio = '\\''; }",
        "use std::collections::VecDeque;",
        "use crate::proto::{key, timer};",
        "struct S { mio: u8 }",
    ] {
        let quiet = check("src/proto/x.rs", text);
        // A field may not be called mio either: the price of a simple rule.
        assert_eq!(quiet.is_empty(), !text.contains("mio: u8"), "{text}: {quiet:?}");
    }
    assert!(faults("src/net/hub.rs", "use crate::cli;") > 0);
    assert!(faults("src/net/stream.rs", "use mio::net::TcpStream;") > 0);
    assert!(faults("src/cli/mod.rs", "rustix::process::getpid()") > 0);
    assert_eq!(faults("src/net/linux/alarm.rs", "use mio::net::TcpStream; use rustix::net;"), 0);
    assert!(faults("src/net/splice.rs", "use rustix::pipe::splice;") > 0);
    assert_eq!(faults("src/logging.rs", "use rustix::io;"), 0);
    assert!(faults("src/logging.rs", "use mio::Poll;") > 0);
    let long = "fn f() {}\n".repeat(LONGEST + 1);
    assert!(faults("src/cli.rs", &long) > 0);
    let tested = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
    assert_eq!(faults("src/cli.rs", &tested), 0);
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// All faults of one file, whose name is relative to the root of the crate.
fn check(name: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let names = names(&code_of(text));
    let mut forbid = |rules: &[(&str, &str)]| {
        for (forbidden, reason) in rules {
            if names.iter().any(|name| begins_with(name, forbidden)) {
                faults.push(format!("{name} names {forbidden}: {reason}"));
            }
        }
    };
    if name.starts_with("src/proto/") {
        forbid(CORE);
        forbid(&[("super::super::net", "the core does not know the shell")]);
    } else if name.starts_with("src/net/") {
        forbid(SHELL);
    }
    let stem = name.rsplit('/').next().unwrap_or(name).trim_end_matches(".rs");
    // The log writes to a descriptor, and the demo ends its children by signals: neither is a matter of the
    // loop.
    let logging = matches!(stem, "logging" | "demo");
    let of_the_system = name.starts_with("src/net/linux/");
    if logging {
        forbid(&SYSTEM[..1]);
    } else if !of_the_system && !name.starts_with("src/proto/") {
        forbid(SYSTEM);
    }
    let lines = text.lines().take_while(|line| line.trim() != "#[cfg(test)]").count();
    if lines > LONGEST {
        faults.push(format!("{name} has {lines} lines before its tests; {LONGEST} are allowed"));
    }
    faults
}

/// Whether the path `name` is `forbidden` or something below it.
fn begins_with(name: &str, forbidden: &str) -> bool {
    if forbidden.contains("::") {
        return name == forbidden || name.starts_with(&format!("{forbidden}::"));
    }
    // A crate or a type: anywhere in a path.
    name.split("::").any(|segment| segment == forbidden)
}

/// Every path that the code names, `use` trees unfolded: `use a::{b, c::{d, e}}` gives `a::b`, `a::c::d`,
/// `a::c::e`.
fn names(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    // The prefixes of the braces that are open; an empty one for a brace that is no `use` tree.
    let mut open: Vec<String> = Vec::new();
    let mut path = String::new();
    let mut words = words(code).into_iter().peekable();
    while let Some(word) = words.next() {
        let word = word.as_str();
        match word {
            "::" => {
                if !path.is_empty() || words.peek().is_some_and(|next| next == "{") {
                    path.push_str("::");
                }
            }
            "{" => {
                let prefix = if path.ends_with("::") { path.clone() } else { String::new() };
                if prefix.is_empty() {
                    push_path(&mut found, &open, &path);
                }
                open.push(prefix);
                path.clear();
            }
            "}" => {
                push_path(&mut found, &open, &path);
                open.pop();
                path.clear();
            }
            // What stands after these begins a path of its own, also one that begins with `::`.
            "use" | "dyn" | "impl" | "as" | "for" | "mut" | "in" | "return" | "const" => {
                push_path(&mut found, &open, &path);
                path.clear();
            }
            _ if is_name(word) => {
                if !path.ends_with("::") {
                    push_path(&mut found, &open, &path);
                    path.clear();
                }
                path.push_str(word);
            }
            _ => {
                push_path(&mut found, &open, &path);
                path.clear();
            }
        }
    }
    push_path(&mut found, &open, &path);
    found
}

fn push_path(found: &mut Vec<String>, open: &[String], path: &str) {
    if path.is_empty() {
        return;
    }
    // Only the braces of the `use` tree itself: those above one that is no tree do not count.
    let from = open.iter().rposition(String::is_empty).map_or(0, |position| position + 1);
    let prefix: String = open[from..].concat();
    found.push(format!("{prefix}{path}").trim_start_matches("::").to_owned());
}

/// Names, `::`, braces, and other characters one by one; white space only separates.
fn words(code: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut name = String::new();
    let mut characters = code.chars().peekable();
    while let Some(c) = characters.next() {
        if c.is_alphanumeric() || c == '_' {
            name.push(c);
            continue;
        }
        if !name.is_empty() {
            words.push(std::mem::take(&mut name));
        }
        if c == ':' && characters.peek() == Some(&':') {
            characters.next();
            words.push("::".to_owned());
        } else if !c.is_whitespace() {
            words.push(c.to_string());
        }
    }
    if !name.is_empty() {
        words.push(name);
    }
    words
}

fn is_name(word: &str) -> bool {
    word.chars().all(|c| c.is_alphanumeric() || c == '_')
}

/// The text without comments and without what stands in literals.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if c == '"' {
            string(rest)
        } else if c == 'r' && !code.ends_with(|before: char| before.is_alphanumeric() || before == '_') {
            raw_string(rest)
        } else if c == '\'' {
            character(rest)
        } else {
            0
        };
        if skipped == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            code.push(' ');
            rest = &rest[skipped..];
        }
    }
    code
}

/// The length of the block comment that begins here; they nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of the string that begins here.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the raw string that begins here; none if it is none.
fn raw_string(text: &str) -> usize {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    if text[1 + hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let begin = 2 + hashes;
        return text[begin..].find(&end).map_or(text.len(), |at| begin + at + end.len());
    }
    0
}

/// The length of the character that begins here; none if it is a lifetime.
fn character(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match characters.next() {
        Some((_, '\\')) => text[3.min(text.len())..].find('\'').map_or(0, |at| at + 4),
        Some(_) => characters.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}
