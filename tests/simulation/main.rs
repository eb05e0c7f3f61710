//! Hub and agents on a simulated network.
