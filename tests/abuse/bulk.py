"""A transfer as fast as it goes: bulk.py PORT SECONDS; prints the bytes a second, then how long the worst pause was."""

import socket
import sys
import time

port, seconds = int(sys.argv[1]), float(sys.argv[2])
buffer = bytearray(1 << 20)
with socket.create_connection(("127.0.0.1", port), 20) as connection:
    connection.sendall(b"GET /bulk HTTP/1.1\r\nHost: h\r\n\r\n")
    connection.recv_into(buffer)
    got, pause = 0, 0.0
    begun = last = time.monotonic()
    while last < begun + seconds:
        n = connection.recv_into(buffer)
        if n == 0:
            sys.exit("the transfer was cut")
        now = time.monotonic()
        got, pause, last = got + n, max(pause, now - last), now
print(got / (last - begun), pause)
