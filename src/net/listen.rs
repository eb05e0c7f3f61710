//! Where a process listens, and what is said when it cannot.

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::io;
use std::net::ToSocketAddrs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use log::info;

use super::shell::{Entrance, LISTENER_TOKENS};
use super::sys::{Listener, Sys};

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

/// Listeners, in the order of their tokens, and what each is for.
pub(super) type Entrances = Vec<(Listener, Entrance)>;

/// Adds the listeners for applications and agents.
pub(super) fn listen_for_requests(sys: &mut Sys, wishes: &[Listen], all: &mut Entrances) -> io::Result<()> {
    for wish in wishes {
        let entrance = if wish.is_tls { Entrance::Tls } else { Entrance::Plain };
        let listeners = listen_on(sys, wish, all.len(), ANYWHERE)?;
        all.extend(listeners.into_iter().map(|listener| (listener, entrance)));
    }
    Ok(())
}

/// Adds the listeners of the admin side. The log says where they are.
pub(super) fn listen_for_admin(sys: &mut Sys, wishes: &[AdminListen], all: &mut Entrances) -> io::Result<()> {
    for listen in wishes {
        match listen {
            AdminListen::Tcp { host, port, is_tls } => {
                let wish = Listen { host: host.clone(), port: *port, is_tls: *is_tls };
                let entrance = if *is_tls { Entrance::AdminTls } else { Entrance::Admin };
                for listener in listen_on(sys, &wish, all.len(), THIS_MACHINE)? {
                    let scheme = if *is_tls { "https" } else { "http" };
                    info!("status page at {scheme}://{}/", listener.local_addr()?);
                    all.push((listener, entrance));
                }
            }
            AdminListen::Unix { path, makes_folder } => {
                let token = LISTENER_TOKENS + u32::try_from(all.len()).unwrap_or(0);
                let listener = listen_on_file(sys, path, *makes_folder, token).map_err(|error| {
                    let is_taken = error.kind() == io::ErrorKind::AddrInUse;
                    let line =
                        if is_taken { "another process listens there".into() } else { error.to_string() };
                    let line =
                        format!("cannot listen on unix:{}: {line}; choose another --admin", path.display());
                    io::Error::new(error.kind(), line)
                })?;
                info!("status page at unix:{}", path.display());
                all.push((listener, Entrance::AdminUnix));
            }
        }
    }
    Ok(())
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
