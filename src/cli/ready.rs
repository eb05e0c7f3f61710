//! `slime ready`: whether hub or agent can take work, for health checks and scripts.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use super::args::Ready;
use super::ask::{Deadline, Place, ask};
use super::normalise::Normalised;
use super::{Failure, print};

/// Between two attempts with `--wait`.
const PAUSE: Duration = Duration::from_millis(200);

/// Asks, until the answer is yes or the time of `--wait` is over, and prints the last answer.
pub(super) fn run(
    args: &Ready,
    given: &Normalised,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<u8, Failure> {
    if args.live && args.agents.is_some() {
        return Err(Failure::Usage("--live does not ask for agents: leave --agents out".into()));
    }
    let path = match args.agents {
        _ if args.live => "/healthz".to_owned(),
        Some(agents) => format!("/readyz?agents={agents}"),
        None => "/readyz".to_owned(),
    };
    let until = Deadline::after(args.wait.unwrap_or_default());
    loop {
        // A process that is starting has no socket yet.
        let answer = Place::find(args.admin.as_deref(), given, &environment).and_then(|place| {
            let answer = ask(&place, &path)?;
            match answer.status {
                200 | 503 => Ok(answer),
                status => Err(Failure::Runtime(format!(
                    "{place} answered {status}: it is no admin address of slime"
                ))),
            }
        });
        if matches!(&answer, Ok(answer) if answer.status == 200)
            || matches!(&answer, Err(Failure::Usage(_)))
            || until.time_left().is_zero()
        {
            let answer = answer?;
            print(&format!("{}\n", shown(&answer.text)))?;
            return Ok(u8::from(answer.status != 200));
        }
        thread::sleep(PAUSE.min(until.time_left()));
    }
}

/// The first line, without what a terminal would obey.
fn shown(text: &str) -> String {
    let mut line = String::new();
    for character in text.lines().next().unwrap_or_default().chars() {
        if character.is_ascii() && !character.is_ascii_control() {
            line.push(character);
        } else {
            // Writing to a string does not fail.
            let _ = write!(line, "{}", character.escape_unicode());
        }
    }
    line
}
