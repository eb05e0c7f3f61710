"""Bytes that no library sends: what must be refused, and what the upstream must never see."""

import contextlib
import http.client
import re
import signal
import socket
import time

import wire
from harness import PATIENCE, SOON, Process, agent_command, check, equal, register, test

ECHO = b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"

# What comes after the name must be answered with the status, and its connection closed.
REFUSED = [
    ("length and chunked", 400, b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("chunked and length", 400, b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
    ("two lengths", 400, b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 0\r\n\r\n"),
    ("two lengths in one field", 400, b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5, 0\r\n\r\n"),
    ("length with a sign", 400, b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: +0\r\n\r\n"),
    ("negative length", 400, b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n"),
    ("length in hex", 400, b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 0x0\r\n\r\n"),
    ("length beyond 64 bits", 400, b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551617\r\n\r\n"),
    ("white space before the colon", 400, b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    ("folded field", 400, b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    ("bare LF", 400, b"GET /x HTTP/1.1\nHost: h\n\n"),
    ("bare CR in a field", 400, b"GET /x HTTP/1.1\r\nHost: h\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n"),
    ("NUL in a field", 400, b"GET /x HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n"),
    ("vertical tab before chunked", 400, b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    ("chunked twice", 400, b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    ("chunked in two fields", 400, b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"),
    ("chunked in HTTP/1.0", 400, b"POST /x HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("unknown coding", 501, b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("no host", 400, b"GET /x HTTP/1.1\r\n\r\n"),
    ("two hosts", 400, b"GET /x HTTP/1.1\r\nHost: h\r\nHost: g\r\n\r\n"),
    ("length nominated by Connection", 400, b"POST /x HTTP/1.1\r\nHost: h\r\nConnection: content-length\r\nContent-Length: 3\r\n\r\nabc"),
    ("space in the target", 400, b"GET /x y HTTP/1.1\r\nHost: h\r\n\r\n"),
    ("HTTP/2 preface", 505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("HTTP/3.7", 505, b"GET /x HTTP/3.7\r\nHost: h\r\n\r\n"),
    ("HTTP/0.9", 400, b"GET /x\r\n\r\n"),
    ("TLS", 400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)) + b"\r\n\r\n"),
    ("CONNECT", 501, b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n"),
    ("a path of ours", 404, b"GET /.slime/tunnel HTTP/1.1\r\nHost: h\r\n\r\n"),
    ("a path of ours, encoded", 404, b"GET /%2eslime/tunnel HTTP/1.1\r\nHost: h\r\n\r\n"),
]  # fmt: skip

# Bad chunks show only after the head was forwarded: the upstream must not take the body for complete.
BAD_CHUNKS = [
    b"+1\r\nx\r\n0\r\n\r\n",
    b"0x1\r\nx\r\n0\r\n\r\n",
    b"1\nx\n0\n\n",
    b"1 \rx\r\n0\r\n\r\n",
    b"ffffffffffffffff1\r\nx\r\n0\r\n\r\n",
    b"1\r\nxy\r\n0\r\n\r\n",
    b"-1\r\n",
    b"\r\n",
]


def talk(hub, data, finish=False):
    """Everything the hub answers to the bytes until it closes."""
    with hub.connect() as connection:
        connection.settimeout(PATIENCE)
        connection.sendall(data)
        if finish:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while more := connection.recv(65536):
                answer += more
        except ConnectionResetError:
            answer += b"<reset>"
        return answer


@test
def refused(bed):
    upstream = bed.node()
    hub = bed.stack(upstream)
    for name, status, data in REFUSED:
        answer = talk(hub, data + SMUGGLED)
        check(answer.startswith(b"HTTP/1.1 %d " % status), name, "was answered:", answer)
        equal(len(re.findall(rb"HTTP/1\.1 \d{3} ", answer)), 1, f"answers to {name}")
        check(b"application/problem+json" in answer, name, answer)
    check(talk(hub, ECHO).endswith(b"GET /x\n"), "the hub lives on")


@test
def bad_chunks(bed):
    upstream = bed.asgi()
    hub = bed.stack(upstream)
    head = b"POST /digest?of=bad_chunks HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    for chunks in BAD_CHUNKS:
        answer = talk(hub, head + b"3\r\nabc\r\n" + chunks + SMUGGLED)
        check(b" 200 " not in answer, chunks, "was answered:", answer)
        check(b"smuggled" not in answer, chunks, "was answered:", answer)
    check("complete" not in upstream.events("bad_chunks"), "no body looked complete")
    check(
        b'"length":3'
        in talk(
            hub,
            head.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nConnection: close\r\n")
            + b"3;ext=1\r\nabc\r\n0\r\nX: y\r\n\r\n",
        )
    )


@test
def pipelined(bed):
    """Requests sent at once are answered in order, on the same connection."""
    hub = bed.stack(bed.node())
    body = b"POST /digest HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
    many = b"".join(b"GET /number/%d HTTP/1.1\r\nHost: h\r\n\r\n" % n for n in range(50))
    answer = talk(hub, many + body + b"\r\n" + ECHO)
    equal(answer.count(b"HTTP/1.1 200"), 52)
    places = [answer.find(b"GET /number/%d\n" % n) for n in range(50)]
    check(-1 not in places and places == sorted(places), "in order:", places)


@test
def in_order(bed):
    """What arrives first is served first, on new connections and on kept ones."""
    upstream = bed.asgi()
    hub = bed.stack(upstream)
    with contextlib.ExitStack() as stack:
        connections = []
        for of in ["order_new", "order_kept"]:
            for number in range(100):
                if of == "order_new":
                    connections.append(stack.enter_context(hub.connect()))
                connections[number].sendall(
                    b"GET /work?ms=2&of=%s&name=%d HTTP/1.1\r\nHost: h\r\n\r\n" % (of.encode(), number)
                )
            for number, connection in enumerate(connections):
                response = http.client.HTTPResponse(connection)
                response.begin()
                equal((response.status, response.read()), (200, b"%d" % number))
            equal(
                [int(event) for event in upstream.events(of) if event.isdigit()],
                list(range(100)),
                "the order in the upstream",
            )


@test
def byte_by_byte(bed):
    hub = bed.stack(bed.node())
    head = b"POST /mirror HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    data = head + b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"
    with hub.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(data)):
            connection.sendall(data[at : at + 1])
        answer = b""
        while more := connection.recv(65536):
            answer += more
    # Which of the bytes share a chunk depends on when they came.
    body = answer.partition(b"\r\n\r\n")[2]
    content = b"".join(re.findall(rb"[0-9a-f]+\r\n(.*?)\r\n", body))
    check(content == b"abc0123456789" and answer.endswith(b"0\r\n\r\n"), answer)


@test
def half_closed(bed):
    """FIN during an exchange is leaving: no answer is owed, and the worker is free."""
    upstream = bed.asgi()
    hub = bed.stack(upstream)
    with hub.connect() as connection:
        connection.sendall(b"GET /never?of=half_closed HTTP/1.1\r\nHost: h\r\n\r\n")
        upstream.saw("half_closed", "begun")
        connection.shutdown(socket.SHUT_WR)
        check(upstream.saw("half_closed", "left") < SOON, "soon")
    check(b" 200 " in talk(hub, ECHO))


@test
def slow_heads(bed):
    """Clients that never finish their head are told, and hinder nobody."""
    hub = bed.stack(bed.node(), "--head-timeout", "500ms")
    slow = []
    for _ in range(50):
        slow.append(hub.connect())
        slow[-1].sendall(b"GET / HT")
    check(talk(hub, ECHO).endswith(b"GET /x\n"))
    for connection in slow:
        check(connection.recv(100).startswith(b"HTTP/1.1 408 "))
        connection.close()


@test
def request_and_end_at_once(bed):
    """The application leaves before the agent has looked at its request: data and FIN come in one event.

    The request is not begun, and the worker is back at once.
    """
    upstream = bed.asgi()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        at = "127.0.0.1:%d" % listener.getsockname()[1]
        command = agent_command(wire.url(at), upstream.at)
        agent = bed.start(Process("agent", command, env={"SLIME_TOKEN": register()}))
        tunnel = welcome(listener)
        agent.line("joined")
        agent.signal(signal.SIGSTOP)
        tunnel.sendall(b"GET /never?of=at_once HTTP/1.1\r\nHost: h\r\n\r\n")
        tunnel.close()
        agent.signal(signal.SIGCONT)
        begin = time.monotonic()
        tunnel = welcome(listener)
        check(time.monotonic() - begin < 2, "the worker is back at once")
        tunnel.sendall(ECHO)
        check(b" 200 OK" in tunnel.recv(65536))
        equal(upstream.events("at_once"), [])
        tunnel.close()


def welcome(listener):
    """Accepts an agent, as a hub does."""
    tunnel = wire.accepted(listener.accept()[0])
    tunnel.settimeout(PATIENCE)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += tunnel.recv(65536)
    check(b"Upgrade: slime/1" in head, head)
    tunnel.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: slime/1\r\nSlime-Heartbeat: 15\r\n\r\n"
    )
    return tunnel
