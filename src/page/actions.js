// What the reader may do: pause, resume, cancel, copy.

// What buttons show for a while instead of their own text, by the key of the button.
const results = new Map();

const may = () => S.access === 'all';
let said = 0,
    silence;

// Shown at the button's place and, for those who cannot see it, said.
function result(id, text, detail) {
    results.set(id, text);
    said++;
    setTimeout(() => {
        results.delete(id);
        said++;
        draw();
    }, 3000);
    say(detail ?? text, detail && 10000);
    draw();
}

function say(text, ms = 3000) {
    put($('said'), text);
    clearTimeout(silence);
    silence = setTimeout(() => put($('said'), ''), ms);
}

async function post(id, path, done) {
    try {
        const response = await fetch(url('api/' + path), {
            method: 'POST',
            headers: {'Content-Type': 'application/json'},
            signal: AbortSignal.timeout(10000),
        });
        if (response.ok) return result(id, done);
        const problem = await response.json().catch(() => ({}));
        result(id, 'Failed', problem.detail ?? problem.title ?? 'It was answered ' + response.status + '.');
    } catch {
        result(id, 'Failed', 'No answer from ' + name() + '.');
    }
}

// Asks before it acts. The safe answer has the focus, and is what Escape gives.
function ask(question, safe, ...answers) {
    const dialog = $('dialog');
    put($('question'), question);
    const button = (text, f, c) => {
        const node = make('button', {type: 'button', class: c}, shown(text));
        node.onclick = () => {
            dialog.close();
            f?.();
        };
        return node;
    };
    $('answers').replaceChildren(button(safe, null, 'safe'), ...answers.map(([text, f]) => button(text, f)));
    dialog.showModal();
    $('answers').firstChild.focus();
}

const part = encodeURIComponent;

function pauseAgent(agent) {
    const id = 'agent-' + agent.id,
        {busy} = agent.workers;
    if (agent.paused?.by === 'name') {
        return {
            t: 'Resume',
            what: agent.name,
            key: id,
            act: true,
            f: () =>
                ask(
                    'All agents named ' + agent.name + ' are paused, those that join later, too. Resume them?',
                    'Keep them paused',
                    ['Resume all', () => post(id, 'names/' + part(agent.name) + '/resume', 'Resumed')],
                ),
        };
    }
    if (agent.paused)
        return {
            t: 'Resume',
            what: agent.name,
            key: id,
            act: true,
            f: () => post(id, 'agents/' + part(agent.id) + '/resume', 'Resumed'),
        };
    return {
        t: 'Pause',
        what: agent.name,
        key: id,
        act: true,
        f: () =>
            ask(
                'Pause ' +
                    agent.name +
                    '? It gets no new requests; ' +
                    (busy === 1
                        ? 'the 1 that runs ends normally. '
                        : busy
                          ? 'the ' + count(busy) + ' that run end normally. '
                          : 'none runs now. ') +
                    'Requests that only it can serve are refused with 503 until you resume it.',
                'Keep it',
                ['Pause ' + agent.name, () => post(id, 'agents/' + part(agent.id) + '/pause', 'Paused')],
                [
                    'Pause all agents named ' + agent.name,
                    () => post(id, 'names/' + part(agent.name) + '/pause', 'Paused'),
                ],
            ),
    };
}

function pauseUpstream(upstream) {
    const id = 'upstream-' + upstream.index,
        path = 'agents/' + upstream.index,
        what = upstream.address;
    if (upstream.state === 'paused')
        return {t: 'Resume', what, key: id, act: true, f: () => post(id, path + '/resume', 'Resumed')};
    return {
        t: 'Pause',
        what,
        key: id,
        act: true,
        f: () =>
            ask('Pause ' + what + '? It gets no new requests; those that run end normally.', 'Keep it', [
                'Pause ' + what,
                () => post(id, path + '/pause', 'Paused'),
            ]),
    };
}

function pauseQueue() {
    if (S.queue_paused)
        return {t: 'Resume queue', key: 'queue', act: true, f: () => post('queue', 'queue/resume', 'Resumed')};
    return {
        t: 'Pause queue',
        key: 'queue',
        act: true,
        f: () =>
            ask(
                'Pause the queue? New requests wait, running ones go on. Waiting ones still give up when their own time is over.',
                'Leave it',
                ['Pause queue', () => post('queue', 'queue/pause', 'Paused')],
            ),
    };
}

const resumeName = text => ({
    t: 'Resume',
    what: text,
    key: 'name-' + text,
    act: true,
    f: () => post('name-' + text, 'names/' + part(text) + '/resume', 'Resumed'),
});

function cancel(request) {
    const waits = request.reason != null,
        whose = request.app && request.app !== 'none' ? ' of ' + request.app : '';
    const where = request.agent_name ?? upstreamOf(request)?.address;
    return {
        t: 'Cancel',
        what: 'request ' + request.id,
        key: 'cancel-' + request.id,
        act: true,
        f: () =>
            ask(
                'Cancel this request' +
                    whose +
                    '? It ' +
                    (waits ? 'has waited for ' : 'runs for ') +
                    spell(now() - (waits ? request.arrived_at : request.started_at)) +
                    (where == null ? '' : ' on ' + where) +
                    '; its application gets an error' +
                    (waits ? '.' : ', and the upstream is stopped.'),
                waits ? 'Let it wait' : 'Let it run',
                [
                    'Cancel request',
                    () => post('cancel-' + request.id, 'exchanges/' + part(request.id) + '/cancel', 'Cancelled'),
                ],
            ),
    };
}

// The clipboard is forbidden to pages of plain HTTP from other machines; the old way is not.
async function copy(text) {
    try {
        await navigator.clipboard.writeText(text);
        return true;
    } catch {
        const area = make('textarea', {class: 'hidden', 'aria-label': 'Text to copy'}),
            focused = document.activeElement;
        area.value = text;
        document.body.append(area);
        area.select();
        const copied = document.execCommand('copy');
        area.remove();
        focused?.focus();
        return copied;
    }
}

const copying = (text, what, label = 'copy') => ({
    t: label,
    what,
    key: 'copy-' + text,
    c: 'small',
    f: async () => result('copy-' + text, (await copy(text)) ? 'copied' : 'failed'),
});

async function copyStatus() {
    try {
        const response = await fetch(url('api/status'), {
            headers: {Accept: 'text/plain'},
            signal: AbortSignal.timeout(10000),
        });
        result('copy', response.ok && (await copy(await response.text())) ? 'Copied' : 'Failed');
    } catch {
        result('copy', 'Failed', 'No answer from ' + name() + '.');
    }
}
