"""What the scenarios stand on: a hub with its agents, what they take of the machine, and the well-behaved client."""

import asyncio
import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SLIME = os.environ["SLIME_BIN"]
# What one step may take on a loaded machine.
PATIENCE = 30
# What the well-behaved client may have to wait, in seconds, on a machine that has to carry its attackers, too: half of the time, in
# all but one of a hundred cases, ever.
USUALLY, MOSTLY, EVER = 0.05, 2, 5
SECRET = "the secret of the abuse tests"

# What SECURITY.md says about the memory that a hub takes under attack, in bytes: without TLS, and with it.
BASE = 4 << 20
EACH_CLIENT = 24 << 10, 32 << 10
EACH_EXCHANGE = 56 << 10, 148 << 10
EACH_TUNNEL = 2 << 10, 8 << 10


class Failed(Exception):
    """A scenario has failed. The text says how."""


def check(condition, *what):
    if not condition:
        raise Failed(" ".join(str(part) for part in what))


async def eventually(what, look, limit=PATIENCE):
    until = time.monotonic() + limit
    while not look():
        check(time.monotonic() < until, f"did not come true in {limit} s:", what)
        await asyncio.sleep(0.02)


class Child:
    """A process that ends with the scenario."""

    def __init__(self, words, **options):
        self.child = subprocess.Popen([str(word) for word in words], **options)

    def kill(self):
        self.child.kill()
        self.child.wait()


class Process(Child):
    """A process of slime, its log, and the most that it ever took of the machine."""

    def __init__(self, name, words, env, before=None):
        self.name = name
        self.log = tempfile.TemporaryFile("w+")
        options = {"stdin": subprocess.DEVNULL, "stdout": self.log, "stderr": self.log, "env": {**os.environ, **env}}
        super().__init__([*(before or []), SLIME, *words], **options)
        self.most_memory = self.most_descriptors = 0

    def lines(self):
        return os.pread(self.log.fileno(), 1 << 22, 0).decode(errors="replace").splitlines()

    async def line(self, expression, count=1):
        found = []

        def look():
            check(self.child.poll() is None, self.name, "ended:", self.lines()[-5:])
            found[:] = [match for line in self.lines() if (match := re.search(expression, line))]
            return len(found) >= count

        await eventually(f"{self.name} says {expression}", look)
        return found[-1]

    def memory(self):
        """Resident bytes that are the process's own."""
        status = Path(f"/proc/{self.child.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) * 1024

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.child.pid}/fd"))

    def cpu(self):
        """Seconds of processor time so far."""
        words = Path(f"/proc/{self.child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def look(self):
        self.most_memory = max(self.most_memory, self.memory())
        self.most_descriptors = max(self.most_descriptors, self.descriptors())


class Bed:
    """A hub, an agent, their upstream, and the well-behaved client. It is at rest when it is entered. Applications and agents
    come to the hub by TLS, if that is asked for.
    """

    def __init__(self, *hub_flags, workers=4, hub_before=None, tls=False):
        self.hub_flags, self.workers, self.hub_before, self.tls = hub_flags, workers, hub_before, tls
        self.folder = tempfile.TemporaryDirectory(prefix="slime-abuse-")
        self.certificate = f"{self.folder.name}/cert.pem"
        self.watching = []
        self.agents = []
        self.children = []

    async def __aenter__(self):
        try:
            await self.start()
        except BaseException:
            await self.__aexit__(*sys.exc_info())
            raise
        return self

    async def start(self):
        self.upstream_port = self.start_upstream()
        # The client has an upstream and an agent to itself, so that it measures slime and not the upstream of those who abuse it.
        calm_port = self.start_upstream()
        flags = ["--host", "127.0.0.1", "--port", "0", *self.hub_flags]
        if self.tls:
            flags += ["--tls-self-signed", self.folder.name]
        self.hub = Process("hub", ["hub", "run", *flags], {"SLIME_SECRET": SECRET}, self.hub_before)
        self.children.append(self.hub)
        self.port = int((await self.hub.line(r"listening on .*:(\d+)( with TLS)?$"))[1])
        self.door = Door(self.port, ssl.create_default_context(cafile=self.certificate) if self.tls else None)
        self.token = self.register()
        self.agent = await self.add_agent(self.workers)
        scoped = self.register("--scopes", "probe", "--scope-paths", "/hello")
        await self.add_agent(2, token=scoped, upstream=calm_port)
        self.probe_log = tempfile.TemporaryFile("w+")
        words = [sys.executable, HERE / "probe.py", str(self.port), *([self.certificate] if self.tls else [])]
        self.children.append(Child(words, stdin=subprocess.PIPE, stdout=self.probe_log))
        # Everything has been used once, and what is kept for the next time is there.
        await eventually("the client is served", lambda: len(self.asked()) >= 100)
        self.began = time.monotonic()
        self.before = self.take()
        self.watching.append(asyncio.create_task(self.watch()))

    async def __aexit__(self, kind, *_):
        for task in self.watching:
            task.cancel()
        if kind:
            for process in self.children:
                if isinstance(process, Process):
                    print(f"--- {process.name}, exit code {process.child.poll()}", *process.lines()[-20:], sep="\n")
        for child in reversed(self.children):
            child.kill()
        self.folder.cleanup()

    def start_upstream(self):
        """Starts one, and returns where it listens."""
        self.children.append(Child([sys.executable, HERE / "upstream.py"], stdout=subprocess.PIPE, text=True))
        return int(self.children[-1].child.stdout.readline())

    def register(self, *flags):
        words = [SLIME, "hub", "register", *flags]
        env = {**os.environ, "SLIME_SECRET": SECRET}
        return subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout.strip()

    async def add_agent(self, workers, token=None, upstream=None):
        upstream = f"127.0.0.1:{upstream or self.upstream_port}"
        words = ["--hub", f"127.0.0.1:{self.port}", "--upstream", upstream, "--num-worker", workers]
        if self.tls:
            words[1:2] = [f"https://127.0.0.1:{self.port}", "--hub-ca", self.certificate]
        agent = Process(f"agent {len(self.agents)}", ["agent", "run", *words], {"SLIME_TOKEN": token or self.token})
        self.agents.append(agent)
        self.children.append(agent)
        await agent.line("joined the hub")
        tunnels = 2 + workers
        await eventually("all workers join", lambda: agent.descriptors() >= tunnels)
        return agent

    async def watch(self):
        while True:
            for process in [self.hub, self.agent]:
                process.look()
            await asyncio.sleep(0.2)

    def take(self):
        return self.hub.memory(), self.hub.descriptors(), self.agent.memory(), self.agent.descriptors()

    def asked(self):
        """What the well-behaved client has seen: when it asked, how long it took, what came."""
        text = os.pread(self.probe_log.fileno(), 1 << 26, 0).decode()
        words = [line.split() for line in text[: text.rfind("\n") + 1].splitlines()]
        return [(float(begin), float(end) - float(begin), result) for begin, end, result in words]

    def bound(self, clients=0, exchanges=0, tunnels=0):
        """The most memory that a hub takes for these."""
        each = zip((clients, exchanges, tunnels), (EACH_CLIENT, EACH_EXCHANGE, EACH_TUNNEL))
        return BASE + sum(n * cost[self.tls] for n, cost in each)

    async def judge(self, clients=0, exchanges=0, tunnels=0, unserved=0.0):
        """The abuse is over: the hub has taken no more memory than these cost, all must be back where it was, and the client
        must not have noticed. Prints the figures.
        """
        ended = time.monotonic()
        most = self.bound(clients, exchanges, tunnels)
        # Connections that the client keeps, and the agent to its upstream, come and go.
        await eventually(
            f"as many descriptors as before, {self.before}",
            lambda: self.hub.descriptors() <= self.before[1] + 3
            and self.agent.descriptors() <= self.before[3] + 3 + self.workers,
        )
        await asyncio.sleep(1)
        phases = {"before": (0, self.began), "during": (self.began, ended), "after": (ended, time.monotonic())}
        asked = self.asked()
        kinds = {}
        text = []
        for phase, (begin, end) in phases.items():
            here = [one for one in asked if begin <= one[0] < end]
            check(here, "the client did not get to ask anything", phase)
            times = sorted(took for _, took, _ in here)
            text.append(f"{times[len(times) // 2] * 1000:.1f}/{times[len(times) * 99 // 100] * 1000:.0f}/{times[-1] * 1000:.0f}")
            if phase == "during":
                during = times
                for _, _, result in here:
                    kinds[result] = kinds.get(result, 0) + 1
        now = self.take()
        hub, agent = self.hub, self.agent
        print(
            f"    client, ms (median/99 %/worst): before {text[0]}, during {text[1]}, after {text[2]}; {len(during)} requests: {kinds}\n"
            f"    hub: memory {mb(self.before[0])}, most {mb(hub.most_memory)} (formula: {mb(most)}), then {mb(now[0])}; "
            f"descriptors {self.before[1]}, most {hub.most_descriptors}, then {now[1]}; {hub.cpu():.1f} s of processor\n"
            f"    agent: memory {mb(self.before[2])}, most {mb(agent.most_memory)}, then {mb(now[2])}; "
            f"descriptors {self.before[3]}, most {agent.most_descriptors}, then {now[3]}; {agent.cpu():.1f} s of processor",
            flush=True,
        )
        check(hub.most_memory <= most, f"the hub took {mb(hub.most_memory)}, more than the {mb(most)} of the formula")
        good = kinds.get("200", 0) + kinds.get("closed", 0)
        check(good >= len(during) * (1 - unserved), "the client was not served:", kinds)
        check(during[len(during) // 2] <= USUALLY, "the client waited as a rule")
        check(during[len(during) * 99 // 100] <= MOSTLY, "the client waited often")
        check(during[-1] <= EVER, f"the client waited {during[-1]:.1f} s")
        for process in [hub, *self.agents]:
            code = process.child.poll()
            check(code in (None, -signal.SIGKILL), process.name, "ended with", code)


def mb(n):
    return f"{n / 1e6:.1f} MB"


def raise_limit(wanted):
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most if wanted > most else wanted, most))


class Door:
    """Where to connect to, and by which TLS, if any."""

    def __init__(self, port, tls=None):
        self.port, self.tls = port, tls

    def plain(self):
        return Door(self.port)


async def connect(door, data=b"", reading=True, buffer=None, limit=1 << 16):
    """A connection that has sent this. Without `reading`, its window is small and stays shut."""
    connection = socket.socket()
    connection.setblocking(False)
    if buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, ("127.0.0.1", door.port))
    if reading:
        name = {"server_hostname": "127.0.0.1", "ssl_handshake_timeout": PATIENCE} if door.tls else {}
        reader, writer = await asyncio.open_connection(sock=connection, limit=limit, ssl=door.tls, **name)
        writer.write(data)
        return reader, writer
    await loop.sock_sendall(connection, data)
    return connection


async def many(n, make, at_once=200):
    """Runs `make(number)` n times, so many at once, and returns all results."""
    gate = asyncio.Semaphore(at_once)

    async def one(number):
        async with gate:
            return await make(number)

    return await asyncio.gather(*(one(number) for number in range(n)))


async def get(door, path, method="GET", limit=PATIENCE, fields="", body=b""):
    """One request on its own connection: status, body. Raises if the response does not come whole."""

    async def talk():
        head = f"{method} {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{fields}\r\n"
        reader, writer = await connect(door, head.encode() + body)
        try:
            answer = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", answer)
            check(length, "no length in", answer)
            return int(answer.split(b" ")[1]), await reader.readexactly(int(length[1]))
        finally:
            writer.close()

    return await asyncio.wait_for(talk(), limit)
