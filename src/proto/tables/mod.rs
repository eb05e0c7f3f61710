//! What entries are kept in: typed [`key`]s with generations, the [`table`]s that they index, FIFO [`list`]s
//! through these, lazy [`timer`]s, and both in one, [`timed`]. They know nothing of HTTP, hubs or agents.

pub mod key;
pub mod list;
pub mod table;
pub mod timed;
pub mod timer;
