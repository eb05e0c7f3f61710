//! Raw messages and their verdicts.
