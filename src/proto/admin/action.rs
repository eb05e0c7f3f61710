//! What an operator may do.

/// Something that an operator wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// One agent gets no requests, or some again.
    Agent {
        /// As `agents[].id` in the status of a hub, or the index of an agent's upstream.
        id: &'a str,
        /// Or resumed.
        pause: bool,
    },
    /// All agents whose tokens have this name, also those that join later.
    Name {
        /// The name.
        name: &'a str,
        /// Or resumed.
        pause: bool,
    },
    /// The queue: nothing that waits gets a worker.
    Queue {
        /// Or resumed.
        pause: bool,
    },
    /// A request that waits or runs is ended.
    Cancel {
        /// Which one: the number behind the instance in its id.
        number: u64,
    },
}

/// What kind of action it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something is to get no requests.
    Pause,
    /// It is to get some again.
    Resume,
    /// A request is ended.
    Cancel,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Pause, Self::Resume, Self::Cancel];

    /// Its name, as the label `action` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
        }
    }
}

impl Action<'_> {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Agent { pause, .. } | Self::Name { pause, .. } | Self::Queue { pause } => {
                if *pause {
                    Kind::Pause
                } else {
                    Kind::Resume
                }
            }
            Self::Cancel { .. } => Kind::Cancel,
        }
    }
}

/// What became of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It is as it was asked for. Whether it was otherwise before.
    Changed(bool),
    /// A request was ended.
    Cancelled {
        /// Whether it had a worker.
        ran: bool,
    },
}

/// Why nothing came of an action, in words for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotDone {
    /// There is no such thing.
    Unknown(&'static str),
    /// There are too many of them.
    Full(&'static str),
}
