//! The command line: from words to the types of [`crate::config`], and from results to exit codes.
//!
//! Everything is parsed once, here, and nothing behind it looks at text again. The way of a command line is
//! `normalise` (spellings, environment, `env_file`), `args` (argh), `values` and `address` (typed values),
//! then the command: `hub`, `token`, `agent`, `demo` or `ready`. Wrong usage is one line that says what to
//! do, and exit code 2; what was understood and cannot be used, and what fails later, is 1.

mod address;
mod admin;
mod agent;
mod agent_args;
mod args;
mod ask;
mod completions;
mod demo;
mod demo_upstream;
mod env_file;
mod header_file;
mod help;
mod hub;
mod hub_args;
mod normalise;
mod proxy;
mod ready;
mod secret;
mod token;
mod values;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use argh::{ArgsInfo as _, FromArgs as _};
use log::{LevelFilter, warn};

use crate::logging;

use agent_args::{Agent, AgentCommand, AgentRun};
use args::{Command, Slime};
use hub_args::{Hub, HubCommand, HubRun};
use normalise::{Normalised, help_line, normalise};

/// Runs the command that the arguments (without the program's name) name. The exit code of the process.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    if demo::is_orphaned_child() {
        return ExitCode::FAILURE;
    }
    match parse(args).and_then(|(slime, given)| dispatch(slime.command, &given)) {
        Ok(code) => ExitCode::from(code),
        // Whoever reads help may leave early.
        Err(Failure::Help(text)) => {
            drop(print(&text));
            ExitCode::SUCCESS
        }
        Err(Failure::Usage(line)) => {
            complain(&line);
            ExitCode::from(2)
        }
        Err(Failure::Runtime(line)) => {
            complain(&line);
            ExitCode::FAILURE
        }
        Err(Failure::Logged) => ExitCode::FAILURE,
    }
}

/// Why a command did not run to its end.
#[derive(Debug)]
enum Failure {
    /// It was asked for help: this text.
    Help(String),
    /// It was called wrongly. The line says what to do.
    Usage(String),
    /// It could not be carried out.
    Runtime(String),
    /// It could not be carried out, and the log says why.
    Logged,
}

fn parse(args: impl Iterator<Item = OsString>) -> Result<(Slime, Normalised), Failure> {
    let args: Result<Vec<String>, OsString> = args.map(OsString::into_string).collect();
    // It is not shown: it may be a secret.
    let args = args.map_err(|_| Failure::Usage("an argument is not UTF-8".into()))?;
    let (slime, mut given) = parse_words(args, |name| std::env::var_os(name))?;
    normalise::note_unknown_variables(&mut given, &Slime::get_args_info(), std::env::vars_os());
    Ok((slime, given))
}

fn parse_words(
    args: Vec<String>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<(Slime, Normalised), Failure> {
    let info = Slime::get_args_info();
    let given = normalise(args, &info, environment, secret::read_file, |path| {
        // What cannot be looked at is there: reading it says why.
        Path::new(path).try_exists().unwrap_or(true)
    })?;
    let words: Vec<&str> = given.args.iter().map(String::as_str).collect();
    if words.is_empty() {
        return Err(Failure::Usage(format!(
            "a command is missing: hub, agent, demo, ready or version; {}",
            help_line("")
        )));
    }
    match Slime::from_args(&["slime"], &words) {
        Ok(slime) => Ok((slime, given)),
        Err(exit) if exit.status.is_ok() => Err(Failure::Help(help::render(&info, &given.command))),
        Err(exit) => {
            let line = wrong_value(exit.output.trim_end(), &given).unwrap_or(exit.output);
            Err(Failure::Usage(format!("{}; {}", line.trim_end(), help_line(&given.command))))
        }
    }
}

/// What argh says of a value that it cannot parse, in our words, with the place where the value came from.
fn wrong_value(output: &str, given: &Normalised) -> Option<String> {
    let (flag, rest) = output.strip_prefix("Error parsing option '")?.split_once("' with value '")?;
    let (value, why) = rest.rsplit_once("': ")?;
    Some(format!("invalid value '{value}' for {}: {why}", given.origin(flag)))
}

fn dispatch(command: Command, given: &Normalised) -> Result<u8, Failure> {
    match &command {
        Command::Hub(Hub { command: HubCommand::Run(HubRun { log_level, syslog, .. }) })
        | Command::Agent(Agent { command: AgentCommand::Run(AgentRun { log_level, syslog, .. }) }) => {
            if !syslog {
                logging::to_stderr(*log_level);
            } else if let Err(error) = logging::to_syslog(*log_level) {
                warn!("nothing listens at /dev/log, so the log goes to the standard error: {error}");
            }
        }
        // Whoever calls these reads their lines at once, and knows the time.
        Command::Hub(_) | Command::Ready(_) | Command::Version(_) | Command::Completions(_) => {
            logging::to_stderr_undated(LevelFilter::Info)
        }
        // The only failure is that there is a logger already.
        Command::Demo(_) => {
            drop(simple_logger::SimpleLogger::new().with_level(LevelFilter::Info).init());
        }
    }
    for notice in &given.notices {
        warn!("{notice}");
    }
    match command {
        Command::Hub(hub) => match hub.command {
            HubCommand::Run(args) => hub::run(args, given),
            HubCommand::Register(args) => token::register(args, given),
            HubCommand::Inspect(args) => token::inspect(args, given),
        },
        Command::Agent(agent) => match agent.command {
            AgentCommand::Run(args) => agent::run(args, given),
        },
        Command::Demo(args) => demo::run(&args, given),
        Command::Ready(args) => ready::run(&args, given, |name| std::env::var_os(name)),
        Command::Completions(args) => {
            print(&completions::script(&args, &Slime::get_args_info())?)?;
            Ok(0)
        }
        Command::Version(_) => {
            print(concat!("slime ", env!("CARGO_PKG_VERSION"), "\n"))?;
            Ok(0)
        }
    }
}

/// To the standard output.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Failure::Runtime(format!("cannot write to the standard output: {error}")))
}

/// One line to the standard error.
fn complain(line: &str) {
    let line: Vec<&str> = line.split(['\n', '\r']).map(str::trim).collect();
    let _ = writeln!(std::io::stderr(), "slime: {}", line.join(" "));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<(Slime, Normalised), Failure> {
        parse_words(line.split_whitespace().map(String::from).collect(), |_| None)
    }

    #[track_caller]
    fn usage(line: &str, environment: &[(&str, &str)]) -> String {
        let args = line.split_whitespace().map(String::from).collect();
        let environment = |name: &str| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        match parse_words(args, environment) {
            Err(Failure::Usage(line)) => line,
            Err(failure) => panic!("{line}: {failure:?}"),
            Ok(_) => panic!("{line}"),
        }
    }

    #[test]
    fn help_is_everywhere() {
        for line in [
            "--help",
            "-h",
            "help",
            "hub --help",
            "hub run -h",
            "hub register --help",
            "agent help",
            "demo help",
            "version --help",
            "hub --secret x --help",
        ] {
            let Err(Failure::Help(text)) = words(line) else { panic!("{line}") };
            assert!(text.starts_with("Usage: slime"), "{line}: {text}");
        }
    }

    #[test]
    fn help_tells_the_defaults_that_hold() {
        let Err(Failure::Help(text)) = words("hub run --help") else { panic!() };
        let config = crate::config::HubConfig::default();
        let defaults = [config.concurrent, config.queue_depth, config.max_clients, config.max_tunnels];
        let times = [
            ("10m", config.queue_timeout),
            ("5s", config.agent_grace),
            ("3s", config.startup_grace),
            ("10m", config.drain_timeout),
            ("5s", config.upgrade_drain),
            ("10s", config.limits.head),
            ("30s", config.limits.body),
            ("75s", config.limits.idle),
            ("60s", config.limits.stall),
            ("15s", config.limits.heartbeat),
        ];
        for number in defaults.into_iter().chain([usize::from(crate::config::DEFAULT_PORT)]) {
            assert!(text.contains(&format!("(default: {number})")), "{number}");
        }
        for (written, time) in times {
            assert_eq!(values::duration(written), Ok(time));
            assert!(text.contains(&format!("(default: {written})")), "{written}");
        }
    }

    #[test]
    fn wrong_usage_is_one_line_that_says_what_to_do() {
        assert_eq!(
            usage("", &[]),
            "a command is missing: hub, agent, demo, ready or version; see `slime --help`"
        );
        let line = usage("hub --port x", &[]);
        assert_eq!(
            line,
            "invalid value 'x' for --port: a port is a number up to 65535; see `slime hub run --help`"
        );
        let line = usage("hub", &[("SLIME_PORT", "x")]);
        assert!(line.starts_with("invalid value 'x' for SLIME_PORT: "), "{line}");
        assert!(usage("hub frob", &[]).contains("unknown command 'frob'"));
        assert!(usage("hub --port 1 --port 2", &[]).contains("--port is given twice"));
        assert!(usage("hub --heartbeat 0", &[]).contains("this is 50ms at least and 1d at most"));
    }
}
