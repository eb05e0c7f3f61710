"""What TLS changes: the scenarios in which a connection costs more with it, or can be stopped at one place more."""

import asyncio
import contextlib
import random
import socket
import struct
import time

from harness import PATIENCE, Bed, check, connect, eventually, many
from scenarios import LOST, drip, garbage

ALL = []
# The beginning of a ClientHello that is sixteen kilobytes long.
HELLO = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03"
GET = b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n"


def scenario(body):
    ALL.append(body)
    return body


def reset(writer):
    """Goes without a word: neither close_notify nor an orderly end of the connection."""
    # It may be over already.
    if (connection := writer.get_extra_info("socket")) is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@scenario
async def tls_slow(long):
    """1,100 connections stall their handshakes, 200 beside them their heads"""
    (stalled, slow), seconds = ((1500, 500), 120) if long else ((1100, 200), 6)
    async with Bed("--head-timeout", "2", tls=True) as bed:
        await asyncio.gather(
            # Of handshakes there are 1,024 at once; the oldest makes room.
            drip(bed.door.plain(), stalled, HELLO, seconds, lives=8),
            drip(bed.door, slow, b"GET / HTTP/1.1\r\nHost: h\r\nX-Slow: ", seconds, lives=8),
        )
        await bed.judge(clients=stalled + slow, exchanges=4)


@scenario
async def tls_slow_readers(long):
    """100 clients ask for endless responses and read nothing"""
    n, rounds = (200, 10) if long else (100, 1)
    async with Bed("--stall-timeout", "3", workers=n + 4, tls=True) as bed:
        request = b"GET /flood HTTP/1.1\r\nHost: h\r\n\r\n"
        for _ in range(rounds):
            # A reader with such a limit stops reading when it has a few bytes.
            crowd = await many(n, lambda _: connect(bed.door, request, buffer=4096, limit=1), 50)
            # The connections of the client that behaves come and go.
            await eventually("all are being served", lambda: bed.hub.descriptors() >= bed.before[1] + n - 3)
            begin = time.monotonic()
            await eventually("the hub has ended them", lambda: bed.hub.descriptors() <= bed.before[1] + 3, 90)
            print(f"    {n} slow readers were ended after {time.monotonic() - begin:.1f} s")
            for _, writer in crowd:
                writer.transport.abort()
            await eventually("their workers are back", lambda: bed.agent.descriptors() <= bed.before[3] + n)
        await bed.judge(clients=n, exchanges=n, tunnels=n)


@scenario
async def tls_garbage(long):
    """2,400 connections bring garbage instead of a handshake, 600 after it"""
    n = 200_000 if long else 3000
    dice = random.Random(8)
    answers = {}
    async with Bed("--head-timeout", "2", "--body-timeout", "2", tls=True) as bed:

        async def one(number):
            inside = number % 5 == 0
            data = garbage(dice)
            if not inside and dice.random() < 0.5:
                # What looks like records: handshake, alert, data, change of cipher, and none of these.
                data = bytes([dice.randrange(19, 25), 3, dice.randrange(5), dice.randrange(66), dice.randrange(256)]) + data
            answer = b""
            try:
                reader, writer = await connect(bed.door if inside else bed.door.plain(), data)
            except OSError:
                return
            with contextlib.suppress(*LOST, TimeoutError):
                answer = await asyncio.wait_for(reader.read(500), 0.5 if dice.random() < 0.9 else 5)
            reset(writer) if dice.random() < 0.5 else writer.close()
            kind = answer[9:12].decode(errors="replace") if answer.startswith(b"HTTP/1.1 ") else "none"
            if not inside and answer.startswith(b"\x15\x03"):
                kind = "alert"
            check(answer == b"" or kind != "none", "answered with", answer)
            name = f"{kind} {'inside' if inside else 'outside'}"
            answers[name] = answers.get(name, 0) + 1

        await many(n, one, 400)
        print(f"    answers: {dict(sorted(answers.items()))}")
        check(answers.get("400 inside", 0) > n / 5 / 4, "garbage was not refused")
        check(answers.get("alert outside", 0) > n / 8, "garbage was not refused")
        check("200 outside" not in answers, "something was served without TLS")
        await bed.judge(clients=800, exchanges=8)


@scenario
async def tls_churn(long):
    """2,000 connections come and go, at every place of handshake, request and response"""
    n = 100_000 if long else 2000
    dice = random.Random(9)
    async with Bed(workers=8, tls=True) as bed:

        async def one(number):
            kind = number % 6
            with contextlib.suppress(*LOST, TimeoutError):
                data = [b"", HELLO, b"", GET, GET, b"GET /flood HTTP/1.1\r\nHost: h\r\n\r\n"][kind]
                reader, writer = await connect(bed.door.plain() if kind < 2 else bed.door, data)
                if kind >= 4:
                    await asyncio.wait_for(reader.read(1000), PATIENCE)
                reset(writer) if dice.random() < 0.5 else writer.close()

        begin = time.monotonic()
        await many(n // 2, one, 100)
        middle = bed.hub.memory()
        await many(n // 2, one, 100)
        print(f"    {n / (time.monotonic() - begin):.0f} connections a second")
        await bed.judge(clients=200, exchanges=8)
        check(bed.hub.memory() <= middle * 1.2 + 500_000, "memory grows:", middle, bed.hub.memory())
