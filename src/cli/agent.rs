//! `slime agent run`.

use std::ffi::OsString;

use super::Failure;
use super::address::{Address, HTTP_PORT};
use super::admin;
use super::agent_args::AgentRun;
use super::header_file;
use super::normalise::{Normalised, help_line};
use super::proxy;
use super::secret::{hex, random, read_token};
use super::values::{agent_id, health_path, items, without_last_slash};
use crate::config::{AgentConfig, DEFAULT_PORT, Limits, Proxy, Upstream};
use crate::net::run::{AgentOptions, Destination, check_agent, host_name, run_agent};
use crate::net::sys::memory::memory;
use crate::net::tls::{Pin, Trust};
use crate::proto::http1::url::Scheme;
use crate::proto::info::Info;
use crate::proto::light;
use crate::proto::tables::key::MAX_SLOTS;

/// The most upstreams of one agent process: a core counts them in 16 bits, and each has its own workers and
/// probes.
const MAX_UPSTREAMS: usize = 1024;

/// Runs the agents, one for each upstream, until they are told to end.
pub(super) fn run(args: AgentRun, given: &Normalised) -> Result<u8, Failure> {
    let check = args.check;
    let options = options(args, |name| std::env::var_os(name), given)?;
    if check {
        return check_agent(&options).map(|()| 0).map_err(|error| Failure::Runtime(error.to_string()));
    }
    run_agent(options).map_err(|error| {
        log::error!("the agent stopped: {error}");
        Failure::Logged
    })
}

fn options(
    args: AgentRun,
    environment: impl Fn(&str) -> Option<OsString>,
    given: &Normalised,
) -> Result<AgentOptions, Failure> {
    let token = read_token(args.token, args.token_file, given)?;
    let hub = args
        .hub
        .ok_or_else(|| missing("--hub", "the address of the hub, such as --hub hub.example.org:8080"))?;
    let hub = address("--hub", hub.trim(), DEFAULT_PORT, given)?;
    let proxy = proxy::find(args.proxy.as_deref(), &hub, &environment, given)?;
    let upstreams: Vec<Address> = items(&args.upstream)
        .map(|item| address("--upstream", item, HTTP_PORT, given))
        .collect::<Result<_, _>>()?;
    if upstreams.is_empty() {
        return Err(missing("--upstream", "the service that answers, such as --upstream 127.0.0.1:8000"));
    }
    if upstreams.len() > MAX_UPSTREAMS {
        return Err(Failure::Usage(format!(
            "an agent can have at most {MAX_UPSTREAMS} upstreams; run a second agent"
        )));
    }
    let light_paths: Vec<String> = items(&args.light_paths).map(without_last_slash).collect();
    light::check(&light_paths).map_err(given.wrong("--light-paths"))?;
    let light_tunnels = if light_paths.is_empty() { 0 } else { light::TUNNELS };
    let workers = [args.num_worker, args.extra_upgrades, args.extra_streams, light_tunnels];
    let workers = workers.into_iter().map(u64::from).sum::<u64>();
    if workers * upstreams.len() as u64 > MAX_SLOTS as u64 {
        return Err(Failure::Usage(format!(
            "--num-worker, --extra-upgrades and --extra-streams add up to more than {MAX_SLOTS} workers; use smaller numbers"
        )));
    }
    let ids = agent_ids(args.agent_id, upstreams.len(), given)?;
    let health_path =
        args.health_path.map(|path| health_path(&path)).transpose().map_err(given.wrong("--health-path"))?;
    let limits = Limits {
        head: args.head_timeout,
        stall: args.stall_timeout,
        connect: args.connect_timeout,
        ..Limits::default()
    };
    let admin = admin::Flags {
        admin: args.admin,
        password: args.admin_password,
        password_file: args.admin_password_file,
        view_password: args.admin_view_password,
        view_password_file: args.admin_view_password_file,
    };
    let admin = admin::options(admin, "agent", false, &environment, given)?;
    let hub_trust = hub_trust(args.hub_ca, args.hub_pin, given)?;
    let hub_is = destination(&hub, hub_trust.as_ref());
    if hub_is.trust.is_none() && hub_trust.is_some() {
        return Err(Failure::Usage(
            "--hub-ca and --hub-pin need a hub with https://, such as --hub https://HOST".into(),
        ));
    }
    let upstream_trust = upstream_trust(args.upstream_ca, &args.upstream_pin, given)?;
    let destinations: Vec<_> =
        upstreams.iter().map(|upstream| destination(upstream, upstream_trust.as_ref())).collect();
    if upstream_trust.is_some() && destinations.iter().all(|upstream| upstream.trust.is_none()) {
        return Err(Failure::Usage("--upstream-ca and --upstream-pin need an upstream with https://".into()));
    }
    let upstream_fields =
        args.upstream_header_file.map(|path| header_file::read(&path, given)).transpose()?;
    let upstream_fields = upstream_fields.unwrap_or_default();
    let sets_credentials =
        upstream_fields.iter().any(|field| field.name.eq_ignore_ascii_case("Authorization"));
    if sets_credentials && upstreams.iter().any(|upstream| upstream.authorization.is_some()) {
        return Err(Failure::Usage(
            "--upstream has a user and a password, and --upstream-header-file an Authorization; give one of them".into(),
        ));
    }
    let machine = about_this_machine(args.note.unwrap_or_default());
    let upstreams = upstreams.into_iter().zip(ids).map(|(address, agent_id)| Upstream {
        agent_id,
        info: Info { upstream: address.host_and_port(), ..machine.clone() },
        scheme: if address.is_tls { Scheme::Https } else { Scheme::Http },
        name: address.host_and_port(),
        authority: address.authority,
        base_path: address.base_path,
        authorization: address.authorization,
    });
    let config = AgentConfig {
        token,
        websocket: args.websocket,
        proxy: proxy.as_ref().map(|proxy| Proxy {
            name: proxy.authority.clone(),
            hub: hub.host_and_port(),
            authorization: proxy.authorization.clone(),
            then_tls: hub.is_tls,
        }),
        hub_name: hub.host_and_port(),
        hub_authority: hub.authority,
        hub_path: hub.base_path,
        hub_authorization: hub.authorization,
        upstreams: upstreams.collect(),
        workers: args.num_worker,
        extra_upgrades: args.extra_upgrades,
        extra_streams: args.extra_streams,
        light_paths,
        preserve_host: args.preserve_host,
        upstream_fields,
        on_cancel: args.on_cancel,
        health_path,
        drain_timeout: args.drain_timeout,
        upgrade_drain: args.upgrade_drain,
        limits,
    };
    Ok(AgentOptions {
        hub: hub_is,
        proxy: proxy.map(|proxy| proxy.endpoint),
        upstreams: destinations,
        config,
        admin,
    })
}

/// What the agents of this process say of themselves, but for their upstreams.
fn about_this_machine(note: String) -> Info {
    Info {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: host_name().unwrap_or_default(),
        arch: std::env::consts::ARCH.to_owned(),
        upstream: String::new(),
        note,
        cpus: std::thread::available_parallelism().ok().and_then(|count| u64::try_from(count.get()).ok()),
        memory_bytes: Some(memory()),
    }
}

/// Where an address leads. Those that are reached by TLS trust whom browsers trust, unless told otherwise.
fn destination(address: &Address, trust: Option<&Trust>) -> Destination {
    let trust = address.is_tls.then(|| trust.cloned().unwrap_or_default());
    Destination { endpoint: address.endpoint.clone(), trust }
}

/// Whom to trust for a hub, if that was said.
fn hub_trust(
    authority: Option<String>,
    pin: Option<String>,
    given: &Normalised,
) -> Result<Option<Trust>, Failure> {
    match (authority, pin) {
        (Some(_), Some(_)) => Err(Failure::Usage(
            "--hub-ca and --hub-pin are two ways to recognise the hub; use one of them".into(),
        )),
        (Some(file), None) => Ok(Some(Trust::Authority(file.into()))),
        (None, Some(pin)) => pins("--hub-pin", &[pin], given).map(|pins| Some(Trust::Pins(pins))),
        (None, None) => Ok(None),
    }
}

/// Whom to trust for upstreams, if that was said.
fn upstream_trust(
    authority: Option<String>,
    pinned: &[String],
    given: &Normalised,
) -> Result<Option<Trust>, Failure> {
    match authority {
        Some(_) if !pinned.is_empty() => Err(Failure::Usage(
            "--upstream-ca and --upstream-pin are two ways to recognise an upstream; use one of them".into(),
        )),
        Some(file) => Ok(Some(Trust::Authority(file.into()))),
        None if pinned.is_empty() => Ok(None),
        None => pins("--upstream-pin", pinned, given).map(|pins| Some(Trust::Pins(pins))),
    }
}

/// The pins that a flag holds, one at least.
fn pins(flag: &str, values: &[String], given: &Normalised) -> Result<Vec<Pin>, Failure> {
    let wrong = || {
        Failure::Usage(format!(
            "{}: a pin is sha256: and 64 hexadecimal digits; a hub prints its pin when it starts, and \
             `openssl x509 -in cert.pem -noout -fingerprint -sha256` prints that of any certificate",
            given.origin(flag)
        ))
    };
    let pins: Vec<Pin> =
        items(values).map(|pin| Pin::parse(pin).ok_or_else(wrong)).collect::<Result<_, _>>()?;
    if pins.is_empty() { Err(wrong()) } else { Ok(pins) }
}

/// Reads the address that a flag holds. A password in it, if it was typed, earns a warning like any other
/// secret.
fn address(flag: &str, text: &str, default_port: u16, given: &Normalised) -> Result<Address, Failure> {
    let address = Address::parse(text, default_port).map_err(given.wrong(flag))?;
    if address.authorization.is_some() && given.is_typed(flag) {
        log::warn!(
            "every user of this machine can read the password of {flag} in the list of processes; use the variable {}",
            super::normalise::variable(flag)
        );
    }
    Ok(address)
}

fn missing(flag: &str, what: &str) -> Failure {
    Failure::Usage(format!("{flag} is missing: give {what}; {}", help_line("agent run")))
}

/// One id for each upstream: random ones, or the given one, numbered if there are several.
fn agent_ids(fixed: Option<String>, upstreams: usize, given: &Normalised) -> Result<Vec<String>, Failure> {
    let wrong = given.wrong("--agent-id");
    match fixed {
        None => (0..upstreams).map(|_| random::<8>().map(|bytes| hex(&bytes))).collect(),
        Some(id) if upstreams == 1 => agent_id(&id).map(|id| vec![id]).map_err(wrong),
        Some(id) => (1..=upstreams).map(|n| agent_id(&format!("{id}-{n}")).map_err(&wrong)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::super::agent_args::AgentCommand;
    use super::super::args::Command;
    use super::super::parse_words;
    use super::*;
    use crate::config::OnCancel;
    use crate::net::run::Endpoint;

    fn agent(line: &str) -> Result<AgentOptions, Failure> {
        let args = line.split_whitespace().map(String::from).collect();
        let (slime, given) = parse_words(args, |_| None)?;
        match slime.command {
            Command::Agent(agent) => match agent.command {
                AgentCommand::Run(args) => options(args, |_| None, &given),
            },
            Command::Hub(_)
            | Command::Demo(_)
            | Command::Ready(_)
            | Command::Version(_)
            | Command::Completions(_) => {
                panic!("{line}")
            }
        }
    }

    #[track_caller]
    fn refused(line: &str, reason: &str) {
        let Err(Failure::Usage(error) | Failure::Runtime(error)) = agent(line) else { panic!("{line}") };
        assert!(error.contains(reason), "{line}: {error}");
    }

    #[test]
    fn defaults() {
        let AgentOptions { hub, upstreams, config, .. } =
            agent("agent --token slime1_dHdlbHZlIGJ5dGVzAAAAAAAAAAAAAAAAAAAAAAAA --hub h --upstream u")
                .unwrap();
        assert_eq!(hub, Destination { endpoint: Endpoint { host: "h".into(), port: 8080 }, trust: None });
        assert_eq!(
            upstreams,
            [Destination { endpoint: Endpoint { host: "u".into(), port: 80 }, trust: None }]
        );
        assert_eq!((config.hub_authority.as_str(), config.hub_path.as_str()), ("h:8080", ""));
        assert_eq!((config.workers, config.extras(), config.preserve_host), (1, 0, false));
        assert_eq!(config.on_cancel, OnCancel::Close);
        assert_eq!(config.health_path, None);
        assert_eq!(config.upstreams[0].agent_id.len(), 16);
        assert_eq!(config.upstreams[0].authority, "u");
        // The log shows the port that is meant where none is written.
        assert_eq!((config.hub_name.as_str(), config.upstreams[0].name.as_str()), ("h:8080", "u:80"));
    }

    #[test]
    fn every_flag_arrives() {
        let line = "agent run --token slime1_dHdlbHZlIGJ5dGVzAAAAAAAAAAAAAAAAAAAAAAAA --hub http://a:b@h/x/ --upstream u:1,http://v/y --upstream [::1]:2 --numWorker 4 \
                    --extra-upgrades 2 --extra-streams 3 --lightPaths /v1/models/,/health --agentID I --preserve-host --on-cancel drain --health-path /ok --drain-timeout 1 \
                    --connect-timeout 2 --head-timeout 4 --stall-timeout 5 --upgrade-drain 6";
        let AgentOptions { hub, upstreams, config, .. } = agent(line).unwrap();
        assert_eq!(hub.endpoint, Endpoint { host: "h".into(), port: 80 });
        assert_eq!(config.hub_path, "/x");
        assert_eq!(config.hub_authorization.as_deref(), Some("Basic YTpi"));
        assert_eq!(upstreams.len(), 3);
        let ids: Vec<_> = config.upstreams.iter().map(|upstream| upstream.agent_id.as_str()).collect();
        assert_eq!(ids, ["I-1", "I-2", "I-3"]);
        let paths: Vec<_> = config.upstreams.iter().map(|upstream| upstream.base_path.as_str()).collect();
        assert_eq!(paths, ["", "/y", ""]);
        assert_eq!((config.workers, config.extra_upgrades, config.preserve_host), (4, 2, true));
        assert_eq!(config.extra_streams, 3);
        assert_eq!((config.light_paths.join(" ").as_str(), config.tunnels()), ("/v1/models /health", 13));
        assert_eq!(config.on_cancel, OnCancel::Drain);
        assert_eq!(config.health_path.as_deref(), Some("/ok"));
        let limits = config.limits;
        let times = [config.drain_timeout, limits.connect, limits.head, limits.stall, config.upgrade_drain];
        assert_eq!(times, [1, 2, 4, 5, 6].map(Duration::from_secs));
    }

    const PIN: &str = "sha256:000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";

    #[test]
    fn whom_to_trust() {
        let trust = |line: &str| {
            let AgentOptions { hub, upstreams, .. } =
                agent(&format!("agent --token slime1_dHdlbHZlIGJ5dGVzAAAAAAAAAAAAAAAAAAAAAAAA {line}"))
                    .unwrap();
            (hub.trust, upstreams.into_iter().map(|upstream| upstream.trust).collect::<Vec<_>>())
        };
        let web = Some(Trust::WebRoots);
        assert_eq!(trust("--hub https://h --upstream u,https://v"), (web.clone(), vec![None, web.clone()]));
        let file = Some(Trust::Authority("f".into()));
        assert_eq!(
            trust("--hub https://h --upstream https://v --hub-ca f"),
            (file.clone(), vec![web.clone()])
        );
        assert_eq!(trust("--hub https://h --upstream https://v,w --upstream-ca f"), (web, vec![file, None]));
        let (_, upstreams) =
            trust(&format!("--hub h --upstream u,https://v --upstream-pin {PIN},{PIN} --upstream-pin {PIN}"));
        assert!(
            matches!(&upstreams[..], [None, Some(Trust::Pins(pins))] if pins.len() == 3),
            "{upstreams:?}"
        );
        let (pinned, _) = trust(&format!("--hub https://h --upstream u --hub-pin {PIN}"));
        let Some(Trust::Pins(pins)) = pinned else { panic!("{pinned:?}") };
        assert_eq!(pins.iter().map(ToString::to_string).collect::<Vec<_>>(), [PIN.to_lowercase()]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        refused("agent", "the token is missing: use --token-file");
        refused("agent --token slime1_dHdlbHZlIGJ5dGVzAAAAAAAAAAAAAAAAAAAAAAAA", "--hub is missing");
        refused(
            "agent --token slime1_dHdlbHZlIGJ5dGVzAAAAAAAAAAAAAAAAAAAAAAAA --hub h",
            "--upstream is missing",
        );
        refused(
            "agent --token slime1_dHdlbHZlIGJ5dGVzAAAAAAAAAAAAAAAAAAAAAAAA --hub h --upstream u --hub-ca f",
            "need a hub with https://",
        );
        refused(
            "agent --token slime1_dHdlbHZlIGJ5dGVzAAAAAAAAAAAAAAAAAAAAAAAA --hub http://h --upstream https://u --hub-ca f",
            "need a hub with https://",
        );
        refused(
            "agent --token slime1_dHdlbHZlIGJ5dGVzAAAAAAAAAAAAAAAAAAAAAAAA --hub https://h --upstream u --upstream-ca f",
            "need an upstream with https://",
        );
        refused(
            "agent --token slime1_dHdlbHZlIGJ5dGVzAAAAAAAAAAAAAAAAAAAAAAAA --hub https://h --upstream u --hub-pin sha256:12",
            "--hub-pin: a pin is sha256:",
        );
        let both = format!(
            "agent --token slime1_dHdlbHZlIGJ5dGVzAAAAAAAAAAAAAAAAAAAAAAAA --hub https://h --upstream u --hub-ca f --hub-pin {PIN}"
        );
        refused(&both, "use one of them");
        refused(
            "agent --token slime1_dHdlbHZlIGJ5dGVzAAAAAAAAAAAAAAAAAAAAAAAA --hub ::1 --upstream u",
            "brackets",
        );
        refused(
            "agent --token slime1_dHdlbHZlIGJ5dGVzAAAAAAAAAAAAAAAAAAAAAAAA --hub h --upstream u --agent-id a/b",
            "--agent-id: an agent id is",
        );
        refused(
            "agent --token slime1_dHdlbHZlIGJ5dGVzAAAAAAAAAAAAAAAAAAAAAAAA --hub h --upstream u --health-path x",
            "--health-path: a health path",
        );
        refused(
            "agent --token slime1_dHdlbHZlIGJ5dGVzAAAAAAAAAAAAAAAAAAAAAAAA --hub h --upstream u,v --num-worker 4294967295",
            "add up to more than 1048576",
        );
        let long = "x".repeat(63);
        refused(
            &format!(
                "agent --token slime1_dHdlbHZlIGJ5dGVzAAAAAAAAAAAAAAAAAAAAAAAA --hub h --upstream u,v --agent-id {long}"
            ),
            "--agent-id",
        );
        let Err(Failure::Usage(error)) = agent(
            "agent --token slime1_dHdlbHZlIGJ5dGVzAAAAAAAAAAAAAAAAAAAAAAAA --hub http://u:hush@h:x --upstream u",
        ) else {
            panic!()
        };
        assert!(!error.contains("hush"), "{error}");
    }
}
