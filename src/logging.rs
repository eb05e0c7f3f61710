//! Log lines of the long-running commands.
//!
//! A line goes to the standard error at once or not at all: a hub must not stand still, or end, because
//! whoever reads its log is slow or gone. Lines that do not go through are counted, and the next one that
//! does says how many were lost. The descriptor may be shared with other processes, so it is never made
//! non-blocking; a line is written only when poll(2) says that there is room, and is short enough for a pipe
//! with room to take it whole (pipe(7), `PIPE_BUF`).
//!
//! The journal of systemd and syslog have a time of their own and want the level as a number, so a line for
//! them has no time and begins with its priority, as sd-daemon(3) and RFC 3164 say.

use core::fmt;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::net::sys;
use crate::proto::admin::machine::LogLine;
use crate::proto::utc::{Utc, UtcParts};

/// The longest line, in bytes: what a pipe takes in one piece. A longer one is cut.
const MAX_LINE: usize = 4096;

/// How many lines are remembered for the admin side, and how long each may be, in bytes.
const REMEMBERED: usize = 50;
const REMEMBERED_BYTES: usize = 512;

/// What the admin side tells of the log.
static MEMORY: Memory = Memory { lines: Mutex::new(None), lost: AtomicUsize::new(0) };

/// Where syslog listens: logd of OpenWrt, journald, rsyslog, and every other.
const SYSLOG: &str = "/dev/log";

/// Sends the log lines of this process to the standard error from now on, in the form that the journal of
/// systemd wants if that is what reads them.
pub fn to_stderr(level: LevelFilter) {
    log_to_stderr(level, if is_journal(io::stderr()) { Form::Journal } else { Form::Dated });
}

/// As [`to_stderr`], without time and priority.
pub fn to_stderr_undated(level: LevelFilter) {
    log_to_stderr(level, Form::Undated);
}

/// Sends the log lines of this process to syslog from now on.
///
/// # Errors
/// Nothing listens at `/dev/log`. Lines go to the standard error then.
pub fn to_syslog(level: LevelFilter) -> io::Result<()> {
    let socket = UnixDatagram::unbound().and_then(|socket| {
        socket.set_nonblocking(true)?;
        // Whether somebody listens. Each line names the address again, so that it reaches a syslog that was
        // restarted, too.
        UnixDatagram::unbound()?.connect(SYSLOG)?;
        Ok(socket)
    });
    match socket {
        Ok(socket) => {
            let target = Syslog { socket, path: SYSLOG.to_owned(), pid: std::process::id() };
            install(level, LineLogger::new(target, Form::Syslog));
            Ok(())
        }
        Err(error) => {
            to_stderr(level);
            Err(error)
        }
    }
}

/// Remembers the last lines from now on, for [`last_lines`].
pub fn remember() {
    MEMORY.lines.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default();
}

/// The last lines, the newest one first. None unless they are remembered.
pub fn last_lines() -> Vec<LogLine> {
    let lines = MEMORY.lines.lock().unwrap_or_else(PoisonError::into_inner);
    lines.iter().flatten().rev().cloned().collect()
}

/// How many lines nobody took in time.
pub fn lost_lines() -> u64 {
    MEMORY.lost.load(Ordering::Relaxed) as u64
}

/// The last lines, if they are remembered, and how many were lost.
struct Memory {
    lines: Mutex<Option<VecDeque<LogLine>>>,
    lost: AtomicUsize,
}

impl Memory {
    fn add(&self, at: u64, level: Level, text: &str) {
        if let Some(lines) = &mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner) {
            while lines.len() >= REMEMBERED {
                lines.pop_front();
            }
            let kept = text.floor_char_boundary(REMEMBERED_BYTES);
            let cut = if kept < text.len() { "..." } else { "" };
            let text = format!("{}{cut}", text.get(..kept).unwrap_or_default());
            lines.push_back(LogLine { at, level, text });
        }
    }
}

fn log_to_stderr(level: LevelFilter, form: Form) {
    install(level, LineLogger::new(Descriptor(io::stderr()), form));
}

fn install(level: LevelFilter, logger: LineLogger<impl Target + Send + Sync + 'static>) {
    // The only failure is that there is a logger already, and then lines have somewhere to go.
    if log::set_logger(Box::leak(Box::new(logger))).is_ok() {
        log::set_max_level(level);
    }
}

/// systemd.exec(5): `JOURNAL_STREAM` names device and inode of the journal. A child may have inherited the
/// variable alone.
fn is_journal(target: impl AsFd) -> bool {
    let names = std::env::var("JOURNAL_STREAM").ok();
    let stat = rustix::fs::fstat(target).ok();
    names.zip(stat).is_some_and(|(names, stat)| names == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Whether a character is seen, and nothing else than seen. Control bytes are not, nor line and paragraph
/// separators (Zl, Zp), nor what turns the direction of writing or has no width (Cf): with these a name can
/// look like another line, or like another name.
fn is_shown_as_it_is(character: char) -> bool {
    // The standard library knows what can be printed, and escapes these beside it.
    matches!(character, '"' | '\'' | '\\') || character.escape_debug().len() == 1
}

/// How a line begins, before its level.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Undated,
    /// With the time.
    Dated,
    /// With its priority: sd-daemon(3).
    Journal,
    /// As [`Form::Undated`]: the target puts the priority and more before it.
    Syslog,
}

/// The severity of RFC 5424 section 6.2.1.
fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// What takes lines.
trait Target {
    /// Takes a line, or nothing of it, or its beginning, and says whether it was taken whole.
    fn send(&self, state: &mut State, now: u64, level: Level, line: &str) -> bool;
}

struct LineLogger<T> {
    target: T,
    form: Form,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Lines lost since the last report.
    lost: u64,
    /// The last line ended in its middle.
    torn: bool,
}

impl<T: Target> LineLogger<T> {
    fn new(target: T, form: Form) -> Self {
        Self { target, form, state: Mutex::default() }
    }

    fn write_line(&self, now: u64, level: Level, text: &fmt::Arguments<'_>) {
        // Only a panic could have poisoned it, and a count is never wrong enough to lose a line over.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.lost > 0 {
            let report =
                format_args!("{} log lines were lost because nothing read them", state.lost).to_string();
            if self.send(&mut state, now, Level::Warn, &report) {
                state.lost = 0;
            }
        }
        let text = text.to_string();
        if level <= Level::Info {
            MEMORY.add(now.saturating_mul(1000), level, &text);
        }
        if state.lost > 0 || !self.send(&mut state, now, level, &text) {
            state.lost += 1;
            MEMORY.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn send(&self, state: &mut State, now: u64, level: Level, text: &str) -> bool {
        self.target.send(state, now, level, &self.line(now, level, text))
    }

    /// A line without its end.
    fn line(&self, now: u64, level: Level, text: &str) -> String {
        let mut line = match self.form {
            Form::Undated | Form::Syslog => format!("{level:<5} "),
            Form::Dated => format!("{} {level:<5} ", Utc(now)),
            Form::Journal => format!("<{}>{level:<5} ", severity(level)),
        };
        for character in text.chars() {
            // What peers send ends up in log lines: it must not be able to forge one, or to steer a terminal.
            if !is_shown_as_it_is(character) {
                line.extend(character.escape_default())
            } else {
                line.push(character)
            }
            if line.len() > MAX_LINE {
                break;
            }
        }
        // A line feed before it, if the one before was torn, and one after it.
        line.truncate(line.floor_char_boundary(MAX_LINE - 2));
        line
    }
}

/// The standard error, or what a test has in its place.
struct Descriptor<F>(F);

impl<F: AsFd> Target for Descriptor<F> {
    fn send(&self, state: &mut State, _: u64, _: Level, line: &str) -> bool {
        let start = if state.torn { "\n" } else { "" };
        let bytes = [start, line, "\n"].concat();
        let mut rest = bytes.as_bytes();
        while !rest.is_empty() && self.has_room() {
            match rustix::io::write(&self.0, rest) {
                Ok(taken) if taken > 0 => rest = rest.get(taken..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) | Err(_) => break,
            }
        }
        if rest.len() < bytes.len() {
            state.torn = !rest.is_empty();
        }
        rest.is_empty()
    }
}

impl<F: AsFd> Descriptor<F> {
    fn has_room(&self) -> bool {
        const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut target = [PollFd::new(&self.0, PollFlags::OUT)];
        let ready = poll(&mut target, Some(&AT_ONCE)).is_ok();
        // A pipe without a reader is writable and in error: writing would fail.
        ready && target.iter().all(|target| target.revents() == PollFlags::OUT)
    }
}

/// The socket of syslog. A datagram is taken whole or not at all.
struct Syslog {
    socket: UnixDatagram,
    path: String,
    pid: u32,
}

impl Target for Syslog {
    fn send(&self, _: &mut State, now: u64, level: Level, line: &str) -> bool {
        // logd drops the first 16 characters if the last of them is a space, so there must be a time, which
        // it does not read.
        let priority = DAEMON | severity(level);
        let datagram = format!("<{priority}>{} slime[{}]: {line}", Rfc3164(now), self.pid);
        self.socket.send_to(datagram.as_bytes(), &self.path).is_ok()
    }
}

/// The facility of RFC 5424 section 6.2.1 for daemons, as it stands in a priority.
const DAEMON: u8 = 3 << 3;

/// A time, in seconds since 1970, as `Jan 31 12:00:00`.
struct Rfc3164(u64);

impl fmt::Display for Rfc3164 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let utc = UtcParts::of(self.0);
        let UtcParts { day, hour, minute, second, .. } = utc;
        write!(f, "{} {day:>2} {hour:02}:{minute:02}:{second:02}", utc.month_name())
    }
}

impl<T: Target + Send + Sync> Log for LineLogger<T> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.write_line(sys::unix_seconds(), record.level(), record.args());
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, PipeWriter, Read as _};

    use super::*;

    fn logger() -> (PipeReader, LineLogger<Descriptor<PipeWriter>>) {
        let (reader, writer) = io::pipe().unwrap();
        (reader, LineLogger::new(Descriptor(writer), Form::Undated))
    }

    fn read(reader: &mut PipeReader) -> String {
        let mut buffer = vec![0; 1 << 20];
        let n = reader.read(&mut buffer).unwrap();
        String::from_utf8(buffer[..n].to_vec()).unwrap()
    }

    #[test]
    fn lines() {
        let (mut reader, mut logger) = logger();
        logger.write_line(0, Level::Info, &format_args!("hello {}", "w\u{f6}rld"));
        logger.form = Form::Dated;
        logger.write_line(1_700_000_000, Level::Error, &format_args!("forged\nline\x1b[2J"));
        let expected = "INFO  hello w\u{f6}rld\n2023-11-14T22:13:20Z ERROR forged\\nline\\u{1b}[2J\n";
        assert_eq!(read(&mut reader), expected);
    }

    #[test]
    fn the_last_lines_are_remembered_if_they_are_to_be() {
        let memory = Memory { lines: Mutex::default(), lost: AtomicUsize::new(0) };
        memory.add(1, Level::Info, "nobody asked for it");
        assert_eq!(*memory.lines.lock().unwrap(), None);
        memory.lines.lock().unwrap().get_or_insert_default();
        for at in 0..60 {
            memory.add(at, Level::Warn, &"\u{e9}".repeat(300));
        }
        let lines = memory.lines.lock().unwrap().clone().unwrap();
        assert_eq!((lines.len(), lines[0].at, lines[49].at), (REMEMBERED, 10, 59));
        assert_eq!(lines[0].text, format!("{}...", "\u{e9}".repeat(256)));
    }

    #[test]
    fn what_is_not_seen_is_escaped() {
        let (mut reader, logger) = logger();
        for (character, escaped) in [
            ('\u{2028}', r"\u{2028}"),
            ('\u{2029}', r"\u{2029}"),
            ('\u{202a}', r"\u{202a}"),
            ('\u{202e}', r"\u{202e}"),
            ('\u{2066}', r"\u{2066}"),
            ('\u{2069}', r"\u{2069}"),
            ('\u{200b}', r"\u{200b}"),
            ('\u{200d}', r"\u{200d}"),
            ('\u{200f}', r"\u{200f}"),
            ('\u{2060}', r"\u{2060}"),
            ('\u{61c}', r"\u{61c}"),
            ('\u{ad}', r"\u{ad}"),
            ('\u{feff}', r"\u{feff}"),
            ('\u{e0041}', r"\u{e0041}"),
            ('\u{9b}', r"\u{9b}"),
            ('\u{7f}', r"\u{7f}"),
        ] {
            logger.write_line(0, Level::Info, &format_args!("a{character}b"));
            assert_eq!(read(&mut reader), format!("INFO  a{escaped}b\n"));
        }
        let seen = "\"it's\" C:\\x h\u{e9} \u{4e2d}\u{6587} \u{5d0} \u{1f600}";
        logger.write_line(0, Level::Info, &format_args!("{seen}"));
        assert_eq!(read(&mut reader), format!("INFO  {seen}\n"));
    }

    #[test]
    fn lines_for_the_journal_begin_with_their_priority() {
        let (mut reader, mut logger) = logger();
        logger.form = Form::Journal;
        for level in [Level::Error, Level::Warn, Level::Info, Level::Debug] {
            logger.write_line(0, level, &format_args!("x"));
        }
        assert_eq!(read(&mut reader), "<3>ERROR x\n<4>WARN  x\n<6>INFO  x\n<7>DEBUG x\n");
    }

    #[test]
    fn syslog_is_told_priority_and_time_once() {
        let folder = std::env::temp_dir().join(format!("slime-syslog-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("log");
        let bind = || {
            let _ = std::fs::remove_file(&path);
            UnixDatagram::bind(&path).unwrap()
        };
        let socket = UnixDatagram::unbound().unwrap();
        socket.set_nonblocking(true).unwrap();
        let target = Syslog { socket, path: path.to_str().unwrap().to_owned(), pid: 7 };
        let logger = LineLogger::new(target, Form::Syslog);
        let read = |syslog: &UnixDatagram| {
            let mut buffer = vec![0; 5000];
            let n = syslog.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..n].to_vec()).unwrap()
        };
        let syslog = bind();
        logger.write_line(1_700_000_000, Level::Warn, &format_args!("no\nway"));
        assert_eq!(read(&syslog), "<28>Nov 14 22:13:20 slime[7]: WARN  no\\nway");
        // It ends, and lines are lost, until another one listens there.
        drop(syslog);
        logger.write_line(1_701_388_800, Level::Error, &format_args!("lost"));
        let syslog = bind();
        logger.write_line(1_701_388_800, Level::Debug, &format_args!("there again"));
        let said = [read(&syslog), read(&syslog)];
        let lost = "<28>Dec  1 00:00:00 slime[7]: WARN  1 log lines were lost because nothing read them";
        assert_eq!(said, [lost, "<31>Dec  1 00:00:00 slime[7]: DEBUG there again"]);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_long_line_is_cut() {
        let (mut reader, logger) = logger();
        logger.write_line(0, Level::Info, &format_args!("{}", "\u{e4}".repeat(MAX_LINE)));
        let line = read(&mut reader);
        assert!(line.len() <= MAX_LINE && line.len() > MAX_LINE - 4 && line.ends_with("\u{e4}\n"));
    }

    #[test]
    fn a_full_pipe_loses_lines_and_says_so() {
        let (mut reader, logger) = logger();
        let long = "x".repeat(1000);
        let mut written = 0;
        while logger.state.lock().unwrap().lost == 0 {
            logger.write_line(0, Level::Info, &format_args!("{long}"));
            written += 1;
        }
        logger.write_line(0, Level::Info, &format_args!("lost, too"));
        let mut taken = 0;
        while taken < written - 1 {
            taken += read(&mut reader).lines().count();
        }
        logger.write_line(0, Level::Info, &format_args!("there again"));
        let expected = "WARN  2 log lines were lost because nothing read them\nINFO  there again\n";
        assert_eq!(read(&mut reader), expected);
    }

    #[test]
    fn a_broken_pipe_is_survived() {
        let (reader, logger) = logger();
        drop(reader);
        logger.write_line(0, Level::Info, &format_args!("into the void"));
        assert_eq!(logger.state.lock().unwrap().lost, 1);
    }
}
