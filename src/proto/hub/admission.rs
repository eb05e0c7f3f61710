//! What becomes of a request head: a pure function of the head, of the client that sent it, and of what the
//! hub was told. Nothing of the hub's tables is looked at, and nothing is changed.

use core::net::IpAddr;
use core::time::Duration;

use super::Refusal;
use super::clients::{Client, Transport};
use super::exchanges::{Expectation, Patience};
use super::hold::FREE;
use super::keys::{Admitted, Keys};
use crate::config::HubConfig;
use crate::proto::error::Violation;
use crate::proto::http1::cors::{self, Grant};
use crate::proto::http1::credentials::Credentials;
use crate::proto::http1::fields;
use crate::proto::http1::framing::Framing;
use crate::proto::http1::head::RequestHead;
use crate::proto::http1::path;
use crate::proto::http1::request_id::RequestId;
use crate::proto::http1::rewrite::{ExpectForward, ToAgent};
use crate::proto::http1::start_line::Version;
use crate::proto::tunnel::Hello;

/// The longest `Slime-Max-Wait`: a year.
const MAX_WAIT: Duration = Duration::from_secs(31_536_000);

/// What a request is judged by, beyond its head.
pub(super) struct Rules<'a> {
    pub(super) config: &'a HubConfig,
    pub(super) keys: &'a Keys,
    pub(super) is_draining: bool,
}

/// The client that sent a request head.
#[derive(Clone, Copy)]
pub(super) struct Caller {
    peer: IpAddr,
    transport: Transport,
}

impl Caller {
    pub(super) fn of(client: &Client) -> Self {
        Self { peer: client.peer, transport: client.transport }
    }
}

/// What becomes of a request head.
pub(super) enum Verdict<'b> {
    /// It was sent without TLS, and goes to this port, where TLS is spoken.
    Redirect(u16),
    /// An agent joins.
    Join(Hello<'b>),
    /// A browser asks whether a page may send a request.
    Preflight,
    /// It may have no more recipients (RFC 9110 section 7.6.2).
    AnswerLast,
    /// It is served by an agent.
    Serve(Terms),
}

/// On which terms a request is served.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    caller: Caller,
    is_trusted: bool,
    spent: Credentials,
    forward: ExpectForward,
    pub(super) grant: Grant,
    /// Who waits for a `100 Continue`.
    pub(super) expectation: Expectation,
    pub(super) patience: Patience,
    /// Whether the client is told at once to send its body.
    pub(super) says_continue: bool,
    /// Whether the body, or what is held of it, is gathered before the request has a worker.
    pub(super) gathers: bool,
}

impl Terms {
    /// What the hub adds to the head on its way to the agent.
    pub(super) fn forwarding<'a>(&self, config: &'a HubConfig, id: &'a RequestId) -> ToAgent<'a> {
        ToAgent {
            name: &config.name,
            client: self.caller.peer,
            secure: self.caller.transport == Transport::Tls,
            trusted: self.is_trusted,
            spent: self.spent,
            hides_origin: self.grant != Grant::Nobody,
            expect: self.forward,
            id: id.as_str(),
        }
    }
}

/// Judges a request head.
///
/// # Errors
/// What the client is answered in place of being served.
#[inline]
pub(super) fn judge<'b>(
    head: &'b RequestHead<'_, 'b>,
    caller: Caller,
    rules: &Rules<'_>,
) -> Result<Verdict<'b>, Refusal> {
    let config = rules.config;
    match (caller.transport, config.redirect) {
        (Transport::PlainOnTls, _) => return Err(Refusal::HttpsOnly),
        (Transport::Plain, Some(port)) => return Ok(Verdict::Redirect(port)),
        (Transport::Plain, None) | (Transport::Tls, _) => {}
    }
    if path::is_reserved(head.path()) {
        return reserved(head);
    }
    if rules.is_draining {
        return Err(Refusal::Draining);
    }
    let is_trusted = config.trusted_proxies.iter().any(|range| range.contains(caller.peer));
    let is_preflight = cors::is_preflight(head);
    if is_preflight && config.cors.is_some() {
        return Ok(Verdict::Preflight);
    }
    let spent = match let_in(head, rules, is_trusted) {
        // It cannot show a key, and takes no worker.
        Err(Refusal::Unauthorized) if is_preflight => return Ok(Verdict::Preflight),
        spent => spent?,
    };
    if head.came_by(&config.name) {
        return Err(Refusal::Loop);
    }
    if head.max_forwards() == Some(0) {
        return Ok(Verdict::AnswerLast);
    }
    if let (Framing::Length(length), Some(most)) = (head.framing, config.max_body)
        && length > most
    {
        return Err(Refusal::TooLarge);
    }
    let patience = patience(head)?;
    check_scope(head)?;
    let (forward, expectation) = expectation(head);
    let awaits_body = matches!(head.framing, Framing::Length(1..));
    let gathers = awaits_body && expectation != Expectation::OfClient;
    Ok(Verdict::Serve(Terms {
        caller,
        is_trusted,
        spent,
        grant: config.cors.as_ref().map_or(Grant::Nobody, |origins| origins.grant(head)),
        forward,
        expectation,
        patience,
        says_continue: gathers && expects(head),
        gathers,
    }))
}

/// Paths with a `/.slime/` segment belong to the hub.
fn reserved<'b>(head: &'b RequestHead<'_, 'b>) -> Result<Verdict<'b>, Refusal> {
    if Hello::is_meant(head) {
        return Ok(Verdict::Join(Hello::parse(head)?));
    }
    if !Hello::is_stripped(head) {
        return Err(Refusal::Reserved);
    }
    Err(if Hello::is_stripped_websocket(head) { Refusal::NoUpgradeAtAll } else { Refusal::NoUpgrade })
}

/// The fields in which a request shows a key of the hub, where one is asked for.
fn let_in(head: &RequestHead<'_, '_>, rules: &Rules<'_>, is_trusted: bool) -> Result<Credentials, Refusal> {
    if rules.keys.is_empty() {
        return Ok(Credentials::NONE);
    }
    let Admitted { spent, is_ambient } = rules.keys.admit(head)?.ok_or(Refusal::Unauthorized)?;
    let does_something = head.upgrade.is_some() || !matches!(head.method.as_str(), "GET" | "HEAD");
    if is_ambient && does_something && cors::is_foreign(head, rules.config.cors.as_ref(), is_trusted) {
        return Err(Refusal::CrossSite);
    }
    Ok(spent)
}

/// How long a request waits for a worker.
fn patience(head: &RequestHead<'_, '_>) -> Result<Patience, Violation> {
    let block = match once(head, "Slime-Block", "Slime-Block is given twice")? {
        None => None,
        Some(b"1") => Some(true),
        Some(b"0") => Some(false),
        Some(_) => return Err(Violation::malformed("Slime-Block is neither 0 nor 1")),
    };
    let max_wait = once(head, "Slime-Max-Wait", "Slime-Max-Wait is given twice")?.map(|value| {
        let detail = "Slime-Max-Wait is not a number of seconds";
        fields::seconds(value).filter(|wait| *wait <= MAX_WAIT).ok_or(Violation::malformed(detail))
    });
    Ok(Patience { block, max_wait: max_wait.transpose()? })
}

/// Taken for no scope, or for one of two, a request would go to an agent that its application did not mean.
fn check_scope(head: &RequestHead<'_, '_>) -> Result<(), Violation> {
    match once(head, "Slime-Scope", "Slime-Scope is given twice; a request has one scope")? {
        Some(scope) if scope.is_empty() || core::str::from_utf8(scope).is_err() => {
            Err(Violation::malformed("Slime-Scope is not a scope"))
        }
        Some(_) | None => Ok(()),
    }
}

/// How its expectation goes on, and who waits for the `100 Continue`. A body that fits into what is always
/// held is asked for here.
fn expectation(head: &RequestHead<'_, '_>) -> (ExpectForward, Expectation) {
    let fits = match head.framing {
        Framing::None => true,
        Framing::Length(length) => length <= FREE as u64,
        Framing::Chunked | Framing::UntilClose => false,
    };
    match (expects(head), fits) {
        (_, true) => (ExpectForward::Drop, Expectation::None),
        (true, false) => (ExpectForward::EndToEnd, Expectation::OfClient),
        (false, false) => (ExpectForward::Connect, Expectation::Ours),
    }
}

/// HTTP/1.0 knows no expectations (RFC 9110 section 10.1.1).
fn expects(head: &RequestHead<'_, '_>) -> bool {
    head.expect_continue && head.version == Version::Http11
}

/// The value of a field that may be given once.
///
/// # Errors
/// 400 with this detail if there are several.
fn once<'b>(
    head: &RequestHead<'_, 'b>,
    name: &str,
    twice: &'static str,
) -> Result<Option<&'b [u8]>, Violation> {
    let mut values = head.fields.named(name);
    let value = values.next();
    if values.next().is_some() { Err(Violation::malformed(twice)) } else { Ok(value) }
}
