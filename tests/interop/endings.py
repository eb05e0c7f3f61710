"""How things end: on purpose, and not."""

import os
import signal
import threading
import time

import requests

import wire
from harness import (
    PATIENCE,
    SECRET,
    SLIME,
    SOON,
    Failed,
    Process,
    agent_command,
    check,
    equal,
    eventually,
    node,
    plain_only,
    run,
    test,
    uvicorn,
)


def stream(url):
    """A running stream of lines, and its first one."""
    got = requests.get(url, stream=True, timeout=30)
    lines = got.iter_lines(chunk_size=1)
    equal(next(lines), b"0")
    return got, lines


def background(call):
    """Runs a call in a thread. Its result comes in the list."""
    results = []

    def body():
        try:
            results.append(call())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    return thread, results


@test
def hub_drains(bed):
    """SIGTERM: what runs and what waits is served to the end, new requests get 503, and the exit code is 0."""
    upstream = bed.asgi()
    hub = bed.stack(upstream)
    _, lines = stream(f"{hub.url}/count?n=150&gap=10")
    waiting, result = background(lambda: requests.get(f"{hub.url}/work?of=drain&name=waited", timeout=20).text)
    kept = wire.http_connection(hub.authority)
    kept.connect()
    time.sleep(0.2)
    hub.signal(signal.SIGTERM)
    hub.line("draining")
    try:
        late = requests.get(f"{hub.url}/x", timeout=5)
        equal((late.status_code, late.headers["Connection"]), (503, "close"))
        check("Retry-After" in late.headers, late.headers)
    except requests.ConnectionError:
        raise Failed("a draining hub must say so, not refuse connections") from None
    kept.request("GET", "/x")
    equal(kept.getresponse().status, 503)
    kept.close()
    equal([int(line) for line in lines], list(range(1, 150)))
    waiting.join(PATIENCE)
    equal(result, ["waited"])
    equal(hub.wait(), 0, "exit code")


@test
def hub_ends_at_once(bed):
    """A second signal ends it, however busy."""
    hub = bed.stack(bed.asgi())
    _, lines = stream(f"{hub.url}/count")
    hub.signal(signal.SIGTERM)
    hub.line("draining")
    hub.signal(signal.SIGTERM)
    check(hub.wait(SOON) != 0, "what was cut off shows in the exit code")
    try:
        list(lines)
        raise Failed("a cut stream passed for whole")
    except requests.exceptions.ChunkedEncodingError:
        pass


@test
def idle_hub_ends(bed):
    for number in [signal.SIGTERM, signal.SIGINT]:
        hub = bed.stack(bed.asgi())
        equal(requests.get(f"{hub.url}/work?name=x", timeout=5).text, "x")
        begin = time.monotonic()
        hub.signal(number)
        equal(hub.wait(), 0, "exit code")
        check(time.monotonic() - begin < SOON, "at once")


@test
def agent_drains(bed):
    """SIGTERM at an agent: its stream ends well, and others take what comes meanwhile."""
    upstream = bed.asgi()
    hub = bed.hub()
    first = bed.agent(hub, upstream, "--agent-id", "first")
    got, lines = stream(f"{hub.url}/count?n=100&gap=10")
    equal(got.headers["Slime-Agent-Id"], "first")
    bed.agent(hub, upstream, "--agent-id", "second", name="agent 2")
    first.signal(signal.SIGTERM)
    first.line("draining")
    for _ in range(5):
        equal(requests.get(f"{hub.url}/x", timeout=5).headers["Slime-Agent-Id"], "second")
    equal(len(list(lines)), 99)
    equal(first.wait(), 0, "exit code")
    for _ in range(5):
        equal(requests.get(f"{hub.url}/x", timeout=5).headers["Slime-Agent-Id"], "second")


@test
def agent_killed(bed):
    """kill -9 in mid-stream: the client can tell, whatever the framing; the upstream is rid of the request."""
    upstream = bed.asgi()
    hub = bed.hub("--startup-grace", "0")
    for number, (flags, codes) in enumerate([(["--http1.1"], (18, 56)), (["--http1.0"], (56,))]):
        agent = bed.agent(hub, upstream, name=f"agent {number}")
        of = f"killed_{number}"
        thread, result = background(
            lambda: run(["curl", "-sS", *flags, f"{hub.url}/count?of={of}"], code=None).returncode
        )
        upstream.saw(of, "begun")
        time.sleep(0.1)
        begin = time.monotonic()
        agent.kill()
        thread.join(PATIENCE)
        check(result[0] in codes, "curl ended with", result)
        check(time.monotonic() - begin < SOON, "at once")
        check(upstream.saw(of, "cut") < SOON, "the upstream is rid of it")


@test
def agent_killed_before_the_head(bed):
    """A GET goes to another agent; a POST, which may have had its effect, gets 502."""
    upstream = bed.asgi()
    hub = bed.hub()
    first = bed.agent(hub, upstream, "--agent-id", "first")
    thread, result = background(lambda: requests.get(f"{hub.url}/work?ms=1000&of=retry&name=x", timeout=20))
    upstream.saw("retry", "begun")
    bed.agent(hub, upstream, "--agent-id", "second", name="agent 2")
    first.kill()
    thread.join(PATIENCE)
    equal((result[0].text, result[0].headers["Slime-Agent-Id"]), ("x", "second"))
    equal(upstream.events("retry").count("begun"), 2)
    second = bed.started[-1]
    thread, result = background(lambda: requests.post(f"{hub.url}/work?ms=1000&of=no_retry&name=x", timeout=20))
    upstream.saw("no_retry", "begun")
    third = bed.agent(hub, upstream, "--agent-id", "third", name="agent 3")
    second.kill()
    thread.join(PATIENCE)
    equal((result[0].status_code, upstream.events("no_retry").count("begun")), (502, 1))
    equal(requests.get(f"{hub.url}/x", timeout=5).headers["Slime-Agent-Id"], "third")
    check(third.child.poll() is None)


@test
def hub_restarts(bed):
    """kill -9 of the hub: agents are back soon after it is, and who asks at once is served."""
    upstream = bed.asgi()
    hub = bed.hub()
    agents = [bed.agent(hub, upstream, name=f"agent {number}") for number in range(3)]
    hub.kill()
    for agent in agents:
        agent.line("lost the hub")
    time.sleep(1)
    again = bed.hub(port=hub.port, name="hub again")
    begin = time.monotonic()
    equal(requests.get(f"{again.url}/work?name=x", timeout=10).text, "x")
    again.line(r"worker 0 joined", 3)
    check(time.monotonic() - begin < SOON, "all are back soon", time.monotonic() - begin)


@test
def agents_before_their_hub(bed):
    hub = bed.hub()
    hub.kill()
    before = len(hub.lines)
    agent = bed.agent(hub, bed.asgi(), wait=False)
    agent.line("cannot join the hub")
    again = bed.hub(port=hub.port, name="hub again")
    again.line("INFO .*joined")
    equal(requests.get(f"{again.url}/work?name=x", timeout=10).text, "x")
    equal(len(hub.lines), before)


@test
def upstream_restarts(bed):
    """The upstream goes and comes back: 502 or 503 meanwhile, served within two seconds of its return."""
    upstream = bed.start(uvicorn(name="uvicorn of its own"))
    hub = bed.hub("--startup-grace", "0")
    agent = bed.agent(hub, upstream)
    equal(requests.get(f"{hub.url}/work?name=x", timeout=5).text, "x")
    upstream.kill()
    # The agent may have withdrawn already: then it waits as long as --agent-grace, five seconds, for it to come back.
    check(requests.get(f"{hub.url}/x", timeout=PATIENCE).status_code in (502, 503))
    agent.line("cannot be used")
    hub.line("withdrew")
    bed.start(uvicorn(port=upstream.port, name="uvicorn again"))
    begin = time.monotonic()
    equal(requests.get(f"{hub.url}/work?name=y", headers={"Slime-Block": "1"}, timeout=10).text, "y")
    check(time.monotonic() - begin < SOON, "soon")


@test
def upstream_killed(bed):
    """kill -9 of the upstream in mid-stream: the client can tell, whatever the framing."""
    for flags, codes in [(["--http1.1"], (18, 56)), (["--http1.0"], (56,))]:
        upstream = bed.start(node())
        hub = bed.stack(upstream)
        thread, result = background(lambda: run(["curl", "-sS", *flags, f"{hub.url}/count?of=x"], code=None).returncode)
        upstream.saw("x", "begun")
        time.sleep(0.1)
        upstream.kill()
        thread.join(PATIENCE)
        check(result[0] in codes, "curl ended with", result)


@test
def token_rejected(bed):
    """A token of another hub: a clear line and exit code 1, and the hub says so, too."""
    hub = bed.hub()
    other = (
        run([SLIME, "hub", "register"], env={**os.environ, "SLIME_SECRET": "another secret altogether"})
        .stdout.decode()
        .strip()
    )
    command = agent_command(hub.at, bed.asgi().at)
    agent = bed.start(Process("agent", command, env={"SLIME_TOKEN": other}))
    equal(agent.wait(), 1, "exit code")
    check(agent.says("token"), agent.lines)
    hub.line("refused an agent")


@plain_only("nobody connects")
def port_taken(bed):
    hub = bed.hub()
    done = run(
        [SLIME, "hub", "--host", "127.0.0.1", "--port", hub.port], code=1, env={**os.environ, "SLIME_SECRET": SECRET}
    )
    check(str(hub.port) in done.stderr.decode(), done.stderr)


@test
def no_secret_in_any_log(bed):
    hub = bed.hub("--app-password", "open sesame", "--log-level", "debug")
    agent = bed.agent(hub, bed.asgi(), "--log-level", "debug")
    requests.get(f"{hub.url}/x", headers={"Authorization": "Bearer open sesame"}, timeout=5)
    requests.get(f"{hub.url}/x", headers={"Slime-App-Password": "something wrong"}, timeout=5)
    hub.line("200 from")
    text = "\n".join(hub.lines + agent.lines)
    for secret in [SECRET, "open sesame", "something wrong", "slime1_"]:
        check(secret not in text, "a secret is in the log:", secret)


@test
def quiet_logs(bed):
    """At the usual level there is nothing per request, cancelled ones included."""
    upstream = bed.asgi()
    hub = bed.hub("--log-level", "info")
    agent = bed.agent(hub, upstream, wait=False)
    hub.line("agent .* joined")
    agent.line("joined the hub")
    before = len(hub.lines), len(agent.lines)
    for number in range(10):
        equal(requests.get(f"{hub.url}/work?ms=0&name=x", timeout=5).text, "x")
        got, _ = stream(f"{hub.url}/count?of=quiet_{number}")
        got.close()
        upstream.saw(f"quiet_{number}", "cut")
    equal(requests.get(f"{hub.url}/work?ms=0&name=x", timeout=5).text, "x")
    equal((hub.lines[before[0] :], agent.lines[before[1] :]), ([], []), "what was logged")


@test
def lost_agents_are_told_of(bed):
    """An agent that dies with its request shows in the hub's log, as one that dies without."""
    upstream = bed.asgi()
    hub = bed.hub()
    agent = bed.agent(hub, upstream)
    agent.kill()
    hub.line("INFO .*left")
    agent = bed.agent(hub, upstream, name="agent 2")
    stream(f"{hub.url}/count")
    agent.kill()
    hub.line("INFO .*left", 2)


@test
def nothing_is_left(bed):
    """After hundreds of requests of all kinds, hub and agent hold no more descriptors than before."""
    upstream = bed.asgi()
    hub = bed.hub()
    agent = bed.agent(hub, upstream)

    def descriptors(process):
        return len(os.listdir(f"/proc/{process.child.pid}/fd"))

    equal(requests.get(f"{hub.url}/work?ms=0&name=x", timeout=5).text, "x")
    eventually("quiet", lambda: descriptors(hub) < 20)
    before = descriptors(hub), descriptors(agent)
    for number in range(100):
        with hub.connect() as connection:
            connection.sendall(
                [
                    b"",
                    b"GET /x",
                    b"GET /never?of=left HTTP/1.1\r\nHost: h\r\n\r\n",
                    b"POST /digest HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n" + b"x" * 50000,
                ][number % 4]
            )
            if number % 4 == 2:
                upstream.saw("left", "begun")
    equal(requests.get(f"{hub.url}/work?ms=0&name=x", timeout=5).text, "x")
    eventually(f"as many descriptors as before, {before}", lambda: (descriptors(hub), descriptors(agent)) <= before)
