//! Probes, which find out whether an upstream can be reached.
//!
//! Without `--health-path` a probe succeeds with a connection, with it by a response below 500. A healthy
//! upstream is probed if there is a path, and when a request was cancelled before any byte of its answer:
//! the upstream may hang. Requests may wait for the end of a probe (`health`), and go on or are refused then.

use alloc::string::String;

use super::Agent;
use super::health::Probe;
use crate::config::SetField;
use crate::proto::http1::head::ResponseHead;
use crate::proto::http1::storage::Storage;
use crate::proto::seam::{Shown, Step};
use crate::proto::tables::timer::{Mono, Now};
use crate::proto::tunnel::Trouble;

impl Agent {
    /// Begins the probes that are due, and ends those that take too long.
    pub(super) fn check_probes(&mut self, now: Now) {
        for index in self.upstreams.indices() {
            match self.upstreams.probe(index) {
                Some(Probe::Due(at)) if at.has_passed(now) => self.begin_probe(index, now),
                Some(Probe::Running { connection, until, .. }) if *until <= now.mono => {
                    let connection = *connection;
                    self.connections.drop_upstream(connection);
                    self.probe_failed(index, Trouble::new("it does not answer"), now);
                }
                Some(Probe::Due(_) | Probe::Running { .. }) | None => {}
            }
        }
    }

    /// The name of the upstream was looked up. The connection must stand by then.
    pub(super) fn probe_connects(&mut self, index: u16, by: Mono) {
        if let Some(Probe::Running { until, .. }) = self.upstreams.probe(index) {
            *until = by;
        }
    }

    pub(super) fn probe_connected(&mut self, index: u16, now: Now) {
        let Some(Probe::Running { connection, .. }) = self.upstreams.probe(index) else { return };
        let connection = *connection;
        match self.probe_request(index) {
            Some(request) => self.connections.send(connection, request.into_bytes()),
            None => {
                self.connections.drop_upstream(connection);
                self.probe_succeeded(index, now);
            }
        }
    }

    /// The request of a probe, with `--health-path`.
    fn probe_request(&self, index: u16) -> Option<String> {
        let path = self.config.health_path.as_ref()?;
        let upstream = self.config.upstreams.get(usize::from(index))?;
        let mut request = format!(
            "GET {}{path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n",
            upstream.base_path, upstream.authority
        );
        if let Some(authorization) = &upstream.authorization {
            request.push_str(&format!("Authorization: {authorization}\r\n"));
        }
        for SetField { name, value } in &self.config.upstream_fields {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        Some(request)
    }

    pub(super) fn read_probe(&mut self, index: u16, shown: Shown<'_>, now: Now) -> Step {
        let Shown { input, end, .. } = shown;
        let Some(Probe::Running { connection, scan, .. }) = self.upstreams.probe(index) else {
            return Step::Wait;
        };
        let connection = *connection;
        let status = match ResponseHead::find(scan, input, &mut Storage::new(), false) {
            Ok(None) if end.is_none() => return Step::Wait,
            // An interim response is no answer yet (RFC 9110 section 15.2).
            Ok(Some(head)) if head.is_interim() => {
                *scan = scan.anew();
                return Step::Skip(head.length);
            }
            Ok(Some(head)) => head.status,
            Ok(None) | Err(_) => 0,
        };
        self.connections.drop_upstream(connection);
        if (100..500).contains(&status) {
            self.probe_succeeded(index, now);
        } else {
            self.probe_failed(index, ill(status), now);
        }
        Step::Wait
    }

    fn probe_succeeded(&mut self, index: u16, now: Now) {
        self.upstream_is_up(index, now);
        for key in self.waiting_for_probe(index) {
            self.choose(key, now);
        }
    }

    pub(super) fn probe_failed(&mut self, index: u16, why: Trouble<'static>, now: Now) {
        self.end_probe(index, now);
        self.upstream_is_down(index, why, now);
        for key in self.waiting_for_probe(index) {
            self.refuse(key, why, now);
        }
    }
}

/// What is wrong with an upstream whose health path answered with this status, 0 for no HTTP. An upstream
/// that answers in HTTP will be ready before long.
fn ill(status: u16) -> Trouble<'static> {
    macro_rules! answered {
        ($($status:literal)*) => {
            match status {
                0 => "its health path does not answer in HTTP",
                $($status => concat!("its health path answered ", $status),)*
                _ => "its health path answered with a status above 500",
            }
        };
    }
    let reason = answered!(
        500 501 502 503 504 505 506 507 508 509 510 511 520 521 522 523 524 525 526 527 529 530 598 599
    );
    Trouble { reason, is_loading: status >= 500 }
}
