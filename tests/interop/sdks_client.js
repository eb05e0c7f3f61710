// Asks one question with a library for Node: sdks_client.js NAME URL KEY. Prints the answer, or the error as the library tells it.
'use strict';
const [name, url, key] = process.argv.slice(2);
const messages = [{ role: 'user', content: 'hello' }];

const ask = {
  async openai() {
    const { OpenAI } = require('openai');
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
    const got = await client.chat.completions.create({ model: 'small', messages });
    return got.choices[0].message.content;
  },
  async ollama() {
    const { Ollama } = require('ollama');
    const client = new Ollama({ host: url, headers: { Authorization: `Bearer ${key}` } });
    return (await client.chat({ model: 'small', messages })).message.content;
  },
};

ask[name]().then((text) => process.stdout.write(text), (error) => {
  process.stderr.write(error.message);
  process.exitCode = 1;
});
