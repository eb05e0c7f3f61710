// The page as a whole: head, what needs attention, figures, and which tables there are.

const RESTART_SHOWN = 600000;
// So many sentences do not push the tables out of sight.
const FIRST_NOTICES = 8;
let scheduled = false,
    allNotices = false;

const name = () => S?.host ?? (S?.role === 'agent' ? 'the agent' : 'the hub');

// At most once for each frame.
function draw() {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => {
        scheduled = false;
        if (S) drawAll();
        else put($('before'), failures ? 'No answer yet. ' + trouble + ' Trying again.' : 'Connecting ...');
        drawWay();
    });
}

function drawWay() {
    const gone = lost();
    const text = gone ? 'no news' : way === 'live' ? 'live' : way === 'polling' ? 'every 5 s' : '';
    put($('way'), text);
    set($('way'), 'class', gone ? 'gone' : way);
    document.body.classList.toggle('lost', gone);
}

function drawAll() {
    const hub = S.role === 'hub',
        draining = S.state === 'draining';
    $('before').hidden = true;
    put($('host'), S.host ?? '');
    put(
        $('state'),
        draining ? 'draining' : S.queue_paused ? 'queue paused' : S.ready ? 'ready' : 'not ready: ' + S.ready_reason,
    );
    set(
        $('state'),
        'class',
        'word ' + (S.queue_paused || (!S.ready && !draining) ? 'bad' : draining ? 'warn' : 'good'),
    );
    put($('version'), (hub ? '' : 'agent ') + S.version + ', up ' + age(now() - S.started_at));
    fill($('queue'), hub && may() ? pauseQueue() : []);
    const waiting = hub ? S.load.waiting + S.load.gathering : 0;
    document.title = shown(
        (lost() ? '(lost) ' : waiting ? count(waiting) + ' waiting - ' : '') + 'slime ' + (S.host ?? ''),
    );
    drawAttention();
    drawTiles(hub);
    for (const plot of plots) if (S.history) plot.draw(S.history);
    $('plots').hidden = !S.history;
    drawFirst(hub);
    drawTables(hub);
    fill($('process'), [S.version + ' ' + S.instance]);
    fill($('copy'), {t: 'Copy as text', key: 'copy', f: copyStatus});
    put($('zone'), 'times: ' + Intl.DateTimeFormat().resolvedOptions().timeZone + '; days begin at 00:00 UTC');
}

// What this page knows better than the sentences of the hub: times in the reader's zone.
function sentence(item) {
    if (item.code === 'queue_paused' && S.queue_paused) {
        return (
            'The queue is paused since ' +
            hm(S.queue_paused.since_at) +
            '; ' +
            plural(S.load.waiting, 'request waits.', 'requests wait.')
        );
    }
    if (item.code === 'draining' && S.drain?.until_at) {
        return (
            'draining, until ' +
            hm(S.drain.until_at) +
            ' at most; ' +
            (S.load ? S.load.running + ' run, ' + S.load.waiting + ' wait.' : (S.running?.length ?? 0) + ' run.')
        );
    }
    if (item.code === 'predecessor' && S.predecessor) {
        const {running, until_at} = S.predecessor;
        return (
            'The process before this one still serves ' +
            plural(running, 'request', 'requests') +
            (until_at ? ' (until ' + hm(until_at) + ').' : '.')
        );
    }
    return item.text;
}

const PLACES = {
    queue_paused: 'waiting',
    waiting_unserved: 'waiting',
    waits_long: 'waiting',
    limit_full: 'limits',
    failures: 'recent',
    log_dropping: 'log',
    no_agent: 'agents',
    name_missing: 'agents',
    agent_withdrawn: 'agents',
    agent_silent: 'agents',
    paused: 'agents',
    token_expires: 'agents',
};

function drawAttention() {
    const items = [];
    if (lost()) {
        items.push({
            severity: 'bad',
            text:
                'No news from ' +
                name() +
                ' for ' +
                spell(performance.now() - heard) +
                '. This is from ' +
                hms(S.now_at) +
                '. ' +
                (trouble && trouble + ' ') +
                'Trying again.',
        });
    }
    if (restarted && now() - S.started_at < RESTART_SHOWN) {
        items.push({severity: 'warn', text: 'The ' + S.role + ' was restarted at ' + hm(S.started_at) + '.'});
    }
    items.push(...S.attention);
    const more = {
        t: 'Show all ' + count(items.length) + ' warnings',
        f: () => {
            allNotices = true;
            draw();
        },
    };
    const worst = lost()
        ? '#888'
        : items.some(item => item.severity === 'bad')
          ? '#c22'
          : items.length
            ? '#c80'
            : '#292';
    const left = allNotices || items.length <= FIRST_NOTICES ? 0 : items.splice(FIRST_NOTICES).length;
    const list = $('notices');
    while (list.children.length > items.length) list.lastChild.remove();
    items.forEach((item, i) => {
        const node = list.children[i] ?? list.appendChild(make('li'));
        set(node, 'class', item.severity);
        const named = item.code === 'paused' && may() && S.names?.find(row => row.name === item.subject)?.paused;
        fill(node, [
            {t: item.severity === 'bad' ? 'Trouble' : 'Warning', c: 'severity'},
            {t: sentence(item), c: 'text'},
            item.since_at != null && {t: age(now() - item.since_at), at: item.since_at},
            item.code === 'queue_paused' && may() && pauseQueue(),
            named && resumeName(item.subject),
            item.code in PLACES && {t: 'Show', what: sentence(item), f: () => go(item)},
        ]);
    });
    fill($('more'), left ? more : []);
    set(
        $('icon'),
        'href',
        'data:image/svg+xml,' +
            part(
                '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><circle cx="4.5" cy="4.5" r="4" fill="' +
                    worst +
                    '"/></svg>',
            ),
    );
}

// Opens the table that an item speaks of, and goes to its row.
function go(item) {
    const table = Object.values({...TABLES(), ...BOTH}).find(table => table.id === PLACES[item.code]);
    if (!table) return;
    table.node.open = true;
    requestAnimationFrame(() => {
        const row =
            item.subject == null ? null : S[table.id].find(row => row.id === item.subject || row.name === item.subject);
        const node = (row && table.rows.get(key(row))) || table.summary;
        if (node !== table.summary) set(node, 'tabindex', -1);
        node.focus();
        node.scrollIntoView({block: 'center'});
    });
}

function drawTiles(hub) {
    const limit = name => S.limits?.find(row => row.name === name)?.max;
    const sum = (rows, value) => rows.reduce((n, row) => n + value(row), 0);
    const tiles = [];
    if (hub) {
        const {load, last_minute: minute} = S,
            away = load.workers_silent + load.workers_withdrawn + load.workers_paused;
        tiles.push(
            ['Running', from(load.running + load.finishing, limit('concurrent'))],
            ['Waiting', from(load.waiting + load.gathering, limit('queue_depth'))],
            [
                'Workers',
                count(load.workers_busy) +
                    ' busy  ' +
                    count(load.workers_idle) +
                    ' idle' +
                    (away ? '  ' + count(away) + ' away' : ''),
            ],
            ['Last minute', plural(minute?.requests, 'request', 'requests') + ', ' + count(minute?.failed) + ' failed'],
            ['Waited', 'p50 ' + seconds(minute?.queue_p50_ms) + '  p95 ' + seconds(minute?.queue_p95_ms)],
        );
    } else {
        const last = name => (S.history?.[name] ?? []).slice(-6).reduce((n, value) => n + (value ?? 0), 0);
        tiles.push(
            ['Running', count(S.running?.length)],
            [
                'Workers',
                from(
                    sum(S.upstreams, row => row.workers.busy),
                    sum(S.upstreams, row => row.workers.total),
                ) + ' busy',
            ],
            [
                'Tunnels',
                from(
                    sum(S.hubs, row => row.tunnels),
                    sum(S.hubs, row => row.tunnels_max),
                ),
            ],
            ['Last minute', plural(last('requests'), 'request', 'requests') + ', ' + count(last('failed')) + ' failed'],
        );
    }
    tiles.forEach(([title, text], i) => {
        const tile = $('tiles').children[i] ?? $('tiles').appendChild(make('div', {}, make('dt'), make('dd')));
        put(tile.firstChild, title);
        put(tile.lastChild, text);
    });
}

// For a hub that nobody has joined, and for one that nobody has asked yet: the next step.
function drawFirst(hub) {
    const node = $('first'),
        line = (text, label) => [{t: label, c: 'text'}, {t: text, code: true}, copying(text, label, 'Copy')];
    const empty = hub && !S.agents_total && !S.names.length,
        untried = hub && !empty && S.totals && !S.totals.requests;
    set(node, 'class', empty || untried ? 'card' : null);
    if (empty) {
        fill(node, [
            {t: 'No agent has joined yet.', c: 'lead'},
            ...line(
                'slime hub register --secret-file secret.txt --name gpu-1 > token.txt',
                'On the machine of the hub:',
            ),
            ...(S.join_command ? line(S.join_command, 'On the machine beside your service:') : []),
        ]);
    } else if (untried) {
        fill(node, line('curl ' + applications(), 'It works when this answers:'));
    } else fill(node, []);
    $('sections').classList.toggle('empty', empty && !S.waiting.length);
}

function applications() {
    const {address, tls} = S.listeners?.[0] ?? {address: 'HOST:8080'};
    return (
        (tls ? 'https://' : 'http://') +
        address.replace(/^(0\.0\.0\.0|\[::\]|\*)(?=:)/, S.host ?? location.hostname) +
        '/'
    );
}

const TABLES = () => (S.role === 'hub' ? HUB : AGENT);

function drawTables(hub) {
    const wanted = Object.values({...TABLES(), ...BOTH}).filter(table => S[table.id]);
    const nodes = wanted.map(table => table.node);
    if (
        [...$('sections').children].some((node, i) => node !== nodes[i]) ||
        $('sections').children.length !== nodes.length
    )
        $('sections').replaceChildren(...nodes);
    if (hub) {
        show(HUB.waiting, S.waiting, S.waiting_total);
        show(HUB.running, S.running, S.running_total);
        const agents = agentsInOrder();
        show(HUB.agents, agents, trouble_only.checked ? agents.length : S.agents_total);
        show(
            HUB.apps,
            [...(S.apps ?? [])].sort((a, b) => busyOf(b, b.busy_ms_day) - busyOf(a, a.busy_ms_day) || order(a.name, b.name)),
        );
    } else {
        show(AGENT.hubs, S.hubs);
        show(AGENT.upstreams, S.upstreams);
        show(
            AGENT.running,
            [...(S.running ?? [])].sort((a, b) => a.started_at - b.started_at),
        );
    }
    for (const id in BOTH) if (S[id]) show(BOTH[id], S[id]);
}

$('filter').oninput = draw;
$('plots').append(...plots.map(plot => plot.node));
watch();
