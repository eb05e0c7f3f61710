//! Log lines of the long-running commands, and the time that stands on them.
//!
//! A line goes to the standard error at once or not at all: a hub must not stand still, or end, because whoever reads
//! its log is slow or gone. Lines that do not go through are counted, and the next one that does says how many were
//! lost. The descriptor may be shared with other processes, so it is never made non-blocking; a line is written only when
//! poll(2) says that there is room, and is short enough for a pipe with room to take it whole (pipe(7), `PIPE_BUF`).

use core::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use log::{LevelFilter, Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The longest line, in bytes: what a pipe takes in one piece. A longer one is cut.
const MAX_LINE: usize = 4096;

/// Sends the log lines of this process to the standard error from now on. The journal of systemd has times of its own.
pub fn to_stderr(level: LevelFilter) {
    log_to_stderr(level, !is_journal(io::stderr()));
}

/// As [`to_stderr`], without the time.
pub fn to_stderr_undated(level: LevelFilter) {
    log_to_stderr(level, false);
}

fn log_to_stderr(level: LevelFilter, dated: bool) {
    let logger = Box::leak(Box::new(LineLogger::new(io::stderr(), dated)));
    // The only failure is that there is a logger already, and then lines have somewhere to go.
    if log::set_logger(logger).is_ok() {
        log::set_max_level(level);
    }
}

/// Seconds since 1970 by the system's clock; 0 if that is before 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "log lines and new tokens bear the time; the core never sees it"
)]
pub fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A time, in seconds since 1970, as `2026-01-31T12:00:00Z`.
pub struct Utc(pub u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0 / 86_400, self.0 % 86_400);
        // Counts from 1 March of the year 0, so that the leap day is a year's last and the months before it have a
        // regular pattern: 153 days in every five months. An era of 400 years has 146,097 days.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let year = era * 400 + year + next;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// systemd.exec(5): `JOURNAL_STREAM` names device and inode of the journal. A child may have inherited the variable alone.
fn is_journal(target: impl AsFd) -> bool {
    let names = std::env::var("JOURNAL_STREAM").ok();
    let stat = rustix::fs::fstat(target).ok();
    names.zip(stat).is_some_and(|(names, stat)| names == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Whether a character is seen, and nothing else than seen. Control bytes are not, nor line and paragraph separators (Zl, Zp), nor what
/// turns the direction of writing or has no width (Cf): with these a name can look like another line, or like another name.
fn is_shown_as_it_is(character: char) -> bool {
    // The standard library knows what can be printed, and escapes these beside it.
    matches!(character, '"' | '\'' | '\\') || character.escape_debug().len() == 1
}

struct LineLogger<F> {
    target: F,
    dated: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Lines lost since the last report.
    lost: u64,
    /// The last line ended in its middle.
    torn: bool,
}

impl<F: AsFd> LineLogger<F> {
    fn new(target: F, dated: bool) -> Self {
        Self { target, dated, state: Mutex::default() }
    }

    fn write_line(&self, now: u64, level: log::Level, text: &fmt::Arguments<'_>) {
        // Only a panic could have poisoned it, and a count is never wrong enough to lose a line over.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.lost > 0 {
            let report =
                format_args!("{} log lines were lost because nothing read them", state.lost).to_string();
            if self.send(&mut state, &self.line(now, log::Level::Warn, &report)) {
                state.lost = 0;
            }
        }
        if state.lost > 0 || !self.send(&mut state, &self.line(now, level, &text.to_string())) {
            state.lost += 1;
        }
    }

    /// A line without its end.
    fn line(&self, now: u64, level: log::Level, text: &str) -> String {
        let mut line = if self.dated { format!("{} {level:<5} ", Utc(now)) } else { format!("{level:<5} ") };
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

    /// Whether the whole line was taken.
    fn send(&self, state: &mut State, line: &str) -> bool {
        let start = if state.torn { "\n" } else { "" };
        let bytes = [start, line, "\n"].concat();
        let mut rest = bytes.as_bytes();
        while !rest.is_empty() && self.has_room() {
            match rustix::io::write(&self.target, rest) {
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

    fn has_room(&self) -> bool {
        const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut target = [PollFd::new(&self.target, PollFlags::OUT)];
        let ready = poll(&mut target, Some(&AT_ONCE)).is_ok();
        // A pipe without a reader is writable and in error: writing would fail.
        ready && target.iter().all(|target| target.revents() == PollFlags::OUT)
    }
}

impl<F: AsFd + Send + Sync> Log for LineLogger<F> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.write_line(unix_time(), record.level(), record.args());
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, PipeWriter, Read as _};

    use log::Level;

    use super::*;

    fn logger() -> (PipeReader, LineLogger<PipeWriter>) {
        let (reader, writer) = io::pipe().unwrap();
        (reader, LineLogger::new(writer, false))
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
        logger.dated = true;
        logger.write_line(1_700_000_000, Level::Error, &format_args!("forged\nline\x1b[2J"));
        let expected = "INFO  hello w\u{f6}rld\n2023-11-14T22:13:20Z ERROR forged\\nline\\u{1b}[2J\n";
        assert_eq!(read(&mut reader), expected);
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

    #[test]
    fn dates() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(Utc(unix).to_string(), text);
        }
    }
}
