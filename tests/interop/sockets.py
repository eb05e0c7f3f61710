"""WebSockets: the websockets library on both sides, and Starlette's."""

import asyncio
import json
import os
import socket as tcp
import threading
import time
import urllib.request

import aiohttp
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import serve

import wire
from harness import PATIENCE, SOON, Failed, check, equal, eventually, pattern, test


class Server:
    """A server of the websockets library, in a thread. It echoes, and notes what happens."""

    def __init__(self, bed, **options):
        self.closed = []
        self.pings = 0
        self.server = serve(self.handle, "127.0.0.1", 0, max_size=None, ssl=wire.server_context(), **options)
        self.at = wire.url("127.0.0.1:%d" % self.server.socket.getsockname()[1])
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        bed.cleanup.callback(self.server.shutdown)

    def handle(self, connection):
        try:
            while True:
                message = connection.recv()
                if isinstance(message, str) and message.startswith("close "):
                    connection.close(int(message.split()[1]), "as you wish")
                    break
                if message == "ping me":
                    check(connection.ping().wait(PATIENCE), "the client's pong")
                    message = "pinged"
                connection.send(message)
        except (ConnectionClosedOK, ConnectionClosedError):
            pass
        self.closed.append(connection.close_code)


def options(**more):
    return {"open_timeout": PATIENCE, "close_timeout": PATIENCE, "max_size": None, "proxy": None, **more}


@test
def messages(bed):
    """Text, binary, empty, and five megabytes, one after the other."""
    hub = bed.stack(Server(bed).at)
    with connect(f"{hub.ws}/any?x=y", **options()) as socket:
        for message in [
            "hello",
            "caf\u00e9 \u2603",
            "",
            b"",
            b"\0\1\2",
            "x" * 125,
            "x" * 126,
            "x" * 65536,
            pattern(5_000_000),
            "y" * 5_000_000,
        ]:
            socket.send(message)
            equal(socket.recv(PATIENCE), message)
        for number in range(2000):
            socket.send(str(number))
            equal(socket.recv(PATIENCE), str(number))


@test
def both_ways_at_once(bed):
    """Both sides send megabytes while they receive."""
    hub = bed.stack(Server(bed).at)

    async def scenario():
        async with connect_async(f"{hub.ws}/", compression=None, **options()) as socket:
            body = pattern(1_000_000)

            async def send():
                for number in range(30):
                    await socket.send(number.to_bytes(4, "big") + body)

            sending = asyncio.create_task(send())
            for number in range(30):
                got = await asyncio.wait_for(socket.recv(), PATIENCE)
                equal(got[:4], number.to_bytes(4, "big"))
                equal(len(got), 1_000_004)
            await sending

    asyncio.run(scenario())


@test
def pings(bed):
    hub = bed.stack(Server(bed).at)
    with connect(f"{hub.ws}/", **options()) as socket:
        for _ in range(20):
            check(socket.ping().wait(PATIENCE), "the server's pong")
        socket.send("ping me")
        equal(socket.recv(PATIENCE), "pinged")


@test
def close_codes(bed):
    """Who closes, and why, reaches the other side."""
    server = Server(bed)
    hub = bed.stack(server.at)
    for code in [1000, 1001, 3000, 4999]:
        socket = connect(f"{hub.ws}/", **options())
        socket.send("hello")
        socket.recv(PATIENCE)
        begin = time.monotonic()
        socket.close(code, "enough")
        check(time.monotonic() - begin < SOON, "closing takes no time")
        eventually("the server saw it", lambda: len(server.closed) == 1)
        equal(server.closed.pop(), code)
        socket = connect(f"{hub.ws}/", **options())
        socket.send(f"close {code}")
        try:
            socket.recv(PATIENCE)
            raise Failed("no close")
        except (ConnectionClosedOK, ConnectionClosedError) as closed:
            equal((closed.rcvd.code, closed.rcvd.reason), (code, "as you wish"))
        eventually("the server is through", lambda: len(server.closed) == 1)
        server.closed.clear()


@test
def broken_off(bed):
    """A client that vanishes: the server sees it, and the worker is free."""
    server = Server(bed)
    hub = bed.stack(server.at)
    socket = connect(f"{hub.ws}/", **options())
    socket.send("hello")
    socket.recv(PATIENCE)
    # On a descriptor of its own: the library's thread still reads from the other one, whose number the next connection must not get.
    with tcp.socket(fileno=os.dup(socket.socket.fileno())) as beneath:
        beneath.shutdown(tcp.SHUT_RDWR)
    eventually("the server saw it", lambda: server.closed == [1006], 2)
    with connect(f"{hub.ws}/", **options()) as again:
        again.send("hello")
        equal(again.recv(PATIENCE), "hello")


@test
def idle(bed):
    """A quiet WebSocket outlives every time limit of both halves."""
    server = Server(bed, ping_interval=None)
    hub = bed.stack(
        server.at,
        "--heartbeat",
        "200ms",
        "--stall-timeout",
        "500ms",
        "--idle-timeout",
        "500ms",
        "--response-timeout",
        "500ms",
        "--head-timeout",
        "500ms",
        agent=["--stall-timeout", "500ms", "--head-timeout", "500ms"],
    )
    with connect(f"{hub.ws}/", ping_interval=None, **options()) as socket:
        for _ in range(2):
            time.sleep(2)
            socket.send("still here")
            equal(socket.recv(PATIENCE), "still here")


@test
def subprotocols_and_refusals(bed):
    upstream = bed.asgi()
    hub = bed.stack(upstream)
    with connect(f"{hub.ws}/socket?of=subprotocol", subprotocols=["one", "two"], **options()) as socket:
        equal(socket.subprotocol, "two")
    try:
        connect(f"{hub.ws}/refuse", **options())
        raise Failed("accepted")
    except InvalidStatus as refused:
        equal(refused.response.status_code, 403)
    with connect(f"{hub.ws}/socket?of=starlette", **options()) as socket:
        socket.send(b"\1\2")
        equal(socket.recv(PATIENCE), b"\1\2")
        socket.send("close me")
        try:
            socket.recv(PATIENCE)
        except ConnectionClosedError as closed:
            equal(closed.rcvd.code, 4001)
    eventually("the server is through", lambda: upstream.events("starlette") == ["begun", "closed by us"])
    no_upgrade = bed.stack(bed.node())
    try:
        connect(f"{no_upgrade.ws}/x", **options())
        raise Failed("accepted")
    except InvalidStatus as refused:
        equal(refused.response.status_code, 400)


@test
def password(bed):
    hub = bed.stack(Server(bed).at, "--app-password", "open sesame")
    try:
        connect(f"{hub.ws}/", **options())
        raise Failed("accepted")
    except InvalidStatus as refused:
        equal(refused.response.status_code, 401)
    with connect(f"{hub.ws}/", additional_headers={"Authorization": "Bearer open sesame"}, **options()) as socket:
        socket.send("hello")
        equal(socket.recv(PATIENCE), "hello")


def get(url):
    with urllib.request.urlopen(url, timeout=PATIENCE) as response:
        return response.read()


@test
def extra_upgrades(bed):
    """A page holds a WebSocket open while it posts jobs, as ComfyUI's does. Without --extra-upgrades the job waits."""
    upstream = bed.asgi()
    hub = bed.stack(upstream, agent=["--extra-upgrades", "2"])
    with (
        connect(f"{hub.ws}/socket?of=extra_1", **options()) as one,
        connect(f"{hub.ws}/socket?of=extra_2", **options()) as two,
    ):
        for number in range(20):
            equal(get(f"{hub.url}/work?ms=1&name={number}"), b"%d" % number)
            for socket in [one, two]:
                socket.send("hello")
                equal(socket.recv(PATIENCE), "hello")
    for _ in range(10):
        # Again and again: what was lent comes back.
        with (
            connect(f"{hub.ws}/socket?of=extra_3", **options()) as one,
            connect(f"{hub.ws}/socket?of=extra_3", **options()),
        ):
            equal(get(f"{hub.url}/work?ms=1&name=x"), b"x")
    hub = bed.stack(upstream)
    got = []
    socket = connect(f"{hub.ws}/socket?of=no_extra", **options())
    thread = threading.Thread(target=lambda: got.append(get(f"{hub.url}/work?of=no_extra_work&name=later")))
    thread.start()
    time.sleep(0.3)
    equal(upstream.events("no_extra_work"), [], "the worker is taken")
    socket.close()
    thread.join(PATIENCE)
    equal(got, [b"later"])


@test
def many_clients(bed):
    """Fifty WebSockets at once of aiohttp, one worker each."""
    upstream = bed.asgi()
    hub = bed.stack(upstream, workers=50)

    async def scenario():
        async with aiohttp.ClientSession() as session:

            async def one(number):
                async with session.ws_connect(f"{hub.url}/socket?of=many", heartbeat=5) as socket:
                    for turn in range(20):
                        await socket.send_json([number, turn])
                        equal(await socket.receive_json(timeout=PATIENCE), [number, turn])

            await asyncio.gather(*(one(number) for number in range(50)))

    asyncio.run(scenario())
    equal(json.dumps(upstream.events("many").count("begun")), "50")
