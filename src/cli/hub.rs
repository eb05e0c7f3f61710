//! `slime hub run`, `register`, `inspect`.

use core::fmt::Write as _;
use core::net::Ipv6Addr;
use std::borrow::Cow;
use std::path::Path;

use super::address::Address;
use super::admin;
use super::hub_args::{HubInspect, HubRegister, HubRun};
use super::normalise::{Normalised, help_line};
use super::secret::{BYTE_ORDER_MARK, hex, random, read, read_all, read_hub_secret, weakness};
use super::values::{cidr, items, number, origins, without_last_slash};
use super::{Failure, print, values};
use crate::config::{DEFAULT_HOLD, DEFAULT_PORT, HubConfig, Limits, SMALL_HOLD, SMALL_MACHINE};
use crate::net::run::{HubOptions, Listen, TlsFiles, check_hub, host_name, run_hub};
use crate::net::self_signed::{keep, pin};
use crate::net::sys::memory::memory;
use crate::net::sys::unix_seconds;
use crate::proto::tables::timer::CLOCK_IS_SET;
use crate::proto::trust::agent_token::{
    AgentToken, ClaimError, TokenError, TokenId, TokenKey, check_name, check_scope, check_scope_path,
};
use crate::proto::utc::Utc;

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

/// Makes an agent token.
pub(super) fn register(args: HubRegister, given: &Normalised) -> Result<u8, Failure> {
    let token = claims(&args, given, unix_seconds(), TokenId::new(random()?), random()?)?;
    let hub = hub_flags(&args, given)?;
    let secret = read_hub_secret(args.secret, args.secret_file, given)?;
    let key = TokenKey::derive(&secret);
    let text = token.seal(&key, random()?).map_err(|error| Failure::Usage(error.to_string()))?;
    match &args.out {
        Some(file) => write_token(file, &given.origin("--out"), &text)?,
        None => print(&format!("{text}\n"))?,
    }
    explain(&format!("{}{}", describe(&token), agent_command(args.out.as_deref(), &text, &hub)));
    if let Some(weakness) = weakness(&secret) {
        log::warn!("{weakness}");
    }
    if token.issued < CLOCK_IS_SET && token.expires.is_some() {
        log::warn!(
            "the clock of this machine is not set, so the token ends too early; set it, and register again"
        );
    }
    Ok(0)
}

/// The flags by which an agent finds this hub and knows it. What is not known is in capitals. A password in
/// the address is not shown.
fn hub_flags(args: &HubRegister, given: &Normalised) -> Result<String, Failure> {
    let typed = args.hub.as_deref().unwrap_or("HOST");
    let address = Address::parse(typed, DEFAULT_PORT)
        .map_err(|error| Failure::Usage(format!("{}: {error}", given.origin("--hub"))))?;
    let own = args.tls_self_signed.as_deref().filter(|_| address.is_tls || !typed.contains("://"));
    let scheme = match (own, address.is_tls) {
        (Some(_), _) | (None, true) => "https://",
        (None, false) if typed.contains("://") => "http://",
        (None, false) => "",
    };
    let user = if address.authorization.is_some() { "USER:PASSWORD@" } else { "" };
    let url = format!("{scheme}{user}{}{}", address.host_and_port(), address.base_path);
    let mut flags = format!("--hub {}", quoted(&url));
    if let Some(folder) = own {
        let pin = pin(folder.as_ref()).map_err(|why| {
            Failure::Runtime(format!("{}, {folder}: {why}", given.origin("--tls-self-signed")))
        })?;
        if pin.is_none() {
            log::warn!(
                "there is no certificate in {folder} yet; the hub makes it when it starts, and says its PIN"
            );
        }
        // Writing to a string does not fail.
        let _ = match pin {
            Some(pin) => write!(flags, " --hub-pin {pin}"),
            None => write!(flags, " --hub-pin PIN"),
        };
    }
    Ok(flags)
}

/// A line with the command that runs an agent. It has the token itself only if the token goes to a terminal:
/// no log is to hold what is piped away.
fn agent_command(out: Option<&str>, token: &str, hub: &str) -> String {
    use std::io::IsTerminal as _;
    let token = match out {
        Some(file) => format!("--token-file {}", quoted(file)),
        None if std::io::stdout().is_terminal() => format!("--token {token}"),
        None => "--token-file FILE".to_owned(),
    };
    format!("{:<12} slime agent {token} {hub} --upstream ADDRESS\n", "agent:")
}

/// As a shell reads it.
fn quoted(word: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-:@%+,=".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        Cow::Borrowed(word)
    } else {
        Cow::Owned(format!("'{}'", word.replace('\'', "'\\''")))
    }
}

/// Writes a token into a new file that nobody but its owner can read.
fn write_token(file: &str, origin: &str, token: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let mut new = std::fs::OpenOptions::new();
    let written = new.write(true).create_new(true).mode(0o600).open(file).and_then(|mut open| {
        open.write_all(format!("{token}\n").as_bytes()).and_then(|()| open.sync_all()).inspect_err(|_| {
            // Half a token is of no use. What went wrong is said below.
            let _ = std::fs::remove_file(file);
        })
    });
    written.map_err(|error| {
        let hint = if error.kind() == std::io::ErrorKind::AlreadyExists {
            "; a file that is there is not overwritten"
        } else {
            ""
        };
        Failure::Runtime(format!("cannot write the file of {origin}, {file}: {error}{hint}"))
    })
}

/// Shows what a token says.
pub(super) fn inspect(args: HubInspect, given: &Normalised) -> Result<u8, Failure> {
    let secret = read_hub_secret(args.secret, args.secret_file, given)?;
    let text = match args.token {
        Some(text) => text,
        None => read_all(from_terminal(std::io::stdin())).map_err(|error| {
            Failure::Runtime(format!("cannot read the token from the standard input: {error}"))
        })?,
    };
    let token = AgentToken::open(text.trim_start_matches(BYTE_ORDER_MARK).trim(), &TokenKey::derive(&secret))
        .map_err(|error| {
            let hint = if error == TokenError::Malformed && Path::new(text.trim()).exists() {
                "; to read a file, use `< FILE`"
            } else {
                ""
            };
            Failure::Runtime(format!("{error}{hint}"))
        })?;
    let mut text = describe(&token);
    if token.expired(unix_seconds()) {
        text.push_str("the token has expired\n");
    }
    print(&text)?;
    Ok(0)
}

/// The standard input. Somebody who sits before it is told that it is waited for.
fn from_terminal(input: std::io::Stdin) -> std::io::Stdin {
    use std::io::IsTerminal as _;
    if input.is_terminal() {
        explain("Paste the token, then press Enter and Ctrl-D.\n");
    }
    input
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
    let origin = given.origin("--trusted-proxy");
    let trusted_proxies = items(&args.trusted_proxy).map(cidr).collect::<Result<_, _>>();
    let trusted_proxies = trusted_proxies.map_err(|error| Failure::Usage(format!("{origin}: {error}")))?;
    let cors = origins(&args.cors)
        .map_err(|error| Failure::Usage(format!("{}: {error}", given.origin("--cors"))))?;
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

fn claims(
    args: &HubRegister,
    given: &Normalised,
    now: u64,
    id: TokenId,
    dice: [u8; 4],
) -> Result<AgentToken, Failure> {
    let wrong = |flag: &str, value: &str, error: ClaimError| {
        Failure::Usage(format!("{} '{}': {error}", given.origin(flag), value.escape_debug()))
    };
    let name = args.name.clone().unwrap_or_else(|| made_up_name(dice));
    check_name(&name).map_err(|error| wrong("--name", &name, error))?;
    let scopes: Vec<String> = items(&args.scopes).map(String::from).collect();
    for scope in &scopes {
        check_scope(scope).map_err(|error| wrong("--scopes", scope, error))?;
    }
    let scope_paths: Vec<String> = items(&args.scope_paths).map(without_last_slash).collect();
    for path in &scope_paths {
        check_scope_path(path).map_err(|error| wrong("--scope-paths", path, error))?;
    }
    let expires = args.age.map(|age| now.saturating_add(age.as_secs()));
    Ok(AgentToken { id, name, issued: now, expires, scopes, scope_paths, max_workers: args.max_workers })
}

fn describe(token: &AgentToken) -> String {
    let mut text = String::new();
    let list = |list: &[String], none: &str| if list.is_empty() { none.to_owned() } else { list.join(",") };
    let expires = token.expires.map_or("never".to_owned(), |expires| Utc(expires).to_string());
    let workers = token.max_workers.map_or("no limit".to_owned(), |workers| workers.to_string());
    for (what, value) in [
        ("id", token.id.to_string()),
        ("name", token.name.clone()),
        ("issued", Utc(token.issued).to_string()),
        ("expires", expires),
        ("scopes", list(&token.scopes, "none")),
        ("scope paths", list(&token.scope_paths, "all paths")),
        ("max workers", workers),
    ] {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{:<12} {value}", format!("{what}:"));
    }
    text
}

fn explain(text: &str) {
    use std::io::Write as _;
    // Nobody need be there to read it: the token is what counts.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// A name that is easy to say, with two random bytes at its end so that two are hardly ever the same.
fn made_up_name([first, second, rest @ ..]: [u8; 4]) -> String {
    const FIRST: [&str; 16] = [
        "amber", "bold", "calm", "dusty", "early", "faint", "glad", "hazel", "icy", "jolly", "keen", "late",
        "mild", "noble", "quiet", "swift",
    ];
    const SECOND: [&str; 16] = [
        "badger", "crane", "dove", "eagle", "finch", "gecko", "heron", "ibis", "jay", "koala", "lynx",
        "mole", "newt", "otter", "panda", "raven",
    ];
    let pick =
        |words: &[&'static str; 16], die: u8| words.get(usize::from(die % 16)).copied().unwrap_or_default();
    format!("{}-{}-{}", pick(&FIRST, first), pick(&SECOND, second), hex(&rest))
}

#[cfg(test)]
mod tests {
    use core::time::Duration;
    use std::ffi::OsString;

    use super::super::args::Command;
    use super::super::hub_args::HubCommand;
    use super::super::parse_words;
    use super::*;

    fn hub(line: &str, environment: &[(&str, &str)]) -> (HubCommand, Normalised) {
        let args = line.split_whitespace().map(String::from).collect();
        let environment = |name: &str| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        match parse_words(args, environment) {
            Ok((slime, given)) => match slime.command {
                Command::Hub(hub) => (hub.command, given),
                Command::Agent(_) | Command::Demo(_) | Command::Version(_) | Command::Completions(_) => {
                    panic!("{line}")
                }
            },
            Err(failure) => panic!("{line}: {failure:?}"),
        }
    }

    fn run_options(line: &str, environment: &[(&str, &str)]) -> Result<HubOptions, Failure> {
        match hub(line, environment) {
            (HubCommand::Run(args), given) => options(args, &given),
            (HubCommand::Inspect(_) | HubCommand::Register(_), _) => panic!("{line}"),
        }
    }

    fn registered(line: &str) -> Result<AgentToken, Failure> {
        match hub(line, &[]) {
            (HubCommand::Register(args), given) => {
                claims(&args, &given, 1000, TokenId::new([7; 8]), [0, 1, 2, 3])
            }
            (HubCommand::Inspect(_) | HubCommand::Run(_), _) => panic!("{line}"),
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
        let token = registered("hub register --secret s").unwrap();
        let text = token.seal(&from_file, [0; 12]).unwrap();
        assert_eq!(AgentToken::open(&text, &from_variable), Ok(token));
    }

    #[test]
    fn what_a_token_is_made_of() {
        let token = registered("hub register --secret s").unwrap();
        assert_eq!(token.name, "amber-crane-0203");
        assert_eq!((token.issued, token.expires, token.max_workers), (1000, None, None));
        let line = "hub register --secret s --name gpu-1 --age 1h2m3s --scopes gpu,big --scope-paths /v1/,/ --max-workers 4";
        let token = registered(line).unwrap();
        assert_eq!(token.expires, Some(1000 + Duration::from_secs(3723).as_secs()));
        assert_eq!(token.scopes, ["gpu", "big"]);
        assert_eq!(token.scope_paths, ["/v1", "/"]);
        let text = describe(&token);
        for part in [
            "id:          0707070707070707",
            "name:        gpu-1",
            "1970-01-01T01:18:43Z",
            "gpu,big",
            "/v1,/",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn what_a_token_cannot_say() {
        for (line, flag) in [
            ("hub register --secret s --name a/b", "--name 'a/b'"),
            ("hub register --secret s --scopes a,b;c", "--scopes 'b;c'"),
            ("hub register --secret s --scope-paths v1", "--scope-paths 'v1'"),
            ("hub register --secret s --scope-paths /a/../b", "--scope-paths '/a/../b'"),
        ] {
            let Err(Failure::Usage(error)) = registered(line) else { panic!("{line}") };
            assert!(error.starts_with(flag), "{error}");
        }
    }
}
