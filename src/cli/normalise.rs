//! The one step between what was typed and argh: spellings, and the environment.
//!
//! It turns the command line into the form that argh reads, and owns these rules:
//!
//! - `hub` and `agent` without a command mean `run`;
//! - `--flag=value` is `--flag value`, `--switch=false` is no switch;
//! - `--numWorker` is `--num-worker`, `--agentID` is `--agent-id`;
//! - a flag that is not given is taken from the environment, `--num-worker` from `SLIME_NUM_WORKER`, and
//!   after that from the file of `--env-file`, which holds the same variables ([`super::env_file`]). An empty
//!   variable is none. `--x` and `--x-file` are two ways to give one value: one of them on the command line
//!   silences both variables, and one of those both lines of the file;
//! - a file that is named nowhere (`--x-file`, and every other flag that names one) is the credential
//!   `slime_x` in the folder that `CREDENTIALS_DIRECTORY` names, if there is one: systemd.exec(5),
//!   `LoadCredential=`;
//! - variables that container platforms inject for a service named `slime` are ignored, with a notice.
//!
//! Which flags there are it asks argh. What the values mean it does not know.

use core::fmt;
use std::ffi::OsString;
use std::io;

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind, Optionality, SubCommandInfo};

use super::demo::PARENT;
use super::{Failure, env_file};
use crate::proto::trust::agent_token::AgentToken;

/// A command line for argh. It may hold secrets, so it is never printed.
#[derive(Default)]
pub(super) struct Normalised {
    /// The arguments, without the program's name.
    pub(super) args: Vec<String>,
    /// The words of `args` that name the command, as `hub run`.
    pub(super) command: String,
    /// What the user is told of variables, once there is a log.
    pub(super) notices: Vec<String>,
    /// Flags that were not typed, as `--num-worker`, and where their values came from.
    outside: Vec<(String, Layer)>,
    env_file: Option<String>,
}

/// Where values come from that were not typed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layer {
    Environment,
    EnvFile,
    Credential,
}

impl Normalised {
    /// How the user gave this flag: the flag itself, its variable, or its line in a file.
    pub(super) fn origin(&self, flag: &str) -> String {
        let layer = self.outside.iter().find(|(name, _)| name == flag).map(|(_, layer)| layer);
        match (layer, &self.env_file) {
            (None, _) => flag.to_owned(),
            (Some(Layer::Credential), _) => format!("the credential {}", credential(flag)),
            (Some(Layer::EnvFile), Some(file)) => format!("{} in {file}", variable(flag)),
            (Some(Layer::Environment | Layer::EnvFile), _) => variable(flag),
        }
    }

    /// Says of the value of this flag what is wrong with it.
    pub(super) fn wrong<E: fmt::Display>(&self, flag: &str) -> impl Fn(E) -> Failure {
        let origin = self.origin(flag);
        move |error| Failure::Usage(format!("{origin}: {error}"))
    }

    /// Whether the flag was typed, so that every user of the machine can read its value in the list of
    /// processes.
    pub(super) fn is_typed(&self, flag: &str) -> bool {
        !self.outside.iter().any(|(name, _)| name == flag)
    }

    /// Adds a flag and its value as argh reads them.
    fn push(&mut self, flag: &FlagInfo<'_>, origin: &str, value: String) -> Result<(), Failure> {
        let name = flag.long.to_owned();
        match flag.kind {
            FlagInfoKind::Option { .. } => {
                if name == ENV_FILE {
                    self.env_file = Some(value.clone());
                }
                self.args.extend([name, value]);
            }
            FlagInfoKind::Switch => match value.as_str() {
                "true" | "1" | "yes" | "on" => self.args.push(name),
                "false" | "0" | "no" | "off" => {}
                _ => return Err(Failure::Usage(format!("{origin} is true or false"))),
            },
        }
        Ok(())
    }
}

const ENV_FILE: &str = "--env-file";
/// The folder of the credentials that a service manager hands over.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Brings a command line, without the program's name, into the form that argh reads. `environment` looks up a
/// variable, `read` reads a file of a given name, `exists` says whether there is one.
pub(super) fn normalise(
    args: Vec<String>,
    info: &CommandInfoWithArgs,
    environment: impl Fn(&str) -> Option<OsString>,
    read: impl Fn(&str) -> io::Result<String>,
    exists: impl Fn(&str) -> bool,
) -> Result<Normalised, Failure> {
    let mut args = args.into_iter().peekable();
    if args.next_if(|first| first == "--version" || first == "-V").is_some() {
        let version = "version".to_owned();
        return Ok(Normalised { args: vec![version.clone()], command: version, ..Normalised::default() });
    }
    let root = info;
    let mut info = info;
    let mut words = Vec::new();
    while let Some(next) = next_command(info, args.peek()) {
        // The word itself, unless it was left out.
        args.next_if(|word| word == next.name);
        words.push(next.name.to_owned());
        info = &next.command;
    }
    let mut normal = Normalised { command: words.join(" "), args: words, ..Normalised::default() };
    let mut given = take_words(args, info, &mut normal)?;
    let look_up = |variable: &str| match environment(variable).map(OsString::into_string) {
        None => Ok(None),
        Some(Ok(value)) => Ok(Some(value)),
        Some(Err(_)) => Err(Failure::Usage(format!("{variable} is not UTF-8"))),
    };
    fill(&mut normal, &mut given, info, Layer::Environment, |flag| look_up(&variable(flag.long)))?;
    if let Some(file) = normal.env_file.clone() {
        let text = read(&file).map_err(|error| {
            Failure::Runtime(format!("cannot read the file of {}, {file}: {error}", normal.origin(ENV_FILE)))
        })?;
        let lines = env_file::parse(&text).map_err(|error| Failure::Runtime(format!("{file}, {error}")))?;
        note_unknown(&mut normal, root, &file, &lines);
        fill(&mut normal, &mut given, info, Layer::EnvFile, |flag| {
            let variable = variable(flag.long);
            Ok(lines.iter().rev().find(|(key, _)| *key == variable).map(|(_, value)| value.clone()))
        })?;
    }
    if let Some(folder) = look_up(CREDENTIALS)?.filter(|folder| !folder.is_empty()) {
        fill(&mut normal, &mut given, info, Layer::Credential, |flag| {
            let path = format!("{folder}/{}", credential(flag.long));
            Ok(Some(path).filter(|path| names_a_file(flag) && exists(path)))
        })?;
    }
    Ok(normal)
}

/// What was typed behind the command's name. The flags that were given.
fn take_words(
    args: impl Iterator<Item = String>,
    info: &CommandInfoWithArgs,
    normal: &mut Normalised,
) -> Result<Vec<String>, Failure> {
    let help = help_line(&normal.command);
    let usage = |line: String| Failure::Usage(format!("{line}; {help}"));
    let mut args = args.peekable();
    let mut given: Vec<String> = Vec::new();
    let mut positionals = 0;
    let mut only_positionals = false;
    while let Some(word) = args.next() {
        if !only_positionals && (is_help(&word) || word == "--") {
            only_positionals = word == "--";
            if !only_positionals {
                // What follows changes nothing.
                normal.args.push("--help".into());
                break;
            }
            normal.args.push(word);
        } else if let Some(body) = word.strip_prefix("--").filter(|_| !only_positionals) {
            let (name, value) =
                body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value.to_owned())));
            let name = kebab(name);
            let flag = find(info, &name).ok_or_else(|| usage(unknown(info, &name)))?;
            // argh refuses this as well, and shows the value, which may be a secret.
            if given.contains(&name) && flag.optionality != Optionality::Repeating {
                return Err(usage(format!("{name} is given twice")));
            }
            let value = match flag.kind {
                FlagInfoKind::Option { .. } => value.or_else(|| args.next_if(|next| !next.starts_with("--"))),
                FlagInfoKind::Switch => Some(value.unwrap_or_else(|| "true".into())),
            };
            let value = value.ok_or_else(|| usage(format!("{name} needs a value")))?;
            normal.push(flag, &name, value)?;
            given.push(name);
        } else if positionals < info.positionals.len() && (only_positionals || !word.starts_with('-')) {
            positionals += 1;
            normal.args.push(word);
        } else if !info.commands.is_empty() && given.is_empty() && !AgentToken::is_one(&word) {
            let names: Vec<_> = info.commands.iter().map(|command| command.name).collect();
            return Err(usage(format!("unknown command '{word}'; commands are {}", names.join(", "))));
        } else {
            return Err(usage(unexpected(&word, &given, info)));
        }
    }
    Ok(given)
}

/// A word that is neither a flag nor a value. It is not shown where it may be a secret or the rest of one.
fn unexpected(word: &str, given: &[String], info: &CommandInfoWithArgs) -> String {
    let place = given.last().map_or_else(String::new, |flag| format!(" after {flag}"));
    let holds_secret = |name: &String| {
        find(info, name).is_some_and(|flag| matches!(flag.kind, FlagInfoKind::Option { arg_name: "text" }))
    };
    let is_short_flag = word.starts_with('-') && word.chars().count() == 2;
    if is_short_flag {
        format!("unexpected argument '{word}'{place}; flags begin with '--'")
    } else if word.starts_with('-') || !info.positionals.is_empty() || AgentToken::is_one(word) {
        format!("unexpected argument{place}; flags begin with '--'")
    } else if given.iter().any(holds_secret) {
        format!("unexpected argument{place}; put a value with spaces in quotes")
    } else {
        format!("unexpected argument '{}'{place}", word.escape_debug())
    }
}

/// Takes what was not given so far from a layer.
fn fill(
    normal: &mut Normalised,
    given: &mut Vec<String>,
    info: &CommandInfoWithArgs,
    layer: Layer,
    look_up: impl Fn(&FlagInfo<'_>) -> Result<Option<String>, Failure>,
) -> Result<(), Failure> {
    let missing: Vec<&FlagInfo<'_>> = info
        .flags
        .iter()
        .filter(|flag| flag.long != "--help" && (flag.long != ENV_FILE || layer == Layer::Environment))
        .filter(|flag| !given.iter().any(|name| base(name) == base(flag.long)))
        .collect();
    for flag in missing {
        let Some(value) = look_up(flag)?.filter(|value| !value.is_empty()) else { continue };
        if layer == Layer::Environment && is_made_up(flag.long, &value) {
            let variable = variable(flag.long);
            normal.notices.push(format!(
                "{variable} is ignored: it looks like a variable that a container platform injects; use {} instead",
                flag.long
            ));
            continue;
        }
        normal.outside.push((flag.long.to_owned(), layer));
        let origin = normal.origin(flag.long);
        normal.push(flag, &origin, value)?;
        given.push(flag.long.to_owned());
    }
    Ok(())
}

/// Whether a container platform set the variable for another container named `slime`, not the user for us:
/// Kubernetes and Docker links make `SLIME_PORT=tcp://10.0.0.1:8080`, the latter `SLIME_NAME=/app/slime`,
/// too.
fn is_made_up(flag: &str, value: &str) -> bool {
    match flag {
        "--port" => ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme)),
        "--name" => value.starts_with('/'),
        _ => false,
    }
}

/// Lines of a file that no command reads are slips, as a rule. Other programs' variables may stand there.
fn note_unknown(normal: &mut Normalised, root: &CommandInfoWithArgs, file: &str, lines: &[(String, String)]) {
    for (key, _) in lines.iter().filter(|(key, _)| key.starts_with(PREFIX) && !is_known(root, key)) {
        normal.notices.push(format!("{key} in {file} is ignored: no flag has this variable"));
    }
}

/// As lines of a file, variables of the environment. Their values are not shown.
pub(super) fn note_unknown_variables(
    normal: &mut Normalised,
    root: &CommandInfoWithArgs,
    environment: impl Iterator<Item = (OsString, OsString)>,
) {
    let environment = environment
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.to_string_lossy().into_owned())));
    let mut unknown: Vec<String> = environment
        .filter(|(key, value)| key.starts_with(PREFIX) && !is_known(root, key) && !is_injected(key, value))
        .filter(|(key, _)| key != PARENT)
        .map(|(key, _)| format!("{key} is ignored: no flag has this variable"))
        .collect();
    unknown.sort_unstable();
    normal.notices.append(&mut unknown);
}

/// Whether a flag of any command has this variable.
fn is_known(info: &CommandInfoWithArgs, key: &str) -> bool {
    let here = info.flags.iter().any(|flag| variable(flag.long) == key);
    here || info.commands.iter().any(|command| is_known(&command.command, key))
}

/// Whether Kubernetes or Docker links set the variable for a service whose name begins with `slime`: nobody
/// mistyped it.
fn is_injected(key: &str, value: &str) -> bool {
    let has_port =
        key.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()));
    has_port
        || ["_SERVICE_HOST", "_SERVICE_PORT", "_ENV_"].iter().any(|part| key.contains(part))
        || (key.ends_with("_PORT") && value.contains("://"))
        || (key.ends_with("_NAME") && value.starts_with('/'))
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

/// What the names of our variables begin with.
const PREFIX: &str = "SLIME_";

/// The environment variable of a flag.
pub(super) fn variable(flag: &str) -> String {
    format!("{PREFIX}{}", flag.trim_start_matches('-').replace('-', "_").to_ascii_uppercase())
}

/// The credential of a flag that names a file, as systemd calls the file `secret` in a folder that it was
/// told to load as `slime`.
fn credential(flag: &str) -> String {
    format!("slime_{}", base(flag).trim_start_matches('-'))
}

fn names_a_file(flag: &FlagInfo<'_>) -> bool {
    matches!(flag.kind, FlagInfoKind::Option { arg_name: "file" }) && flag.long != "--out"
}

/// A flag that does not exist, with one that does and begins or ends alike.
fn unknown(info: &CommandInfoWithArgs, name: &str) -> String {
    let likeness = |flag: &FlagInfo<'_>| {
        let same = |(a, b): &(char, char)| a == b;
        let start = flag.long.chars().zip(name.chars()).take_while(same).count();
        let end = flag.long.chars().rev().zip(name.chars().rev()).take_while(same).count();
        (start + end).saturating_sub("--".len()).min(flag.long.len())
    };
    let shortest = name.len().saturating_sub("--".len()) / 2;
    match info.flags.iter().max_by_key(|flag| likeness(flag)).filter(|flag| likeness(flag) > shortest) {
        Some(flag) => format!("unknown flag {name}; did you mean {}?", flag.long),
        None => format!("unknown flag {name}"),
    }
}

#[cfg(test)]
mod tests {
    use argh::ArgsInfo as _;

    use super::super::args::Slime;
    use super::*;

    fn with(line: &str, environment: &[(&str, &str)], file: &str) -> Result<Normalised, Failure> {
        let args = line.split_whitespace().map(String::from).collect();
        let look_up = |name: &str| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        let read = |name: &str| {
            assert_eq!(name, "f");
            Ok(file.to_owned())
        };
        let exists = |name: &str| matches!(name, "/c/slime_secret" | "/c/slime_revoked" | "/c/slime_port");
        normalise(args, &Slime::get_args_info(), look_up, read, exists)
    }

    fn with_environment(line: &str, environment: &[(&str, &str)]) -> Result<Normalised, Failure> {
        with(line, environment, "")
    }

    #[track_caller]
    fn check(line: &str, normal: &str) {
        assert_eq!(with_environment(line, &[]).unwrap().args.join(" "), normal, "{line}");
    }

    #[track_caller]
    fn refused(line: &str, reason: &str) {
        let Err(Failure::Usage(error)) = with_environment(line, &[]) else { panic!("{line}") };
        assert!(error.contains(reason), "{line}: {error}");
    }

    #[test]
    fn run_is_what_hub_and_agent_do() {
        check("hub", "hub run");
        check("hub --secret s", "hub run --secret s");
        check("hub run --secret s", "hub run --secret s");
        check("hub register --secret s", "hub register --secret s");
        check("hub --help", "hub run --help");
        check("hub help", "hub run --help");
        check("hub run --help", "hub run --help");
        refused(
            "hub reigster",
            "unknown command 'reigster'; commands are run, register, inspect; see `slime hub --help`",
        );
        check("agent", "agent run");
        check("agent --hub run", "agent run --hub run");
        check("agent -h", "agent run --help");
        check("agent help", "agent run --help");
        check("", "");
        check("-h", "--help");
        check("--version", "version");
        check("-V", "version");
        check("demo", "demo");
        refused(
            "run",
            "unknown command 'run'; commands are hub, agent, demo, ready, version, completions; see `slime --help`",
        );
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
            "unknown flag --sercet; did you mean --secret?; see `slime hub run --help`",
        );
        refused("hub --workers", "unknown flag --workers; see");
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
        assert!(matches!(bad, Err(Failure::Usage(line)) if line == "SLIME_PRESERVE_HOST is true or false"));
        assert_eq!(with_environment("", &environment).unwrap().args, [""; 0]);
    }

    #[test]
    fn a_file_flag_is_a_flag_too() {
        let environment = [("SLIME_SECRET", "e"), ("SLIME_SECRET_FILE", "f")];
        let args = |line| with_environment(line, &environment).unwrap().args[2..].join(" ");
        assert_eq!(args("hub run"), "--secret e --secret-file f");
        assert_eq!(args("hub run --secret-file x"), "--secret-file x");
        assert_eq!(args("hub run --secret x"), "--secret x");
        let file = "SLIME_SECRET=hush";
        let args = |line, environment| with(line, environment, file).unwrap().args[2..].join(" ");
        assert_eq!(args("hub --env-file f", &[]), "--env-file f --secret hush");
        assert_eq!(args("hub --env-file f", &[("SLIME_SECRET_FILE", "g")]), "--env-file f --secret-file g");
    }

    #[test]
    fn a_file_fills_what_the_environment_lacks() {
        let file = "SLIME_PORT=1\nSLIME_CONCURRENT=5\nSLIME_ENV_FILE=g\nSLIME_HUB=h\nPATH=x\nSLIME_PROT=3\n";
        let hub = with("hub --port 2", &[("SLIME_ENV_FILE", "f"), ("SLIME_QUEUE_DEPTH", "")], file).unwrap();
        assert_eq!(hub.args, ["hub", "run", "--port", "2", "--env-file", "f", "--concurrent", "5"]);
        assert_eq!(hub.origin("--concurrent"), "SLIME_CONCURRENT in f");
        assert_eq!(hub.notices, ["SLIME_PROT in f is ignored: no flag has this variable"]);
        let hub = with("hub --env-file f", &[("SLIME_PORT", "2")], file).unwrap();
        assert_eq!(hub.args.join(" "), "hub run --env-file f --port 2 --concurrent 5");
        assert_eq!(hub.origin("--port"), "SLIME_PORT");
        assert!(hub.is_typed("--env-file") && !hub.is_typed("--port"));
        let bad = with("hub --env-file f", &[], "SLIME_SECRET='hush");
        assert!(
            matches!(bad, Err(Failure::Runtime(line)) if line.starts_with("f, line 1: ") && !line.contains("hush"))
        );
        // Only a flag of its own is a flag.
        let hub = with("hub --secret=--env-file --host f", &[], file).unwrap();
        assert_eq!(hub.args.join(" "), "hub run --secret --env-file --host f");
    }

    #[test]
    fn a_credential_is_a_file_that_is_named_nowhere() {
        let args = |line: &str, environment: &[(&str, &str)], file: &str| {
            let environment = [&[("CREDENTIALS_DIRECTORY", "/c")], environment].concat();
            with(line, &environment, file).unwrap().args[2..].join(" ")
        };
        let revoked = "--revoked /c/slime_revoked";
        assert_eq!(args("hub", &[], ""), format!("--secret-file /c/slime_secret {revoked}"));
        assert_eq!(args("hub --secret x", &[], ""), format!("--secret x {revoked}"));
        assert_eq!(args("hub --revoked r", &[("SLIME_SECRET", "e")], ""), "--revoked r --secret e");
        let line = "hub --revoked r --env-file f";
        assert_eq!(args(line, &[], "SLIME_SECRET=l"), format!("{line} --secret l")[4..]);
        assert_eq!(args("agent", &[], ""), "");
        let hub = with_environment("hub", &[("CREDENTIALS_DIRECTORY", "/c")]).unwrap();
        assert_eq!(hub.origin("--secret-file"), "the credential slime_secret");
        assert!(!hub.is_typed("--secret-file"));
        assert_eq!(with_environment("hub", &[("CREDENTIALS_DIRECTORY", "")]).unwrap().args, ["hub", "run"]);
    }

    #[test]
    fn what_container_platforms_make_up_is_ignored() {
        let environment = [("SLIME_PORT", "tcp://10.0.0.1:8080"), ("SLIME_NAME", "/app/slime")];
        let hub = with_environment("hub", &environment).unwrap();
        assert_eq!(hub.args, ["hub", "run"]);
        assert!(hub.notices[0].starts_with("SLIME_PORT is ignored"), "{:?}", hub.notices);
        assert_eq!(with_environment("hub register", &environment).unwrap().notices.len(), 1);
        let file = "SLIME_PORT=tcp://10.0.0.1:8080";
        assert_eq!(with("hub --env-file f", &[], file).unwrap().notices, [""; 0]);
    }

    #[test]
    fn unexpected_arguments_are_shown_unless_they_may_be_secrets() {
        for line in [
            "hub --secret open sesame",
            "agent --token open sesame",
            "agent -tsesame",
            "hub inspect token sesame",
            "agent slime1_sesame --hub h",
            "hub --secret x --port 1 sesame",
        ] {
            let Err(Failure::Usage(error)) = with_environment(line, &[]) else { panic!("{line}") };
            assert!(error.contains("unexpected argument") && !error.contains("sesame"), "{error}");
        }
        for (line, says) in [
            ("hub --host 0.0.0.0 8080", "unexpected argument '8080' after --host; see"),
            ("hub -p 1", "unexpected argument '-p'; flags begin with '--'; see"),
            ("agent --hub h upstream", "unexpected argument 'upstream' after --hub; see"),
            ("version please", "unexpected argument 'please'; see"),
        ] {
            refused(line, says);
        }
        assert!(
            matches!(with_environment("hub --secret open sesame", &[]), Err(Failure::Usage(line)) if line.contains("after --secret"))
        );
    }

    #[test]
    fn a_variable_must_be_text() {
        use std::os::unix::ffi::OsStringExt as _;
        let look_up = |name: &str| (name == "SLIME_SECRET").then(|| OsString::from_vec(vec![0xff]));
        let read = |_: &str| Ok(String::new());
        let bad = normalise(vec!["hub".into()], &Slime::get_args_info(), look_up, read, |_| false);
        assert!(matches!(bad, Err(Failure::Usage(line)) if line == "SLIME_SECRET is not UTF-8"));
    }
}
