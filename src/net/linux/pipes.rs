//! Pipes for splice(2): made on demand, used again, and bounded.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::net::Pipe;

/// Pipes at once, in use or not: each takes two descriptors. Transfers beyond that are copied through a
/// buffer.
const MAX_PIPES: usize = 32;
/// What a pipe is asked to hold, in bytes. Beyond what an unprivileged user may have (`pipe-user-pages-soft`,
/// pipe(7)) the kernel declines, and 64 KiB it is.
const PIPE_BYTES: usize = 1024 * 1024;

/// The pipes of the process.
#[derive(Default)]
pub(super) struct Pipes {
    all: Vec<Option<Ends>>,
    /// Empty ones that nobody uses.
    free: Vec<Pipe>,
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipes {
    /// An empty pipe, unless all are in use or the process is out of descriptors.
    pub(super) fn take(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.free.pop() {
            return Some(pipe);
        }
        let place = match self.all.iter().position(Option::is_none) {
            Some(place) => place,
            None if self.all.len() < MAX_PIPES => {
                self.all.push(None);
                self.all.len() - 1
            }
            None => return None,
        };
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // Declined for want of privilege: it is smaller then.
        let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
        *self.all.get_mut(place)? = Some(Ends { read, write });
        Some(Pipe(u32::try_from(place).ok()?))
    }

    /// Takes a pipe back. What is left in one that is not empty is lost with it.
    pub(super) fn give(&mut self, pipe: Pipe, is_empty: bool) {
        if is_empty {
            self.free.push(pipe);
        } else if let Some(ends) = self.all.get_mut(pipe.0 as usize) {
            *ends = None;
        }
    }

    /// From a socket into an empty pipe.
    pub(super) fn fill(&self, pipe: Pipe, from: impl AsFd, most: usize) -> io::Result<usize> {
        let ends = self.ends(pipe)?;
        Ok(splice(from, None, &ends.write, None, most, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?)
    }

    /// From a pipe that holds `n` bytes to a socket.
    pub(super) fn drain(&self, pipe: Pipe, to: impl AsFd, n: usize) -> io::Result<usize> {
        let ends = self.ends(pipe)?;
        Ok(splice(&ends.read, None, to, None, n, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?)
    }

    fn ends(&self, pipe: Pipe) -> io::Result<&Ends> {
        self.all.get(pipe.0 as usize).and_then(Option::as_ref).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
