// Four plots of the last hour, a point for every ten seconds. They change when a point is added.

const HEIGHT = 60;
const SVG = 'http://www.w3.org/2000/svg';
const FLOOR_MS = 10;

function svg(tag, attributes) {
    const node = document.createElementNS(SVG, tag);
    for (const name in attributes) node.setAttribute(name, attributes[name]);
    return node;
}

// lines: {of: name in history, c: class}, of which the first one has the largest values. say: values to text.
// scale: a value, and the largest one, to 0..1.
function plot(title, lines, say, scale = (value, most) => value / most) {
    const picture = svg('svg', {
        viewBox: '0 0 ' + POINTS + ' ' + HEIGHT,
        preserveAspectRatio: 'none',
        role: 'img',
        tabindex: 0,
    });
    const paths = lines.map(line => svg('path', {class: line.c}));
    const cursor = svg('line', {y1: 0, y2: HEIGHT, class: 'cursor'});
    picture.append(...paths, cursor);
    const caption = make('figcaption');
    const axis = make('div', {class: 'axis', 'aria-hidden': 'true'});
    const node = make('figure', {}, caption, picture, axis);
    let history = null,
        at = null;

    const last = () => history.requests.length - 1;
    const said = index =>
        index < 0 ? 'nothing' : say(Object.fromEntries(lines.map(line => [line.of, history[line.of][index]])));
    const most = line => Math.max(0, ...history[line.of].map(value => value ?? 0));

    function point(index) {
        at = index == null ? null : Math.max(0, Math.min(last(), index));
        drawCaption();
    }
    function drawCaption() {
        const chosen = at ?? last(),
            x = POINTS - last() + chosen;
        set(cursor, 'x1', x);
        set(cursor, 'x2', x);
        set(cursor, 'visibility', at == null ? 'hidden' : null);
        fill(caption, [
            {t: title, c: 'name'},
            (at == null ? 'now ' : hms(history.end_at - (last() - at) * history.step_ms) + ' ') + said(chosen),
        ]);
        set(
            picture,
            'aria-label',
            title + ': now ' + said(last()) + ', at most ' + say({[lines[0].of]: most(lines[0])}) + ' in the last hour',
        );
    }
    picture.onpointermove = event => {
        const box = picture.getBoundingClientRect();
        point(Math.round(((event.clientX - box.left) / box.width) * POINTS) - POINTS + last());
    };
    picture.onpointerleave = picture.onblur = () => point(null);
    picture.onkeydown = event => {
        const from = at ?? last(),
            to = {ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: last(), Escape: null}[event.key];
        if (to === undefined) return;
        event.preventDefault();
        point(to);
    };

    let drawn = 0;
    return {
        node,
        draw(value) {
            if (history === value && drawn === value.end_at) return;
            history = value;
            drawn = value.end_at;
            const top = Math.max(1, ...lines.map(most));
            lines.forEach((line, i) =>
                set(
                    paths[i],
                    'd',
                    path(value[line.of], v => HEIGHT - 1 - scale(v, top) * (HEIGHT - 4), line.area),
                ),
            );
            fill(axis, [
                hm(value.end_at - POINTS * value.step_ms),
                'max ' + say({[lines[0].of]: most(lines[0])}),
                hm(value.end_at),
            ]);
            // A reader who looks at a point stays there.
            point(at);
        },
    };
}

// One path: runs of points with gaps where there is no sample.
function path(points, y, area) {
    let text = '',
        run = [];
    const end = () => {
        if (run.length) {
            text += 'M' + run.join('L') + (run.length === 1 ? 'h.1' : '');
            if (area) text += 'V' + HEIGHT + 'H' + run[0].split(' ')[0] + 'Z';
        }
        run = [];
    };
    points.forEach((value, i) => {
        if (value == null) end();
        else run.push(POINTS - points.length + i + 1 + ' ' + y(value).toFixed(1));
    });
    end();
    return text;
}

const perSecond = n => (n == null ? '-' : (n / 10).toFixed(1));
const plots = [
    plot(
        'Requests per s',
        [
            {of: 'requests', c: 'area', area: true},
            {of: 'failed', c: 'area bad', area: true},
        ],
        v => perSecond(v.requests) + (v.failed ? ', failed ' + perSecond(v.failed) : ''),
    ),
    plot('Waiting', [{of: 'waiting_max', c: 'area', area: true}], v => count(v.waiting_max)),
    plot(
        'Wait',
        [
            {of: 'queue_p95_ms', c: 'dotted'},
            {of: 'queue_p50_ms', c: 'line'},
        ],
        v =>
            (v.queue_p50_ms === undefined ? '' : 'p50 ' + seconds(v.queue_p50_ms) + '  ') +
            'p95 ' +
            seconds(v.queue_p95_ms),
        (value, most) =>
            value <= FLOOR_MS ? 0 : Math.log(value / FLOOR_MS) / Math.log(Math.max(most, 1000) / FLOOR_MS),
    ),
    plot(
        'Workers busy',
        [
            {of: 'busy_max', c: 'area', area: true},
            {of: 'workers_max', c: 'line dim'},
        ],
        v => count(v.busy_max) + (v.workers_max == null ? '' : ' of ' + count(v.workers_max)),
    ),
];
