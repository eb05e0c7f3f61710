//! `slime hub run`.

use core::net::Ipv6Addr;

use super::admin;
use super::hub_args::HubRun;
use super::normalise::{Normalised, help_line};
use super::secret::{read, read_hub_secret, weakness};
use super::values::{cidr, items, number, origins};
use super::{Failure, values};
use crate::config::{DEFAULT_HOLD, HubConfig, Limits, SMALL_HOLD, SMALL_MACHINE};
use crate::net::run::{HubOptions, Listen, TlsFiles, check_hub, host_name, run_hub};
use crate::net::self_signed::keep;
use crate::net::sys::memory::memory;
use crate::net::sys::unix_seconds;
use crate::proto::trust::agent_token::TokenKey;

/// Runs a hub until it is told to end.
pub(super) fn run(args: HubRun, given: &Normalised) -> Result<u8, Failure> {
    let folder = args.tls_self_signed.clone();
    let check = args.check;
    let mut options = options(args, given)?;
    if check {
        return check_hub(&options, unix_seconds())
            .map(|()| 0)
            .map_err(|error| Failure::Runtime(error.to_string()));
    }
    let made = match &folder {
        Some(folder) => keep(folder.as_ref(), names(&options.listen)).map(|files| options.tls = Some(files)),
        None => Ok(()),
    };
    made.and_then(|()| run_hub(options)).map_err(|error| {
        log::error!("the hub stopped: {error}");
        Failure::Logged
    })
}

/// What a hub that makes its own certificate may be called.
fn names(listen: &[Listen]) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(String::from).into();
    names.extend(listen.iter().filter_map(|listen| listen.host.clone()).chain(host_name()));
    names.sort_unstable();
    names.dedup();
    names
}

fn options(args: HubRun, given: &Normalised) -> Result<HubOptions, Failure> {
    let tls = tls_files(&args)?;
    let secret = read_hub_secret(args.secret, args.secret_file, given)?;
    let app_password = read(args.app_password, args.app_password_file, "--app-password", given)?;
    let is_short = app_password.as_deref().map_or(Ok(()), values::app_password);
    is_short.map_err(|error| Failure::Usage(format!("--app-password: {error}")))?;
    let admin = admin::Flags {
        admin: args.admin,
        password: args.admin_password,
        password_file: args.admin_password_file,
        view_password: args.admin_view_password,
        view_password_file: args.admin_view_password_file,
    };
    let admin = admin::options(admin, "hub", tls.is_some(), |name| std::env::var_os(name), given)?;
    let trusted_proxies = items(&args.trusted_proxy).map(cidr).collect::<Result<_, _>>();
    let trusted_proxies = trusted_proxies.map_err(given.wrong("--trusted-proxy"))?;
    let cors = origins(&args.cors).map_err(given.wrong("--cors"))?;
    let hosts: Result<Vec<_>, Failure> =
        items(&args.host).map(|host| plain_host(host, given).map(Some)).collect();
    let mut hosts = hosts?;
    if hosts.is_empty() {
        hosts.push(None);
    }
    // One port for all, unless there is one for TLS.
    let ports =
        [Some((args.port, tls.is_some() && args.tls_port.is_none())), args.tls_port.map(|port| (port, true))];
    let listen = ports
        .into_iter()
        .flatten()
        .flat_map(|(port, is_tls)| hosts.iter().map(move |host| Listen { host: host.clone(), port, is_tls }));
    let listen = listen.collect();
    let limits = Limits {
        head: args.head_timeout,
        body: args.body_timeout,
        idle: args.idle_timeout,
        stall: args.stall_timeout,
        response: args.response_timeout,
        heartbeat: args.heartbeat,
        ..Limits::default()
    };
    let config = HubConfig {
        name: HubConfig::default().name,
        concurrent: args.concurrent,
        queue_depth: args.queue_depth,
        hold: args.hold.unwrap_or_else(|| default_hold(memory())),
        queue_timeout: args.queue_timeout,
        max_clients: args.max_clients,
        max_tunnels: args.max_tunnels,
        max_body: args.max_body,
        app_password,
        cors,
        trusted_proxies,
        redirect: args.tls_port.filter(|_| args.tls_redirect),
        agent_grace: args.agent_grace,
        startup_grace: args.startup_grace,
        drain_timeout: args.drain_timeout,
        upgrade_drain: args.upgrade_drain,
        limits,
    };
    Ok(HubOptions {
        listen,
        config,
        token_key: TokenKey::derive(&secret),
        weakness: weakness(&secret),
        revoked: args.revoked,
        tls,
        admin,
        drain_delay: args.drain_delay,
    })
}

/// What requests that wait may hold, unless the operator says it.
fn default_hold(memory: u64) -> u64 {
    if memory < SMALL_MACHINE { SMALL_HOLD } else { DEFAULT_HOLD }
}

/// What TLS is to show, if it is to be spoken.
fn tls_files(args: &HubRun) -> Result<Option<TlsFiles>, Failure> {
    let usage = |line: &str| Err(Failure::Usage(format!("{line}; {}", help_line("hub run"))));
    let files = match (&args.tls_cert, &args.tls_key, &args.tls_self_signed) {
        (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => {
            return usage(
                "--tls-self-signed makes a certificate and a key; leave out --tls-cert and --tls-key",
            );
        }
        (Some(certificate), Some(key), None) => {
            TlsFiles { certificate: certificate.into(), key: key.into(), is_own: false }
        }
        // The files are not known before the folder was looked at.
        (None, None, Some(folder)) => {
            TlsFiles { certificate: folder.into(), key: folder.into(), is_own: true }
        }
        (Some(_), None, None) => return usage("--tls-cert needs --tls-key: the file of the private key"),
        (None, Some(_), None) => return usage("--tls-key needs --tls-cert: the file of the certificate"),
        (None, None, None) if args.tls_port.is_some() => {
            return usage("--tls-port needs --tls-cert and --tls-key, or --tls-self-signed");
        }
        (None, None, None) if args.tls_redirect => {
            return usage("--tls-redirect needs --tls-port, --tls-cert and --tls-key");
        }
        (None, None, None) => return Ok(None),
    };
    match args.tls_port {
        None if args.tls_redirect => {
            usage("--tls-redirect needs --tls-port; plain requests then come to --port")
        }
        Some(port) if port == args.port && port != 0 => {
            usage("--tls-port is the same as --port; leave it out for TLS alone")
        }
        Some(_) | None => Ok(Some(files)),
    }
}

/// An IPv6 address may stand in brackets, as it does in URLs. The port is another flag's.
fn plain_host(text: &str, given: &Normalised) -> Result<String, Failure> {
    let host = text.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(text);
    let wrong = |hint: &str| {
        let origin = given.origin("--host");
        Err(Failure::Usage(format!("{origin} '{}' is not a name or an address{hint}", text.escape_debug())))
    };
    // An IPv6 address may name its interface, as fe80::1%eth0.
    let is_address = host.split('%').next().is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    if host.contains("://") {
        return wrong("; leave out the scheme");
    }
    if is_address || !host.contains(':') {
        return Ok(host.to_owned());
    }
    match text.rsplit_once(':').and_then(|(host, port)| Some((host, number::<u16>(port)?))) {
        Some((host, port)) => wrong(&format!("; write --host {} --port {port}", host.escape_debug())),
        None => wrong(""),
    }
}

#[cfg(test)]
mod tests {
    use super::super::hub_args::{HubCommand, parse};
    use super::*;
    use crate::proto::trust::agent_token::{AgentToken, TokenId};

    fn run_options(line: &str, environment: &[(&str, &str)]) -> Result<HubOptions, Failure> {
        match parse(line, environment) {
            (HubCommand::Run(args), given) => options(args, &given),
            (HubCommand::Inspect(_) | HubCommand::Register(_), _) => panic!("{line}"),
        }
    }

    #[test]
    fn defaults() {
        let options = run_options("hub --secret s", &[]).unwrap();
        assert_eq!(options.listen, [Listen { host: None, port: 8080, is_tls: false }]);
        assert_eq!((options.tls, options.config.redirect), (None, None));
        let (config, default) = (options.config, HubConfig::default());
        assert_eq!(config.concurrent, default.concurrent);
        assert_eq!(config.limits.response, None);
        assert_eq!(config.limits.linger, default.limits.linger);
        assert_eq!(config.app_password, None);
    }

    #[test]
    fn a_small_machine_holds_less() {
        assert_eq!([64, 255].map(|megabytes| default_hold(megabytes << 20)), [SMALL_HOLD; 2]);
        assert_eq!([256, 4096].map(|megabytes| default_hold(megabytes << 20)), [DEFAULT_HOLD; 2]);
    }

    #[test]
    fn every_flag_arrives() {
        let line = "hub run --secret s --host 127.0.0.1 --host [::1],localhost --port 0 --concurrent 1 --queue-depth 0 \
                    --queue-timeout 0 --hold 3m --max-clients 2 --max-tunnels 3 --max-body 1k --app-password p \
                    --trusted-proxy 10.0.0.0/8,::1 --trusted-proxy 192.168.0.0/16 --agent-grace 3 --startup-grace 0 --drain-timeout 4 --revoked r \
                    --response-timeout 5 --head-timeout 6 --body-timeout 7 --idle-timeout 8 --stall-timeout 9 --heartbeat 10 --upgrade-drain 11";
        let HubOptions { listen, config, revoked, .. } = run_options(line, &[]).unwrap();
        assert_eq!(revoked.as_deref(), Some("r"));
        let hosts: Vec<_> = listen.iter().map(|listen| listen.host.as_deref().unwrap()).collect();
        assert_eq!(hosts, ["127.0.0.1", "::1", "localhost"]);
        assert!(listen.iter().all(|listen| listen.port == 0));
        assert_eq!((config.concurrent, config.queue_depth, config.hold), (1, 0, 3 << 20));
        assert_eq!((config.max_clients, config.max_tunnels, config.max_body), (2, 3, Some(1024)));
        assert_eq!(config.app_password.as_deref(), Some("p"));
        assert_eq!(config.trusted_proxies.len(), 3);
        let seconds = [
            config.queue_timeout,
            config.agent_grace,
            config.startup_grace,
            config.drain_timeout,
            config.limits.response.unwrap(),
            config.limits.head,
            config.limits.body,
            config.limits.idle,
            config.limits.stall,
            config.limits.heartbeat,
            config.upgrade_drain,
        ]
        .map(|time| time.as_secs());
        assert_eq!(seconds, [0, 3, 0, 4, 5, 6, 7, 8, 9, 10, 11]);
    }

    #[test]
    fn tls_has_the_one_port_or_one_of_its_own() {
        let ports = |line: &str| {
            let options =
                run_options(&format!("hub --secret s --tls-cert c --tls-key k {line}"), &[]).unwrap();
            assert_eq!(
                options.tls,
                Some(TlsFiles { certificate: "c".into(), key: "k".into(), is_own: false })
            );
            let ports: Vec<_> = options.listen.iter().map(|listen| (listen.port, listen.is_tls)).collect();
            (ports, options.config.redirect)
        };
        assert_eq!(ports(""), (vec![(8080, true)], None));
        assert_eq!(ports("--port 1"), (vec![(1, true)], None));
        assert_eq!(ports("--tls-port 2"), (vec![(8080, false), (2, true)], None));
        assert_eq!(
            ports("--port 80 --tls-port 443 --tls-redirect"),
            (vec![(80, false), (443, true)], Some(443))
        );
        assert_eq!(ports("--port 0 --tls-port 0 --host a,b").0.len(), 4);
        for (line, reason) in [
            ("--tls-cert c", "--tls-cert needs --tls-key"),
            ("--tls-self-signed d --tls-key k", "leave out --tls-cert and --tls-key"),
            ("--tls-key k", "--tls-key needs --tls-cert"),
            ("--tls-port 1", "--tls-port needs --tls-cert"),
            ("--tls-redirect", "--tls-redirect needs --tls-port"),
            ("--tls-cert c --tls-key k --tls-redirect", "--tls-redirect needs --tls-port"),
            ("--tls-cert c --tls-key k --port 1 --tls-port 1", "the same as --port"),
        ] {
            let Err(Failure::Usage(error)) = run_options(&format!("hub --secret s {line}"), &[]) else {
                panic!("{line}")
            };
            assert!(error.contains(reason), "{line}: {error}");
        }
    }

    #[test]
    fn the_secret_must_come_from_somewhere() {
        let Err(Failure::Usage(line)) = run_options("hub", &[]) else { panic!() };
        assert!(line.contains("--secret-file") && line.contains("SLIME_SECRET"), "{line}");
        assert!(run_options("hub", &[("SLIME_SECRET", "s")]).is_ok());
        let Err(Failure::Usage(line)) = run_options("hub", &[("SLIME_SECRET", " \n")]) else { panic!() };
        assert_eq!(line, "SLIME_SECRET is empty");
        let Err(Failure::Runtime(line)) = run_options("hub --secret-file /nonexistent/file", &[]) else {
            panic!()
        };
        assert!(line.contains("--secret-file, /nonexistent/file"), "{line}");
        let Err(Failure::Usage(line)) = run_options("hub --secret s --trusted-proxy x", &[]) else {
            panic!()
        };
        assert!(line.starts_with("--trusted-proxy: 'x' is not an address"), "{line}");
    }

    #[test]
    fn a_file_and_a_variable_with_the_same_secret_make_the_same_key() {
        let path = std::env::temp_dir().join(format!("slime-secret-{}", std::process::id()));
        std::fs::write(&path, "open sesame\r\n").unwrap();
        let from_file = run_options(&format!("hub --secret-file {}", path.display()), &[]).unwrap().token_key;
        std::fs::remove_file(&path).unwrap();
        let from_variable = run_options("hub", &[("SLIME_SECRET", "open sesame")]).unwrap().token_key;
        let token = AgentToken {
            id: TokenId::new([7; 8]),
            name: "gpu-1".into(),
            issued: 1000,
            expires: None,
            scopes: Vec::new(),
            scope_paths: Vec::new(),
            max_workers: None,
        };
        let text = token.seal(&from_file, [0; 12]).unwrap();
        assert_eq!(AgentToken::open(&text, &from_variable), Ok(token));
    }
}
