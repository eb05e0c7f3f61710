"""Costs that must not grow with what merely is there: idle clients, idle tunnels, a queue. Of slime alone."""

import time

from client import idle_clients, wrk
from metrics import Metric, WARM_UP, SECONDS
from process import Trace
from setups import Running, Slime

# Nobody is sent away while it is measured, and 20,000 descriptors are enough.
FLAGS = ["--idle-timeout", "1h", "--queue-timeout", "1h", "--max-clients", 12_000]
IDLE_SECONDS = 30


class Case:
    """A setup of slime, with what is there beside the load."""

    def __init__(self, name, workers=64, clients=0, connections=1):
        self.name, self.workers, self.clients, self.connections = name, workers, clients, connections


def cost(case, upstreams, folder):
    with Running(Slime(case.workers, FLAGS), upstreams.static) as running:
        kept = idle_clients(running.port, case.clients)
        wrk(running.port, case.connections, WARM_UP)
        before, served = running.cpu(), upstreams.served()
        _, bad = wrk(running.port, case.connections, SECONDS)
        spent, served = running.cpu() - before, upstreams.served() - served
        for client in kept:
            client.close()
        return {"flat": spent / served * 1e6, "flat.bad": bad}


def idle(case, upstreams, folder):
    """How often the two are woken while nothing happens."""
    with Running(Slime(case.workers, FLAGS), upstreams.static) as running:
        kept = idle_clients(running.port, case.clients)
        time.sleep(2)
        traces = [Trace(process, folder) for process in running.processes()]
        time.sleep(IDLE_SECONDS)
        hub, agent = (trace.stop() for trace in traces)
        for client in kept:
            client.close()
        return {
            "idle.wakes.hub": wakes(hub) / IDLE_SECONDS, "idle.wakes.agent": wakes(agent) / IDLE_SECONDS,
            "idle.calls.hub": sum(hub.values()) / IDLE_SECONDS, "idle.calls.agent": sum(agent.values()) / IDLE_SECONDS,
        }


def wakes(calls):
    return calls.get("epoll_wait", 0) + calls.get("epoll_pwait", 0)


ROWS = [("flat", "CPU per request, us", "%.1f"), ("flat.bad", "lost or not 2xx", "%.0f")]

FLAT = [
    Metric("flat-clients", [Case("10 idle clients", clients=10), Case("10,000 idle clients", clients=10_000)], ROWS, cost),
    Metric("flat-tunnels", [Case("1 tunnel", workers=1), Case("5,000 tunnels", workers=5000)], ROWS, cost),
    # One worker: all other connections wait for it.
    Metric("flat-queue", [
        Case("queue of 1", workers=1, connections=2), Case("queue of 1,000", workers=1, connections=1001),
    ], ROWS, cost),
    Metric("flat-idle", [
        Case("1,000 idle clients", workers=1, clients=1000), Case("1,000 idle tunnels", workers=1000),
        Case("nothing", workers=1),
    ], [
        ("idle.wakes.hub", "wake-ups/s, hub", "%.2f"), ("idle.wakes.agent", "... agent", "%.2f"),
        ("idle.calls.hub", "system calls/s, hub", "%.2f"), ("idle.calls.agent", "... agent", "%.2f"),
    ], idle, once=True),
]
