//! What the hub knows of its exchanges: the messages of each one, what is held of its request, and who has to
//! act; how many have a worker; and which ones wait, for their body or for a worker.
//!
//! Lists and counts follow from the phases of the exchanges. Nobody else can change a phase, so nobody can
//! leave one of them out.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Deref;
use core::time::Duration;

use super::answers::Manner;
use super::hold::Share;
use super::pool::{ClassId, Need};
use super::queue::{Arrival, DispatchQueue, Place, Waiter};
use crate::proto::deadline::Limit;
use crate::proto::exchange::Messages;
use crate::proto::http1::cors::Grant;
use crate::proto::http1::reply::Form;
use crate::proto::http1::request_id::RequestId;
use crate::proto::tables::key::{ClientKey, ExchangeKey, TunnelKey};
use crate::proto::tables::list::{Arena, List, NodeId};
use crate::proto::tables::table::Table;
use crate::proto::tables::timer::{Armed, Mono, TimerTable};

/// Recycled texts, so that a request allocates nothing once the hub is warm.
const SPARES: usize = 64;

/// The texts that an exchange leaves behind.
#[derive(Default)]
pub(super) struct Spare {
    pub(super) need: Need,
    pub(super) id: RequestId,
}

/// The exchanges. Others may change what an exchange holds, but not its phase.
#[derive(Default)]
pub(super) struct Exchanges {
    table: Table<ExchangeKey, Exchange>,
    places: Places,
    /// How many have come.
    arrivals: u64,
    spares: Vec<Spare>,
}

/// Each exchange is counted, or stands in a list, as its phase says.
#[derive(Default)]
struct Places {
    /// Exchanges in [`Phase::Gathering`], the longest there first.
    gathering: List,
    /// Of `gathering`.
    nodes: Arena<ExchangeKey>,
    /// Exchanges in [`Phase::Queued`].
    queue: DispatchQueue,
    /// How many are in [`Phase::Active`].
    active: usize,
}

impl Places {
    #[inline]
    fn leave(&mut self, phase: &Phase) {
        match *phase {
            Phase::Gathering { place, .. } => {
                self.gathering.remove(&mut self.nodes, place);
            }
            Phase::Between => {}
            Phase::Queued { place, .. } => self.queue.leave(place),
            Phase::Active { .. } => self.active -= 1,
        }
    }
}

impl Exchanges {
    pub(super) fn get(&self, key: ExchangeKey) -> Option<&Exchange> {
        self.table.get(key)
    }

    pub(super) fn get_mut(&mut self, key: ExchangeKey) -> Option<&mut Exchange> {
        self.table.get_mut(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ExchangeKey, &Exchange)> {
        self.table.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// How many have a worker.
    pub(super) fn active(&self) -> usize {
        self.places.active
    }

    /// How many await their body.
    pub(super) fn gathering(&self) -> usize {
        self.places.gathering.len()
    }

    /// The exchange that has awaited its body the longest.
    pub(super) fn longest_gathering(&self) -> Option<ExchangeKey> {
        self.places.gathering.front(&self.places.nodes).copied()
    }

    /// Those that wait for a worker.
    pub(super) fn queue(&self) -> &DispatchQueue {
        &self.places.queue
    }

    /// The next arrival, in [`Phase::Between`]. `None` if the table is full.
    // An exchange is large: inlined, it is made where it will stand.
    #[inline]
    pub(super) fn insert_with(
        &mut self,
        make: impl FnOnce(Arrival, CurrentPhase) -> Exchange,
    ) -> Option<ExchangeKey> {
        self.arrivals += 1;
        let arrival = Arrival(self.arrivals);
        self.table.insert_with(|_| make(arrival, CurrentPhase(Phase::Between)))
    }

    /// Takes an exchange out, and its place with it.
    // An exchange is large: inlined, it is moved once.
    #[inline]
    pub(super) fn remove(&mut self, key: ExchangeKey) -> Option<Exchange> {
        let exchange = self.table.remove(key);
        if let Some(exchange) = &exchange {
            self.places.leave(&exchange.phase);
        }
        exchange
    }

    /// It awaits its body until then.
    pub(super) fn gather(&mut self, key: ExchangeKey, until: Mono, timers: &mut TimerTable) {
        self.change_phase(key, timers, |places, _| {
            let place = places.gathering.push_back(&mut places.nodes, key);
            Phase::Gathering { place, until }
        });
    }

    /// It awaits no more of its body, if it did. False if it is gone.
    pub(super) fn end_gathering(&mut self, key: ExchangeKey, now: Mono, timers: &mut TimerTable) -> bool {
        let Some(exchange) = self.get_mut(key) else { return false };
        if matches!(*exchange.phase, Phase::Gathering { .. }) {
            exchange.gathered = now.millis_since(exchange.began);
            self.change_phase(key, timers, |_, _| Phase::Between);
        }
        true
    }

    /// It waits for a worker until then.
    pub(super) fn enter_queue(
        &mut self,
        key: ExchangeKey,
        class: ClassId,
        until: Limit,
        timers: &mut TimerTable,
    ) {
        self.change_phase(key, timers, |places, exchange| {
            let was_refused = !exchange.need.refused.is_empty();
            let waiter = Waiter { exchange: key, arrival: exchange.arrival, was_refused };
            let place = places.queue.enter(waiter, class);
            place.map_or(Phase::Between, |place| Phase::Queued { place, until })
        });
    }

    /// A waiter belongs to another class.
    pub(super) fn reclassify(&mut self, waiter: Waiter, class: ClassId) {
        let Some(exchange) = self.table.get_mut(waiter.exchange) else { return };
        if let Phase::Queued { place, .. } = &mut exchange.phase.0 {
            self.places.queue.leave(*place);
            if let Some(new) = self.places.queue.enter(waiter, class) {
                *place = new;
            }
        }
    }

    /// It has a worker since then. The response is not awaited yet, and the client has been told nothing.
    #[inline]
    pub(super) fn activate(
        &mut self,
        key: ExchangeKey,
        tunnel: TunnelKey,
        (gate, awaited): (Gate, Awaited),
        since: Mono,
        timers: &mut TimerTable,
    ) {
        self.change_phase(key, timers, |places, _| {
            places.active += 1;
            Phase::Active { tunnel, since, gate, awaited, response: Limit::NONE, keep: false }
        });
    }

    /// Its body has more time.
    pub(super) fn put_off_body(&mut self, key: ExchangeKey, deadline: Mono) {
        if let Some(Exchange { phase: CurrentPhase(Phase::Gathering { until, .. }), .. }) =
            self.table.get_mut(key)
        {
            *until = deadline;
        }
    }

    /// Its wait for a worker has another limit.
    pub(super) fn limit_wait(&mut self, key: ExchangeKey, limit: Limit, timers: &mut TimerTable) {
        let Some(exchange) = self.table.get_mut(key) else { return };
        if let Phase::Queued { until, .. } = &mut exchange.phase.0 {
            *until = limit;
            exchange.arm(key, timers);
        }
    }

    /// As [`DispatchQueue::pop_changed`].
    pub(super) fn pop_changed(&mut self) -> Option<ClassId> {
        self.places.queue.pop_changed()
    }

    /// As [`DispatchQueue::note_served`].
    pub(super) fn note_served(&mut self, class: ClassId, arrival: Option<Arrival>) {
        self.places.queue.note_served(class, arrival);
    }

    /// As [`DispatchQueue::pop_emptied`].
    pub(super) fn pop_emptied(&mut self) -> Option<ClassId> {
        self.places.queue.pop_emptied()
    }

    /// The texts of an exchange that is over, which are to be written anew.
    pub(super) fn spare(&mut self) -> Spare {
        self.spares.pop().unwrap_or_default()
    }

    /// Nobody needs the texts of this one any more.
    pub(super) fn recycle(&mut self, exchange: Exchange) {
        let Exchange { mut need, id, .. } = exchange;
        if self.spares.len() < SPARES {
            need.clear();
            self.spares.push(Spare { need, id });
        }
    }

    /// Its timer is set to its deadline.
    pub(super) fn arm(&mut self, key: ExchangeKey, timers: &mut TimerTable) {
        if let Some(exchange) = self.table.get_mut(key) {
            exchange.arm(key, timers);
        }
    }

    /// Its timer has gone off. False if it was set to another time meanwhile.
    pub(super) fn disarm(&mut self, key: ExchangeKey, at: Mono) -> bool {
        self.table.get_mut(key).is_some_and(|exchange| TimerTable::disarm(&mut exchange.armed, at))
    }

    /// The keys that have become free in this batch may be given away again.
    pub(super) fn end_batch(&mut self) {
        self.table.end_batch();
        self.places.queue.end_batch();
        self.places.nodes.end_batch();
    }

    /// Changes the phase, and keeps lists, counts and timer. `make` enters the place that the new phase has.
    fn change_phase(
        &mut self,
        key: ExchangeKey,
        timers: &mut TimerTable,
        make: impl FnOnce(&mut Places, &Exchange) -> Phase,
    ) {
        let Some(exchange) = self.table.get_mut(key) else { return };
        self.places.leave(&exchange.phase);
        exchange.phase.0 = make(&mut self.places, exchange);
        exchange.arm(key, timers);
    }
}

pub(super) struct Exchange {
    pub(super) client: ClientKey,
    pub(super) messages: Messages,
    pub(super) need: Need,
    /// What its request is called.
    pub(super) id: RequestId,
    pub(super) arrival: Arrival,
    pub(super) patience: Patience,
    pub(super) held: Held,
    /// Tunnels that were lost under it.
    pub(super) lost: u8,
    /// How often it came back from a tunnel of which it is sure that no upstream has seen anything of it: an
    /// agent refused it, or nothing of it could be written.
    pub(super) returns: u8,
    pub(super) armed: Armed,
    pub(super) phase: CurrentPhase,
    /// Whether its answer is the agent's own, in place of its upstream's.
    pub(super) is_agents_own: bool,
    /// How its client is told of an error.
    pub(super) form: Form,
    /// Which pages may see the answer.
    pub(super) grant: Grant,
    /// What the log says of it; only there when the log wants it.
    pub(super) label: Option<Box<str>>,
    pub(super) began: Mono,
    /// Since when it has waited for a worker, had it not been served in between by one that was lost.
    pub(super) waits_since: Mono,
    /// For how many milliseconds its body, or what is held of it, was awaited; part of the time since
    /// `waits_since`.
    pub(super) gathered: u64,
}

pub(super) enum Phase {
    /// Its body is awaited, until it is complete or fills what is held of it.
    Gathering { place: NodeId, until: Mono },
    /// It has come, or has come back, or has gathered what it needs: before the event is over it gets a
    /// worker, a place in the queue, or an answer.
    Between,
    /// It waits for a worker.
    Queued { place: Place, until: Limit },
    /// It has one.
    Active {
        tunnel: TunnelKey,
        since: Mono,
        gate: Gate,
        awaited: Awaited,
        /// Until the response head, once the request is on its way.
        response: Limit,
        /// Whether the client was told that its connection stays open, once it has been told something.
        keep: bool,
    },
}

/// The phase of an exchange. It is read anywhere; only [`Exchanges`] enters another one.
pub(super) struct CurrentPhase(Phase);

impl Deref for CurrentPhase {
    type Target = Phase;

    fn deref(&self) -> &Phase {
        &self.0
    }
}

impl CurrentPhase {
    /// What may change while it has a worker.
    pub(super) fn active_mut(&mut self) -> Option<Active<'_>> {
        match &mut self.0 {
            Phase::Active { since, gate, awaited, response, keep, .. } => {
                Some(Active { since: *since, gate, awaited, response, keep })
            }
            Phase::Gathering { .. } | Phase::Between | Phase::Queued { .. } => None,
        }
    }
}

/// What may change in [`Phase::Active`], and since when it has been in it.
pub(super) struct Active<'a> {
    pub(super) since: Mono,
    pub(super) gate: &'a mut Gate,
    pub(super) awaited: &'a mut Awaited,
    pub(super) response: &'a mut Limit,
    pub(super) keep: &'a mut bool,
}

/// Who is to send the next byte of an exchange that has a worker, and by when.
#[derive(Clone, Copy)]
pub(super) enum Awaited {
    /// Nobody: the request is complete, or the rest of it waits until the agent's connection stands.
    Nobody,
    /// Nobody: the final response came in place of the 100 that the client waits for. It may send no more.
    Unmet,
    /// The upstream, the 100 that the client waits for. Then the hub says it.
    Continue { by: Mono },
    /// The client, more of its request.
    Request { by: Mono },
    /// The side of an upgraded connection that has not ended.
    OtherSide { by: Mono },
}

impl Awaited {
    pub(super) fn deadline(self) -> Mono {
        match self {
            Self::Continue { by } | Self::Request { by } | Self::OtherSide { by } => by,
            Self::Nobody | Self::Unmet => Mono::NEVER,
        }
    }

    /// A byte went one way or the other: as long as there are any, an exchange does not stand still.
    pub(super) fn put_off(&mut self, deadline: Mono) {
        match self {
            Self::Request { by } | Self::OtherSide { by } => *by = deadline,
            Self::Nobody | Self::Unmet | Self::Continue { .. } => {}
        }
    }
}

/// How long a request waits for a worker.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// `Slime-Block`.
    pub(super) block: Option<bool>,
    /// `Slime-Max-Wait`.
    pub(super) max_wait: Option<Duration>,
}

/// What the shell holds of a request.
#[derive(Clone, Copy)]
pub(super) struct Held {
    /// The forwarded head, in bytes.
    pub(super) head: usize,
    /// The body, in bytes: what is held of it, and what has been sent beyond that.
    pub(super) body: u64,
    /// What it takes of the budget.
    pub(super) share: Share,
    /// Whether nothing has been sent beyond it, so that the request can be sent again. It is dropped as soon
    /// as it cannot.
    pub(super) whole: bool,
    /// Who waits, if anyone, before the body is sent. With a worker it is [`Awaited`] that knows of a client.
    pub(super) expectation: Expectation,
}

/// Who waits for a `100 Continue` (RFC 9110 section 10.1.1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Expectation {
    /// Nobody.
    None,
    /// The client, for the upstream's.
    OfClient,
    /// The hub, for the agent's.
    Ours,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    /// The body flows.
    Open,
    /// The body waits until the agent's upstream connection stands.
    AwaitsConnect,
}

impl Expectation {
    /// What is left of it once the body has begun to come.
    pub(super) fn begun(self) -> Self {
        match self {
            Self::None | Self::OfClient => Self::None,
            Self::Ours => Self::Ours,
        }
    }
}

impl Exchange {
    /// How its client is told of an error.
    pub(super) fn manner(&self) -> Manner<'_> {
        Manner {
            form: self.form,
            grant: self.grant,
            head_only: self.messages.facts.head_only,
            id: Some(self.id.as_str()),
        }
    }

    /// How many milliseconds it has waited for workers by then.
    pub(super) fn waits(&self, until: Mono) -> u64 {
        until.millis_since(self.waits_since).saturating_sub(self.gathered)
    }

    fn arm(&mut self, key: ExchangeKey, timers: &mut TimerTable) {
        let deadline = self.deadline();
        timers.arm(&mut self.armed, key.into(), deadline);
    }

    /// As [`Client::deadline`].
    pub(super) fn deadline(&self) -> Mono {
        match *self.phase {
            Phase::Between => Mono::NEVER,
            Phase::Gathering { until, .. } => until,
            Phase::Queued { until, .. } => until.deadline(),
            Phase::Active { awaited, response, .. } => awaited.deadline().min(response.deadline()),
        }
    }
}
