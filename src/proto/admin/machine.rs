//! What the admin side tells of the machine and of the process, beside what hub and agent know.

use alloc::string::String;
use alloc::vec::Vec;

use log::Level;

use super::attention::{Attention, Severity};
use super::metrics::{ProcessMetric, Samples};
use super::status::Json;

/// What the machine knows of the process. It is asked only while somebody asks the admin side.
pub trait Machine: Sync {
    /// The last lines of the log, the newest one first.
    fn log_lines(&self) -> Vec<LogLine>;

    /// Lines of the log that nobody took in time, since the start.
    fn lost_lines(&self) -> u64;

    /// What the process uses now.
    fn usage(&self) -> Usage;
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// In milliseconds since 1970.
    pub at: u64,
    /// How grave it is.
    pub level: Level,
    /// What it says. A long one is cut.
    pub text: String,
}

/// What a process uses. What the system does not tell is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time on a processor, in milliseconds.
    pub cpu_ms: Option<u64>,
    /// Memory that it has, in bytes.
    pub resident_bytes: Option<u64>,
    /// The most descriptors that it may open.
    pub max_fds: Option<u64>,
    /// Those that are open.
    pub open_fds: Option<u64>,
}

/// What a hub is for those who come to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Front {
    /// Where applications and agents are taken.
    pub listeners: Vec<Listening>,
    /// The line that runs an agent of it.
    pub join_command: String,
}

/// An address where something is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Address and port.
    pub address: String,
    /// Whether TLS is spoken there.
    pub is_tls: bool,
}

/// A certificate that is shown to whoever connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// What `--hub-pin` names it by.
    pub pin: String,
    /// When it ends, in seconds since 1970, if it does.
    pub expires: Option<u64>,
}

/// Three days and two weeks: a certificate that ends within the latter should have been renewed.
const GRAVE: u64 = 3 * 86_400;
const SOON: u64 = 14 * 86_400;
/// 2024-01-01: clocks that are before it were never set.
const FIRST_DAY: u64 = 1_704_067_200;

/// Tells how the hub is reached.
pub(super) fn write_front(json: &mut Json<'_>, front: &Front) {
    json.key("listeners").open('[');
    for Listening { address, is_tls } in &front.listeners {
        json.open('{');
        json.key("address").text(address);
        json.key("tls").flag(*is_tls);
        json.close('}');
    }
    json.close(']');
    json.key("join_command").text(&front.join_command);
}

/// Tells what whoever connects by TLS is shown.
pub(super) fn write_certificate(json: &mut Json<'_>, certificate: Option<&Certificate>) {
    let Some(Certificate { pin, expires }) = certificate else {
        json.key("tls").null();
        return;
    };
    json.key("tls").open('{');
    json.key("pin").text(pin);
    json.key("expires_at").maybe(expires.map(|at| at.saturating_mul(1000)));
    json.close('}');
}

/// Tells the last lines of the log.
pub(super) fn write_log(json: &mut Json<'_>, machine: Option<&dyn Machine>) {
    let Some(machine) = machine else {
        json.key("log").null();
        return;
    };
    json.key("log").open('[');
    for LogLine { at, level, text } in machine.log_lines() {
        json.open('{');
        json.key("at").number(at);
        json.key("level").text(match level {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info | Level::Debug | Level::Trace => "info",
        });
        json.key("text").text(text);
        json.close('}');
    }
    json.close(']');
}

/// What is wrong with the certificate and the clock. `unix` is the time in seconds since 1970.
pub(super) fn attention(certificate: Option<&Certificate>, unix: u64) -> Vec<Attention> {
    let mut all = Vec::new();
    if let Some(expires) = certificate.and_then(|certificate| certificate.expires) {
        let left = expires.saturating_sub(unix);
        if left == 0 {
            all.push(Attention::new("certificate_expires", Severity::Bad, "The certificate has ended."));
        } else if left < SOON {
            let (days, hours) = (left / 86_400, left / 3600);
            let text = match (days, hours) {
                (2.., _) => format!("The certificate ends in {days} days."),
                (_, 2..) => format!("The certificate ends in {hours} hours."),
                (_, _) => format!("The certificate ends in {} minutes.", left / 60),
            };
            let severity = if left < GRAVE { Severity::Bad } else { Severity::Warn };
            all.push(Attention::new("certificate_expires", severity, text));
        }
    }
    if unix < FIRST_DAY {
        all.push(Attention::new("clock_unset", Severity::Warn, "The clock of this machine is not set."));
    }
    all
}

/// Adds the sample of a metric of the process, if the machine tells it.
pub(super) fn write_usage(metric: ProcessMetric, machine: Option<&dyn Machine>, samples: &mut Samples<'_>) {
    let Some(machine) = machine else { return };
    let Usage { cpu_ms, resident_bytes, max_fds, open_fds } = machine.usage();
    let value = match metric {
        ProcessMetric::Cpu => {
            if let Some(millis) = cpu_ms {
                samples.add_millis(&[], millis);
            }
            return;
        }
        ProcessMetric::Memory => resident_bytes,
        ProcessMetric::MaxFds => max_fds,
        ProcessMetric::OpenFds => open_fds,
    };
    if let Some(value) = value {
        samples.add(&[], value);
    }
}
