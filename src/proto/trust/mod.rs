//! Who may be an agent: [`agent_token`]s, and the [`revocation`] of those that were given out.

pub mod agent_token;
pub mod revocation;
