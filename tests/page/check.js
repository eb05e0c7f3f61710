// Looks at the status page with Chromium: what it says in each state, by keyboard alone, at a phone's width, in the
// dark, without colours, with names that want to be markup; and what axe finds.
//
//     node check.js MOCK [FOLDER]         every state of mock.py at MOCK; FOLDER gets a picture of each
//     node check.js --hub URL [FOLDER]    the page of a process that runs: what holds of every state
'use strict';
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const {chromium} = require('playwright-core');

const AXE = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const real = process.argv[2] === '--hub';
const [base, folder] = process.argv.slice(real ? 3 : 2);
const PHONE = {viewport: {width: 360, height: 740}, hasTouch: true};

let browser;
const failed = [];

// What a browser says of a page that would do what it must not.
function listen(page) {
    const faults = [];
    page.on('pageerror', error => faults.push('error: ' + error.message));
    page.on('dialog', dialog => faults.push('dialog: ' + dialog.message()) && dialog.dismiss());
    page.on('console', message => {
        // A stream that is refused is a line of the browser's own.
        if (message.type() === 'error' && !/Failed to load resource|EventSource/.test(message.text()))
            faults.push('console: ' + message.text());
    });
    page.on(
        'request',
        request =>
            new URL(request.url()).origin === new URL(base).origin ||
            request.url().startsWith('data:') ||
            faults.push('asked ' + request.url()),
    );
    return faults;
}

async function axe(page, what) {
    await page.evaluate(AXE);
    const result = await page.evaluate(() => window.axe.run(document, {resultTypes: ['violations']}));
    const found = result.violations.map(
        v =>
            v.id +
            ' (' +
            v.impact +
            '): ' +
            v.nodes
                .slice(0, 4)
                .map(n => n.target + ' ' + (n.any[0]?.message ?? n.all[0]?.message ?? ''))
                .join('; '),
    );
    assert.deepEqual(found, [], 'axe, ' + what);
}

// One check: a page of its own, nothing in the console, and a picture.
async function check(name, state, work, options = {}) {
    if (process.env.ONLY && !name.includes(process.env.ONLY)) return;
    const context = await browser.newContext({
        viewport: {width: 1280, height: 900},
        locale: 'en-GB',
        timezoneId: 'Europe/Berlin',
        ...options,
    });
    const page = await context.newPage();
    page.setDefaultTimeout(20000);
    const faults = listen(page);
    try {
        const response = await page.goto(real ? base : base + '/' + state + '/');
        await page.waitForFunction(() => document.getElementById('before').hidden);
        await work?.(page, response, faults);
        if (folder)
            await page.screenshot({path: path.join(folder, name + '.png'), fullPage: true, animations: 'disabled'});
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(wide <= 0, 'the page is ' + wide + ' pixels too wide');
        await axe(page, name);
        assert.deepEqual(faults, []);
        console.log('ok   ' + name);
    } catch (error) {
        failed.push(name);
        console.log(
            'FAIL ' +
                name +
                '\n' +
                error.message +
                '\n' +
                (error.stack ?? '')
                    .split('\n')
                    .filter(line => line.includes('check.js'))
                    .slice(0, 3)
                    .join('\n'),
        );
    } finally {
        await context.close();
    }
}

const text = (page, selector) => page.locator(selector).first().innerText();
const rows = (page, table) => page.locator('#' + table + ' tbody tr').count();
const says = (page, selector, what) =>
    page.waitForFunction(
        ([selector, what]) => [...document.querySelectorAll(selector)].some(node => node.textContent.includes(what)),
        [selector, what],
    );
const posts = async () => (await (await fetch(base + '/posts')).json()).map(post => post.state + ' ' + post.path);

// Presses Tab until what has the focus has this name.
async function tabTo(page, name, most = 150) {
    for (let i = 0; i < most; i++) {
        await page.keyboard.press('Tab');
        const label = await page.evaluate(() =>
            (document.activeElement.ariaLabel ?? document.activeElement.textContent).trim(),
        );
        if (label === name) return;
    }
    assert.fail('Tab does not come to ' + name);
}

// Text of each colour on each ground that it may stand on (WCAG 2.2, 1.4.3), also where nothing has it now.
async function contrast(page) {
    const low = await page.evaluate(() => {
        const style = getComputedStyle(document.documentElement);
        const light = name => {
            const [r, g, b] = [1, 3, 5]
                .map(
                    at =>
                        parseInt(
                            style
                                .getPropertyValue('--' + name)
                                .trim()
                                .slice(at, at + 2),
                            16,
                        ) / 255,
                )
                .map(c => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const pairs = ['text', 'minor', 'accent', 'good', 'warn', 'bad'].flatMap(text => [
            [text, 'page'],
            [text, 'card'],
        ]);
        pairs.push(['warn', 'warn-card'], ['bad', 'bad-card'], ['text', 'warn-card'], ['text', 'bad-card']);
        return pairs
            .map(([text, ground]) => {
                const [a, b] = [light(text), light(ground)].sort((x, y) => y - x);
                return [text, ground, (a + 0.05) / (b + 0.05)];
            })
            .filter(([, , ratio]) => !(ratio >= 4.5));
    });
    assert.deepEqual(low, []);
}

async function general() {
    await check('any-desktop', 'usual', async (page, response, faults) => {
        const fields = response.headers();
        assert.match(fields['content-security-policy'], /default-src 'none'.*require-trusted-types-for 'script'/);
        assert.equal(fields['content-type'], 'text/html; charset=utf-8');
        assert.match(fields['cache-control'], /no-cache/);
        await says(page, '#way', 'live');
        await page.evaluate(() =>
            document.querySelectorAll('details').forEach(node => {
                node.open = true;
            }),
        );
        // Trusted Types are in force.
        assert.ok(
            await page.evaluate(() => {
                try {
                    document.body.innerHTML = 'x';
                    return false;
                } catch {
                    return true;
                }
            }),
        );
        assert.match(faults.splice(0).join(), /TrustedHTML/);
    });
    await check('any-dark', 'usual', contrast, {colorScheme: 'dark'});
    await check('any-light', 'usual', contrast, {colorScheme: 'light'});
    await check(
        'any-phone',
        'usual',
        async page => {
            // A finger needs 44 pixels.
            const small = await page.evaluate(() =>
                [...document.querySelectorAll('button, input[type=search], summary, label, footer a')]
                    .filter(node => node.checkVisibility() && node.getBoundingClientRect().height < 44)
                    .map(node => node.outerHTML),
            );
            assert.deepEqual(small, []);
        },
        PHONE,
    );
    await check('any-small', 'usual', null, {viewport: {width: 700, height: 900}});
}

async function states() {
    await check('usual', 'usual', async page => {
        await says(page, '#way', 'live');
        assert.equal(await page.title(), '2 waiting - slime hub1');
        assert.equal(await text(page, '#state'), 'ready');
        const order = await page.locator('#agents tbody tr .lead').allInnerTexts();
        assert.deepEqual(order, ['gpu-3', 'gpu-1', 'gpu-2', 'gpu-10']);
        assert.deepEqual(await page.locator('#apps tbody td:first-child').allInnerTexts(), ['alice', 'bob']);
        const since = await text(page, '#running tbody td');
        await page.waitForFunction(since => document.querySelector('#running tbody td').textContent !== since, since);
        assert.match(
            await page.locator('svg').nth(1).getAttribute('aria-label'),
            /^Waiting: now \d+, at most \d+ in the last hour$/,
        );
        await page.getByRole('button', {name: 'Show gpu-3'}).click();
        await page.waitForFunction(() => /nobody listens there/.test(document.activeElement.textContent));
    });
    await check('usual-colourless', 'usual', async page => {
        const session = await page.context().newCDPSession(page);
        await session.send('Emulation.setEmulatedVisionDeficiency', {type: 'achromatopsia'});
    });
    await check('usual-forced-colours', 'usual', null, {forcedColors: 'active'});
    await check('usual-zoomed', 'usual', null, {viewport: {width: 640, height: 450}, deviceScaleFactor: 2});
    await check(
        'empty',
        'empty',
        async page => {
            assert.match(await text(page, '#first'), /No agent has joined yet/);
            await page.getByRole('button', {name: /^Copy On the machine beside/}).click();
            await says(page, '#first button', 'copied');
            assert.equal(await page.locator('#sections').isVisible(), false);
        },
        {permissions: ['clipboard-read', 'clipboard-write']},
    );
    await check('one', 'one', async page =>
        assert.match(await text(page, '#first code'), /^curl http:\/\/hub1:8080\/$/),
    );
    await check('bare', 'bare', async page => assert.equal(await page.locator('#plots').isVisible(), false));
    await check('few', 'few', async page => {
        assert.equal(await rows(page, 'agents'), 100);
        await page.getByRole('button', {name: 'Show all 500'}).click();
        await page.waitForFunction(() => document.querySelectorAll('#agents tbody tr').length === 500);
        await page.getByRole('searchbox').fill('box-77');
        await page.getByRole('searchbox').fill('node-77');
        await page.waitForFunction(() => document.querySelectorAll('#agents tbody tr').length === 1);
        await page.getByRole('searchbox').fill('');
        await page.getByRole('checkbox').check();
        await page.waitForFunction(() => document.querySelectorAll('#agents tbody tr').length === 1);
        await page.getByRole('checkbox').uncheck();
        await page.waitForFunction(() => document.querySelectorAll('#agents tbody tr').length === 500);
        const took = await page.evaluate(() => {
            const at = performance.now();
            drawAll();
            return performance.now() - at;
        });
        console.log('     500 agents are drawn again in ' + took.toFixed(1) + ' ms');
        await page.locator('#agents').getByRole('button', {name: 'Agent', exact: true}).click();
        await says(page, 'th[aria-sort=ascending]', 'Agent');
        await page.reload();
        await says(page, 'th[aria-sort=ascending]', 'Agent');
    });
    await check('many', 'many', async page => {
        await page.getByRole('button', {name: 'Show all 500'}).click();
        await says(page, '#agents .note', '500 of 2,310; all: slime status agents');
    });
    await check('paused', 'paused', async page => {
        assert.match(await text(page, '#notices'), /The queue is paused since \d\d:\d\d; 2 requests wait\./);
        assert.equal(await text(page, '#state'), 'queue paused');
        await page.locator('#notices').getByRole('button', {name: 'Resume queue'}).click();
        await says(page, '#state', 'ready');
        await page.locator('#agents').getByRole('button', {name: 'Resume gpu-1', exact: true}).click();
        assert.match(await text(page, '#question'), /^All agents named gpu-1 are paused/);
        await page.getByRole('button', {name: 'Resume all'}).click();
        await says(page, '#said', 'Resumed');
        assert.deepEqual((await posts()).slice(-2), ['paused api/queue/resume', 'paused api/names/gpu-1/resume']);
    });
    await check('view', 'view', async page => {
        const labels = await page.locator('main tbody button, #notices button, #tools button').allInnerTexts();
        assert.deepEqual(
            labels.filter(label => !['copy', 'Show'].includes(label)),
            [],
        );
    });
    await check('draining', 'draining', async page => {
        assert.match(await text(page, '#notices'), /draining, until \d\d:\d\d at most; 3 run, 2 wait\./);
        assert.match(
            await text(page, '#notices'),
            /The process before this one still serves 3 requests \(until \d\d:\d\d\)\./,
        );
    });
    await check('agent', 'agent', async page => {
        assert.equal(await page.title(), 'slime box-17');
        assert.match(await text(page, '#hubs'), /connection refused[^]*in 0:1\d/);
        await page.getByRole('button', {name: 'Pause 127.0.0.1:11434'}).click();
        await page.locator('dialog').getByRole('button', {name: 'Pause 127.0.0.1:11434'}).click();
        await says(page, '#upstreams .word', 'paused');
        await page.getByRole('button', {name: 'Cancel request 7f3a91c2-1'}).click();
        assert.match(await text(page, '#question'), /^Cancel this request\? It runs for 3\d s on 127\.0\.0\.1:11434;/);
        await page.getByRole('button', {name: 'Cancel request', exact: true}).click();
        await says(page, '#running .none', 'Nothing runs.');
        assert.deepEqual((await posts()).slice(-2), [
            'agent api/agents/0/pause',
            'agent api/exchanges/7f3a91c2-1/cancel',
        ]);
    });
    await check('agent-phone', 'agent', null, PHONE);
    await check('locked', 'locked', async page => {
        await page.getByRole('button', {name: 'Pause queue'}).click();
        await page.locator('dialog').getByRole('button', {name: 'Pause queue'}).click();
        await says(page, '#queue', 'Failed');
        await says(page, '#said', 'This password may look, and do nothing.');
    });
    await hostile();
    await keyboard();
    await connection();
}

async function hostile() {
    await check('hostile', 'hostile', async page => {
        await page.evaluate(() =>
            document.querySelectorAll('details').forEach(node => {
                node.open = true;
            }),
        );
        assert.equal(await page.locator('#notices li').count(), 8);
        await page.getByRole('button', {name: 'Show all 10 warnings'}).click();
        await page.waitForFunction(() => document.querySelectorAll('#notices li').length === 10);
        await says(page, '#agents tbody', '<img src=x onerror=alert(1)>');
        await says(page, '#waiting tbody', '\u2039U+202E\u203agnp.exe');
        await says(page, '#log tbody', 'x'.repeat(128));
        await says(page, '#apps tbody', '__proto__');
        assert.equal(await page.locator('main img, main script').count(), 0);
        assert.doesNotMatch(await page.evaluate(() => document.documentElement.outerHTML), /[\u202a-\u202e\u0007]/);
        await page
            .locator('#agents tbody tr', {hasText: 'onload'})
            .first()
            .getByRole('button', {name: /^Pause/})
            .click();
        await page
            .locator('dialog')
            .getByRole('button', {name: /^Pause all/})
            .click();
        await says(page, '#said', 'Paused');
        assert.equal(decodeURIComponent((await posts()).at(-1)), 'hostile api/names/"\'><svg/onload=alert(1)>/pause');
    });
    await check(
        'hostile-phone',
        'hostile',
        async page => {
            await page.evaluate(() =>
                document.querySelectorAll('details').forEach(node => {
                    node.open = true;
                }),
            );
        },
        PHONE,
    );
}

async function keyboard() {
    await check('keyboard', 'usual', async page => {
        await page.keyboard.press('Tab');
        await page.waitForFunction(() => document.activeElement.className === 'skip');
        await page.keyboard.press('Enter');
        await page.waitForFunction(() => document.activeElement.id === 'main');
        // A plot: the arrows show the values of earlier points.
        await page.keyboard.press('Tab');
        await page.keyboard.press('ArrowLeft');
        await page.waitForFunction(() => /\d\d:\d\d:\d\d/.test(document.querySelector('figcaption').innerText));
        // Escape gives the safe answer, which has the focus, and the focus goes back.
        await tabTo(page, 'Cancel request 7f3a91c2-470');
        await page.keyboard.press('Enter');
        await page.waitForFunction(() => document.activeElement.textContent === 'Let it wait');
        if (folder) await page.screenshot({path: path.join(folder, 'dialog.png')});
        await axe(page, 'dialog');
        await page.keyboard.press('Escape');
        await page.waitForFunction(() => document.activeElement.ariaLabel === 'Cancel request 7f3a91c2-470');
        // The row that has the focus stays while all others go, and says what became of it.
        await page.keyboard.press('Enter');
        await page.keyboard.press('Tab');
        await page.keyboard.press('Enter');
        await page.waitForFunction(() => document.querySelector('#waiting tr.over'));
        assert.match(
            await page.evaluate(() => document.activeElement.ariaLabel),
            /^Cancel(led)? request 7f3a91c2-470$/,
        );
        assert.deepEqual((await posts()).slice(-1), ['usual api/exchanges/7f3a91c2-470/cancel']);
        await tabTo(page, 'Pause gpu-2');
        await page.keyboard.press('Enter');
        assert.equal(
            await text(page, '#question'),
            'Pause gpu-2? It gets no new requests; the 1 that runs ends normally. ' +
                'Requests that only it can serve are refused with 503 until you resume it.',
        );
        await page.keyboard.press('Tab');
        await page.keyboard.press('Enter');
        // It moves up among those with trouble, and the focus goes with it.
        await page.waitForFunction(
            () =>
                (document.activeElement.ariaLabel === 'Resume gpu-2' &&
                    document.activeElement.closest('tr').rowIndex === 1) ||
                document.activeElement.closest('tr')?.rowIndex === 2,
        );
        await page.waitForFunction(() => document.activeElement.ariaLabel === 'Resume gpu-2');
        await page.keyboard.press('Enter');
        await says(page, '#said', 'Resumed');
        assert.deepEqual((await posts()).slice(-2).map(decodeURIComponent), [
            'usual api/agents/t002:0002909a66e1/pause',
            'usual api/agents/t002:0002909a66e1/resume',
        ]);
    });
}

async function connection() {
    await check('lost', 'lost', async page => {
        await says(page, '#way', 'live');
        await page.route('**/api/status', route => route.abort());
        await says(page, '#notices', 'No news from hub1 for 12 s. This is from');
        assert.match(await page.title(), /^\(lost\) slime hub1$/);
        assert.equal(await text(page, '#way'), 'no news');
        const button = page.getByRole('button', {name: 'Pause queue'});
        assert.equal(await button.getAttribute('aria-disabled'), 'true');
        await button.click({force: true});
        assert.equal(await page.locator('dialog').isVisible(), false);
    });
    await check('restarted', 'restarted', async page => {
        await says(page, '#notices', 'The hub was restarted at ');
        await says(page, 'footer', '99999999');
        assert.equal(await text(page, '#way'), 'live');
    });
    await check('polling', 'polling', async page => {
        await says(page, '#way', 'every 5 s');
        const before = await page.evaluate(() => S.now_at);
        await page.waitForFunction(before => S.now_at > before, before);
    });
    await check('hidden', 'usual', async page => {
        await says(page, '#way', 'live');
        await page.evaluate(() => {
            Object.defineProperty(document, 'hidden', {value: true, configurable: true});
            document.dispatchEvent(new Event('visibilitychange'));
        });
        assert.equal(await page.evaluate(() => stream), null);
        await page.waitForTimeout(1500);
        await page.evaluate(() => {
            delete document.hidden;
            document.dispatchEvent(new Event('visibilitychange'));
        });
        await page.waitForFunction(() => stream?.readyState === 1 && performance.now() - heard < 1000);
    });
    // What the changes of a stream make of the first status is what the status is by then.
    await check('changes', 'few', async page => {
        await says(page, '#way', 'live');
        const id = await page.evaluate(() => S.agents[7].id);
        await fetch(base + '/few/api/agents/' + encodeURIComponent(id) + '/pause', {
            method: 'POST',
            headers: {'Content-Type': 'application/json'},
        });
        await page.waitForFunction(id => S.agents.find(agent => agent.id === id).state === 'paused', id);
        const [here, there] = await page.evaluate(async () => {
            const there = await (await fetch('api/status')).json(),
                here = structuredClone(S);
            for (const status of [here, there]) for (const name of ['now_at', 'history']) delete status[name];
            return [here, there];
        });
        assert.deepEqual(here, there);
    });
    if (!real) {
        const context = await browser.newContext({javaScriptEnabled: false});
        const page = await context.newPage();
        await page.goto(base + '/usual/');
        assert.match(
            await page.locator('noscript').innerText(),
            /This page needs JavaScript; slime status says the same\./,
        );
        await context.close();
    }
}

(async () => {
    if (folder) fs.mkdirSync(folder, {recursive: true});
    browser = await chromium.launch({
        executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
        args: ['--no-sandbox'],
    });
    try {
        await general();
        if (!real) await states();
    } finally {
        await browser.close();
    }
    if (failed.length) {
        console.log('FAILED: ' + failed.join(', '));
        process.exit(1);
    }
})();
