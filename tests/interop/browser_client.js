// A browser as the application: browser_client.js CHROMIUM STEPS. STEPS is a list in JSON that one page goes through. Prints a list of
// what came of each.
'use strict';
const { chromium } = require('playwright-core');
const [executablePath, text] = process.argv.slice(2);

const steps = {
  // Opens a page, as somebody does who types its address.
  async open(page, { url }) {
    try {
      const response = await page.goto(url);
      return { status: response.status(), type: response.headers()['content-type'], text: await page.innerText('body') };
    } catch (error) { return { error: error.message }; }
  },
  // What a script of the page that is open gets.
  async fetch(page, { url, options }) {
    return page.evaluate(async ([url, options]) => {
      try {
        const got = await fetch(url, options);
        const fields = Object.fromEntries(got.headers);
        return { status: got.status, fields, text: await got.text() };
      } catch (error) { return { error: error.message }; }
    }, [url, options]);
  },
  // What a WebSocket of the page says.
  async socket(page, { url }) {
    return page.evaluate((url) => new Promise((resolve) => {
      const socket = new WebSocket(url);
      socket.onopen = () => socket.send('hello');
      socket.onmessage = (message) => { resolve({ message: message.data }); socket.close(); };
      socket.onerror = () => resolve({ error: 'refused' });
    }), url);
  },
};

(async () => {
  const { password, todo } = JSON.parse(text);
  const args = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'];
  const browser = await chromium.launch({ executablePath, args });
  const httpCredentials = password ? { username: 'anybody', password } : undefined;
  const page = await (await browser.newContext({ httpCredentials, ignoreHTTPSErrors: true })).newPage();
  const done = [];
  for (const { step, ...options } of todo) done.push(await steps[step](page, options));
  await browser.close();
  process.stdout.write(JSON.stringify(done));
})().catch((error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exitCode = 1;
});
