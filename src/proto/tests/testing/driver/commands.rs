//! How the commands of the core are carried out.

use super::super::wires::Wires;
use super::Driver;
use super::conn::{Ending, Frames, Held, Peer};
use crate::proto::seam::{Close, Command, Core, Why};
use crate::proto::tables::timer::Now;
use crate::proto::websocket::{Decoder, Encoder};

impl<C: Core> Driver<C> {
    pub(crate) fn obey(&mut self, wires: &mut Wires, now: Now) {
        loop {
            let commands = core::mem::take(self.core.commands());
            if commands.is_empty() && self.failed.is_empty() {
                return;
            }
            wires.moves += 1;
            for command in commands {
                self.carry_out(command, wires, now);
            }
            while let Some(key) = self.failed.pop() {
                self.fail(key, Why::Failed, wires, now);
            }
        }
    }

    fn carry_out(&mut self, command: Command, wires: &mut Wires, now: Now) {
        match command {
            Command::Dial { key, target } => self.dials.push((key, target)),
            Command::Send { key, bytes } => {
                if let Some(conn) = self.conns.get_mut(&key) {
                    assert!(conn.ending == Ending::No, "{key:?} is sent something after its end");
                    conn.output.extend(bytes);
                    self.flush(key, wires, now);
                }
            }
            Command::Pair { requester, responder, upto } => {
                assert!(self.conns.contains_key(&requester) && self.conns.contains_key(&responder));
                if let Some(conn) = self.conns.get_mut(&requester) {
                    assert!(
                        conn.peer.is_none() && !conn.held.bytes.is_empty(),
                        "{requester:?} holds nothing"
                    );
                    conn.peer = Some(Peer::Requester(responder));
                    (conn.held.sent, conn.held.upto) = (0, upto.unwrap_or(usize::MAX));
                }
                if let Some(conn) = self.conns.get_mut(&responder) {
                    assert!(conn.peer.is_none(), "{responder:?} is paired already");
                    conn.peer = Some(Peer::Responder { requester, written: false });
                }
                self.flush(responder, wires, now);
            }
            Command::SendHeld(key) => {
                if let Some(conn) = self.conns.get_mut(&key) {
                    conn.held.upto = usize::MAX;
                    if let Some(Peer::Requester(responder)) = conn.peer {
                        self.flush(responder, wires, now);
                    }
                }
            }
            Command::DropHeld(key) => {
                if let Some(conn) = self.conns.get_mut(&key) {
                    if conn.peer.is_some() && !conn.held.unsent().is_empty() {
                        conn.held.released = true;
                    } else {
                        conn.held = Held::default();
                    }
                }
            }
            Command::Unpair(key) => self.unpair(key),
            Command::Resume(key) => self.list(key),
            // No target of these tests has TLS.
            Command::Secure { .. } => {}
            Command::Finish(key) => {
                if let Some(conn) = self.conns.get_mut(&key)
                    && conn.ending == Ending::No
                {
                    conn.ending = Ending::Finish;
                    self.flush(key, wires, now);
                }
            }
            Command::Close(key, Close::Linger) => {
                self.unpair(key);
                if let Some(conn) = self.conns.get_mut(&key) {
                    let finished = conn.ending == Ending::Finished;
                    conn.ending = Ending::Linger { dropped: 0, finished };
                    conn.input.clear();
                    conn.listed = true;
                    self.flush(key, wires, now);
                }
            }
            Command::Close(key, how) => {
                self.unpair(key);
                self.dials.retain(|(other, _)| *other != key);
                match (self.conns.remove(&key), how) {
                    (Some(conn), Close::Reset) => wires.reset(conn.wire),
                    (Some(conn), Close::Now | Close::Linger) => conn.close(wires),
                    (None, _) => {}
                }
            }
            Command::Rekey { from, to } => {
                if let Some(mut conn) = self.conns.remove(&from) {
                    conn.listed = true;
                    assert!(self.conns.insert(to, conn).is_none(), "{to:?} is still there");
                }
            }
            Command::Frame { key, side } => {
                if let Some(conn) = self.conns.get_mut(&key) {
                    let outgoing = core::mem::take(&mut conn.output);
                    let frames = Frames {
                        decoder: Decoder::new(side),
                        encoder: Encoder::new(side),
                        outgoing,
                        end_said: false,
                    };
                    conn.frames = Some(Box::new(frames));
                    conn.listed = true;
                    let mut input = core::mem::take(&mut conn.input);
                    if conn.unwrap(&mut input).is_err() {
                        self.failed.push(key);
                    } else if let Some(conn) = self.conns.get_mut(&key) {
                        conn.input = input;
                    }
                }
            }
            Command::Exit(code) => self.exit = Some(code),
        }
    }
}
