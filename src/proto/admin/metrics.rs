//! What `/metrics` tells, in the text format of Prometheus, version 0.0.4.
//!
//! One table has the name, type, labels and help of each metric. A sample is written with the values of its
//! labels alone, so that a metric cannot have other labels than the table says. Labels come from what the
//! operator has named, and from enums: never from requests.

use alloc::string::String;
use core::fmt::Write as _;

use super::histogram::Histogram;

/// The type of the answer.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleName {
    /// The hub.
    Hub,
    /// The agent.
    Agent,
}

impl RoleName {
    /// Its name, as the label `role` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Agent => "agent",
        }
    }
}

/// The row of a metric in the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// The names of its labels, in order.
    pub labels: &'static [&'static str],
    /// What it tells.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $owner:ident $type:ident {
        $($variant:ident: $name:literal $kind:literal [$($label:literal),*] $help:literal;)+
    })+) => {
        /// A metric, by who knows it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Metric {
            $($(#[doc = $doc])+ $owner($type),)+
        }

        $(
            $(#[doc = $doc])+
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub enum $type {
                $(#[doc = $help] $variant,)+
            }
        )+

        /// All metrics, in the order in which they are told.
        pub const METRICS: &[Metric] = &[$($(Metric::$owner($type::$variant)),+),+];

        impl Metric {
            /// Its row in the table.
            pub const fn row(self) -> Row {
                match self {
                    $($(Self::$owner($type::$variant) => {
                        Row { name: $name, kind: $kind, labels: &[$($label),*], help: $help }
                    })+)+
                }
            }
        }
    };
}

metrics! {
    /// What the admin side knows itself.
    Own OwnMetric {
        BuildInfo: "slime_build_info" "gauge" ["role", "version"]
            "Always 1.";
        Ready: "slime_ready" "gauge" []
            "Whether /readyz says ready.";
        Draining: "slime_draining" "gauge" []
            "Whether the process is ending.";
        AdminRefusals: "slime_admin_refusals_total" "counter" ["reason"]
            "Requests to the admin listener that were refused.";
        LogLost: "slime_log_lines_dropped_total" "counter" ["log"]
            "Lines that nobody took in time.";
        CertificateExpiry: "slime_tls_certificate_expiry_timestamp_seconds" "gauge" []
            "When the certificate ends; absent without one.";
        ProcessStart: "process_start_time_seconds" "gauge" []
            "When the process began, in seconds since 1970.";
    }
    /// What the machine knows of the process.
    Process ProcessMetric {
        Cpu: "process_cpu_seconds_total" "counter" []
            "Time on processors that the process has had.";
        Memory: "process_resident_memory_bytes" "gauge" []
            "Memory of the machine that the process has.";
        MaxFds: "process_max_fds" "gauge" []
            "How many files the process may have open.";
        OpenFds: "process_open_fds" "gauge" []
            "How many files the process has open; absent before Linux 6.2.";
    }
    /// What the hub knows.
    Hub HubMetric {
        Requests: "slime_hub_requests_total" "counter" ["app", "outcome"]
            "Requests that ended.";
        Responses: "slime_hub_responses_total" "counter" ["by", "code"]
            "Final response heads; 1xx are upgrades.";
        Finishing: "slime_hub_finishing_responses" "gauge" []
            "Responses whose worker is free and whose client still takes them.";
        OldestWait: "slime_hub_oldest_wait_seconds" "gauge" []
            "How long the oldest has waited; 0 without one.";
        QueueWait: "slime_hub_queue_wait_seconds" "histogram" ["result"]
            "From the complete request to a worker, or to giving up.";
        ResponseHead: "slime_hub_response_head_seconds" "histogram" []
            "From the worker to the final response head.";
        RequestTime: "slime_hub_request_seconds" "histogram" []
            "From the request head to the end of a complete response. Upgrades are left out.";
        Upgrades: "slime_hub_upgrades_total" "counter" []
            "Connections that were upgraded.";
        UpstreamTime: "slime_hub_upstream_seconds_total" "counter" ["outcome"]
            "Time that workers were held, by what became of it, counted at the end.";
        Retries: "slime_hub_retries_total" "counter" ["reason"]
            "Requests that were given to another worker.";
        Agents: "slime_hub_agents" "gauge" ["agent"]
            "Connected agents.";
        Workers: "slime_hub_workers" "gauge" ["agent", "state"]
            "Workers.";
        Limit: "slime_hub_limit" "gauge" ["limit"]
            "The cap.";
        LimitUsed: "slime_hub_limit_used" "gauge" ["limit"]
            "What is used of the cap.";
        QueuePaused: "slime_hub_queue_paused" "gauge" []
            "Whether the queue is paused.";
        Actions: "slime_hub_actions_total" "counter" ["action"]
            "Actions of operators.";
    }
    /// What the agents of a process know.
    Agent AgentMetric {
        Tunnels: "slime_agent_hub_tunnels" "gauge" ["hub", "state"]
            "Tunnels.";
        UpstreamUp: "slime_agent_upstream_up" "gauge" ["upstream"]
            "Whether it is well.";
        Workers: "slime_agent_workers" "gauge" ["upstream", "state"]
            "Workers.";
    }
}

/// The samples of one metric, written behind what a slice has already.
pub struct Samples<'a> {
    row: Row,
    text: &'a mut String,
    limit: usize,
    is_begun: bool,
}

impl<'a> Samples<'a> {
    /// Those of this metric, in a slice of so many bytes. `is_begun` if some of them were in the last slice.
    pub(super) fn new(metric: Metric, text: &'a mut String, limit: usize, is_begun: bool) -> Self {
        Self { row: metric.row(), text, limit, is_begun }
    }

    /// Those of this metric in one piece. For tests.
    #[cfg(test)]
    pub(crate) fn whole(metric: Metric, text: &'a mut String) -> Self {
        Self::new(metric, text, usize::MAX, false)
    }

    /// Whether the slice has as much as it should. There is still room for some labels of one name.
    pub fn is_full(&self) -> bool {
        self.text.len() >= self.limit
    }

    /// A whole number, with the values of the labels.
    pub fn add(&mut self, labels: &[&str], value: u64) {
        self.begin("", labels, None);
        // Writing to a string does not fail.
        let _ = writeln!(self.text, " {value}");
    }

    /// A time in seconds, of which milliseconds are given.
    pub fn add_millis(&mut self, labels: &[&str], millis: u64) {
        self.write_millis("", labels, millis);
    }

    /// A histogram, whole.
    pub fn add_histogram<const N: usize>(&mut self, labels: &[&str], histogram: &Histogram<N>) {
        for (bound, count) in histogram.at_most().chain([("+Inf", histogram.count())]) {
            self.begin("_bucket", labels, Some(bound));
            let _ = writeln!(self.text, " {count}");
        }
        self.write_millis("_sum", labels, histogram.sum_ms());
        self.begin("_count", labels, None);
        let _ = writeln!(self.text, " {}", histogram.count());
    }

    fn write_millis(&mut self, suffix: &str, labels: &[&str], millis: u64) {
        self.begin(suffix, labels, None);
        let _ = writeln!(self.text, " {}.{:03}", millis / 1000, millis % 1000);
    }

    /// A sample up to its value. `bound` is that of a bucket.
    fn begin(&mut self, suffix: &str, values: &[&str], bound: Option<&str>) {
        let Row { name, kind, labels, help } = self.row;
        debug_assert_eq!(labels.len(), values.len(), "{name}");
        if !self.is_begun {
            self.is_begun = true;
            let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        }
        self.text.push_str(name);
        self.text.push_str(suffix);
        let bound = bound.map(|bound| (&"le", bound));
        let mut is_open = false;
        for (index, (label, value)) in labels.iter().zip(values.iter().copied()).chain(bound).enumerate() {
            is_open = true;
            let _ = write!(self.text, "{}{label}=\"", if index == 0 { '{' } else { ',' });
            for character in value.chars() {
                match character {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    _ => self.text.push(character),
                }
            }
            self.text.push('"');
        }
        if is_open {
            self.text.push('}');
        }
    }
}
