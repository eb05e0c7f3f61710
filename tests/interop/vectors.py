"""The vectors of `tests/vectors` through the binary, both hops, read again by h11: it must see the same message.

h11 is an HTTP/1.1 parser that shares nothing with slime or httparse. What slime refuses is the business of the vectors' own test.
"""

import contextlib
import queue
import re
import socket
import threading
from pathlib import Path

import h11

import wire
from harness import PATIENCE, Failed, check, equal, test

FOLDER = Path(__file__).resolve().parent.parent / "vectors"
# Fields that never go on as they came.
HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"te",
    b"transfer-encoding",
    b"upgrade",
    b"content-length",
    b"via",
    b"date",
}
# What only a trusted proxy may say, beside X-Forwarded-* and X-Original-*.
OF_PROXIES = {b"proxy", b"x-real-ip", b"x-rewrite-url", b"x-client-ip", b"x-cluster-client-ip", b"true-client-ip", b"cf-connecting-ip"}
OF_REQUESTS = {b"host", b"expect", b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"}


def is_kept(name):
    """Whether a field of a stranger goes on: not one that some server reads as a field of a proxy's, or of framing."""
    plain = re.sub(rb"[^a-z0-9]", b"-", name)
    of_proxies = plain in OF_PROXIES or plain.startswith((b"x-forwarded-", b"x-original-"))
    return not of_proxies and (plain == name or plain not in HOP | OF_REQUESTS | {b"max-forwards", b"x-request-id"} and not plain.startswith(b"slime-"))


def unescape(text):
    out = bytearray()
    simple = {"r": b"\r", "n": b"\n", "t": b"\t", "s": b" ", "\\": b"\\"}
    for part in re.finditer(r"\\x([0-9a-fA-F]{2})|\\(.)|([^\\]+)", text):
        code, escape, plain = part.groups()
        out += bytes([int(code, 16)]) if code else simple[escape] if escape else plain.encode()
    return bytes(out)


class Vector:
    def __init__(self, kind, name):
        self.kind, self.name = kind, name
        self.raw, self.left, self.end, self.verdict = b"", b"", None, ""

    def parts(self):
        """Start line, fields with lower-case names, and the decoded body. Accepted messages have nothing ambiguous."""
        message = self.raw[: len(self.raw) - len(self.left)].removeprefix(b"\r\n")
        head, body = message.split(b"\r\n\r\n", 1)
        start, *lines = head.split(b"\r\n")
        fields = [(name.lower(), value.strip(b" \t")) for name, value in (line.split(b":", 1) for line in lines)]
        if self.verdict.startswith("chunked"):
            body = unchunked(body)
        elif self.verdict.startswith("none"):
            body = b""
        elif self.verdict.startswith("length") and self.kind != "response to HEAD":
            check(len(body) == int(self.verdict.split()[1].rstrip(",")), "the vector's length")
        return start, fields, body


def unchunked(data):
    out = b""
    while True:
        line, data = data.split(b"\r\n", 1)
        size = int(line.split(b";")[0].strip(), 16)
        if size == 0:
            return out
        out += data[:size]
        data = data[size + 2 :]


def vectors():
    found = []
    for file in sorted(FOLDER.glob("*.txt")):
        for line in file.read_text().splitlines():
            key, text = line[:2], line[2:]
            if key == "==":
                found.append(Vector(*text.strip().split(": ", 1)))
            elif key == "> ":
                found[-1].raw += unescape(text)
            elif key == "* ":
                times, text = text.split(" ", 1)
                found[-1].raw += unescape(text) * int(times)
            elif key == "$ ":
                found[-1].end = text
            elif key == "= ":
                found[-1].verdict = text
            elif key == "+ ":
                found[-1].left += unescape(text)
    return found


class Upstream:
    """Accepts connections. Each has a thread that goes through its handshake; those that bring something are handed out."""

    def __init__(self, bed):
        self.connections = queue.Queue()
        self.listener = bed.cleanup.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.authority = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.begin, args=[self.listener.accept()[0]], daemon=True).start()

    def begin(self, accepted):
        # Some are the agent's look whether somebody is there.
        with contextlib.suppress(OSError):
            accepted = wire.accepted(accepted)
            if first := accepted.recv(1 << 16):
                accepted.settimeout(PATIENCE)
                self.connections.put((accepted, first))

    def connection(self):
        """The next one, and the first bytes."""
        return self.connections.get(timeout=PATIENCE)


def read_message(parser, first, receive):
    """The events of one message, up to its end."""
    events = []
    parser.receive_data(first)
    while True:
        event = parser.next_event()
        if event is h11.NEED_DATA:
            parser.receive_data(receive())
            continue
        events.append(event)
        if isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)) or event is h11.PAUSED:
            return events


def end_to_end(fields, also=frozenset()):
    """What must go on unchanged, in order: not what a request is called, and how long it took, which the hub says."""
    nominated = {
        name.strip().lower() for key, value in fields if key == b"connection" for name in value.split(b",")
    }
    return [
        (name, value)
        for name, value in fields
        if name not in HOP and name not in also and name not in nominated and not name.startswith(b"slime-")
        and name != b"x-request-id" and not (name == b"server-timing" and value.startswith(b"queue;dur="))
    ]


def body_of(events):
    return b"".join(bytes(event.data) for event in events if isinstance(event, h11.Data))


@test
def requests_read_by_another(bed):
    """Every accepted request reaches the upstream as the same message."""
    service = Upstream(bed)
    hub = bed.hub()
    bed.agent(hub, wire.url(service.authority), "--preserve-host", token=["--scopes", "a"])
    seen = 0
    for vector in vectors():
        if vector.kind != "request" or not re.fullmatch(r"(none|length \d+|chunked), done", vector.verdict):
            continue
        start, fields, body = vector.parts()
        method, target, _ = start.split(b" ")
        with hub.connect() as client:
            client.settimeout(PATIENCE)
            client.sendall(vector.raw[: len(vector.raw) - len(vector.left)])
            accepted, first = service.connection()
            with accepted:
                parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 16)
                try:
                    events = read_message(parser, first, lambda: accepted.recv(1 << 16))
                except h11.RemoteProtocolError as error:
                    raise Failed(f"{vector.name}: h11 refuses what was forwarded: {error}: {first}") from error
                accepted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            answer = b""
            while b"HTTP/1.1 200 OK\r\n" not in answer:
                more = client.recv(1 << 16)
                check(more, vector.name, "was answered:", answer)
                answer += more
        request = events[0]
        got = [(name.lower(), value) for name, value in request.headers]
        equal(request.method, method, f"{vector.name}: method")
        absolute = re.match(rb"(?i)https?://([^/?]*)", target)
        path = target[absolute.end() :] if absolute else target
        path = path if path.startswith(b"/") or path == b"*" else b"/" + path
        equal(request.target, path, f"{vector.name}: target")
        # An absolute target overrides Host. It may be empty, and HTTP/1.0 may have none: it is the upstream's authority then.
        hosts = [absolute[1]] if absolute else [value for name, value in fields if name == b"host" and value]
        expected = hosts or [service.authority.encode()]
        equal([value for name, value in got if name == b"host"], expected, f"{vector.name}: Host")
        kept = [(name, value) for name, value in fields if is_kept(name)]
        equal(end_to_end(got, OF_REQUESTS), end_to_end(kept, OF_REQUESTS), f"{vector.name}: fields")
        equal(body_of(events), body, f"{vector.name}: body")
        equal(parser.trailing_data[0], b"", f"{vector.name}: bytes beyond the request")
        seen += 1
    check(seen >= 70, "only", seen, "requests")


@test
def responses_read_by_another(bed):
    """Every accepted response reaches the application as the same message."""
    service = Upstream(bed)
    hub = bed.hub()
    bed.agent(hub, wire.url(service.authority))
    seen = 0
    for vector in vectors():
        done = re.fullmatch(r"(none|length \d+|chunked|until-close), done", vector.verdict)
        if vector.kind not in ("response", "response to HEAD") or not done or re.match(rb"\S+ 1", vector.raw):
            continue
        start, fields, body = vector.parts()
        if vector.verdict.startswith("none"):
            body = b""
        method = b"HEAD" if vector.kind == "response to HEAD" else b"GET"
        with hub.connect() as client:
            client.settimeout(PATIENCE)
            client.sendall(method + b" / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            accepted, _ = service.connection()
            with accepted:
                accepted.sendall(vector.raw)
                wire.say_end(accepted)
            parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 16)
            parser.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"h"), (b"Connection", b"close")]))
            parser.send(h11.EndOfMessage())
            try:
                events = read_message(parser, client.recv(1 << 16), lambda: client.recv(1 << 16))
                while more := client.recv(1 << 16):
                    raise Failed(f"{vector.name}: beyond the response came {more}")
            except h11.RemoteProtocolError as error:
                raise Failed(f"{vector.name}: h11 refuses what was forwarded: {error}") from error
        response = events[0]
        got = [(name.lower(), value) for name, value in response.headers]
        words = start.split(b" ", 2)
        equal(response.status_code, int(words[1]), f"{vector.name}: status")
        equal(response.reason, words[2] if len(words) > 2 else b"", f"{vector.name}: reason")
        equal(end_to_end(got), end_to_end(fields), f"{vector.name}: fields")
        equal(body_of(events), b"" if method == b"HEAD" else body, f"{vector.name}: body")
        equal(parser.trailing_data[0], b"", f"{vector.name}: bytes beyond the response")
        equal([value for name, value in got if name == b"slime-agent-id"][1:], [], f"{vector.name}: agent ids")
        seen += 1
    check(seen >= 25, "only", seen, "responses")
