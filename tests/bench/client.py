"""A client of HTTP/1.1, as small as the measurements allow, and wrk."""

import re
import socket
import subprocess

from process import HOST


class Client:
    """One connection that is kept. Raises OSError or ValueError when it is lost or what comes is no response."""

    def __init__(self, port, timeout=20):
        self.socket = socket.create_connection((HOST, port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def get(self, path, fields=""):
        """Status and body."""
        self.send(path, fields)
        return self.response()

    def response(self):
        status, length = self.head()
        while len(self.buffer) < length:
            self.more()
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return status, body

    def send(self, path, fields="", method="GET", body=b""):
        self.socket.sendall(f"{method} {path} HTTP/1.1\r\nHost: bench\r\n{fields}\r\n".encode() + body)

    def head(self):
        """Status, and the length of the body."""
        while b"\r\n\r\n" not in self.buffer:
            self.more()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        return int(head.split()[1]), int(length[1]) if length else 0

    def more(self):
        got = self.socket.recv(65536)
        if not got:
            raise ConnectionError("closed")
        self.buffer += got

    def skip(self, length):
        """Drops so many bytes of the body, most of them in the kernel."""
        left = length - len(self.buffer)
        self.buffer = b""
        drop(self.socket, left)

    def close(self):
        self.socket.close()


def drop(connection, left):
    """Receives bytes without copying them."""
    room = bytearray(1 << 20)
    while left:
        got = connection.recv_into(room, min(left, len(room)), socket.MSG_TRUNC)
        if not got:
            raise ConnectionError(f"closed, {left} bytes are missing")
        left -= got


def idle_clients(port, number):
    """Clients that have had an answer, and stay."""
    clients = []
    for _ in range(number):
        client = Client(port)
        if client.get("/")[0] != 200:
            raise ConnectionError("not served")
        clients.append(client)
    return clients


def wrk(port, connections, seconds, path="/"):
    """Runs wrk: the median of its delays in microseconds, and how many requests went wrong."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "--latency", f"http://{HOST}:{port}{path}"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    number, unit = re.search(r"50% +([\d.]+)(us|ms|s)", output).groups()
    wrong = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    failed = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    bad = int(wrong[1]) if wrong else 0
    bad += sum(int(count) for count in failed.groups()) if failed else 0
    return float(number) * {"us": 1, "ms": 1e3, "s": 1e6}[unit], bad
