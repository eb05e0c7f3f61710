"""Python's clients (requests, httpx, aiohttp) and servers (http.server, uvicorn, gunicorn)."""

import asyncio
import gzip
import io
import json
import time

import aiohttp
import httpx
import requests

import wire
from harness import HERE, PYTHON, SOON, Failed, Upstream, check, equal, eventually, gunicorn, pattern, run, sha256, test


def curl(*arguments, **options):
    return run(["curl", "-sS", "--max-time", "60", *arguments], **options).stdout


# Clients


@test
def requests_session(bed):
    hub = bed.stack(bed.asgi())
    with requests.Session() as session:
        for number in range(300):
            got = session.get(f"{hub.url}/n/{number}", params={"q": "a b&c"}, timeout=10)
            equal((got.status_code, got.json()["path"]), (200, f"/n/{number}"))
        got = session.post(
            f"{hub.url}/x", files={"file": ("name.txt", io.BytesIO(b"content"))}, data={"a": "b"}, timeout=10
        )
        check("name.txt" in got.json()["body"])
        session.get(f"{hub.url}/cookies", timeout=10)
        equal(session.get(f"{hub.url}/cookies", timeout=10).json(), {"one": "1", "two": "2; no"})
        got = session.get(f"{hub.url}/redirect?to=/there", timeout=10)
        equal((got.json()["path"], len(got.history)), ("/there", 1))
        equal(session.post(f"{hub.url}/redirect?status=308&to=/there", data=b"abc", timeout=10).json()["body"], "abc")
        got = session.get(f"{hub.url}/x", auth=("me", "secret"), timeout=10)
        equal(dict(got.json()["headers"])["authorization"], "Basic bWU6c2VjcmV0")
        equal(session.head(f"{hub.url}/data?n=77", timeout=10).headers["content-length"], "77")
        for code in [200, 204, 404, 418, 500, 503]:
            equal(session.get(f"{hub.url}/status/{code}", timeout=10).status_code, code)


@test
def requests_streams(bed):
    upstream = bed.asgi()
    hub = bed.stack(upstream)
    body = pattern(10_000_000)
    pieces = (body[at : at + 100_001] for at in range(0, len(body), 100_001))
    equal(requests.post(f"{hub.url}/digest", data=pieces, timeout=30).json()["sha256"], sha256(body))
    with requests.get(f"{hub.url}/count?n=100&gap=1", stream=True, timeout=10) as got:
        equal([int(line) for line in got.iter_lines()], list(range(100)))
    got = requests.get(f"{hub.url}/count?of=requests_leaves", stream=True, timeout=10)
    next(got.iter_lines())
    got.close()
    check(upstream.saw("requests_leaves", "cut") < SOON, "soon")
    try:
        requests.get(f"{hub.url}/never?of=requests_late", timeout=0.3)
        raise Failed("no timeout")
    except requests.ReadTimeout:
        pass
    check(upstream.saw("requests_late", "left") < SOON, "soon")
    equal(requests.get(f"{hub.url}/work?name=after", timeout=5).text, "after")


@test
def requests_sees_the_truncation(bed):
    hub = bed.stack(bed.node())
    for path, error in [
        ("length", requests.exceptions.ConnectionError),
        ("chunks", requests.exceptions.ChunkedEncodingError),
    ]:
        try:
            requests.get(f"{hub.url}/break/{path}", timeout=10)
            raise Failed(f"a cut response passed for whole: {path}")
        except (error, requests.exceptions.ChunkedEncodingError):
            pass


@test
def httpx_client(bed):
    upstream = bed.asgi()
    hub = bed.stack(upstream)
    with httpx.Client(base_url=hub.url, timeout=10) as client:
        for number in range(200):
            equal(client.get(f"/n/{number}").json()["path"], f"/n/{number}")
        with client.stream("GET", "/count?n=50&gap=1") as got:
            equal([int(line) for line in got.iter_lines()], list(range(50)))
        with client.stream("GET", "/sse?n=5") as got:
            equal(got.headers["content-type"].split(";")[0], "text/event-stream")
            data = [json.loads(line[6:]) for line in got.iter_lines() if line.startswith("data: ")]
            equal(data, [{"number": number} for number in range(5)])
        with client.stream("GET", "/count?of=httpx_leaves") as got:
            next(got.iter_lines())
        check(upstream.saw("httpx_leaves", "cut") < SOON, "soon")
        equal(client.get("/work?name=after").text, "after")
        equal(client.put("/digest", content=iter([b"a" * 1000] * 1000)).json()["length"], 1_000_000)
    cut = bed.stack(bed.node())
    for path in ["length", "chunks"]:
        try:
            httpx.get(f"{cut.url}/break/{path}")
            raise Failed(f"a cut response passed for whole: {path}")
        except httpx.RemoteProtocolError:
            pass


@test
def httpx_async(bed):
    upstream = bed.asgi()
    hub = bed.stack(upstream)

    async def all_at_once():
        async with httpx.AsyncClient(base_url=hub.url, timeout=30) as client:
            got = await asyncio.gather(*(client.get(f"/work?ms=2&of=httpx_async&name={n}") for n in range(100)))
            equal([one.text for one in got], [str(n) for n in range(100)])

            async def pieces():
                for _ in range(100):
                    yield b"x" * 10_000

            equal((await client.post("/digest", content=pieces())).json()["length"], 1_000_000)
            async with client.stream("GET", "/count?of=httpx_async_leaves") as got:
                async for _ in got.aiter_lines():
                    break
            equal((await client.get("/work?name=after")).text, "after")

    asyncio.run(all_at_once())
    equal(json.loads(curl(f"{upstream.url}/most/httpx_async")), 1, "requests at once in the upstream")
    equal(upstream.events("httpx_async_leaves"), ["begun", "cut"])


@test
def aiohttp_in_order(bed):
    """A hundred requests at once on one worker: served one by one, in order of arrival."""
    upstream = bed.asgi()
    hub = bed.stack(upstream)

    async def all_at_once():
        sent = asyncio.Event()

        async def on_sent(*_):
            sent.set()

        trace = aiohttp.TraceConfig()
        # Sent once the hub has answered 100: the request has arrived then, and the next one comes after it.
        trace.on_request_chunk_sent.append(on_sent)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, trace_configs=[trace]) as session:

            async def one(number):
                url = f"{hub.url}/work?ms=5&of=aiohttp_order&name={number}"
                async with session.post(url, data=b"x", expect100=True) as got:
                    equal((got.status, await got.text()), (200, str(number)))

            tasks = []
            for number in range(100):
                sent.clear()
                tasks.append(asyncio.create_task(one(number)))
                await sent.wait()
            await asyncio.gather(*tasks)

    asyncio.run(all_at_once())
    order = [int(event) for event in upstream.events("aiohttp_order") if event.isdigit()]
    equal(order, list(range(100)), "the order in the upstream")
    equal(json.loads(curl(f"{upstream.url}/most/aiohttp_order")), 1, "requests at once in the upstream")


@test
def aiohttp_cancels(bed):
    """Cancelled in mid-stream, before the head, in the queue, while uploading; the next request is served at once."""
    upstream = bed.asgi()
    hub = bed.stack(upstream)

    async def scenario():
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
            for number in range(20):
                of = f"aiohttp_cancel_{number}"
                async with session.get(f"{hub.url}/count?of={of}") as got:
                    await got.content.readline()
                begin = time.monotonic()
                async with session.get(f"{hub.url}/work?ms=1&name=after") as got:
                    equal(await got.text(), "after")
                check(time.monotonic() - begin < SOON, "the next one was served within a second")
                # The upstream notes the end of a connection when its turn comes, which may be after the next request has come.
                events = lambda: upstream.events(of) == ["begun", "cut"]
                await asyncio.to_thread(eventually, "the cancelled one ended", events)

            running = asyncio.create_task(session.get(f"{hub.url}/never?of=aiohttp_head"))
            await asyncio.to_thread(upstream.saw, "aiohttp_head", "begun")
            queued = asyncio.create_task(session.get(f"{hub.url}/never?of=aiohttp_queue"))
            await asyncio.sleep(0.1)
            queued.cancel()
            running.cancel()
            took = await asyncio.to_thread(upstream.saw, "aiohttp_head", "left")
            check(took < SOON, "the upstream saw it within a second")
            async with session.get(f"{hub.url}/work?name=after") as got:
                equal(await got.text(), "after")
            equal(await asyncio.to_thread(upstream.events, "aiohttp_queue"), [], "what left the queue is never sent")

            async def endless():
                while True:
                    yield b"x" * 10_000
                    await asyncio.sleep(0.001)

            upload = asyncio.create_task(session.post(f"{hub.url}/digest?of=aiohttp_upload", data=endless()))
            await asyncio.sleep(0.2)
            upload.cancel()
            check(await asyncio.to_thread(upstream.saw, "aiohttp_upload", "cut") < SOON, "soon")
            async with session.get(f"{hub.url}/work?name=after") as got:
                equal(await got.text(), "after")

    asyncio.run(scenario())


@test
def aiohttp_agents_share(bed):
    """Three agents with two upstreams' worth of workers: all busy, evenly."""
    upstream = bed.asgi()
    hub = bed.hub()
    for number in range(3):
        bed.agent(hub, upstream, "--agent-id", f"agent-{number}", name=f"agent {number}")

    async def all_at_once():
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def one():
                async with session.get(f"{hub.url}/work?ms=10&of=aiohttp_share") as got:
                    equal(got.status, 200)
                    return got.headers["Slime-Agent-Id"]

            return await asyncio.gather(*(one() for _ in range(150)))

    agents = asyncio.run(all_at_once())
    counts = {name: agents.count(name) for name in set(agents)}
    equal(sorted(counts), ["agent-0", "agent-1", "agent-2"])
    check(min(counts.values()) >= 30, "evenly:", counts)
    equal(json.loads(curl(f"{upstream.url}/most/aiohttp_share")), 3, "requests at once in the upstream")


@test
def several_upstreams(bed):
    """One process, three upstreams: three agents."""
    hub = bed.hub()
    upstreams = [bed.asgi(), bed.node(), bed.start(gunicorn())]
    bed.agent(hub, ",".join(one.at for one in upstreams), "--agent-id", "box")
    seen = {requests.get(f"{hub.url}/x", timeout=10).headers["Slime-Agent-Id"] for _ in range(9)}
    equal(seen, {"box-1", "box-2", "box-3"})


@test
def scopes(bed):
    """Slime-Scope and scope paths choose the agent."""
    hub = bed.hub("--startup-grace", "0")
    bed.agent(hub, bed.asgi(), "--agent-id", "gpu", token=["--scopes", "gpu,llama3.1:8b"])
    bed.agent(hub, bed.asgi(), "--agent-id", "path", token=["--scope-paths", "/v1"])
    for headers, path, agent in [
        ({"Slime-Scope": "gpu"}, "/x", "gpu"),
        ({"Slime-Scope": "llama3.1:8b"}, "/x", "gpu"),
        ({}, "/x", "gpu"),
    ]:
        equal(requests.get(hub.url + path, headers=headers, timeout=10).headers["Slime-Agent-Id"], agent)
    seen = {requests.get(f"{hub.url}/v1/x", timeout=10).headers["Slime-Agent-Id"] for _ in range(6)}
    equal(seen, {"gpu", "path"})
    equal(requests.get(f"{hub.url}/x", headers={"Slime-Scope": "none"}, timeout=10).status_code, 503)


# Servers


@test
def http_server(bed):
    """HTTP/1.0, and bodies that end with the connection."""
    folder = bed.folder()
    (folder / "file").write_bytes(pattern(5_000_000))
    upstream = bed.start(
        Upstream("http.server", [PYTHON, HERE / "upstreams" / "old.py"], r"listening on (\d+)", cwd=folder)
    )
    hub = bed.stack(upstream)
    equal(sha256(curl(f"{hub.url}/file")), sha256(pattern(5_000_000)))
    check(b"Directory listing" in curl(f"{hub.url}/"))
    lines = "".join(f"{number}\n" for number in range(100)).encode()
    for path in ["/close", "/close/slowly"]:
        equal(curl(hub.url + path), lines)
        equal(curl("--http1.0", hub.url + path), lines)
    with requests.Session() as session:
        for _ in range(200):
            got = session.get(f"{hub.url}/close", timeout=10)
            equal(got.content, lines)
            equal(got.headers["Transfer-Encoding"], "chunked")
    equal(requests.post(f"{hub.url}/x", data=b"abc", timeout=10).status_code, 501)
    if wire.IS_TLS:
        # The module as a program speaks no TLS.
        return
    plain = bed.start(
        Upstream(
            "python -m http.server",
            [PYTHON, "-u", "-m", "http.server", "--bind", "127.0.0.1", "0"],
            r"port (\d+)",
            cwd=folder,
        )
    )
    equal(sha256(curl(f"{bed.stack(plain).url}/file")), sha256(pattern(5_000_000)))


def gunicorn_serves(bed, *flags):
    upstream = bed.start(gunicorn(*flags))
    hub = bed.stack(upstream)
    with requests.Session() as session:
        for number in range(500):
            equal(session.get(f"{hub.url}/n/{number}?x", timeout=10).text, f"GET /n/{number}?x")
        for number in range(100):
            equal(session.post(f"{hub.url}/n/{number}", data=b"x", timeout=10).text, f"POST /n/{number}?")
        equal(session.get(f"{hub.url}/count", timeout=10).text.count("\n"), 1000)
        equal(session.get(f"{hub.url}/slowly", timeout=10).text.count("\n"), 20)
        body = pattern(10_000_000)
        equal(session.post(f"{hub.url}/digest", data=body, timeout=30).json()["sha256"], sha256(body))
        equal(session.post(f"{hub.url}/digest", data=iter([body]), timeout=30).json()["sha256"], sha256(body))
        equal(json.loads(curl("-T", "-", f"{hub.url}/digest", input=body))["sha256"], sha256(body))
        equal(session.get(f"{hub.url}/fail", timeout=10).status_code, 500)
        try:
            session.get(f"{hub.url}/cut", timeout=10)
            raise Failed("a cut response passed for whole")
        except requests.exceptions.ChunkedEncodingError:
            pass
        equal(session.get(f"{hub.url}/x", timeout=10).text, "GET /x?")


@test
def gunicorn_sync(bed):
    gunicorn_serves(bed)


@test
def gunicorn_threads(bed):
    gunicorn_serves(bed, "-k", "gthread", "--threads", "4", "--keep-alive", "1")


@test
def gunicorn_workers_are_recycled(bed):
    """Workers that end after a few requests close what they keep alive: nothing of it shows."""
    upstream = bed.start(gunicorn("-k", "gthread", "--max-requests", "50", "-w", "2"))
    hub = bed.stack(upstream)
    with requests.Session() as session:
        for number in range(500):
            got = session.get(f"{hub.url}/{number}", timeout=10)
            equal((got.status_code, got.text), (200, f"GET /{number}?"))


@test
def uvicorn_encoded_bodies(bed):
    """Nothing is decoded on the way."""
    hub = bed.stack(bed.asgi())
    zipped = gzip.compress(b"already compressed" * 100)
    got = requests.post(f"{hub.url}/mirror/", data=zipped, headers={"Content-Encoding": "gzip"}, timeout=10)
    equal(got.content, zipped)


@test
def server_sent_events(bed):
    """Each event comes as soon as it is sent."""
    hub = bed.stack(bed.asgi())
    with requests.get(f"{hub.url}/count?n=10&gap=100", stream=True, timeout=10) as got:
        begin, times = time.monotonic(), []
        for _ in got.iter_lines(chunk_size=1):
            times.append(time.monotonic() - begin)
    check(times[-1] - times[0] > 0.5, "one by one:", times)
    got = requests.get(f"{hub.url}/sse?n=30", timeout=10)
    equal(got.text.count("event: tick"), 30)
