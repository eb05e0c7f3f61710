//! The hub, together with real agents or with ones that the tests play.

mod actions;
mod admission;
mod dispatch;
mod door_vectors;
mod doors;
mod drain;
mod ends;
mod hold;
mod light;
mod permits;
mod queue;
mod replace;
mod request_id;
mod respond;
mod retry;
mod tally;
mod time;
mod tunnel;
mod upgrade;
mod waiting;
mod websocket;

use core::time::Duration;

use crate::proto::testing::{Ended, Pair, Raw};

/// Rounding of deadlines that need no precision.
const COARSE: Duration = Duration::from_millis(500);

#[test]
fn idle_connections_are_small() {
    assert!(size_of::<super::Client>() <= 64);
    assert!(size_of::<super::Tunnel>() <= 56);
}

/// A whole answer of the hub's own begins like this and says so in its body.
fn assert_refused(pair: &mut Pair, client: Raw, status: u16, detail: &str) {
    let got = pair.got(client);
    assert!(got.starts_with(&format!("HTTP/1.1 {status} ")), "{got}");
    assert!(got.contains(detail), "{got}");
    assert!(got.contains("\r\nProxy-Status: slime"), "{got}");
    assert_eq!(got.contains("\r\nRetry-After: "), status == 503, "{got}");
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The application was told that nothing follows, and nothing did.
fn assert_closed(pair: &mut Pair, client: Raw) {
    assert_eq!(pair.got(client), "");
    assert_eq!(pair.ended(client), Some(Ended::Fin));
}
