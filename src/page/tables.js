// The columns of all tables.

const TROUBLE = {gone: 0, withdrawn: 1, silent: 2, paused: 3};
const IDLE = {
    nothing_fits: 'nothing that waits fits',
    refused: 'it refused what waits',
    queue_paused: 'the queue is paused',
    concurrent: '--concurrent is reached',
    app_max: 'those who wait run as many as they may',
};
const BAD = ['gone', 'withdrawn', 'silent', 'unwell', 'refused', 'error'];
const WARN = ['paused', 'draining', 'dialling', 'waiting', 'unknown', 'warn'];

const word = text => ({t: text, c: 'word ' + (BAD.includes(text) ? 'bad' : WARN.includes(text) ? 'warn' : 'calm')});
const minor = text => text && {t: text, c: 'minor'};
const ago = at => (at == null ? '-' : {t: age(now() - at), at});
const when = at => (at == null ? '-' : {t: hms(at), at});
const toGo = at => (at == null ? '-' : at > now() ? {t: 'in ' + age(at - now()), at} : 'now');
const from = (n, of) => (of == null ? count(n) : count(n) + ' of ' + count(of));
const more = (list, total) =>
    list == null ? null : list.join(', ') + (total > list.length ? ' +' + (total - list.length) : '');
const upstreamOf = request => S.upstreams?.find(upstream => upstream.index === request.upstream);

// Of ended requests, and of those that still hold a worker.
function busyOf(app, ms) {
    for (const row of S.running) if (row.app === app.name && row.state !== 'finishing') ms += now() - row.started_at;
    return ms;
}

// A column orders by what it says, unless it is given something better.
const column = (name, cell, by = cell, c = 'text', live = false) => ({name, cell, by, c, live});
const number = (name, by, cell = row => count(by(row))) => column(name, cell, by, 'number');
const time = (name, at, cell = ago) =>
    column(
        name,
        row => cell(row[at]),
        row => row[at] && -row[at],
        'number',
        true,
    );
const button = make => column('', row => (may() ? make(row) : ''), null, 'act');

const APP = column('Application', row => row.app, undefined, 'strong');
const REQUEST = column(
    'Request',
    row => [[row.method, row.path].filter(Boolean).join(' ') || '-', row.request_id !== row.id && minor(row.request_id)],
    row => row.path,
);
const MODEL = column(
    'Model, scope',
    row => [row.model ?? (row.scope ? '' : '-'), row.scope && minor('scope ' + row.scope)],
    row => row.model ?? row.scope,
);
const STATE = column(
    'State',
    row => [word(row.state), minor(row.reason ?? row.status ?? IDLE[row.idle_reason])],
    row => row.state,
);
const WORKERS = number(
    'Workers',
    row => row.workers.busy / row.workers.total,
    row => row.workers.busy + '/' + row.workers.total,
);
const DONE = number('Done', row => row.requests.complete);
const FAILED = number('Failed', row => row.requests.failed && row.requests.failed + (row.requests.lost ?? 0));
const TRAFFIC = number(
    'In / out',
    row => row.in_bytes + row.out_bytes,
    row => bytes(row.in_bytes) + ' / ' + bytes(row.out_bytes),
);
const STARTED = time('Since', 'started_at'),
    SINCE = time('Since', 'since_at'),
    CANCEL = button(cancel);
const itself = (name, row, ...said) => [
    {t: name, c: 'lead'},
    {t: row.agent_id.slice(0, 4), c: 'dim'},
    copying(row.agent_id, 'the id of ' + name),
    minor(said.filter(Boolean).join(', ')),
];

const trouble_only = make('input', {type: 'checkbox'});
trouble_only.onchange = () => draw();

const HUB = {
    waiting: section(
        'waiting',
        'Waiting',
        [
            number(
                'Pos',
                row => row.position,
                row => [row.position ?? '-', row.urgency !== 3 && minor('urgency ' + row.urgency)],
            ),
            time('Since', 'arrived_at'),
            APP,
            REQUEST,
            MODEL,
            time('Expected', 'expected_at', toGo),
            column(
                'Why',
                row => [row.detail || row.reason, row.until_at && minor('gives up at ' + hms(row.until_at))],
                row => row.reason,
            ),
            CANCEL,
        ],
        {none: 'Nothing waits.', command: 'waiting'},
    ),
    running: section(
        'running',
        'Running',
        [
            STARTED,
            APP,
            REQUEST,
            MODEL,
            column('Agent', row => row.agent_name + ' #' + row.worker),
            STATE,
            TRAFFIC,
            CANCEL,
        ],
        {none: 'Nothing runs.', command: 'running', small: true},
    ),
    agents: section(
        'agents',
        'Agents',
        [
            column(
                'Agent',
                row =>
                    itself(
                        row.name,
                        row,
                        row.info?.note,
                        row.info?.host,
                        row.info?.version !== S.version && row.info?.version,
                    ),
                row => row.name,
            ),
            STATE,
            WORKERS,
            DONE,
            FAILED,
            column(
                'Models, scopes',
                row => [
                    more(row.models, row.models_total) ?? 'all models',
                    minor(row.scopes_total && 'scopes ' + more(row.scopes, row.scopes_total)),
                    minor(row.paths_total && 'paths ' + more(row.paths, row.paths_total)),
                ],
                row => String(row.models),
            ),
            column(
                'Address, RTT',
                row => [row.address, row.rtt_ms != null && minor(count(row.rtt_ms) + ' ms')],
                row => row.address,
            ),
            SINCE,
            button(row => (row.state === 'gone' ? '' : pauseAgent(row))),
        ],
        {command: 'agents', extra: make('label', {class: 'extra'}, trouble_only, ' only with trouble')},
    ),
    apps: section(
        'apps',
        'Applications',
        [
            column('Name', row => row.name, undefined, 'strong text'),
            number(
                'Running',
                row => row.running,
                row => from(row.running, row.max),
            ),
            number(
                'Waiting',
                row => row.waiting,
                row => from(row.waiting, row.queue),
            ),
            number('Requests', row => row.requests),
            number('Failed', row => row.failed),
            number('Limited', row => row.limited),
            column(
                'Machine time: hour, today, all',
                row =>
                    [row.busy_ms_hour, row.busy_ms_day, row.busy_ms_total].map(ms => hours(busyOf(row, ms))).join(', '),
                row => busyOf(row, row.busy_ms_day),
                'number',
                true,
            ),
            number(
                'Wasted today',
                row => row.wasted_ms_day,
                row => hours(row.wasted_ms_day),
            ),
            column(
                'Budget',
                row =>
                    row.budget_ms == null
                        ? '-'
                        : [
                              hours(busyOf(row, row.budget_used_ms)).replace(' h', '') + ' of ' + hours(row.budget_ms),
                              row.budget_ends_at && minor('until ' + hm(row.budget_ends_at)),
                          ],
                row => row.budget_ms && busyOf(row, row.budget_used_ms) / row.budget_ms,
                'number',
                true,
            ),
        ],
        {small: true, command: 'apps'},
    ),
};

const AGENT = {
    hubs: section('hubs', 'Hubs', [
        column('Hub', row => row.address, undefined, 'strong text'),
        STATE,
        number(
            'Tunnels',
            row => row.tunnels,
            row => row.tunnels + '/' + row.tunnels_max,
        ),
        number(
            'RTT',
            row => row.rtt_ms,
            row => (row.rtt_ms == null ? '-' : count(row.rtt_ms) + ' ms'),
        ),
        SINCE,
        time('Next attempt', 'retry_at', toGo),
    ]),
    upstreams: section('upstreams', 'Upstreams', [
        column(
            'Upstream',
            row => itself(row.address, row),
            row => row.address,
        ),
        STATE,
        WORKERS,
        DONE,
        FAILED,
        column('Models', row => more(row.models, row.models_total) ?? 'all'),
        time('Checked', 'checked_at'),
        SINCE,
        button(pauseUpstream),
    ]),
    running: section(
        'running',
        'Running',
        [
            STARTED,
            REQUEST,
            column('Upstream', row => (upstreamOf(row)?.address ?? row.upstream) + ' #' + row.worker),
            column('Hub', row => row.hub),
            STATE,
            TRAFFIC,
            CANCEL,
        ],
        {none: 'Nothing runs.', small: true},
    ),
};

const BOTH = {
    recent: section(
        'recent',
        'Failed lately',
        [
            time('Time', 'at', when),
            APP,
            REQUEST,
            number('Status', row => row.status),
            column('End', row => row.end + ' ' + row.outcome.replaceAll('_', ' ')),
            column('Agent', row => row.agent_name ?? '-'),
            number(
                'Waited',
                row => row.queue_ms,
                row => seconds(row.queue_ms),
            ),
            number(
                'Took',
                row => row.total_ms,
                row => seconds(row.total_ms),
            ),
            column(
                'What',
                row => [row.text, row.tries > 1 && minor('tried ' + row.tries + ' times')],
                row => row.text,
            ),
        ],
        {none: 'Nothing failed.', small: true},
    ),
    limits: section(
        'limits',
        'Limits',
        [
            column('Limit', row => row.flag ?? row.name.replaceAll('_', ' '), undefined, 'strong text'),
            number(
                'Used',
                row => row.used / row.max,
                row => from(row.used, row.max),
            ),
            number('Most', row => row.peak),
            number('Hit', row => row.hits),
            time('Last hit', 'last_hit_at'),
        ],
        {closed: true},
    ),
    models: section(
        'models',
        'Models',
        [
            column('Model', row => row.name, undefined, 'strong text'),
            number('Agents', row => row.agents),
            number(
                'Workers idle',
                row => row.workers_idle,
                row => from(row.workers_idle, row.workers),
            ),
            number('Running', row => row.running),
            number('Waiting', row => row.waiting),
        ],
        {closed: true},
    ),
    log: section(
        'log',
        'Log',
        [time('Time', 'at', when), column('Level', row => word(row.level), null), column('Text', row => row.text)],
        {closed: true, none: 'Nothing was said.'},
    ),
};

// Trouble first; busy and idle ones stay where they are, so that nothing jumps under the finger.
function agentsInOrder() {
    const rank = agent => TROUBLE[agent.state] ?? 4;
    const rows = trouble_only.checked ? S.agents.filter(agent => agent.state in TROUBLE) : [...S.agents];
    return rows.sort((a, b) => rank(a) - rank(b) || order(a.name, b.name) || order(a.id, b.id));
}
