"""A server of Python's http.server: HTTP/1.0, responses that end with their connection."""

import http.server
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

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"listening on {server.server_port}", flush=True)
server.serve_forever()
