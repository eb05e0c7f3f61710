// Node as the application. Every scenario prints one JSON line, and the process ends with 1 if one fails.
'use strict';
const assert = require('assert');
const crypto = require('crypto');
const { once } = require('events');

const hub = new URL(process.argv[2]);
const http = require(hub.protocol.slice(0, -1));
const base = { host: hub.hostname, port: hub.port };
const agent = new http.Agent({ keepAlive: true, maxSockets: 10 });

function ask(options, body) {
  return new Promise((resolve, reject) => {
    const seen = { interim: [] };
    const request = http.request({ ...base, agent, ...options }, async (response) => {
      const parts = [];
      try {
        for await (const part of response) parts.push(part);
        resolve({ ...seen, response, body: Buffer.concat(parts), trailers: response.trailers });
      } catch (error) { reject(error); }
    });
    request.on('information', (info) => seen.interim.push(info));
    request.on('error', reject);
    if (typeof body === 'function') body(request); else request.end(body);
  });
}

const scenarios = {
  async keepAlive() {
    const sockets = new Set();
    for (let n = 0; n < 500; n++) {
      await new Promise((resolve, reject) => {
        const request = http.get({ ...base, agent, path: `/n/${n}` }, (response) => {
          response.resume();
          response.on('end', resolve);
          assert.strictEqual(response.statusCode, 200);
        });
        request.on('socket', (socket) => sockets.add(socket));
        request.on('error', reject);
      });
    }
    assert.strictEqual(sockets.size, 1);
  },

  async parallel() {
    const all = await Promise.all(Array.from({ length: 300 }, (_, n) => ask({ path: `/n/${n}` })));
    all.forEach((got, n) => assert.strictEqual(got.body.toString(), `GET /n/${n}\n`));
  },

  async chunkedBothWays() {
    const piece = crypto.randomBytes(64 * 1024);
    const sum = crypto.createHash('sha256');
    const got = await ask({ path: '/mirror', method: 'POST' }, async (request) => {
      for (let n = 0; n < 200; n++) {
        sum.update(piece);
        if (!request.write(piece)) await once(request, 'drain');
      }
      request.end();
    });
    assert.strictEqual(crypto.createHash('sha256').update(got.body).digest('hex'), sum.digest('hex'));
  },

  async conversation() {
    // Each piece comes back before the next one is sent: nothing waits for more.
    await new Promise((resolve, reject) => {
      const request = http.request({ ...base, agent, path: '/mirror', method: 'POST' }, (response) => {
        let number = 0;
        response.on('data', (data) => {
          try {
            assert.strictEqual(data.toString(), `piece ${number}`);
          } catch (error) { reject(error); return; }
          number += 1;
          if (number === 50) request.end(); else request.write(`piece ${number}`);
        });
        response.on('end', resolve);
      });
      request.on('error', reject);
      request.write('piece 0');
    });
  },

  async earlyHints() {
    const got = await ask({ path: '/hints' });
    assert.deepStrictEqual(got.interim.map((info) => info.statusCode), [103, 102]);
    assert.match(got.interim[0].headers.link, /preload/);
    assert.strictEqual(got.body.toString(), 'after the hints\n');
  },

  async trailers() {
    const got = await ask({ path: '/digest', method: 'POST', headers: { Trailer: 'X-Sum' } }, (request) => {
      request.write('abc');
      request.addTrailers({ 'X-Sum': '7', 'Slime-Forged': 'yes' });
      request.end();
    });
    assert.deepStrictEqual(JSON.parse(got.body).trailers, { 'x-sum': '7' });
    const back = await ask({ path: '/trailers', headers: { TE: 'trailers' } });
    assert.deepStrictEqual({ ...back.trailers }, { 'x-sum': '42', 'x-late': 'yes' });
  },

  async continues() {
    const body = crypto.randomBytes(3_000_000);
    const headers = { Expect: '100-continue', 'Content-Length': body.length };
    let continued = false;
    const got = await ask({ path: '/digest', method: 'PUT', headers }, (request) => {
      request.on('continue', () => { continued = true; request.end(body); });
      request.flushHeaders();
    });
    assert(continued);
    assert.strictEqual(JSON.parse(got.body).length, body.length);
    const refused = await ask({ path: '/refuse', method: 'PUT', headers, agent: false }, (request) => {
      request.on('continue', () => assert.fail('continued'));
      request.flushHeaders();
    });
    assert.strictEqual(refused.response.statusCode, 417);
  },

  async upgrade() {
    const headers = { Connection: 'Upgrade', Upgrade: 'shout' };
    const request = http.request({ ...base, path: '/any', headers }).end();
    const [response, socket, head] = await once(request, 'upgrade');
    assert.strictEqual(response.headers.upgrade, 'shout');
    let text = head.toString();
    socket.on('data', (data) => { text += data; });
    socket.write('hello ');
    socket.end('there\n');
    await once(socket, 'end');
    assert.strictEqual(text, 'welcome\nHELLO THERE\nbye\n');
  },

  async upgradeRefused() {
    const headers = { Connection: 'Upgrade', Upgrade: 'whisper' };
    const request = http.request({ ...base, path: '/any', headers }).end();
    const [response] = await once(request, 'response');
    assert.strictEqual(response.statusCode, 400);
    response.resume();
    await once(response, 'end');
  },

  async empty() {
    for (const status of [204, 304, 205]) {
      const got = await ask({ path: `/empty/${status}` });
      assert.strictEqual(got.response.statusCode, status);
      assert.strictEqual(got.body.length, 0);
    }
    const head = await ask({ path: '/chunks', method: 'HEAD' });
    assert.strictEqual(head.body.length, 0);
  },

  async repeatedFields() {
    const got = await ask({ path: '/twice' });
    assert.deepStrictEqual(got.response.headers['set-cookie'], ['a=1', 'b=2']);
    const headers = { 'X-Many': ['1', '2'], 'X-Latin': 'caf\u00e9' };
    const sent = JSON.parse((await ask({ path: '/echo', headers })).body).headers;
    const values = sent.filter((_, at) => at % 2 === 1 && sent[at - 1] === 'X-Many');
    assert.deepStrictEqual(values, ['1', '2']);
    assert.strictEqual(sent[sent.indexOf('X-Latin') + 1], 'caf\u00e9');
  },

  async fetching() {
    // undici, in Node's fetch.
    const url = (path) => new URL(path, hub);
    assert.strictEqual(await (await fetch(url('/x'))).text(), 'GET /x\n');
    const all = await Promise.all(Array.from({ length: 100 }, (_, n) => fetch(url(`/n/${n}`)).then((r) => r.text())));
    all.forEach((text, n) => assert.strictEqual(text, `GET /n/${n}\n`));
    const stream = new ReadableStream({
      start(controller) {
        for (let n = 0; n < 100; n++) controller.enqueue(Buffer.alloc(10000, n));
        controller.close();
      },
    });
    const digest = await (await fetch(url('/digest'), { method: 'POST', body: stream, duplex: 'half' })).json();
    assert.strictEqual(digest.length, 1_000_000);
    const form = new FormData();
    form.set('a', 'b');
    assert((await (await fetch(url('/digest'), { method: 'POST', body: form })).json()).length > 50);
    const lines = await (await fetch(url('/chunks'))).text();
    assert.strictEqual(lines.split('\n').length, 1001);
    await assert.rejects(async () => (await fetch(url('/break/chunks'))).text());
    await assert.rejects(async () => (await fetch(url('/break/length'))).text());
    // Aborted in mid-stream; the one worker is free at once.
    const leave = new AbortController();
    const response = await fetch(url('/count?of=fetch_abort'), { signal: leave.signal });
    const reader = response.body.getReader();
    await reader.read();
    leave.abort();
    assert.strictEqual(await (await fetch(url('/after'))).text(), 'GET /after\n');
    assert.deepStrictEqual(await (await fetch(url('/events/fetch_abort'))).json(), ['begun', 'cut']);
  },
};

(async () => {
  const wanted = process.argv[3];
  try {
    await scenarios[wanted]();
  } finally {
    agent.destroy();
  }
})().catch((error) => { console.error(error); process.exitCode = 1; });
