//! `slime hub register` and `inspect`: agent tokens are made and read.

use core::fmt::Write as _;
use std::borrow::Cow;
use std::path::Path;

use super::address::Address;
use super::hub_args::{HubInspect, HubRegister};
use super::normalise::Normalised;
use super::secret::{BYTE_ORDER_MARK, hex, random, read_all, read_hub_secret, weakness};
use super::values::{items, without_last_slash};
use super::{Failure, print};
use crate::config::DEFAULT_PORT;
use crate::net::self_signed::pin;
use crate::net::sys::unix_seconds;
use crate::proto::tables::timer::CLOCK_IS_SET;
use crate::proto::trust::agent_token::{
    AgentToken, ClaimError, TokenError, TokenId, TokenKey, check_name, check_scope, check_scope_path,
};
use crate::proto::utc::Utc;

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

/// The flags by which an agent finds this hub and knows it. What is not known is in capitals. A password in
/// the address is not shown.
fn hub_flags(args: &HubRegister, given: &Normalised) -> Result<String, Failure> {
    let typed = args.hub.as_deref().unwrap_or("HOST");
    let address = Address::parse(typed, DEFAULT_PORT).map_err(given.wrong("--hub"))?;
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

    use super::super::hub_args::{HubCommand, parse};
    use super::*;

    fn registered(line: &str) -> Result<AgentToken, Failure> {
        match parse(line, &[]) {
            (HubCommand::Register(args), given) => {
                claims(&args, &given, 1000, TokenId::new([7; 8]), [0, 1, 2, 3])
            }
            (HubCommand::Inspect(_) | HubCommand::Run(_), _) => panic!("{line}"),
        }
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
