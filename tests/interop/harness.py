"""What the tests stand on: processes with deadlines, hubs and agents, and the runner."""

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import wire

HERE = Path(__file__).resolve().parent
SLIME = os.environ["SLIME_BIN"]
PYTHON = sys.executable
# A test that takes longer has failed, whatever it waits for.
TEST_LIMIT = 120
# What one step may take on a loaded machine.
PATIENCE = wire.PATIENCE
# What takes no time takes at most this long on a machine that does other work as well, in seconds. Heartbeats and deadlines are longer.
SOON = 5
SECRET = "the secret of the interop tests"
TESTS = []


class Failed(Exception):
    """A test has failed. The text says how."""


def check(condition, *what):
    if not condition:
        raise Failed(" ".join(str(part) for part in what) or "a check failed")


def equal(found, expected, what="value"):
    if found != expected:
        raise Failed(f"{what}: found {shown(found)}, expected {shown(expected)}")


def shown(value):
    text = repr(value)
    return text if len(text) < 2000 else f"{text[:1000]} ... {text[-900:]} ({len(text)} characters)"


def test(function):
    """Enters a function in the list of tests. It is given a Bed."""
    name = f"{function.__module__}.{function.__name__}"
    TESTS.append((name, function))
    return function


def plain_only(why):
    """Enters a test that would prove nothing more with TLS."""

    def enter(function):
        function.is_skipped = why if wire.IS_TLS else None
        return test(function)

    return enter


def eventually(what, look, limit=PATIENCE):
    """What `look` returns as soon as it is true."""
    until = time.monotonic() + limit
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > until:
            raise Failed(f"did not come true in {limit} s: {what}")
        time.sleep(0.005)


def free_port():
    """A port for programs that cannot choose one themselves."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def pattern(length, salt=0):
    """Bytes of which no two stretches are alike, so that a shift shows."""
    block = b"".join(hashlib.sha256(f"{salt}:{n}".encode()).digest() for n in range(2048))
    whole, rest = divmod(length, len(block))
    return b"".join(bytes([n % 251]) + block[1:] for n in range(whole)) + block[:rest]


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Process:
    """A program that runs beside the test. Its output is kept, and shown if the test fails."""

    def __init__(self, name, command, env=None, cwd=None):
        self.name = name
        self.lines = []
        self.changed = threading.Condition()
        # The variables of the tests are no flags of slime, which would warn of them.
        is_flag = lambda key: command[0] == SLIME and key.startswith("SLIME_")
        outer = {key: value for key, value in os.environ.items() if not is_flag(key)}
        self.child = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**outer, **(env or {})},
            cwd=cwd,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.child.stdout:
            with self.changed:
                self.lines.append(line.rstrip("\n"))
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def line(self, expression, count=1, limit=PATIENCE, after=0):
        """The match of the `count`-th line, beginning at `after`, in which the expression is found."""
        compiled = re.compile(expression)
        until = time.monotonic() + limit
        with self.changed:
            while True:
                found = [match for line in self.lines[after:] if (match := compiled.search(line))]
                if len(found) >= count:
                    return found[count - 1]
                left = until - time.monotonic()
                if left <= 0 or (self.child.poll() is not None and not self.reader.is_alive()):
                    raise Failed(f"{self.name} did not say {expression!r} {count} times")
                self.changed.wait(min(left, 0.2))

    def says(self, expression):
        with self.changed:
            return any(re.search(expression, line) for line in self.lines)

    def signal(self, number):
        self.child.send_signal(number)

    def wait(self, limit=PATIENCE):
        """The exit code. Everything it said is in `lines` then."""
        try:
            code = self.child.wait(limit)
            self.reader.join(limit)
            return code
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} did not end in {limit} s") from None

    def kill(self):
        """Ends the process and those that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()


class Hub(Process):
    """A hub. `at` is where agents find it."""

    def __init__(self, *flags, host="127.0.0.1", port=0, name="hub"):
        command = [SLIME, "hub", "run", "--host", host, "--port", port, *wire.flags("--tls-cert", "--tls-key"), *flags]
        if "--log-level" not in flags:
            # Each worker that joins shows only there.
            command += ["--log-level", "debug"]
        super().__init__(name, command, env={"SLIME_SECRET": SECRET})
        self.host = f"[{host}]" if ":" in host else host
        self.address = host
        self.port = int(self.line(r"listening on .*:(\d+)( with TLS)?$")[1])
        self.authority = f"{self.host}:{self.port}"
        self.url = wire.url(self.authority)
        self.ws = self.url.replace("http", "ws", 1)
        self.at = self.url if wire.IS_TLS else self.authority

    def connect(self):
        """A connection for bytes that no library sends."""
        return wire.connect(self.address, self.port)


class Upstream(Process):
    """A server of the `upstreams` folder or of the machine; `port` is where it listens, `at` how agents are told."""

    def __init__(self, name, command, ready=None, port=None, host="127.0.0.1", limit=PATIENCE, **options):
        super().__init__(name, command, **options)
        self.port = port if port is not None else int(self.line(ready, limit=limit)[1])
        self.authority = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.url = wire.url(self.authority)
        self.at = self.url if wire.IS_TLS else self.authority
        if port is not None:
            eventually(f"{name} listens", lambda: self._listens(host))

    def _listens(self, host):
        check(self.child.poll() is None, self.name, "ended:", self.lines)
        with contextlib.suppress(OSError), socket.create_connection((host, self.port), 1):
            return True
        return False

    def events(self, of):
        """What the application in the upstream noted under a name; asked directly, not through the hub."""
        return get_json(f"{self.authority}", f"/events/{of}")

    def saw(self, of, event, limit=PATIENCE):
        """Waits until the upstream has noted an event, and returns how long that took after the call."""
        begin = time.monotonic()
        eventually(f"{self.name} notes {event} of {of}", lambda: event in self.events(of), limit)
        return time.monotonic() - begin


def get_json(authority, path):
    connection = wire.http_connection(authority)
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def agent_command(hub, upstream):
    return [SLIME, "agent", "run", "--hub", hub, "--upstream", upstream, *wire.trust(hub, upstream)]


def register(*flags):
    """An agent token."""
    done = subprocess.run(
        [SLIME, "hub", "register", *flags],
        env={**os.environ, "SLIME_SECRET": SECRET},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    equal(done.returncode, 0, "exit code of register")
    return done.stdout.strip()


# Upstreams that do not change by being used serve all tests of a run.
SHARED = {}


class Bed:
    """What one test has started, and ends with it."""

    def __init__(self):
        self.started = []
        self.cleanup = contextlib.ExitStack()
        self.agents = 0

    def start(self, process):
        self.started.append(process)
        return process

    def hub(self, *flags, **options):
        return self.start(Hub(*flags, **options))

    def agent(self, hub, upstream, *flags, token=(), wait=True, workers=1, name="agent", at=None):
        """An agent that has joined, with all its workers."""
        upstream = upstream if isinstance(upstream, str) else upstream.at
        command = [*agent_command(at or hub.at, upstream), *flags]
        if workers != 1:
            command += ["--num-worker", str(workers)]
        before = len(hub.lines)
        process = self.start(Process(name, command, env={"SLIME_TOKEN": register(*token)}))
        if wait:
            upstreams = upstream.count(",") + 1
            hub.line(r"DEBUG agent .* worker \d+ joined$", workers * upstreams, after=before)
            process.line("joined the hub", upstreams)
        return process

    def stack(self, upstream, *hub_flags, agent=(), workers=1):
        """A hub with one agent. Requests may be sent to it."""
        hub = self.hub(*hub_flags)
        self.agent(hub, upstream, *agent, workers=workers)
        return hub

    def folder(self):
        """A folder for the test alone, which servers that drop their privileges can read, too."""
        path = Path(self.cleanup.enter_context(tempfile.TemporaryDirectory(prefix="slime-interop-")))
        path.chmod(0o755)
        return path

    def shared(self, name, make):
        process = SHARED.get(name)
        if process is None or process.child.poll() is not None:
            process = SHARED[name] = make()
        return process

    def asgi(self):
        """Uvicorn with our test application."""
        return self.shared("uvicorn", lambda: uvicorn())

    def node(self):
        """A server of Node's http module."""
        return self.shared("node", node)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.started):
            process.kill()
        self.cleanup.close()

    def logs(self):
        for processes, last in [(self.started, 60), (SHARED.values(), 10)]:
            for process in processes:
                yield f"--- {process.name} (process {process.child.pid}, exit code {process.child.poll()})"
                yield from process.lines[-last:]


def uvicorn(host="127.0.0.1", port=0, *flags, app="application:app", name="uvicorn"):
    command = [PYTHON, "-m", "uvicorn", app, "--app-dir", HERE / "upstreams", "--host", host, "--port", port]
    command += ["--no-access-log", *wire.flags("--ssl-certfile", "--ssl-keyfile"), *flags]
    return Upstream(name, command, r"running on https?://.*:(\d+)", host=host)


def gunicorn(*flags, app="wsgi:app", name="gunicorn"):
    command = [PYTHON, "-m", "gunicorn", "--chdir", HERE / "upstreams", "-b", "127.0.0.1:0"]
    command += [*wire.flags("--certfile", "--keyfile"), *flags, app]
    upstream = Upstream(name, command, r"Listening at: https?://127.0.0.1:(\d+)")
    upstream.line("Booting worker")
    return upstream


def node():
    return Upstream("node", ["node", HERE / "upstreams" / "server.js"], r"listening on (\d+)")


def run(command, limit=60, code=0, **options):
    """Runs a program to its end. Its output is bytes, and its exit code is as expected (any, if None)."""
    command = [str(part) for part in command]
    try:
        done = subprocess.run(command, capture_output=True, timeout=limit, **options)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{command} did not end in {limit} s; it said {shown(error.stderr)}") from None
    if code is not None and done.returncode != code:
        raise Failed(f"{command} ended with {done.returncode}, not {code}: {shown(done.stdout)} {shown(done.stderr)}")
    return done


def main(wanted):
    """Runs the tests whose names contain one of the wanted words. The exit code."""
    chosen = [(name, body) for name, body in TESTS if not wanted or any(word in name for word in wanted)]
    if not chosen:
        print(f"no test is called like {' or '.join(wanted)}", file=sys.stderr)
        print("0 passed, 0 failed, 0 skipped")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.signal(signal.SIGALRM, out_of_time)
    passed, skipped, failed = 0, 0, []
    try:
        for name, body in chosen:
            if why := getattr(body, "is_skipped", None):
                print(f"skip {name} ({why})", flush=True)
                skipped += 1
                continue
            begin = time.monotonic()
            why = run_one(name, body)
            print(f"{'FAIL' if why else 'ok  '} {name} ({time.monotonic() - begin:.1f} s)", flush=True)
            if why:
                failed.append((name, why))
            else:
                passed += 1
    finally:
        signal.alarm(0)
        for process in SHARED.values():
            process.kill()
    for name, why in failed:
        print(f"failed: {name}: {why}")
    print(f"{passed} passed, {len(failed)} failed, {skipped} skipped")
    return 1 if failed else 0


def run_one(name, body):
    """Why it failed, on one line; None if it did not."""
    with Bed() as bed:
        try:
            signal.alarm(TEST_LIMIT)
            body(bed)
            for process in bed.started:
                # Whatever happens, slime itself never ends by a signal of its own making.
                code = process.child.poll()
                check(code is None or code >= 0 or code == -signal.SIGKILL, process.name, "ended with", code)
            return None
        except Exception as error:
            print(f"\n===== {name}\n{traceback.format_exc()}", flush=True)
            for line in bed.logs():
                print(line)
            return " ".join(f"{type(error).__name__}: {error}".split())[:400]
        finally:
            signal.alarm(0)


def out_of_time(*_):
    raise Failed(f"the test did not end in {TEST_LIMIT} s")
