//! `slime demo`: a hub and an agent on this machine, through the very commands that a user would type.
//!
//! The two run as child processes of this one and write their log lines to it through pipes; the upstream,
//! unless one is named, runs in threads of this process ([`super::demo_upstream`]). Everything that happens
//! comes as an [`Event`] through one channel to the main thread, which alone prints. The demo ends with
//! everything it started: when it is told to, when a child ends, when nobody reads what it prints, and, by
//! the parent-death signal (prctl(2)), when it is killed itself.

use core::fmt;
use core::time::Duration;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::{env, thread};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::address::{Address, HTTP_PORT};
use super::args::Demo;
use super::normalise::Normalised;
use super::secret::{hex, random};
use super::{Failure, demo_upstream};
use crate::config::DEFAULT_PORT;
use crate::net::sys::process::{end_with_parent, terminate};

/// Set for the children: the process that they must not outlive. It is no flag, so it has no place among the
/// flags' names.
pub(super) const PARENT: &str = "SLIME_DEMO_PARENT";
/// How long the children have to end by themselves.
const GRACE: Duration = Duration::from_secs(3);
/// How often, and how many times, the hub is tried until it listens.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const TRIES: u32 = 500;
/// After this long without an answer the user is told where to look.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most of the first answer that is read, in bytes, and that is shown, in lines.
const MAX_ANSWER: u64 = 16 * 1024;
const MAX_LINES: usize = 24;

/// In a child of a demo: asks the system to end this process with its parent. True if the parent is gone
/// already.
pub(super) fn is_orphaned_child() -> bool {
    let Some(parent) = env::var(PARENT).ok().and_then(|pid| pid.parse().ok()) else { return false };
    !end_with_parent(parent)
}

/// Runs the demo until it is told to end.
pub(super) fn run(args: &Demo, given: &Normalised) -> Result<u8, Failure> {
    if let Some(upstream) = &args.upstream {
        Address::parse(upstream, HTTP_PORT).map_err(given.wrong("--upstream"))?;
    }
    let secret = hex(&random::<16>()?);
    let failed = |error| Failure::Runtime(format!("the demo cannot run: {error}"));
    let port = choose_port(args.port, DEFAULT_PORT).map_err(failed)?;
    let (sender, events) = channel();
    watch_signals(&sender).map_err(failed)?;
    let upstream = match &args.upstream {
        Some(upstream) => upstream.clone(),
        None => start_upstream(&sender).map_err(failed)?,
    };
    let mut show = Show { events, sender, hub: None, agent: None };
    let admin_port = port_beside(port).map_err(failed)?;
    let plan = Plan::new(secret, port, admin_port, upstream, args.upstream.is_none());
    let end = show.play(&plan).map_err(failed);
    show.stop();
    match end? {
        End::Told => Ok(0),
        End::Child => Ok(1),
    }
}

/// What happened.
enum Event {
    /// One of them has something to say.
    Line(Voice, String),
    /// A child closed its log: it has ended.
    Ended(Voice),
    /// The demo's own request was answered.
    Answer(io::Result<Vec<u8>>),
    /// `SIGINT`, `SIGTERM` or `SIGHUP`.
    Told,
    /// The children had their time.
    TimeUp,
}

/// Who is heard.
#[derive(Clone, Copy)]
enum Voice {
    Hub,
    Agent,
    Upstream,
}

impl fmt::Display for Voice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hub => "hub      | ",
            Self::Agent => "agent    | ",
            Self::Upstream => "upstream | ",
        })
    }
}

/// Why the demo is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// A signal came, or nobody reads on.
    Told,
    /// A child ended.
    Child,
}

/// What is run: the same words are shown to the user.
struct Plan {
    secret: String,
    hub_address: String,
    /// Where the hub shows what it does.
    page: String,
    hub: Vec<String>,
    register: Vec<String>,
    agent: Vec<String>,
    /// Whether the upstream is the demo's own, whose paths are known.
    own_upstream: bool,
}

impl Plan {
    fn new(secret: String, port: u16, admin_port: u16, upstream: String, own_upstream: bool) -> Self {
        let words = |text: String| text.split(' ').map(String::from).collect::<Vec<_>>();
        let mut agent = words(format!("agent run --log-level debug --hub 127.0.0.1:{port} --upstream"));
        agent.push(upstream);
        Self {
            secret,
            hub_address: format!("127.0.0.1:{port}"),
            page: format!("http://127.0.0.1:{admin_port}/"),
            hub: words(format!(
                "hub run --log-level debug --host 127.0.0.1 --port {port} --admin 127.0.0.1:{admin_port}"
            )),
            register: words("hub register --name demo".to_owned()),
            agent,
            own_upstream,
        }
    }

    fn introduction(&self) -> String {
        let upstream = if self.own_upstream { " and a small upstream" } else { "" };
        format!(
            "This demo runs a hub and an agent{upstream} on this machine. Ctrl-C ends it. By hand it would be:\n\n  \
             export SLIME_SECRET={}\n  slime {}\n  export SLIME_TOKEN=$(slime {})\n  slime {}\n",
            self.secret,
            self.hub.join(" "),
            self.register.join(" "),
            self.agent.join(" "),
        )
    }

    fn suggestions(&self) -> String {
        let (hub, page) = (&self.hub_address, &self.page);
        let more = if self.own_upstream {
            format!(
                "  curl -d 'some text' http://{hub}/echo\n  curl -N http://{hub}/events\n  curl http://{hub}/job\n"
            )
        } else {
            String::new()
        };
        format!(
            "That came through hub and agent. Try it from another terminal:\n\n  curl http://{hub}/\n{more}\n\
             A browser shows what the hub does meanwhile:\n\n  {page}\n"
        )
    }
}

/// The running demo.
struct Show {
    events: Receiver<Event>,
    sender: Sender<Event>,
    hub: Option<Child>,
    agent: Option<Child>,
}

impl Show {
    /// From the first line to the reason of the end.
    fn play(&mut self, plan: &Plan) -> io::Result<End> {
        if say(&plan.introduction()).is_err() {
            return Ok(End::Told);
        }
        let environment = ("SLIME_SECRET", plan.secret.as_str());
        let register = child(&plan.register, environment)?.stderr(Stdio::null()).output()?;
        let token = String::from_utf8_lossy(&register.stdout).trim().to_owned();
        if !register.status.success() || token.is_empty() {
            return Err(io::Error::other("`slime hub register` failed"));
        }
        self.hub = Some(self.spawn(Voice::Hub, &plan.hub, environment)?);
        let stream = match self.await_hub(&plan.hub_address)? {
            Ok(stream) => stream,
            Err(end) => return Ok(end),
        };
        self.agent = Some(self.spawn(Voice::Agent, &plan.agent, ("SLIME_TOKEN", &token))?);
        // The request waits at the hub until the agent has joined.
        let request = format!("GET / HTTP/1.0\r\nHost: {}\r\nSlime-Block: 1\r\n\r\n", plan.hub_address);
        let sender = self.sender.clone();
        thread::spawn(move || sender.send(Event::Answer(ask(&stream, &request))));
        let mut answered = false;
        let mut reminded = false;
        loop {
            let event = match self.events.recv_timeout(PATIENCE) {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout) if !answered && !reminded => {
                    reminded = true;
                    let hint = "Still waiting for an answer. The lines of the agent say what is missing.\n";
                    if say(hint).is_err() {
                        return Ok(End::Told);
                    }
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Ok(End::Told),
            };
            if let Event::Answer(answer) = event {
                answered = true;
                let text = match answer {
                    Ok(answer) => format!("\n{}\n{}", excerpt(&answer), plan.suggestions()),
                    Err(error) => format!("\nThe hub did not answer: {error}\n"),
                };
                if say(&text).is_err() {
                    return Ok(End::Told);
                }
            } else if let Some(end) = self.handle(event) {
                return Ok(end);
            }
        }
    }

    /// Connects to the hub as soon as it listens.
    fn await_hub(&mut self, address: &str) -> io::Result<Result<TcpStream, End>> {
        let mut tries = 0;
        loop {
            match TcpStream::connect(address) {
                Ok(stream) => return Ok(Ok(stream)),
                Err(error) if tries == TRIES => return Err(error),
                Err(_) => {}
            }
            match self.events.recv_timeout(POLL_INTERVAL) {
                Ok(event) => {
                    if let Some(end) = self.handle(event) {
                        return Ok(Err(end));
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => tries += 1,
            }
        }
    }

    /// What every event but the answer means. Not `None` if the demo is over.
    fn handle(&mut self, event: Event) -> Option<End> {
        match event {
            Event::Line(voice, line) => say(&format!("{voice}{line}")).err().map(|_| End::Told),
            Event::Ended(voice) => {
                let status = self.reap(voice).map_or_else(|| "?".to_owned(), |status| status.to_string());
                // The exit code says it, too.
                let _ = say(&format!("{voice}ended by itself ({status}), so the demo ends"));
                Some(End::Child)
            }
            Event::Told => Some(End::Told),
            Event::Answer(_) | Event::TimeUp => None,
        }
    }

    /// Starts a child whose log lines become events.
    fn spawn(&self, voice: Voice, words: &[String], environment: (&str, &str)) -> io::Result<Child> {
        let mut child = child(words, environment)?.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let (log, sender) = (child.stderr.take(), self.sender.clone());
        thread::spawn(move || {
            let lines =
                log.map(BufReader::new).into_iter().flat_map(|log| log.split(b'\n')).map_while(Result::ok);
            for line in lines {
                let line = String::from_utf8_lossy(&line).into_owned();
                // Without a receiver the demo is over, but the child must not wait for a reader.
                let _ = sender.send(Event::Line(voice, line));
            }
            sender.send(Event::Ended(voice))
        });
        Ok(child)
    }

    /// Waits for a child that has ended, or is about to.
    fn reap(&mut self, voice: Voice) -> Option<ExitStatus> {
        let child = match voice {
            Voice::Hub => self.hub.take(),
            Voice::Agent => self.agent.take(),
            Voice::Upstream => None,
        };
        child.and_then(|mut child| child.wait().ok())
    }

    /// Ends what is left of the children: with a signal, and after some time, or when told again, by force.
    fn stop(&mut self) {
        for child in self.children() {
            terminate(child);
        }
        let sender = self.sender.clone();
        thread::spawn(move || {
            thread::sleep(GRACE);
            sender.send(Event::TimeUp)
        });
        while self.children().next().is_some() {
            match self.events.recv() {
                Ok(Event::Line(voice, line)) => drop(say(&format!("{voice}{line}"))),
                Ok(Event::Ended(voice)) => drop(self.reap(voice)),
                Ok(Event::Answer(_)) => {}
                Ok(Event::Told | Event::TimeUp) | Err(_) => return,
            }
        }
    }

    fn children(&mut self) -> impl Iterator<Item = &mut Child> {
        self.hub.iter_mut().chain(self.agent.iter_mut())
    }
}

impl Drop for Show {
    /// Whatever went wrong, nothing is left behind.
    fn drop(&mut self) {
        for child in self.children() {
            let _ = child.kill().and_then(|()| child.wait());
        }
    }
}

/// A command of this same program, with nothing of the user's own configuration, in a process group of its
/// own, so that the Ctrl-C of a terminal reaches the demo alone, which then ends the children in order.
fn child(words: &[String], (name, value): (&str, &str)) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    for (key, _) in env::vars_os().filter(|(key, _)| key.as_encoded_bytes().starts_with(b"SLIME_")) {
        command.env_remove(key);
    }
    command.args(words).env(name, value).env(PARENT, std::process::id().to_string());
    command.stdin(Stdio::null()).process_group(0);
    Ok(command)
}

/// The port, if it is free; any free one for 0.
fn free(port: u16) -> io::Result<u16> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))?.local_addr().map(|address| address.port())
}

/// A free port that is not this one.
fn port_beside(port: u16) -> io::Result<u16> {
    let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    free(0)
}

/// The port that was asked for, if it is free; without one the usual port, or any free one if that is taken.
fn choose_port(asked: Option<u16>, usual: u16) -> io::Result<u16> {
    match asked {
        Some(port) => free(port).map_err(|error| io::Error::other(format!("port {port} of --port: {error}"))),
        None => free(usual).or_else(|_| {
            let port = free(0)?;
            say(&format!("Port {usual} is in use, so the hub uses port {port}."))?;
            Ok(port)
        }),
    }
}

fn start_upstream(sender: &Sender<Event>) -> io::Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let sender = sender.clone();
    demo_upstream::start(
        listener,
        Arc::new(move |line| drop(sender.send(Event::Line(Voice::Upstream, line)))),
    );
    Ok(address.to_string())
}

fn watch_signals(sender: &Sender<Event>) -> io::Result<()> {
    let (mut reader, writer) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
    }
    let sender = sender.clone();
    thread::spawn(move || while reader.read_exact(&mut [0]).is_ok() && sender.send(Event::Told).is_ok() {});
    Ok(())
}

/// Sends the request and reads the answer, or the beginning of one that does not end.
fn ask(mut stream: &TcpStream, request: &str) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut input = stream.take(MAX_ANSWER);
    loop {
        match input.read_to_end(&mut answer) {
            Ok(_) if answer.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => return Ok(answer),
            Err(error) if is_timeout(&error) && answer.is_empty() => {}
            Err(error) if is_timeout(&error) => return Ok(answer),
            Err(error) => return Err(error),
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The beginning of an answer, fit for a terminal.
fn excerpt(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let mut excerpt: String = text
        .lines()
        .take(MAX_LINES)
        .map(|line| format!("  {}\n", line.replace(|c: char| c.is_control() && c != '\t', "?")))
        .collect();
    if text.lines().nth(MAX_LINES).is_some() {
        excerpt.push_str("  ...\n");
    }
    excerpt
}

/// One line, or several, to the standard output.
fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert!(choose_port(Some(port), port).unwrap_err().to_string().contains("--port"));
        assert_ne!(choose_port(None, port).unwrap(), port);
        assert_ne!(choose_port(Some(0), port).unwrap(), 0);
    }

    #[test]
    fn what_is_shown_can_be_typed() {
        let plan = Plan::new("5ec3e7".into(), 9000, 9001, "http://h/a".into(), false);
        let text = plan.introduction();
        for line in [
            "export SLIME_SECRET=5ec3e7\n",
            "slime hub run --log-level debug --host 127.0.0.1 --port 9000 --admin 127.0.0.1:9001\n",
            "export SLIME_TOKEN=$(slime hub register --name demo)\n",
            "slime agent run --log-level debug --hub 127.0.0.1:9000 --upstream http://h/a\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(plan.suggestions().contains("curl http://127.0.0.1:9000/\n"));
        assert!(plan.suggestions().ends_with("\n  http://127.0.0.1:9001/\n"));
        assert!(!plan.suggestions().contains("/echo"));
    }

    #[test]
    fn an_answer_cannot_steer_the_terminal() {
        assert_eq!(excerpt(b"HTTP/1.1 200 OK\r\n\r\n\x1b[2J\tx\n"), "  HTTP/1.1 200 OK\n  \n  ?[2J\tx\n");
        assert!(excerpt(&b"x\n".repeat(100)).ends_with("  ...\n"));
    }

    #[test]
    fn the_first_request_is_asked_of_a_real_server() {
        let (sender, events) = channel();
        let address = start_upstream(&sender).unwrap();
        let stream = TcpStream::connect(&address).unwrap();
        let answer = ask(&stream, "GET / HTTP/1.0\r\n\r\n").unwrap();
        assert!(excerpt(&answer).starts_with("  HTTP/1.1 200 OK\n"));
        assert!(matches!(events.recv(), Ok(Event::Line(Voice::Upstream, line)) if line == "GET /"));
    }
}
