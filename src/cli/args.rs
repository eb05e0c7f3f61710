//! The commands and their flags, as argh reads them.
//!
//! The flags of `hub` and `agent` stand in `hub_args` and `agent_args`. Together they are the one table of
//! flags: help, the normalised spellings and the environment variables in [`super::normalise`] follow from
//! it. Values that may hold a secret stay text here, because argh shows what it cannot parse; and nothing
//! here is ever printed field by field.

use core::time::Duration;

use argh::{ArgsInfo, FromArgs};

use super::agent_args::Agent;
use super::hub_args::Hub;
use super::values::{duration, port};

/// One address for many machines behind NAT: a hub takes HTTP requests and gives each to a free machine whose
/// agent dialled out to it.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    example = "slime demo\n\
               slime hub run --secret-file secret.txt\n\
               slime hub register --secret-file secret.txt --name gpu-1 --out token.txt\n\
               slime agent run --token-file token.txt --hub hub.example.org:8080 --upstream 127.0.0.1:11434",
    note = "`slime COMMAND --help` shows the flags of a command. Every flag can also be given as an environment variable (--num-worker \
            is SLIME_NUM_WORKER), and variables can be kept in a file (--env-file). A flag wins over its variable, a variable over the file, and the \
            file over a credential of systemd, which is a file in CREDENTIALS_DIRECTORY (slime_secret for --secret-file)."
)]
pub(super) struct Slime {
    #[argh(subcommand)]
    pub(super) command: Command,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
pub(super) enum Command {
    Hub(Hub),
    Agent(Agent),
    Demo(Demo),
    Ready(Ready),
    Version(Version),
    Completions(Completions),
}

/// try it: run a hub and an agent on this machine and send a request through them
#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "demo",
    usage = "[flags]",
    example = "{command_name}\n{command_name} --upstream 127.0.0.1:11434 --port 9000"
)]
pub(super) struct Demo {
    /// address of the service that answers (default: a small one of the demo's own)
    #[argh(option, arg_name = "address")]
    pub(super) upstream: Option<String>,

    /// port of the hub (default: 8080, or any free one)
    #[argh(option, arg_name = "port", from_str_fn(port))]
    pub(super) port: Option<u16>,
}

/// say whether a hub or an agent takes work: exit code 0 if it does, 1 if not
#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "ready",
    example = "{command_name}\n\
               {command_name} --admin 127.0.0.1:8081 --agents 2 --wait 30s\n\
               {command_name} --live",
    note = "A hub takes work until it is told to end, also without agents. An agent does if a tunnel stands and an upstream can be used. No \
            password is needed."
)]
pub(super) struct Ready {
    /// where it is asked: the --admin of the hub or agent (default: its unix socket, if it has one)
    #[argh(option, arg_name = "address")]
    pub(super) admin: Option<String>,

    /// so many agents of the hub must take work, too
    #[argh(option, arg_name = "n")]
    pub(super) agents: Option<u32>,

    /// ask until it is ready, for so long (default: once)
    #[argh(option, arg_name = "time", from_str_fn(duration))]
    pub(super) wait: Option<Duration>,

    /// ask only whether it is alive: it may be ending, or have no upstream
    #[argh(switch)]
    pub(super) live: bool,

    /// file of variables for these flags, such as SLIME_ADMIN=unix
    #[argh(option, arg_name = "file")]
    #[expect(dead_code, reason = "its variables have become flags before")]
    pub(super) env_file: Option<String>,
}

/// print the version
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "version")]
pub(super) struct Version {}

/// print a script by which a shell completes commands and flags
#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "completions",
    example = "{command_name} bash > ~/.local/share/bash-completion/completions/slime\n\
               {command_name} zsh > ~/.zfunc/_slime\n\
               {command_name} fish > ~/.config/fish/completions/slime.fish"
)]
pub(super) struct Completions {
    /// the shell: bash, zsh or fish
    #[argh(positional)]
    pub(super) shell: Option<String>,
}
