//! The layers of the crate depend on each other one way.
