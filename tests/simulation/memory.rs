//! How much memory SECURITY.md promises that a hub's buffers never exceed, for what there is at a moment and
//! by the caps.

use slime::proto::hub::Census;
use slime::proto::seam::HELD_BLOCK;

/// What buffers may take for each of something, in KiB.
#[derive(Clone, Copy)]
pub(crate) struct Promise {
    outside: usize,
    waiting: usize,
    active: usize,
    tail: usize,
    tunnel: usize,
}

/// Head, and an answer of the hub's own. What was read ahead, and the request that is held. Those, a block
/// for each direction of two connections. What was read ahead, and the rest of the response. The largest
/// head, and the end of an upgraded connection.
pub(crate) const PLAIN: Promise = Promise { outside: 18, waiting: 100, active: 290, tail: 130, tunnel: 100 };
/// Ciphertext of each direction, and what was decrypted ahead, come to that.
pub(crate) const TLS: Promise = Promise { outside: 80, waiting: 240, active: 700, tail: 330, tunnel: 300 };

impl Promise {
    /// The same where tunnels go in frames: a block of those that wait, for each.
    pub(crate) fn framed(mut self) -> Self {
        self.active += 66;
        self.tunnel += 66;
        self
    }

    /// What is wrong with this many bytes of buffers, if anything is.
    pub(crate) fn exceeded(&self, bytes: usize, census: Census) -> Option<String> {
        let Census { clients, tunnels, exchanges, active, tails, held, .. } = census;
        let most = self.outside * clients.saturating_sub(exchanges + tails)
            + self.waiting * exchanges.saturating_sub(active)
            + self.active * active
            + self.tail * tails
            + self.tunnel * tunnels.saturating_sub(active)
            + HELD_BLOCK / 1024 * held;
        (bytes > most * 1024)
            .then(|| format!("{bytes} bytes of buffers, where {most} KiB are promised: {census:?}"))
    }

    /// The same by the caps, as SECURITY.md says it: there are a sixteenth more of clients, four at least;
    /// what awaits its body has as many places as the queue, and 64 more; and who comes back from a lost
    /// tunnel waits beside those of the queue.
    fn formula(&self) -> String {
        let Self { outside, waiting, active, tunnel, .. } = self;
        let fixed = (4 * outside + 64 * waiting).div_ceil(1024);
        let (outside, queued, concurrent) = ((outside * 17).div_ceil(16), 2 * waiting, active + waiting);
        format!(
            "--hold + {fixed} MB + {outside} KB x --max-clients + {queued} KB x --queue-depth + {concurrent} KB x --concurrent + {tunnel} KB x --max-tunnels"
        )
    }
}

#[test]
fn the_documentation_promises_what_is_held() {
    let security = include_str!("../../.github/SECURITY.md");
    for promise in [PLAIN, TLS] {
        assert!(security.contains(&promise.formula()), "{}", promise.formula());
    }
}
