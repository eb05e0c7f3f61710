//! Asking the admin side of a hub or agent that runs on this machine, or elsewhere.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Failure;
use super::admin;
use super::normalise::Normalised;
use super::values::items;
use crate::net::run::AdminListen;
use crate::net::sys::monotonic_micros;

/// For the whole of an answer.
const LIMIT: Duration = Duration::from_secs(3);
/// The longest answer in bytes.
const LONGEST: u64 = 64 * 1024;

/// Where to ask.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A port, at each of these hosts in turn.
    Tcp { hosts: Vec<String>, port: u16 },
    /// A socket.
    Unix(PathBuf),
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    /// The status of HTTP.
    pub(super) status: u16,
    /// The body.
    pub(super) text: String,
}

impl Place {
    /// The place that `--admin` names, of several the first one; else the socket of a process of this
    /// machine.
    pub(super) fn find(
        admin: Option<&str>,
        given: &Normalised,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, Failure> {
        match admin.and_then(|admin| items(&[admin.to_owned()]).next().map(str::to_owned)) {
            None => usual(&environment),
            Some(text) if text == "unix" => usual(&environment),
            Some(text) => Self::parse(&text, given),
        }
    }

    fn parse(text: &str, given: &Normalised) -> Result<Self, Failure> {
        let wrong = |line: &str| {
            Failure::Usage(format!("{} '{}': {line}", given.origin("--admin"), text.escape_debug()))
        };
        // The role tells only where the usual socket is.
        match admin::parse(text, "hub", |_| None) {
            None => Err(wrong("an admin address is a port, HOST:PORT, unix:PATH or unix")),
            Some(AdminListen::Tcp { is_tls: true, .. }) => {
                Err(wrong("this command does not speak HTTPS; ask by the unix socket, or by curl"))
            }
            Some(AdminListen::Unix { path, .. }) => Ok(Self::Unix(path)),
            Some(AdminListen::Tcp { host, port, .. }) => {
                let hosts = match host.as_deref() {
                    // The whole of this machine listens: ask it here.
                    None => vec!["127.0.0.1".to_owned(), "::1".to_owned()],
                    Some("0.0.0.0") => vec!["127.0.0.1".to_owned()],
                    Some("::") => vec!["::1".to_owned()],
                    Some(host) => vec![host.to_owned()],
                };
                Ok(Self::Tcp { hosts, port })
            }
        }
    }

    fn connect(&self, until: Deadline) -> io::Result<Box<dyn Stream>> {
        let (hosts, port) = match self {
            Self::Unix(path) => return Ok(Box::new(UnixStream::connect(path)?)),
            Self::Tcp { hosts, port } => (hosts, *port),
        };
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for host in hosts {
            for address in (host.as_str(), port).to_socket_addrs()? {
                match TcpStream::connect_timeout(&address, until.left()?) {
                    Ok(stream) => return Ok(Box::new(stream)),
                    Err(error) => last = error,
                }
            }
        }
        Err(last)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { hosts, port } => match hosts.first().map(String::as_str).unwrap_or_default() {
                host if host.contains(':') => write!(f, "[{host}]:{port}"),
                host => write!(f, "{host}:{port}"),
            },
        }
    }
}

/// A time to come.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    micros: u64,
}

impl Deadline {
    /// So long from now.
    pub(super) fn after(time: Duration) -> Self {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self { micros: monotonic_micros().saturating_add(micros) }
    }

    /// What is left until then; nothing if it has passed.
    pub(super) fn time_left(self) -> Duration {
        Duration::from_micros(self.micros.saturating_sub(monotonic_micros()))
    }

    /// As [`Deadline::time_left`]; an error once there is none.
    fn left(self) -> io::Result<Duration> {
        let left = self.time_left();
        if left.is_zero() { Err(late()) } else { Ok(left) }
    }
}

/// Asks for a path, and waits three seconds for the answer.
pub(super) fn ask(place: &Place, path: &str) -> Result<Answer, Failure> {
    let until = Deadline::after(LIMIT);
    let answer = place.connect(until).and_then(|stream| exchange(stream, path, until));
    answer.map_err(|error| Failure::Runtime(format!("{place} cannot be asked: {error}")))
}

/// What a socket of either kind can do.
trait Stream: Read + Write {
    fn limit(&self, left: Duration) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn limit(&self, left: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(left))?;
        self.set_write_timeout(Some(left))
    }
}

impl Stream for UnixStream {
    fn limit(&self, left: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(left))?;
        self.set_write_timeout(Some(left))
    }
}

fn exchange(mut stream: Box<dyn Stream>, path: &str, until: Deadline) -> io::Result<Answer> {
    stream.limit(until.left()?)?;
    // HTTP/1.0 ends a response with the connection.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut raw = Vec::new();
    let mut piece = [0; 4096];
    loop {
        stream.limit(until.left()?)?;
        let length = match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(late()),
            Err(error) => return Err(error),
        };
        raw.extend_from_slice(piece.get(..length).unwrap_or_default());
        if raw.len() as u64 > LONGEST {
            return Err(io::Error::other("its answer is too long"));
        }
    }
    let text = String::from_utf8_lossy(&raw);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|it| it.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("its answer is no HTTP"))?;
    Ok(Answer { status, text: body.to_owned() })
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer within 3 s")
}

/// The socket of a process that runs with `--admin unix`. Of several it is the hub's, and the others are
/// named.
fn usual(environment: impl Fn(&str) -> Option<OsString>) -> Result<Place, Failure> {
    let mut folders = vec![PathBuf::from("/run"), PathBuf::from("/var/run")];
    folders.extend(environment("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_absolute()));
    let mut found = sockets(&folders);
    // `run/slime/hub/admin.sock` before those of agents.
    found.sort_by_key(|path| (!path.parent().is_some_and(|folder| folder.ends_with("hub")), path.clone()));
    let mut found = found.into_iter();
    let first = found.next().ok_or_else(|| {
        Failure::Runtime(
            "nothing was asked: no admin address is given, and no slime runs with one at the usual place; \
             start it with `slime hub --admin unix ...`, or say `--admin 127.0.0.1:8081`"
                .into(),
        )
    })?;
    let others: Vec<String> = found.map(|path| format!("--admin unix:{}", path.display())).collect();
    if !others.is_empty() {
        log::info!("asked at unix:{}; there is also {}", first.display(), others.join(", "));
    }
    Ok(Place::Unix(first))
}

/// The sockets below `slime` in these folders that somebody listens at. One that can be reached by two names
/// is one.
fn sockets(folders: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for folder in folders.iter().filter_map(|folder| fs::canonicalize(folder.join("slime")).ok()) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path().join("admin.sock");
            if !found.contains(&path) && is_open(&path) {
                found.push(path);
            }
        }
    }
    found
}

fn is_open(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|it| it.file_type().is_socket()) && UnixStream::connect(path).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn place(text: &str) -> Result<Place, String> {
        Place::find(Some(text), &Normalised::default(), |_| None).map_err(|failure| match failure {
            Failure::Usage(line) | Failure::Runtime(line) => line,
            Failure::Help(_) | Failure::Logged => panic!("{failure:?}"),
        })
    }

    #[test]
    fn places() {
        let tcp = |hosts: &[&str], port| {
            Ok(Place::Tcp { hosts: hosts.iter().map(|host| (*host).to_owned()).collect(), port })
        };
        assert_eq!(place("8081"), tcp(&["127.0.0.1", "::1"], 8081));
        assert_eq!(place("0.0.0.0:8081,unix"), tcp(&["127.0.0.1"], 8081));
        assert_eq!(place("[::]:1"), tcp(&["::1"], 1));
        assert_eq!(place("http://hub.example:1/"), tcp(&["hub.example"], 1));
        assert_eq!(place("unix:/a/b"), Ok(Place::Unix("/a/b".into())));
        for (text, why) in [("https://h:1", "does not speak HTTPS"), ("h", "is a port, HOST:PORT")] {
            let line = place(text).unwrap_err();
            assert!(line.starts_with(&format!("--admin '{text}': ")) && line.contains(why), "{line}");
        }
        assert_eq!(place("[::1]:5").unwrap().to_string(), "[::1]:5");
    }

    #[test]
    fn only_open_sockets_are_found_and_the_hub_comes_first() {
        let root = std::env::temp_dir().join(format!("slime-ask-{}", std::process::id()));
        let socket = |name: &str| {
            let folder = root.join("slime").join(name);
            fs::create_dir_all(&folder).unwrap();
            UnixListener::bind(folder.join("admin.sock")).unwrap()
        };
        let run = |_: &str| Some(OsString::from(&root));
        let (_agent, closed) = (socket("agent"), socket("agent-b"));
        drop(closed);
        fs::create_dir_all(root.join("slime/empty")).unwrap();
        let folder = fs::canonicalize(&root).unwrap().join("slime");
        assert_eq!(sockets(&[root.clone(), root.clone()]), [folder.join("agent/admin.sock")]);
        let _hub = socket("hub");
        assert_eq!(sockets(std::slice::from_ref(&root)).len(), 2);
        if sockets(&["/run".into(), "/var/run".into()]).is_empty() {
            assert_eq!(usual(run).unwrap(), Place::Unix(folder.join("hub/admin.sock")));
        }
        fs::remove_dir_all(&root).unwrap();
    }
}
