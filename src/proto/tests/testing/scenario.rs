//! Named states of an exchange, and the way to each.

use super::pair::{Pair, Raw, Setup};

pub(crate) const GET: &str = "GET /x HTTP/1.1\r\nHost: app.test\r\n\r\n";
/// What the upstream of the default setup sees of [`GET`].
pub(crate) const GOT: &str = "GET /x HTTP/1.1\r\nHost: up.test\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\n\
     X-Forwarded-Host: app.test\r\nVia: 1.1 slime\r\n\r\n";
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
/// What an application sees of [`OK`].
pub(crate) const WAS_OK: &str =
    "HTTP/1.1 200 OK\r\nSlime-Agent-Id: a\r\nVia: 1.1 slime\r\nContent-Length: 2\r\n\r\nhi";

/// An exchange, its application and its upstream.
pub(crate) struct AtUpstream {
    pub(crate) pair: Pair,
    pub(crate) client: Raw,
    pub(crate) upstream: Raw,
}

impl Setup {
    /// The request has reached the upstream, which has read it.
    pub(crate) fn at_upstream(self, request: &str) -> AtUpstream {
        let mut pair = self.joined();
        let client = pair.client();
        pair.send(client, request);
        let upstream = pair.upstream();
        pair.got(upstream);
        AtUpstream { pair, client, upstream }
    }

    /// The beginning of a response has reached the application, which has read it.
    pub(crate) fn streaming(self, request: &str, response: &str) -> AtUpstream {
        let mut at = self.at_upstream(request);
        at.pair.send(at.upstream, response);
        assert_ne!(at.pair.got(at.client), "", "nothing has come through");
        at
    }

    /// Both sides have left HTTP.
    pub(crate) fn upgraded(self) -> AtUpstream {
        let request =
            "GET /ws HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        self.streaming(
            request,
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
    }

    /// The only worker is busy with one request, and another one waits. The second client.
    pub(crate) fn queued(self, request: &str) -> (AtUpstream, Raw) {
        let mut at = self.at_upstream(GET);
        let second = at.pair.client();
        at.pair.send(second, request);
        assert_eq!(at.pair.hub.core.census().queued, 1, "it does not wait");
        (at, second)
    }

    /// Runs the same in every way that bytes can come: all that there is, byte by byte, with next to no room
    /// under way, with bodies that nobody looks at, and with tunnels in frames of WebSocket.
    pub(crate) fn in_every_way(self, run: impl Fn(Setup)) {
        let wide = 256 * 1024;
        for (grain, room) in [(usize::MAX, wide), (1, wide), (usize::MAX, 1), (1, 1), (3, 7)] {
            for splices in [false, true] {
                run(Setup { grain, room, splices, ..self.clone() });
            }
            let mut framed = Setup { grain, room, ..self.clone() };
            framed.agents.iter_mut().for_each(|(_, config)| config.websocket = true);
            run(framed);
        }
    }
}
