//! Lines of the log that may repeat: of each kind one at once, and then at most one a minute, with the number
//! of those that are not shown.
//!
//! A change of state is not such a line: it is shown at once, and ends the lines that were true before it.
//! Else the log would say for a minute what is no longer so, and say it last.
//!
//! What goes wrong for one goes wrong for a thousand: a log that says it a thousand times is as useless as
//! one that does not say it. What makes two lines of one kind is for the caller to say: the place, and, where
//! it matters, whom it is about.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write as _};
use core::time::Duration;

use log::{Level, log, log_enabled};

use crate::proto::tables::timer::Mono;

/// For this long after a line there is none of its kind.
const REPEAT_AFTER: Duration = Duration::from_secs(60);
/// The most kinds that are told apart at one time. Beyond it those of one place count as one, whomever they
/// are about.
const MAX_KINDS: usize = 64;

/// What makes two lines of one kind: their wording, and a number for whom they are about (0 where that does
/// not matter).
pub type Kind = (&'static str, u64);

/// A number of things in words: `1 request`, `2 requests`.
#[derive(Clone, Copy, Debug)]
pub struct Count(pub usize, pub &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, thing) = self;
        write!(f, "{number} {thing}{}", if *number == 1 { "" } else { "s" })
    }
}

/// The lines that were shown of late, and those that were not.
#[derive(Debug, Default)]
pub struct Notices {
    recent: Vec<Recent>,
}

#[derive(Debug)]
struct Recent {
    kind: Kind,
    until: Mono,
    /// Lines that were not shown, and the last of them, with its time.
    swallowed: u32,
    level: Level,
    last: String,
    last_at: Mono,
}

impl Notices {
    /// Shows the line, or keeps it back if there was one of its kind of late.
    pub fn say(&mut self, level: Level, kind: Kind, now: Mono, line: fmt::Arguments<'_>) {
        if !log_enabled!(level) {
            return;
        }
        let kind = if self.recent.len() < MAX_KINDS { kind } else { self.crowded(kind) };
        if let Some(recent) = self.recent.iter_mut().find(|recent| recent.kind == kind) {
            recent.swallowed = recent.swallowed.saturating_add(1);
            recent.level = level;
            recent.last_at = now;
            recent.last.clear();
            // Writing to a string does not fail.
            let _ = recent.last.write_fmt(line);
        } else {
            log!(level, "{line}");
            let until = now.after_coarse(REPEAT_AFTER);
            self.recent.push(Recent { kind, until, swallowed: 0, level, last: String::new(), last_at: now });
        }
    }

    /// Shows a line that says that things are different from now on. It is never held back. Lines of the
    /// kinds that it ends are forgotten: those that were held back are not shown any more, and the next one
    /// is.
    pub fn change(&mut self, level: Level, ends: &[Kind], line: fmt::Arguments<'_>) {
        log!(level, "{line}");
        self.recent.retain(|recent| !ends.contains(&recent.kind));
    }

    /// What lines of these kinds said is no longer so: those that were held back are not shown any more.
    pub fn end(&mut self, kinds: &[Kind]) {
        for recent in self.recent.iter_mut().filter(|recent| kinds.contains(&recent.kind)) {
            recent.swallowed = 0;
        }
    }

    /// When [`Notices::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Mono {
        self.recent.iter().map(|recent| recent.until).min().unwrap_or(Mono::NEVER)
    }

    /// Shows the last line of each kind that was kept back for long enough.
    pub fn handle_timeout(&mut self, now: Mono) {
        self.recent.retain_mut(|recent| {
            if recent.until > now {
                return true;
            }
            let was_quiet = recent.swallowed == 0;
            recent.show(now);
            recent.until = now.after_coarse(REPEAT_AFTER);
            !was_quiet
        });
    }

    /// Shows what was kept back: there is no later.
    pub fn handle_end(&mut self, now: Mono) {
        self.recent.iter_mut().for_each(|recent| recent.show(now));
    }

    /// The kind under which a line counts while there are many.
    fn crowded(&self, kind: Kind) -> Kind {
        let is_known = self.recent.iter().any(|recent| recent.kind == kind);
        if is_known { kind } else { (kind.0, u64::MAX) }
    }
}

impl Recent {
    fn show(&mut self, now: Mono) {
        let (last, ago) = (&self.last, now.since(self.last_at).as_secs());
        match core::mem::take(&mut self.swallowed) {
            0 => {}
            1 => log!(self.level, "{last} ({ago} s ago)"),
            more => log!(self.level, "{last} ({ago} s ago, and {} more like it before)", more - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use core::cell::RefCell;
    use std::sync::Once;

    use log::{LevelFilter, Log, Metadata, Record};

    use super::*;

    /// Each test runs in a thread of its own.
    struct Lines;

    std::thread_local! {
        static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    impl Log for Lines {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &Record<'_>) {
            LINES.with_borrow_mut(|lines| lines.push(record.args().to_string()));
        }

        fn flush(&self) {}
    }

    fn taken() -> Vec<String> {
        LINES.take()
    }

    fn notices() -> Notices {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            log::set_logger(&Lines).unwrap();
            log::set_max_level(LevelFilter::Info);
        });
        Notices::default()
    }

    #[test]
    fn one_at_once_and_then_one_a_minute() {
        let mut notices = notices();
        let at = |second: u64| Mono(second * 1000);
        for second in 0..30 {
            notices.say(Level::Info, ("lost", 1), at(second), format_args!("lost {second}"));
        }
        notices.say(Level::Info, ("lost", 2), at(30), format_args!("lost another"));
        notices.say(Level::Debug, ("lost", 3), at(30), format_args!("not wanted"));
        assert_eq!(taken(), ["lost 0", "lost another"]);
        assert_eq!(notices.next_timeout(), at(60));
        notices.handle_timeout(at(59));
        assert_eq!(taken(), [""; 0]);
        notices.handle_timeout(at(60));
        assert_eq!(taken(), ["lost 29 (31 s ago, and 28 more like it before)"]);
        notices.handle_timeout(at(90));
        notices.say(Level::Info, ("lost", 1), at(100), format_args!("lost 100"));
        notices.handle_timeout(at(120));
        assert_eq!(taken(), ["lost 100 (20 s ago)"]);
        notices.handle_timeout(at(180));
        assert_eq!(notices.next_timeout(), Mono::NEVER);
        notices.say(Level::Info, ("lost", 1), at(181), format_args!("lost 181"));
        notices.say(Level::Info, ("lost", 1), at(182), format_args!("lost 182"));
        notices.say(Level::Info, ("lost", 1), at(183), format_args!("lost 183"));
        assert_eq!(taken(), ["lost 181"]);
        notices.handle_end(Mono(183_000));
        assert_eq!(taken(), ["lost 183 (0 s ago, and 1 more like it before)"]);
    }

    #[test]
    fn a_change_is_shown_at_once_and_ends_what_was_so_before() {
        let mut notices = notices();
        let at = |second: u64| Mono(second * 1000);
        for second in 0..3 {
            notices.say(Level::Info, ("unreachable", 0), at(second), format_args!("cannot join {second}"));
        }
        for _ in 0..2 {
            notices.change(Level::Info, &[("unreachable", 0)], format_args!("joined"));
        }
        assert_eq!(taken(), ["cannot join 0", "joined", "joined"]);
        notices.say(Level::Info, ("unreachable", 0), at(4), format_args!("cannot join 4"));
        assert_eq!(taken(), ["cannot join 4"]);
        notices.say(Level::Info, ("unreachable", 0), at(5), format_args!("cannot join 5"));
        notices.end(&[("unreachable", 0)]);
        notices.handle_timeout(at(200));
        assert_eq!(taken(), [""; 0]);
    }

    #[test]
    fn numbers_have_their_noun() {
        assert_eq!(Count(1, "request").to_string(), "1 request");
        assert_eq!(Count(0, "request").to_string(), "0 requests");
        assert_eq!(Count(2, "tunnel").to_string(), "2 tunnels");
    }

    #[test]
    fn a_crowd_counts_as_one() {
        let mut notices = notices();
        for agent in 0..1000 {
            notices.say(Level::Info, ("joined", agent), Mono(0), format_args!("{agent} joined"));
        }
        assert_eq!(taken().len(), MAX_KINDS + 1);
        notices.handle_timeout(Mono(60_000));
        assert_eq!(
            taken(),
            [format!("999 joined (60 s ago, and {} more like it before)", 1000 - MAX_KINDS - 2)]
        );
    }
}
