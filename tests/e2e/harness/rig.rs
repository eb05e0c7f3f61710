//! Hub and agents as a user starts them.

use std::future::Future;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::server::{Reply, Request};
use super::{Message, Proc, RawUpstream, Server, Wire, pki, wait_until};

/// What every hub of the tests is started with.
const SECRET: &str = "a secret of the tests";

/// The binary under test with these arguments, and nothing of ours in its environment.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slime"));
    let proxies = ["https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "SLIME_PROXY"];
    for variable in ["SLIME_SECRET", "SLIME_TOKEN", "SLIME_APP_PASSWORD", "RUST_LOG"].iter().chain(&proxies) {
        command.env_remove(variable);
    }
    command.env("RUST_BACKTRACE", "1").args(arguments);
    if let Ok(level) = std::env::var("SLIME_TEST_LOG")
        && arguments.contains(&"run")
    {
        command.args(["--log-level", &level]);
    }
    command
}

/// A hub on a port of its own.
pub struct Hub {
    process: Proc,
    address: SocketAddr,
}

impl Hub {
    /// Starts one on 127.0.0.1 that takes, unless told otherwise, every agent for connected for as long as a
    /// test takes: a request that is sent before the agent has joined waits for it.
    #[track_caller]
    pub fn start(flags: &[&str]) -> Self {
        Self::start_on("127.0.0.1", 0, flags)
    }

    #[track_caller]
    pub fn start_on(host: &str, port: u16, flags: &[&str]) -> Self {
        let port = port.to_string();
        let mut arguments = vec!["hub", "run", "--host", host, "--port", &port];
        if !flags.contains(&"--startup-grace") {
            arguments.extend(["--startup-grace", "60"]);
        }
        arguments.extend(flags);
        let mut command = command(&arguments);
        secure_hub(&mut command);
        Self::run(command)
    }

    /// Starts one by a command that is ready but for the secret.
    #[track_caller]
    pub fn run(mut command: Command) -> Self {
        command.env("SLIME_SECRET", SECRET);
        let process = Proc::spawn("hub", command);
        let line = process.wait_line("listening on ");
        let address = line.split("listening on ").nth(1).unwrap();
        let address = address.split_whitespace().next().unwrap();
        let address = address.parse().unwrap_or_else(|_| panic!("no address in {line:?}"));
        Self { process, address }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address as a URL.
    pub fn url(&self) -> String {
        pki::url(self.address)
    }

    /// A connection of an application.
    #[track_caller]
    pub fn client(&self) -> Wire {
        Wire::connect(self.address)
    }

    /// A connection of an application that has sent this.
    #[track_caller]
    pub fn client_sending(&self, bytes: impl AsRef<[u8]>) -> Wire {
        let mut client = self.client();
        client.send(bytes);
        client
    }

    /// Waits until the hub has seen everything that was sent to it before, ends of connections too: it looks
    /// at all that has happened between one new connection and the next.
    #[track_caller]
    pub fn settle(&self) {
        for _ in 0..2 {
            let mut probe = self.client_sending("GET /.slime/probe HTTP/1.1\r\nHost: h\r\n\r\n");
            assert_eq!(probe.response().status(), 404);
        }
    }

    /// A fresh token.
    #[track_caller]
    pub fn token(&self, flags: &[&str]) -> String {
        register(SECRET, flags)
    }

    /// An agent for this upstream, with the token that all tests share.
    #[track_caller]
    pub fn agent(&self, upstream: &str, flags: &[&str]) -> Agent {
        self.agent_with(shared_token(), upstream, flags)
    }

    #[track_caller]
    pub fn agent_with(&self, token: &str, upstream: &str, flags: &[&str]) -> Agent {
        Agent::start(&pki::url(self.address), token, upstream, flags)
    }

    /// Restarts it at the same address, after it was killed.
    #[track_caller]
    pub fn restart(&mut self, flags: &[&str]) {
        assert!(!self.process.is_alive());
        *self = Self::start_on(&self.address.ip().to_string(), self.address.port(), flags);
    }
}

impl Deref for Hub {
    type Target = Proc;
    fn deref(&self) -> &Proc {
        &self.process
    }
}

impl DerefMut for Hub {
    fn deref_mut(&mut self) -> &mut Proc {
        &mut self.process
    }
}

/// Whether this build of the tests runs agents that join by a WebSocket handshake.
fn is_websocket() -> bool {
    env!("CARGO_CRATE_NAME") == "e2e_websocket"
}

/// An agent process.
pub struct Agent {
    process: Proc,
}

impl Agent {
    /// With `https://` it trusts the authority of the tests, unless told otherwise.
    pub fn start(hub: &str, token: &str, upstream: &str, flags: &[&str]) -> Self {
        let mut arguments = vec!["agent", "run", "--hub", hub, "--upstream", upstream];
        arguments.extend(flags);
        if is_websocket() {
            arguments.push("--websocket");
        }
        let mut command = command(&arguments);
        secure_agent(&mut command, hub, upstream, flags);
        command.env("SLIME_TOKEN", token);
        Self { process: Proc::spawn("agent", command) }
    }
}

impl Deref for Agent {
    type Target = Proc;
    fn deref(&self) -> &Proc {
        &self.process
    }
}

impl DerefMut for Agent {
    fn deref_mut(&mut self) -> &mut Proc {
        &mut self.process
    }
}

/// A hub, one agent, and its upstream. Dropped from left to right.
pub struct Rig<U> {
    pub agent: Agent,
    pub hub: Hub,
    pub upstream: U,
}

impl Rig<RawUpstream> {
    /// With an upstream that the test plays.
    #[track_caller]
    pub fn raw() -> Self {
        Self::raw_with(&[], &[])
    }

    #[track_caller]
    pub fn raw_with(hub_flags: &[&str], agent_flags: &[&str]) -> Self {
        let upstream = RawUpstream::new();
        let hub = Hub::start(hub_flags);
        let agent = hub.agent(&upstream.url(), agent_flags);
        Self { agent, hub, upstream }
    }

    /// Sends a request and waits until all of it is at the upstream: the client's side, the upstream's side,
    /// the request.
    #[track_caller]
    pub fn begin(&self, request: impl AsRef<[u8]>) -> (Wire, Wire, Message) {
        let client = self.hub.client_sending(request);
        let mut upstream = self.upstream.accept();
        let request = upstream.request();
        (client, upstream, request)
    }

    /// What reaches the upstream of this request, and what reaches the client of this response.
    #[track_caller]
    pub fn exchange(&self, request: impl AsRef<[u8]>, response: impl AsRef<[u8]>) -> (Message, Message) {
        let (mut client, mut upstream, request) = self.begin(request);
        upstream.send(response);
        drop(upstream);
        (request.clone(), client.response_to(request.head.method()))
    }
}

impl Rig<Server> {
    /// With hyper as upstream.
    #[track_caller]
    pub fn serve<H, F>(handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Reply> + 'static,
    {
        Self::serve_with(&[], &[], handler)
    }

    #[track_caller]
    pub fn serve_with<H, F>(hub_flags: &[&str], agent_flags: &[&str], handler: H) -> Self
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Reply> + 'static,
    {
        let upstream = Server::start(handler);
        let hub = Hub::start(hub_flags);
        let agent = hub.agent(&upstream.url(), agent_flags);
        Self { agent, hub, upstream }
    }
}

impl<U> Rig<U> {
    /// Checks at the end of a test that neither process spins nor holds what it should have given back.
    #[track_caller]
    pub fn assert_at_rest(&self, hub_fds: usize, agent_fds: usize) {
        self.hub.wait_fds(hub_fds);
        self.agent.wait_fds(agent_fds);
        // Some are kept for the next large body, as a rule fewer than these.
        assert!(self.hub.pipes() < 40 && self.agent.pipes() < 40, "pipes are left");
        super::process::assert_quiet(&[&self.hub, &self.agent]);
    }
}

/// What a hub's command needs where this build of the tests has TLS.
pub fn secure_hub(command: &mut Command) {
    if pki::is_tls() {
        let identity = pki::identity();
        command.arg("--tls-cert").arg(&identity.certificate).arg("--tls-key").arg(&identity.key);
    }
}

/// Lets an agent trust the authority of the tests, where it has to and its flags say nothing else.
pub fn secure_agent(command: &mut Command, hub: &str, upstream: &str, flags: &[&str]) {
    if hub.starts_with("https:") && !flags.iter().any(|flag| flag.starts_with("--hub-")) {
        command.arg("--hub-ca").arg(pki::authority().file());
    }
    if upstream.contains("https:")
        && !flags.iter().any(|flag| ["--upstream-ca", "--upstream-pin"].contains(flag))
    {
        command.arg("--upstream-ca").arg(pki::authority().file());
    }
}

/// A token that is good at every hub of the tests: each of them has the same secret.
pub fn shared_token() -> &'static str {
    static TOKEN: OnceLock<String> = OnceLock::new();
    TOKEN.get_or_init(|| register(SECRET, &["--name", "tests"]))
}

/// Runs `slime hub register`.
#[track_caller]
pub fn register(secret: &str, flags: &[&str]) -> String {
    let mut arguments = vec!["hub", "register"];
    arguments.extend(flags);
    let mut command = command(&arguments);
    let output = command.env("SLIME_SECRET", secret).stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "register: {}: {errors}", output.status);
    let token = String::from_utf8(output.stdout).unwrap();
    let token = token.strip_suffix('\n').expect("a line").to_owned();
    assert!(token.starts_with("slime1_") && !token.contains(char::is_whitespace), "no token: {token:?}");
    token
}

/// Waits until requests reach all of these agents, each named by its `--agent-id`. The upstreams get the
/// requests.
#[track_caller]
pub fn wait_agents(hub: &Hub, ids: &[&str]) {
    let mut missing: Vec<&str> = ids.to_vec();
    wait_until("all agents are connected", super::DEADLINE, || {
        let mut client = hub.client_sending("GET /ready HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let response = client.response();
        missing.retain(|id| response.head.field("slime-agent-id") != Some(id));
        missing.is_empty()
    });
}
