//! The two long-running commands: what they need, and how they are run to their end.

use core::net::SocketAddr;
use core::time::Duration;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::Arc;

use log::{error, info, log, warn};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;

use super::Net;
use super::descriptors::{fit_agent, fit_hub};
pub use super::listen::{AdminListen, Listen};
use super::listen::{listen_for_admin, listen_for_requests};
pub use super::shell::Endpoint;
use super::shell::{DialTls, Entrance, Shell, Targets};
use super::sys::notify::Notifier;
use super::sys::{self, Listener, Sys};
use super::tls::{self, Offer, Trust};
use crate::config::{AdminConfig, AgentConfig, HubConfig};
use crate::proto::admin::machine::{Front, Listening};
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
    let HubOptions { listen, mut config, token_key, weakness, revoked, tls, mut admin, drain_delay } =
        options;
    let revocations = revoked.as_deref().map(read_revocations).transpose()?;
    let lowered = fit_hub(&mut config, sys::raise_nofile);
    let mut sys = Sys::new()?;
    sys.watch_signals()?;
    let mut name = [0; 4];
    sys::random(&mut name)?;
    config.name = format!("{}.{:08x}", config.name, u32::from_ne_bytes(name));
    let offer = tls.as_ref().map(|files| files.load(sys.now().unix)).transpose()?;
    let mut listeners = Vec::new();
    listen_for_requests(&mut sys, &listen, &mut listeners)?;
    let for_requests = listeners.len();
    listen_for_admin(&mut sys, &admin.listen, &mut listeners)?;
    let for_requests = listeners.get(..for_requests).unwrap_or_default();
    let mut beyond_loopback = false;
    for (listener, entrance) in for_requests {
        let address = listener.local_addr()?;
        beyond_loopback |= !address.ip().is_loopback();
        info!("listening on {address}{}", if entrance.is_tls() { " with TLS" } else { "" });
    }
    let is_own = tls.as_ref().is_some_and(|tls| tls.is_own);
    admin.config.front = front(for_requests, offer.as_ref().filter(|_| is_own));
    if let Some(offer) = &offer {
        info!("the pin of the certificate: agents that do not trust its issuer need --hub-pin {}", offer.pin);
        if let Some(front) = admin.config.front.as_ref().filter(|_| is_own) {
            info!("agents join with: {}", front.join_command);
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
    let mut core = Hub::new(config, token_key, random_seed()?, sys.now());
    if let Some(revocations) = revocations {
        core.set_revocations(revocations, sys.now());
    }
    let mut node = node(Role::Hub(core), &admin, &mut sys).draining_after(drain_delay);
    if let Some(offer) = &offer {
        node.set_certificate(offer.certificate());
    }
    let mut shell = Shell::new(node, sys, Targets::default());
    if let Some(offer) = offer {
        shell.offer_tls(offer.config);
    }
    for (listener, entrance) in listeners {
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
            Some(Ok(new)) => {
                info!("the certificate was read again; its pin is {}", new.pin);
                node.set_certificate(new.certificate());
                *offer = Some(new.config);
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

fn random_seed() -> io::Result<u64> {
    let mut seed = [0; 8];
    sys::random(&mut seed)?;
    Ok(u64::from_ne_bytes(seed))
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
    let secured = dial_tls(&hub, &upstreams)?;
    let core = Agent::new(config, random_seed()?, sys.now());
    let upstreams = upstreams.into_iter().map(|upstream| upstream.endpoint).collect();
    let has_proxy = proxy.is_some();
    let targets = Targets { hub: Some(proxy.unwrap_or(hub.endpoint)), upstreams };
    let mut listeners = Vec::new();
    listen_for_admin(&mut sys, &admin.listen, &mut listeners)?;
    let node = node(Role::Agent(core), &admin, &mut sys);
    let mut shell = Shell::new(node, sys, targets);
    for (listener, entrance) in listeners {
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

/// How a hub is reached that listens there; the pin of `own` must be known to those who join.
fn front(listeners: &[(Listener, Entrance)], own: Option<&Offer>) -> Option<Front> {
    let listeners: Vec<(SocketAddr, bool)> = listeners
        .iter()
        .filter_map(|(listener, entrance)| Some((listener.local_addr().ok()?, entrance.is_tls())))
        .collect();
    let (address, is_tls) = listeners.iter().find(|(_, is_tls)| *is_tls).or_else(|| listeners.first())?;
    // The address that was asked for, if it was, else this machine's name.
    let authority = if address.ip().is_unspecified() {
        format!("{}:{}", host_name().unwrap_or_else(|| "HOST".to_owned()), address.port())
    } else {
        address.to_string()
    };
    let scheme = if *is_tls { "https://" } else { "" };
    let pin = own.map(|own| format!(" --hub-pin {}", own.pin)).unwrap_or_default();
    let join_command =
        format!("slime agent --hub {scheme}{authority}{pin} --token-file token.txt --upstream ADDRESS");
    let listeners = listeners.iter();
    let listeners =
        listeners.map(|(address, is_tls)| Listening { address: address.to_string(), is_tls: *is_tls });
    Some(Front { listeners: listeners.collect(), join_command })
}

/// What this machine is called.
pub fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

impl TlsFiles {
    fn load(&self, unix: u64) -> io::Result<Offer> {
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
