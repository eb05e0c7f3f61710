// http-proxy as development servers use it: `front.js TARGET`.
const http = require("http");
const proxy = require("http-proxy").createProxyServer({ target: process.argv[2], ws: true, xfwd: true });

proxy.on("error", (error, request, response) => {
    console.log(`error: ${error.message}`);
    if (response && response.writeHead) response.writeHead(502);
    if (response) response.end();
});
const server = http.createServer((request, response) => proxy.web(request, response));
server.on("upgrade", (request, socket, head) => proxy.ws(request, socket, head));
server.listen(0, "127.0.0.1", () => console.log(`listening on ${server.address().port}`));
