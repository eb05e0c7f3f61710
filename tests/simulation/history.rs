//! What the world remembers of a run, so that invariants can be checked over all of it at the end.

use crate::world::{Delivery, MILLI, Micros, SECOND, World};

/// What happened at an endpoint, for the invariants: totals with the turn and the call at which they were
/// reached.
#[derive(Default)]
pub(crate) struct History {
    /// When the connection was asked for.
    pub(crate) began: Micros,
    pub(crate) written: Vec<(u64, Moment)>,
    pub(crate) read: Vec<(u64, Moment)>,
    /// When the process was told that the remote side has ended, by an event or by a call.
    pub(crate) told_end: Option<Moment>,
    pub(crate) closed: Option<Moment>,
    /// When FIN arrived, whoever was told of it.
    pub(crate) fin_arrived: Option<Moment>,
    /// When the process took it from a listener.
    pub(crate) accepted: Option<Moment>,
    /// Bytes that have arrived.
    pub(crate) arrived: u64,
    /// When the last of them did.
    pub(crate) arrived_at: Micros,
    /// The process was killed while it had this connection.
    pub(crate) killed: bool,
    /// The process went away while it had this connection, or before it took it.
    pub(crate) dropped: bool,
    /// The first write found no room, which a kernel has on a new connection, and may have been made later.
    pub(crate) begun_late: bool,
}

/// A point in a run: the turn of some process, and the system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    pub(crate) turn: u64,
    pub(crate) call: u64,
    pub(crate) at: Micros,
}

/// A process wrote the marker of an exchange, in a request that begins here in the stream that it wrote.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sighting {
    pub(crate) exchange: usize,
    pub(crate) end: usize,
    pub(crate) begins: u64,
    /// It may have waited for room: it was decided before it was written.
    pub(crate) held_up: bool,
}

/// An agent answered on a tunnel: with a status that is no interim one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) end: usize,
    pub(crate) at: Moment,
    /// It said that the upstream has seen nothing of the request.
    pub(crate) is_refusal: bool,
}

/// What a status line begins with, and the line that an agent refuses a request by. An upstream may say the
/// same within a line.
const STATUS: &[u8] = b"HTTP/1.1 ";
const REFUSAL: &[u8] = b"\nslime-refused: ";

/// The field that tells the exchange, with a number of fixed width behind it.
pub(crate) const MARKER: &str = "x-exchange: ";
const MARKER_DIGITS: usize = 6;

/// What a script may ask with.
pub(crate) const METHODS: [&str; 6] = ["GET", "POST", "PUT", "HEAD", "DELETE", "PATCH"];

/// More than ever stands between the beginning of a request and its marker.
const TAIL: usize = 4096;

/// The marker field's line of an exchange.
pub(crate) fn marker(exchange: usize) -> String {
    format!("{MARKER}{exchange:0MARKER_DIGITS$}\r\n")
}

impl World {
    /// Notes markers among the bytes that are being written, also those that are cut by the end of a write.
    /// To be called before they are counted.
    pub(crate) fn note_markers(&mut self, end: usize, bytes: &[u8]) {
        let mut text = self.tails.remove(&end).unwrap_or_default();
        let old = text.len();
        let before = self.ends[end].history.written.last().map_or(0, |(total, _)| *total) - old as u64;
        text.extend_from_slice(bytes);
        let length = MARKER.len() + MARKER_DIGITS;
        for start in (old + 1).saturating_sub(length)..(text.len() + 1).saturating_sub(length) {
            let found = &text[start..start + length];
            if !found[..MARKER.len()].eq_ignore_ascii_case(MARKER.as_bytes()) {
                continue;
            }
            let digits = std::str::from_utf8(&found[MARKER.len()..]).ok();
            let Some(exchange) = digits.and_then(|digits| digits.parse().ok()) else { continue };
            // The request began with its method, before its target.
            let target = format!(" /e/{exchange}?");
            let Some(at) = text[..start].windows(target.len()).rposition(|it| it == target.as_bytes()) else {
                continue;
            };
            let method = METHODS.iter().find(|method| text[..at].ends_with(method.as_bytes()));
            let method = method.map_or(0, |method| method.len());
            let begins = before + (at - method) as u64;
            // Its beginning may stand in one write and its marker in the next.
            let held_up = self.ends[end].held_up || begins < self.ends[end].late_until;
            self.ambush(end);
            self.sightings.push(Sighting { exchange, end, begins, held_up });
        }
        if self.hosts[self.ends[end].process].name.starts_with("agent") {
            self.note_answers(end, &text, old);
        }
        let keep = text.len().saturating_sub(TAIL);
        self.tails.insert(end, text.split_off(keep));
    }

    /// Notes answers in a text of which so much was written before.
    fn note_answers(&mut self, end: usize, text: &[u8], old: usize) {
        let new = old.saturating_sub(STATUS.len().max(REFUSAL.len()));
        for at in new..text.len() {
            let is_new = |length: usize| at + length > old && at + length <= text.len();
            let rest = &text[at..];
            if is_new(STATUS.len() + 1) && rest.starts_with(STATUS) && rest[STATUS.len()] != b'1' {
                self.answers.push(Answer { end, at: self.moment, is_refusal: false });
            } else if is_new(REFUSAL.len())
                && rest[..REFUSAL.len()].eq_ignore_ascii_case(REFUSAL)
                && let Some(answer) = self.answers.iter_mut().rfind(|it| it.end == end)
            {
                answer.is_refusal = true;
            }
        }
    }

    /// By chance, the connection on which a request is being sent on breaks.
    fn ambush(&mut self, end: usize) {
        let is_by_client = self.hosts[self.ends[end].process].name.starts_with("client");
        if !is_by_client && self.rng.chance(self.weather.ambush) {
            let longest = self.rng.pick(&[1, 50 * MILLI, 300 * MILLI, SECOND]);
            let at = self.clock + self.rng.within(0, longest);
            let silence = self.rng.chance(150);
            self.deliver_at(at, Delivery::Strike { end, silence });
        }
    }
}
