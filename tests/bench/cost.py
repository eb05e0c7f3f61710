"""Counts what a request costs and compares it with `figures`. tests/bench/check starts it."""

import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from client import Client
from process import HOST, Process, Trace, free_port, prepare, wait_until
from setups import SLIME
from upstream import answers

FIGURES = Path(__file__).with_name("figures")
# What one run has more requests than the other: all that does not belong to a request is the same in both.
REQUESTS = 500
# Of the simulation. In one where agents use TLS, encryption is nearly all that there is.
SEED = 2
# Agents and waiters that a hand-over is counted beside, and how many hand-overs tests/simulation/flat.rs makes.
CROWDS = [1, 1000]
HAND_OVERS = 1000


def main():
    prepare()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured = {
            **per_request("instructions", instructions, folder), **simulation(folder), **crowds(folder),
            **system_calls(folder), **per_request("allocations", allocations, folder),
        }
    compiler = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    if sys.argv[1:] == ["--renew"]:
        return renew({**measured, "compiler": compiler, "processor": platform.machine()})
    return compare(measured, compiler)


def compare(measured, compiler):
    known = {line[0]: line[1:] for line in map(str.split, FIGURES.read_text().splitlines()) if line and line[0] != "#"}
    made_with, made_on = known.pop("compiler")[0], known.pop("processor")[0]
    is_same = (compiler, platform.machine()) == (made_with, made_on)
    if not is_same:
        print(
            f"The figures were made with rustc {made_with} on {made_on}; this is {compiler} on {platform.machine()}. "
            "Instructions may differ by more here: what costs only a little more is not noticed."
        )
    failed = known.keys() != measured.keys()
    for name, (text, here, elsewhere) in known.items():
        figure, tolerance = float(text), here if is_same else elsewhere
        room = figure * float(tolerance[:-1]) / 100 if tolerance.endswith("%") else float(tolerance)
        got, verdict = measured[name], "ok"
        if got > figure + room:
            failed, verdict = True, "MORE than that"
        elif got < figure - room:
            verdict = "less: tests/bench/check --renew keeps it so"
        print(f"{name:24} {show(got):>12}   at most {show(figure)} + {tolerance}: {verdict}")
    return failed


def renew(measured):
    lines = []
    for line in FIGURES.read_text().splitlines():
        name, *rest = line.split(" ")
        if name in measured:
            value = measured[name]
            line = " ".join([name, value if isinstance(value, str) else show(value), *rest[1:]])
            print(line)
        lines.append(line)
    FIGURES.write_text("\n".join(lines) + "\n")
    return False


def show(figure):
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.2f}"


class Pair:
    """Hub and agent, each behind `wrap(role)`, with an upstream, and one client that is served."""

    def __init__(self, wrap=lambda role: []):
        secret = {"SLIME_SECRET": "a secret of the benchmark"}
        upstream, port = free_port(), free_port()
        service = Process([sys.executable, Path(__file__).with_name("upstream.py"), upstream])
        wait_until(lambda: answers(upstream))
        hub = Process([*wrap("hub"), SLIME, "hub", "--host", HOST, "--port", port, "--startup-grace", 60], environment=secret)
        # An agent that has to dial again would do so at other times in each run.
        wait_until(lambda: listens(port), 60)
        register = subprocess.run([SLIME, "hub", "register"], env={**os.environ, **secret}, capture_output=True, text=True, check=True)
        agent = [*wrap("agent"), SLIME, "agent", "--hub", f"{HOST}:{port}", "--upstream", f"{HOST}:{upstream}"]
        agent = Process(agent, environment={"SLIME_TOKEN": register.stdout.strip()})
        # In the order of their ends: nobody misses anybody.
        self.processes = {"agent": agent, "hub": hub, "upstream": service}
        self.client = Client(port, 60)
        self.ask(10)

    def ask(self, number, with_posts=False):
        for count in range(number):
            if with_posts and count % 2:
                self.client.send("/upload", "Content-Length: 1000\r\n", "POST", bytes(1000))
                if self.client.response() != (200, b"1000"):
                    sys.exit("a POST was not served")
            elif self.client.get("/")[0] != 200:
                sys.exit("a GET was not served")

    def stop(self):
        self.client.close()
        for process in self.processes.values():
            process.child.terminate()
            process.child.wait(60)


def listens(port):
    with contextlib.suppress(OSError):
        Client(port, 1).close()
        return True
    return False


def per_request(what, count, folder):
    """The difference between a run with so many requests, and one with twice as many."""
    once, twice = count(folder, REQUESTS), count(folder, 2 * REQUESTS)
    return {f"{what}.{role}": (twice[role] - once[role]) / REQUESTS for role in ["hub", "agent"]}


def instructions(folder, requests):
    output = lambda role: folder / f"callgrind-{role}"
    pair = Pair(lambda role: ["valgrind", "--tool=callgrind", f"--callgrind-out-file={output(role)}"])
    pair.ask(requests)
    pair.stop()
    return {role: total(output(role)) for role in ["hub", "agent"]}


def total(file):
    return int(re.search(r"(?m)^(?:totals|summary): (\d+)", file.read_text())[1])


def simulation(folder):
    output = folder / "callgrind-simulation"
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={output}", "--toggle-collect=slime::net::shell::Shell*::turn"]
    command += [os.environ["SLIME_SIMULATION"], "--exact", "cluster::calm", "--test-threads=1"]
    done = subprocess.run(command, env={**os.environ, "SLIME_SEED": str(SEED)}, capture_output=True, text=True)
    if done.returncode or "1 passed" not in done.stdout:
        sys.exit(f"the simulation failed under callgrind:\n{done.stdout}{done.stderr}")
    return {"instructions.simulation": total(output)}


def crowds(folder):
    """What a hand-over costs with one agent, and beside a thousand with a scope each and a thousand waiters."""
    measured = {}
    for crowd in CROWDS:
        output = folder / f"callgrind-crowd-{crowd}"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={output}", "--toggle-collect=*flat::hand_over*"]
        command += [os.environ["SLIME_SIMULATION"], "--exact", "flat::a_crowd_costs_a_request_nothing", "--test-threads=1"]
        done = subprocess.run(command, env={**os.environ, "SLIME_CROWD": str(crowd)}, capture_output=True, text=True)
        if done.returncode or "1 passed" not in done.stdout:
            sys.exit(f"the crowd failed under callgrind:\n{done.stdout}{done.stderr}")
        measured[f"instructions.crowd.{crowd}"] = total(output) / HAND_OVERS
    return measured


def system_calls(folder):
    pair = Pair()
    traces = {role: Trace(pair.processes[role], folder) for role in ["hub", "agent"]}
    pair.ask(4 * REQUESTS)
    counted = {role: trace.stop() for role, trace in traces.items()}
    pair.stop()
    return {f"calls.{role}": sum(calls.values()) / (4 * REQUESTS) for role, calls in counted.items()}


def allocations(folder, requests):
    output = lambda role: folder / f"dhat-{role}-{requests}"
    pair = Pair(lambda role: ["valgrind", "--tool=dhat", "--num-callers=30", f"--dhat-out-file={output(role)}"])
    pair.ask(requests, with_posts=True)
    pair.stop()
    totals = {}
    for role in ["hub", "agent"]:
        places = allocated(output(role))
        totals[role] = places.total()
        if totals[role] < 10:
            sys.exit(f"dhat does not see the allocations of {SLIME}: is it linked statically?")
        # In the second run: where more is allocated than in the first, by every other request at least.
        if (first := folder / f"dhat-{role}-{requests // 2}").exists():
            for place, count in (places - allocated(first)).items():
                if count >= requests // 4:
                    print(f"{role}, {count} allocations more for {requests // 2} requests more, at\n    " + "\n    ".join(place))
    return totals


def allocated(file):
    """How many blocks, by the frames of where."""
    found = json.loads(file.read_text())
    places = Counter()
    for point in found["pps"]:
        places[tuple(found["ftbl"][frame].partition(": ")[2] for frame in point["fs"])] += point["tbk"]
    return places


if __name__ == "__main__":
    sys.exit(main())
