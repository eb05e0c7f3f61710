//! The commands that the documentation shows: each must be one that the binary takes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::*;

/// What stands at the end of a command to be looked at: a value that is found wrong when everything before it
/// was taken.
const WRONG: [(&str, &str); 6] = [
    ("hub register", "--max-workers"),
    ("hub inspect", "--env-file"),
    ("hub", "--log-level"),
    ("agent", "--log-level"),
    ("demo", "--port"),
    ("ready", "--env-file"),
];

/// The front door stays one: who wants more follows a link.
const LONGEST_README: usize = 12_000;

/// Every page, with the fewest commands that are to be found on it.
const PAGES: [(&str, usize); 12] = [
    ("README.md", 22),
    ("src/manual/requests.md", 0),
    ("src/manual/flags.md", 5),
    ("src/manual/tls.md", 9),
    ("src/manual/operating.md", 2),
    ("src/manual/comparison.md", 0),
    ("cross/README.md", 2),
    ("tests/abuse/README.md", 0),
    ("tests/bench/README.md", 0),
    (".github/CHANGELOG.md", 0),
    (".github/CONTRIBUTING.md", 0),
    (".github/SECURITY.md", 0),
];

#[test]
fn commands_of_the_documentation_are_commands_of_the_binary() {
    for (file, least) in PAGES {
        let commands = commands(&page(file));
        assert!(commands.len() >= least, "{file}: {commands:#?}");
        for command in commands {
            check(file, &command);
        }
    }
}

#[test]
fn links_of_the_documentation_lead_somewhere() {
    let mut dead = Vec::new();
    for (file, _) in PAGES {
        let text = page(file);
        // `[text](target)`, and `[text]: target` on a line of its own.
        let within = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let below =
            text.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: ").map(|(_, to)| to));
        for link in within.chain(below).filter(|link| !link.contains("://")) {
            if !leads_somewhere(file, link) {
                dead.push(format!("{file}: {link}"));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

/// Whether a link of a page names a file that is there, and a heading in it.
fn leads_somewhere(from: &str, link: &str) -> bool {
    let (to, heading) = link.split_once('#').map_or((link, None), |(to, heading)| (to, Some(heading)));
    let path = match to {
        "" => PathBuf::from(from),
        _ => Path::new(from).with_file_name(to),
    };
    match (fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)), heading) {
        (Ok(text), Some(heading)) => {
            let anchor = |line: &str| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
            let kept = |text: String| text.replace(|c: char| !c.is_alphanumeric() && !"-_".contains(c), "");
            text.lines().any(|line| line.starts_with('#') && kept(anchor(line)) == heading)
        }
        (Ok(_), None) => true,
        (Err(_), _) => false,
    }
}

#[test]
fn the_readme_is_read_at_one_sitting() {
    let bytes = page("README.md").len();
    assert!(
        bytes <= LONGEST_README,
        "README.md has {bytes} bytes: move what not everybody needs to src/manual"
    );
}

fn page(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// Everything that is to be typed and begins with `slime`.
fn commands(text: &str) -> Vec<String> {
    // A line that ends with a backslash goes on.
    let text = text.replace("\\\n", " ");
    let mut commands = Vec::new();
    let mut is_fenced = false;
    for line in text.lines() {
        is_fenced ^= line.starts_with("```");
        match line.strip_prefix("    ").or(is_fenced.then_some(line)) {
            Some(typed) => commands.push(typed.split(" # ").next().unwrap_or_default().trim().to_owned()),
            // Between backquotes stand commands, too, and headings of their tables.
            None => commands.extend(line.split('`').skip(1).step_by(2).map(String::from)),
        }
    }
    // As others' words, of which it is the last part.
    let own = |command: &String| {
        let words = command.strip_prefix("sudo ").or(command.strip_prefix("cargo run --release -- "));
        let words = words.unwrap_or(command);
        match words.strip_prefix("slime ") {
            Some(words) => Some(words.to_owned()),
            None => command.strip_prefix("cargo run --release -- ").map(String::from),
        }
    };
    commands.iter().filter_map(own).collect()
}

fn check(file: &str, line: &str) {
    let line =
        line.split(['>', '<']).next().unwrap_or_default().replace("[run]", "run").replace("[TOKEN]", "token");
    if line.contains("--help") || line.contains("COMMAND") {
        return;
    }
    let Some((_, flag)) = WRONG.iter().find(|(command, _)| line.starts_with(command)) else {
        // Without flags: `version`.
        assert_eq!(run(&words(&line), &[]).0, 0, "{file}: slime {line}");
        return;
    };
    // What is wrong is seen last, so that everything else was found right.
    let value = if *flag == "--env-file" { "/nonexistent/wrong" } else { "wrong" };
    let (_, _, err) = run(&[words(&line), vec![flag, value]].concat(), &["SLIME_SECRET=s"]);
    let found = err.contains("wrong");
    assert!(found && one_line(&err), "{file}: slime {line}\n{err}");
}
