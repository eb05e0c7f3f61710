//! The two long-running commands: what they need, and how they are run to their end.

use std::io;

use crate::config::{AgentConfig, HubConfig};
use crate::proto::agent_token::TokenKey;

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

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an IP address (without brackets).
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Runs a hub until it is told to end. The exit code of the process.
pub fn run_hub(options: HubOptions) -> io::Result<u8> {
    drop(options);
    Err(io::Error::other("this build cannot run a hub yet"))
}

/// Runs the agents until they are told to end. The exit code of the process.
pub fn run_agent(options: AgentOptions) -> io::Result<u8> {
    drop(options);
    Err(io::Error::other("this build cannot run an agent yet"))
}
