//! slime: one address for many machines behind NAT.
//!
//! ```text
//! application --HTTP--> HUB <==tunnels dialled by== AGENT --HTTP--> UPSTREAM
//!                       (one public address)        (beside each upstream)
//! ```
//!
//! The hub accepts requests; agents dial out to it, keep tunnels open, and serve each request from their
//! upstream. A tunnel is an HTTP/1.1 connection whose roles were reversed by an upgrade: the hub is the
//! client on it, one exchange at a time. An idle tunnel is a free worker, and that is the whole of
//! dispatching; back-pressure is TCP's, cancelling is closing, and bodies are never wrapped.
//!
//! The [`manual`] is for those who run it. What follows is for those who change it.
//!
//! # Architecture
//!
//! ```text
//! main -> cli -> net -> proto          one way only
//! ```
//!
//! - [`proto`] is the sans-IO core: all decisions, no socket, no clock, no randomness of its own.
//!   [`proto::seam`] is how it meets the shell: the shell shows it bytes and events, it answers with steps
//!   and commands.
//!   - [`proto::http1`]: heads, framing, bodies, rewriting. One place derives the framing, everything asks
//!     it.
//!   - [`proto::exchange`]: the joint machine of a request and its responses, the same at hub and agent.
//!   - [`proto::hub`]: clients, tunnels, admission, held bodies and dispatch, over [`proto::hub::pool`] (who
//!     is connected, who is free, and whose turn it is), `proto::hub::classes` (which requests the same
//!     agents serve) and [`proto::hub::queue`] (who waits).
//!   - [`proto::agent`]: workers, links to the hub, serving, and the health of upstreams.
//!   - [`proto::admin`]: what operators, balancers and scrapers ask hub and agent about themselves.
//!   - [`proto::node`]: either of the two, with its admin side, so that the shell is compiled once.
//!   - [`proto::tunnel`]: what hub and agent say to each other. [`proto::websocket`]: the frames in which
//!     they may say it.
//!   - [`proto::ends`]: how requests end, in two letters and in words. [`proto::info`]: what an agent says of
//!     itself.
//!   - [`proto::trust`]: who may be an agent, and the comparison of passwords.
//!   - [`proto::notice`]: lines of the log that may repeat, once a minute of each kind.
//!   - [`proto::tables`]: typed keys with generations, the tables they index, FIFO lists, and lazy wake-ups.
//! - `net` is the I/O shell: `net::shell` (the event loop), `net::shell::flow` (how bytes move),
//!   `net::buffer` (borrowed blocks). The operating system is behind the trait `net::Net`; `net::sys` is the
//!   real one, `tests/simulation` the other.
//! - `page` is the status page, a document of its own; [`proto::admin`] hands it out, and what it shows.
//! - `cli` turns words into [`config`], once; nothing behind it parses a flag.
//!
//! ## Invariants
//!
//! - `proto` never names a socket, `net` never names an HTTP field.
//! - Bytes are forwarded as our own serialisation of what was judged; no head is ever copied through.
//! - Data lives in the state that needs it: a queued exchange has no tunnel, an idle client no buffer, and
//!   whether a connection can be used again is asked of the messages, not remembered.
//! - Every table, list, buffer and wait has a limit ([`config`]), and a deadline that lives in the state that
//!   waits.
//! - Nothing that arrives can panic: the release binary aborts on panic, and that would drop every tunnel.
//! - Nothing is allocated, logged or timed per request once a hub is warm.
//!
//! ## Deliberately absent
//!
//! HTTP/2 and HTTP/3, caching, compression, load-balancing policies beyond turns of idle workers, a database,
//! plug-ins, threads (but for name lookup), and a framing of our own.
//!
//! # Lexicon
//!
//! RFC 9110 and 9112 where they have a word, and the product's own:
//!
//! | Word | Meaning |
//! |---|---|
//! | client | the connection of an application to the hub (RFC 9110 section 3.3) |
//! | hub | the gateway that applications talk to (section 3.7) |
//! | agent | the intermediary beside an upstream; it dials out to the hub |
//! | upstream | the server that produces the answers (the origin server of section 3.6) |
//! | tunnel | a connection that an agent dialled, with its roles reversed. Not the blind relay that the RFC calls so: that is an upgraded exchange |
//! | worker | the right to have one request in flight at an upstream; it has at most one tunnel |
//! | exchange | one request and its responses |
//! | requester, responder | the two connections of an exchange, as one process sees them |
//! | inbound, outbound | toward the upstream, toward the client (section 3.7) |
//! | framing | how a body is delimited (RFC 9112 section 6) |
//! | agent token | what an agent proves itself with; "token" alone would also be mio's, and RFC 9110's |
//! | held | bytes of a request that are kept until an answer comes, so that it can be sent again |
//! | permit | one of the `--concurrent` exchanges that may be active at once |
//! | withdrawn | a connected agent that takes no work |
//! | light path | a path whose requests an agent serves beside its workers, on tunnels that take nothing else |
//! | lent | a worker whose tunnel carries a WebSocket or an event stream, while another one takes requests in its stead |
//! | profile | what an agent may serve: the scopes and scope paths of its token, and on tunnels for them its light paths |
//! | class | the requests that the same profiles serve |
//! | connected | an agent that has a ready or busy tunnel, or left or withdrew so lately that it is expected back (`--agent-grace`) |

// The core has no I/O because it has no library for it: the compiler holds that when it is built alone.
#![cfg_attr(not(any(feature = "net", feature = "fuzzing", test)), no_std)]

#[macro_use]
extern crate alloc;

#[cfg(feature = "net")]
pub mod cli;
pub mod config;
#[cfg(feature = "net")]
pub mod logging;
pub mod manual;
#[cfg(feature = "net")]
pub mod net;
#[cfg(feature = "net")]
pub mod page;
pub mod proto;
