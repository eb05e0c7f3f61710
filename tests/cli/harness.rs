//! What the tests stand on: calls that end, processes that run until they are told to end, and those whom
//! they talk to.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// For everything that must happen.
pub const DEADLINE: Duration = Duration::from_secs(60);
pub const SLIME: &str = env!("CARGO_BIN_EXE_slime");
/// None of these may ever be seen in a log or an error.
pub const SECRET: &str = "sesame-7f3a";
pub const PASSWORD: &str = "hush-91c2";

/// What has the form of an agent token, and is none of any hub.
pub const FORM: &str = "SLIME_TOKEN=slime1_dHdlbHZlIGJ5dGVzAAAAAAAAAAAAAAAAAAAAAAAA";

/// Exit code, standard output, standard error of a command that ends.
pub fn run(args: &[&str], environment: &[&str]) -> (i32, String, String) {
    let mut command = command(args, environment);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = Pid::from_child(&child);
    let (sender, done) = std::sync::mpsc::channel();
    let waiting = thread::spawn(move || {
        let output = child.wait_with_output().unwrap();
        let _ = sender.send(());
        output
    });
    if done.recv_timeout(DEADLINE).is_err() {
        let _ = kill_process(id, Signal::KILL);
        panic!("{args:?} does not end");
    }
    let Output { status, stdout, stderr } = waiting.join().unwrap();
    (status.code().unwrap_or(-1), text(&stdout), text(&stderr))
}

/// A call that fails, with this code and one line that says so, and shows nothing.
#[track_caller]
pub fn fails(args: &str, environment: &[&str], code: i32, says: &str) {
    let (actual, out, err) = run(&words(args), environment);
    assert_eq!(actual, code, "{args}: {err}");
    assert!(out.is_empty(), "{args}: {out}");
    assert!(one_line(&err) && err.contains(says), "{args}: {err}");
    assert!(!err.contains("sesame-7f3a") && !err.contains("hush"), "{args} shows a secret: {err}");
}

pub fn command(args: &[&str], environment: &[&str]) -> Command {
    let mut command = Command::new(SLIME);
    command.args(args);
    clean(&mut command, environment);
    command
}

pub fn clean<'a>(command: &'a mut Command, environment: &[&str]) -> &'a mut Command {
    let others =
        ["CREDENTIALS_DIRECTORY", "JOURNAL_STREAM", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"];
    let proxies = ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"];
    for key in others.iter().chain(&proxies) {
        command.env_remove(key);
    }
    for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("SLIME_")) {
        command.env_remove(key);
    }
    command.envs(environment.iter().map(|pair| pair.split_once('=').unwrap()))
}

pub fn register(secret: &str, args: &[&str]) -> String {
    let (code, token, err) =
        run(&[&["hub", "register"], args].concat(), &[&format!("SLIME_SECRET={secret}")]);
    assert_eq!(code, 0, "{err}");
    token.trim().to_owned()
}

pub fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

pub fn one_line(text: &str) -> bool {
    text.ends_with('\n') && text.lines().count() == 1
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub fn variable(flag: &str) -> String {
    format!("SLIME_{}", flag.trim_start_matches('-').replace('-', "_").to_uppercase())
}

#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "not within the deadline: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A folder for one test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    pub fn file(&self, name: &str, content: &str) -> String {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process that runs until it is told to end. Dropping it kills it.
pub struct Process {
    child: Mutex<Child>,
    log: Arc<(Mutex<Log>, Condvar)>,
}

#[derive(Default)]
pub struct Log {
    lines: Vec<String>,
    ended: bool,
}

impl Process {
    pub fn start(args: &[&str], environment: &[&str]) -> Self {
        Self::spawn(&mut command(args, environment))
    }

    pub fn spawn(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new((Mutex::new(Log::default()), Condvar::new()));
        let (stderr, writer) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&log));
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                writer.0.lock().unwrap().lines.push(line);
                writer.1.notify_all();
            }
            writer.0.lock().unwrap().ended = true;
            writer.1.notify_all();
        });
        Self { child: Mutex::new(child), log }
    }

    pub fn id(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    /// Waits for a line that contains this.
    #[track_caller]
    pub fn wait_line(&self, needle: &str) -> String {
        let start = Instant::now();
        let mut log = self.log.0.lock().unwrap();
        loop {
            if let Some(line) = log.lines.iter().find(|line| line.contains(needle)) {
                return line.clone();
            }
            let left = DEADLINE.saturating_sub(start.elapsed());
            assert!(!left.is_zero() && !log.ended, "no line with {needle:?} in:\n{}", log.lines.join("\n"));
            log = self.log.1.wait_timeout(log, left).unwrap().0;
        }
    }

    pub fn log(&self) -> String {
        self.log.0.lock().unwrap().lines.join("\n")
    }

    pub fn signal(&self, signal: Signal) {
        // It may have ended.
        let _ = kill_process(Pid::from_child(&self.child.lock().unwrap()), signal);
    }

    pub fn has_ended(&self) -> bool {
        self.child.lock().unwrap().try_wait().unwrap().is_some()
    }

    /// The exit code, when it has ended by itself and its log is complete.
    #[track_caller]
    pub fn wait(&self) -> i32 {
        wait_until("the process ends", || self.has_ended() && self.log.0.lock().unwrap().ended);
        self.child.lock().unwrap().wait().unwrap().code().unwrap_or(-1)
    }

    #[track_caller]
    pub fn stop(&self) -> i32 {
        self.signal(Signal::TERM);
        self.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill().and_then(|()| child.wait());
        if !thread::panicking() {
            let log = self.log.0.lock().unwrap().lines.join("\n");
            for secret in [SECRET, PASSWORD, "slime1_"] {
                assert!(!log.contains(secret), "a secret in the log:\n{log}");
            }
        }
    }
}

/// A service manager that listens.
pub struct Manager(UnixDatagram);

impl Manager {
    /// Behind an abstract socket, and the variable that names it.
    pub fn new(name: &str) -> (Self, String) {
        let name = format!("slime-cli-{name}-{}", std::process::id());
        (Self::at(&SocketAddr::from_abstract_name(&name).unwrap()), format!("NOTIFY_SOCKET=@{name}"))
    }

    pub fn at(address: &SocketAddr) -> Self {
        Self(UnixDatagram::bind_addr(address).unwrap())
    }

    /// The next message, if there is one within this time.
    pub fn hear(&self, within: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(within)).unwrap();
        let mut buffer = [0; 1024];
        let n = self.0.recv(&mut buffer).ok()?;
        Some(text(&buffer[..n]))
    }

    /// Waits for a message that begins so. How long it took.
    #[track_caller]
    pub fn wait(&self, wanted: &str) -> Duration {
        let start = Instant::now();
        let mut heard = Vec::new();
        while !heard.last().is_some_and(|message: &String| message.starts_with(wanted)) {
            assert!(start.elapsed() < DEADLINE, "no {wanted} in {heard:?}");
            heard.extend(self.hear(DEADLINE));
        }
        start.elapsed()
    }
}

pub struct Hub {
    pub process: Process,
    pub address: String,
}

impl Hub {
    pub fn start(args: &[&str], environment: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", args, environment)
    }

    pub fn start_at(address: &str, args: &[&str], environment: &[&str]) -> Self {
        let (host, port) = address.split_once(':').unwrap();
        Self::of(Process::start(&[&["hub", "--host", host, "--port", port], args].concat(), environment))
    }

    pub fn of(process: Process) -> Self {
        let line = process.wait_line("listening on ");
        let address = line.split("listening on ").last().unwrap().split(' ').next().unwrap().to_owned();
        Self { process, address }
    }

    pub fn agent(&self, token: &str, upstream: &str, args: &[&str]) -> Process {
        let line = [&["agent", "--hub", &self.address, "--upstream", upstream], args].concat();
        Process::start(&line, &[&format!("SLIME_TOKEN={token}")])
    }
}

impl std::ops::Deref for Hub {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

pub fn send(address: &str, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(bytes.as_bytes()).unwrap();
    stream
}

/// Everything that comes back until the connection ends.
#[track_caller]
pub fn exchange(address: &str, bytes: &str) -> String {
    let mut answer = Vec::new();
    send(address, bytes).read_to_end(&mut answer).unwrap();
    text(&answer)
}

#[track_caller]
pub fn get(address: &str, fields: &str) -> String {
    exchange(address, &format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{fields}\r\n"))
}

/// An address where nobody listens, until somebody is told to. No other test is given its port meanwhile,
/// neither to listen nor to connect from: a connection that has just ended stands there in TIME-WAIT (RFC
/// 9293 section 3.6.1).
pub fn address_of_nobody() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    // The side that ends it first has to wait.
    drop(listener.accept().unwrap());
    stream.read_to_end(&mut Vec::new()).unwrap();
    address
}

/// An upstream whose answer is the head of the request. Its address.
pub fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    echo_on(listener);
    address
}

pub fn echo_on(listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut reader = BufReader::new(&stream);
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    if reader.read_line(&mut head).unwrap_or(0) == 0 {
                        return;
                    }
                }
                if head.starts_with("GET /slow") {
                    // Until the application, and so the agent, leaves.
                    let _ = reader.read(&mut [0]);
                    return;
                }
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{head}",
                    head.len()
                );
                let _ = (&stream).write_all(answer.as_bytes());
            });
        }
    });
}
