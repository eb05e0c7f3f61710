//! How a request ends: who or what ended it, and where. Log, metrics and the admin side take codes, labels
//! and texts from here.

/// Who or what ended a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Its client left.
    Client,
    /// The hub, by what it was sent.
    Hub,
    /// It came with no key, or with none that may.
    Key,
    /// A limit was reached.
    Limit,
    /// Nobody is there who could serve it.
    Nobody,
    /// Its time was over.
    Time,
    /// Its agent was lost, or broke off.
    Agent,
    /// Its upstream.
    Upstream,
    /// An operator cancelled it.
    Operator,
    /// The hub ends.
    Shutdown,
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its head is read.
    Head,
    /// Its body is awaited.
    Body,
    /// It waits for a worker.
    Queue,
    /// It has a worker, and no final response head has come.
    Worker,
    /// Its response is on its way.
    Response,
    /// It is an upgraded connection.
    Upgraded,
}

macro_rules! outcomes {
    ($($(#[doc = $doc:literal])+ $name:ident $label:literal $failed:literal;)+) => {
        /// What became of a request: a class of ends.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Outcome {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Outcome {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Its name, as metrics and the admin side have it.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// Whether it is a failure on the service's side, for its operator to know.
            pub const fn is_failure(self) -> bool {
                match self { $(Self::$name => $failed,)+ }
            }
        }
    };
}

outcomes! {
    /// Both messages came to their end.
    Complete "complete" false;
    /// The client left before that.
    ClientLeft "client_left" false;
    /// The request is malformed, reserved or too large.
    BadRequest "bad_request" false;
    /// It showed no key that may.
    Denied "denied" false;
    /// Its application is beyond a limit of its own.
    AppLimit "app_limit" false;
    /// The queue, or a table, is full.
    QueueFull "queue_full" true;
    /// Nobody who could serve it is there.
    NoAgent "no_agent" true;
    /// It waited for a worker as long as it may.
    QueueTimeout "queue_timeout" true;
    /// The upstream did not answer in time.
    ResponseTimeout "response_timeout" true;
    /// A side sent or took nothing for too long.
    Stalled "stalled" false;
    /// The upstream could not be used, or answered what is no HTTP.
    UpstreamFailed "upstream_failed" true;
    /// The agent was lost before an answer.
    AgentLost "agent_lost" true;
    /// The response ended before its end.
    Truncated "truncated" true;
    /// An operator cancelled it.
    Cancelled "cancelled" false;
    /// The hub ended.
    Shutdown "shutdown" true;
}

macro_rules! ends {
    ($($name:ident $code:literal $outcome:ident $text:literal;)+) => {
        /// How a request ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum End {
            $(#[doc = $text] $name,)+
        }

        impl End {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Two letters: who or what ended it, and where; `--` if it is complete.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            /// The class that it belongs to.
            pub const fn outcome(self) -> Outcome {
                match self { $(Self::$name => Outcome::$outcome,)+ }
            }

            /// In words.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

ends! {
    Complete "--" Complete "complete";
    ClientInBody "CB" ClientLeft "the client left while its body was awaited";
    ClientInQueue "CQ" ClientLeft "the client left while it waited";
    ClientAtWorker "CW" ClientLeft "the client left before it was answered";
    ClientInResponse "CD" ClientLeft "the client left in the middle of the response";
    ClientUpgraded "CU" ClientLeft "the client broke the upgraded connection";
    HubAtHead "HR" BadRequest "the request is not one that is served";
    HubInBody "HB" BadRequest "the request body is malformed or too large";
    HubInResponse "HD" Truncated "the request body turned out malformed or too large after the answer had begun";
    Key "KR" Denied "the request showed no key that may";
    LimitOfApp "LR" AppLimit "the application is beyond its limit";
    LimitOfQueue "LQ" QueueFull "the queue is full";
    Nobody "NQ" NoAgent "no agent that could serve it takes work";
    TimeAtHead "TR" Stalled "the request head was late";
    TimeInBody "TB" Stalled "the request body was late";
    TimeInQueue "TQ" QueueTimeout "no worker became free in time";
    TimeAtWorker "TW" ResponseTimeout "the upstream did not answer in time";
    TimeInResponse "TD" Stalled "the client stood still in the middle of the response";
    TimeUpgraded "TU" Stalled "the upgraded connection stood still after one side had ended";
    AgentAtWorker "AW" AgentLost "the agent was lost before it answered";
    AgentInResponse "AD" Truncated "the response was cut off";
    AgentUpgraded "AU" Truncated "the upgraded connection was cut off";
    UpstreamInQueue "UQ" UpstreamFailed "every agent that could serve it refused it";
    UpstreamAtWorker "UW" UpstreamFailed "the upstream failed before it answered";
    UpstreamInResponse "UD" Truncated "the response body is malformed";
    OperatorInBody "OB" Cancelled "cancelled while its body was awaited";
    OperatorInQueue "OQ" Cancelled "cancelled while it waited";
    OperatorAtWorker "OW" Cancelled "cancelled before it was answered";
    OperatorInResponse "OD" Cancelled "cancelled in the middle of the response";
    OperatorUpgraded "OU" Cancelled "the upgraded connection was cancelled";
    ShutdownAtHead "SR" Shutdown "the hub is shutting down";
    ShutdownInBody "SB" Shutdown "the hub ended while the body was awaited";
    ShutdownInQueue "SQ" Shutdown "the hub ended while it waited";
    ShutdownAtWorker "SW" Shutdown "the hub ended before it was answered";
    ShutdownInResponse "SD" Shutdown "the hub ended in the middle of the response";
    ShutdownUpgraded "SU" Shutdown "the hub ended the upgraded connection";
}

impl End {
    /// The end that this one made at this stage. Not everybody can end a request everywhere: what cannot
    /// be is taken for what comes nearest.
    pub const fn of(who: Who, stage: Stage) -> Self {
        match (who, stage) {
            (Who::Client, Stage::Head | Stage::Body) => Self::ClientInBody,
            (Who::Client, Stage::Queue) => Self::ClientInQueue,
            (Who::Client, Stage::Worker) => Self::ClientAtWorker,
            (Who::Client, Stage::Response) => Self::ClientInResponse,
            (Who::Client, Stage::Upgraded) => Self::ClientUpgraded,
            (Who::Hub, Stage::Head) => Self::HubAtHead,
            (Who::Hub, Stage::Body | Stage::Queue | Stage::Worker) => Self::HubInBody,
            (Who::Hub, Stage::Response | Stage::Upgraded) => Self::HubInResponse,
            (Who::Key, _) => Self::Key,
            (Who::Limit, Stage::Head) => Self::LimitOfApp,
            (Who::Limit, _) => Self::LimitOfQueue,
            (Who::Nobody, _) => Self::Nobody,
            (Who::Time, Stage::Head) => Self::TimeAtHead,
            (Who::Time, Stage::Body) => Self::TimeInBody,
            (Who::Time, Stage::Queue) => Self::TimeInQueue,
            (Who::Time, Stage::Worker) => Self::TimeAtWorker,
            (Who::Time, Stage::Response) => Self::TimeInResponse,
            (Who::Time, Stage::Upgraded) => Self::TimeUpgraded,
            (Who::Agent, Stage::Response) => Self::AgentInResponse,
            (Who::Agent, Stage::Upgraded) => Self::AgentUpgraded,
            (Who::Agent, _) => Self::AgentAtWorker,
            (Who::Upstream, Stage::Queue) => Self::UpstreamInQueue,
            (Who::Upstream, Stage::Response | Stage::Upgraded) => Self::UpstreamInResponse,
            (Who::Upstream, _) => Self::UpstreamAtWorker,
            (Who::Operator, Stage::Head | Stage::Body) => Self::OperatorInBody,
            (Who::Operator, Stage::Queue) => Self::OperatorInQueue,
            (Who::Operator, Stage::Worker) => Self::OperatorAtWorker,
            (Who::Operator, Stage::Response) => Self::OperatorInResponse,
            (Who::Operator, Stage::Upgraded) => Self::OperatorUpgraded,
            (Who::Shutdown, Stage::Head) => Self::ShutdownAtHead,
            (Who::Shutdown, Stage::Body) => Self::ShutdownInBody,
            (Who::Shutdown, Stage::Queue) => Self::ShutdownInQueue,
            (Who::Shutdown, Stage::Worker) => Self::ShutdownAtWorker,
            (Who::Shutdown, Stage::Response) => Self::ShutdownInResponse,
            (Who::Shutdown, Stage::Upgraded) => Self::ShutdownUpgraded,
        }
    }
}

/// How many requests ended in each way.
#[derive(Clone, Copy, Debug)]
pub struct Ended([u64; End::ALL.len()]);

impl Ended {
    /// Nothing has ended.
    pub const NONE: Self = Self([0; End::ALL.len()]);

    /// A request ended.
    pub fn note(&mut self, end: End) {
        if let Some(count) = self.0.get_mut(end as usize) {
            *count += 1;
        }
    }

    /// How many ended like this.
    pub fn with(&self, end: End) -> u64 {
        self.0.get(end as usize).copied().unwrap_or(0)
    }

    /// What became of how many.
    pub fn became(&self, outcome: Outcome) -> u64 {
        let ends = End::ALL.iter().filter(|end| end.outcome() == outcome);
        ends.map(|end| self.with(*end)).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_say_who_and_where() {
        let whos = [
            (Who::Client, 'C'),
            (Who::Hub, 'H'),
            (Who::Key, 'K'),
            (Who::Limit, 'L'),
            (Who::Nobody, 'N'),
            (Who::Time, 'T'),
            (Who::Agent, 'A'),
            (Who::Upstream, 'U'),
            (Who::Operator, 'O'),
            (Who::Shutdown, 'S'),
        ];
        let stages = [
            (Stage::Head, 'R'),
            (Stage::Body, 'B'),
            (Stage::Queue, 'Q'),
            (Stage::Worker, 'W'),
            (Stage::Response, 'D'),
            (Stage::Upgraded, 'U'),
        ];
        let mut reached = BTreeSet::from(["--"]);
        for (who, letter) in whos {
            for (stage, place) in stages {
                let code = End::of(who, stage).code();
                assert!(code.starts_with(letter), "{who:?} {stage:?}: {code}");
                let exact = format!("{letter}{place}");
                let is_known = End::ALL.iter().any(|end| end.code() == exact);
                assert!(!is_known || code == exact, "{who:?} {stage:?}: {code}");
                reached.insert(code);
            }
        }
        let all: BTreeSet<_> = End::ALL.iter().map(|end| end.code()).collect();
        assert_eq!((reached, all.len()), (all, End::ALL.len()));
    }

    #[test]
    fn every_end_counts_once() {
        let mut ended = Ended::NONE;
        for end in End::ALL {
            ended.note(*end);
            assert_eq!(ended.with(*end), 1);
        }
        let sum: u64 = Outcome::ALL.iter().map(|outcome| ended.became(*outcome)).sum();
        assert_eq!(sum, End::ALL.len() as u64);
    }
}
