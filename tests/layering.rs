//! Borders that the compiler does not hold.
//!
//! `cargo check --lib --no-default-features` builds the core alone, without the standard library and without
//! the crates that do I/O, so the core can name neither. This test holds the borders between parts that are
//! always built together, and the length of files and lines: rustfmt leaves comments alone.

// A test may fail loudly.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// The most lines that a file of the sources has before its tests.
const MAX_FILE_LINES: usize = 800;
/// The most columns of a line.
const MAX_COLUMNS: usize = 110;

/// A word that may stand only in some places.
struct Border {
    word: &'static str,
    /// Where the border holds.
    within: &'static str,
    /// What lies within, and may name the word all the same.
    except: &'static [&'static str],
    reason: &'static str,
}

const BORDERS: &[Border] = &[
    Border { word: "cli", within: "src/net/", except: &[], reason: "the shell knows no command line" },
    Border { word: "argh", within: "src/net/", except: &[], reason: "the shell knows no command line" },
    Border { word: "httparse", within: "src/net/", except: &[], reason: "the shell decides nothing of HTTP" },
    Border { word: "mio", within: "src/", except: &["src/net/linux/"], reason: "only net::sys knows epoll" },
    Border {
        word: "rustix",
        within: "src/",
        // The log writes to a descriptor, and the demo ends its children by signals.
        except: &["src/net/linux/", "src/logging.rs", "src/cli/demo.rs"],
        reason: "only net::sys makes system calls",
    },
    Border { word: "AtomicU64", within: "src/", except: &[], reason: "MIPS has no 64-bit atomics" },
    Border { word: "AtomicI64", within: "src/", except: &[], reason: "MIPS has no 64-bit atomics" },
    Border {
        word: "SystemRandom",
        within: "src/proto/",
        except: &[],
        reason: "randomness is an argument of the core",
    },
];

#[test]
fn the_sources_keep_their_borders() {
    let faults = faults_in("src", &|name, text| {
        let mut faults = border_faults(name, text);
        let lines = text.lines().take_while(|line| line.trim() != "#[cfg(test)]").count();
        if lines > MAX_FILE_LINES {
            faults.push(format!("{name} has {lines} lines before its tests; {MAX_FILE_LINES} are allowed"));
        }
        faults
    });
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn no_line_is_too_long() {
    let faults: Vec<String> = ["src", "tests", "fuzz/fuzz_targets"]
        .iter()
        .flat_map(|folder| faults_in(folder, &long_lines))
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn the_checks_find_what_they_are_for() {
    let borders = |name: &str, text: &str| border_faults(name, text).len();
    assert_eq!(borders("src/net/shell/mod.rs", "use crate::cli::Options;"), 1);
    assert_eq!(borders("src/net/shell/mod.rs", "use crate::{\n    cli,\n    config,\n};"), 1);
    assert_eq!(borders("src/net/stream.rs", "fn f(stream: ::mio::net::TcpStream) {}"), 1);
    assert_eq!(borders("src/net/linux/alarm.rs", "use mio::Poll; use rustix::net;"), 0);
    assert_eq!(borders("src/cli/demo.rs", "use mio::Poll; use rustix::process;"), 1);
    assert_eq!(borders("src/net/run.rs", "// the cli; fn client(minion: u8) {}"), 0);
    let long = |start: &str| long_lines("x.rs", &format!("{start}{}", "x".repeat(MAX_COLUMNS))).len();
    assert_eq!((long("// "), long("    /// "), long("let x = ")), (1, 1, 1));
    // What rustfmt cannot break: a string; and what Markdown cannot: a row of a table.
    assert_eq!((long("let x = \""), long("//! | a | ")), (0, 0));
}

/// What `check` finds in the Rust files below a folder of the crate.
fn faults_in(folder: &str, check: &dyn Fn(&str, &str) -> Vec<String>) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join(folder), &mut files);
    assert!(files.len() > 4, "the files of {folder} were not found");
    let name = |file: &Path| file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
    files.iter().flat_map(|file| check(&name(file), &fs::read_to_string(file).unwrap())).collect()
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

/// The words that this file must not name. Comments count for nothing.
fn border_faults(name: &str, text: &str) -> Vec<String> {
    let code = text.lines().filter_map(|line| line.split("//").next());
    let words: Vec<&str> =
        code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_')).collect();
    let holds = |border: &&Border| {
        name.starts_with(border.within) && !border.except.iter().any(|except| name.starts_with(except))
    };
    let broken = BORDERS.iter().filter(holds).filter(|border| words.contains(&border.word));
    broken.map(|border| format!("{name} names {}: {}", border.word, border.reason)).collect()
}

/// The lines that are longer than they need to be.
fn long_lines(name: &str, text: &str) -> Vec<String> {
    let is_long = |line: &str| {
        let code = line.trim_start();
        let is_table = code.starts_with("//! |") || code.starts_with("/// |");
        let is_comment = code.starts_with("//");
        let is_text = !is_comment && (code.contains('"') || code.ends_with('\\'));
        line.chars().count() > MAX_COLUMNS && !is_table && !is_text
    };
    let lines = text.lines().enumerate().filter(|(_, line)| is_long(line));
    lines.map(|(at, _)| format!("{name}, line {}: more than {MAX_COLUMNS} columns", at + 1)).collect()
}
