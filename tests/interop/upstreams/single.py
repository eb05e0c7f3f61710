"""Python's servers that do one thing at a time: `single.py KIND`, with the port on the standard output.

http10  http.server as it is: a connection for each request
http11  the same with connections that are kept, so that one that is idle keeps all others waiting
wsgi    wsgiref, which shows the application's environment
"""

import http.server
import json
import sys
import wsgiref.simple_server


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


class Kept(Handler):
    protocol_version = "HTTP/1.1"


class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_):
        pass


def shown(environ, start_response):
    body = json.dumps({name: value for name, value in environ.items() if isinstance(value, str)}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


kind = sys.argv[1]
if kind == "wsgi":
    server = wsgiref.simple_server.make_server("127.0.0.1", 0, shown, handler_class=Quiet)
else:
    server = http.server.HTTPServer(("127.0.0.1", 0), Kept if kind == "http11" else Handler)
print(f"listening on {server.server_address[1]}", flush=True)
server.serve_forever()
