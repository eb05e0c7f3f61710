//! Every error that the hub itself answers with: status, reason, and what it says to people and to programs.
//!
//! What an upstream or an agent answers passes through and is not here. [`reply`] knows how an answer is
//! written.

use crate::proto::error::Violation;
use crate::proto::http1::cors::{Grant, Origins};
use crate::proto::http1::head::RequestHead;
use crate::proto::http1::reply::{self, Form, Reply};
use crate::proto::http1::request_id::RequestId;
use crate::proto::tunnel::{
    BadHello, CHALLENGE, NO_UPGRADE, NO_UPGRADE_AT_ALL, TOKEN_EXPIRED, TOKEN_REVOKED,
};

/// The challenge to a person (RFC 7617 section 2): any user name will do.
const BASIC: &str = "Basic realm=\"slime\", charset=\"UTF-8\"";

/// After how many seconds a request that got 503 is worth another attempt.
const RETRY_AFTER: u32 = 1;

/// How a client is told of an error.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Manner<'a> {
    pub(super) form: Form,
    pub(super) grant: Grant,
    /// Its request was HEAD: no body follows.
    pub(super) head_only: bool,
    /// What its request is called, if that could be read.
    pub(super) id: Option<&'a str>,
}

impl<'a> Manner<'a> {
    /// The manner for a client whose request cannot be read.
    pub(super) fn unread(id: &'a RequestId, head_only: bool) -> Self {
        Self { head_only, id: Some(id.as_str()), ..Self::default() }
    }

    /// The manner for the client that sent this request.
    pub(super) fn of(head: &RequestHead<'_, '_>, id: &'a RequestId, origins: Option<&Origins>) -> Self {
        Self {
            form: Form::of(head),
            grant: origins.map_or(Grant::Nobody, |origins| origins.grant(head)),
            head_only: head.method.is_head(),
            id: Some(id.as_str()),
        }
    }
}

/// What a refusal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    status: u16,
    /// The `error` of `Proxy-Status` (RFC 9209 section 2.3).
    error: &'static str,
    /// The reason in one word, for programs.
    code: &'static str,
    /// The reason, and what to do about it, for people.
    detail: &'static str,
}

macro_rules! refusals {
    ($($name:ident: $status:literal $error:literal $code:literal $detail:expr;)+) => {
        /// Why the hub does not serve a request, or not to its end.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Refusal {
            $($name,)+
            /// What came is malformed, ambiguous, or beyond a limit: a request, or with status 502 a
            /// response.
            Misbehaved(Violation),
        }

        impl Refusal {
            /// All but what a violation says by itself.
            #[cfg(test)]
            const ALL: &[Self] = &[$(Self::$name),+];

            const fn said(self) -> Said {
                match self {
                    $(Self::$name => Said { status: $status, error: $error, code: $code, detail: $detail },)+
                    Self::Misbehaved(Violation { status, detail }) => Said {
                        status,
                        error: if status == 502 { "http_protocol_error" } else { "http_request_error" },
                        code: reply::word(status),
                        detail,
                    },
                }
            }
        }
    };
}

refusals! {
    HttpsOnly: 400 "http_request_error" "bad_request"
        "this port speaks HTTPS: write https:// instead of http://";
    HttpsElsewhere: 400 "http_request_error" "bad_request"
        "this hub speaks HTTPS, on another port";
    NoUpgrade: 400 "http_request_error" "bad_request"
        NO_UPGRADE;
    NoUpgradeAtAll: 400 "http_request_error" "bad_request"
        NO_UPGRADE_AT_ALL;
    DoubledCredential: 400 "http_request_error" "bad_request"
        "a field that may hold the key is given twice";
    TwoApplications: 400 "http_request_error" "bad_request"
        "the request has the keys of two applications; send one of them";
    Unauthorized: 401 "http_request_denied" "unauthorized"
        "the app password is missing or wrong: send it as API key (Authorization: Bearer, x-api-key, api-key, \
         x-goog-api-key) or as Slime-App-Password";
    NoToken: 401 "http_request_denied" "unauthorized"
        "the handshake has no Slime-Agent-Token";
    BadToken: 401 "http_request_denied" "unauthorized"
        "the agent token is not one of this hub's; make one with 'slime hub register' and the hub's secret";
    ExpiredToken: 401 "http_request_denied" "unauthorized"
        TOKEN_EXPIRED;
    RevokedToken: 401 "http_request_denied" "unauthorized"
        TOKEN_REVOKED;
    CrossSite: 403 "http_request_denied" "cross_site"
        "a page of another site sent this with the password that the browser keeps: let the page send the key as \
         Authorization: Bearer, and start the hub with --cors and the origin of the page";
    WorkersFull: 403 "http_request_denied" "workers_full"
        "the agent token allows no more workers, counted over all its agents";
    Reserved: 404 "http_request_denied" "reserved_path"
        "paths with a /.slime/ segment belong to the hub and are not forwarded";
    HeadLate: 408 "http_request_error" "request_timeout"
        "the request head did not arrive in time";
    BodyLate: 408 "http_request_error" "request_timeout"
        "the request body did not arrive in time";
    TooLarge: 413 "http_request_error" "body_too_large"
        "the request body is larger than this hub allows";
    Lost: 502 "connection_terminated" "agent_lost"
        "the agent was lost before it answered";
    AllRefused: 502 "destination_unavailable" "agents_refused"
        "every agent that could serve this refused it";
    CutOff: 502 "http_response_incomplete" "bad_response"
        "the response was cut off";
    Unframed: 502 "http_protocol_error" "bad_response"
        "the agent sent a response without a length";
    Draining: 503 "destination_unavailable" "shutting_down"
        "the hub is shutting down; try again in a moment";
    HubFull: 503 "connection_limit_reached" "hub_full"
        "the hub is full; try again later";
    ClientsFull: 503 "connection_limit_reached" "hub_full"
        "the hub has too many clients; try again later";
    TunnelsFull: 503 "connection_limit_reached" "hub_full"
        "the hub has reached its limit of tunnels, --max-tunnels";
    GatheringFull: 503 "connection_limit_reached" "queue_full"
        "too many requests wait for their bodies, and this one waited longest; try again later";
    QueueFull: 503 "connection_limit_reached" "queue_full"
        "the hub's queue is full; try again later";
    NoAgent: 503 "destination_unavailable" "no_agent"
        "no agent that could serve this is connected; start one, or send Slime-Block: 1 to wait for it";
    Unreachable: 503 "destination_unavailable" "upstream_unavailable"
        "agents that could serve this are connected, but their upstreams cannot be used; \
         the hub's log says which and why";
    Paused: 503 "destination_unavailable" "agents_paused"
        "agents that could serve this are connected, but the operator of the hub has paused them; try again later";
    Cancelled: 503 "connection_terminated" "cancelled"
        "the operator of the hub has cancelled this request";
    BarredPath: 503 "destination_unavailable" "ambiguous_path"
        "the path can be read in more than one way, so it matches no agent's scope paths; \
         send it in its plain form";
    Waited: 503 "connection_timeout" "queue_timeout"
        "no worker became free in time; try again later";
    Busy: 503 "connection_limit_reached" "busy"
        "no worker is free, and Slime-Block: 0 does not wait";
    NoResponse: 504 "http_response_timeout" "response_timeout"
        "the upstream did not answer within --response-timeout";
    OtherSide: 504 "connection_timeout" "stalled"
        "nothing moved for --stall-timeout after one side of the upgraded connection had ended";
    Loop: 508 "proxy_loop_detected" "loop_detected"
        "the request has come through this hub before: the upstream of an agent leads back to the hub";
}

impl Refusal {
    pub(super) const fn status(self) -> u16 {
        self.said().status
    }

    pub(super) const fn detail(self) -> &'static str {
        self.said().detail
    }

    /// As an answer to HTTP/1.1 that closes the connection.
    pub(super) fn reply(self, form: Form) -> Reply<'static> {
        let Said { status, error, code, detail } = self.said();
        Reply {
            error: Some(error),
            code,
            // Who cancels a request does not want it again at once.
            retry_after: (status == 503 && self != Self::Cancelled).then_some(RETRY_AFTER),
            // RFC 9110 section 11.6.1: a 401 comes with a challenge.
            challenge: match (self, form) {
                // A browser asks the person for it.
                (Self::Unauthorized, Form::Page) => Some(BASIC),
                (_, Form::Problem | Form::Ollama | Form::Page) => (status == 401).then_some(CHALLENGE),
            },
            form,
            ..Reply::new(status, detail)
        }
    }
}

impl From<Violation> for Refusal {
    fn from(violation: Violation) -> Self {
        Self::Misbehaved(violation)
    }
}

impl From<BadHello> for Refusal {
    fn from(error: BadHello) -> Self {
        match error {
            BadHello::NoToken => Self::NoToken,
            BadHello::Malformed(violation) => violation.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The statuses in the first column of a table that begins with this line.
    fn statuses(text: &str, heading: &str) -> Vec<u16> {
        let rows = text.lines().skip_while(|line| *line != heading).skip(2);
        let rows = rows.take_while(|line| line.starts_with('|'));
        let first = rows.filter_map(|row| row.split('|').nth(1));
        first.flat_map(|cell| cell.split(',')).map(|status| status.trim().parse().unwrap()).collect()
    }

    #[test]
    fn the_readme_has_every_status_that_slime_answers_with() {
        let readme = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
        let mut told = statuses(readme, "| Status | When |");
        told.sort_unstable();
        let said: BTreeSet<u16> = reply::ERRORS.iter().map(|(status, ..)| *status).collect();
        assert_eq!(told, said.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn every_refusal_has_a_reason_for_people_and_one_for_programs() {
        for refusal in Refusal::ALL {
            let Said { status, code, detail, .. } = refusal.said();
            assert!(reply::ERRORS.iter().any(|(known, ..)| *known == status), "{refusal:?}");
            let is_word = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            assert!(!code.is_empty() && code.bytes().all(is_word), "{refusal:?}");
            assert!(!detail.is_empty() && !detail.contains("  ") && detail.is_ascii(), "{refusal:?}");
        }
    }
}
