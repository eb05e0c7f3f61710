//! The two long-running commands: what they need, and how they are run to their end.

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::ToSocketAddrs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use log::{Level, error, info, log, warn};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

use super::Net;
pub use super::shell::Endpoint;
use super::shell::{DialTls, Entrance, LISTENER_TOKENS, Shell, Targets, Use};
use super::sys::notify::Notifier;
use super::sys::{self, Listener, Sys};
use super::tls::{self, Pin, Trust};
use crate::config::{AdminConfig, AgentConfig, HubConfig};
use crate::proto::agent::Agent;
use crate::proto::hub::Hub;
use crate::proto::node::{Node, Role};
use crate::proto::seam::Target;
use crate::proto::trust::agent_token::TokenKey;
use crate::proto::trust::revocation::Revocations;

/// What a hub needs beside its configuration.
#[derive(Debug)]
pub struct HubOptions {
    /// Where to listen, one at least.
    pub listen: Vec<Listen>,
    /// What the core obeys.
    pub config: HubConfig,
    /// Opens agent tokens.
    pub token_key: TokenKey,
    /// What is to be said of the secret, if it is not a good one.
    pub weakness: Option<&'static str>,
    /// The file of the tokens that were taken back.
    pub revoked: Option<String>,
    /// What listeners that speak TLS show.
    pub tls: Option<TlsFiles>,
    /// Where it can be asked about itself.
    pub admin: AdminOptions,
    /// How long after the first `SIGTERM` everything goes on as before, though `/readyz` says no.
    pub drain_delay: Duration,
}

/// Where a process can be asked about itself, and by whom.
#[derive(Debug)]
pub struct AdminOptions {
    /// Where to listen; nowhere unless the operator says it.
    pub listen: Vec<AdminListen>,
    /// What the admin side obeys.
    pub config: AdminConfig,
}

/// An address of the admin side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminListen {
    /// On a port.
    Tcp {
        /// As [`Listen::host`]; the loopback addresses of both families, if `None`.
        host: Option<String>,
        /// As [`Listen::port`].
        port: u16,
        /// Whether TLS is spoken there, with the certificate of the hub.
        is_tls: bool,
    },
    /// On a unix socket, which nobody but the user of the process can open.
    Unix {
        /// Its file.
        path: PathBuf,
        /// Whether its folder is made, if it is not there.
        makes_folder: bool,
    },
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those that lead to its authority.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// Nobody but us knows the certificate, so that agents need its pin.
    pub is_own: bool,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// A name or an IP address (without brackets); all addresses of the machine, if `None`.
    pub host: Option<String>,
    /// The port; 0 for one that the system chooses.
    pub port: u16,
    /// Whether TLS is spoken there.
    pub is_tls: bool,
}

/// What an agent process needs beside its configuration.
#[derive(Debug)]
pub struct AgentOptions {
    /// The hub.
    pub hub: Destination,
    /// What is dialled instead of the hub: the proxy of [`AgentConfig::proxy`].
    pub proxy: Option<Endpoint>,
    /// The upstreams, in the order of [`AgentConfig::upstreams`].
    pub upstreams: Vec<Destination>,
    /// What the core obeys.
    pub config: AgentConfig,
    /// Where it can be asked about itself.
    pub admin: AdminOptions,
}

/// Where an agent connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The address.
    pub endpoint: Endpoint,
    /// Whom to trust there. Plain TCP, if `None`.
    pub trust: Option<Trust>,
}

/// Descriptors beside those of clients, tunnels and upstreams: those of 32 pipes (`pipes.rs`), the standard
/// ones, listeners, epoll, signals, name lookup, files, and connections that are being ended.
const RESERVED_FILES: usize = 128;
/// Sessions that are remembered of a destination: as many as rustls keeps tickets of one server.
const MAX_SESSIONS: usize = 8;
/// The largest file of revocations, in bytes: some 30,000 tokens, which a router still reads in no time.
const MAX_REVOCATIONS_BYTES: u64 = 1 << 20;

/// Runs a hub until it is told to end. The exit code of the process.
///
/// # Errors
/// No address to listen on could be bound, the certificate or the revocations could not be read, or waiting
/// for events failed.
pub fn run_hub(options: HubOptions) -> io::Result<u8> {
    let HubOptions { listen, mut config, token_key, weakness, revoked, tls, admin, drain_delay } = options;
    let revocations = revoked.as_deref().map(read_revocations).transpose()?;
    let lowered = fit_hub(&mut config, sys::raise_nofile);
    let mut sys = Sys::new()?;
    sys.watch_signals()?;
    let mut name = [0; 4];
    sys::random(&mut name)?;
    config.name = format!("{}.{:08x}", config.name, u32::from_ne_bytes(name));
    let offer = tls.as_ref().map(|files| files.load(sys.now().unix)).transpose()?;
    let (mut plain, mut secure) = (Vec::new(), Vec::new());
    // The tokens of listeners are counted: the plain ones come first.
    let (with_tls, without): (Vec<_>, Vec<_>) = listen.iter().partition(|listen| listen.is_tls);
    for listen in without {
        plain.append(&mut listen_on(&mut sys, listen, plain.len(), ANYWHERE)?);
    }
    for listen in with_tls {
        secure.append(&mut listen_on(&mut sys, listen, plain.len() + secure.len(), ANYWHERE)?);
    }
    let entrances = listen_for_admin(&mut sys, &admin, plain.len() + secure.len())?;
    let mut beyond_loopback = false;
    for (listeners, with) in [(&plain, ""), (&secure, " with TLS")] {
        for listener in listeners {
            let address = listener.local_addr()?;
            beyond_loopback |= !address.ip().is_loopback();
            info!("listening on {address}{with}");
        }
    }
    if let (Some((_, pin)), Some(listener)) = (&offer, secure.first()) {
        info!("the pin of the certificate: agents that do not trust its issuer need --hub-pin {pin}");
        if tls.as_ref().is_some_and(|tls| tls.is_own) {
            // The address that was asked for, if it was, else this machine's name.
            let address = listener.local_addr()?;
            let authority = if address.ip().is_unspecified() {
                format!("{}:{}", host_name().unwrap_or_else(|| "HOST".to_owned()), address.port())
            } else {
                address.to_string()
            };
            info!(
                "agents join with: slime agent --hub https://{authority} --hub-pin {pin} --token-file token.txt --upstream ADDRESS"
            );
        }
    }
    if beyond_loopback && config.app_password.is_none() {
        warn!(
            "there is no app password: anyone who can reach this hub can use its agents; set one with --app-password-file, \
             or listen on --host 127.0.0.1"
        );
    }
    if let Some(weakness) = weakness {
        warn!("{weakness}");
    }
    if let Some((level, line)) = lowered {
        log!(level, "{line}");
    }
    let mut core = Hub::new(config, token_key, sys.now());
    if let Some(revocations) = revocations {
        core.set_revocations(revocations, sys.now());
    }
    let node = node(Role::Hub(core), &admin, &mut sys).draining_after(drain_delay);
    let mut shell = Shell::new(node, sys, plain, Targets::default());
    if let Some((offer, _)) = offer {
        shell.add_tls_listeners(secure, offer);
    }
    for (listener, entrance) in entrances {
        shell.add_listener(listener, entrance);
    }
    shell.on_reload(Box::new(move |node, offer, now| {
        if let (Role::Hub(hub), Some(path)) = (node.role_mut(), &revoked) {
            match read_revocations(path) {
                Ok(revocations) => {
                    info!("{path} was read again, rules: {}", revocations.count());
                    hub.set_revocations(revocations, now);
                }
                Err(error) => error!("{error}; the previous rules stay in force"),
            }
        }
        match tls.as_ref().map(|files| files.load(now.unix)) {
            Some(Ok((new, pin))) => {
                info!("the certificate was read again; its pin is {pin}");
                *offer = Some(new);
            }
            Some(Err(error)) => error!("{error}; the previous certificate stays in force"),
            None => {}
        }
        let read = match (revoked.is_some(), tls.is_some()) {
            (true, true) => "revocations and the certificate",
            (true, false) => "revocations",
            (false, true) => "the certificate",
            (false, false) => "nothing here, as there is neither --revoked nor TLS",
        };
        info!("SIGHUP reloads {read}; new flags, secrets and passwords need a restart");
    }));
    run(shell)
}

/// Runs the agents until they are told to end. The exit code of the process.
///
/// # Errors
/// An authority's file could not be read, or waiting for events failed.
pub fn run_agent(options: AgentOptions) -> io::Result<u8> {
    let AgentOptions { hub, proxy, upstreams, mut config, admin } = options;
    fit_agent(&mut config, sys::raise_nofile);
    let mut sys = Sys::new()?;
    sys.watch_signals()?;
    let mut seed = [0; 8];
    sys::random(&mut seed)?;
    let secured = dial_tls(&hub, &upstreams)?;
    let core = Agent::new(config, u64::from_ne_bytes(seed), sys.now());
    let upstreams = upstreams.into_iter().map(|upstream| upstream.endpoint).collect();
    let has_proxy = proxy.is_some();
    let targets = Targets { hub: Some(proxy.unwrap_or(hub.endpoint)), upstreams };
    let entrances = listen_for_admin(&mut sys, &admin, 0)?;
    let node = node(Role::Agent(core), &admin, &mut sys);
    let mut shell = Shell::new(node, sys, Vec::new(), targets);
    for (listener, entrance) in entrances {
        shell.add_listener(listener, entrance);
    }
    for (target, mut tls) in secured {
        tls.is_later = target == Target::Hub && has_proxy;
        shell.dial_by_tls(target, tls);
    }
    shell.on_reload(Box::new(|_, _, _| {
        info!("SIGHUP reloads nothing in an agent: new flags, tokens and certificates need a restart");
    }));
    run(shell)
}

/// Reads what [`run_hub`] would read, and does nothing else.
///
/// # Errors
/// The certificate or the revocations cannot be read.
pub fn check_hub(options: &HubOptions, unix: u64) -> io::Result<()> {
    options.revoked.as_deref().map(read_revocations).transpose()?;
    options.tls.as_ref().map(|files| files.load(unix)).transpose()?;
    Ok(())
}

/// As [`check_hub`], for an agent.
///
/// # Errors
/// An authority's file cannot be read.
pub fn check_agent(options: &AgentOptions) -> io::Result<()> {
    dial_tls(&options.hub, &options.upstreams).map(drop)
}

fn run(mut shell: Shell<Node, Sys>) -> io::Result<u8> {
    if let Some(notifier) = Notifier::from_environment(|name| std::env::var_os(name), std::process::id()) {
        shell.notify_by(notifier);
    }
    shell.run()
}

/// A process with an admin side, if somebody can ask it.
fn node(role: Role, admin: &AdminOptions, sys: &mut Sys) -> Node {
    let node = Node::new(role);
    if admin.listen.is_empty() { node } else { node.with_admin(&admin.config, sys.now()) }
}

/// What this machine is called.
pub fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

impl TlsFiles {
    fn load(&self, unix: u64) -> io::Result<(Arc<ServerConfig>, Pin)> {
        tls::server_config(&self.certificate, &self.key, unix).map_err(io::Error::other)
    }
}

/// How the destinations that have TLS are dialled.
fn dial_tls(hub: &Destination, upstreams: &[Destination]) -> io::Result<Vec<(Target, DialTls)>> {
    let targets = (0..).map(Target::Upstream).zip(upstreams);
    let mut configs: Vec<(&Trust, ClientConfig)> = Vec::new();
    let mut all = Vec::new();
    for (target, Destination { endpoint, trust }) in core::iter::once((Target::Hub, hub)).chain(targets) {
        let Some(trust) = trust else { continue };
        let known = configs.iter().find(|(known, _)| *known == trust).map(|(_, config)| config.clone());
        let mut config = match known {
            Some(config) => config,
            None => {
                let config = tls::client_config(trust).map_err(io::Error::other)?;
                configs.push((trust, config.clone()));
                config
            }
        };
        // Each has its own: rustls tells sessions apart by name, and two services may have one name and two
        // ports.
        config.resumption = Resumption::in_memory_sessions(MAX_SESSIONS);
        let config = Arc::new(config);
        let name = ServerName::try_from(endpoint.host.clone())
            .map_err(|_| io::Error::other(format!("no certificate can have the name {}", endpoint.host)))?;
        let whom = format!("{}:{}", endpoint.host, endpoint.port);
        all.push((target, DialTls { config, name, whom, is_later: false }));
    }
    Ok(all)
}

/// Lowers the caps to what the process has descriptors for. What is to be said then.
fn fit_hub(config: &mut HubConfig, raise: impl FnOnce(u64) -> u64) -> Option<(Level, String)> {
    let HubConfig { max_clients, max_tunnels, .. } = *config;
    let wanted = max_clients + config.newcomers() + max_tunnels + RESERVED_FILES;
    let (got, left) = fall_short(wanted, raise)?;
    // Who asked for more than there is should hear of it; the defaults are only meant to be enough.
    let default = HubConfig::default();
    let is_asked = (max_clients, max_tunnels) != (default.max_clients, default.max_tunnels);
    let level = if is_asked { Level::Warn } else { Level::Info };
    // Each keeps its share.
    config.max_tunnels = (left * max_tunnels / (max_clients + max_tunnels)).clamp(1, max_tunnels);
    let left = left.saturating_sub(config.max_tunnels);
    // The newcomers' share is a sixteenth of the others'.
    config.max_clients = (left * 16 / 17).min(left.saturating_sub(4)).clamp(1, max_clients);
    let line = format!(
        "only {got} files can be open, and --max-clients {max_clients} with --max-tunnels {max_tunnels} needs {wanted}: the limits \
         are now {} clients and {} tunnels; {}",
        config.max_clients,
        config.max_tunnels,
        how_to_raise(wanted)
    );
    Some((level, line))
}

/// As [`fit_hub`], for an agent: each worker has a tunnel and a connection to its upstream.
fn fit_agent(config: &mut AgentConfig, raise: impl FnOnce(u64) -> u64) {
    let AgentConfig { workers, extra_upgrades, extra_streams, .. } = *config;
    let upstreams = config.upstreams.len().max(1);
    let workers_each = config.tunnels() as usize;
    let wanted = upstreams * (2 * workers_each + 1) + RESERVED_FILES;
    let Some((got, left)) = fall_short(wanted, raise) else { return };
    let most = u32::try_from((left / upstreams).saturating_sub(1) / 2).unwrap_or(u32::MAX);
    let most = most.saturating_sub(config.light_tunnels()).max(1);
    config.workers = workers.min(most);
    config.extra_upgrades = extra_upgrades.min(most - config.workers);
    config.extra_streams = extra_streams.min(most - config.workers - config.extra_upgrades);
    warn!(
        "only {got} files can be open, and {workers_each} workers for each upstream need {wanted}: the limits are now {} workers, {} extra \
         upgrades and {} extra streams; {}",
        config.workers,
        config.extra_upgrades,
        config.extra_streams,
        how_to_raise(wanted)
    );
}

/// `None` if that many descriptors can be had; else how many there are, and how many of them beyond the
/// reserve.
fn fall_short(wanted: usize, raise: impl FnOnce(u64) -> u64) -> Option<(usize, usize)> {
    let got = usize::try_from(raise(wanted as u64)).unwrap_or(usize::MAX);
    // Where there are few at all, pipes do without.
    (got < wanted).then(|| (got, got.saturating_sub(RESERVED_FILES.min(got / 4))))
}

fn how_to_raise(wanted: usize) -> String {
    format!("raise the limit with `ulimit -n {wanted}`, or LimitNOFILE={wanted} in the unit of systemd")
}

fn read_revocations(path: &str) -> io::Result<Revocations> {
    let failed = |error: &dyn core::fmt::Display| {
        io::Error::other(format!("cannot read the file of --revoked, {path}: {error}"))
    };
    let mut text = String::new();
    let read =
        File::open(path).and_then(|file| file.take(MAX_REVOCATIONS_BYTES + 1).read_to_string(&mut text));
    read.map_err(|error| failed(&error))?;
    if text.len() as u64 > MAX_REVOCATIONS_BYTES {
        return Err(failed(&format_args!("it has more than {MAX_REVOCATIONS_BYTES} bytes")));
    }
    Revocations::parse(text.trim_start_matches('\u{feff}')).map_err(|error| failed(&error))
}

/// What is listened on where no host is named, in both families, and the flags that choose port and host.
struct Unnamed {
    v6: Ipv6Addr,
    v4: Ipv4Addr,
    port_flag: &'static str,
    host_flag: &'static str,
}

const ANYWHERE: Unnamed = Unnamed {
    v6: Ipv6Addr::UNSPECIFIED,
    v4: Ipv4Addr::UNSPECIFIED,
    port_flag: "--port",
    host_flag: "--host",
};
const THIS_MACHINE: Unnamed =
    Unnamed { v6: Ipv6Addr::LOCALHOST, v4: Ipv4Addr::LOCALHOST, port_flag: "--admin", host_flag: "--admin" };

/// The listeners of the admin side, and what each is for. The log says where they are.
fn listen_for_admin(
    sys: &mut Sys,
    admin: &AdminOptions,
    before: usize,
) -> io::Result<Vec<(Listener, Entrance)>> {
    let mut all = Vec::new();
    for listen in &admin.listen {
        match listen {
            AdminListen::Tcp { host, port, is_tls } => {
                let wish = Listen { host: host.clone(), port: *port, is_tls: *is_tls };
                let entrance = Entrance { to: Use::Admin, is_tls: *is_tls };
                for listener in listen_on(sys, &wish, before + all.len(), THIS_MACHINE)? {
                    let scheme = if *is_tls { "https" } else { "http" };
                    info!("status page at {scheme}://{}/", listener.local_addr()?);
                    all.push((listener, entrance));
                }
            }
            AdminListen::Unix { path, makes_folder } => {
                let token = LISTENER_TOKENS + u32::try_from(before + all.len()).unwrap_or(0);
                let listener = listen_on_file(sys, path, *makes_folder, token).map_err(|error| {
                    let is_taken = error.kind() == io::ErrorKind::AddrInUse;
                    let line =
                        if is_taken { "another process listens there".into() } else { error.to_string() };
                    let line =
                        format!("cannot listen on unix:{}: {line}; choose another --admin", path.display());
                    io::Error::new(error.kind(), line)
                })?;
                info!("status page at unix:{}", path.display());
                all.push((listener, Entrance { to: Use::AdminUnix, is_tls: false }));
            }
        }
    }
    Ok(all)
}

fn listen_on_file(sys: &mut Sys, path: &Path, makes_folder: bool, token: u32) -> io::Result<Listener> {
    if let Some(folder) = path.parent().filter(|_| makes_folder) {
        std::fs::DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
    }
    sys.listen_unix(path, token)
}

/// All listeners for one wish: both families where no host is named, all addresses of the name otherwise.
fn listen_on(sys: &mut Sys, listen: &Listen, before: usize, unnamed: Unnamed) -> io::Result<Vec<Listener>> {
    let Unnamed { v6, v4, port_flag, host_flag } = unnamed;
    let token = |index: usize| LISTENER_TOKENS + u32::try_from(before + index).unwrap_or(0);
    let naming = |address: &SocketAddr, error: io::Error| {
        let hints = [
            (
                io::ErrorKind::AddrInUse,
                format!("; stop the program that uses it, or choose another {port_flag}"),
            ),
            (io::ErrorKind::AddrNotAvailable, format!("; {host_flag} must be an address of this machine")),
            (
                io::ErrorKind::PermissionDenied,
                format!("; ports below 1024 need a privilege; choose another {port_flag}"),
            ),
        ];
        let hint = hints.iter().find(|(kind, _)| *kind == error.kind()).map_or("", |(_, hint)| hint);
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}{hint}"))
    };
    if let Some(host) = &listen.host {
        let addresses: Vec<SocketAddr> = (host.as_str(), listen.port)
            .to_socket_addrs()
            .map_err(|error| {
                let line = format!("cannot listen on '{host}': {error}; {host_flag} is a name or an address");
                io::Error::new(error.kind(), line)
            })?
            .collect();
        let each = addresses.iter().enumerate();
        return each
            .map(|(index, address)| {
                sys.listen(*address, token(index)).map_err(|error| naming(address, error))
            })
            .collect();
    }
    let v6 = SocketAddr::from((v6, listen.port));
    let mut listeners = Vec::new();
    match sys.listen(v6, token(0)) {
        Ok(listener) => listeners.push(listener),
        // A machine without IPv6 has IPv4.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(naming(&v6, error)),
        Err(_) => {}
    }
    // The same port for both, also where the system chose it.
    let port = match listeners.first() {
        Some(listener) => listener.local_addr()?.port(),
        None => listen.port,
    };
    let v4 = SocketAddr::from((v4, port));
    listeners.push(sys.listen(v4, token(listeners.len())).map_err(|error| naming(&v4, error))?);
    Ok(listeners)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Limits, OnCancel};

    #[test]
    fn a_hub_keeps_within_its_descriptors() {
        let mut config = HubConfig::default();
        assert_eq!(fit_hub(&mut config, |wanted| wanted), None);
        assert_eq!((config.max_clients, config.max_tunnels), (16_384, 4096));
        assert!(fit_hub(&mut config, |_| 1024).is_some());
        assert_eq!((config.max_clients, config.max_tunnels), (674, 179));
        assert!(config.max_clients + config.newcomers() + config.max_tunnels + RESERVED_FILES <= 1024);
        assert!(fit_hub(&mut config, |_| 10).is_some());
        assert_eq!((config.max_clients, config.max_tunnels), (3, 1));
    }

    #[test]
    fn an_agent_keeps_within_its_descriptors() {
        let upstream = crate::config::Upstream {
            agent_id: String::new(),
            scheme: crate::proto::http1::url::Scheme::Http,
            name: String::new(),
            authority: String::new(),
            base_path: String::new(),
            authorization: None,
        };
        let mut config = AgentConfig {
            token: String::new(),
            hub_name: String::new(),
            hub_authority: String::new(),
            hub_path: String::new(),
            hub_authorization: None,
            websocket: false,
            proxy: None,
            upstreams: vec![upstream.clone(), upstream],
            workers: 200,
            extra_upgrades: 100,
            extra_streams: 0,
            light_paths: Vec::new(),
            preserve_host: false,
            upstream_fields: Vec::new(),
            on_cancel: OnCancel::Close,
            health_path: None,
            drain_timeout: crate::config::DEFAULT_DRAIN_TIMEOUT,
            upgrade_drain: crate::config::DEFAULT_UPGRADE_DRAIN,
            limits: Limits::default(),
        };
        fit_agent(&mut config, |wanted| {
            assert_eq!(wanted, 128 + 2 * (2 * 300 + 1));
            wanted
        });
        assert_eq!((config.workers, config.extra_upgrades), (200, 100));
        fit_agent(&mut config, |_| 1024);
        assert_eq!((config.workers, config.extra_upgrades), (200, 23));
        fit_agent(&mut config, |_| 256);
        assert_eq!((config.workers, config.extra_upgrades), (47, 0));
        fit_agent(&mut config, |_| 3);
        assert_eq!((config.workers, config.extra_upgrades), (1, 0));
    }
}
