//! What hub and agent are told at their start: plain data, validated once by `cli`, obeyed by the core.
//!
//! All limits have their default and their reason here, and nowhere else.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use crate::proto::admin::machine::{Front, Machine};
use crate::proto::http1::cors::Origins;
use crate::proto::http1::url::{At, Scheme};
use crate::proto::info::Info;
use crate::proto::light;

/// The port that a hub listens on, and that an agent dials where the address of its hub names none.
pub const DEFAULT_PORT: u16 = 8080;
/// Requests in flight at an upstream: one, because most of the services behind agents do one job at a time.
pub const DEFAULT_WORKERS: u32 = 1;
/// How long a draining hub or agent waits for what it has: longer than most jobs.
pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(600);

/// The memory that bodies of waiting requests may take: sixty-four of the largest that are read before they
/// have a worker.
pub const DEFAULT_HOLD: u64 = 64 * 1024 * 1024;
/// The same on a machine with less memory than [`SMALL_MACHINE`].
pub const SMALL_HOLD: u64 = 4 * 1024 * 1024;
/// Less memory than this is a router's.
pub const SMALL_MACHINE: u64 = 256 * 1024 * 1024;
/// How long a draining hub or agent waits for upgraded connections: they are idle as a rule, have no end that
/// would come by itself, and whoever has one opens another.
pub const DEFAULT_UPGRADE_DRAIN: Duration = Duration::from_secs(5);

/// What a hub is told.
#[derive(Clone)]
pub struct HubConfig {
    /// What it is called in `Via`: a token that no other process has, so that a request that comes back is
    /// known.
    pub name: String,
    /// Exchanges that are active at once.
    pub concurrent: usize,
    /// Exchanges that wait for a worker.
    pub queue_depth: usize,
    /// The memory that bodies of waiting requests may take beyond their first 16 KiB, in bytes.
    pub hold: u64,
    /// How long an exchange waits when its request says nothing about it.
    pub queue_timeout: Duration,
    /// Connections of applications.
    pub max_clients: usize,
    /// Connections of agents.
    pub max_tunnels: usize,
    /// The largest request body in bytes; no limit if `None`.
    pub max_body: Option<u64>,
    /// What applications must present.
    pub app_password: Option<String>,
    /// The origins whose pages may use the hub; where there are none, upstreams speak of it themselves.
    pub cors: Option<Origins>,
    /// Whose forwarding fields are kept.
    pub trusted_proxies: Vec<Cidr>,
    /// The TLS port to which requests without TLS are sent on; they are served if `None`.
    pub redirect: Option<u16>,
    /// How long an agent that takes no work any more is taken for connected: it may be back before long.
    pub agent_grace: Duration,
    /// How long after its start a hub takes every agent for connected.
    pub startup_grace: Duration,
    /// How long a draining hub waits for what it has.
    pub drain_timeout: Duration,
    /// How long a draining hub or agent waits for upgraded connections.
    pub upgrade_drain: Duration,
    /// Time limits.
    pub limits: Limits,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            name: String::from("slime"),
            concurrent: 1024,
            queue_depth: 1024,
            hold: DEFAULT_HOLD,
            queue_timeout: Duration::from_secs(600),
            max_clients: 16_384,
            max_tunnels: 4096,
            max_body: None,
            app_password: None,
            cors: None,
            trusted_proxies: Vec::new(),
            redirect: None,
            agent_grace: Duration::from_secs(5),
            startup_grace: Duration::from_secs(3),
            drain_timeout: DEFAULT_DRAIN_TIMEOUT,
            upgrade_drain: DEFAULT_UPGRADE_DRAIN,
            limits: Limits::default(),
        }
    }
}

impl HubConfig {
    /// How many connections a hub takes beyond `max_clients`, as long as they have asked for nothing: agents
    /// come as clients do, and must be let in where every client waits for them.
    pub fn newcomers(&self) -> usize {
        (self.max_clients / 16).max(4)
    }

    /// How many requests may await their body at once. They are not in the queue yet, and keep nobody out of
    /// it.
    pub fn max_gathering(&self) -> usize {
        self.queue_depth + 64
    }
}

/// What the admin side of a hub or an agent is told.
#[derive(Clone, Default)]
pub struct AdminConfig {
    /// What whoever comes by TCP must present. Without one only this machine may ask.
    pub password: Option<String>,
    /// The same, for those who may only look.
    pub view_password: Option<String>,
    /// The status page, if there is one.
    pub page: Option<Page>,
    /// The number of the process.
    pub pid: Option<u32>,
    /// Drawn at the start: another run of the process has another one.
    pub instance: u32,
    /// What the machine is called, if it is known.
    pub host: Option<String>,
    /// What else is known of it.
    pub machine: Option<&'static dyn Machine>,
    /// How a hub is reached. None at an agent.
    pub front: Option<Front>,
}

/// A document for browsers, and what is said of it.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// The document, compressed by gzip.
    pub gzip: &'static [u8],
    /// Its `ETag`, with quotes.
    pub etag: &'static str,
    /// Its `Content-Security-Policy`.
    pub csp: &'static str,
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// Any address of the range.
    pub address: core::net::IpAddr,
    /// How many leading bits count.
    pub prefix: u8,
}

impl Cidr {
    /// Whether the address lies in the range. IPv4 and IPv6 ranges are apart.
    pub fn contains(&self, address: core::net::IpAddr) -> bool {
        use core::net::IpAddr::{V4, V6};
        match (self.address, address) {
            (V4(own), V4(other)) => {
                let shift = 32 - u32::from(self.prefix.min(32));
                (u64::from(own.to_bits()) >> shift) == (u64::from(other.to_bits()) >> shift)
            }
            (V6(own), V6(other)) => {
                let shift = 128 - u32::from(self.prefix.min(128));
                (own.to_bits().checked_shr(shift)) == (other.to_bits().checked_shr(shift))
            }
            (V4(_), V6(_)) | (V6(_), V4(_)) => false,
        }
    }
}

/// What an agent process is told: one hub, one agent for each upstream.
#[derive(Clone)]
pub struct AgentConfig {
    /// The token, as the hub printed it.
    pub token: String,
    /// What the hub is called in the log: its host and port.
    pub hub_name: String,
    /// The `Host` of the handshake: the hub's authority.
    pub hub_authority: String,
    /// What stands before `/.slime/tunnel` in the handshake's target; empty, or starts with a slash and does
    /// not end with one.
    pub hub_path: String,
    /// Ready-made `Authorization` value for a reverse proxy in front of the hub.
    pub hub_authorization: Option<String>,
    /// Whether the handshake is one of WebSocket from the first on. Else it is after refusals by those who
    /// pass nothing else.
    pub websocket: bool,
    /// The proxy that is dialled instead of the hub.
    pub proxy: Option<Proxy>,
    /// The upstreams, each served by its own agent.
    pub upstreams: Vec<Upstream>,
    /// Requests in flight at each upstream.
    pub workers: u32,
    /// Upgraded connections beside the workers, for each upstream.
    pub extra_upgrades: u32,
    /// Event streams and upgraded connections beside the workers, for each upstream. Zero: event streams are
    /// requests like others, and upgraded connections beyond `extra_upgrades` keep their workers.
    pub extra_streams: u32,
    /// Paths of requests that are served beside the workers, a few at a time. None: all requests are alike.
    pub light_paths: Vec<String>,
    /// Whether the application's `Host` reaches the upstream.
    pub preserve_host: bool,
    /// Fields that every upstream gets in place of the application's.
    pub upstream_fields: Vec<SetField>,
    /// What happens to an upstream's answer when its application has left.
    pub on_cancel: OnCancel,
    /// The target of health probes; without it a probe is a connection.
    pub health_path: Option<String>,
    /// How long a draining agent waits for what it has.
    pub drain_timeout: Duration,
    /// How long a draining hub or agent waits for upgraded connections.
    pub upgrade_drain: Duration,
    /// Time limits.
    pub limits: Limits,
}

impl AgentConfig {
    /// Workers that stand in for those that are lent to upgraded connections and streams, for each upstream.
    pub const fn extras(&self) -> u32 {
        self.extra_upgrades.saturating_add(self.extra_streams)
    }

    /// Tunnels that take requests for the light paths alone, for each upstream.
    pub const fn light_tunnels(&self) -> u32 {
        if self.light_paths.is_empty() { 0 } else { light::TUNNELS }
    }

    /// All tunnels that there may be for each upstream.
    pub const fn tunnels(&self) -> u32 {
        self.workers.saturating_add(self.extras()).saturating_add(self.light_tunnels())
    }
}

/// An HTTP proxy between agent and hub, which connects to the hub when it is asked to (RFC 9110 section
/// 9.3.6).
#[derive(Clone)]
pub struct Proxy {
    /// What it is called in the log.
    pub name: String,
    /// Host and port of the hub, as the proxy is told them.
    pub hub: String,
    /// Ready-made `Proxy-Authorization` value.
    pub authorization: Option<String>,
    /// Whether TLS with the hub begins once the proxy has connected.
    pub then_tls: bool,
}

impl Proxy {
    /// The request that makes it connect.
    pub fn request(&self) -> Vec<u8> {
        let Self { hub, authorization, .. } = self;
        let authorization =
            authorization.as_ref().map_or(String::new(), |value| format!("Proxy-Authorization: {value}\r\n"));
        format!("CONNECT {hub} HTTP/1.1\r\nHost: {hub}\r\n{authorization}\r\n").into_bytes()
    }
}

/// One upstream of an agent.
#[derive(Clone)]
pub struct Upstream {
    /// The id of its agent.
    pub agent_id: String,
    /// How it is reached.
    pub scheme: Scheme,
    /// What it is called in the log: its host and port.
    pub name: String,
    /// `host[:port]` as the `Host` field names it.
    pub authority: String,
    /// What stands before every target; empty, or starts with a slash and does not end with one.
    pub base_path: String,
    /// Ready-made `Authorization` value.
    pub authorization: Option<String>,
    /// What its agent says of itself.
    pub info: Info,
}

impl Upstream {
    /// Where it is.
    pub fn at(&self) -> At<'_> {
        At { scheme: self.scheme, authority: &self.authority, base_path: &self.base_path }
    }
}

/// A field of a request. Its value may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct SetField {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// What an agent does when the application leaves before the answer is complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnCancel {
    /// Closes the upstream connection: the service stops working on it.
    #[default]
    Close,
    /// Reads the answer to its end before the worker is free again, for services that cannot stop.
    Drain,
}

/// Time limits that hub and agent share.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A request head, from its first byte; a handshake; a connection attempt of a client that has sent
    /// nothing yet.
    pub head: Duration,
    /// A request body of known length that fits the hub's buffer, all of it.
    pub body: Duration,
    /// A client between two requests.
    pub idle: Duration,
    /// Without progress, while bytes are wanted from a peer or wait for it.
    pub stall: Duration,
    /// From the dispatch to the response head; none unless set.
    pub response: Option<Duration>,
    /// A tunnel idle for this long is asked for a sign of life; also the pace of the signs while a response
    /// is awaited.
    pub heartbeat: Duration,
    /// A connection that is being ended, for the remote side to take the rest.
    pub linger: Duration,
    /// Connecting and handshaking, at the agent.
    pub connect: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            body: Duration::from_secs(30),
            idle: Duration::from_secs(75),
            stall: Duration::from_secs(60),
            response: None,
            heartbeat: Duration::from_secs(15),
            linger: Duration::from_secs(5),
            connect: Duration::from_secs(5),
        }
    }
}

/// Configurations hold passwords and tokens, so none of them is ever printed field by field.
macro_rules! debug_without_secrets {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}

debug_without_secrets!(HubConfig, AdminConfig, AgentConfig, Proxy, SetField, Upstream);
