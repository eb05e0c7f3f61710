//! The admin side of hub and agent: what an operator, a balancer or a scraper asks the process itself.
//!
//! It is an HTTP server of its own, apart from applications and tunnels: `request` says what is asked for,
//! `access` who may, `answer` how it is said, `metrics` what `/metrics` has, `status` what `/api/status` has,
//! `action` what can be done. What hub and agent know they tell as a [`Subject`], and what is to be done they
//! do as one. Nothing is rendered whole: a document is a cursor, of
//! which each turn sends one slice.
//!
//! # Who has to act, and what ends the waiting for it
//!
//! | State | Who has to act | Limit |
//! |---|---|---|
//! | no byte of a head | the client | a minute and a quarter |
//! | a head, or its body, has begun | the client | five seconds (408) |
//! | bytes wait for the client | the client, by taking some | ten seconds |
//! | a document is being sent | this process | the next turn |
//! | ending | the client, by FIN | five seconds |
//!
//! At most [`MAX_CONNECTIONS`] stand at a time. A newcomer then takes the place of one of them: of one that
//! waits for its client if there is any, else of the one that has had the most answers. So nobody can keep
//! the others out, not even by asking without end.

mod access;
pub mod action;
mod answer;
pub mod attention;
pub mod histogram;
pub mod machine;
pub mod metrics;
mod request;
pub mod status;

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::fmt;
use core::time::Duration;

use self::access::{Access, Gatekeeper};
use self::action::{Action, Done, NotDone};
use self::answer::{Answer, Framing};
use self::attention::Attention;
use self::machine::{Certificate, Front, Machine};
use self::metrics::{METRICS, Metric, OwnMetric, RoleName, Samples};
use self::request::{Act, Asked, Found, Route};
use self::status::{Calendar, Json, Place, Telling};
use super::deadline::SendLimit;
use super::http1::head::HeadScan;
use super::http1::reply::CONTINUE;
use super::http1::start_line::Version;
use super::seam::{Caller, Close, Command, Shown, Step};
use super::tables::key::{AdminKey, Key, TableKey};
use super::tables::table::Table;
use super::tables::timer::{Mono, Now};
use crate::config::{AdminConfig, Page};

/// The most connections at a time.
pub const MAX_CONNECTIONS: usize = 16;
/// How much of a document one turn sends, in bytes.
const SLICE_BYTES: usize = 32 * 1024;
/// Between two requests: longer than scrapers pause, as a rule.
const IDLE: Duration = Duration::from_secs(75);
/// For a head and its body, from the first byte on.
const HEAD: Duration = Duration::from_secs(5);
/// For a client to take something of what waits for it.
const STALL: Duration = Duration::from_secs(10);
/// For a client to close its direction after ours.
const LINGER: Duration = Duration::from_secs(5);

/// Why a process is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReady {
    /// It is ending.
    Draining,
    /// Fewer agents than were asked for take work.
    Agents {
        /// So many do.
        ready: usize,
        /// So many were asked for.
        asked: usize,
    },
    /// The agent has no tunnel.
    NoHub,
    /// No upstream of the agent can be used.
    NoUpstream,
    /// Those that can are paused.
    Paused,
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Draining => f.write_str("draining"),
            Self::Agents { ready, asked } => write!(f, "{ready} of {asked} agents take work"),
            Self::NoHub => f.write_str("no hub is joined"),
            Self::NoUpstream => f.write_str("no upstream is well"),
            Self::Paused => f.write_str("paused"),
        }
    }
}

/// What hub and agent tell of themselves.
pub trait Subject {
    /// What the process is.
    fn role(&self) -> RoleName;

    /// From now on it counts what the admin side tells of requests.
    fn begin_to_count(&mut self);

    /// Whether it takes work. A hub may be asked for a number of agents that take some, too.
    ///
    /// # Errors
    /// The reason, if it does not.
    fn check_ready(&self, agents: Option<usize>) -> Result<(), NotReady>;

    /// Adds the samples of a metric, those after this name if the metric is told by name. The name where to
    /// go on, if [`Samples::is_full`] before all are told. A metric that it knows nothing of has no sample.
    fn write_samples(
        &self,
        metric: Metric,
        after: Option<&str>,
        samples: &mut Samples<'_>,
        now: Now,
    ) -> Option<String>;

    /// What somebody should look at.
    fn attention(&self) -> Vec<Attention>;

    /// Goes on with the members of `/api/status` that hub or agent know, until [`Json::is_full`]. Whether all
    /// are told.
    fn write_status(&self, at: &mut Place, json: &mut Json<'_>, telling: &Telling) -> bool;

    /// Does what an operator wants done.
    ///
    /// # Errors
    /// There is nothing that it could be done to.
    fn act(&mut self, action: &Action<'_>, now: Now) -> Result<Done, NotDone>;
}

/// The admin side of a process.
pub struct Admin {
    gatekeeper: Gatekeeper,
    connections: Table<AdminKey, Connection>,
    /// How many connections have been accepted.
    accepted: u64,
    is_draining: bool,
    /// In seconds since 1970.
    started: u64,
    calendar: Calendar,
    began: Mono,
    page: Option<Page>,
    pid: Option<u32>,
    instance: u32,
    host: Option<String>,
    machine: Option<&'static dyn Machine>,
    front: Option<Front>,
    certificate: Option<Certificate>,
}

/// One connection of an operator, a balancer or a scraper.
struct Connection {
    caller: Caller,
    /// How many were accepted before it.
    number: u64,
    /// How many answers it has had.
    answers: u64,
    /// On a port where TLS is spoken it began with plain HTTP.
    is_insecure: bool,
    sending: SendLimit,
    state: State,
}

enum State {
    /// For the next head. `until` is short once it has begun; `continued` once its body was asked for.
    Waiting { scan: HeadScan, until: Mono, is_begun: bool, continued: bool },
    /// A document is being sent.
    Sending { at: Cursor, framing: Framing, is_kept: bool },
    /// The last answer is being sent, then FIN.
    Ending { until: Mono },
}

/// How far a document has been told.
enum Cursor {
    /// `/metrics`: metrics that are told, and the name behind which the next one goes on.
    Metrics { metric: usize, after: Option<String> },
    /// `/api/status`, perhaps with all rows, for a reader who may do so much.
    Status { place: Place, all: bool, access: Access },
}

impl Connection {
    fn idle(now: Now) -> State {
        let until = now.mono.after(IDLE);
        State::Waiting { scan: HeadScan::default(), until, is_begun: false, continued: false }
    }

    /// When something is to be done, though nothing happens.
    fn deadline(&self) -> Mono {
        let until = match self.state {
            // The next turn.
            State::Sending { .. } if !self.sending.is_sending() => Mono(0),
            State::Sending { .. } => Mono::NEVER,
            State::Waiting { until, .. } | State::Ending { until } => until,
        };
        until.min(self.sending.deadline())
    }

    /// The connection with the least rank is given up for a newcomer. Those that wait for their clients come
    /// first; then it is the one that has had the most answers, and of several the oldest one.
    fn rank(&self) -> (u8, Reverse<u64>, Mono, u64) {
        let (state, answers) = match self.state {
            State::Ending { .. } => (0, 0),
            State::Waiting { is_begun: false, .. } if !self.sending.is_sending() => (1, 0),
            State::Waiting { .. } => (2, 0),
            State::Sending { .. } if self.sending.is_sending() => (3, self.answers),
            State::Sending { .. } => (4, self.answers),
        };
        (state, Reverse(answers), self.deadline(), self.number)
    }
}

impl Admin {
    /// The admin side of a process that begins now.
    pub fn new(config: &AdminConfig, now: Now) -> Self {
        Self {
            gatekeeper: Gatekeeper::new(config),
            connections: Table::new(),
            accepted: 0,
            is_draining: false,
            started: now.unix,
            calendar: Calendar::new(now),
            began: now.mono,
            page: config.page,
            pid: config.pid,
            instance: config.instance,
            host: config.host.clone(),
            machine: config.machine,
            front: config.front.clone(),
            certificate: None,
        }
    }

    /// Whoever connects by TLS is shown this from now on.
    pub fn set_certificate(&mut self, certificate: Certificate) {
        self.certificate = Some(certificate);
    }

    /// The process has been told to end.
    pub fn note_draining(&mut self) {
        self.is_draining = true;
    }

    /// Takes a connection in, at the cost of another one if there are many.
    pub fn handle_accepted(&mut self, caller: Caller, now: Now, commands: &mut Vec<Command>) -> Option<Key> {
        if self.connections.len() >= MAX_CONNECTIONS {
            let (key, _) = self.connections.iter().min_by_key(|(_, connection)| connection.rank())?;
            self.drop(key, Close::Now, commands);
        }
        let connection = Connection {
            caller,
            number: self.accepted,
            answers: 0,
            is_insecure: false,
            sending: SendLimit::IDLE,
            state: Connection::idle(now),
        };
        self.accepted += 1;
        self.connections.insert(connection).map(Key::from)
    }

    /// Plain HTTP has come where TLS is spoken.
    pub fn handle_insecure(&mut self, key: Key) {
        if let Some(connection) = AdminKey::from_key(key).and_then(|key| self.connections.get_mut(key)) {
            connection.is_insecure = true;
        }
    }

    /// As [`Core::wants_input`](super::seam::Core::wants_input).
    pub fn wants_input(&self, key: Key) -> bool {
        AdminKey::from_key(key).and_then(|key| self.connections.get(key)).is_some_and(|connection| {
            matches!(connection.state, State::Waiting { .. }) && !connection.sending.is_sending()
        })
    }

    /// As [`Core::handle_input`](super::seam::Core::handle_input).
    pub fn handle_input(
        &mut self,
        key: Key,
        shown: &Shown<'_>,
        subject: &mut impl Subject,
        now: Now,
        commands: &mut Vec<Command>,
    ) -> Step {
        if !self.wants_input(key) {
            return Step::Wait;
        }
        let Some(key) = AdminKey::from_key(key) else { return Step::Wait };
        let Some(connection) = self.connections.get_mut(key) else { return Step::Wait };
        let State::Waiting { scan, until, is_begun, continued } = &mut connection.state else {
            return Step::Wait;
        };
        let crlf = scan.leading_crlf(shown.input);
        if crlf > 0 {
            return Step::Skip(crlf);
        }
        let asked = match request::find(scan, shown.input) {
            Found::Part { expects } => {
                if shown.end.is_some() {
                    self.drop(key, Close::Now, commands);
                } else {
                    if !*is_begun && !shown.input.is_empty() {
                        (*is_begun, *until) = (true, now.mono.after(HEAD));
                    }
                    if expects && !core::mem::replace(continued, true) {
                        commands.push(Command::Send { key: key.into(), bytes: CONTINUE.to_vec() });
                    }
                }
                return Step::Wait;
            }
            Found::Wrong(refusal) => {
                self.refuse(key, refusal, now, commands);
                return Step::Skip(shown.input.len());
            }
            Found::Whole(asked) => asked,
        };
        let length = asked.length;
        self.answer(key, asked, subject, now, commands);
        Step::Skip(length)
    }

    /// Answers a request that has come whole.
    fn answer(
        &mut self,
        key: AdminKey,
        asked: Asked<'_>,
        subject: &mut impl Subject,
        now: Now,
        commands: &mut Vec<Command>,
    ) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.answers += 1;
        let Asked { head_only, version, is_kept, .. } = asked;
        let framing = Framing::of_unknown_length(version);
        // A port of TLS takes no password in plain text.
        let route = if connection.is_insecure {
            Err(Answer::refusal(400, "this port speaks HTTPS: write https:// instead of http://"))
        } else {
            let access = self.gatekeeper.check(connection.caller, &asked, now);
            access.and_then(|access| Ok((asked.route(self.page, access)?, access)))
        };
        let mut document = None;
        let answer = match route {
            Err(answer) => answer,
            Ok((Route::Health, _)) => Answer::text(200, "ok\n".into()),
            Ok((Route::Ready { agents }, _)) => match self.check_ready(subject, agents) {
                Ok(()) => Answer::text(200, "ready\n".into()),
                Err(reason) => Answer::text(503, format!("not ready: {reason}\n").into()),
            },
            Ok((Route::Page { has_it }, _)) => match self.page {
                Some(page) => Answer::page(page, has_it),
                None => Answer::refusal(404, "there is no page"),
            },
            Ok((Route::Status { all }, access)) => {
                document = Some(Cursor::Status { place: Place::default(), all, access });
                Answer::document(status::CONTENT_TYPE, framing)
            }
            Ok((Route::Act(act), _)) => self.act(&act, subject, now),
            Ok((Route::Metrics, _)) => {
                document = Some(Cursor::Metrics { metric: 0, after: None });
                Answer::document(metrics::CONTENT_TYPE, framing)
            }
        };
        let is_kept = is_kept && !(document.is_some() && framing == Framing::UntilClose);
        let bytes = answer.write(head_only, version, is_kept);
        commands.push(Command::Send { key: key.into(), bytes });
        let Some(connection) = self.connections.get_mut(key) else { return };
        match document.filter(|_| !head_only) {
            Some(at) => connection.state = State::Sending { at, framing, is_kept },
            None => Self::end_answer(key, connection, is_kept, now, commands),
        }
    }

    /// Does what is asked for, and says what came of it.
    fn act(&self, act: &Act, subject: &mut impl Subject, now: Now) -> Answer {
        let action = match act {
            Act::Agent { id, pause } => Some(Action::Agent { id, pause: *pause }),
            Act::Name { name, pause } => Some(Action::Name { name, pause: *pause }),
            Act::Queue { pause } => Some(Action::Queue { pause: *pause }),
            // An id of another run of the process means nothing here.
            Act::Cancel { id } => id.split_once('-').and_then(|(instance, number)| {
                let is_ours = instance == format!("{:08x}", self.instance);
                let number = number.parse().ok().filter(|it: &u64| is_ours && it.to_string() == number);
                number.map(|number| Action::Cancel { number })
            }),
        };
        let unknown = NotDone::Unknown("no request with this id waits or runs");
        match action.ok_or(unknown).and_then(|action| subject.act(&action, now)) {
            Ok(Done::Changed(changed)) => Answer::json(format!("{{\"ok\":true,\"changed\":{changed}}}\n")),
            Ok(Done::Cancelled { ran }) => {
                let was = if ran { "running" } else { "waiting" };
                Answer::json(format!("{{\"ok\":true,\"was\":\"{was}\"}}\n"))
            }
            Err(NotDone::Unknown(why)) => Answer::refusal(404, why),
            Err(NotDone::Full(why)) => Answer::refusal(503, why),
        }
    }

    fn refuse(&mut self, key: AdminKey, refusal: Answer, now: Now, commands: &mut Vec<Command>) {
        let bytes = refusal.write(false, Version::Http11, false);
        commands.push(Command::Send { key: key.into(), bytes });
        if let Some(connection) = self.connections.get_mut(key) {
            Self::end_answer(key, connection, false, now, commands);
        }
    }

    /// All of an answer is on its way.
    fn end_answer(
        key: AdminKey,
        connection: &mut Connection,
        is_kept: bool,
        now: Now,
        commands: &mut Vec<Command>,
    ) {
        if is_kept {
            connection.state = Connection::idle(now);
            commands.push(Command::Resume(key.into()));
        } else {
            connection.state = State::Ending { until: now.mono.after(LINGER) };
            commands.push(Command::Close(key.into(), Close::Linger));
        }
    }

    fn check_ready(&self, subject: &impl Subject, agents: Option<usize>) -> Result<(), NotReady> {
        if self.is_draining { Err(NotReady::Draining) } else { subject.check_ready(agents) }
    }

    /// As [`Core::handle_send_progress`](super::seam::Core::handle_send_progress).
    pub fn handle_send_progress(&mut self, key: Key, waiting: bool, now: Now, commands: &mut Vec<Command>) {
        let connection = AdminKey::from_key(key).and_then(|key| self.connections.get_mut(key));
        if let Some(connection) = connection {
            connection.sending = SendLimit::of(waiting, STALL, now);
            if !waiting {
                commands.push(Command::Resume(key));
            }
        }
    }

    /// As [`Core::handle_closed`](super::seam::Core::handle_closed).
    pub fn handle_closed(&mut self, key: Key) {
        if let Some(key) = AdminKey::from_key(key) {
            self.connections.remove(key);
        }
    }

    /// As [`Core::next_timeout`](super::seam::Core::next_timeout).
    pub fn next_timeout(&self) -> Option<Mono> {
        self.connections.iter().map(|(_, connection)| connection.deadline()).min()
    }

    /// As [`Core::handle_timeout`](super::seam::Core::handle_timeout).
    pub fn handle_timeout(&mut self, now: Now, commands: &mut Vec<Command>) {
        let late: Vec<AdminKey> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.deadline() <= now.mono)
            .map(|(key, _)| key)
            .collect();
        for key in late {
            let Some(connection) = self.connections.get(key) else { continue };
            match connection.state {
                // A reset: what was taken must not pass for all.
                _ if connection.sending.has_passed(now) => self.drop(key, Close::Reset, commands),
                State::Waiting { is_begun: true, .. } => {
                    let late = Answer::refusal(408, "the request did not arrive in time");
                    self.refuse(key, late, now, commands);
                }
                State::Waiting { is_begun: false, .. } | State::Ending { .. } => {
                    self.drop(key, Close::Now, commands);
                }
                State::Sending { .. } => {}
            }
        }
    }

    /// The turn ends: one slice of one document goes out.
    pub fn handle_batch_end(&mut self, subject: &impl Subject, now: Now, commands: &mut Vec<Command>) {
        self.connections.end_batch();
        let next = self.connections.iter().find(|(_, connection)| {
            matches!(connection.state, State::Sending { .. }) && !connection.sending.is_sending()
        });
        let Some(key) = next.map(|(key, _)| key) else { return };
        let Some(connection) = self.connections.get_mut(key) else { return };
        let state = core::mem::replace(&mut connection.state, Connection::idle(now));
        let State::Sending { mut at, framing, is_kept } = state else { return };
        let mut text = String::new();
        let is_whole = match &mut at {
            Cursor::Metrics { metric, after } => self.write_metrics(subject, metric, after, &mut text, now),
            Cursor::Status { place, all, access } => {
                self.write_status(subject, place, *all, *access, &mut text, now)
            }
        };
        let bytes = framing.wrap(text.as_bytes(), is_whole);
        commands.push(Command::Send { key: key.into(), bytes });
        let Some(connection) = self.connections.get_mut(key) else { return };
        if is_whole {
            Self::end_answer(key, connection, is_kept, now, commands);
        } else {
            connection.state = State::Sending { at, framing, is_kept };
        }
    }

    /// Goes on with `/metrics`, for one slice. Whether that was the last one.
    fn write_metrics(
        &self,
        subject: &impl Subject,
        at: &mut usize,
        after: &mut Option<String>,
        text: &mut String,
        now: Now,
    ) -> bool {
        while let Some(metric) = METRICS.get(*at) {
            let mut samples = Samples::new(*metric, text, SLICE_BYTES, after.is_some());
            if samples.is_full() {
                return false;
            }
            *after = if self.write_own_samples(*metric, subject, &mut samples) {
                None
            } else {
                subject.write_samples(*metric, after.as_deref(), &mut samples, now)
            };
            if after.is_none() {
                *at += 1;
            }
        }
        true
    }

    /// Goes on with `/api/status`, for one slice. Whether that was the last one.
    fn write_status(
        &mut self,
        subject: &impl Subject,
        at: &mut Place,
        all: bool,
        access: Access,
        text: &mut String,
        now: Now,
    ) -> bool {
        self.calendar.follow(now);
        let telling = Telling { calendar: self.calendar, instance: self.instance, is_all: all };
        let mut json = Json::new(text, SLICE_BYTES, at.is_behind);
        if !core::mem::replace(&mut at.is_begun, true) {
            json.open('{');
            self.write_own_status(subject, access, &mut json, now);
        }
        let is_whole = subject.write_status(at, &mut json, &telling);
        if is_whole {
            json.close('}');
        }
        at.is_behind = json.is_behind;
        is_whole
    }

    /// What the admin side itself knows, and what nobody knows.
    fn write_own_status(&self, subject: &impl Subject, access: Access, json: &mut Json<'_>, now: Now) {
        json.key("api").number(1_u64);
        json.key("role").text(subject.role().name());
        json.key("version").text(env!("CARGO_PKG_VERSION"));
        json.key("instance").text(format_args!("{:08x}", self.instance));
        json.key("pid").maybe(self.pid.map(u64::from));
        json.key("host").text_or_null(self.host.as_deref().unwrap_or_default());
        json.key("started_at").number(self.calendar.at(self.began));
        json.key("now_at").number(self.calendar.at(now.mono));
        json.key("state").text(if self.is_draining { "draining" } else { "running" });
        let ready = self.check_ready(subject, None);
        json.key("ready").flag(ready.is_ok());
        match ready {
            Ok(()) => json.key("ready_reason").null(),
            Err(reason) => json.key("ready_reason").text(reason),
        }
        json.key("access").text(match access {
            Access::All => "all",
            Access::View => "view",
        });
        json.unknown(&["drain", "predecessor", "recent", "history"]);
        let mut attention = subject.attention();
        attention.extend(machine::attention(self.certificate.as_ref(), now.unix));
        attention::write(json, attention);
        machine::write_log(json, self.machine);
        if let Some(front) = &self.front {
            machine::write_front(json, front);
            machine::write_certificate(json, self.certificate.as_ref());
        }
    }

    /// The samples of a metric that the admin side itself knows. False if hub or agent know it.
    fn write_own_samples(&self, metric: Metric, subject: &impl Subject, samples: &mut Samples<'_>) -> bool {
        let metric = match metric {
            Metric::Own(metric) => metric,
            Metric::Process(metric) => {
                machine::write_usage(metric, self.machine, samples);
                return true;
            }
            Metric::Hub(_) | Metric::Agent(_) => return false,
        };
        match metric {
            OwnMetric::BuildInfo => {
                samples.add(&[subject.role().name(), env!("CARGO_PKG_VERSION")], 1);
            }
            OwnMetric::Ready => samples.add(&[], u64::from(self.check_ready(subject, None).is_ok())),
            OwnMetric::Draining => samples.add(&[], u64::from(self.is_draining)),
            OwnMetric::AdminRefusals => self.gatekeeper.write_refusals(samples),
            OwnMetric::ProcessStart => samples.add(&[], self.started),
            OwnMetric::LogLost => {
                if let Some(machine) = self.machine {
                    samples.add(&["log"], machine.lost_lines());
                }
            }
            OwnMetric::CertificateExpiry => {
                let certificate = self.certificate.as_ref();
                if let Some(expires) = certificate.and_then(|certificate| certificate.expires) {
                    samples.add(&[], expires);
                }
            }
        }
        true
    }

    fn drop(&mut self, key: AdminKey, how: Close, commands: &mut Vec<Command>) {
        if self.connections.remove(key).is_some() {
            commands.push(Command::Close(key.into(), how));
        }
    }
}

#[cfg(test)]
#[path = "../tests/admin/mod.rs"]
mod tests;
