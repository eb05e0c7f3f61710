//! Who may be an agent: [`agent_token`]s, and the [`revocation`] of those that were given out; and what a
//! [`password`] is known by.

pub mod agent_token;
pub mod password;
pub mod revocation;
