//! The two long-running commands: what they need, and how they are run to their end.

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::io;
use std::net::ToSocketAddrs;

use log::info;

use super::Net;
pub use super::shell::Endpoint;
use super::shell::{LISTENER_TOKENS, Shell, Targets};
use super::sys::{self, Listener, Sys};
use crate::config::{AgentConfig, HubConfig};
use crate::proto::agent::Agent;
use crate::proto::agent_token::TokenKey;
use crate::proto::hub::Hub;

/// What a hub needs beside its configuration.
#[derive(Debug)]
pub struct HubOptions {
    /// Where to listen, one at least.
    pub listen: Vec<Listen>,
    /// What the core obeys.
    pub config: HubConfig,
    /// Opens agent tokens.
    pub token_key: TokenKey,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// A name or an IP address (without brackets); all addresses of the machine, if `None`.
    pub host: Option<String>,
    /// The port; 0 for one that the system chooses.
    pub port: u16,
}

/// What an agent process needs beside its configuration.
#[derive(Debug)]
pub struct AgentOptions {
    /// The hub.
    pub hub: Endpoint,
    /// The upstreams, in the order of [`AgentConfig::upstreams`].
    pub upstreams: Vec<Endpoint>,
    /// What the core obeys.
    pub config: AgentConfig,
}

/// Runs a hub until it is told to end. The exit code of the process.
///
/// # Errors
/// No address to listen on could be bound, or waiting for events failed.
pub fn run_hub(options: HubOptions) -> io::Result<u8> {
    let mut sys = Sys::new()?;
    sys.watch_signals()?;
    let mut listeners = Vec::new();
    for listen in &options.listen {
        listeners.append(&mut listen_on(&mut sys, listen, listeners.len())?);
    }
    for listener in &listeners {
        info!("listening on {}", listener.local_addr()?);
    }
    let core = Hub::new(options.config, options.token_key, sys.now());
    Shell::new(core, sys, listeners, Targets::default()).run()
}

/// Runs the agents until they are told to end. The exit code of the process.
///
/// # Errors
/// Waiting for events failed.
pub fn run_agent(options: AgentOptions) -> io::Result<u8> {
    let mut sys = Sys::new()?;
    sys.watch_signals()?;
    let mut seed = [0; 8];
    sys::random(&mut seed)?;
    let core = Agent::new(options.config, u64::from_ne_bytes(seed), sys.now());
    let targets = Targets { hub: Some(options.hub), upstreams: options.upstreams };
    Shell::new(core, sys, Vec::new(), targets).run()
}

/// All listeners for one wish: both families where no host is named, all addresses of the name otherwise.
fn listen_on(sys: &mut Sys, listen: &Listen, before: usize) -> io::Result<Vec<Listener>> {
    let token = |index: usize| LISTENER_TOKENS + u32::try_from(before + index).unwrap_or(0);
    let naming = |address: &SocketAddr, error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    };
    if let Some(host) = &listen.host {
        let addresses: Vec<SocketAddr> = (host.as_str(), listen.port)
            .to_socket_addrs()
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on '{host}': {error}")))?
            .collect();
        let each = addresses.iter().enumerate();
        return each
            .map(|(index, address)| {
                sys.listen(*address, token(index)).map_err(|error| naming(address, error))
            })
            .collect();
    }
    let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, listen.port));
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
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    listeners.push(sys.listen(v4, token(listeners.len())).map_err(|error| naming(&v4, error))?);
    Ok(listeners)
}
