"""curl as the application."""

import json
import re
import subprocess
import threading
import time

import wire
from harness import SOON, check, equal, pattern, run, sha256, test, uvicorn

LARGE = 50 * 1000 * 1000


def curl(*arguments, code=0, **options):
    """What curl printed. It shows the fields of responses and ends on its own."""
    return run(["curl", "-sS", "--max-time", "60", *arguments], code=code, **options)


def text(*arguments, **options):
    return curl(*arguments, **options).stdout.decode()


def fields(head):
    """The status line and the fields of the last head in a text."""
    head = [part for part in head.replace("\r\n", "\n").split("\n\n") if part.startswith("HTTP/")][-1]
    status, *lines = head.split("\n")
    return status, {name.lower(): value for name, value in (line.split(": ", 1) for line in lines if ": " in line)}


@test
def plain(bed):
    hub = bed.stack(bed.asgi())
    status, got = fields(text("-i", f"{hub.url}/some/path?a=b%20c&d"))
    equal(status, "HTTP/1.1 200 OK")
    equal(got["x-echo"], "yes")
    check("slime" in got["via"], "Via names us:", got)
    check("slime-agent-id" in got, "the agent is named:", got)
    check("slime-forged" not in got, "the upstream cannot forge our fields:", got)
    echo = json.loads(text(f"{hub.url}/some/path?a=b%20c&d", "-H", "Slime-Anything: x", "-H", "X-Own: y"))
    equal((echo["method"], echo["path"], echo["query"]), ("GET", "/some/path", "a=b%20c&d"))
    sent = dict(echo["headers"])
    equal(sent["x-own"], "y")
    equal(sent["host"], bed.asgi().authority, "the Host that the upstream sees")
    equal(sent["x-forwarded-host"], hub.authority)
    equal(sent["x-forwarded-for"], "127.0.0.1")
    equal(sent["x-forwarded-proto"], wire.SCHEME)
    check("accept-encoding" not in sent, "nothing is invented:", sent)
    check(not [name for name in sent if name.startswith("slime")], "our fields stay ours:", sent)


@test
def preserve_host(bed):
    hub = bed.stack(bed.asgi(), agent=["--preserve-host"])
    echo = json.loads(text("-H", "Host: shop.example.org", f"{hub.url}/"))
    equal(dict(echo["headers"])["host"], "shop.example.org")


@test
def methods(bed):
    hub = bed.stack(bed.asgi())
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]:
        echo = json.loads(text("-X", method, "-d", "some=body", f"{hub.url}/x"))
        equal((echo["method"], echo["body"]), (method, "some=body"))
    for method in ["GET", "POST", "DELETE"]:
        equal(json.loads(text("-X", method, f"{hub.url}/x"))["method"], method, "without a body")


@test
def old_version(bed):
    """HTTP/1.0, also from an upstream that sends chunks: neither chunks nor a promise to stay reach the client."""
    hub = bed.stack(bed.asgi())
    equal(json.loads(text("--http1.0", f"{hub.url}/x"))["method"], "GET")
    equal(json.loads(text("--http1.0", "-d", "abc", f"{hub.url}/x"))["body"], "abc")
    head, body = curl("--http1.0", "-i", f"{hub.url}/data?n=3000000&chunked").stdout.split(b"\r\n\r\n", 1)
    _, got = fields(head.decode() + "\n\n")
    check("transfer-encoding" not in got, "no chunks for HTTP/1.0:", got)
    equal(sha256(body), sha256((bytes(range(256)) * 12000)[:3000000]), "the body")
    equal(len(text("--http1.0", f"{hub.url}/count?n=50").split()), 50)


@test
def old_version_keeps_alive(bed):
    """HTTP/1.0 with keep-alive, as ab and old proxies do."""
    hub = bed.stack(bed.asgi())
    out = curl(
        "--http1.0", "-H", "Connection: keep-alive", "-w", "%{num_connects}\n", "-o", "/dev/null", "-o", "/dev/null",
        f"{hub.url}/x", f"{hub.url}/y",
    ).stdout  # fmt: skip
    equal(out, b"1\n0\n", "connections made for each request")


@test
def keep_alive(bed):
    hub = bed.stack(bed.asgi())
    urls = [f"{hub.url}/status/[200-203]", "-o", "/dev/null", f"{hub.url}/data?n=[1-200]", "-o", "/dev/null"]
    done = text("-w", "%{num_connects} %{http_code}\n", *urls).splitlines()
    equal(len(done), 204)
    equal(sum(int(line[0]) for line in done), 1, "connections made")


@test
def many_at_once(bed):
    """200 requests, 50 at a time, on one worker."""
    upstream = bed.asgi()
    hub = bed.stack(upstream)
    out = text(
        "-Z",
        "--parallel-max",
        "50",
        "-w",
        "%{http_code}\n",
        "-o",
        "/dev/null",
        f"{hub.url}/work?ms=5&of=curl_many&name=[1-200]",
    )
    equal(out.split(), ["200"] * 200)
    equal(run(["curl", "-sS", f"{upstream.url}/most/curl_many"]).stdout, b"1", "requests at once in the upstream")


@test
def head(bed):
    hub = bed.stack(bed.asgi())
    head = curl("--head", f"{hub.url}/data?n=1000", f"{hub.url}/x", "-w", "%{num_connects}\n").stdout.decode()
    check("content-length: 1000" in head.lower(), head)
    equal(re.findall(r"(?m)^(\d)\r?$", head), ["1", "0"], "connections made")
    for code in ["204", "304"]:
        out = text("-i", f"{hub.url}/status/{code}", f"{hub.url}/x")
        equal(re.findall(r"HTTP/1.1 (\d+)", out), [code, "200"])


@test
def own_answers_to_head(bed):
    """A response to HEAD has no body, whoever makes it."""
    hub = bed.hub("--app-password", "open sesame", "--startup-grace", "0")
    for flags, status in [([], "401"), (["-H", "Slime-App-Password: open sesame"], "503")]:
        done = curl("-v", "--head", *flags, f"{hub.url}/")
        check(f"HTTP/1.1 {status}" in done.stdout.decode(), done.stdout)
        noise = [
            line
            for line in done.stderr.decode().split("\n")
            if "Excess" in line or "left" in line.lower() and "intact" not in line
        ]
        check(not noise, "bytes after the head:", noise)
        equal(raw_head(hub, flags), b"", "bytes after the head")


def raw_head(hub, flags):
    with hub.connect() as connection:
        lines = ["HEAD / HTTP/1.1", "Host: x", "Connection: close", *flags[1:], "", ""]
        connection.sendall("\r\n".join(lines).encode())
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return answer.split(b"\r\n\r\n", 1)[1]


@test
def expect_small(bed):
    """A small body is awaited at the hub, which answers 100 itself; curl would go on by itself only after a second."""
    hub = bed.stack(bed.asgi())
    done = curl(
        "-v",
        "--expect100-timeout",
        "30",
        "--max-time",
        "10",
        "-H",
        "Expect: 100-continue",
        "-d",
        "x" * 1000,
        f"{hub.url}/x",
    )
    equal(json.loads(done.stdout)["length"], 1000)
    check(b"100 Continue" in done.stderr, "100 came:", done.stderr)
    check("expect" not in dict(json.loads(done.stdout)["headers"]), "Expect was answered, and is not forwarded")


@test
def expect_large(bed):
    """A large upload waits for the upstream's own 100."""
    body = pattern(LARGE)
    for upstream in [bed.asgi(), bed.node()]:
        hub = bed.stack(upstream)
        done = curl(
            "-v",
            "--expect100-timeout",
            "30",
            "-H",
            "Expect: 100-continue",
            "-T",
            "-",
            "-H",
            f"Content-Length: {LARGE}",
            "-H",
            "Transfer-Encoding:",
            f"{hub.url}/digest",
            input=body,
        )
        equal(json.loads(done.stdout)["sha256"], sha256(body), upstream.name)
        equal(done.stderr.count(b"100 Continue"), 1, "how often 100 came")


@test
def expect_refused(bed):
    """The upstream's refusal reaches a client that still waits, and the next request is served."""
    hub = bed.stack(bed.node())
    done = curl(
        "-v",
        "--expect100-timeout",
        "30",
        "-H",
        "Expect: 100-continue",
        "-T",
        "-",
        f"{hub.url}/refuse",
        f"{hub.url}/x",
        input=pattern(LARGE),
    )
    check(b"417 Expectation Failed" in done.stderr, done.stderr)
    check(b"Connection: close" in done.stderr, "the connection is in the middle of a request:", done.stderr)
    equal(done.stdout, b"too much\nGET /x\n")


@test
def upload_and_download(bed):
    """50 MB both ways, with a length and chunked from a pipe."""
    folder = bed.folder()
    body = pattern(LARGE)
    (folder / "body").write_bytes(body)
    hub = bed.stack(bed.asgi())
    echo = json.loads(text("-T", folder / "body", f"{hub.url}/digest"))
    equal((echo["length"], echo["sha256"]), (LARGE, sha256(body)), "PUT of a file")
    with open(folder / "body", "rb") as source:
        echo = json.loads(text("-T", "-", f"{hub.url}/digest", stdin=source))
    equal((echo["length"], echo["sha256"]), (LARGE, sha256(body)), "PUT of a pipe")
    echo = json.loads(text("--data-binary", f"@{folder / 'body'}", f"{hub.url}/digest"))
    equal((echo["length"], echo["sha256"]), (LARGE, sha256(body)), "POST of a file")
    for upstream in [bed.asgi(), bed.node()]:
        hub = bed.stack(upstream)
        equal(
            sha256(curl("-T", folder / "body", f"{hub.url}/mirror/").stdout),
            sha256(body),
            f"to {upstream.name} and back",
        )
        equal(
            sha256(curl("-T", "-", f"{hub.url}/mirror/", input=body).stdout),
            sha256(body),
            f"chunked to {upstream.name} and back",
        )


@test
def download(bed):
    hub = bed.stack(bed.asgi())
    wanted = sha256((bytes(range(256)) * (LARGE // 256 + 1))[:LARGE])
    equal(sha256(curl(f"{hub.url}/data?n={LARGE}").stdout), wanted, "with a length")
    equal(sha256(curl(f"{hub.url}/data?n={LARGE}&chunked").stdout), wanted, "chunked")
    slow = curl("--limit-rate", "8M", f"{hub.url}/data?n=16000000&chunked").stdout
    equal(sha256(slow), sha256((bytes(range(256)) * 62500)[:16000000]), "slowly read")


@test
def forms(bed):
    hub = bed.stack(bed.asgi())
    echo = json.loads(text("-F", "name=value", "-F", "file=@-;filename=x.bin", f"{hub.url}/x", input=b"content"))
    check('filename="x.bin"' in echo["body"] and "content" in echo["body"], echo)
    equal(json.loads(text("--data-urlencode", "a=b c&d", f"{hub.url}/x"))["body"].replace("%20", "+"), "a=b+c%26d")
    equal(json.loads(text("--json", '{"a": 1}', f"{hub.url}/x"))["body"], '{"a": 1}')


@test
def ipv6(bed):
    upstream = bed.start(uvicorn(host="::1", name="uvicorn on IPv6"))
    hub = bed.hub(host="::1")
    bed.agent(hub, upstream)
    echo = json.loads(text(f"{hub.url}/x"))
    sent = dict(echo["headers"])
    equal((sent["host"], sent["x-forwarded-for"]), (upstream.authority, "::1"))
    both = bed.hub(host="localhost")
    bed.agent(both, bed.asgi())
    equal(json.loads(text(f"{wire.url('localhost')}:{both.port}/x"))["method"], "GET")


@test
def redirects(bed):
    """They are passed on as they are; curl follows them."""
    hub = bed.stack(bed.asgi())
    for status in ["301", "302", "303", "307", "308"]:
        got = fields(text("-i", f"{hub.url}/redirect?status={status}&to=/there?x=y"))
        equal((got[0].split()[1], got[1]["location"]), (status, "/there?x=y"))
    echo = json.loads(text("-L", "-d", "abc", f"{hub.url}/redirect?status=307&to=/there"))
    equal((echo["method"], echo["path"], echo["body"]), ("POST", "/there", "abc"))
    echo = json.loads(text("-L", "-d", "abc", f"{hub.url}/redirect?status=303&to=/there"))
    equal((echo["method"], echo["path"], echo["body"]), ("GET", "/there", ""))


@test
def trailers(bed):
    hub = bed.stack(bed.node())
    out = text("-v", "-H", "TE: trailers", "--raw", f"{hub.url}/trailers")
    check("X-Sum: 42" in out and "X-Late: yes" in out, "the trailers came:", out)
    check("forged" not in out, "the upstream cannot forge our fields:", out)
    done = curl("-D", "-", "-o", "/dev/null", f"{hub.url}/trailers")
    check(b"X-Sum: 42" in done.stdout, "curl knows them as trailers:", done.stdout)
    old = text("--http1.0", "-i", f"{hub.url}/trailers")
    check(old.endswith("\r\n\r\nbody\n"), "HTTP/1.0 gets the body alone:", old)


@test
def interim_responses(bed):
    hub = bed.stack(bed.node())
    out = text("-i", f"{hub.url}/hints")
    check("HTTP/1.1 103" in out and "HTTP/1.1 102" in out and "preload" in out, out)
    check(out.endswith("after the hints\n"), out)
    check(" 103 " not in text("--http1.0", "-i", f"{hub.url}/hints"), "not for HTTP/1.0")


@test
def early_answer(bed):
    """An upstream that answers before it has read the body: curl gets the answer, and the next request is served."""
    hub = bed.stack(bed.node())
    for _ in range(5):
        out = text("-H", "Expect:", "-T", "-", "-i", f"{hub.url}/late", input=pattern(20_000_000), code=None)
        check("403 Forbidden" in out and "not for you" in out, out)
        equal(text(f"{hub.url}/x"), "GET /x\n")


@test
def upgrade_to_http2_is_not_offered_on(bed):
    hub = bed.stack(bed.asgi())
    done = curl("--http2", "-i", "-o", "-", f"{hub.url}/x")
    head, body = done.stdout.decode().split("\r\n\r\n", 1)
    check(head.startswith("HTTP/1.1 200"), head)
    sent = dict(json.loads(body)["headers"])
    check("upgrade" not in sent and "http2-settings" not in sent, "hop-by-hop fields end at the hub:", sent)


@test
def as_a_forward_proxy(bed):
    """curl configured with the hub as its proxy sends targets in absolute form; CONNECT is refused."""
    hub = bed.stack(bed.asgi(), agent=["--preserve-host"])
    # curl's own variable does not hold for proxies.
    trust = ["--proxy-cacert", wire.AUTHORITY.file] if wire.IS_TLS else []
    echo = json.loads(text(*trust, "-x", hub.url, "-H", "Host: wrong.example.org", "http://right.example.org/x?y"))
    equal((echo["path"], echo["query"]), ("/x", "y"))
    equal(dict(echo["headers"])["host"], "right.example.org")
    done = curl("-v", "-p", *trust, "-x", hub.url, "http://right.example.org/x", code=56)
    check(b"501" in done.stderr, done.stderr)


@test
def asterisk(bed):
    hub = bed.stack(bed.node())
    status, _ = fields(text("-i", "-X", "OPTIONS", "--request-target", "*", f"{hub.url}/"))
    equal(status, "HTTP/1.1 200 OK")


@test
def too_large_heads(bed):
    hub = bed.stack(bed.asgi())
    equal(json.loads(text(f"{hub.url}/" + "x" * 8000))["path"], "/" + "x" * 8000)
    equal(len(dict(json.loads(text("-H", "X-Long: " + "x" * 12000, f"{hub.url}/"))["headers"])["x-long"]), 12000)
    for status, flags in [
        ("414", [f"{hub.url}/" + "x" * 9000]),
        ("431", ["-H", "X-Long: " + "x" * 20000, f"{hub.url}/"]),
        ("431", [*sum((["-H", f"X-{n}: y"] for n in range(120)), []), f"{hub.url}/"]),
    ]:
        out = text("-i", *flags)
        equal(fields(out)[0].split()[1], status)
        problem = json.loads(out.split("\r\n\r\n", 1)[1])
        equal(problem["status"], int(status))
        check(problem["detail"], "it says what to do")


@test
def max_body(bed):
    upstream = bed.asgi()
    hub = bed.stack(upstream, "--max-body", "1m")
    body = pattern(5_000_000)
    for flags in [["-T", "-"], ["--data-binary", "@-"], ["-H", "Expect:", "--data-binary", "@-"]]:
        out = text("-i", *flags, f"{hub.url}/digest?of=max_body", input=body, code=None)
        check("413 " in out, out)
    check("complete" not in upstream.events("max_body"), "the upstream never saw a whole body")
    equal(json.loads(text("-T", "-", f"{hub.url}/digest", input=body[:1_000_000]))["length"], 1_000_000)


@test
def app_password(bed):
    upstream = bed.asgi()
    hub = bed.stack(upstream, "--app-password", "open sesame")
    out = text("-i", f"{hub.url}/x")
    status, got = fields(out)
    equal(status.split()[1], "401")
    check("Bearer" in got["www-authenticate"], got)
    check("app password" in json.loads(out.split("\r\n\r\n", 1)[1])["detail"], out)
    equal(fields(text("-i", "-H", "Slime-App-Password: wrong", f"{hub.url}/x"))[0].split()[1], "401")
    own = json.loads(
        text("-H", "Slime-App-Password: open sesame", "-H", "Authorization: Bearer upstream", f"{hub.url}/x")
    )
    equal(dict(own["headers"])["authorization"], "Bearer upstream")
    check("slime-app-password" not in dict(own["headers"]))
    bearer = json.loads(text("--oauth2-bearer", "open sesame", f"{hub.url}/x"))
    check("authorization" not in dict(bearer["headers"]), "the password is consumed")
    done = curl(
        "-i",
        "-H",
        "Expect: 100-continue",
        "-T",
        "-",
        f"{hub.url}/digest?of=app_password",
        input=pattern(5_000_000),
        code=None,
    )
    check(b"401" in done.stdout and b"100 Continue" not in done.stdout, done.stdout)
    equal(upstream.events("app_password"), [])


@test
def leaving(bed):
    """curl gives up: the upstream notices within a second, and the worker is free."""
    upstream = bed.asgi()
    hub = bed.stack(upstream)
    for of, path in [("curl_leaves_1", "/never?of=curl_leaves_1"), ("curl_leaves_2", "/count?of=curl_leaves_2")]:
        curl("--max-time", "0.5", f"{hub.url}{path}", code=28)
        check(upstream.saw(of, "left" if "never" in path else "cut") < SOON, "soon")
        equal(json.loads(text("--max-time", "2", f"{hub.url}/x"))["method"], "GET")


@test
def cut_short(bed):
    """The upstream breaks off: curl can tell."""
    hub = bed.stack(bed.node())
    for framing in ["length", "chunks"]:
        done = curl(f"{hub.url}/break/{framing}", code=None)
        check(done.returncode in (18, 56), "exit code", done.returncode)
        equal(done.stdout, b"the beginning")
    equal(curl("--http1.0", f"{hub.url}/break/chunks", code=56).stdout, b"the beginning")
    equal(text(f"{hub.url}/x"), "GET /x\n")


@test
def nobody_serves(bed):
    hub = bed.hub("--startup-grace", "0")
    out = text("-i", f"{hub.url}/x")
    status, got = fields(out)
    equal(status, "HTTP/1.1 503 Service Unavailable")
    check("retry-after" in got and "slime" in got["proxy-status"], got)
    equal(got["content-type"], "application/problem+json")
    problem = json.loads(out.split("\r\n\r\n", 1)[1])
    check({"title", "status", "detail"} <= set(problem), problem)
    # curl's own retrying: an agent that comes meanwhile is found.
    waiting = subprocess.Popen(
        ["curl", "-sS", "--retry", "10", "--max-time", "20", f"{hub.url}/x"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        bed.agent(hub, bed.asgi())
        equal(json.loads(waiting.communicate(timeout=30)[0].decode().split("}\n")[-1])["method"], "GET")
    finally:
        waiting.kill()
        waiting.wait()


@test
def waiting(bed):
    """Slime-Block and Slime-Max-Wait, as a script would use them."""
    hub = bed.hub("--startup-grace", "0")
    begin = time.monotonic()
    status, _ = fields(text("-i", "-H", "Slime-Block: 1", "-H", "Slime-Max-Wait: 0.5", f"{hub.url}/x"))
    took = time.monotonic() - begin
    equal(status.split()[1], "503")
    check(0.45 < took < SOON, "it waited", took)
    got = []
    thread = threading.Thread(target=lambda: got.append(text("-H", "Slime-Block: 1", f"{hub.url}/x")))
    thread.start()
    bed.agent(hub, bed.asgi())
    thread.join(20)
    equal(json.loads(got[0])["method"], "GET")
