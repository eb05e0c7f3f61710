//! What a run is about. A third of the runs are about anything; each of the others crowds one part of the
//! design with what is rare otherwise, so that a fault there meets many chances to show.

use std::time::Duration;

use slime::config::OnCancel;

use crate::plan::{Exchange, Fault, Framing, How, Last, Mood, Pace, When};
use crate::rng::Rng;
use crate::setting::Setting;
use crate::world::{MILLI, SECOND, Weather};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Theme {
    Anything,
    /// Connections break while a request is on them that must not run twice.
    Ambush,
    /// Applications leave, and others take their place.
    Leaving,
    /// Uploads that take long, and are answered before they are complete.
    Uploads,
    /// Upgraded connections of which one side ends long before the other.
    Upgrades,
    /// Responses that are cut short.
    Cuts,
    /// Bodies that go through pipes.
    Bulk,
    /// More applications than there are workers, permits and places in the queue.
    Crowd,
}

impl Theme {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let special = [
            Self::Ambush,
            Self::Ambush,
            Self::Leaving,
            Self::Uploads,
            Self::Upgrades,
            Self::Cuts,
            Self::Bulk,
            Self::Crowd,
        ];
        if rng.chance(350) { Self::Anything } else { rng.pick(&special) }
    }

    /// How many applications there are, and how much each of them asks.
    pub(crate) fn crowd(self, rng: &mut Rng) -> (usize, usize) {
        match self {
            Self::Crowd => (rng.length(8, 20), 2),
            Self::Bulk => (rng.length(1, 3), 2),
            Self::Leaving | Self::Ambush | Self::Uploads => (rng.length(4, 10), 3),
            Self::Anything | Self::Upgrades | Self::Cuts => (rng.length(1, 6), 5),
        }
    }

    pub(crate) fn change_weather(self, mood: Mood, weather: &mut Weather, rng: &mut Rng) {
        match self {
            Self::Ambush if mood == Mood::Stormy => weather.ambush = rng.pick(&[200, 500]),
            Self::Uploads | Self::Cuts if mood == Mood::Stormy => weather.ambush = rng.pick(&[0, 0, 200]),
            Self::Bulk => (weather.narrow, weather.wide) = (false, true),
            Self::Anything
            | Self::Ambush
            | Self::Leaving
            | Self::Uploads
            | Self::Upgrades
            | Self::Cuts
            | Self::Crowd => {}
        }
    }

    pub(crate) fn change_setting(self, mood: Mood, setting: &mut Setting, rng: &mut Rng) {
        if mood == Mood::Calm {
            // A handshake of TLS takes its time where every byte does.
            setting.hub.startup_grace = Duration::from_secs(60);
        }
        if self == Self::Bulk {
            setting.agents.iter_mut().for_each(|agent| agent.is_tls = rng.chance(500));
        }
        if !matches!(self, Self::Leaving | Self::Uploads | Self::Crowd | Self::Ambush) {
            return;
        }
        let drains = self == Self::Leaving && rng.chance(500);
        for agent in &mut setting.agents {
            agent.config.workers = 1;
            agent.is_tls &= self != Self::Ambush;
            if drains {
                agent.config.on_cancel = OnCancel::Drain;
            }
        }
        if self == Self::Crowd {
            setting.hub.concurrent = rng.pick(&[1, 2, 5, 1024]);
            setting.hub.queue_timeout = Duration::from_secs(3600);
            if mood == Mood::Stormy {
                setting.hub.queue_depth = rng.pick(&[1, 3, 8, 1024]);
            }
        }
    }

    /// Makes of an exchange what this is about. `most` bounds the lengths of bodies.
    pub(crate) fn change(self, mood: Mood, it: &mut Exchange, most: usize, rng: &mut Rng) {
        let stormy = mood == Mood::Stormy;
        match self {
            Self::Anything => {}
            Self::Ambush => {
                if rng.chance(700) {
                    it.make_upload(rng.pick(&["POST", "PATCH"]), rng.length(1, 300), rng);
                    it.request = Framing::Length;
                    (it.fault, it.early, it.interims) = (None, None, 0);
                    it.idempotency_key = false;
                }
                it.leave = None;
                it.think = rng.pick(&[0, 300 * MILLI, SECOND, 5 * SECOND]);
            }
            Self::Leaving => {
                if it.leave.is_none() && rng.chance(500) {
                    it.leave = Some((draw_when(it, rng), rng.pick(&[How::Fin, How::Close, How::Reset])));
                }
                it.think = rng.pick(&[0, MILLI, SECOND, 20 * SECOND]);
            }
            Self::Uploads => {
                it.make_upload(rng.pick(&["PUT", "POST"]), rng.length(most.min(2000), most.min(60_000)), rng);
                it.early = rng.chance(700).then(|| rng.length(0, it.request_length / 4));
                it.early_close &= stormy;
                it.think = rng.pick(&[0, MILLI, 300 * MILLI]);
                let pace = Pace { bytes: it.request_length / 30 + 1, every: rng.pick(&[20, 200]) * MILLI };
                match rng.within(0, 2) {
                    0 => it.write_pace = Some(pace),
                    1 => it.upstream_pace = Some(pace),
                    _ => {}
                }
                if stormy && rng.chance(400) {
                    (it.status, it.response_length) = (200, rng.length(500, 3000));
                    it.response = rng.pick(&[Framing::UntilClose, Framing::UntilClose, Framing::Chunked]);
                    it.cut(rng.length(150, 2500), How::Reset);
                }
            }
            Self::Upgrades => {
                if rng.chance(700) {
                    it.make_upgrade(rng);
                    it.response_length = rng.length(0, most.min(5000));
                }
                if !stormy {
                    it.leave = None;
                }
            }
            Self::Cuts => {
                it.response = rng.pick(&[Framing::Chunked, Framing::UntilClose, Framing::Length]);
                it.response_length = rng.length(100, most.min(20_000));
                it.status = 200;
                it.http10 = it.request != Framing::Chunked && !it.expect && rng.chance(400);
                if it.request == Framing::Upgrade {
                    it.request = Framing::None;
                    it.request_length = 0;
                }
                if rng.chance(500) {
                    let how = rng.pick(&[How::Fin, How::Close, How::Reset]);
                    it.leave = None;
                    it.cut(rng.length(0, it.response_length + 200), how);
                    if !stormy && rng.chance(300) {
                        it.fault = Some(Fault::DropRequest(rng.length(0, it.request_length), How::Reset));
                    }
                }
            }
            Self::Bulk => {
                let length = rng.length(250_000, 600_000);
                if rng.chance(400) {
                    it.make_upload("PUT", length, rng);
                    it.upstream_pace = None;
                } else if !matches!(it.response, Framing::None | Framing::Upgrade) && it.method != "HEAD" {
                    it.response_length = length;
                    it.read_pace = it.read_pace.map(|pace| Pace { bytes: length / 20, ..pace });
                }
            }
            Self::Crowd => {
                it.write_pace = None;
                it.read_pace = None;
                it.think = rng.pick(&[0, MILLI, 50 * MILLI, SECOND]);
            }
        }
        if let Some(Fault::CutResponse(at, how)) = it.fault {
            it.cut(at, how);
        }
    }
}

impl Exchange {
    /// A GET that is answered at once.
    pub(crate) fn make_plain(&mut self) {
        (self.method, self.http10, self.expect, self.idempotency_key) = ("GET", false, false, false);
        (self.request, self.request_length, self.write_pace) = (Framing::None, 0, None);
        (self.status, self.response, self.response_length) = (200, Framing::Length, 0);
        (self.interims, self.think, self.close, self.early) = (0, 0, None, None);
        (self.last, self.last_pause) = (Last::Nobody, 0);
    }

    pub(crate) fn make_upload(&mut self, method: &'static str, length: usize, rng: &mut Rng) {
        if self.request == Framing::Upgrade {
            self.status = 200;
            self.response = Framing::Length;
            (self.last, self.last_pause) = (Last::Nobody, 0);
        }
        self.method = method;
        self.http10 = false;
        self.request = rng.pick(&[Framing::Length, Framing::Chunked]);
        self.request_length = length;
        self.write_pace = None;
        self.early = self.early.map(|bytes| bytes.min(length));
        if let Some(Fault::DropRequest(at, how)) = self.fault {
            self.fault = Some(Fault::DropRequest(at.min(length), how));
        }
    }

    fn make_upgrade(&mut self, rng: &mut Rng) {
        self.method = "GET";
        self.http10 = false;
        self.expect = false;
        self.idempotency_key = false;
        self.request = Framing::Upgrade;
        self.request_length = rng.length(0, 3000);
        self.status = 101;
        self.response = Framing::Upgrade;
        self.interims = 0;
        self.early = None;
        self.last = rng.pick(&[Last::Nobody, Last::Client, Last::Client, Last::Upstream, Last::Upstream]);
        self.last_pause = rng.pick(&[0, 0, SECOND, 40 * SECOND]);
    }

    /// The upstream cuts its response after so many bytes. A FIN is the regular end of some.
    fn cut(&mut self, at: usize, how: How) {
        let how = if self.is_until_close() { How::Reset } else { how };
        self.fault = Some(Fault::CutResponse(at, how));
    }
}

fn draw_when(it: &Exchange, rng: &mut Rng) -> When {
    match rng.within(0, 3) {
        0 => When::Sent(rng.length(0, it.request_length + 150)),
        1 => When::Received(rng.length(0, it.response_length + 150)),
        _ => When::Passed(rng.pick(&[MILLI, 100 * MILLI, 2 * SECOND, 30 * SECOND])),
    }
}
