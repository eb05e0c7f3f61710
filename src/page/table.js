// Tables whose rows are kept by their keys. What has the focus is never moved or taken away.

const FIRST_ROWS = 100;
// What the filter looks at, in rows of any table.
const SOUGHT = [
    'name',
    'id',
    'agent_id',
    'token_id',
    'app',
    'path',
    'model',
    'models',
    'scope',
    'scopes',
    'address',
    'client',
    'request_id',
    'agent',
    'agent_name',
    'text',
];

const narrow = matchMedia('(max-width: 640px)');

function remember(key, value) {
    try {
        if (value === undefined) return sessionStorage.getItem(key);
        sessionStorage.setItem(key, value);
    } catch {
        // A browser may forbid it; then nothing is remembered.
    }
    return null;
}

// columns: {name, cell: row => parts, by: row => what to order by, c: class, live: changes with time alone}.
// options: `closed`, `small` (closed on phones), `none` (text of an empty table), `command` (shows all), `extra` (an
// element above the table).
function section(id, title, columns, options = {}) {
    const table = {id, columns, options, rows: new Map(), all: false, sort: +remember('sort-' + id) || 0};
    table.count = make('span');
    table.summary = make('summary', {}, make('h2', {}, title + ' ', table.count));
    table.heads = columns.map((column, i) => {
        const head = make('th', {scope: 'col', role: 'columnheader', class: column.c});
        if (column.by) {
            const button = make('button', {type: 'button'}, column.name);
            button.onclick = () => {
                table.sort = table.sort === i + 1 ? -i - 1 : table.sort === -i - 1 ? 0 : i + 1;
                remember('sort-' + id, table.sort);
                draw();
            };
            head.append(button);
        } else head.append(make('span', {class: column.name ? null : 'hidden'}, column.name || 'Actions'));
        return head;
    });
    table.body = make('tbody', {role: 'rowgroup'});
    table.table = make(
        'table',
        {role: 'table'},
        make('caption', {class: 'hidden'}, title),
        make('thead', {role: 'rowgroup'}, make('tr', {role: 'row'}, ...table.heads)),
        table.body,
    );
    table.none = make('p', {class: 'none'});
    table.note = make('p', {class: 'note'});
    const open = options.closed || (options.small && narrow.matches) ? null : '';
    table.node = make(
        'details',
        {id, open},
        table.summary,
        ...(options.extra ? [options.extra] : []),
        table.table,
        table.none,
        table.note,
    );
    table.node.ontoggle = draw;
    return table;
}

const key = row => String(row.id ?? row.index ?? (row.text != null ? row.at + row.text : (row.name ?? row.address)));

function compare(a, b) {
    if (a == null || b == null) return (a == null) - (b == null);
    return typeof a === 'number' ? a - b : order(a, b);
}

// total: how many there are where the caps left some out.
function show(table, rows, total = rows.length) {
    put(table.count, count(total));
    if (!table.node.open) return;
    const sought = $('filter').value.trim().toLowerCase();
    if (sought)
        rows = rows.filter(row =>
            SOUGHT.some(name =>
                String(row[name] ?? '')
                    .toLowerCase()
                    .includes(sought),
            ),
        );
    const column = table.columns[Math.abs(table.sort) - 1];
    if (column?.by) rows = [...rows].sort((a, b) => Math.sign(table.sort) * compare(column.by(a), column.by(b)));
    table.heads.forEach((head, i) => {
        set(head, 'aria-sort', table.sort === i + 1 ? 'ascending' : table.sort === -i - 1 ? 'descending' : null);
    });
    const found = rows.length;
    if (!table.all) rows = rows.slice(0, FIRST_ROWS);
    place(table, rows);
    table.table.hidden = !table.body.firstChild;
    set(table.table, 'class', rows.length > 30 ? 'long' : null);
    put(
        table.none,
        found ? '' : sought && total ? 'Nothing here has "' + sought + '" in it.' : (table.options.none ?? 'None.'),
    );
    const {command} = table.options;
    const capped = total > found && !sought && command;
    fill(table.note, [
        found > rows.length && {
            t: 'Show all ' + count(found),
            f: () => {
                table.all = true;
                draw();
            },
        },
        capped && count(found) + ' of ' + count(total) + '; all: ',
        capped && {t: 'slime status ' + command, code: true},
    ]);
}

function place(table, rows) {
    const focused = table.body.contains(document.activeElement) ? document.activeElement.closest('tr') : null;
    // What buttons and cells depend on beside their row.
    const mood = S.access + lost() + said;
    const wanted = [],
        kept = new Map();
    for (const row of rows) {
        let name = key(row);
        while (kept.has(name)) name += '+';
        const node =
            table.rows.get(name) ??
            make(
                'tr',
                {role: 'row'},
                ...table.columns.map(column => make('td', {role: 'cell', class: column.c, 'data-label': column.name})),
            );
        const same = node.row === row && node.mood === mood;
        table.columns.forEach((column, i) => (same && !column.live) || fill(node.children[i], column.cell(row)));
        node.row = row;
        node.mood = mood;
        set(node, 'class', null);
        kept.set(name, node);
        wanted.push(node);
    }
    if (focused && !wanted.includes(focused)) {
        // It is over, but somebody is looking at it.
        set(focused, 'class', 'over');
        focused.querySelectorAll('button').forEach(button => (button.onclick = null));
        wanted.splice([...table.body.children].indexOf(focused), 0, focused);
        for (const [name, node] of table.rows) if (node === focused) kept.set(name, node);
    }
    table.rows = kept;
    const staying = new Set(wanted);
    for (const node of [...table.body.children]) if (!staying.has(node)) node.remove();
    let next = table.body.firstChild;
    for (const node of wanted) {
        if (node === focused) {
            // Others move out of its way, because moving it would lose the focus.
            while (next !== node) {
                const other = next;
                next = next.nextSibling;
                table.body.append(other);
            }
        }
        if (node === next) next = next.nextSibling;
        else table.body.insertBefore(node, next);
    }
}
