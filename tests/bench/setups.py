"""What is compared: a hub and an agent, two HAProxy and two nginx in a row, each set up for the least that it can cost."""

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path

from process import HOST, Process, free_port, wait_until
from upstream import NGINX, answers

SLIME = os.environ.get("SLIME_BIN", "slime")

# A hop of nginx. Event streams are not buffered.
HOP = """
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_max_temp_file_size 0; proxy_request_buffering off; proxy_read_timeout 600s;
    upstream next { server 127.0.0.1:NEXT; keepalive 256; keepalive_requests 1000000000; keepalive_timeout 600s; }
    server { listen 127.0.0.1:PORT backlog=4096;
        location /events { proxy_pass http://next; proxy_buffering off; }
        location / { proxy_pass http://next; } }
}
"""

# Without http-no-delay an event waits 200 ms at each hop.
HAPROXY = """
global
    nbthread 1
    no strict-limits
    maxconn 19000
defaults
    mode http
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    timeout queue 60s
    timeout http-keep-alive 600s
    option http-keep-alive
    http-reuse always
    OPTIONS
frontend front
    bind 127.0.0.1:PORT backlog 4096
    default_backend back
backend back
    server next 127.0.0.1:NEXT LIMIT
"""


class Slime:
    """`workers` at the agent; `flags` for the hub."""

    name = "slime"

    def __init__(self, workers=64, flags=()):
        self.workers, self.flags = workers, list(flags)

    def start(self, folder, port, upstream):
        secret = {"SLIME_SECRET": "a secret of the benchmark"}
        hub = [SLIME, "hub", "--host", HOST, "--port", port, "--max-tunnels", max(4096, self.workers + 8), *self.flags]
        hub = Process(hub, environment=secret)
        register = subprocess.run([SLIME, "hub", "register"], env={**os.environ, **secret}, capture_output=True, text=True, check=True)
        agent = [SLIME, "agent", "--hub", f"{HOST}:{port}", "--upstream", f"{HOST}:{upstream}", "--num-worker", self.workers]
        return hub, Process(agent, environment={"SLIME_TOKEN": register.stdout.strip()})


class Haproxy:
    def __init__(self, name="haproxy", options="", limit=""):
        self.name, self.options, self.limit = name, options, limit

    def start(self, folder, port, upstream):
        def hop(name, port, after, limit=""):
            text = HAPROXY.replace("OPTIONS", self.options).replace("PORT", str(port)).replace("NEXT", str(after))
            (folder / name).write_text(text.replace("LIMIT", limit))
            return Process(["haproxy", "-db", "-f", folder / name])

        between = free_port()
        return hop("hub.cfg", port, between, self.limit), hop("agent.cfg", between, upstream)


class Nginx:
    name = "nginx"

    def start(self, folder, port, upstream):
        def hop(name, port, after):
            text = (NGINX + HOP).replace("FOLDER", str(folder)).replace("NAME", name).replace("PORT", str(port))
            (folder / name).write_text(text.replace("NEXT", str(after)))
            return Process(["nginx", "-e", "stderr", "-p", folder, "-c", folder / name])

        between = free_port()
        return hop("hub.conf", port, between), hop("agent.conf", between, upstream)


class Running:
    """A setup that serves: `port`, and the processes `hub` and `agent`, as the first and the second hop are called."""

    def __init__(self, setup, upstream):
        self.setup, self.upstream = setup, upstream

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self.folder, self.port = folder, free_port()
            self.hub, self.agent = self.setup.start(folder, self.port, self.upstream)
            for process in self.processes():
                stack.callback(process.stop)
            wait_until(lambda: answers(self.port))
            if isinstance(self.setup, Slime):
                wait_until(lambda: self.hub.descriptors() >= self.setup.workers and self.agent.descriptors() >= self.setup.workers, 60)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.stack.close()

    def processes(self):
        return [self.hub, self.agent]

    def cpu(self):
        """Seconds of both."""
        return sum(process.cpu() for process in self.processes())

    def resident(self):
        """Kilobytes of each."""
        return [process.resident() for process in self.processes()]
