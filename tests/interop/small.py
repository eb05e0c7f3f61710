"""Small servers: BusyBox httpd with CGI, Python's single-threaded ones, and what a WSGI application is told of an application."""

import concurrent.futures

import requests

import wire
from harness import HERE, PYTHON, Upstream, check, equal, free_port, pattern, plain_only, test

NO_TLS = "the server has no TLS"

# Their lines end in LF alone, as those of every shell script.
CGI = {
    "hello": 'echo "Content-Type: text/plain"; echo; echo "hello from $REQUEST_METHOD $QUERY_STRING"',
    "status": 'echo "Status: 404 Not Found"; echo "Content-Type: text/plain"; echo; echo nothing',
    "echo": 'echo "Content-Type: application/octet-stream"; echo; head -c "$CONTENT_LENGTH"',
    "length": 'echo "Content-Length: 3"; echo; printf abc',
    "forwarded": 'echo "Content-Type: text/plain"; echo; echo "$HTTP_X_FORWARDED_FOR"',
}


def single(bed, kind):
    command = [PYTHON, HERE / "upstreams" / "single.py", kind]
    return bed.start(Upstream(f"single-threaded {kind}", command, r"listening on (\d+)"))


@plain_only(NO_TLS)
def busybox_httpd(bed):
    folder, port = bed.folder(), free_port()
    (folder / "cgi-bin").mkdir()
    for name, script in CGI.items():
        path = folder / "cgi-bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    (folder / "file.bin").write_bytes(pattern(1_000_000))
    command = ["busybox", "httpd", "-f", "-p", f"127.0.0.1:{port}", "-h", folder]
    hub = bed.stack(bed.start(Upstream("BusyBox httpd", command, port=port)), workers=2)
    with requests.Session() as session:
        for number in range(20):
            got = session.get(f"{hub.url}/cgi-bin/hello?{number}", timeout=10)
            equal((got.status_code, got.text), (200, f"hello from GET {number}\n"))
            equal(got.headers["content-type"], "text/plain")
        equal(session.get(f"{hub.url}/file.bin", timeout=10).content, pattern(1_000_000))
        equal(session.get(f"{hub.url}/nothing", timeout=10).status_code, 404)
        equal(session.get(f"{hub.url}/cgi-bin/length", timeout=10).text, "abc")
        body = pattern(50_000)
        equal(session.post(f"{hub.url}/cgi-bin/echo", data=body, timeout=10).content, body)
        got = session.get(f"{hub.url}/file.bin", headers={"Range": "bytes=10-19"}, timeout=10)
        equal((got.status_code, got.content), (206, pattern(1_000_000)[10:20]))


def answers(hub, count=40):
    """Requests one after the other and several at once, on connections of their own and on kept ones."""

    def one(number):
        got = requests.get(f"{hub.url}/{number}", timeout=20)
        equal((got.status_code, got.text), (200, f"/{number}"))

    for number in range(5):
        one(number)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(count)))
    with requests.Session() as session:
        equal(session.post(f"{hub.url}/x", data=pattern(100_000), timeout=20).content, pattern(100_000))
        equal(session.head(f"{hub.url}/x", timeout=20).headers["content-length"], "2")


@plain_only(NO_TLS)
def python_single_threaded(bed):
    answers(bed.stack(single(bed, "http10"), workers=2))


@plain_only(NO_TLS)
def python_single_threaded_keeps_connections(bed):
    """One worker, as is right for such a server: its connection is the only one that the server looks at."""
    answers(bed.stack(single(bed, "http11")))


@plain_only(NO_TLS)
def wsgi_is_told_the_truth(bed):
    """WSGI and CGI know no difference between `-` and `_`, so a stranger's twin of a field would be the field."""
    hub = bed.stack(single(bed, "wsgi"))
    lies = {
        "X-Forwarded-For": "6.6.6.6",
        "X_Forwarded_For": "6.6.6.6",
        "X_Forwarded-For": "6.6.6.6",
        "X_Forwarded_Proto": "https",
        "X_Forwarded_Host": "evil",
        "Forwarded": "for=6.6.6.6",
        "Proxy": "http://evil/",
        "X-Real-IP": "6.6.6.6",
        "X_Real_IP": "6.6.6.6",
        "X-Forwarded-Port": "666",
        "X-Original-URL": "/admin",
        "X-Rewrite-URL": "/admin",
    }
    environ = requests.get(f"{hub.url}/x?y", headers={**lies, "X-Own_Field": "kept"}, timeout=10).json()
    equal(environ["HTTP_X_FORWARDED_FOR"], "127.0.0.1")
    equal(environ["HTTP_X_FORWARDED_PROTO"], wire.SCHEME)
    equal(environ["HTTP_X_FORWARDED_HOST"], hub.authority)
    equal(environ["HTTP_X_OWN_FIELD"], "kept")
    equal((environ["PATH_INFO"], environ["QUERY_STRING"]), ("/x", "y"))
    for name in ["HTTP_PROXY", "HTTP_X_REAL_IP", "HTTP_X_FORWARDED_PORT", "HTTP_X_ORIGINAL_URL", "HTTP_X_REWRITE_URL"]:
        check(name not in environ, name, "is", environ.get(name))
    check(not any("6.6.6.6" in value or "evil" in value for value in environ.values()), environ)
