//! Connections whose remote side has vanished: the machine is gone, or the way to it.
//!
//! An idle connection is TCP keep-alive's affair, and a minute is enough for it. One on which something was
//! sent that nobody has acknowledged is looked after here. What the remote process does with what its kernel
//! has acknowledged is the core's affair.

use core::time::Duration;

use log::debug;

use super::Shell;
use super::conn::Slot;
use crate::net::Net;
use crate::proto::seam::{Core, Why};

/// Time between two looks. A peer that vanished is noticed within about a minute, most of which is the
/// silence that proves it.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

impl<C: Core, N: Net> Shell<C, N> {
    /// Looks for peers that have vanished, if it is time and there are connections.
    #[inline]
    pub(super) fn look_for_vanished(&mut self) {
        if self.look_at.is_none_or(|at| at <= self.now.mono) {
            self.begin_to_look();
        }
    }

    fn begin_to_look(&mut self) {
        let is_due = self.look_at.take().is_some();
        if self.conns.len() == 0 {
            return;
        }
        if is_due {
            self.net.find_vanished();
        }
        self.look_at = Some(self.now.mono.after_coarse(LOOK_INTERVAL));
    }

    /// Nobody is at the other end of these sockets any more. Some may not be ours.
    pub(super) fn vanished(&mut self, sockets: &[u64]) {
        let net = &mut self.net;
        let gone = self.conns.keys_where(|slot| match slot {
            Slot::Open(conn) => {
                net.identity(conn.stream.socket_mut()).is_some_and(|socket| sockets.contains(&socket))
            }
            Slot::Resolving(_) | Slot::Connecting(_) | Slot::Securing { .. } => false,
        });
        for key in gone {
            debug!("{key:?}: nobody acknowledges what is sent; the remote side has vanished");
            self.fail(key, Why::Failed);
        }
    }
}
