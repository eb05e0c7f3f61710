"""An upstream that does what it is asked, for thousands of connections. It prints its port, then nothing.

/hello                  a few bytes
/once/ID                notes that it was done; /times says how often which was
/events                 events for ever, 4 a second
/flood                  zeros, as fast as they are taken
/bulk                   the same from a thread of its own, so that it does not hold up the events
/give/N                 N bytes
/take                   reads a body, and says how long it was
/wait/MS                a job of so many milliseconds
/bad/KIND               an endless head, 1xx, trailers or chunk extension
"""

import asyncio
import json
import os
import re
import resource
import select
import socket
import time

BLOCK = bytes(65536)
EVENTS_A_SECOND = 4
listeners = {}
done = {}


async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            taken = 0
            if length:
                taken = await swallow(reader, int(length[1]))
            elif re.search(rb"(?i)\r\ntransfer-encoding:", head):
                while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
                    taken += await swallow(reader, size)
                    await reader.readexactly(2)
                await reader.readuntil(b"\r\n")
            await answer(head.split(b" ")[1].decode().split("/")[1:], taken, reader, writer)
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
        pass
    finally:
        listeners.pop(writer, None)
        writer.close()


async def swallow(reader, n):
    left = n
    while left:
        data = await reader.read(min(left, 1 << 20))
        if not data:
            raise ConnectionResetError
        left -= len(data)
    return n


async def answer(path, taken, reader, writer):
    what, rest = path[0], path[1:]
    if what == "once":
        done[rest[0]] = done.get(rest[0], 0) + 1
    if what == "wait":
        await asyncio.sleep(int(rest[0]) / 1000)
    if what == "events":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        listeners[writer] = True
        await reader.read()
        raise ConnectionResetError
    if what == "flood":
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + BLOCK + b"\r\n")
            await writer.drain()
    if what == "bulk":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
        await asyncio.to_thread(bulk, os.dup(writer.get_extra_info("socket").fileno()))
        raise ConnectionResetError
    if what == "give":
        left = int(rest[0])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % left)
        while left:
            block = BLOCK[:left]
            writer.write(block)
            await writer.drain()
            left -= len(block)
        return
    if what == "bad":
        begin, again = {
            "head": (b"HTTP/1.1 200 OK\r\n", b"X-Filler: filler\r\n"),
            "line": (b"HTTP/1.1 200 OK\r\nX-Filler: ", b"filler"),
            "interim": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
            "trailers": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Filler: filler\r\n"),
            "extension": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x=filler;"),
        }[rest[0]]
        writer.write(begin)
        while True:
            writer.write(again * 100)
            await writer.drain()
            await asyncio.sleep(0)
    body = json.dumps(done).encode() if what == "times" else b"took %d" % taken if what == "take" else b"hello"
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()


def bulk(descriptor):
    with socket.socket(fileno=descriptor) as connection:
        poll = select.poll()
        poll.register(connection, select.POLLOUT)
        block = bytes(1 << 20)
        while True:
            try:
                connection.send(block)
            except BlockingIOError:
                poll.poll(1000)
            except OSError:
                return


async def tick():
    """All listeners get each event, with the time when it was made."""
    gap = 1 / EVENTS_A_SECOND
    at = time.monotonic()
    while True:
        at += gap
        await asyncio.sleep(max(0, at - time.monotonic()))
        event = b"data: %.4f\n\n" % time.monotonic()
        chunk = b"%x\r\n%s\r\n" % (len(event), event)
        for writer in list(listeners):
            # One that does not read is not written to for ever.
            if writer.transport.get_write_buffer_size() < 65536:
                writer.write(chunk)


async def main():
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await tick()


asyncio.run(main())
