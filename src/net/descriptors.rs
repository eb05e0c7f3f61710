//! How many descriptors a process needs, and what it does with fewer.

use log::{Level, warn};

use crate::config::{AgentConfig, HubConfig};

/// Descriptors beside those of clients, tunnels and upstreams: those of 32 pipes (`pipes.rs`), the standard
/// ones, listeners, epoll, signals, name lookup, files, and connections that are being ended.
const RESERVED_FILES: usize = 128;
/// Lowers the caps to what the process has descriptors for. What is to be said then.
pub(super) fn fit_hub(config: &mut HubConfig, raise: impl FnOnce(u64) -> u64) -> Option<(Level, String)> {
    let HubConfig { max_clients, max_tunnels, .. } = *config;
    let wanted = max_clients + config.newcomers() + max_tunnels + RESERVED_FILES;
    let (got, left) = fall_short(wanted, raise)?;
    // Who asked for more than there is should hear of it; the defaults are only meant to be enough.
    let default = HubConfig::default();
    let is_asked = (max_clients, max_tunnels) != (default.max_clients, default.max_tunnels);
    let level = if is_asked { Level::Warn } else { Level::Info };
    // Each keeps its share.
    config.max_tunnels = (left * max_tunnels / (max_clients + max_tunnels)).clamp(1, max_tunnels);
    let left = left.saturating_sub(config.max_tunnels);
    // The newcomers' share is a sixteenth of the others'.
    config.max_clients = (left * 16 / 17).min(left.saturating_sub(4)).clamp(1, max_clients);
    let line = format!(
        "only {got} files can be open, and --max-clients {max_clients} with --max-tunnels {max_tunnels} needs {wanted}: the limits \
         are now {} clients and {} tunnels; {}",
        config.max_clients,
        config.max_tunnels,
        how_to_raise(wanted)
    );
    Some((level, line))
}

/// As [`fit_hub`], for an agent: each worker has a tunnel and a connection to its upstream.
pub(super) fn fit_agent(config: &mut AgentConfig, raise: impl FnOnce(u64) -> u64) {
    let AgentConfig { workers, extra_upgrades, extra_streams, .. } = *config;
    let upstreams = config.upstreams.len().max(1);
    let workers_each = config.tunnels() as usize;
    let wanted = upstreams * (2 * workers_each + 1) + RESERVED_FILES;
    let Some((got, left)) = fall_short(wanted, raise) else { return };
    let most = u32::try_from((left / upstreams).saturating_sub(1) / 2).unwrap_or(u32::MAX);
    let most = most.saturating_sub(config.light_tunnels()).max(1);
    config.workers = workers.min(most);
    config.extra_upgrades = extra_upgrades.min(most - config.workers);
    config.extra_streams = extra_streams.min(most - config.workers - config.extra_upgrades);
    warn!(
        "only {got} files can be open, and {workers_each} workers for each upstream need {wanted}: the limits are now {} workers, {} extra \
         upgrades and {} extra streams; {}",
        config.workers,
        config.extra_upgrades,
        config.extra_streams,
        how_to_raise(wanted)
    );
}

/// `None` if that many descriptors can be had; else how many there are, and how many of them beyond the
/// reserve.
fn fall_short(wanted: usize, raise: impl FnOnce(u64) -> u64) -> Option<(usize, usize)> {
    let got = usize::try_from(raise(wanted as u64)).unwrap_or(usize::MAX);
    // Where there are few at all, pipes do without.
    (got < wanted).then(|| (got, got.saturating_sub(RESERVED_FILES.min(got / 4))))
}

fn how_to_raise(wanted: usize) -> String {
    format!("raise the limit with `ulimit -n {wanted}`, or LimitNOFILE={wanted} in the unit of systemd")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Limits, OnCancel};

    #[test]
    fn a_hub_keeps_within_its_descriptors() {
        let mut config = HubConfig::default();
        assert_eq!(fit_hub(&mut config, |wanted| wanted), None);
        assert_eq!((config.max_clients, config.max_tunnels), (16_384, 4096));
        assert!(fit_hub(&mut config, |_| 1024).is_some());
        assert_eq!((config.max_clients, config.max_tunnels), (674, 179));
        assert!(config.max_clients + config.newcomers() + config.max_tunnels + RESERVED_FILES <= 1024);
        assert!(fit_hub(&mut config, |_| 10).is_some());
        assert_eq!((config.max_clients, config.max_tunnels), (3, 1));
    }

    #[test]
    fn an_agent_keeps_within_its_descriptors() {
        let upstream = crate::config::Upstream {
            agent_id: String::new(),
            scheme: crate::proto::http1::url::Scheme::Http,
            name: String::new(),
            authority: String::new(),
            base_path: String::new(),
            authorization: None,
            info: crate::proto::info::Info::default(),
        };
        let mut config = AgentConfig {
            token: String::new(),
            hub_name: String::new(),
            hub_authority: String::new(),
            hub_path: String::new(),
            hub_authorization: None,
            websocket: false,
            proxy: None,
            upstreams: vec![upstream.clone(), upstream],
            workers: 200,
            extra_upgrades: 100,
            extra_streams: 0,
            light_paths: Vec::new(),
            preserve_host: false,
            upstream_fields: Vec::new(),
            on_cancel: OnCancel::Close,
            health_path: None,
            drain_timeout: crate::config::DEFAULT_DRAIN_TIMEOUT,
            upgrade_drain: crate::config::DEFAULT_UPGRADE_DRAIN,
            limits: Limits::default(),
        };
        fit_agent(&mut config, |wanted| {
            assert_eq!(wanted, 128 + 2 * (2 * 300 + 1));
            wanted
        });
        assert_eq!((config.workers, config.extra_upgrades), (200, 100));
        fit_agent(&mut config, |_| 1024);
        assert_eq!((config.workers, config.extra_upgrades), (200, 23));
        fit_agent(&mut config, |_| 256);
        assert_eq!((config.workers, config.extra_upgrades), (47, 0));
        fit_agent(&mut config, |_| 3);
        assert_eq!((config.workers, config.extra_upgrades), (1, 0));
    }
}
