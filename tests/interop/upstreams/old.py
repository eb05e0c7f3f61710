"""A server of Python's http.server: HTTP/1.0, responses that end with their connection."""

import contextlib
import http.server
import os
import ssl
import time


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if not self.path.startswith("/close"):
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        for number in range(100):
            self.wfile.write(f"{number}\n".encode())
            if self.path == "/close/slowly":
                time.sleep(0.005)
        return None

    def finish(self):
        super().finish()
        if isinstance(self.connection, ssl.SSLSocket):
            # The end of the body: without a word of it, it would be a body that was cut.
            with contextlib.suppress(OSError):
                self.connection.unwrap()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
if certificate := os.environ.get("SLIME_INTEROP_CERT"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, os.environ["SLIME_INTEROP_KEY"])
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print(f"listening on {server.server_port}", flush=True)
server.serve_forever()
