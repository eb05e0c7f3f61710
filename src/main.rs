//! The slime command.

use std::process::ExitCode;

fn main() -> ExitCode {
    slime::cli::run(std::env::args_os().skip(1))
}
