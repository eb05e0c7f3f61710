//! The commands and their flags, as argh reads them.
//!
//! This is the one table of flags: help, the normalised spellings and the environment variables in [`super::normalise`]
//! follow from it. Values that may hold a secret stay text here, because argh shows what it cannot parse; and
//! nothing here is ever printed field by field.

use core::time::Duration;

use argh::{ArgsInfo, FromArgs};
use log::LevelFilter;

use super::values::{age, connections, count, duration, level, on_cancel, port, positive, size, workers};
use crate::config::{DEFAULT_DRAIN_TIMEOUT, DEFAULT_PORT, DEFAULT_WORKERS, HubConfig, Limits, OnCancel};

/// One address for many machines behind NAT: a hub takes HTTP requests and gives each to a free machine whose agent dialled out to it.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    example = "slime demo\n\
               slime hub run --secret-file secret.txt\n\
               slime hub register --secret-file secret.txt --name gpu-1 > token.txt\n\
               slime agent run --token-file token.txt --hub hub.example.org:8080 --upstream 127.0.0.1:11434",
    note = "`slime COMMAND --help` shows the flags of a command. Every flag can be given as an environment variable, --num-worker \
            as SLIME_NUM_WORKER, and all variables in a file, --env-file. A flag comes before its variable, that before the file, and that before \
            a credential of systemd: a file that no flag names is slime_secret for --secret-file, in CREDENTIALS_DIRECTORY."
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
    Version(Version),
}

/// run a hub; make and read agent tokens
#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "hub",
    example = "{command_name} run --secret-file secret.txt --port 8080\n\
               {command_name} register --secret-file secret.txt --name gpu-1",
    note = "Without a command, the hub is run: `{command_name} run --help` shows its flags."
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

/// run an agent
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "agent")]
pub(super) struct Agent {
    #[argh(subcommand)]
    pub(super) command: AgentCommand,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
pub(super) enum AgentCommand {
    Run(AgentRun),
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
    /// the secret that agent tokens are made with; better: --secret-file
    #[argh(option, arg_name = "text")]
    pub(super) secret: Option<String>,

    /// a file that holds the secret
    #[argh(option, arg_name = "file")]
    pub(super) secret_file: Option<String>,

    /// the address to listen on, again for another one (all addresses)
    #[argh(option, arg_name = "address")]
    pub(super) host: Vec<String>,

    /// the port to listen on (8080)
    #[argh(option, arg_name = "port", default = "DEFAULT_PORT", from_str_fn(port))]
    pub(super) port: u16,

    /// a file of certificates in PEM, the hub's own first: TLS on --port, or on --tls-port if that is given
    #[argh(option, arg_name = "file")]
    pub(super) tls_cert: Option<String>,

    /// the file of the certificate's private key in PEM
    #[argh(option, arg_name = "file")]
    pub(super) tls_key: Option<String>,

    /// instead of both: a folder where the hub makes a certificate of its own and keeps it; agents know it by its pin
    #[argh(option, arg_name = "dir")]
    pub(super) tls_self_signed: Option<String>,

    /// the port to speak TLS on, while --port stays plain
    // argh has a variable `port` here.
    #[argh(option, arg_name = "port", from_str_fn(super::values::port))]
    pub(super) tls_port: Option<u16>,

    /// answer plain requests with a redirection to --tls-port
    #[argh(switch)]
    pub(super) tls_redirect: bool,

    /// requests in progress at once (1024)
    #[argh(option, arg_name = "n", default = "HubConfig::default().concurrent", from_str_fn(connections))]
    pub(super) concurrent: usize,

    /// requests that may wait for a worker (1024)
    #[argh(option, arg_name = "n", default = "HubConfig::default().queue_depth", from_str_fn(count))]
    pub(super) queue_depth: usize,

    /// how long a request waits for a worker (10m)
    #[argh(option, arg_name = "time", default = "HubConfig::default().queue_timeout", from_str_fn(duration))]
    pub(super) queue_timeout: Duration,

    /// connections of applications (16384)
    #[argh(option, arg_name = "n", default = "HubConfig::default().max_clients", from_str_fn(connections))]
    pub(super) max_clients: usize,

    /// connections of agents, one for each worker (4096)
    #[argh(option, arg_name = "n", default = "HubConfig::default().max_tunnels", from_str_fn(connections))]
    pub(super) max_tunnels: usize,

    /// the largest request body (no limit)
    #[argh(option, arg_name = "size", from_str_fn(size))]
    pub(super) max_body: Option<u64>,

    /// what applications must send as Slime-App-Password or bearer token; better: --app-password-file
    #[argh(option, arg_name = "text")]
    pub(super) app_password: Option<String>,

    /// a file that holds the app password
    #[argh(option, arg_name = "file")]
    pub(super) app_password_file: Option<String>,

    /// a file of the tokens that were taken back, read again on SIGHUP: ids, names, issued-before TIME
    #[argh(option, arg_name = "file")]
    pub(super) revoked: Option<String>,

    /// addresses of reverse proxies whose X-Forwarded fields are believed, as 10.0.0.0/8,::1 (none)
    #[argh(option, arg_name = "range")]
    pub(super) trusted_proxy: Vec<String>,

    /// how long after its start the hub takes every agent for connected (3s)
    #[argh(option, arg_name = "time", default = "HubConfig::default().startup_grace", from_str_fn(duration))]
    pub(super) startup_grace: Duration,

    /// how long requests in progress have to end after SIGTERM (10m)
    #[argh(option, arg_name = "time", default = "HubConfig::default().drain_timeout", from_str_fn(duration))]
    pub(super) drain_timeout: Duration,

    /// how long an upstream has for the beginning of its response (no limit)
    #[argh(option, arg_name = "time", from_str_fn(positive))]
    pub(super) response_timeout: Option<Duration>,

    /// how long a request head may take (10s)
    #[argh(option, arg_name = "time", default = "Limits::default().head", from_str_fn(positive))]
    pub(super) head_timeout: Duration,

    /// how long a small request body may take (30s)
    #[argh(option, arg_name = "time", default = "Limits::default().body", from_str_fn(positive))]
    pub(super) body_timeout: Duration,

    /// how long a connection is kept between two requests (75s)
    #[argh(option, arg_name = "time", default = "Limits::default().idle", from_str_fn(positive))]
    pub(super) idle_timeout: Duration,

    /// how long a transfer may stand still (60s)
    #[argh(option, arg_name = "time", default = "Limits::default().stall", from_str_fn(positive))]
    pub(super) stall_timeout: Duration,

    /// how long an agent may be silent before it is asked for a sign of life (15s)
    #[argh(option, arg_name = "time", default = "Limits::default().heartbeat", from_str_fn(positive))]
    pub(super) heartbeat: Duration,

    /// a file of the variables that these flags have, as SLIME_PORT=8080
    #[argh(option, arg_name = "file")]
    #[expect(dead_code, reason = "`normalise` reads it, before argh")]
    pub(super) env_file: Option<String>,

    /// error, warn, info or debug (info)
    #[argh(option, arg_name = "level", default = "LevelFilter::Info", from_str_fn(level))]
    pub(super) log_level: LevelFilter,
}

/// make a token for an agent and print it
#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "register",
    usage = "[flags]",
    example = "{command_name} --secret-file secret.txt > token.txt\n\
               {command_name} --secret-file secret.txt --name gpu-1 --age 30d --scopes gpu,llama3.1:8b --max-workers 4",
    note = "The token alone goes to the standard output, what it says to the standard error. The hub keeps no list of tokens."
)]
pub(super) struct HubRegister {
    /// the secret of the hub; better: --secret-file
    #[argh(option, arg_name = "text")]
    pub(super) secret: Option<String>,

    /// a file that holds the secret
    #[argh(option, arg_name = "file")]
    pub(super) secret_file: Option<String>,

    /// a name for people and for revoking (one is made up)
    #[argh(option, arg_name = "name")]
    pub(super) name: Option<String>,

    /// how long the token is good, as 1h2m3s or 30d (for ever)
    #[argh(option, arg_name = "time", from_str_fn(age))]
    pub(super) age: Option<Duration>,

    /// what requests may ask its agents for by Slime-Scope, as a,b
    #[argh(option, arg_name = "list")]
    pub(super) scopes: Vec<String>,

    /// the only paths that its agents serve, with all below them, as /v1,/api
    #[argh(option, arg_name = "list")]
    pub(super) scope_paths: Vec<String>,

    /// the most workers that its agents may have together (no limit)
    #[argh(option, arg_name = "n", from_str_fn(workers))]
    pub(super) max_workers: Option<u32>,

    /// a file of the variables that these flags have, as SLIME_PORT=8080
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
    /// the token; it is read from the standard input if absent
    #[argh(positional)]
    pub(super) token: Option<String>,

    /// the secret of the hub; better: --secret-file
    #[argh(option, arg_name = "text")]
    pub(super) secret: Option<String>,

    /// a file that holds the secret
    #[argh(option, arg_name = "file")]
    pub(super) secret_file: Option<String>,

    /// a file of the variables that these flags have, as SLIME_PORT=8080
    #[argh(option, arg_name = "file")]
    #[expect(dead_code, reason = "`normalise` reads it, before argh")]
    pub(super) env_file: Option<String>,
}

/// run an agent: fetch requests from a hub and have an upstream answer them
#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "run",
    usage = "[flags]",
    example = "{command_name} --token-file token.txt --hub hub.example.org --upstream 127.0.0.1:11434\n\
               {command_name} --token-file token.txt --hub https://hub.example.org/gpu --upstream http://10.0.0.7:8000/v1 --num-worker 4\n\
               SLIME_TOKEN=... {command_name} --hub [2001:db8::1]:8080 --upstream 127.0.0.1:8000,127.0.0.1:8001",
    note = "Addresses are host:port, [IPv6]:port or http[s]://[user:password@]host[:port][/path]. Without a port, --hub host means \
            port 8080, the hub's default; --upstream host, and http:// in both, mean port 80; https:// means port 443.\n\
            Durations are seconds (90, 1.5) or 1h2m3s, 250ms."
)]
pub(super) struct AgentRun {
    /// the token that `slime hub register` printed; better: --token-file
    #[argh(option, arg_name = "text")]
    pub(super) token: Option<String>,

    /// a file that holds the token
    #[argh(option, arg_name = "file")]
    pub(super) token_file: Option<String>,

    /// the address of the hub
    #[argh(option, arg_name = "address")]
    pub(super) hub: Option<String>,

    /// the address of the service that answers, with commas between several, each of which gets its own workers
    #[argh(option, arg_name = "address")]
    pub(super) upstream: Vec<String>,

    /// a file of the authorities, in PEM, one of which must have signed the certificate of an https:// hub (those of browsers)
    #[argh(option, arg_name = "file")]
    pub(super) hub_ca: Option<String>,

    /// the fingerprint of the certificate that an https:// hub must have, as the hub prints it: sha256:...
    #[argh(option, arg_name = "pin")]
    pub(super) hub_pin: Option<String>,

    /// the HTTP proxy on the way to the hub, as http://[user:password@]host:port, or none (HTTPS_PROXY, for an https:// hub)
    #[argh(option, arg_name = "address")]
    pub(super) proxy: Option<String>,

    /// as --hub-ca, for https:// upstreams
    #[argh(option, arg_name = "file")]
    pub(super) upstream_ca: Option<String>,

    /// requests in progress at once, for each upstream (1)
    #[argh(option, arg_name = "n", default = "DEFAULT_WORKERS", from_str_fn(workers))]
    pub(super) num_worker: u32,

    /// upgraded connections (WebSockets) beside the workers, for each upstream (0)
    #[argh(option, arg_name = "n", default = "0", from_str_fn(count))]
    pub(super) extra_upgrades: u32,

    /// how this agent is called in Slime-Agent-Id (random)
    #[argh(option, arg_name = "id")]
    pub(super) agent_id: Option<String>,

    /// let the Host field of the application reach the upstream
    #[argh(switch)]
    pub(super) preserve_host: bool,

    /// when an application leaves: close the upstream's connection at once, or drain its answer to the end (close)
    #[argh(option, arg_name = "how", default = "OnCancel::Close", from_str_fn(on_cancel))]
    pub(super) on_cancel: OnCancel,

    /// a path that the upstream answers when it is well (whether it can be connected to)
    #[argh(option, arg_name = "path")]
    pub(super) health_path: Option<String>,

    /// how long requests in progress have to end after SIGTERM (10m)
    #[argh(option, arg_name = "time", default = "DEFAULT_DRAIN_TIMEOUT", from_str_fn(duration))]
    pub(super) drain_timeout: Duration,

    /// how long connecting to hub or upstream may take (5s)
    #[argh(option, arg_name = "time", default = "Limits::default().connect", from_str_fn(positive))]
    pub(super) connect_timeout: Duration,

    /// how long a request head may take (10s)
    #[argh(option, arg_name = "time", default = "Limits::default().head", from_str_fn(positive))]
    pub(super) head_timeout: Duration,

    /// how long a transfer may stand still (60s)
    #[argh(option, arg_name = "time", default = "Limits::default().stall", from_str_fn(positive))]
    pub(super) stall_timeout: Duration,

    /// a file of the variables that these flags have, as SLIME_PORT=8080
    #[argh(option, arg_name = "file")]
    #[expect(dead_code, reason = "`normalise` reads it, before argh")]
    pub(super) env_file: Option<String>,

    /// error, warn, info or debug (info)
    #[argh(option, arg_name = "level", default = "LevelFilter::Info", from_str_fn(level))]
    pub(super) log_level: LevelFilter,
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
    /// the service that answers (a small one of the demo's own)
    #[argh(option, arg_name = "address")]
    pub(super) upstream: Option<String>,

    /// the port of the hub (8080, or any free one)
    #[argh(option, arg_name = "port", from_str_fn(port))]
    pub(super) port: Option<u16>,
}

/// print the version
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "version")]
pub(super) struct Version {}
