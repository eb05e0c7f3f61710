//! Signals as readiness of a self-pipe.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

use mio::{Interest, Registry, Token};
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM};

/// The reading ends of two self-pipes, one for each thing that can be asked for.
pub(super) struct Signals {
    terminate: mio::net::UnixStream,
    reload: mio::net::UnixStream,
}

impl Signals {
    /// Installs the handlers, for good. They write one byte each; a full pipe is a signal that is already on
    /// its way.
    pub(super) fn new(registry: &Registry, terminate: Token, reload: Token) -> io::Result<Self> {
        Ok(Self {
            terminate: watch(&[SIGTERM, SIGINT], registry, terminate)?,
            reload: watch(&[SIGHUP], registry, reload)?,
        })
    }

    /// Whether `SIGTERM` or `SIGINT` came since the last call.
    pub(super) fn take_terminate(&mut self) -> bool {
        take(&mut self.terminate)
    }

    /// Whether `SIGHUP` came since the last call.
    pub(super) fn take_reload(&mut self) -> bool {
        take(&mut self.reload)
    }
}

fn watch(signals: &[i32], registry: &Registry, token: Token) -> io::Result<mio::net::UnixStream> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    write.set_nonblocking(true)?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, write.try_clone()?)?;
    }
    let mut read = mio::net::UnixStream::from_std(read);
    registry.register(&mut read, token, Interest::READABLE)?;
    Ok(read)
}

fn take(pipe: &mut mio::net::UnixStream) -> bool {
    let mut came = false;
    let mut bytes = [0; 64];
    // Until it would block: only then is there another edge.
    while pipe.read(&mut bytes).is_ok_and(|n| n > 0) {
        came = true;
    }
    came
}
