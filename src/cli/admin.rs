//! Where hub and agent are to be asked about themselves, and what must be shown there.

use core::net::{IpAddr, Ipv6Addr};
use std::ffi::OsString;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::PathBuf;

use super::Failure;
use super::normalise::Normalised;
use super::secret::read;
use super::values::{items, number};
use crate::config::{AdminConfig, Page};
use crate::logging;
use crate::net::run::{AdminListen, AdminOptions, host_name};
use crate::net::sys::process::usage;
use crate::page;
use crate::proto::admin::machine::{LogLine, Machine, Usage};

/// The flags, as they were given.
pub(super) struct Flags {
    pub(super) admin: Vec<String>,
    pub(super) password: Option<String>,
    pub(super) password_file: Option<String>,
    pub(super) view_password: Option<String>,
    pub(super) view_password_file: Option<String>,
}

/// What the flags say. `role` is `hub` or `agent`; `has_tls` if there is a certificate to show.
pub(super) fn options(
    flags: Flags,
    role: &str,
    has_tls: bool,
    environment: impl Fn(&str) -> Option<OsString>,
    given: &Normalised,
) -> Result<AdminOptions, Failure> {
    let password = read(flags.password, flags.password_file, "--admin-password", given)?;
    let view_password = read(flags.view_password, flags.view_password_file, "--admin-view-password", given)?;
    let is_guarded = password.is_some() || view_password.is_some();
    let origin = given.origin("--admin");
    let listen = items(&flags.admin)
        .map(|text| {
            let wrong = |line: &str| Failure::Usage(format!("{origin} '{}': {line}", text.escape_debug()));
            let listen = parse(text, role, &environment).ok_or_else(|| {
                wrong("an admin address is a port, HOST:PORT, https://HOST:PORT, unix:PATH or unix")
            })?;
            match &listen {
                AdminListen::Tcp { is_tls: true, .. } if !has_tls => {
                    Err(wrong("https:// needs a certificate: --tls-cert and --tls-key, at the hub"))
                }
                AdminListen::Tcp { host: Some(host), .. } if !is_guarded && !is_loopback(host) => Err(wrong(
                    "beyond this machine a password is needed: --admin-password-file or --admin-view-password-file",
                )),
                AdminListen::Tcp { .. } | AdminListen::Unix { .. } => Ok(listen),
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    if !listen.is_empty() {
        logging::remember();
    }
    Ok(AdminOptions {
        listen,
        config: AdminConfig {
            password,
            view_password,
            page: Some(Page { gzip: page::PAGE, etag: page::ETAG, csp: page::CSP }),
            pid: Some(std::process::id()),
            instance: instance(),
            host: host_name(),
            machine: Some(&ThisMachine),
            front: None,
        },
    })
}

/// A number that another run of the process does not have.
fn instance() -> u32 {
    let drawn = RandomState::new().build_hasher().finish();
    u32::try_from(drawn >> 32).unwrap_or_default()
}

/// What the admin side tells of the machine.
struct ThisMachine;

impl Machine for ThisMachine {
    fn log_lines(&self) -> Vec<LogLine> {
        logging::last_lines()
    }

    fn lost_lines(&self) -> u64 {
        logging::lost_lines()
    }

    fn usage(&self) -> Usage {
        usage()
    }
}

/// One address of `--admin`. None if it is none. `role` is `hub` or `agent`.
pub(super) fn parse(
    text: &str,
    role: &str,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Option<AdminListen> {
    if text == "unix" {
        return Some(AdminListen::Unix { path: usual_socket(role, environment), makes_folder: true });
    }
    if let Some(path) = text.strip_prefix("unix:") {
        let unix = AdminListen::Unix { path: path.into(), makes_folder: false };
        return (!path.is_empty()).then_some(unix);
    }
    if let Some(port) = number(text) {
        return Some(AdminListen::Tcp { host: None, port, is_tls: false });
    }
    let (is_tls, rest) = match text.split_once("://") {
        None => (false, text),
        Some(("https", rest)) => (true, rest),
        Some(("http", rest)) => (false, rest),
        Some(_) => return None,
    };
    let (host, port) = rest.strip_suffix('/').unwrap_or(rest).rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(host) => host.strip_suffix(']').filter(|host| host.parse::<Ipv6Addr>().is_ok())?,
        None => Some(host).filter(|host| !host.is_empty() && !host.contains([':', '/', '@']))?,
    };
    Some(AdminListen::Tcp { host: Some(host.to_owned()), port: number(port)?, is_tls })
}

/// Where the socket is if nobody says it: in the folder that the service manager has made, else in that of
/// the user, else in that of the system.
fn usual_socket(role: &str, environment: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let folder = |name: &str| {
        let value = environment(name)?.into_string().ok()?;
        // systemd.exec(5), RuntimeDirectory=: several are separated by colons.
        value.split(':').next().filter(|first| first.starts_with('/')).map(PathBuf::from)
    };
    let folder = folder("RUNTIME_DIRECTORY").unwrap_or_else(|| {
        let all = folder("XDG_RUNTIME_DIR").unwrap_or_else(|| "/run".into());
        all.join("slime").join(role)
    });
    folder.join("admin.sock")
}

/// A name is taken for one of this machine only if it can be nothing else.
fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|it| it.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(text: &str, password: Option<&str>, has_tls: bool) -> Result<Vec<AdminListen>, String> {
        let flags = Flags {
            admin: vec![text.to_owned()],
            password: None,
            password_file: None,
            view_password: password.map(String::from),
            view_password_file: None,
        };
        match options(flags, "hub", has_tls, |_| None, &Normalised::default()) {
            Ok(options) => Ok(options.listen),
            Err(Failure::Usage(line)) => Err(line),
            Err(failure) => panic!("{text}: {failure:?}"),
        }
    }

    fn tcp(host: Option<&str>, port: u16, is_tls: bool) -> AdminListen {
        AdminListen::Tcp { host: host.map(String::from), port, is_tls }
    }

    #[test]
    fn addresses() {
        assert_eq!(listen("8081", None, false), Ok(vec![tcp(None, 8081, false)]));
        assert_eq!(
            listen("127.0.0.1:0,[::1]:1,http://localhost:2/", None, false),
            Ok(vec![
                tcp(Some("127.0.0.1"), 0, false),
                tcp(Some("::1"), 1, false),
                tcp(Some("localhost"), 2, false)
            ])
        );
        assert_eq!(listen("https://0.0.0.0:1", Some("p"), true), Ok(vec![tcp(Some("0.0.0.0"), 1, true)]));
        let unix = |path: &str, makes_folder| AdminListen::Unix { path: path.into(), makes_folder };
        assert_eq!(
            listen("unix:/a/b,unix", None, false),
            Ok(vec![unix("/a/b", false), unix("/run/slime/hub/admin.sock", true)])
        );
        assert_eq!(listen("", None, false), Ok(vec![]));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for text in ["h", "65536", "h:", ":1", "::1:1", "[h]:1", "ftp://h:1", "h:1/x", "u@h:1", "unix:"] {
            let line = listen(text, Some("p"), true).unwrap_err();
            assert!(line.contains("is a port, HOST:PORT"), "{line}");
        }
        for text in ["0.0.0.0:1", "[::]:1", "example.org:1", "127.0.0.1.example.org:1"] {
            assert!(listen(text, None, false).unwrap_err().contains("a password is needed"), "{text}");
        }
        assert!(listen("https://127.0.0.1:1", None, false).unwrap_err().contains("needs a certificate"));
    }

    #[test]
    fn the_usual_socket() {
        let socket = |set: &[(&str, &str)]| {
            let found =
                |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into());
            usual_socket("agent", found).display().to_string()
        };
        assert_eq!(socket(&[]), "/run/slime/agent/admin.sock");
        assert_eq!(socket(&[("XDG_RUNTIME_DIR", "/run/user/1")]), "/run/user/1/slime/agent/admin.sock");
        let both = [("XDG_RUNTIME_DIR", "/x"), ("RUNTIME_DIRECTORY", "/run/slime/agent-a:/run/b")];
        assert_eq!(socket(&both), "/run/slime/agent-a/admin.sock");
    }
}
