//! What agents with equal rights have in common, and what a request needs of them: see [`super::pool`].

use alloc::string::String;
use alloc::vec::Vec;

use super::classes::Rights;
use super::turns::Queue;
use crate::proto::http1::path;
use crate::proto::tables::timer::Mono;

/// An agent until it is forgotten: unlike a slot, never given to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentSerial(pub u64);

/// An agent that has refused a request, which it does not get again before it has said once more that it
/// takes work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub(super) agent: AgentSerial,
    /// How often it had come back from refusals before.
    pub(super) round: u32,
}

/// What a request needs from an agent.
#[derive(Clone, Debug, Default)]
pub struct Need {
    /// The scope that the application named; empty if it named none.
    pub scope: String,
    /// The path that is forwarded; empty if an upstream may read it differently than we do, so that it
    /// matches no scope path.
    pub path: String,
    /// Agents that refused this exchange, each once.
    pub refused: Vec<Refused>,
}

impl Need {
    /// Notes a refusal, in place of an earlier one of the same agent.
    pub fn note_refusal(&mut self, refused: Refused) {
        match self.refused.iter_mut().find(|it| it.agent == refused.agent) {
            Some(earlier) => *earlier = refused,
            None => self.refused.push(refused),
        }
    }
}

#[derive(Debug)]
pub(super) struct Profile {
    pub(super) scopes: Vec<String>,
    pub(super) paths: Vec<String>,
    pub(super) light: Vec<String>,
    pub(super) turns: Queue,
    pub(super) agents: usize,
    /// Agents that are here, without a grace.
    pub(super) here: usize,
    /// Tunnels of its agents that would take work but for the answer to a first heartbeat.
    pub(super) pending: usize,
    /// When the last grace of its agents ends.
    pub(super) until: Mono,
}

impl Profile {
    pub(super) fn rights(&self) -> Rights<'_> {
        Rights { scopes: &self.scopes, paths: &self.paths, light: &self.light }
    }

    pub(super) fn has_scope(&self, scope: &str) -> bool {
        scope.is_empty() || self.scopes.iter().any(|own| own == scope)
    }

    pub(super) fn serves(&self, need: &Need) -> bool {
        let cover = |rules: &[String]| {
            rules.is_empty()
                || !need.path.is_empty() && rules.iter().any(|rule| path::matches(rule, &need.path))
        };
        self.has_scope(&need.scope) && cover(&self.paths) && cover(&self.light)
    }

    /// The place of a turn among those of all profiles: who can take nothing but light requests has them
    /// before a worker does.
    pub(super) fn rank(&self, since: u64) -> u64 {
        const WORKER: u64 = 1 << 63;
        if self.light.is_empty() { since | WORKER } else { since }
    }
}
