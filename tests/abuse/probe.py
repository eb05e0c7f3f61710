"""The well-behaved client: probe.py PORT [CERTIFICATE]

One request every 10 ms at most, each second one on a new connection, as long as its input is open. For each it prints when it was begun
and ended (monotonic seconds) and what came: a status, or what went wrong. It has a process of its own, so that it measures
hub and agent and not who abuses them. With the hub's certificate it comes by TLS.
"""

import http.client
import os
import select
import socket
import ssl
import sys
import time

kept = None
tls = ssl.create_default_context(cafile=sys.argv[2]) if len(sys.argv) > 2 else None


def connection(port):
    if tls:
        return http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=tls)
    return http.client.HTTPConnection("127.0.0.1", port, timeout=20)


def ask(port, number):
    global kept
    if number % 2 or kept is None:
        if kept:
            kept.close()
        kept = connection(port)
        kept.connect()
        kept.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    kept.request("GET", "/hello", headers={"Slime-Scope": "probe"})
    response = kept.getresponse()
    body = response.read()
    status = str(response.status)
    if response.getheader("Connection") == "close":
        kept.close()
        kept = None
    return status if status != "200" or body == b"hello" else "garbled"


number = 0
while not select.select([sys.stdin], [], [], 0.01)[0]:
    begun = time.monotonic()
    number += 1
    try:
        result = ask(int(sys.argv[1]), number)
    except (OSError, http.client.HTTPException) as error:
        # A kept connection may be closed by the hub whenever it is idle, as any client knows.
        reused = number % 2 == 0
        kept = None
        result = "closed" if reused and not isinstance(error, TimeoutError) else type(error).__name__
    os.write(1, f"{begun:.4f} {time.monotonic():.4f} {result}\n".encode())
