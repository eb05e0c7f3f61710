//! What entries are kept in: typed [`key`]s with generations, the [`table`]s that they index, FIFO [`list`]s
//! through these, and lazy [`timer`]s. They know nothing of HTTP, hubs or agents.

pub mod key;
pub mod list;
pub mod table;
pub mod timer;
