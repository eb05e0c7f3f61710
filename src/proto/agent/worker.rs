//! A worker and its link to the hub: two machines, one inside the other. A link that is open has a job.
//!
//! ```text
//!   link      Closed -> Opening -> Open -> Closed
//!   opening   Dialling (-> Passing) -> Joining
//!   job       Idle -> Serving (-> Discarding) -> Idle, or Idle -> Leaving
//! ```
//!
//! Beside its link a worker may be finishing an answer that nobody waits for any more. It takes no request
//! before that is over.

use alloc::boxed::Box;

use super::backoff::Backoff;
use super::leftover::{Discarding, Finishing};
use super::serving::Serving;
use crate::proto::deadline::Limit;
use crate::proto::http1::head::HeadScan;
use crate::proto::tables::key::TunnelKey;
use crate::proto::tables::timed::Timed;
use crate::proto::tables::timer::Mono;
use crate::proto::tunnel::Trouble;
use crate::proto::websocket::Nonce;

/// The right to have one request in progress at an upstream.
pub(super) struct Worker {
    /// The index of the configured upstream.
    upstream: u16,
    number: u32,
    /// It takes requests for light paths and no others, and is no worker to anybody but this agent.
    is_light: bool,
    pub(super) backoff: Backoff,
    /// The answer that is read to its end though its application has left.
    finishing: Option<Box<Finishing>>,
    link: Link,
}

/// The link of a worker to the hub. An idle worker is small because there are many: what only a busy one has
/// is in a box.
pub(super) enum Link {
    /// There is none.
    Closed(Closed),
    /// It is being made.
    Opening(Opening),
    /// The hub has taken the worker in.
    Open {
        /// The connection.
        tunnel: TunnelKey,
        /// What it carries.
        job: Job,
    },
}

/// What a worker without a link waits for.
pub(super) enum Closed {
    /// The first probe of its upstream.
    Starting,
    /// The time of the next attempt.
    Resting { until: Mono },
    /// The end of the answer that it is finishing.
    Finishing,
    /// That another worker is lent to an upgraded connection or a stream, or that the hub is known to know
    /// light paths.
    Spare,
    /// Nothing: the process is ending.
    Stopped,
}

/// A link that is being made.
pub(super) struct Opening {
    pub(super) tunnel: TunnelKey,
    /// The hub must have taken the worker in by then.
    pub(super) until: Mono,
    /// The handshake is one of WebSocket, with this nonce.
    pub(super) nonce: Option<Nonce>,
    pub(super) stage: Stage,
}

/// How far a link that is being made is.
pub(super) enum Stage {
    /// The connection is being made.
    Dialling,
    /// The proxy on the way was asked to connect to the hub.
    Passing(HeadScan),
    /// The handshake is under way.
    Joining { scan: HeadScan, said: Said },
}

/// What an open link carries.
pub(super) enum Job {
    /// Nothing.
    Idle(Idle),
    /// A request and its response.
    Serving(Box<Serving>),
    /// The rest of a request whose response is complete. It is dropped as it comes.
    Discarding(Box<Discarding>),
    /// The worker has withdrawn, and the hub has until then to close the tunnel. If it `served`, the end of a
    /// response may still be on its way.
    Leaving { until: Mono, served: bool },
}

/// An open link without a request.
pub(super) struct Idle {
    /// The hub must be heard of by then. There is no such time after a response: the hub is silent, and does
    /// not take the tunnel for idle, as long as the application takes what is under way to it. TCP keep-alive
    /// watches until the hub is heard of again.
    pub(super) heard_by: Limit,
    pub(super) since: Mono,
    pub(super) scan: HeadScan,
    pub(super) said: Said,
}

/// What a worker has told the hub of its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It takes requests.
    Ready,
    /// It takes none, and answers.
    Loading,
    /// It takes none.
    Down,
}

impl Said {
    pub(super) fn of(trouble: Option<Trouble<'_>>) -> Self {
        match trouble {
            None => Self::Ready,
            Some(Trouble { is_loading: true, .. }) => Self::Loading,
            Some(Trouble { is_loading: false, .. }) => Self::Down,
        }
    }
}

impl Idle {
    /// A worker that the hub has just taken in.
    pub(super) fn joined(said: Said, heard_by: Mono, now: Mono) -> Self {
        Self { heard_by: Limit::at(heard_by), since: now, scan: HeadScan::on_tunnel(), said }
    }

    /// A worker whose response is complete.
    pub(super) fn after_response(now: Mono) -> Self {
        Self { heard_by: Limit::NONE, since: now, scan: HeadScan::on_tunnel(), said: Said::Ready }
    }
}

impl Job {
    fn deadline(&self) -> Mono {
        match self {
            Self::Idle(idle) => idle.heard_by.deadline(),
            Self::Serving(serving) => serving.deadline(),
            Self::Discarding(discarding) => discarding.until,
            Self::Leaving { until, .. } => *until,
        }
    }
}

impl Timed for Worker {
    fn deadline(&self) -> Mono {
        let of_link = match &self.link {
            Link::Closed(Closed::Resting { until }) => *until,
            Link::Closed(Closed::Starting | Closed::Finishing | Closed::Spare | Closed::Stopped) => {
                Limit::NONE.deadline()
            }
            Link::Opening(opening) => opening.until,
            Link::Open { job, .. } => job.deadline(),
        };
        self.finishing.as_ref().map_or(of_link, |finishing| of_link.min(finishing.deadline()))
    }
}

impl Worker {
    pub(super) fn new(upstream: u16, number: u32, is_light: bool, waits_for: Closed) -> Self {
        Self {
            upstream,
            number,
            is_light,
            backoff: Backoff::default(),
            finishing: None,
            link: Link::Closed(waits_for),
        }
    }

    /// The index of its upstream.
    pub(super) fn upstream(&self) -> u16 {
        self.upstream
    }

    /// Its number among the workers of its upstream.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Whether it takes requests for light paths alone.
    pub(super) fn is_light(&self) -> bool {
        self.is_light
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    pub(super) fn link_mut(&mut self) -> &mut Link {
        &mut self.link
    }

    /// Its connection to the hub.
    pub(super) fn tunnel(&self) -> Option<TunnelKey> {
        match &self.link {
            Link::Closed(_) => None,
            Link::Opening(opening) => Some(opening.tunnel),
            Link::Open { tunnel, .. } => Some(*tunnel),
        }
    }

    /// Whether the hub has taken it in, be it busy or not, or knows it to be back soon.
    pub(super) fn is_at_hub(&self) -> bool {
        matches!(self.link, Link::Open { .. }) || self.finishing.is_some()
    }

    pub(super) fn opening_mut(&mut self) -> Option<&mut Opening> {
        match &mut self.link {
            Link::Opening(opening) => Some(opening),
            Link::Closed(_) | Link::Open { .. } => None,
        }
    }

    pub(super) fn job(&self) -> Option<&Job> {
        match &self.link {
            Link::Open { job, .. } => Some(job),
            Link::Closed(_) | Link::Opening(_) => None,
        }
    }

    pub(super) fn idle(&self) -> Option<&Idle> {
        if let Some(Job::Idle(idle)) = self.job() { Some(idle) } else { None }
    }

    pub(super) fn idle_mut(&mut self) -> Option<&mut Idle> {
        if let Link::Open { job: Job::Idle(idle), .. } = &mut self.link { Some(idle) } else { None }
    }

    pub(super) fn serving(&self) -> Option<&Serving> {
        if let Some(Job::Serving(serving)) = self.job() { Some(serving) } else { None }
    }

    /// The request that it serves, and the tunnel that the request came through.
    pub(super) fn serving_mut(&mut self) -> Option<(TunnelKey, &mut Serving)> {
        if let Link::Open { tunnel, job: Job::Serving(serving) } = &mut self.link {
            Some((*tunnel, serving))
        } else {
            None
        }
    }

    /// Whether it does nothing more.
    pub(super) fn has_stopped(&self) -> bool {
        matches!(self.link, Link::Closed(Closed::Stopped)) && self.finishing.is_none()
    }

    pub(super) fn finishing(&self) -> Option<&Finishing> {
        self.finishing.as_deref()
    }

    pub(super) fn finishing_mut(&mut self) -> Option<&mut Finishing> {
        self.finishing.as_deref_mut()
    }

    /// It has no link from now on, and waits for this. Returns what it had.
    pub(super) fn close(&mut self, waits_for: Closed) -> Link {
        core::mem::replace(&mut self.link, Link::Closed(waits_for))
    }

    /// It has a connection from now on, which is being made.
    pub(super) fn open(&mut self, opening: Opening) {
        self.link = Link::Opening(opening);
    }

    /// Its link carries this from now on, if it is open. Returns what the link carried before.
    pub(super) fn turn_to(&mut self, next: Job) -> Option<Job> {
        match &mut self.link {
            Link::Open { job, .. } => Some(core::mem::replace(job, next)),
            Link::Closed(_) | Link::Opening(_) => None,
        }
    }

    /// The hub has taken it in.
    pub(super) fn join(&mut self, idle: Idle) {
        if let Some(tunnel) = self.tunnel() {
            self.link = Link::Open { tunnel, job: Job::Idle(idle) };
        }
    }

    /// It reads this answer to its end.
    pub(super) fn finish(&mut self, finishing: Finishing) {
        self.finishing = Some(Box::new(finishing));
    }

    /// The answer that it read is over.
    pub(super) fn end_finishing(&mut self) {
        self.finishing = None;
    }

    /// Takes the request that it serves, if it serves one. It may dial at once then.
    pub(super) fn take_serving(&mut self, now: Mono) -> Option<Box<Serving>> {
        self.serving()?;
        let last = self.close(Closed::Resting { until: now });
        if let Link::Open { job: Job::Serving(serving), .. } = last { Some(serving) } else { None }
    }

    /// Whether this one takes requests, now or when it is done: not if it stands aside, is lent, or takes
    /// only light ones.
    pub(super) fn counts(&self) -> bool {
        let is_lent = self.serving().is_some_and(Serving::is_lent);
        let is_aside = matches!(self.link, Link::Closed(Closed::Spare | Closed::Stopped));
        !self.is_light && !is_lent && !is_aside
    }
}
