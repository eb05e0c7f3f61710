//! What finding a worker costs beside many that are not meant. `tests/bench/check` counts the instructions of
//! [`hand_over`], with few profiles, tunnels and waiters and with many.

use slime::proto::hub::pool::{Joining, Need, Pool};
use slime::proto::hub::queue::{Arrival, DispatchQueue, Waiter};
use slime::proto::info::Info;
use slime::proto::tables::key::{ExchangeKey, TunnelKey};
use slime::proto::tables::table::Table;
use slime::proto::tables::timer::Mono;
use slime::proto::trust::agent_token::TokenId;

/// Hand-overs in a run. All that does not belong to them is the same with twice as many.
const ROUNDS: usize = 1000;

/// `SLIME_CROWD` agents have a scope each, and as many requests wait for a scope that nobody has.
#[test]
fn a_crowd_costs_a_request_nothing() {
    let crowd = std::env::var("SLIME_CROWD").ok().and_then(|value| value.parse().ok()).unwrap_or(100_usize);
    let (mut pool, mut queue) = (Pool::new(core::time::Duration::from_secs(5)), DispatchQueue::default());
    let mut tunnels: Table<TunnelKey, ()> = Table::new();
    let mut exchanges: Table<ExchangeKey, ()> = Table::new();
    let need = |scope: usize| Need {
        scope: format!("scope-{scope}"),
        path: "/v1/chat".to_owned(),
        refused: Vec::new(),
    };
    for agent in 0..crowd {
        let tunnel = tunnels.insert(()).unwrap();
        let joining = Joining {
            token: TokenId::new((agent as u64).to_be_bytes()),
            token_name: "crowd",
            issued: 0,
            expires: None,
            agent_id: "a",
            worker: 0,
            scopes: &[format!("scope-{agent}")],
            scope_paths: &[],
            light: &[],
            max_workers: None,
            info: &Info::default(),
        };
        let slot = pool.join(&joining, tunnel, Mono::default()).unwrap().agent;
        pool.set_ready(slot, true, Mono::default());
        pool.push_idle(slot, tunnel).unwrap();
        let class = pool.class_of(&need(crowd + agent));
        queue.enter(waiter(exchanges.insert(()).unwrap(), agent as u64), class);
    }
    let exchange = exchanges.insert(()).unwrap();
    let slots: Vec<_> = (0..crowd)
        .map(|agent| {
            let class = pool.class_of(&need(agent));
            let tunnel = pool.find_idle(class, &[]).unwrap();
            (class, tunnel)
        })
        .collect();
    assert!(slots.windows(2).all(|pair| pair[0] != pair[1]));
    let wanted = need(crowd / 2);
    for _ in 0..ROUNDS {
        hand_over(&mut pool, &mut queue, &wanted, exchange);
    }
    assert_eq!(queue.len(), crowd);
}

fn waiter(exchange: ExchangeKey, arrival: u64) -> Waiter {
    Waiter { exchange, arrival: Arrival(arrival), was_refused: false }
}

/// A request waits, is found, and leaves: what the hub asks of the pool and the queue meanwhile.
#[inline(never)]
fn hand_over(pool: &mut Pool, queue: &mut DispatchQueue, need: &Need, exchange: ExchangeKey) {
    let class = pool.class_of(need);
    let place = queue.enter(waiter(exchange, u64::MAX - 1), class).unwrap();
    while let Some(changed) = pool.pop_changed().or_else(|| queue.pop_changed()) {
        let first = pool.find_idle(changed, &[]).and_then(|_| queue.waiters_of(changed).next());
        queue.note_served(changed, first.map(|waiter| waiter.arrival));
    }
    assert_eq!(queue.first_served(), Some(class));
    assert!(pool.find_idle(class, &[]).is_some());
    queue.leave(place);
    while let Some(class) = queue.pop_emptied() {
        pool.note_empty(class);
    }
    pool.end_batch(|class| queue.has_waiters(class));
    queue.end_batch();
}
