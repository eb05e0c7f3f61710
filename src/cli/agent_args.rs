//! The commands of `slime agent` and their flags.

use core::time::Duration;

use argh::{ArgsInfo, FromArgs};
use log::LevelFilter;

use super::values::{count, duration, level, note, on_cancel, positive, workers};
use crate::config::{DEFAULT_DRAIN_TIMEOUT, DEFAULT_UPGRADE_DRAIN, DEFAULT_WORKERS, Limits, OnCancel};

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
    /// token that `slime hub register` printed (better: --token-file)
    #[argh(option, arg_name = "text")]
    pub(super) token: Option<String>,

    /// file that holds the token
    #[argh(option, arg_name = "file")]
    pub(super) token_file: Option<String>,

    /// address of the hub
    #[argh(option, arg_name = "address")]
    pub(super) hub: Option<String>,

    /// address of the service that answers (may be repeated; each gets its own workers)
    #[argh(option, arg_name = "address")]
    pub(super) upstream: Vec<String>,

    /// file of the certificates, in PEM, that an https:// hub is checked against: CAs, or its own (default:
    /// the CAs that browsers trust)
    #[argh(option, arg_name = "file")]
    pub(super) hub_ca: Option<String>,

    /// fingerprint of the certificate that an https:// hub must have; the hub prints it: sha256:...
    #[argh(option, arg_name = "pin")]
    pub(super) hub_pin: Option<String>,

    /// HTTP proxy on the way to the hub, http://[user:password@]host:port or none (default: HTTPS_PROXY, for
    /// an https:// hub)
    #[argh(option, arg_name = "address")]
    pub(super) proxy: Option<String>,

    /// join the hub by a WebSocket handshake at once (default: only once what is before the hub has refused
    /// another one)
    #[argh(switch)]
    pub(super) websocket: bool,

    /// the same as --hub-ca, for https:// upstreams
    #[argh(option, arg_name = "file")]
    pub(super) upstream_ca: Option<String>,

    /// file of fields that every upstream gets in place of the application's, one a line: Authorization:
    /// Bearer ...
    #[argh(option, arg_name = "file")]
    pub(super) upstream_header_file: Option<String>,

    /// fingerprint of the certificate that https:// upstreams must have: sha256:... (may be repeated)
    #[argh(option, arg_name = "pin")]
    pub(super) upstream_pin: Vec<String>,

    /// requests in progress at once, for each upstream (default: 1)
    #[argh(option, arg_name = "n", default = "DEFAULT_WORKERS", from_str_fn(workers))]
    pub(super) num_worker: u32,

    /// upgraded connections (WebSockets) beside the workers, for each upstream (default: 0)
    #[argh(option, arg_name = "n", default = "0", from_str_fn(count))]
    pub(super) extra_upgrades: u32,

    /// event streams and WebSockets beside the workers, for each upstream; those beyond get 503 (default: 0,
    /// which tells no event stream from other requests)
    #[argh(option, arg_name = "n", default = "0", from_str_fn(count))]
    pub(super) extra_streams: u32,

    /// paths of small questions, with everything below them, that are served beside the workers, such as
    /// /v1/models,/health (default: none)
    #[argh(option, arg_name = "list")]
    pub(super) light_paths: Vec<String>,

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

    /// name of this agent in Slime-Agent-Id (default: random)
    #[argh(option, arg_name = "id")]
    pub(super) agent_id: Option<String>,

    /// what the hub's status page says of this agent, such as where its machine stands; at most 128 bytes
    /// (default: nothing)
    #[argh(option, arg_name = "text", from_str_fn(note))]
    pub(super) note: Option<String>,

    /// pass the application's Host field on to the upstream, and leave Origin, Referer and Location alone
    #[argh(switch)]
    pub(super) preserve_host: bool,

    /// when an application leaves: close the upstream's connection, or drain its answer to the end (default:
    /// close)
    #[argh(option, arg_name = "how", default = "OnCancel::Close", from_str_fn(on_cancel))]
    pub(super) on_cancel: OnCancel,

    /// path that the upstream answers with a status below 500 when it is well (default: only connect to it)
    #[argh(option, arg_name = "path")]
    pub(super) health_path: Option<String>,

    /// how long requests in progress may take to finish after SIGTERM (default: 10m)
    #[argh(option, arg_name = "time", default = "DEFAULT_DRAIN_TIMEOUT", from_str_fn(duration))]
    pub(super) drain_timeout: Duration,

    /// how long upgraded connections (WebSockets) may take to end after SIGTERM (default: 5s)
    #[argh(option, arg_name = "time", default = "DEFAULT_UPGRADE_DRAIN", from_str_fn(duration))]
    pub(super) upgrade_drain: Duration,

    /// how long connecting to the hub or an upstream may take (default: 5s)
    #[argh(option, arg_name = "time", default = "Limits::default().connect", from_str_fn(positive))]
    pub(super) connect_timeout: Duration,

    /// how long the head of a response may take to arrive, once it has begun (default: 10s)
    #[argh(option, arg_name = "time", default = "Limits::default().head", from_str_fn(positive))]
    pub(super) head_timeout: Duration,

    /// how long a transfer may stall (default: 60s)
    #[argh(option, arg_name = "time", default = "Limits::default().stall", from_str_fn(positive))]
    pub(super) stall_timeout: Duration,

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
