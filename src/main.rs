//! The slime command.
fn main() {}
