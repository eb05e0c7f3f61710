"""A service as people write them for WSGI servers."""

import hashlib
import json
import time


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/digest":
        body = environ["wsgi.input"].read()
        answer = json.dumps({"sha256": hashlib.sha256(body).hexdigest(), "length": len(body)}).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
        return [answer]
    if path == "/count":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (f"{number}\n".encode() for number in range(1000))
    if path == "/slowly":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return slowly()
    if path == "/fail":
        raise RuntimeError("as the test wants")
    if path == "/cut":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return cut()
    answer = f"{environ['REQUEST_METHOD']} {path}?{environ['QUERY_STRING']}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer]


def slowly():
    for number in range(20):
        yield f"{number}\n".encode()
        time.sleep(0.01)


def cut():
    yield b"the beginning"
    raise RuntimeError("as the test wants")
