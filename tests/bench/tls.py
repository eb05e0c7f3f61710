#!/usr/bin/env python3
"""What TLS costs the hub, beside nginx with one worker and the same certificate, in one run.

    tests/bench/tls.py [SLIME [ROUNDS]]      the binary, target/release/slime without; how often, 3 times without

Needs nginx, openssl, curl and wrk. Costs are processor time of the server alone, from /proc: how fast the clients are does not matter.
Requests are counted with all processes on one processor, which is what repeats, and with slime's log at its default level. What is printed
is the median of the rounds, and the least and the most in brackets.
"""

import contextlib
import os
import re
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SLIME = sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "target" / "release" / "slime")
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 3
HANDSHAKES = 1000
SECONDS = 4
GIGABYTES = 2
IDLE = 1000
ENVIRONMENT = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin", "SLIME_SECRET": "a secret of the benchmark"}
for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"]:
    ENVIRONMENT.pop(name, None)

NGINX = """
daemon off; master_process off; worker_processes 1; pid FOLDER/pid; error_log stderr warn; worker_rlimit_nofile 8192;
events { worker_connections 4096; }
http {
    access_log off; client_max_body_size 0; keepalive_timeout 600s; keepalive_requests 100000000;
    client_body_temp_path FOLDER/t1; proxy_temp_path FOLDER/t2; fastcgi_temp_path FOLDER/t3;
    uwsgi_temp_path FOLDER/t4; scgi_temp_path FOLDER/t5;
    upstream service { server 127.0.0.1:SERVICE; keepalive 64; }
    server {
        listen 127.0.0.1:PORT ssl; ssl_certificate FOLDER/cert.pem; ssl_certificate_key FOLDER/key.pem;
        ssl_session_cache shared:all:1m;
        proxy_http_version 1.1; proxy_buffering off; proxy_request_buffering off; proxy_set_header Connection "";
        location / { proxy_pass http://service; }
        location /.slime/ { return 404; }
    }
}
"""


# The upstream of the small requests.
STATIC = """
daemon off; master_process off; worker_processes 1; pid FOLDER/static.pid; error_log stderr warn;
events { worker_connections 4096; }
http {
    access_log off; keepalive_timeout 600s; keepalive_requests 100000000;
    server { listen 127.0.0.1:PORT; location / { return 200 "a body of a few bytes"; } }
}
"""


class Service(threading.Thread):
    """The upstream: /N answers N zero bytes; bodies are read and dropped."""

    def __init__(self):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self.listener.getsockname()[1]
        self.start()

    def run(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=[connection], daemon=True).start()

    def serve(self, connection):
        zeros = memoryview(bytes(1 << 20))
        room = bytearray(1 << 20)
        with contextlib.suppress(OSError), connection:
            while head := read_head(connection):
                left = int(next(iter(re.findall(rb"(?i)content-length: (\d+)", head)), 0))
                while left:
                    got = connection.recv_into(room, min(left, len(room)))
                    if not got:
                        return
                    left -= got
                length = int(re.match(rb"\S+ /(\d*)", head)[1] or 0)
                first = zeros[: min(length, 1000)]
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + first)
                length -= len(first)
                while length:
                    length -= connection.send(zeros[: min(length, len(zeros))])


def read_head(connection):
    """A head, byte by byte at its end only: nothing behind it is taken."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        peeked = connection.recv(16384, socket.MSG_PEEK)
        if not peeked:
            return b""
        end = peeked.find(b"\r\n\r\n")
        head += connection.recv(len(peeked) if end < 0 else end + 4)
    return head


class Server:
    """A process, and what it has used."""

    def __init__(self, command, port=None, line=None):
        self.child = subprocess.Popen(
            [str(part) for part in command],
            env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        self.lines = []
        self.reader = threading.Thread(target=lambda: self.lines.extend(iter(self.child.stderr.readline, "")), daemon=True)
        self.reader.start()
        self.port = port or int(self.find(line))
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                break

    def find(self, expression, count=1):
        until = time.monotonic() + 30
        while time.monotonic() < until:
            found = [match[1] for line in list(self.lines) if (match := re.search(expression, line))]
            if len(found) >= count:
                return found[0]
            time.sleep(0.01)
        sys.exit(f"{self.child.args[0]} did not say {expression}: {''.join(self.lines[-20:])}")

    def seconds(self):
        return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{self.child.pid}/task").glob("*/schedstat")) / 1e9

    def kilobytes(self):
        return int(re.search(r"Rss:\s+(\d+)", Path(f"/proc/{self.child.pid}/smaps_rollup").read_text())[1])

    def end(self):
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()


def connect(server, context, session=None, request=b"GET /.slime/x HTTP/1.1\r\nHost: h\r\n\r\n"):
    tcp = socket.create_connection(("127.0.0.1", server.port))
    tls = context.wrap_socket(tcp, server_hostname="127.0.0.1", session=session)
    tls.sendall(request)
    tls.recv(65536)
    return tls


def handshakes(server, context, is_resumed):
    """Handshakes in a second of processor time, each with one small request."""
    session = None
    before = server.seconds()
    for number in range(HANDSHAKES):
        with connect(server, context, session) as tls:
            if is_resumed:
                if session and not tls.session_reused:
                    sys.exit("a session was not resumed")
                session = tls.session
    return HANDSHAKES / (server.seconds() - before)


def requests(server, connections):
    """Processor microseconds for a small request on connections that are kept."""

    def wrk(seconds):
        url = f"https://127.0.0.1:{server.port}/"
        command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", url]
        text = subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT).stdout
        if "Non-2xx" in text or "Socket errors" in text:
            sys.exit(f"requests failed: {text}")
        return int(re.search(r"(\d+) requests in", text)[1])

    wrk(1)
    before = server.seconds()
    count = wrk(SECONDS)
    return (server.seconds() - before) / count * 1e6


def transfer(server, folder, is_upload):
    """Processor seconds for a gigabyte."""
    url = f"https://127.0.0.1:{server.port}/"
    command = ["curl", "-sS", "-f", "--cacert", folder / "cert.pem", "-o", "/dev/null"]
    command += ["-T", folder / "zeros", url] if is_upload else [f"{url}{GIGABYTES * 10**9}"]
    before = server.seconds()
    subprocess.run([str(part) for part in command], check=True, env=ENVIRONMENT)
    return (server.seconds() - before) / GIGABYTES


def idle(server, context):
    """Kilobytes for each connection that is kept and does nothing."""
    request = b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n"
    kept = [connect(server, context, request=request) for _ in range(50)]
    before = server.kilobytes()
    kept += [connect(server, context, request=request) for _ in range(IDLE)]
    each = (server.kilobytes() - before) / IDLE
    for tls in kept:
        tls.close()
    return each


@contextlib.contextmanager
def on_one_processor():
    """What is started meanwhile stays on one processor."""
    all_of_them = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(all_of_them)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_of_them)


def main():
    rows = {}
    for number in range(ROUNDS):
        print(f"round {number + 1}", file=sys.stderr)
        measure(rows)
    print(f"{'':32}{'slime':>32}{'nginx':>32}")
    for what, figures in rows.items():
        cells = [
            f"{statistics.median(column):.2f} ({min(column):.2f} to {max(column):.2f})" for column in zip(*figures, strict=True)
        ]
        print(f"{what:32}" + "".join(f"{cell:>32}" for cell in cells))


def measure(rows):
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder, service = Path(name), Service()

        def start(*arguments, **options):
            server = Server(*arguments, **options)
            stack.callback(server.end)
            return server

        subprocess.run(
            f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {folder}/key.pem "
            f"-out {folder}/cert.pem -subj /CN=localhost -days 2 -addext subjectAltName=IP:127.0.0.1 "
            "-addext basicConstraints=critical,CA:FALSE",
            shell=True, check=True, stderr=subprocess.DEVNULL, env=ENVIRONMENT,
        )
        (folder / "zeros").touch()
        os.truncate(folder / "zeros", GIGABYTES * 10**9)
        def start_nginx(template, service=0):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                port = listener.getsockname()[1]
            path = folder / f"nginx.{port}.conf"
            text = template.replace("FOLDER", name).replace("PORT", str(port)).replace("SERVICE", str(service))
            path.write_text(text)
            return start(["nginx", "-e", "stderr", "-p", folder, "-c", path], port)

        nginx = start_nginx(NGINX, service.port)
        files = ["--tls-cert", folder / "cert.pem", "--tls-key", folder / "key.pem"]
        hub = start(
            [SLIME, "hub", "--host", "127.0.0.1", "--port", 0, "--tls-port", 0, *files, "--log-level", "debug"],
            line=r"listening on \S*:(\d+) with TLS",
        )
        plain = hub.find(r"listening on \S*:(\d+)$")
        ENVIRONMENT["SLIME_TOKEN"] = subprocess.run(
            [SLIME, "hub", "register"], env=ENVIRONMENT, capture_output=True, text=True, check=True
        ).stdout.strip()
        agent = [SLIME, "agent", "--upstream", f"127.0.0.1:{service.port}", "--connect-timeout", "30s"]
        by_plain = Server([*agent, "--hub", f"127.0.0.1:{plain}", "--num-worker", 4], port=service.port)
        hub.find(r"worker \d+ (joined)", 4)
        context = ssl.create_default_context(cafile=str(folder / "cert.pem"))

        def row(what, *figures):
            rows.setdefault(what, []).append(figures)

        row("full handshakes/CPU s", handshakes(hub, context, False), handshakes(nginx, context, False))
        row("resumed handshakes/CPU s", handshakes(hub, context, True), handshakes(nginx, context, True))
        with on_one_processor():
            static = start_nginx(STATIC)
            proxy = start_nginx(NGINX, static.port)
            quiet = start(
                [SLIME, "hub", "--host", "127.0.0.1", "--port", 0, "--tls-port", 0, *files],
                line=r"listening on \S*:(\d+) with TLS",
            )
            plain_port = quiet.find(r"listening on \S*:(\d+)$")
            upstream = ["--upstream", f"127.0.0.1:{static.port}", "--num-worker", 64]
            start([SLIME, "agent", "--hub", f"127.0.0.1:{plain_port}", *upstream], port=static.port)
            quiet.find(r"agent .* (joined)")
            for connections in [1, 32]:
                figures = requests(quiet, connections), requests(proxy, connections)
                row(f"request, {connections} at once, CPU us", *figures)
        row("down, CPU s/GB", transfer(hub, folder, False), transfer(nginx, folder, False))
        row("up, CPU s/GB", transfer(hub, folder, True), transfer(nginx, folder, True))
        row("idle client, kB", idle(hub, context), idle(nginx, context))
        by_plain.end()
        secured = [*agent, "--hub", f"https://127.0.0.1:{hub.port}", "--hub-ca", folder / "cert.pem", "--num-worker"]
        few = start([*secured, 4], port=service.port)
        hub.find(r"worker \d+ (joined)", 8)
        row("down by a TLS tunnel, CPU s/GB", transfer(hub, folder, False))
        row("... and the agent's share", transfer_of(few, hub, folder))
        row("up by a TLS tunnel, CPU s/GB", transfer(hub, folder, True))
        # What the clients of before have left would hide what tunnels need.
        fresh = start(
            [SLIME, "hub", "--host", "127.0.0.1", "--port", 0, *files, "--log-level", "debug"],
            line=r"listening on \S*:(\d+) with TLS",
        )
        secured[secured.index("--hub") + 1] = f"https://127.0.0.1:{fresh.port}"
        start([*secured, 4], port=service.port)
        fresh.find(r"worker \d+ (joined)", 4)
        before = fresh.kilobytes()
        many = start([*secured, IDLE], port=service.port)
        fresh.find(r"worker \d+ (joined)", 4 + IDLE)
        row("idle tunnel at the hub, kB", (fresh.kilobytes() - before) / IDLE)
        row("idle tunnel at the agent, kB", (many.kilobytes() - few.kilobytes()) / (IDLE - 4))


def transfer_of(agent, hub, folder):
    """What a download costs the agent."""
    before = agent.seconds()
    transfer(hub, folder, False)
    return (agent.seconds() - before) / GIGABYTES


main()
