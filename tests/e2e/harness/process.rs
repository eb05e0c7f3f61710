//! A process under test: its log lines, its exit, its descriptors, memory and processor time.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::turn::Running;
use super::{DEADLINE, wait_until};

/// A running process. Dropping it kills it, after looking whether it still runs as it should.
pub struct Proc {
    name: String,
    child: Child,
    log: Arc<Log>,
    may_end: bool,
    _running: Running,
}

/// The lines a process wrote to stderr.
#[derive(Default)]
struct Log {
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
}

impl Log {
    /// The lines, also after a panic of somebody who held them.
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, lines: MutexGuard<'a, Lines>, time: Duration) -> MutexGuard<'a, Lines> {
        self.more.wait_timeout(lines, time).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Proc {
    /// Starts it in a process group of its own, with stdout and stderr read into the log.
    pub fn spawn(name: &str, mut command: Command) -> Self {
        let running = Running::begin();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let log = Arc::new(Log::default());
        follow(child.stdout.take().unwrap(), Arc::clone(&log), false);
        follow(child.stderr.take().unwrap(), Arc::clone(&log), true);
        Self { name: name.to_owned(), child, log, may_end: false, _running: running }
    }

    /// Waits for a line with this in it, also one that was written before.
    #[track_caller]
    pub fn wait_line(&self, needle: &str) -> String {
        let start = Instant::now();
        let mut lines = self.log.lock();
        loop {
            if let Some(line) = lines.lines.iter().find(|line| line.contains(needle)) {
                return line.clone();
            }
            let left = DEADLINE.saturating_sub(start.elapsed());
            assert!(!left.is_zero() && !lines.ended, "{} did not write {needle:?}", self.name);
            lines = self.log.wait(lines, left);
        }
    }

    /// All it wrote until now.
    pub fn output(&self) -> String {
        self.log.lock().lines.join("\n")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.rustix_pid(), signal).unwrap();
    }

    /// Signals it and its children, as a terminal does.
    pub fn signal_group(&self, signal: Signal) {
        rustix::process::kill_process_group(self.rustix_pid(), signal).unwrap();
    }

    /// Waits for its end, which is from now on no failure.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        self.may_end = true;
        let mut status = None;
        wait_until(&format!("the end of {}", self.name), DEADLINE, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        // The readers end when the pipes do.
        let start = Instant::now();
        let mut lines = self.log.lock();
        while !lines.ended {
            lines = self.log.wait(lines, DEADLINE);
            assert!(start.elapsed() < DEADLINE, "somebody still holds the stderr of {}", self.name);
        }
        status.unwrap()
    }

    /// Ends it without a chance to say goodbye.
    pub fn kill(&mut self) {
        self.may_end = true;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Open descriptors, without pipes.
    pub fn fds(&self) -> usize {
        self.descriptors().len()
    }

    /// Waits until no more descriptors are open than there were. Pipes do not count: a few are kept for the
    /// next large body.
    #[track_caller]
    pub fn wait_fds(&self, limit: usize) {
        let start = Instant::now();
        while self.fds() > limit {
            assert!(
                start.elapsed() < DEADLINE,
                "{} has more than {limit} descriptors: {:?}",
                self.name,
                self.descriptors()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends of pipes that are open.
    pub fn pipes(&self) -> usize {
        self.all_descriptors().iter().filter(|link| link.starts_with("pipe:")).count()
    }

    fn descriptors(&self) -> Vec<String> {
        self.all_descriptors().into_iter().filter(|link| !link.starts_with("pipe:")).collect()
    }

    fn all_descriptors(&self) -> Vec<String> {
        let directory = fs::read_dir(format!("/proc/{}/fd", self.pid()));
        let links =
            directory.into_iter().flatten().flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        links
            .map(|link| link.to_string_lossy().into_owned())
            .filter(|link| !link.starts_with("pipe:"))
            .collect()
    }

    /// The largest resident set there was, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Processor time used so far.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // The name of the program, in brackets, may contain anything; fields are counted after it.
        let after = stat.rsplit_once(')').unwrap().1;
        let ticks: u64 = after.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Its child processes.
    pub fn children(&self) -> Vec<u32> {
        let pid = self.pid().to_string();
        let parent = |stat: &str| stat.rsplit_once(')')?.1.split_whitespace().nth(1).map(str::to_owned);
        let mut children = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(candidate) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let stat = fs::read_to_string(format!("/proc/{candidate}/stat")).unwrap_or_default();
            if parent(&stat).as_ref() == Some(&pid) {
                children.push(candidate);
            }
        }
        children
    }

    fn rustix_pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        let status = self.child.try_wait().unwrap();
        let _ = rustix::process::kill_process_group(self.rustix_pid(), Signal::KILL);
        let _ = self.child.wait();
        let output = self.output();
        if std::thread::panicking() {
            eprintln!("--- {} ({status:?})\n{output}\n---", self.name);
            return;
        }
        if let Some(status) = status.filter(|_| !self.may_end) {
            panic!("{} ended by itself: {status}\n{output}", self.name);
        }
        assert!(!output.contains("panicked at"), "{} panicked:\n{output}", self.name);
    }
}

/// Checks that none of these uses the processor: for a second in which nothing is to be done, each may use a
/// tenth of it.
#[track_caller]
pub fn assert_quiet(processes: &[&Proc]) {
    assert_quiet_for(processes, Duration::from_secs(1));
}

#[track_caller]
fn assert_quiet_for(processes: &[&Proc], time: Duration) {
    let before: Vec<Duration> = processes.iter().map(|process| process.cpu()).collect();
    let start = Instant::now();
    while start.elapsed() < time {
        std::thread::sleep(Duration::from_millis(100));
        for (process, before) in processes.iter().zip(&before) {
            let used = process.cpu() - *before;
            assert!(used < Duration::from_millis(100), "{} used {used:?} though it is idle", process.name);
        }
    }
}

/// Reads lines into the log until the pipe ends.
fn follow(pipe: impl std::io::Read + Send + 'static, log: Arc<Log>, last: bool) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            log.lock().lines.push(text);
            log.more.notify_all();
            line.clear();
        }
        let _ = reader.read_to_end(&mut line);
        if last {
            log.lock().ended = true;
            log.more.notify_all();
        }
    });
}

#[test]
fn a_process_is_watched() {
    let mut command = Command::new("sh");
    command.args(["-c", "echo ready >&2; exec 7</dev/null 8</dev/null; sleep 60 & sleep 60"]);
    let mut shell = Proc::spawn("shell", command);
    shell.wait_line("ready");
    wait_until("two children", DEADLINE, || shell.children().len() == 2);
    assert!(shell.is_alive() && shell.fds() >= 2 && shell.peak_memory() > 100_000);
    assert_quiet(&[&shell]);
    shell.signal_group(Signal::TERM);
    assert!(!shell.wait_exit().success());
}

#[test]
fn a_process_that_ends_or_spins_is_noticed() {
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Proc::spawn("shell", command)
    };
    let ended = std::panic::catch_unwind(|| {
        let process = shell("exit 3");
        wait_until("the end", DEADLINE, || process.log.lock().ended);
        wait_until("the end", DEADLINE, || process.fds() == 0);
    });
    assert!(ended.is_err());
    let spins = std::panic::catch_unwind(|| {
        let process = shell("while :; do :; done");
        // On a machine that is very busy it comes to spin for less than a tenth of a second in each.
        assert_quiet_for(&[&process], DEADLINE);
    });
    assert!(spins.is_err());
}
