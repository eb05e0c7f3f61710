//! The commands of `slime hub` and their flags.

use core::time::Duration;

use argh::{ArgsInfo, FromArgs};
use log::LevelFilter;

use super::values::{age, connections, count, duration, level, pace, port, positive, size, workers};
use crate::config::{DEFAULT_PORT, DEFAULT_UPGRADE_DRAIN, HubConfig, Limits};

/// run a hub; make and read agent tokens
#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "hub",
    example = "{command_name} run --secret-file secret.txt --port 8080\n\
               {command_name} register --secret-file secret.txt --name gpu-1"
)]
pub(super) struct Hub {
    #[argh(subcommand)]
    pub(super) command: HubCommand,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
pub(super) enum HubCommand {
    Run(HubRun),
    Register(HubRegister),
    Inspect(HubInspect),
}

/// run a hub: take requests of applications and give them to the agents that are connected
#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "run",
    usage = "[flags]",
    example = "{command_name} --secret-file secret.txt\n\
               {command_name} --secret-file secret.txt --host 127.0.0.1 --port 9000 --log-level debug\n\
               SLIME_SECRET=... {command_name} --concurrent 64 --queue-timeout 2m",
    note = "Durations are seconds (90, 1.5) or 1h2m3s, 250ms; sizes are bytes or 64k, 10m, 1g."
)]
pub(super) struct HubRun {
    /// secret that agent tokens are made with (better: --secret-file)
    #[argh(option, arg_name = "text")]
    pub(super) secret: Option<String>,

    /// file that holds the secret
    #[argh(option, arg_name = "file")]
    pub(super) secret_file: Option<String>,

    /// address to listen on (may be repeated; default: all addresses)
    #[argh(option, arg_name = "address")]
    pub(super) host: Vec<String>,

    /// port to listen on (default: 8080)
    #[argh(option, arg_name = "port", default = "DEFAULT_PORT", from_str_fn(port))]
    pub(super) port: u16,

    /// file of certificates in PEM, the hub's own first; makes --port, or --tls-port if given, speak TLS
    #[argh(option, arg_name = "file")]
    pub(super) tls_cert: Option<String>,

    /// file of the certificate's private key in PEM
    #[argh(option, arg_name = "file")]
    pub(super) tls_key: Option<String>,

    /// instead of both: folder where the hub makes and keeps a certificate of its own; agents recognise it by
    /// its pin
    #[argh(option, arg_name = "dir")]
    pub(super) tls_self_signed: Option<String>,

    /// port for TLS, while --port stays plain
    // argh has a variable `port` here.
    #[argh(option, arg_name = "port", from_str_fn(super::values::port))]
    pub(super) tls_port: Option<u16>,

    /// redirect plain requests to --tls-port
    #[argh(switch)]
    pub(super) tls_redirect: bool,

    /// most requests in progress at once (default: 1024)
    #[argh(option, arg_name = "n", default = "HubConfig::default().concurrent", from_str_fn(connections))]
    pub(super) concurrent: usize,

    /// most requests that wait for a worker (default: 1024)
    #[argh(option, arg_name = "n", default = "HubConfig::default().queue_depth", from_str_fn(count))]
    pub(super) queue_depth: usize,

    /// most memory for request bodies that wait for a worker (default: 64m; 4m on machines with less than
    /// 256m of memory)
    #[argh(option, arg_name = "size", from_str_fn(size))]
    pub(super) hold: Option<u64>,

    /// how long a request waits for a worker (default: 10m)
    #[argh(option, arg_name = "time", default = "HubConfig::default().queue_timeout", from_str_fn(duration))]
    pub(super) queue_timeout: Duration,

    /// most connections of applications (default: 16384)
    #[argh(option, arg_name = "n", default = "HubConfig::default().max_clients", from_str_fn(connections))]
    pub(super) max_clients: usize,

    /// most connections of agents, one for each worker (default: 4096)
    #[argh(option, arg_name = "n", default = "HubConfig::default().max_tunnels", from_str_fn(connections))]
    pub(super) max_tunnels: usize,

    /// largest request body (default: no limit)
    #[argh(option, arg_name = "size", from_str_fn(size))]
    pub(super) max_body: Option<u64>,

    /// password that applications must send, as their API key (better: --app-password-file)
    #[argh(option, arg_name = "text")]
    pub(super) app_password: Option<String>,

    /// file that holds the app password
    #[argh(option, arg_name = "file")]
    pub(super) app_password_file: Option<String>,

    /// origins whose pages may use the hub from a browser, scheme://host[:port], or '*' (default: none)
    #[argh(option, arg_name = "origin")]
    pub(super) cors: Vec<String>,

    /// file of revoked tokens, read again on SIGHUP: ids, names, issued-before TIME
    #[argh(option, arg_name = "file")]
    pub(super) revoked: Option<String>,

    /// where to serve health, readiness and metrics: a port of this machine, HOST:PORT, https://HOST:PORT,
    /// unix:PATH or unix (may be repeated; default: nowhere)
    #[argh(option, arg_name = "address")]
    pub(super) admin: Vec<String>,

    /// password for --admin, needed beyond this machine (better: --admin-password-file)
    #[argh(option, arg_name = "text")]
    pub(super) admin_password: Option<String>,

    /// file that holds the password for --admin
    #[argh(option, arg_name = "file")]
    pub(super) admin_password_file: Option<String>,

    /// password for those who may only look (better: --admin-view-password-file)
    #[argh(option, arg_name = "text")]
    pub(super) admin_view_password: Option<String>,

    /// file that holds the password for those who may only look
    #[argh(option, arg_name = "file")]
    pub(super) admin_view_password_file: Option<String>,

    /// reverse proxies whose X-Forwarded fields are believed, such as 10.0.0.0/8,::1 (default: none)
    #[argh(option, arg_name = "range")]
    pub(super) trusted_proxy: Vec<String>,

    /// how long an agent that left, or whose upstream is down, counts as connected (default: 5s)
    #[argh(option, arg_name = "time", default = "HubConfig::default().agent_grace", from_str_fn(duration))]
    pub(super) agent_grace: Duration,

    /// how long after its start the hub treats every agent as connected (default: 3s)
    #[argh(option, arg_name = "time", default = "HubConfig::default().startup_grace", from_str_fn(duration))]
    pub(super) startup_grace: Duration,

    /// how long after SIGTERM all goes on as before, while /readyz says no (default: 0)
    #[argh(option, arg_name = "time", default = "Duration::ZERO", from_str_fn(duration))]
    pub(super) drain_delay: Duration,

    /// how long requests in progress may take to finish after SIGTERM (default: 10m)
    #[argh(option, arg_name = "time", default = "HubConfig::default().drain_timeout", from_str_fn(duration))]
    pub(super) drain_timeout: Duration,

    /// how long upgraded connections (WebSockets) may take to end after SIGTERM (default: 5s)
    #[argh(option, arg_name = "time", default = "DEFAULT_UPGRADE_DRAIN", from_str_fn(duration))]
    pub(super) upgrade_drain: Duration,

    /// how long an upstream may take to begin its response (default: no limit)
    #[argh(option, arg_name = "time", from_str_fn(positive))]
    pub(super) response_timeout: Option<Duration>,

    /// how long a request head may take to arrive (default: 10s)
    #[argh(option, arg_name = "time", default = "Limits::default().head", from_str_fn(positive))]
    pub(super) head_timeout: Duration,

    /// how long the first 16 KiB of a request body may take to arrive (default: 30s)
    #[argh(option, arg_name = "time", default = "Limits::default().body", from_str_fn(positive))]
    pub(super) body_timeout: Duration,

    /// how long an idle connection is kept between two requests (default: 75s)
    #[argh(option, arg_name = "time", default = "Limits::default().idle", from_str_fn(positive))]
    pub(super) idle_timeout: Duration,

    /// how long a transfer may stall (default: 60s)
    #[argh(option, arg_name = "time", default = "Limits::default().stall", from_str_fn(positive))]
    pub(super) stall_timeout: Duration,

    /// how long an agent may be silent before it is asked whether it is there (default: 15s)
    #[argh(option, arg_name = "time", default = "Limits::default().heartbeat", from_str_fn(pace))]
    pub(super) heartbeat: Duration,

    /// file of variables for these flags, such as SLIME_PORT=8080
    #[argh(option, arg_name = "file")]
    #[expect(dead_code, reason = "`normalise` reads it, before argh")]
    pub(super) env_file: Option<String>,

    /// error, warn, info or debug (default: info)
    #[argh(option, arg_name = "level", default = "LevelFilter::Info", from_str_fn(level))]
    pub(super) log_level: LevelFilter,

    /// send the log to syslog at /dev/log, each line with its priority, instead of to the standard error
    #[argh(switch)]
    pub(super) syslog: bool,

    /// check flags and files, then exit: with 0 if they can be used
    #[argh(switch)]
    pub(super) check: bool,
}

/// make a token for an agent and print it
#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "register",
    usage = "[flags]",
    example = "{command_name} --secret-file secret.txt --out token.txt\n\
               {command_name} --secret-file secret.txt --name gpu-1 --age 30d --scopes gpu,llama3.1:8b --max-workers 4",
    note = "The token goes to the standard output or the file of --out, and what it says to the standard error. The hub keeps no list of tokens."
)]
pub(super) struct HubRegister {
    /// secret of the hub (better: --secret-file)
    #[argh(option, arg_name = "text")]
    pub(super) secret: Option<String>,

    /// file that holds the secret
    #[argh(option, arg_name = "file")]
    pub(super) secret_file: Option<String>,

    /// name of the token, for people and for revoking it (default: generated)
    #[argh(option, arg_name = "name")]
    pub(super) name: Option<String>,

    /// new file to write the token to, readable only by its owner (default: the standard output)
    #[argh(option, arg_name = "file")]
    pub(super) out: Option<String>,

    /// how long the token is good, such as 1h2m3s or 30d (default: never expires)
    #[argh(option, arg_name = "time", from_str_fn(age))]
    pub(super) age: Option<Duration>,

    /// scopes that requests may ask for with Slime-Scope, such as a,b
    #[argh(option, arg_name = "list")]
    pub(super) scopes: Vec<String>,

    /// the only paths that its agents serve, with everything below them, such as /v1,/api
    #[argh(option, arg_name = "list")]
    pub(super) scope_paths: Vec<String>,

    /// most workers that its agents may have together (default: no limit)
    #[argh(option, arg_name = "n", from_str_fn(workers))]
    pub(super) max_workers: Option<u32>,

    /// address of the hub, for the command that runs the agent
    #[argh(option, arg_name = "address")]
    pub(super) hub: Option<String>,

    /// folder of the hub's own certificate, whose pin that command then has
    #[argh(option, arg_name = "dir")]
    pub(super) tls_self_signed: Option<String>,

    /// file of variables for these flags, such as SLIME_PORT=8080
    #[argh(option, arg_name = "file")]
    #[expect(dead_code, reason = "`normalise` reads it, before argh")]
    pub(super) env_file: Option<String>,
}

/// show what an agent token says
#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "inspect",
    usage = "[token] [flags]",
    example = "{command_name} slime1_... --secret-file secret.txt\n\
               {command_name} --secret-file secret.txt < token.txt"
)]
pub(super) struct HubInspect {
    /// the token (default: read from the standard input)
    #[argh(positional)]
    pub(super) token: Option<String>,

    /// secret of the hub (better: --secret-file)
    #[argh(option, arg_name = "text")]
    pub(super) secret: Option<String>,

    /// file that holds the secret
    #[argh(option, arg_name = "file")]
    pub(super) secret_file: Option<String>,

    /// file of variables for these flags, such as SLIME_PORT=8080
    #[argh(option, arg_name = "file")]
    #[expect(dead_code, reason = "`normalise` reads it, before argh")]
    pub(super) env_file: Option<String>,
}

/// A command line of `slime hub`, with these variables in the environment.
#[cfg(test)]
pub(super) fn parse(line: &str, environment: &[(&str, &str)]) -> (HubCommand, super::normalise::Normalised) {
    use super::args::Command;

    let args = line.split_whitespace().map(String::from).collect();
    let environment =
        |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
    match super::parse_words(args, environment) {
        Ok((slime, given)) => match slime.command {
            Command::Hub(hub) => (hub.command, given),
            Command::Agent(_)
            | Command::Demo(_)
            | Command::Ready(_)
            | Command::Version(_)
            | Command::Completions(_) => {
                panic!("{line}")
            }
        },
        Err(failure) => panic!("{line}: {failure:?}"),
    }
}
