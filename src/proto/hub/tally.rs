//! What the hub has counted since it began: how requests ended, what was answered, and what took how long.
//! Nothing of it allocates.

use super::{Exchange, Phase, Refusal};
use crate::proto::admin::histogram::{Histogram, TAKEN, WAITS};
use crate::proto::admin::metrics::{HubMetric, Samples};
use crate::proto::ends::{End, Ended, Outcome, Stage};
use crate::proto::tables::timer::Mono;

/// Whose request it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum App {
    /// It showed no key, or none was asked for.
    None,
    /// It showed the app password.
    Password,
}

/// Who wrote the final head of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Upstream,
    Hub,
}

/// Why a request goes to another worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    /// The agent refused it.
    Refused,
    /// Nothing of it could be written.
    Unsent,
    /// The tunnel broke under it.
    Lost,
}

/// What became of the time for which a worker was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spent {
    Delivered,
    ClientLeft,
    AgentLost,
    Failed,
    Cancelled,
}

impl Spent {
    fn on(end: End) -> Self {
        match end.outcome() {
            Outcome::Complete => Self::Delivered,
            Outcome::ClientLeft | Outcome::Stalled => Self::ClientLeft,
            Outcome::AgentLost => Self::AgentLost,
            Outcome::Truncated if matches!(end, End::AgentInResponse | End::AgentUpgraded) => Self::AgentLost,
            Outcome::Cancelled | Outcome::Shutdown => Self::Cancelled,
            Outcome::BadRequest
            | Outcome::Denied
            | Outcome::AppLimit
            | Outcome::QueueFull
            | Outcome::NoAgent
            | Outcome::QueueTimeout
            | Outcome::ResponseTimeout
            | Outcome::UpstreamFailed
            | Outcome::Truncated => Self::Failed,
        }
    }
}

const APPS: [&str; 2] = ["none", "app"];
const BYS: [&str; 2] = ["upstream", "hub"];
const CODES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const RETRIES: [&str; 3] = ["refused", "unsent", "lost"];
const SPENT: [&str; 5] = ["delivered", "client_left", "agent_lost", "failed", "cancelled"];

/// All of it.
#[derive(Debug)]
pub(super) struct Tally {
    /// By [`App`].
    ended: [Ended; APPS.len()],
    /// By [`By`] and class of the status.
    responses: [[u64; CODES.len()]; BYS.len()],
    upgrades: u64,
    /// By [`Retry`].
    retries: [u64; RETRIES.len()],
    /// In milliseconds, by [`Spent`].
    spent: [u64; SPENT.len()],
    served: Histogram<{ WAITS.len() }>,
    given_up: Histogram<{ WAITS.len() }>,
    heads: Histogram<{ TAKEN.len() }>,
    requests: Histogram<{ TAKEN.len() }>,
}

/// An exchange that is over. Times are in milliseconds.
pub(super) struct Over {
    pub(super) app: App,
    pub(super) end: End,
    pub(super) stage: Stage,
    /// Until it had its worker, or until now.
    pub(super) waited: u64,
    /// For how long it has held its worker, if it has one.
    pub(super) held: Option<u64>,
    /// Since its head.
    pub(super) took: u64,
}

impl Over {
    /// Of an exchange that ends now, and still is in the phase in which it does.
    pub(super) fn of(exchange: &Exchange, outcome: super::Outcome, app: App, now: Mono) -> Self {
        let served = match *exchange.phase {
            Phase::Active { since, .. } => Some(since),
            Phase::Between | Phase::Gathering { .. } | Phase::Queued { .. } => None,
        };
        Self {
            app,
            end: exchange.end(outcome),
            stage: exchange.stage(),
            waited: exchange.waits(served.unwrap_or(now)),
            held: served.map(|since| now.millis_since(since)),
            took: now.millis_since(exchange.began),
        }
    }
}

impl Tally {
    pub(super) const fn new() -> Self {
        Self {
            ended: [Ended::NONE; APPS.len()],
            responses: [[0; CODES.len()]; BYS.len()],
            upgrades: 0,
            retries: [0; RETRIES.len()],
            spent: [0; SPENT.len()],
            served: Histogram::new(&WAITS),
            given_up: Histogram::new(&WAITS),
            heads: Histogram::new(&TAKEN),
            requests: Histogram::new(&TAKEN),
        }
    }

    /// How the requests of all applications ended.
    pub(super) fn ended(&self, end: End) -> u64 {
        self.ended.iter().map(|ended| ended.with(end)).sum()
    }

    /// A request head was answered with an error before it became an exchange.
    pub(super) fn note_refused(&mut self, refusal: Refusal) {
        self.note_end(App::None, refusal.end(Stage::Head));
        self.note_response(By::Hub, refusal.status());
    }

    /// A request head was answered by the hub itself, as it asked for.
    pub(super) fn note_answered(&mut self, status: u16) {
        self.note_end(App::None, End::Complete);
        self.note_response(By::Hub, status);
    }

    /// The final head of a response.
    pub(super) fn note_response(&mut self, by: By, status: u16) {
        let class = usize::from(status / 100).saturating_sub(1);
        let counts = self.responses.get_mut(by as usize);
        if let Some(count) = counts.and_then(|counts| counts.get_mut(class)) {
            *count += 1;
        }
    }

    /// The final head of an upstream's response came so many milliseconds after the worker was taken.
    pub(super) fn note_head(&mut self, status: u16, after: u64) {
        self.note_response(By::Upstream, status);
        self.heads.note(after);
        self.upgrades += u64::from(status == 101);
    }

    /// A request goes to another worker; it had one for so many milliseconds.
    pub(super) fn note_retry(&mut self, why: Retry, held: u64) {
        if let Some(count) = self.retries.get_mut(why as usize) {
            *count += 1;
        }
        self.note_spent(if why == Retry::Refused { Spent::Failed } else { Spent::AgentLost }, held);
    }

    /// An exchange is over.
    pub(super) fn note_over(&mut self, over: &Over) {
        let Over { app, end, stage, waited, held, took } = *over;
        self.note_end(app, end);
        if let Some(held) = held {
            self.served.note(waited);
            self.note_spent(Spent::on(end), held);
        } else if stage == Stage::Queue {
            self.given_up.note(waited);
        }
        if end == End::Complete && stage != Stage::Upgraded {
            self.requests.note(took);
        }
    }

    fn note_end(&mut self, app: App, end: End) {
        if let Some(ended) = self.ended.get_mut(app as usize) {
            ended.note(end);
        }
    }

    fn note_spent(&mut self, on: Spent, held: u64) {
        if let Some(sum) = self.spent.get_mut(on as usize) {
            *sum += held;
        }
    }

    /// Tells of what it counts. `has_keys` if applications show keys.
    pub(super) fn write_samples(&self, metric: HubMetric, has_keys: bool, samples: &mut Samples<'_>) {
        match metric {
            HubMetric::Requests => {
                let apps = if has_keys { 2 } else { 1 };
                for (app, ended) in APPS.into_iter().zip(&self.ended).take(apps) {
                    for outcome in Outcome::ALL {
                        samples.add(&[app, outcome.label()], ended.became(*outcome));
                    }
                }
            }
            HubMetric::Responses => {
                for (by, counts) in BYS.into_iter().zip(self.responses) {
                    for (code, count) in CODES.into_iter().zip(counts) {
                        samples.add(&[by, code], count);
                    }
                }
            }
            HubMetric::QueueWait => {
                samples.add_histogram(&["served"], &self.served);
                samples.add_histogram(&["given_up"], &self.given_up);
            }
            HubMetric::ResponseHead => samples.add_histogram(&[], &self.heads),
            HubMetric::RequestTime => samples.add_histogram(&[], &self.requests),
            HubMetric::Upgrades => samples.add(&[], self.upgrades),
            HubMetric::UpstreamTime => {
                for (outcome, sum) in SPENT.into_iter().zip(self.spent) {
                    samples.add_millis(&[outcome], sum);
                }
            }
            HubMetric::Retries => {
                for (reason, count) in RETRIES.into_iter().zip(self.retries) {
                    samples.add(&[reason], count);
                }
            }
            // The hub's tables know these.
            HubMetric::Finishing
            | HubMetric::OldestWait
            | HubMetric::Agents
            | HubMetric::Workers
            | HubMetric::Limit
            | HubMetric::LimitUsed
            | HubMetric::QueuePaused
            | HubMetric::Actions => {}
        }
    }
}
