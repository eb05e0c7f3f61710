//! Several processes in one thread: who runs next, and when the clock moves.

use std::cell::RefCell;
use std::rc::Rc;

use slime::proto::tables::timer::Mono;

use crate::calls::SimNet;
use crate::rng::Rng;
use crate::world::{MILLI, Micros, SECOND, Weather, World};

/// A process of the simulation: the real shell, or a script.
pub(crate) trait Process {
    /// Polls once without waiting, and handles what there is. The exit code once the process has ended.
    fn turn(&mut self) -> Option<u8>;

    /// When it wants to be run although nothing happens; a time in the past if it has more to do at once.
    fn next_timeout(&self) -> Option<Mono>;
}

/// Turns in which a process may achieve nothing: in a row at one instant, and within a virtual second.
const MAX_IDLE_AT_ONCE: u32 = 16;
const MAX_IDLE_IN_A_SECOND: u32 = 200;

/// How far the clock may run ahead of a process that has something to do, as on a loaded machine; less where
/// every byte is waited for.
const MAX_LAG: Micros = 50 * MILLI;
const MAX_NARROW_LAG: Micros = MILLI / 2;

struct Running {
    number: usize,
    process: Box<dyn Process>,
    exit: Option<u8>,
    frozen_until: Micros,
    idle: Idle,
}

/// Turns that achieved nothing, to notice a process that spins.
#[derive(Default)]
struct Idle {
    instant: Micros,
    at_once: u32,
    second: Micros,
    in_second: u32,
}

/// The processes and their world.
pub(crate) struct Simulation {
    pub(crate) world: Rc<RefCell<World>>,
    processes: Vec<Running>,
    rng: Rng,
    /// How often, in a thousand cases, the clock runs ahead, and how far.
    lag: u64,
    most: Micros,
    /// Whether a process that was stopped finds its poll interrupted.
    pub(crate) interrupts: bool,
}

impl Simulation {
    pub(crate) fn new(seed: u64, weather: Weather) -> Self {
        let mut rng = Rng::new(seed, "scheduler");
        let lag = rng.pick(&[0, 100, 400]);
        let most = if weather.narrow { MAX_NARROW_LAG } else { MAX_LAG };
        Self {
            world: Rc::new(RefCell::new(World::new(seed, weather))),
            processes: Vec::new(),
            rng,
            lag,
            most,
            interrupts: false,
        }
    }

    /// A place in the world for a process; [`Simulation::start`] gives it life.
    pub(crate) fn net(&self, name: &str) -> SimNet {
        SimNet::new(&self.world, name)
    }

    /// Runs `process` on the host `number`, in place of what ran there before.
    pub(crate) fn start(&mut self, number: usize, process: impl Process + 'static) {
        assert!(self.processes.iter().all(|it| it.number != number), "kill it first");
        self.processes.push(Running {
            number,
            process: Box::new(process),
            exit: None,
            frozen_until: 0,
            idle: Idle::default(),
        });
    }

    /// Ends a process as SIGKILL does.
    pub(crate) fn kill(&mut self, number: usize) {
        self.world.borrow_mut().end_process(number, true);
        self.processes.retain(|it| it.number != number);
    }

    /// Stops a process for a while, as SIGSTOP or a starved machine does; the kernel goes on for it.
    pub(crate) fn freeze(&mut self, number: usize, for_time: Micros) {
        let until = self.now() + for_time;
        self.processes.iter_mut().filter(|it| it.number == number).for_each(|it| it.frozen_until = until);
        let mut world = self.world.borrow_mut();
        let now = world.clock;
        world.hosts[number].stopped.push((now, until));
        world.hosts[number].interrupted = self.interrupts;
    }

    /// When a process that was stopped goes on; a time in the past if it was not.
    pub(crate) fn frozen_until(&self, number: usize) -> Micros {
        self.processes.iter().find(|it| it.number == number).map_or(0, |it| it.frozen_until)
    }

    pub(crate) fn now(&self) -> Micros {
        self.world.borrow().clock
    }

    /// How a process ended; `None` while it runs.
    pub(crate) fn exit_code(&self, number: usize) -> Option<u8> {
        self.processes.iter().find(|it| it.number == number).and_then(|it| it.exit)
    }

    /// Runs until the condition holds, or until this time, or until nothing will ever happen again. Whether
    /// it holds.
    pub(crate) fn run_until(&mut self, time: Micros, mut done: impl FnMut(&Self) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            if !self.step(time) {
                return done(self);
            }
        }
    }

    /// One turn of one process, or one move of the clock. False if the clock would pass `time`.
    fn step(&mut self, time: Micros) -> bool {
        let now = self.now();
        self.world.borrow_mut().advance_to(now);
        let runnable: Vec<usize> = (0..self.processes.len())
            .filter(|index| self.is_runnable(&self.processes[*index], now))
            .collect();
        let next = self.world.borrow().next_delivery();
        if !runnable.is_empty() {
            // A process that is slow to run finds several changes merged into one event.
            if let Some(at) = next
                && at <= (now + self.most).min(time)
                && self.rng.chance(self.lag)
            {
                self.world.borrow_mut().advance_to(at);
                return true;
            }
            let index = self.rng.pick(&runnable);
            let dozing = self.world.borrow().weather.dozing;
            if dozing > 0 && self.rng.chance(dozing) {
                let longest = self.rng.pick(&[MILLI, 5 * MILLI, 100 * MILLI, 400 * MILLI]);
                self.processes[index].frozen_until = now + self.rng.within(1, longest);
                return true;
            }
            self.run(index, now);
            return true;
        }
        let timeouts = self.processes.iter().filter_map(|it| {
            let timeout =
                it.process.next_timeout().filter(|_| it.exit.is_none() && it.frozen_until <= now)?;
            timeout.0.checked_mul(MILLI)
        });
        let thaws = self.processes.iter().map(|it| it.frozen_until).filter(|until| *until > now);
        match timeouts.chain(thaws).chain(next).min() {
            Some(at) if at <= time => {
                self.world.borrow_mut().advance_to(at.max(now));
                true
            }
            Some(_) | None => {
                self.world.borrow_mut().advance_to(time.min(SECOND * 1_000_000));
                false
            }
        }
    }

    fn is_runnable(&self, it: &Running, now: Micros) -> bool {
        it.exit.is_none()
            && it.frozen_until <= now
            && (self.world.borrow().has_events(it.number)
                || it.process.next_timeout().is_some_and(|timeout| timeout.0 <= now / MILLI))
    }

    fn run(&mut self, index: usize, now: Micros) {
        let it = &mut self.processes[index];
        let before = {
            let mut world = self.world.borrow_mut();
            world.begin_turn(it.number);
            world.hosts[it.number].progress
        };
        it.exit = it.process.turn();
        let world = self.world.borrow();
        let host = &world.hosts[it.number];
        it.idle.count(now, host.progress > before);
        assert!(it.idle.at_once <= MAX_IDLE_AT_ONCE, "{} spins at {now}", host.name);
        // Applications and upstreams, whose scripts look at the clock, may.
        let is_script = host.name.starts_with("client") || host.name.starts_with("upstream");
        assert!(
            is_script || it.idle.in_second <= MAX_IDLE_IN_A_SECOND,
            "{} runs for nothing around {now}",
            host.name
        );
        drop(world);
        if it.exit.is_some() {
            self.world.borrow_mut().end_process(self.processes[index].number, false);
        }
    }
}

impl Idle {
    fn count(&mut self, now: Micros, progress: bool) {
        if self.instant != now || progress {
            (self.instant, self.at_once) = (now, 0);
        }
        if self.second != now / SECOND {
            (self.second, self.in_second) = (now / SECOND, 0);
        }
        if !progress {
            self.at_once += 1;
            self.in_second += 1;
        }
    }
}
