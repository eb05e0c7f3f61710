// A server of Node's http module, with what only a few servers do.
'use strict';
const crypto = require('crypto');
const fs = require('fs');

// With a certificate it speaks TLS.
const { SLIME_INTEROP_CERT: cert, SLIME_INTEROP_KEY: key } = process.env;
const http = require(cert ? 'https' : 'http');
const tls = cert ? { cert: fs.readFileSync(cert), key: fs.readFileSync(key) } : {};

const events = new Map();
const note = (of, event) => events.set(of, [...(events.get(of) || []), event]);
let connections = 0;

const server = http.createServer({ keepAliveTimeout: 5000, ...tls }, (request, response) => {
  const url = new URL(request.url, 'http://upstream');
  const of = url.searchParams.get('of') || 'any';
  const [, first, second] = url.pathname.split('/');
  switch (first) {
    case 'events':
      return json(response, events.get(second) || []);
    case 'connections':
      return json(response, connections);
    case 'digest': {
      const sum = crypto.createHash('sha256');
      let length = 0;
      note(of, 'begun');
      request.on('data', (data) => { sum.update(data); length += data.length; });
      request.on('end', () => {
        note(of, 'complete');
        json(response, { sha256: sum.digest('hex'), length, trailers: request.trailers });
      });
      return request.on('aborted', () => note(of, 'cut'));
    }
    case 'mirror':
      // Chunked both ways, at the same time.
      response.writeHead(200, { 'Content-Type': 'application/octet-stream' });
      return request.pipe(response);
    case 'trailers':
      response.writeHead(200, { Trailer: 'X-Sum, X-Late', 'Slime-Head': 'forged' });
      response.write('body\n');
      response.addTrailers({ 'X-Sum': '42', 'X-Late': 'yes', 'Slime-Trailer': 'forged' });
      return response.end();
    case 'hints':
      response.writeEarlyHints({ link: '</style.css>; rel=preload; as=style' });
      return setTimeout(() => {
        response.writeProcessing();
        response.end('after the hints\n');
      }, 20);
    case 'echo':
      return json(response, { method: request.method, url: request.url, headers: request.rawHeaders });
    case 'count': {
      note(of, 'begun');
      let number = 0;
      const timer = setInterval(() => response.write(`${number++}\n`), 10);
      return response.on('close', () => { clearInterval(timer); note(of, 'cut'); });
    }
    case 'chunks':
      // Without a length, of a known size.
      for (let number = 0; number < 1000; number++) response.write(`${number}\n`);
      return response.end();
    case 'break':
      // The beginning of a body, and then nothing more.
      if (second === 'length') response.writeHead(200, { 'Content-Length': 1000 });
      response.write('the beginning');
      return setTimeout(() => response.destroy(), 20);
    case 'late':
      // An answer before the body was read.
      response.writeHead(403, { 'Content-Type': 'text/plain' });
      return response.end('not for you\n');
    case 'twice':
      response.setHeader('Set-Cookie', ['a=1', 'b=2']);
      return response.end('cookies');
    case 'empty':
      response.writeHead(Number(second));
      return response.end();
    default:
      response.end(`${request.method} ${request.url}\n`);
  }
});

server.on('checkContinue', (request, response) => {
  if (request.url.startsWith('/refuse')) {
    response.writeHead(417, { 'Content-Type': 'text/plain' });
    return response.end('too much\n');
  }
  response.writeContinue();
  return server.emit('request', request, response);
});

server.on('upgrade', (request, socket, head) => {
  // A protocol of our own: everything comes back in capitals, and the end is answered by a word.
  if (request.headers.upgrade !== 'shout') {
    return socket.end('HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n');
  }
  socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\nwelcome\n');
  const shout = (data) => socket.write(data.toString('latin1').toUpperCase(), 'latin1');
  if (head.length) shout(head);
  socket.on('data', shout);
  socket.on('end', () => socket.end('bye\n'));
  socket.on('error', () => {});
  return undefined;
});

function json(response, value) {
  const text = JSON.stringify(value);
  response.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(text) });
  response.end(text);
}

server.on('connection', () => { connections += 1; });
server.listen(0, '127.0.0.1', () => console.log(`listening on ${server.address().port}`));
