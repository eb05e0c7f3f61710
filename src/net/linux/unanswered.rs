//! Connections whose remote side has vanished, as the kernel's table of sockets tells.
//!
//! TCP keep-alive is silent while anything that was sent is not acknowledged, and what is not acknowledged is
//! sent again for a quarter of an hour (`tcp_retries2` of tcp(7)) before the kernel gives up.
//! `TCP_USER_TIMEOUT` would shorten that, and would end the connections of living peers whose window is
//! closed. So the table is looked at now and then: `/proc/net/tcp` says of each socket whether bytes of it
//! are being sent again, how often, and how far the kernel has backed off. Of a peer that lives the kernel of
//! the peer answers, also where its process is stopped or takes nothing: such a one is never in question
//! here.
//!
//! Reading the table takes as long as there are sockets on the machine, so a short-lived thread does it.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use mio::Waker;

use crate::net::Event;

/// One for each family; that of a family that the kernel does not have is not there.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
const STACK_BYTES: usize = 128 * 1024;

/// How often the same bytes were sent again, at least, and how long the kernel waits before it does once
/// more, in hundredths of a second. That time doubles with each attempt, so that the silence has lasted as
/// long, and at most twice as long.
const MIN_RETRANSMITS: u32 = 4;
const MIN_BACKOFF_TICKS: u32 = 30 * 100;
/// Unanswered probes of a window that was closed, at least. A living peer answers each of them.
const MIN_PROBES: u32 = 2;
/// Looks in a row at which that is so, before the remote side counts as gone. The time between two probes
/// says nothing of the silence.
const LOOKS_PER_VERDICT: u8 = 4;

/// The sockets of this process's network of which the kernel hears nothing any more.
pub(super) struct Unanswered {
    waker: Arc<Waker>,
    sender: Sender<Vec<Sign>>,
    answers: Receiver<Vec<Sign>>,
    is_looking: bool,
    /// Those with a closed window, and at how many looks in a row it was unanswered.
    probed: Vec<(u64, u8)>,
}

/// What a line of the table says of a socket, by its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// What was sent to it is not acknowledged, for long.
    Silent(u64),
    /// Its window was closed, and it does not answer whether it still is.
    Unprobed(u64),
}

impl Unanswered {
    pub(super) fn new(waker: Arc<Waker>) -> Self {
        let (sender, answers) = channel();
        Self { waker, sender, answers, is_looking: false, probed: Vec::new() }
    }

    /// Begins to look. The waker announces the answer.
    pub(super) fn look(&mut self) {
        if self.is_looking {
            return;
        }
        let (sender, waker) = (self.sender.clone(), Arc::clone(&self.waker));
        let look = move || {
            let mut signs = Vec::new();
            for table in TABLES {
                // What cannot be read says nothing; the kernel gives up by itself in the end.
                let _ = read_table(table, &mut signs);
            }
            // If the loop is gone nobody wants the answer.
            let _ = sender.send(signs);
            let _ = waker.wake();
        };
        let thread = thread::Builder::new().name("look".into()).stack_size(STACK_BYTES);
        self.is_looking = thread.spawn(look).is_ok();
    }

    /// Appends what was found.
    pub(super) fn append_answers(&mut self, events: &mut Vec<Event>) {
        while let Ok(signs) = self.answers.try_recv() {
            self.is_looking = false;
            let sockets = self.judge(&signs);
            if !sockets.is_empty() {
                events.push(Event::Vanished { sockets });
            }
        }
    }

    fn judge(&mut self, signs: &[Sign]) -> Vec<u64> {
        let before = core::mem::take(&mut self.probed);
        let mut gone = Vec::new();
        for sign in signs {
            match *sign {
                Sign::Silent(inode) => gone.push(inode),
                Sign::Unprobed(inode) => {
                    let looks = before.iter().find(|(of, _)| *of == inode).map_or(0, |(_, looks)| *looks) + 1;
                    if looks >= LOOKS_PER_VERDICT {
                        gone.push(inode);
                    } else {
                        self.probed.push((inode, looks));
                    }
                }
            }
        }
        gone
    }
}

fn read_table(path: &str, signs: &mut Vec<Sign>) -> io::Result<()> {
    let mut table = BufReader::new(File::open(path)?);
    let mut line = String::new();
    while table.read_line(&mut line)? > 0 {
        signs.extend(read_line(&line));
        line.clear();
    }
    Ok(())
}

/// The fields of a line, which proc_pid_net(5) and the kernel's `get_tcp4_sock` name: number, both addresses,
/// state, bytes in both queues, timer and its time, retransmits, user, probes, inode, references, address,
/// time until a retransmission, and more.
fn read_line(line: &str) -> Option<Sign> {
    let mut fields = line.split_ascii_whitespace().skip(4);
    let (unacknowledged, _) = fields.next()?.split_once(':')?;
    let (timer, _) = fields.next()?.split_once(':')?;
    let retransmits = u32::from_str_radix(fields.next()?, 16).ok()?;
    let probes: u32 = fields.nth(1)?.parse().ok()?;
    let inode: u64 = fields.next()?.parse().ok()?;
    let backed_off: u32 = fields.nth(2)?.parse().ok()?;
    let has_sent = unacknowledged.bytes().any(|digit| digit != b'0');
    match timer {
        "01" if has_sent && retransmits >= MIN_RETRANSMITS && backed_off >= MIN_BACKOFF_TICKS => {
            Some(Sign::Silent(inode))
        }
        "04" if probes >= MIN_PROBES => Some(Sign::Unprobed(inode)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(timer: &str, sent: &str, retransmits: &str, probes: u32, backed_off: u32) -> String {
        format!(
            "   3: 0100007F:1F90 0100007F:D431 01 {sent}:00000000 {timer}:000000AA {retransmits}     0        {probes} 4711 \
             2 0000000000000000 {backed_off} 4 30 10 -1\n"
        )
    }

    #[test]
    fn a_line_tells_whether_the_remote_side_answers() {
        let silent = line("01", "00000010", "00000008", 0, 5120);
        assert_eq!(read_line(&silent), Some(Sign::Silent(4711)));
        for lives in [
            // Its second attempt, after less than a second.
            line("01", "00000010", "00000002", 0, 80),
            // On its way for the first time, on a line that takes long.
            line("01", "00000010", "00000000", 0, 12000),
            line("00", "00000000", "00000000", 0, 20),
            // Keep-alive, which gives up by itself.
            line("02", "00000000", "00000000", 2, 20),
            // A closed window that is answered for.
            line("04", "00010000", "00000000", 1, 20),
        ] {
            assert_eq!(read_line(&lives), None, "{lives}");
        }
        assert_eq!(read_line(&line("04", "00010000", "00000000", 2, 20)), Some(Sign::Unprobed(4711)));
        // The heading, and a connection in TIME_WAIT, which nobody has.
        let heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        assert_eq!(read_line(heading), None);
        let over = "  12: 0100007F:1F90 0100007F:D431 06 00000000:00000000 03:00000F2A 00000000     0        0 0 3 0000000000000000";
        assert_eq!(read_line(over), None);
    }

    #[test]
    fn a_closed_window_must_be_unanswered_several_times() {
        let poll = mio::Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), mio::Token(0)).unwrap());
        let mut unanswered = Unanswered::new(waker);
        for _ in 0..2 {
            for _ in 1..LOOKS_PER_VERDICT {
                assert!(unanswered.judge(&[Sign::Unprobed(1)]).is_empty());
            }
            // It has answered.
            assert!(unanswered.judge(&[]).is_empty());
        }
        for _ in 1..LOOKS_PER_VERDICT {
            assert_eq!(unanswered.judge(&[Sign::Unprobed(1), Sign::Silent(2)]), [2]);
        }
        assert_eq!(unanswered.judge(&[Sign::Unprobed(1)]), [1]);
    }

    #[test]
    fn the_tables_of_this_machine_can_be_read() {
        let mut signs = Vec::new();
        read_table(TABLES[0], &mut signs).unwrap();
    }
}
