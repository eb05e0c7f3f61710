//! Workers that are lent to upgraded connections, and with `--extra-streams` to streams of events, which
//! accompany other requests as well. Another worker takes requests in the stead of each lent one, as long as
//! there are extras.
//!
//! Without `--extra-streams` an upgraded connection beyond the extras keeps its worker, and a stream is a
//! request like others. With it, both are refused beyond the extras, so that none ever holds one of the
//! workers that `--num-worker` promises to requests. The newest stream is ended if the hub has no room for
//! the worker that stands in (a token's `--max-workers`) and no other worker is left: a page that says that
//! it lost its stream is better than one that stands still.

use alloc::borrow::ToOwned;
use core::time::Duration;

use log::Level;

use super::Agent;
use super::endings::Failure;
use super::serving::Serving;
use super::worker::{Closed, Link, Worker};
use crate::proto::http1::head::ResponseHead;
use crate::proto::tables::key::WorkerKey;
use crate::proto::tables::timer::Now;

/// How long the hub is taken to have no room after it has said so. Agents try again twice in that time.
const FULL_HUB_PAUSE: Duration = Duration::from_secs(60);

impl Serving {
    /// Whether this response begins a stream: an exchange that stays open beside others of the same page.
    pub(super) fn begins_stream(&self, head: &ResponseHead<'_, '_>) -> bool {
        match head.status {
            101 => self.messages.may_be_upgraded(),
            200..300 => self.is_get && head.fields.first("Content-Type").is_some_and(is_event_stream),
            _ => false,
        }
    }
}

/// `text/event-stream`, whatever its parameters (RFC 9110 section 8.3.1).
fn is_event_stream(media_type: &[u8]) -> bool {
    let name = media_type.split(|byte| *byte == b';').next().unwrap_or_default();
    name.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

impl Agent {
    /// Whether one more stream may take a worker of its own. Only asked with `--extra-streams`.
    pub(super) fn may_lend(&self, key: WorkerKey, is_upgrade: bool, now: Now) -> Result<(), Failure> {
        let Some(index) = self.workers.get(key).map(Worker::upstream) else { return Ok(()) };
        let (mut streams, mut upgrades, mut is_last) = (0_u32, 0_u32, true);
        for (other, worker) in self.workers.iter().filter(|(_, it)| it.upstream() == index && !it.is_light())
        {
            match lent(worker) {
                Some(lent) if lent.messages.is_upgraded() => upgrades += 1,
                Some(_) => streams += 1,
                None => is_last &= other == key || !worker.counts() || !worker.is_at_hub(),
            }
        }
        let own = self.config.extra_upgrades;
        let taken = streams + upgrades.saturating_sub(own);
        if taken >= self.config.extra_streams && !(is_upgrade && upgrades < own) {
            return Err(Failure::AllLent);
        }
        if is_last && self.upstreams.is_full(index, now.mono) { Err(Failure::LastWorker) } else { Ok(()) }
    }

    /// A stream is refused. The log says so, for the owner of the agent.
    pub(super) fn note_not_lent(&mut self, key: WorkerKey, failure: Failure, now: Now) {
        let Some(index) = self.workers.get(key).map(Worker::upstream) else { return };
        let name = self.name_of(index).to_owned();
        let (status, detail) = (failure.status(), failure.text());
        let line = format_args!("a stream of upstream {name} was refused with {status}: {detail}");
        self.notices.say(Level::Warn, (detail, index.into()), now.mono, line);
    }

    /// A worker is lent. A spare one, if there is any, takes requests in its stead.
    pub(super) fn lend_worker(&mut self, key: WorkerKey, now: Now) {
        let Some(worker) = self.workers.get_mut(key).filter(|worker| !worker.is_light()) else { return };
        let index = worker.upstream();
        if let Some((_, serving)) = worker.serving_mut() {
            serving.lent_since = Some(now.mono);
        }
        let is_spare = |worker: &Worker| {
            worker.upstream() == index
                && !worker.is_light()
                && matches!(worker.link(), Link::Closed(Closed::Spare))
        };
        let spare = self.workers.iter().find(|(_, worker)| is_spare(worker)).map(|(key, _)| key);
        if let Some(spare) = spare {
            self.dial(spare, now);
        }
    }

    /// The hub has no room for a worker. The newest stream is ended if streams hold all the workers that the
    /// hub has room for.
    pub(super) fn note_full(&mut self, index: u16, now: Now) {
        if self.config.extra_streams == 0 {
            return;
        }
        self.upstreams.note_full(index, now.mono.after(FULL_HUB_PAUSE));
        let of_it = || self.workers.iter().filter(|(_, worker)| worker.upstream() == index);
        if of_it().any(|(_, worker)| worker.counts() && worker.is_at_hub()) {
            return;
        }
        let lent = of_it().filter_map(|(key, worker)| Some((lent(worker)?.lent_since, key)));
        if let Some((_, key)) = lent.max_by_key(|(since, _)| *since) {
            self.note_not_lent(key, Failure::LastWorker, now);
            self.cut(key, Failure::LastWorker, now);
        }
    }
}

/// What a worker is lent to.
fn lent(worker: &Worker) -> Option<&Serving> {
    worker.serving().filter(|serving| serving.is_lent())
}
