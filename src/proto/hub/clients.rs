//! What the hub knows of its clients: what each one speaks, what it is doing, and how long it may; which ones
//! can be spared; and how many still take a response whose worker is free again.
//!
//! Lists and counts follow from the states of the clients. Nobody else can change a state, so nobody can
//! leave one of them out.

use core::net::IpAddr;

use crate::proto::deadline::SendLimit;
use crate::proto::http1::head::HeadScan;
use crate::proto::tables::key::{ClientKey, ExchangeKey, Key};
use crate::proto::tables::list::{Arena, List, NodeId};
use crate::proto::tables::table::Table;
use crate::proto::tables::timer::{Armed, Mono, TimerTable};

/// The clients. They are read anywhere, and changed here only.
pub(super) struct Clients {
    table: Table<ClientKey, Client>,
    lists: Lists,
    /// Clients of which [`Client::takes_tail`] is true.
    tails: usize,
}

/// Who stands where: each client but those in an exchange is in one list.
#[derive(Default)]
struct Lists {
    /// Clients in [`ClientState::Waiting`], the longest there first. Some may still be taking their last
    /// response.
    idle: List,
    /// Clients in [`ClientState::Ending`], the longest there first.
    ending: List,
    /// Of `idle` and `ending`.
    nodes: Arena<ClientKey>,
}

impl Lists {
    fn leave(&mut self, state: &ClientState) {
        match *state {
            ClientState::Waiting { place, .. } => self.idle.remove(&mut self.nodes, place),
            ClientState::Ending { place, .. } => self.ending.remove(&mut self.nodes, place),
            ClientState::Exchange(_) => None,
        };
    }
}

impl Clients {
    pub(super) fn new() -> Self {
        Self { table: Table::new(), lists: Lists::default(), tails: 0 }
    }

    pub(super) fn get(&self, key: ClientKey) -> Option<&Client> {
        self.table.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ClientKey, &Client)> {
        self.table.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// How many wait for a request head.
    pub(super) fn idle(&self) -> usize {
        self.lists.idle.len()
    }

    /// How many are ending.
    pub(super) fn ending(&self) -> usize {
        self.lists.ending.len()
    }

    /// How many take the rest of a response whose exchange is over: each one has its permit still.
    pub(super) fn tails(&self) -> usize {
        self.tails
    }

    /// The client that has been idle the longest, of those that have taken all that they were sent.
    pub(super) fn longest_idle(&self) -> Option<ClientKey> {
        self.longest(&self.lists.idle)
    }

    /// The client that has been ending the longest, of those that have taken all that they were sent.
    pub(super) fn longest_ending(&self) -> Option<ClientKey> {
        self.longest(&self.lists.ending)
    }

    fn longest(&self, list: &List) -> Option<ClientKey> {
        let takes_nothing =
            |key: &ClientKey| self.get(*key).is_some_and(|client| !client.sending.is_sending());
        list.iter(&self.lists.nodes).map(|(_, key)| *key).find(takes_nothing)
    }

    /// A new client, which waits for its first head until then. `None` if the table is full.
    pub(super) fn insert(
        &mut self,
        peer: IpAddr,
        transport: Transport,
        until: Mono,
        timers: &mut TimerTable,
    ) -> Option<ClientKey> {
        let Self { table, lists, .. } = self;
        let key = table.insert_with(|key| Client {
            peer,
            transport,
            armed: Armed::default(),
            left: false,
            sending: SendLimit::IDLE,
            was_served: false,
            state: ClientState::Waiting {
                place: lists.idle.push_back(&mut lists.nodes, key),
                scan: HeadScan::default(),
                until,
            },
        })?;
        self.arm(key, timers);
        Some(key)
    }

    /// Forgets a client.
    pub(super) fn remove(&mut self, key: ClientKey) -> Option<Client> {
        let client = self.table.remove(key)?;
        self.lists.leave(&client.state);
        self.tails -= usize::from(client.takes_tail());
        Some(client)
    }

    /// It waits for its next request head until then.
    pub(super) fn await_head(&mut self, key: ClientKey, until: Mono, timers: &mut TimerTable) {
        self.change_state(key, timers, |lists| ClientState::Waiting {
            place: lists.idle.push_back(&mut lists.nodes, key),
            scan: HeadScan::default(),
            until,
        });
    }

    /// Its request has become an exchange.
    pub(super) fn enter_exchange(&mut self, key: ClientKey, exchange: ExchangeKey, timers: &mut TimerTable) {
        self.change_state(key, timers, |_| ClientState::Exchange(exchange));
    }

    /// It may send nothing more, and has until then to close its side.
    pub(super) fn end(&mut self, key: ClientKey, until: Mono, timers: &mut TimerTable) {
        self.change_state(key, timers, |lists| ClientState::Ending {
            place: lists.ending.push_back(&mut lists.nodes, key),
            until,
        });
    }

    /// It has more time in the state in which it is, unless that is an exchange.
    pub(super) fn put_off(&mut self, key: ClientKey, deadline: Mono) {
        if let Some(Client {
            state: ClientState::Waiting { until, .. } | ClientState::Ending { until, .. },
            ..
        }) = self.table.get_mut(key)
        {
            *until = deadline;
        }
    }

    /// How far its next head was looked at, if it waits for one and has taken all of its last response.
    pub(super) fn scan_mut(&mut self, key: ClientKey) -> Option<&mut HeadScan> {
        let client = self.table.get_mut(key)?;
        match &mut client.state {
            ClientState::Waiting { scan, .. } if !client.sending.is_sending() => Some(scan),
            ClientState::Waiting { .. } | ClientState::Exchange(_) | ClientState::Ending { .. } => None,
        }
    }

    /// Bytes wait until it takes them, or none do.
    pub(super) fn set_sending(&mut self, key: ClientKey, sending: SendLimit, timers: &mut TimerTable) {
        if let Some(client) = self.change(key, |client| client.sending = sending) {
            client.arm(key, timers);
        }
    }

    /// What it is sent from now on comes from an agent, or is the hub's own.
    pub(super) fn set_served(&mut self, key: ClientKey, was_served: bool) {
        self.change(key, |client| client.was_served = was_served);
    }

    /// An answer of the hub's own follows what it is sent.
    pub(super) fn note_answer(&mut self, key: ClientKey) {
        self.change(key, |client| client.was_served &= client.sending.is_sending());
    }

    /// It has sent FIN or a reset.
    pub(super) fn note_left(&mut self, key: ClientKey) {
        if let Some(client) = self.table.get_mut(key) {
            client.left = true;
        }
    }

    /// It speaks plain HTTP where TLS is spoken.
    pub(super) fn note_insecure(&mut self, key: ClientKey) {
        if let Some(client) = self.table.get_mut(key) {
            client.transport = Transport::PlainOnTls;
        }
    }

    /// Its timer is set to its deadline.
    pub(super) fn arm(&mut self, key: ClientKey, timers: &mut TimerTable) {
        if let Some(client) = self.table.get_mut(key) {
            client.arm(key, timers);
        }
    }

    /// Its timer has gone off. False if it was set to another time meanwhile.
    pub(super) fn disarm(&mut self, key: ClientKey, at: Mono) -> bool {
        self.table.get_mut(key).is_some_and(|client| TimerTable::disarm(&mut client.armed, at))
    }

    /// The keys that have become free in this batch may be given away again.
    pub(super) fn end_batch(&mut self) {
        self.table.end_batch();
        self.lists.nodes.end_batch();
    }

    /// Changes anything but the state, and keeps the count.
    fn change(&mut self, key: ClientKey, change: impl FnOnce(&mut Client)) -> Option<&mut Client> {
        let client = self.table.get_mut(key)?;
        self.tails -= usize::from(client.takes_tail());
        change(client);
        self.tails += usize::from(client.takes_tail());
        Some(client)
    }

    /// Changes the state, and keeps lists, count and timer. `make` enters the list in which the new state
    /// stands.
    fn change_state(
        &mut self,
        key: ClientKey,
        timers: &mut TimerTable,
        make: impl FnOnce(&mut Lists) -> ClientState,
    ) {
        let Some(client) = self.table.get_mut(key) else { return };
        self.tails -= usize::from(client.takes_tail());
        self.lists.leave(&client.state);
        client.state = make(&mut self.lists);
        self.tails += usize::from(client.takes_tail());
        client.arm(key, timers);
    }
}

pub(super) struct Client {
    pub(super) peer: IpAddr,
    pub(super) transport: Transport,
    pub(super) armed: Armed,
    /// It has sent FIN or a reset, though not all that it sent before may have been read.
    pub(super) left: bool,
    pub(super) sending: SendLimit,
    /// What it was sent last came from an agent, however much of that it has taken.
    pub(super) was_served: bool,
    pub(super) state: ClientState,
}

impl Client {
    /// Whether it is in no exchange any more and has not taken all of what it was sent from an agent. Answers
    /// of the hub's own are small, and whoever does not take one keeps nobody from being served.
    pub(super) fn takes_tail(&self) -> bool {
        self.was_served && self.sending.is_sending() && !matches!(self.state, ClientState::Exchange(_))
    }
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// HTTP, on a plain port.
    Plain,
    /// HTTP over TLS.
    Tls,
    /// Plain HTTP, on a port where TLS is spoken.
    PlainOnTls,
}

pub(super) enum ClientState {
    /// For a request head, its first or its next.
    Waiting { place: NodeId, scan: HeadScan, until: Mono },
    /// In an exchange.
    Exchange(ExchangeKey),
    /// The last response is being sent, then FIN.
    Ending { place: NodeId, until: Mono },
}

impl Client {
    fn arm(&mut self, key: ClientKey, timers: &mut TimerTable) {
        let deadline = self.deadline();
        timers.arm(&mut self.armed, Key::from(key), deadline);
    }

    /// When something is to be done about it, though nothing happens.
    pub(super) fn deadline(&self) -> Mono {
        let until = match self.state {
            ClientState::Waiting { until, .. } | ClientState::Ending { until, .. } => until,
            ClientState::Exchange(_) => Mono::NEVER,
        };
        until.min(self.sending.deadline())
    }
}
