//! The one step between what was typed and argh: spellings, and the environment.
//!
//! It turns the command line into the form that argh reads, and owns these rules:
//!
//! - `hub` and `agent` without a command mean `run`;
//! - `--flag=value` is `--flag value`, `--switch=false` is no switch;
//! - `--numWorker` is `--num-worker`, `--agentID` is `--agent-id`;
//! - a flag that is not given is taken from the environment: `--num-worker` from `SLIME_NUM_WORKER`. An empty variable is
//!   none. `--x` and `--x-file` are two ways to give one value: one of them on the command line silences both variables.
//!
//! Which flags there are it asks argh. What the values mean it does not know.

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind, Optionality, SubCommandInfo};

/// A command line for argh.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Normalised {
    /// The arguments, without the program's name.
    pub(super) args: Vec<String>,
    /// The words of `args` that name the command, as `hub run`.
    pub(super) command: String,
    /// Which flags came from the environment, as `--num-worker`.
    pub(super) from_environment: Vec<String>,
}

impl Normalised {
    /// How the user gave this flag: the variable, or the flag itself.
    pub(super) fn origin(&self, flag: &str) -> String {
        if self.is_from_environment(flag) { variable(flag) } else { flag.to_owned() }
    }

    /// Whether the flag came from the environment.
    pub(super) fn is_from_environment(&self, flag: &str) -> bool {
        self.from_environment.iter().any(|name| name == flag)
    }
}

/// Brings a command line, without the program's name, into the form that argh reads. An error is one line for the user.
pub(super) fn normalise(
    args: Vec<String>,
    info: &CommandInfoWithArgs,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Normalised, String> {
    let mut args = args.into_iter().peekable();
    if args.next_if(|first| first == "--version" || first == "-V").is_some() {
        return Ok(Normalised {
            args: vec!["version".into()],
            command: "version".into(),
            from_environment: vec![],
        });
    }
    let mut words = Vec::new();
    let mut info = info;
    while let Some(next) = next_command(info, args.peek()) {
        // The word itself, unless it was left out.
        args.next_if(|word| word == next.name);
        words.push(next.name.to_owned());
        info = &next.command;
    }
    let command = words.join(" ");
    let help = help_line(&command);
    let mut given = Vec::new();
    let mut normal = words;
    while let Some(word) = args.next() {
        if word == "--" {
            normal.push(word);
            normal.extend(args.by_ref());
        } else if word == "-h" {
            normal.push("--help".into());
        } else if let Some(body) = word.strip_prefix("--").filter(|body| *body != "help") {
            let (name, value) =
                body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value.to_owned())));
            let name = kebab(name);
            let flag = find(info, &name).ok_or_else(|| unknown(info, &name, &help))?;
            // argh refuses this as well, and shows the value, which may be a secret.
            if given.contains(&name) && flag.optionality != Optionality::Repeating {
                return Err(format!("{name} is given twice; {help}"));
            }
            given.push(name.clone());
            match flag.kind {
                FlagInfoKind::Option { .. } => {
                    let next = || args.next_if(|next| !next.starts_with("--"));
                    let value = value.or_else(next).ok_or_else(|| format!("{name} needs a value; {help}"))?;
                    normal.extend([name, value]);
                }
                FlagInfoKind::Switch => {
                    normal.extend(switch(&name, value.as_deref().unwrap_or("true"))?.then_some(name))
                }
            }
        } else {
            normal.push(word);
        }
    }
    let mut from_environment = Vec::new();
    let missing = info
        .flags
        .iter()
        .filter(|flag| !given.iter().any(|name| base(name) == base(flag.long)) && flag.long != "--help");
    for flag in missing {
        let name = flag.long.to_owned();
        let Some(value) = environment(&variable(&name)).filter(|value| !value.is_empty()) else { continue };
        match flag.kind {
            FlagInfoKind::Option { .. } => normal.extend([name.clone(), value]),
            FlagInfoKind::Switch => normal.extend(switch(&variable(&name), &value)?.then(|| name.clone())),
        }
        from_environment.push(name);
    }
    Ok(Normalised { args: normal, command, from_environment })
}

/// Where to read on.
pub(super) fn help_line(command: &str) -> String {
    let space = if command.is_empty() { "" } else { " " };
    format!("see `slime {command}{space}--help`")
}

/// The command that the next word names, or that is meant where none is named.
fn next_command<'a>(info: &'a CommandInfoWithArgs, next: Option<&String>) -> Option<&'a SubCommandInfo> {
    let named = |name: &str| info.commands.iter().find(|command| command.name == name);
    match next {
        None => named("run"),
        // With several commands to choose from, `--help` shows them.
        Some(word) if is_help(word) && info.commands.len() > 1 => None,
        Some(word) if is_help(word) || word.starts_with('-') => named("run"),
        Some(word) => named(word),
    }
}

fn is_help(word: &str) -> bool {
    matches!(word, "--help" | "-h" | "help")
}

fn find<'a>(info: &'a CommandInfoWithArgs, name: &str) -> Option<&'a FlagInfo<'static>> {
    info.flags.iter().find(|flag| flag.long == name)
}

/// `--` and the name in lower case, with a hyphen before each run of capitals.
fn kebab(name: &str) -> String {
    let mut kebab = String::from("--");
    let mut after_lower = false;
    for character in name.chars() {
        if character.is_ascii_uppercase() && after_lower {
            kebab.push('-');
        }
        after_lower = character.is_ascii_lowercase() || character.is_ascii_digit();
        kebab.push(character.to_ascii_lowercase());
    }
    kebab
}

/// What `--x` and `--x-file` have in common.
fn base(flag: &str) -> &str {
    flag.strip_suffix("-file").unwrap_or(flag)
}

/// The environment variable of a flag.
pub(super) fn variable(flag: &str) -> String {
    format!("SLIME_{}", flag.trim_start_matches('-').replace('-', "_").to_ascii_uppercase())
}

fn switch(origin: &str, value: &str) -> Result<bool, String> {
    match value {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("{origin} is true or false")),
    }
}

/// A flag that does not exist, with one that does and begins or ends alike.
fn unknown(info: &CommandInfoWithArgs, name: &str, help: &str) -> String {
    let likeness = |flag: &FlagInfo<'_>| {
        let same = |(a, b): &(char, char)| a == b;
        let start = flag.long.chars().zip(name.chars()).take_while(same).count();
        let end = flag.long.chars().rev().zip(name.chars().rev()).take_while(same).count();
        (start + end).saturating_sub("--".len()).min(flag.long.len())
    };
    let shortest = name.len().saturating_sub("--".len()) / 2;
    match info.flags.iter().max_by_key(|flag| likeness(flag)).filter(|flag| likeness(flag) > shortest) {
        Some(flag) => format!("there is no flag {name}; did you mean {}? {help}", flag.long),
        None => format!("there is no flag {name}; {help}"),
    }
}

#[cfg(test)]
mod tests {
    use argh::ArgsInfo as _;

    use super::super::args::Slime;
    use super::*;

    fn with_environment(line: &str, environment: &[(&str, &str)]) -> Result<Normalised, String> {
        let args = line.split_whitespace().map(String::from).collect();
        normalise(args, &Slime::get_args_info(), |name| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[track_caller]
    fn check(line: &str, normal: &str) {
        assert_eq!(
            with_environment(line, &[]).map(|normalised| normalised.args.join(" ")),
            Ok(normal.into()),
            "{line}"
        );
    }

    #[track_caller]
    fn refused(line: &str, reason: &str) {
        let error = with_environment(line, &[]).unwrap_err();
        assert!(error.contains(reason), "{line}: {error}");
    }

    #[test]
    fn run_is_what_hub_and_agent_do() {
        check("hub", "hub run");
        check("hub --secret s", "hub run --secret s");
        check("hub run --secret s", "hub run --secret s");
        check("hub register --secret s", "hub register --secret s");
        check("hub --help", "hub --help");
        check("hub run --help", "hub run --help");
        check("hub reigster", "hub reigster");
        check("agent", "agent run");
        check("agent --hub run", "agent run --hub run");
        check("agent -h", "agent run --help");
        check("agent help", "agent run help");
        check("", "");
        check("-h", "--help");
        check("--version", "version");
        check("-V", "version");
        check("demo", "demo");
        check("run", "run");
    }

    #[test]
    fn spellings() {
        check("agent --numWorker 2", "agent run --num-worker 2");
        check("agent --numWorker=2", "agent run --num-worker 2");
        check("hub --appPassword x", "hub run --app-password x");
        check("hub register --scopePaths /a,/b", "hub register --scope-paths /a,/b");
        check("agent --agentID me", "agent run --agent-id me");
        check("agent --agentId=me", "agent run --agent-id me");
        check("hub --logLevel=debug", "hub run --log-level debug");
    }

    #[test]
    fn values_are_left_alone() {
        check("hub --secret=a=b", "hub run --secret a=b");
        check("hub --secret=--numWorker=1", "hub run --secret --numWorker=1");
        check("hub --secret= --port 1", "hub run --secret  --port 1");
        check("hub --secret -x", "hub run --secret -x");
        check("hub --secret help", "hub run --secret help");
        check("hub inspect -- --fooBar", "hub inspect -- --fooBar");
        check("hub inspect slime1_aB=", "hub inspect slime1_aB=");
        refused("hub --secret --port 1", "--secret needs a value");
        refused("agent run --hub", "--hub needs a value; see `slime agent run --help`");
    }

    #[test]
    fn switches() {
        check("agent --preserveHost --hub h", "agent run --preserve-host --hub h");
        check("agent --preserve-host=true", "agent run --preserve-host");
        check("agent --preserve-host=false", "agent run");
        refused("agent --preserve-host=maybe", "--preserve-host is true or false");
    }

    #[test]
    fn what_does_not_exist() {
        refused(
            "hub --sercet s",
            "there is no flag --sercet; did you mean --secret? see `slime hub run --help`",
        );
        refused("hub --workers", "there is no flag --workers; see");
        refused("agent --num-workers 2", "did you mean --num-worker?");
        refused("--secret s", "see `slime --help`");
        refused("hub --secret a --secret=b", "--secret is given twice");
        check("agent --upstream a --upstream b", "agent run --upstream a --upstream b");
        refused("hub register --port=1", "see `slime hub register --help`");
    }

    #[test]
    fn the_environment_fills_what_is_missing() {
        let environment = [
            ("SLIME_SECRET", "from env"),
            ("SLIME_PORT", "1"),
            ("SLIME_NUM_WORKER", "3"),
            ("SLIME_MAX_BODY", ""),
            ("SLIME_PRESERVE_HOST", "1"),
            ("SLIME_HELP", "1"),
        ];
        let hub = with_environment("hub --port 2", &environment).unwrap();
        assert_eq!(hub.args, ["hub", "run", "--port", "2", "--secret", "from env"]);
        assert_eq!(hub.origin("--secret"), "SLIME_SECRET");
        assert_eq!(hub.origin("--port"), "--port");
        let agent = with_environment("agent", &environment).unwrap();
        assert_eq!(agent.args, ["agent", "run", "--num-worker", "3", "--preserve-host"]);
        let agent = with_environment("agent --preserve-host=false", &environment).unwrap();
        assert_eq!(agent.args, ["agent", "run", "--num-worker", "3"]);
        let bad = with_environment("agent", &[("SLIME_PRESERVE_HOST", "x")]);
        assert_eq!(bad, Err("SLIME_PRESERVE_HOST is true or false".into()));
        assert_eq!(with_environment("", &environment).unwrap().args, [""; 0]);
    }

    #[test]
    fn a_file_flag_is_a_flag_too() {
        let environment = [("SLIME_SECRET", "e"), ("SLIME_SECRET_FILE", "f")];
        let args = |line| with_environment(line, &environment).unwrap().args[2..].join(" ");
        assert_eq!(args("hub run"), "--secret e --secret-file f");
        assert_eq!(args("hub run --secret-file x"), "--secret-file x");
        assert_eq!(args("hub run --secret x"), "--secret x");
    }
}
