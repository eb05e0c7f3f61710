"""The upstreams: nginx for requests that cost nothing and for large files, this program for waiting, event streams and uploads."""

import contextlib
import os
import random
import re
import socket
import sys
import threading
import time

from client import Client, drop
from process import HOST, Process, free_port, wait_until

BODY = b"x" * 127 + b"\n"
BIG = 100_000_000

# What all nginx share. One process each, as slime and HAProxy are.
NGINX = """
daemon off; master_process off; worker_processes 1; pid FOLDER/NAME.pid; error_log /dev/null crit; worker_rlimit_nofile 19000;
events { worker_connections 19000; }
http {
    access_log off; default_type text/plain; tcp_nodelay on; keepalive_timeout 600s; keepalive_requests 1000000000; client_max_body_size 0;
    client_body_temp_path FOLDER/NAME.1; proxy_temp_path FOLDER/NAME.2; fastcgi_temp_path FOLDER/NAME.3;
    uwsgi_temp_path FOLDER/NAME.4; scgi_temp_path FOLDER/NAME.5;
"""

STATIC = """
    sendfile on; sendfile_max_chunk 1m;
    server { listen 127.0.0.1:PORT backlog=4096; root FOLDER; location / { return 200 "BODY\\n"; } location /big { } }
    server { listen 127.0.0.1:STATUS; location / { stub_status; } }
}
"""


class Upstreams:
    """Both of them, running."""

    def __init__(self, folder):
        self.big = folder / "big"
        if not self.big.exists():
            self.big.write_bytes(os.urandom(BIG))
        self.static, self.status, self.own = free_port(), free_port(), free_port()
        text = NGINX + STATIC.replace("PORT", str(self.static)).replace("STATUS", str(self.status))
        text = text.replace("BODY", BODY.decode().strip()).replace("FOLDER", str(folder)).replace("NAME", "upstream")
        (folder / "upstream.conf").write_text(text)
        nginx = Process(["nginx", "-e", "stderr", "-p", folder, "-c", folder / "upstream.conf"])
        self.processes = [nginx, Process([sys.executable, __file__, self.own])]
        for port in (self.static, self.status, self.own):
            wait_until(lambda: answers(port))

    def served(self):
        """Requests that nginx has had, without this one."""
        client = Client(self.status)
        text = client.get("/")[1]
        client.close()
        self.asked = getattr(self, "asked", 0) + 1
        return int(text.split(b"\n")[2].split()[2]) - self.asked

    def stop(self):
        for process in self.processes:
            process.stop()


def answers(port):
    with contextlib.suppress(OSError, ValueError):
        client = Client(port, 2)
        status, body = client.get("/")
        client.close()
        return status == 200 and body
    return False


def serve(port):
    """/sleep?ms=N waits and answers; /echo?id=X answers X; /upload the length; /events streams, an event a second."""
    threading.stack_size(256 * 1024)
    listener = socket.create_server((HOST, port), backlog=4096)
    streams = Streams()
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=converse, args=[connection, streams], daemon=True).start()


def converse(connection, streams):
    buffer = b""
    with contextlib.suppress(OSError):
        while True:
            while b"\r\n\r\n" not in buffer:
                got = connection.recv(65536)
                if not got:
                    return connection.close()
                buffer += got
            head, buffer = buffer.split(b"\r\n\r\n", 1)
            length = int(next(iter(re.findall(rb"(?i)content-length: *(\d+)", head)), 0))
            drop(connection, length - len(buffer[:length]))
            buffer = buffer[length:]
            path = head.split()[1]
            body = BODY
            if path == b"/events":
                return streams.add(connection)
            if path == b"/upload":
                body = b"%d" % length
            elif path.startswith(b"/echo?id="):
                body = path.removeprefix(b"/echo?id=")
            elif path.startswith(b"/sleep?ms="):
                time.sleep(int(path.removeprefix(b"/sleep?ms=")) / 1000)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


class Streams:
    """Event streams, each at its own moment of the second."""

    def __init__(self):
        self.lock, self.all = threading.Lock(), []
        threading.Thread(target=self.run, daemon=True).start()

    def add(self, connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.setblocking(False)
        with self.lock:
            self.all.append([time.monotonic() + random.random(), connection])

    def run(self):
        while True:
            now = time.monotonic()
            with self.lock:
                due = [stream for stream in self.all if stream[0] <= now]
            for stream in due:
                stream[0] += 1
                event = b"data: %020d %s\n\n" % (time.monotonic_ns(), b"." * 32)
                try:
                    stream[1].send(b"%x\r\n%s\r\n" % (len(event), event))
                except BlockingIOError:
                    pass
                except OSError:
                    stream[1].close()
                    with self.lock:
                        self.all.remove(stream)
            time.sleep(0.002)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
