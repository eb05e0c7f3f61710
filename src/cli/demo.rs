//! `slime demo`.

use super::Failure;
use super::args::Demo;

pub(super) fn run(args: Demo) -> Result<u8, Failure> {
    drop((args.upstream, args.port));
    Err(Failure::Runtime("this build has no demo yet".into()))
}
