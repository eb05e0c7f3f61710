//! A timer that wakes the loop.
//!
//! A timeout that is handed to epoll_wait(2) is set up and taken down again by the kernel each time the loop
//! sleeps, which costs a small request 7 % of its CPU time. The deadlines of the loop hardly ever move
//! forward: one timer, set anew only where the next deadline is earlier than what it is set to, costs next to
//! nothing. It rings too early at times; then nothing is due yet.

use core::time::Duration;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::proto::tables::timer::Mono;

/// One timer on `CLOCK_MONOTONIC` (timerfd_create(2)).
pub(super) struct Alarm {
    timer: OwnedFd,
    /// What the timer is set to, unless it has rung.
    at: Option<Mono>,
}

impl Alarm {
    /// An alarm that rings by readiness of `token`.
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // It is never read: each setting makes a new edge possible.
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { timer, at: None })
    }

    /// Sees to it that the alarm rings `delay` after `now`, which is not zero, or before.
    pub(super) fn ring_after(&mut self, now: Mono, delay: Duration) -> io::Result<()> {
        let at = now.after(delay);
        if self.at.is_some_and(|set| set <= at) {
            return Ok(());
        }
        let it_value = Timespec::try_from(delay).map_err(io::Error::other)?;
        let setting = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &setting)?;
        self.at = Some(at);
        Ok(())
    }

    /// It rang.
    pub(super) fn rang(&mut self) {
        self.at = None;
    }
}

#[cfg(test)]
mod tests {
    use mio::{Events, Poll};

    use super::*;

    const ALARM: Token = Token(7);

    fn wait(poll: &mut Poll, timeout: Option<Duration>) -> usize {
        let mut events = Events::with_capacity(8);
        poll.poll(&mut events, timeout).unwrap();
        events.iter().filter(|event| event.token() == ALARM).count()
    }

    #[test]
    fn it_rings_when_it_is_to_and_not_again() {
        let mut poll = Poll::new().unwrap();
        let mut alarm = Alarm::new(poll.registry(), ALARM).unwrap();
        for millis in [1, 20, 5] {
            alarm.ring_after(Mono(0), Duration::from_millis(millis)).unwrap();
            assert_eq!(wait(&mut poll, None), 1);
            alarm.rang();
            assert_eq!(wait(&mut poll, Some(Duration::from_millis(1))), 0);
        }
    }

    #[test]
    fn the_earliest_time_counts() {
        let mut poll = Poll::new().unwrap();
        let mut alarm = Alarm::new(poll.registry(), ALARM).unwrap();
        for (now, millis) in [(1000, 3_600_000), (2000, 30), (2010, 7_200_000), (2010, 20)] {
            alarm.ring_after(Mono(now), Duration::from_millis(millis)).unwrap();
        }
        assert_eq!(alarm.at, Some(Mono(2030)));
        assert_eq!(wait(&mut poll, None), 1);
        alarm.rang();
        // What was set before is forgotten; whoever still waits says so again.
        assert_eq!(wait(&mut poll, Some(Duration::ZERO)), 0);
        for delay in [Duration::from_millis(u64::MAX), Duration::from_secs(3600)] {
            alarm.ring_after(Mono(3000), delay).unwrap();
        }
        assert_eq!(alarm.at, Some(Mono(3_603_000)));
    }
}
