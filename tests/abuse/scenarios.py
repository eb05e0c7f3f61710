"""The scenarios. Each is told whether it is to be long, and raises `Failed` if what must hold does not."""

import asyncio
import contextlib
import json
import random
import resource
import socket
import struct
import sys
import time

from harness import HERE, PATIENCE, Bed, Door, check, connect, eventually, get, many

ALL = []
LOST = (OSError, asyncio.IncompleteReadError)


def scenario(body):
    ALL.append(body)
    return body


async def drip(door, n, begin, seconds, lives):
    """Keeps n connections that send one byte every 100 ms after their beginning. None may live longer than `lives` seconds. A machine
    that is too busy to make so many in that time gets more of it.
    """
    until = time.monotonic() + seconds
    ended, oldest = 0, 0.0

    def going():
        return time.monotonic() < until + (PATIENCE if ended < n else 0)

    async def one(_):
        nonlocal ended, oldest
        while going():
            try:
                reader, writer = await connect(door, begin)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            born = time.monotonic()
            answer = asyncio.create_task(reader.read())
            while not answer.done() and going():
                with contextlib.suppress(OSError):
                    writer.write(b"x")
                await asyncio.wait([answer], timeout=0.1)
            if answer.done():
                ended += 1
                oldest = max(oldest, time.monotonic() - born)
                if not answer.exception():
                    check(answer.result()[:12] in (b"", b"HTTP/1.1 408"), "answered with", answer.result())
            answer.cancel()
            writer.transport.abort()

    await many(n, one, n)
    print(f"    {ended} of the slow connections were ended, the oldest after {oldest:.1f} s")
    check(ended >= n, "too few were ended:", ended)
    check(oldest <= lives, f"one lived for {oldest:.1f} s")


@scenario
async def slow_heads(long):
    """500 connections send their heads a byte at a time"""
    n, seconds = (2000, 120) if long else (500, 6)
    async with Bed("--head-timeout", "3") as bed:
        await drip(bed.door, n, b"GET / HTTP/1.1\r\nHost: h\r\nX-Slow: ", seconds, lives=6)
        await bed.judge(clients=n, exchanges=4)


@scenario
async def slow_bodies(long):
    """500 connections send their small bodies a byte at a time, and take no worker"""
    n, seconds = (1000, 120) if long else (500, 6)
    async with Bed("--body-timeout", "3", workers=1) as bed:
        head = b"POST /take HTTP/1.1\r\nHost: h\r\nContent-Length: 16000\r\n\r\n" + bytes(10_000)
        await drip(bed.door, n, head, seconds, lives=6)
        await bed.judge(clients=n, exchanges=1)


@scenario
async def slow_readers(long):
    """500 clients ask for endless responses and read nothing"""
    n, rounds = (500, 10) if long else (500, 1)
    async with Bed("--stall-timeout", "4", workers=n + 4) as bed:
        request = b"GET /flood HTTP/1.1\r\nHost: h\r\n\r\n"
        for _ in range(rounds):
            crowd = await many(n, lambda _: connect(bed.door, request, reading=False, buffer=4096))
            await eventually("all are being served", lambda: bed.hub.descriptors() >= bed.before[1] + n)
            begin = time.monotonic()
            # They never leave by themselves.
            # First the buffers of the system have to fill, all the way to the upstream.
            await eventually("the hub has ended them", lambda: bed.hub.descriptors() <= bed.before[1] + 3, 90)
            print(f"    {n} slow readers were ended after {time.monotonic() - begin:.1f} s")
            for one in crowd:
                one.close()
            await eventually("their workers are back", lambda: bed.agent.descriptors() <= bed.before[3] + n)
        await bed.judge(clients=n, exchanges=n, tunnels=n)


def garbage(dice):
    """Bytes of some kind that no client should send."""
    kind = dice.randrange(10)
    line = b"%s /x HTTP/1.1\r\nHost: h\r\n" % dice.choice([b"GET", b"POST", b"OPTIONS", b"CONNECT"])
    if kind == 0:
        return dice.randbytes(dice.randrange(1, 3000))
    if kind == 1:
        return b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + dice.randbytes(500)
    if kind == 2:
        return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + dice.randbytes(100)
    if kind == 3:
        return line + b"X: " + b"y" * 20_000 + b"\r\n\r\n"
    if kind == 4:
        return line + b"".join(b"X-%d: y\r\n" % n for n in range(200)) + b"\r\n"
    if kind == 5:
        return line + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"
    if kind == 6:
        return line + b"Transfer-Encoding: chunked\r\n\r\n" + dice.choice([b"+1\r\n", b"\xff\r\n", b"1\n", b"fffffffffffffffff\r\n"])
    if kind == 7:
        token = b"slime1_" + bytes(dice.choices(b"abcdefABCDEF0123456789-_", k=dice.randrange(0, 2000)))
        return (
            b"GET /.slime/tunnel HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: slime/1\r\n"
            b"Slime-Agent-Token: " + token + b"\r\nSlime-Agent-Id: x\r\nSlime-Worker: 0\r\n\r\n"
        )
    if kind == 8:
        return b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: h\r\n\r\n"
    whole = bytearray(line + b"Content-Length: 3\r\nX-Y: z\r\n\r\nabc")
    for _ in range(dice.randrange(1, 6)):
        whole[dice.randrange(len(whole))] = dice.randrange(256)
    return bytes(whole)


@scenario
async def garbage_connections(long):
    """10,000 connections bring garbage of ten kinds"""
    n = 300_000 if long else 10_000
    dice = random.Random(4)
    answers = {}
    async with Bed("--head-timeout", "2", "--body-timeout", "2") as bed:

        async def one(_):
            data = garbage(dice)
            answer = b""
            try:
                reader, writer = await connect(bed.door, data)
            except OSError:
                return
            with contextlib.suppress(*LOST, TimeoutError):
                # Some of it is the beginning of something, and is waited for.
                answer = await asyncio.wait_for(reader.read(500), 0.5 if dice.random() < 0.9 else 5)
            writer.transport.abort() if dice.random() < 0.5 else writer.close()
            status = answer[9:12].decode(errors="replace") if answer.startswith(b"HTTP/1.1 ") else "none"
            check(answer == b"" or status != "none", "answered with", answer)
            answers[status] = answers.get(status, 0) + 1

        await many(n, one, 400)
        print(f"    answers: {dict(sorted(answers.items()))}")
        check(answers.get("400", 0) > n / 4, "garbage was not refused")
        await bed.judge(clients=800, exchanges=8)


@scenario
async def churn(long):
    """20,000 connections come and go, in every state"""
    n = 500_000 if long else 20_000
    dice = random.Random(5)
    async with Bed(workers=8) as bed:

        async def one(number):
            kind = number % 4
            if kind == 0:
                return
            data = b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n"
            try:
                connection = await connect(bed.door, b"" if kind == 1 else data, reading=False)
            except OSError:
                return
            with connection:
                if kind == 2:
                    with contextlib.suppress(OSError):
                        await asyncio.wait_for(asyncio.get_running_loop().sock_recv(connection, 1000), PATIENCE)
                if dice.random() < 0.5:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        begin = time.monotonic()
        await many(n // 2 * 4 // 3, one, 100)
        middle = bed.hub.memory()
        await many(n // 2 * 4 // 3, one, 100)
        print(f"    {n / (time.monotonic() - begin):.0f} connections a second")
        await bed.judge(clients=200, exchanges=8)
        check(bed.hub.memory() <= middle * 1.2 + 500_000, "memory grows:", middle, bed.hub.memory())


@scenario
async def event_streams(long):
    """1,000 event streams beside one fast transfer, and it beside them"""
    n, seconds = (1000, 60) if long else (1000, 5)
    async with Bed("--concurrent", "4096", "--max-clients", "8192", workers=n + 8) as bed:
        rate, _ = await bulk(bed, seconds / 2)
        delays = []

        async def listen(reader):
            with contextlib.suppress(*LOST):
                while True:
                    line = await reader.readuntil(b"\n")
                    if line.startswith(b"data: "):
                        delays.append(time.monotonic() - float(line[6:]))

        async def begin(_):
            reader, writer = await connect(bed.door, b"GET /events HTTP/1.1\r\nHost: h\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            check(head.startswith(b"HTTP/1.1 200 "), "a stream began with", head)
            return asyncio.create_task(listen(reader)), writer

        streams = await many(n, begin)
        for what in ["without the transfer", "with the transfer"]:
            delays.clear()
            if what.startswith("without"):
                await asyncio.sleep(seconds)
            else:
                beside, pause = await bulk(bed, seconds)
            check(not any(task.done() for task, _ in streams), "a stream has ended")
            times = sorted(delays)
            # Four events a second for each.
            expected = n * (seconds - 1) * 4
            print(
                f"    {len(times)} events {what}, ms (median/99 %/worst): {times[len(times) // 2] * 1000:.1f}/"
                f"{times[len(times) * 99 // 100] * 1000:.0f}/{times[-1] * 1000:.0f}"
            )
            check(len(times) >= expected, "events are missing:", len(times), "of", expected)
            check(times[-1] <= 2, f"an event came {times[-1]:.1f} s late")
        print(f"    the transfer: {rate / 1e6:.0f} MB/s alone, {beside / 1e6:.0f} MB/s beside {n} streams, worst pause {pause * 1000:.0f} ms")
        check(beside >= rate / 10, "the transfer starves")
        for task, writer in streams:
            task.cancel()
            writer.transport.abort()
        await bed.judge(clients=n, exchanges=8, tunnels=n)


async def bulk(bed, seconds):
    """Bytes a second of one fast transfer, and its longest pause."""
    words = [sys.executable, str(HERE / "bulk.py"), str(bed.port), str(seconds)]
    child = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate()
    check(child.returncode == 0, "the transfer failed")
    rate, pause = out.split()
    return float(rate), float(pause)


@scenario
async def agents_killed(long):
    """agents are killed at random under load"""
    seconds = 300 if long else 10
    dice = random.Random(6)
    async with Bed("--startup-grace", "0", workers=8) as bed:
        victims = [await bed.add_agent(4) for _ in range(3)]
        until = time.monotonic() + seconds
        results = {}
        answered = []
        killed = 0

        async def load(client):
            number = 0
            while time.monotonic() < until:
                number += 1
                name = f"{client}-{number}"
                method, path = ("POST", f"/once/{name}") if number % 2 else ("GET", "/wait/5")
                try:
                    status, body = await get(bed.door, path, method, fields="Slime-Block: 1\r\n")
                except (*LOST, TimeoutError) as error:
                    # A response that is cut is an honest one.
                    status, body = type(error).__name__, b""
                results[method, status] = results.get((method, status), 0) + 1
                if method == "POST" and status == 200:
                    check(body == b"hello", "answered with", body)
                    answered.append(name)

        async def kill():
            nonlocal killed
            while time.monotonic() < until:
                await asyncio.sleep(dice.uniform(0.05, 0.5))
                place = dice.randrange(len(victims))
                victims[place].kill()
                bed.agents.remove(victims[place])
                bed.children.remove(victims[place])
                killed += 1
                victims[place] = await bed.add_agent(4)

        await asyncio.gather(kill(), *(load(client) for client in range(32)))
        _, text = await get(Door(bed.upstream_port), "/times")
        times = json.loads(text)
        twice = [name for name, count in times.items() if count > 1]
        missing = [name for name in answered if name not in times]
        print(f"    {killed} agents were killed; results: { {f'{m} {s}': n for (m, s), n in sorted(results.items(), key=str)} }")
        check(not twice, "done twice:", twice[:5])
        check(not missing, "answered, but never done:", missing[:5])
        total = sum(count for (method, _), count in results.items() if method == "GET")
        good = results.get(("GET", 200), 0)
        check(good >= total * 0.99, "GETs failed though they may be repeated:", total - good, "of", total)
        check(set(status for _, status in results) <= {200, 502, 503}, "dishonest results")
        for victim in victims:
            victim.kill()
        # All permits are back: the workers that are left work at once, all of them.
        begin = time.monotonic()
        answers = await many(8, lambda _: get(bed.door, "/wait/300"))
        check(all(status == 200 for status, _ in answers), answers)
        check(time.monotonic() - begin < 2, "workers are missing")
        await bed.judge(clients=100, exchanges=20, tunnels=40, unserved=0.01)


@scenario
async def few_descriptors(long):
    """the descriptors run out: idle clients are closed, the longest idle first, and nobody else"""
    n, rounds = (5000, 10) if long else (400, 1)
    before = ["sh", "-c", 'ulimit -n 100; exec "$0" "$@"']
    async with Bed("--idle-timeout", "600", hub_before=before) as bed:
        reader, writer = await connect(bed.door, b"GET /events HTTP/1.1\r\nHost: h\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        for limit in [100, 40]:
            # In the second round the limit is lower than the hub knows: accepting itself fails.
            resource.prlimit(bed.hub.child.pid, resource.RLIMIT_NOFILE, (limit, limit))
            for _ in range(rounds):
                crowd = []
                for _ in range(n):
                    crowd.append(await connect(bed.door, b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n", reading=False))
                    loop = asyncio.get_running_loop()
                    await asyncio.wait_for(loop.sock_recv(crowd[-1], 65536), PATIENCE)
                await asyncio.sleep(0.3)
                opened = [is_open(one) for one in crowd]
                first = opened.index(True) if True in opened else n
                kept = opened.count(True)
                print(f"    with {limit} descriptors {kept} of {n} idle clients are left, the eldest of them is number {first}")
                check(0 < kept < limit, "of those that are idle some are kept")
                check(all(opened[first:]), "closed in another order than that of their age")
                for one in crowd:
                    one.close()
        await asyncio.wait_for(reader.readuntil(b"data:"), PATIENCE)
        check(not any("lost the hub" in line for line in bed.agent.lines()), "a tunnel was closed")
        writer.transport.abort()
        await bed.judge(clients=100, exchanges=2)


def is_open(connection):
    try:
        return connection.recv(65536) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


@scenario
async def endless(long):
    """heads, 1xx, trailers and chunk extensions without end, from both sides"""
    n = 200 if long else 20
    filler = [
        (b"GET / HTTP/1.1\r\nHost: h\r\n", b"X-Filler: filler\r\n"),
        (b"GET /", b"filler"),
        (b"POST /take HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Filler: filler\r\n"),
        (b"POST /take HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x=filler;"),
        (b"\r\n", b"\r\n"),
    ]
    async with Bed(workers=24) as bed:

        async def client(number):
            begin, again = filler[number % len(filler)]
            born = time.monotonic()
            reader, writer = await connect(bed.door, begin)
            sent = 0
            try:
                while not reader.at_eof():
                    check(sent < 16 << 20, "16 MB were taken of", begin)
                    writer.write(again * 100)
                    sent += len(again) * 100
                    await asyncio.wait_for(writer.drain(), PATIENCE)
                    await asyncio.sleep(0)
            except LOST:
                pass
            check(time.monotonic() - born < 10, begin, "went on for long")
            writer.transport.abort()

        async def asking(number):
            begin = time.monotonic()
            kind = ["head", "line", "interim", "trailers", "extension"][number % 5]
            reader, writer = await connect(bed.door, b"GET /bad/%s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % kind.encode())
            answer = b""
            with contextlib.suppress(*LOST):
                while more := await asyncio.wait_for(reader.read(65536), PATIENCE):
                    answer += more
                    check(len(answer) < 1 << 20, "a megabyte came of", kind)
            check(time.monotonic() - begin < 10, kind, "went on for long")
            check(not answer.endswith(b"0\r\n\r\n"), kind, "looks complete")
            if kind in ("head", "line"):
                check(answer.startswith(b"HTTP/1.1 502 "), kind, "came as", answer[:300])
            writer.transport.abort()

        await many(n * 5, client, 50)
        await many(n * 5, asking, 20)
        await bed.judge(clients=100, exchanges=24, tunnels=24)


@scenario
async def hostile_agents(long):
    """20 agents with good tokens answer with garbage"""
    seconds = 120 if long else 6
    dice = random.Random(7)
    async with Bed() as bed:
        token = bed.register("--scope-paths", "/bad", "--scopes", "bad")
        until = time.monotonic() + seconds
        results = {}

        def answer():
            kind = dice.randrange(8)
            good = bytearray(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Y: z\r\n\r\nhello")
            for _ in range(dice.randrange(1, 5)):
                good[dice.randrange(len(good))] = dice.randrange(256)
            return [
                bytes(good),
                dice.randbytes(dice.randrange(1, 2000)),
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: slime/1\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnext-time",
                b"HTTP/1.1 503 x\r\nSlime-Refused: busy\r\nContent-Length: 0\r\n\r\n",
                b"HTTP/1.1 102 Processing\r\nSlime-Heartbeat: ?1\r\n\r\n" * dice.randrange(1, 400),
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nContent-Length: 7\r\n\r\n",
                b"",
            ][kind]

        async def agent(number):
            hello = (
                f"GET /.slime/tunnel HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: slime/1\r\n"
                f"Slime-Agent-Token: {token}\r\nSlime-Agent-Id: hostile-{number}\r\nSlime-Worker: 0\r\nSlime-Ready: ?1\r\n\r\n"
            )
            while time.monotonic() < until:
                reader, writer = await connect(bed.door, hello.encode())
                with contextlib.suppress(*LOST, TimeoutError):
                    head = await reader.readuntil(b"\r\n\r\n")
                    check(head.startswith(b"HTTP/1.1 101"), "not let in:", head)
                    if dice.random() < 0.1:
                        # Before it was asked anything.
                        writer.write(answer())
                    while True:
                        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 1)
                        writer.write(answer())
                        if dice.random() < 0.5:
                            break
                writer.transport.abort() if dice.random() < 0.5 else writer.close()

        async def client(_):
            while time.monotonic() < until:
                reader, writer = await connect(bed.door, b"GET /bad/x HTTP/1.1\r\nHost: h\r\nSlime-Scope: bad\r\n\r\n")
                got = b""
                with contextlib.suppress(*LOST, TimeoutError):
                    got = await asyncio.wait_for(reader.read(65536), 2)
                check(b"next-time" not in got, "bytes beyond a response reached somebody")
                check(b"Slime-Refused" not in got and b"Slime-Heartbeat" not in got, "a control field reached somebody")
                status = got[9:12].decode(errors="replace")
                results[status] = results.get(status, 0) + 1
                writer.transport.abort()

        await asyncio.gather(*(agent(number) for number in range(20)), *(client(number) for number in range(10)))
        print(f"    what their clients got: {dict(sorted(results.items()))}")
        check(sum(results.values()) > 100, "hardly anything happened")
        await bed.judge(clients=100, exchanges=20, tunnels=40)
