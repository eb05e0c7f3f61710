// Where the facts come from: a stream of events, and polling where streams do not come through.

// The status with all changes applied; null before the first.
let S = null;
// By performance.now(): when something was heard last, and when `S.now_at` was true. The reader's clock is never
// asked.
let heard = 0,
    told = 0,
    visible = 0;
// `live`, `polling`, or nothing of both.
let way = '';
let trouble = '',
    restarted = false;
let stream,
    opened = 0,
    failures = 0,
    reopen,
    poller,
    pause = 0;

const STREAM_PAUSES = [1000, 2000, 5000, 10000, 30000];
const SILENCE = 12000;
const POLL = 5000;
const POINTS = 360;

const now = () => S.now_at + performance.now() - told;
const lost = () => !!S && performance.now() - Math.max(heard, visible) > SILENCE;

// Relative, so that the page works below a prefix; fetch takes no address with a password in it.
function url(path) {
    const address = new URL(path, location.href);
    address.username = address.password = '';
    return address;
}

function hear(value) {
    if (value.instance) {
        restarted = S ? restarted || S.instance !== value.instance : false;
        S = value;
    } else if (S) merge(value);
    heard = told = performance.now();
    trouble = '';
    draw();
}

function merge(change) {
    const {agents, agents_gone, history_point, ...whole} = change;
    Object.assign(S, whole);
    if (agents || agents_gone) {
        const rows = new Map(S.agents.map(agent => [agent.id, agent]));
        for (const id of agents_gone ?? []) rows.delete(id);
        for (const agent of agents ?? []) rows.set(agent.id, agent);
        S.agents = [...rows.values()];
    }
    if (history_point) {
        for (const name in S.history) {
            const points = S.history[name];
            if (!Array.isArray(points)) continue;
            points.push(history_point[name] ?? null);
            if (points.length > POINTS) points.shift();
        }
        S.history.end_at = history_point.end_at;
    }
}

function close() {
    stream?.close();
    stream = null;
    clearTimeout(reopen);
    clearTimeout(poller);
    poller = null;
}

function open() {
    stream?.close();
    clearTimeout(reopen);
    opened = performance.now();
    const mine = (stream = new EventSource(url('api/events')));
    const take = event => {
        if (mine !== stream) return;
        failures = 0;
        clearTimeout(poller);
        poller = null;
        way = 'live';
        hear(JSON.parse(event.data));
    };
    mine.addEventListener('status', take);
    mine.addEventListener('change', take);
    // By itself it tries again after some failures and never after others; so this page does it after all.
    mine.onerror = () => mine === stream && fail();
}

function fail() {
    stream?.close();
    stream = null;
    clearTimeout(reopen);
    reopen = setTimeout(open, STREAM_PAUSES[Math.min(failures++, STREAM_PAUSES.length - 1)]);
    if (!poller && (failures > 1 || !S)) {
        pause = POLL;
        poll();
    }
    draw();
}

async function poll() {
    const mine = (poller = setTimeout(() => {}, 0));
    try {
        const response = await fetch(url('api/status'), {signal: AbortSignal.timeout(10000), cache: 'no-store'});
        const value = await response.json();
        if (poller !== mine) return;
        if (!response.ok) throw new Error(value.detail ?? response.statusText);
        way = 'polling';
        pause = POLL;
        hear(value);
    } catch (error) {
        if (poller !== mine) return;
        trouble = error.name === 'Error' ? error.message : '';
        pause = Math.min(pause * 1.5, 30000);
        draw();
    }
    poller = setTimeout(poll, pause);
}

// Once a second: ages, and whether the stream still lives.
function tick() {
    if (document.hidden) return;
    if (stream && performance.now() - Math.max(heard, opened) > (S ? SILENCE : 4000)) fail();
    draw();
}

function watch() {
    document.addEventListener('visibilitychange', () => {
        if (document.hidden) return close();
        visible = performance.now();
        open();
    });
    setInterval(tick, 1000);
    if (!document.hidden) open();
}
