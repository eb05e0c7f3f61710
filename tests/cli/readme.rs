//! The commands that the documentation shows: each must be one that the binary takes.

use std::fs;

use crate::harness::*;

/// What stands at the end of a command to be looked at: a value that is found wrong when everything before it
/// was taken.
const WRONG: [(&str, &str); 5] = [
    ("hub register", "--max-workers"),
    ("hub inspect", "--env-file"),
    ("hub", "--log-level"),
    ("agent", "--log-level"),
    ("demo", "--port"),
];

#[test]
fn commands_of_the_documentation_are_commands_of_the_binary() {
    for (file, least) in [("README.md", 30), ("cross/README.md", 2)] {
        let text = fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let commands = commands(&text);
        assert!(commands.len() >= least, "{file}: {commands:#?}");
        for command in commands {
            check(file, &command);
        }
    }
}

/// Everything that is to be typed and begins with `slime`.
fn commands(text: &str) -> Vec<String> {
    // A line that ends with a backslash goes on.
    let text = text.replace("\\\n", " ");
    let mut commands = Vec::new();
    for line in text.lines() {
        match line.strip_prefix("    ") {
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
    let value = if *flag == "--env-file" { "/nonexistent/readme" } else { "readme" };
    let (_, _, err) = run(&[words(&line), vec![flag, value]].concat(), &["SLIME_SECRET=s"]);
    let found = err.contains("readme");
    assert!(found && one_line(&err), "{file}: slime {line}\n{err}");
}
