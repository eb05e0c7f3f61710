"""What is measured of each setup. A metric returns a value for each of its rows."""

import re
import selectors
import socket
import threading
import time

from client import Client, idle_clients, wrk
from process import HOST, Trace, wait_until
from setups import Haproxy, Nginx, Running, Slime
from upstream import BIG, BODY

WARM_UP = 1
SECONDS = 3
# Requests under strace, gigabytes in each direction, idle clients, tunnels and event streams.
TRACED = 2000
TRANSFERS = 5
CLIENTS = 5000
TUNNELS = 1000
STREAMS = 1000
STREAM_SECONDS = 8

HAPROXY = Haproxy(options="option http-no-delay")
SPLICE = Haproxy("haproxy, splice", "option splice-request\n    option splice-response")
ALL = [Slime(), Nginx(), HAPROXY]


class Metric:
    """`rows` are (key, what it says, format); the keys are those of what `measure` returns. What takes long and is counted, not timed,
    is measured `once`."""

    def __init__(self, name, setups, rows, measure, once=False):
        self.name, self.setups, self.rows, self.measure, self.once = name, setups, rows, measure, once


def requests(connections):
    def measure(setup, upstreams, folder):
        with Running(setup, upstreams.static) as running:
            wrk(running.port, connections, WARM_UP)
            before, served = running.cpu(), upstreams.served()
            delay, bad = wrk(running.port, connections, SECONDS)
            cost, served = running.cpu() - before, upstreams.served() - served
            return {
                f"cpu{connections}": cost / served * 1e6,
                f"rate{connections}": served / SECONDS,
                f"p50{connections}": delay,
                f"bad{connections}": bad,
            }

    return measure


def system_calls(setup, upstreams, folder):
    with Running(setup, upstreams.static) as running:
        client = Client(running.port)
        for _ in range(100):
            client.get("/")
        traces = [Trace(process, folder) for process in running.processes()]
        for _ in range(TRACED):
            client.get("/")
        hub, agent = (sum(trace.stop().values()) / TRACED for trace in traces)
        return {"calls.hub": hub, "calls.agent": agent}


def bulk(setup, upstreams, folder):
    results = {}
    for way, port, transfer in [("down", upstreams.static, download), ("up", upstreams.own, upload)]:
        with Running(setup, port) as running, upstreams.big.open("rb") as file:
            client = Client(running.port, 60)
            transfer(client, file)
            before = running.cpu()
            for _ in range(TRANSFERS):
                transfer(client, file)
            results[way] = (running.cpu() - before) / (TRANSFERS * BIG / 1e9)
    return results


def download(client, _):
    client.send("/big")
    status, length = client.head()
    if (status, length) != (200, BIG):
        raise ConnectionError(f"a download ended with {status}, {length}")
    client.skip(length)


def upload(client, file):
    client.send("/upload", f"Content-Length: {BIG}\r\n", "POST")
    file.seek(0)
    client.socket.sendfile(file)
    response = client.response()
    if response != (200, b"%d" % BIG):
        raise ConnectionError(f"an upload ended with {response}")


def clients(setup, upstreams, folder):
    with Running(setup, upstreams.static) as running:
        time.sleep(0.5)
        before = running.resident()
        kept = idle_clients(running.port, CLIENTS)
        time.sleep(1)
        after = running.resident()
        # They must still be there.
        dead = sum(client.get("/")[0] != 200 for client in kept[:: CLIENTS // 50])
        for client in kept:
            client.close()
        return {
            "idle.hub": before[0], "idle.agent": before[1],
            "client": (sum(after) - sum(before)) / CLIENTS, "client.dead": dead,
        }


def tunnels(setup, upstreams, folder):
    sizes = []
    for workers in [1, TUNNELS]:
        with Running(Slime(workers), upstreams.static) as running:
            time.sleep(1)
            sizes.append(running.resident())
    hub, agent = ((many - one) / (TUNNELS - 1) for one, many in zip(*sizes))
    return {"tunnel.hub": hub, "tunnel.agent": agent}


def streams(setup, upstreams, folder):
    if isinstance(setup, Slime):
        setup = Slime(STREAMS + 100, ["--concurrent", STREAMS + 100])
    with Running(setup, upstreams.own) as running:
        before = running.resident()
        with selectors.EpollSelector() as selector:
            for _ in range(STREAMS):
                connection = socket.create_connection((HOST, running.port), 5)
                connection.sendall(b"GET /events HTTP/1.1\r\nHost: bench\r\n\r\n")
                selector.register(connection, selectors.EVENT_READ)
                listen(selector, 0.002)
            listen(selector, 3)
            after, cpu = running.resident(), running.cpu()
            delays = sorted(listen(selector, STREAM_SECONDS))
            cpu = running.cpu() - cpu
            for key in list(selector.get_map().values()):
                key.fileobj.close()
        return {
            "stream.hub": (after[0] - before[0]) / STREAMS, "stream.agent": (after[1] - before[1]) / STREAMS,
            "stream.cpu": cpu / len(delays) * 1e6,
            "stream.p50": delays[len(delays) // 2], "stream.p99": delays[len(delays) * 99 // 100],
            "stream.late": max(0, 100 - 100 * len(delays) / STREAMS / STREAM_SECONDS),
        }


def listen(selector, seconds):
    """Delays of the events that come meanwhile, in microseconds."""
    delays, until = [], time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        for key, _ in selector.select(left):
            got = key.fileobj.recv(65536)
            now = time.monotonic_ns()
            if not got:
                raise ConnectionError("an event stream ended")
            delays += [(now - int(sent)) / 1000 for sent in re.findall(rb"data: (\d{20})", got)]
    return delays


def queue(setup, upstreams, folder):
    """One job at a time, of ten milliseconds, for eight clients that wait."""
    setup = Slime(1) if isinstance(setup, Slime) else Haproxy("haproxy", limit="maxconn 1")
    delays = []

    def ask(client, until):
        while time.monotonic() < until:
            before = time.monotonic()
            if client.get("/sleep?ms=10", "Slime-Block: 1\r\n") != (200, BODY):
                raise ConnectionError("a wrong reply")
            delays.append((time.monotonic() - before) * 1000)

    with Running(setup, upstreams.own) as running:
        began = time.monotonic()
        together(8, lambda _: ask(Client(running.port), began + 6))
        return {"queue.rate": len(delays) / (time.monotonic() - began), "queue.slowest": max(delays)}


def replies(setup, upstreams, folder):
    """Eight clients at once, each of whose requests asks for something else."""
    wrong = asked = 0

    def ask(number):
        nonlocal wrong, asked
        client = Client(running.port)
        until, count = time.monotonic() + 2, 0
        while time.monotonic() < until:
            count += 1
            expected = b"%d-%d" % (number, count)
            asked += 1
            try:
                if client.get(f"/echo?id={expected.decode()}") == (200, expected):
                    continue
            except (OSError, ValueError):
                client = Client(running.port)
            wrong += 1

    for workers in [1, 8, 64]:
        with Running(Slime(workers) if isinstance(setup, Slime) else setup, upstreams.own) as running:
            together(8, ask)
    return {"replies": asked, "replies.wrong": wrong}


def together(number, work):
    """Does it in so many threads, and waits for all of them."""
    errors = []

    def safely(number):
        try:
            work(number)
        except Exception as error:  # it is raised where everybody sees it
            errors.append(error)

    threads = [threading.Thread(target=safely, args=[number]) for number in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def request_rows(connections):
    with_s = "connection" + "s" * (connections > 1)
    return [
        (f"cpu{connections}", f"CPU per request, {connections} {with_s}, us", "%.1f"),
        (f"rate{connections}", f"requests/s, {connections} {with_s}", "%.0f"),
        (f"p50{connections}", f"delay p50, {connections} {with_s}, us", "%.0f"),
        (f"bad{connections}", "... of them lost or not 2xx", "%.0f"),
    ]


COMPARED = [
    Metric("busy", ALL, request_rows(32), requests(32)),
    Metric("single", ALL, request_rows(1), requests(1)),
    Metric("calls", ALL, [
        ("calls.hub", "system calls per request, first hop, 1 connection", "%.2f"),
        ("calls.agent", "... second hop", "%.2f"),
    ], system_calls),
    Metric("bulk", [*ALL, SPLICE], [("down", "CPU s per GB down", "%.3f"), ("up", "CPU s per GB up", "%.3f")], bulk),
    Metric("clients", ALL, [
        ("idle.hub", "resident, idle, first hop, kB", "%.0f"), ("idle.agent", "... second hop", "%.0f"),
        ("client", f"resident per idle client, of {CLIENTS:,}, both hops, kB", "%.2f"), ("client.dead", "... of 50 that were lost", "%.0f"),
    ], clients),
    Metric("tunnels", [Slime()], [
        ("tunnel.hub", f"resident per idle tunnel, of {TUNNELS:,}, hub, kB", "%.2f"), ("tunnel.agent", "... agent", "%.2f"),
    ], tunnels),
    Metric("streams", ALL, [
        ("stream.hub", f"resident per event stream, of {STREAMS:,}, first hop, kB", "%.2f"), ("stream.agent", "... second hop", "%.2f"),
        ("stream.cpu", "CPU per event, us", "%.1f"),
        ("stream.p50", "delay of an event p50, us", "%.0f"), ("stream.p99", "... p99", "%.0f"), ("stream.late", "... not there in time, %", "%.1f"),
    ], streams),
    Metric("queue", [Slime(), HAPROXY], [
        ("queue.rate", "1 worker, 8 clients, jobs of 10 ms: jobs/s", "%.1f"), ("queue.slowest", "... the slowest, ms", "%.0f"),
    ], queue),
    Metric("replies", ALL, [("replies", "replies looked at", "%.0f"), ("replies.wrong", "... wrong, empty or lost", "%.0f")], replies),
]
