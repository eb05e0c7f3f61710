//! What `--help` shows: the flags of [`super::args`] in groups, with the examples and notes that stand there.

use core::fmt::Write as _;

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind};

/// The groups, in the order in which they are shown, and the flags of all commands in theirs.
const GROUPS: [(&str, &[&str]); 9] = [
    (
        "Addresses",
        &["--hub", "--proxy", "--websocket", "--upstream", "--host", "--port", "--trusted-proxy", "--cors"],
    ),
    (
        "TLS",
        &[
            "--tls-cert",
            "--tls-key",
            "--tls-self-signed",
            "--tls-port",
            "--tls-redirect",
            "--hub-ca",
            "--hub-pin",
            "--upstream-ca",
            "--upstream-pin",
        ],
    ),
    (
        "Secrets",
        &[
            "--secret",
            "--secret-file",
            "--token",
            "--token-file",
            "--app-password",
            "--app-password-file",
            "--upstream-header-file",
            "--revoked",
        ],
    ),
    (
        "Operating",
        &[
            "--admin",
            "--admin-password",
            "--admin-password-file",
            "--admin-view-password",
            "--admin-view-password-file",
            "--agents",
            "--wait",
            "--live",
        ],
    ),
    ("The token", &["--name", "--out", "--age", "--scopes", "--scope-paths", "--max-workers"]),
    (
        "Work",
        &[
            "--num-worker",
            "--extra-upgrades",
            "--extra-streams",
            "--light-paths",
            "--on-cancel",
            "--preserve-host",
            "--agent-id",
            "--note",
            "--health-path",
            "--concurrent",
            "--queue-depth",
        ],
    ),
    ("Limits", &["--hold", "--max-body", "--max-clients", "--max-tunnels"]),
    (
        "Time limits",
        &[
            "--queue-timeout",
            "--response-timeout",
            "--connect-timeout",
            "--head-timeout",
            "--body-timeout",
            "--stall-timeout",
            "--idle-timeout",
            "--heartbeat",
            "--agent-grace",
            "--startup-grace",
            "--drain-delay",
            "--drain-timeout",
            "--upgrade-drain",
        ],
    ),
    ("Configuration and log", &["--env-file", "--log-level", "--syslog", "--check", "--help"]),
];
/// Where descriptions begin, and the width of all.
const COLUMN: usize = 30;
const WIDTH: usize = 80;

/// The help of a command: `""`, `hub`, `hub run`.
pub(super) fn render(root: &CommandInfoWithArgs, command: &str) -> String {
    let info = find(root, command);
    let name = format!("slime {command}").trim_end().to_owned();
    let mut text = format!("Usage: {}\n\n", usage(info, &name));
    wrap(&mut text, info.description, 0, "");
    if !info.commands.is_empty() {
        text.push_str("\nCommands:\n");
        list_commands(&mut text, info, &name);
    }
    if let Some(above) = command.strip_suffix(" run").map(|above| find(root, above))
        && above.commands.len() > 1
    {
        text.push_str("\nOther commands:\n");
        for other in above.commands.iter().filter(|other| other.name != "run") {
            let name = name.replace(" run", &format!(" {}", other.name));
            wrap(&mut text, other.command.description, COLUMN, &format!("  {name}"));
        }
    }
    for (title, flags) in groups(info) {
        let _ = write!(text, "\n{title}:\n");
        for flag in flags {
            wrap(&mut text, flag.description, COLUMN, &format!("  {}", label(flag)));
        }
    }
    for (title, parts) in [("Examples", info.examples), ("Notes", info.notes)] {
        if !parts.is_empty() {
            let _ = write!(text, "\n{title}:\n");
        }
        for line in parts.iter().flat_map(|part| part.lines()) {
            let line = line.replace("{command_name}", &name);
            match title {
                // To be copied: never broken.
                "Examples" => text.push_str(&format!("  {line}\n")),
                _ => wrap(&mut text, &line, 2, "  "),
            }
        }
    }
    text
}

/// The flags of a command in their groups.
pub(super) fn groups(
    info: &CommandInfoWithArgs,
) -> impl Iterator<Item = (&'static str, Vec<&FlagInfo<'static>>)> {
    GROUPS.iter().filter_map(|(title, names)| {
        let flags: Vec<_> =
            names.iter().filter_map(|name| info.flags.iter().find(|flag| flag.long == *name)).collect();
        (!flags.is_empty()).then_some((*title, flags))
    })
}

/// The flag with what stands for its value, as `--port PORT`.
pub(super) fn label(flag: &FlagInfo<'_>) -> String {
    match flag.kind {
        FlagInfoKind::Option { arg_name } => format!("{} {}", flag.long, arg_name.to_ascii_uppercase()),
        FlagInfoKind::Switch => flag.long.to_owned(),
    }
}

/// The command of this name, as `hub run`.
pub(super) fn find<'a>(root: &'a CommandInfoWithArgs, command: &str) -> &'a CommandInfoWithArgs {
    command.split_whitespace().fold(root, |info, word| {
        info.commands.iter().find(|command| command.name == word).map_or(info, |command| &command.command)
    })
}

fn usage(info: &CommandInfoWithArgs, name: &str) -> String {
    let mut usage = name.strip_suffix(" run").map_or_else(|| name.to_owned(), |name| format!("{name} [run]"));
    for positional in info.positionals {
        let _ = write!(usage, " [{}]", positional.name.to_ascii_uppercase());
    }
    usage.push_str(if info.commands.is_empty() { " [flags]" } else { " COMMAND [flags]" });
    usage
}

/// All commands below this one that do something.
fn list_commands(text: &mut String, info: &CommandInfoWithArgs, name: &str) {
    for command in &info.commands {
        let shown = if command.name == "run" { "[run]" } else { command.name };
        let name = format!("{name} {shown}");
        if command.command.commands.is_empty() {
            wrap(text, command.command.description, COLUMN, &format!("  {name}"));
        } else {
            list_commands(text, &command.command, &name);
        }
    }
}

/// A text, broken between words, with `first` before it and every line but the first beginning at `column`.
fn wrap(text: &mut String, what: &str, column: usize, first: &str) {
    let mut line = first.to_owned();
    if line.len() + 2 > column && !what.is_empty() && column > 2 {
        text.push_str(&line);
        text.push('\n');
        line.clear();
    }
    let mut is_begun = false;
    for word in what.split(' ') {
        if is_begun && line.len() + 1 + word.len() > WIDTH {
            text.push_str(line.trim_end());
            text.push('\n');
            line.clear();
            is_begun = false;
        }
        if is_begun {
            line.push(' ');
        } else {
            line.push_str(&" ".repeat(column.saturating_sub(line.len())));
        }
        line.push_str(word);
        is_begun = true;
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use argh::ArgsInfo as _;

    use super::super::args::Slime;
    use super::super::normalise::variable;
    use super::*;

    fn leaves<'a>(
        info: &'a CommandInfoWithArgs,
        name: &str,
        all: &mut Vec<(String, &'a CommandInfoWithArgs)>,
    ) {
        for command in &info.commands {
            let name = format!("{name} {}", command.name).trim().to_owned();
            all.push((name.clone(), &command.command));
            leaves(&command.command, &name, all);
        }
    }

    #[test]
    fn every_flag_has_one_group() {
        let root = Slime::get_args_info();
        let mut all = Vec::new();
        leaves(&root, "", &mut all);
        for (name, info) in all {
            let mut shown: Vec<&str> =
                groups(info).flat_map(|(_, flags)| flags).map(|flag| flag.long).collect();
            let mut there: Vec<&str> = info.flags.iter().map(|flag| flag.long).collect();
            shown.sort_unstable();
            there.sort_unstable();
            assert_eq!(shown, there, "{name}: add new flags to GROUPS");
        }
    }

    #[test]
    fn every_command_has_help_with_examples_that_fits_a_terminal() {
        let root = Slime::get_args_info();
        let mut all = vec![(String::new(), &root)];
        leaves(&root, "", &mut all);
        // Where there is one command only, it is the one that is shown.
        for (name, info) in all.into_iter().filter(|(_, info)| info.commands.len() != 1) {
            let text = render(&root, &name);
            assert!(text.starts_with("Usage: slime") && !text.contains('{'), "{name}: {text}");
            assert!(name == "version" || text.contains("\nExamples:\n  "), "{name}: {text}");
            let examples = text.find("\nExamples:").unwrap_or(text.len());
            assert!(text[..examples].lines().all(|line| line.len() <= WIDTH), "{text}");
            for flag in info.flags {
                assert!(text.contains(&label(flag)), "{name}: {}", flag.long);
            }
        }
        let text = render(&root, "");
        for line in ["slime hub [run] ", "slime hub register ", "slime agent [run] ", "slime demo "] {
            assert!(text.contains(line), "{text}");
        }
    }

    /// argh gives each command its own list of flags, so that some stand in two.
    #[test]
    fn flags_of_hub_and_agent_say_the_same() {
        let root = Slime::get_args_info();
        let (hub, agent) = (find(&root, "hub run"), find(&root, "agent run"));
        let differs = |flag: &&FlagInfo<'_>| {
            let same = agent.flags.iter().find(|other| other.long == flag.long);
            same.is_some_and(|other| (label(other), other.description) != (label(flag), flag.description))
        };
        let differing: Vec<&str> = hub.flags.iter().filter(differs).map(|flag| flag.long).collect();
        // The head of a request at the hub, that of a response at the agent.
        assert_eq!(differing, ["--head-timeout"]);
    }

    /// The tables of the manual are made from the flags. What this shows when it fails can be put there.
    #[test]
    fn the_manual_has_every_flag_as_it_is() {
        let manual = include_str!("../manual/flags.md");
        let root = Slime::get_args_info();
        let mut missing = String::new();
        for command in ["hub run", "hub register", "hub inspect", "agent run", "demo"] {
            let mut table = String::from("| Flag | Variable | Meaning |\n|---|---|---|\n");
            for flag in groups(find(&root, command)).flat_map(|(_, flags)| flags) {
                if flag.long != "--help" {
                    let _ = writeln!(
                        table,
                        "| `{}` | `{}` | {} |",
                        label(flag),
                        variable(flag.long),
                        flag.description
                    );
                }
            }
            if !manual.contains(&table) {
                let _ = write!(missing, "`slime {command}`:\n{table}\n");
            }
        }
        assert!(missing.is_empty(), "src/manual/flags.md differs in the flags of\n{missing}");
    }
}
