"""nginx as the upstream."""

import gzip
import json
import os
import random
import time

import wire
from harness import PATIENCE, Upstream, check, equal, free_port, pattern, run, sha256, test

CONFIG = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr warn;
{user}
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    {tls}
    types {{ text/html html; text/plain txt; application/octet-stream bin; }}
{body}
}}
"""


def tls():
    """nginx with the certificate of the run, which verifies that of others by their name: it never looks at addresses."""
    if not wire.IS_TLS:
        return ""
    own = f"ssl_certificate {wire.CERTIFICATE}; ssl_certificate_key {wire.KEY}; proxy_ssl_name localhost;"
    return f"{own} proxy_ssl_verify on; proxy_ssl_trusted_certificate {wire.AUTHORITY.file}; proxy_ssl_server_name on;"


def start(bed, body, name="nginx"):
    """An nginx with the contents of an http block; PORT in them is where it listens, FOLDER its files."""
    folder, port = bed.folder(), free_port()
    if wire.IS_TLS:
        body = body.replace("PORT;", "PORT ssl;")
    body = body.replace("PORT", str(port)).replace("FOLDER", str(folder))
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(CONFIG.format(folder=folder, body=body, user=user, tls=tls()))
    command = ["nginx", "-e", "stderr", "-p", folder, "-c", folder / "nginx.conf"]
    process = bed.start(Upstream(name, command, port=port))
    process.folder = folder
    return process


def files(folder):
    """Puts some into the folder of an nginx."""
    (folder / "www" / "sub").mkdir(parents=True)
    (folder / "www" / "index.html").write_text("<p>hello</p>" * 500)
    (folder / "www" / "sub" / "index.html").write_text("below")
    (folder / "www" / "large.bin").write_bytes(pattern(20_000_000))


# gzip_proxied: without it, nginx compresses nothing that a proxy asks for, which slime is by its Via.
STATIC = """
    server {
        listen 127.0.0.1:PORT; root FOLDER/www; SETTINGS
        gzip on; gzip_proxied any; gzip_min_length 100;
        location /made { return 200 "made $request_method $request_uri"; }
    }
"""


def static(bed, settings=""):
    server = start(bed, STATIC.replace("SETTINGS", settings))
    files(server.folder)
    return server


def curl(*arguments, **options):
    return run(["curl", "-sS", "--max-time", "60", *arguments], **options)


@test
def static_files(bed):
    upstream = static(bed)
    hub = bed.stack(upstream)
    equal(curl(f"{hub.url}/index.html").stdout.decode(), "<p>hello</p>" * 500)
    equal(sha256(curl(f"{hub.url}/large.bin").stdout), sha256(pattern(20_000_000)))
    check(b" 404 Not Found" in curl("-i", f"{hub.url}/nothing").stdout)
    head = curl("-I", f"{hub.url}/index.html").stdout.decode()
    check("Content-Length: 6000" in head and "ETag: " in head and "Server: nginx" in head, head)
    etag = [line.split(": ")[1].strip() for line in head.splitlines() if line.startswith("ETag")][0]
    again = curl("-i", "-H", f"If-None-Match: {etag}", f"{hub.url}/index.html").stdout
    check(again.startswith(b"HTTP/1.1 304") and again.endswith(b"\r\n\r\n"), again)


@test
def ranges(bed):
    hub = bed.stack(static(bed))
    body = pattern(20_000_000)
    equal(curl("-r", "10-19", f"{hub.url}/large.bin").stdout, body[10:20])
    equal(curl("-r", "-7", f"{hub.url}/large.bin").stdout, body[-7:])
    several = curl("-i", "-r", "0-1,5-6", f"{hub.url}/large.bin").stdout
    check(several.startswith(b"HTTP/1.1 206") and b"multipart/byteranges" in several, several)
    check(curl("-i", "-r", "99999999-", f"{hub.url}/large.bin").stdout.startswith(b"HTTP/1.1 416"))
    folder = bed.folder()
    # A download that is continued where it was cut off.
    (folder / "part").write_bytes(body[:7_000_000])
    curl("-C", "-", "-o", folder / "part", f"{hub.url}/large.bin")
    equal(sha256((folder / "part").read_bytes()), sha256(body))


@test
def compressed(bed):
    hub = bed.stack(static(bed))
    done = curl("-i", "--compressed", f"{hub.url}/index.html").stdout.decode()
    check("Content-Encoding: gzip" in done and done.endswith("<p>hello</p>" * 500), done[:600])
    zipped = curl("-H", "Accept-Encoding: gzip", f"{hub.url}/index.html").stdout
    equal(gzip.decompress(zipped).decode(), "<p>hello</p>" * 500)
    old = curl("--http1.0", "--compressed", f"{hub.url}/index.html").stdout.decode()
    equal(old, "<p>hello</p>" * 500)


@test
def folder_redirect(bed):
    """nginx names itself by the Host that it sees: the agent's, which the agent replaces by the application's."""
    hub = bed.stack(static(bed))
    answer = curl("-i", f"{hub.url}/sub").stdout.decode()
    check(answer.startswith("HTTP/1.1 301") and f"Location: {hub.url}/sub/" in answer, answer)
    hub = bed.stack(static(bed), agent=["--preserve-host"])
    answer = curl("-i", f"{hub.url}/sub").stdout.decode()
    check(answer.startswith("HTTP/1.1 301") and f"Location: {wire.SCHEME}://127.0.0.1" in answer, answer)


@test
def body_too_large(bed):
    """nginx refuses an upload by its 413, and closes, while the upload is under way."""
    service = bed.asgi()
    upstream = start(
        bed,
        f"""
    server {{
        listen 127.0.0.1:PORT; client_max_body_size 1m; proxy_request_buffering off; proxy_http_version 1.1;
        location / {{ proxy_pass {service.url}; }}
    }}""",
    )
    hub = bed.stack(upstream)
    body = pattern(10_000_000)
    for flags in [
        ["-T", "-"],
        ["--data-binary", "@-"],
        ["-H", "Expect:", "--data-binary", "@-"],
        ["-H", "Expect:", "-T", "-"],
    ]:
        for _ in range(5):
            done = curl("-i", *flags, f"{hub.url}/digest?of=too_large", input=body, code=None)
            check(b"413 Request Entity Too Large" in done.stdout, flags, done.stdout, done.stderr)
            equal(curl(f"{hub.url}/work?ms=1&name=after").stdout, b"after")
    check("complete" not in service.events("too_large"), "no body looked complete")


def hammer(hub, number, pause=None, methods=("GET",)):
    """So many requests on one connection; none may fail."""
    chance = random.Random(7)
    connection = wire.http_connection(hub.authority)
    for n in range(number):
        method = methods[n % len(methods)]
        connection.request(method, f"/made/{n}", body=b"x" * 100 if method == "POST" else None)
        response = connection.getresponse()
        body = response.read()
        equal((response.status, body), (200, b"made %s /made/%d" % (method.encode(), n)), f"request {n}")
        if pause:
            time.sleep(chance.uniform(*pause))
    connection.close()


@test
def connections_not_kept(bed):
    """Every response closes its connection."""
    hammer(bed.stack(static(bed, "keepalive_timeout 0;")), 2000, methods=("GET", "POST"))


@test
def connections_kept_for_few(bed):
    """Every fifth response closes its connection."""
    hammer(bed.stack(static(bed, "keepalive_requests 5;")), 2000, methods=("GET", "POST"))


@test
def connections_kept_shortly(bed):
    """nginx closes just when the next request is on its way: that must not show."""
    hub = bed.stack(static(bed, "keepalive_timeout 20ms;"))
    hammer(hub, 400, pause=(0.015, 0.025))
    hammer(hub, 1600)


@test
def many_clients(bed):
    hub = bed.stack(static(bed, "keepalive_requests 7;"), workers=4)
    done = curl(
        "-Z", "--parallel-max", "40", "-w", "%{http_code}\n", "-o", "/dev/null", f"{hub.url}/made/[1-2000]"
    ).stdout
    equal(done.split(), [b"200"] * 2000)


@test
def as_a_proxy(bed):
    """nginx in front of the service, behind the agent: buffering it or not."""
    service = bed.asgi()
    upstream = start(
        bed,
        f"""
    server {{
        listen 127.0.0.1:PORT;
        location / {{ proxy_pass {service.url}; }}
        location /direct/ {{
            proxy_pass {service.url}/; proxy_http_version 1.1; proxy_buffering off; proxy_request_buffering off;
        }}
        client_max_body_size 0;
    }}""",
    )
    hub = bed.stack(upstream)
    equal(json.loads(curl(f"{hub.url}/x").stdout)["path"], "/x")
    body = pattern(20_000_000)
    for path in ["", "/direct"]:
        sent = json.loads(curl("-T", "-", f"{hub.url}{path}/digest", input=body).stdout)
        equal(sent["sha256"], sha256(body), f"upload{path}")
        got = curl(f"{hub.url}{path}/data?n=20000000&chunked").stdout
        equal(sha256(got), sha256((bytes(range(256)) * 80000)[:20_000_000]), f"download{path}")
    equal(len(curl(f"{hub.url}/direct/count?n=20").stdout.split()), 20)
    curl("--max-time", "0.5", f"{hub.url}/direct/count?of=nginx_cut", code=28)
    service.saw("nginx_cut", "cut", 2)
    equal(curl("--max-time", "5", f"{hub.url}/work?name=after").stdout, b"after")


@test
def base_path_and_credentials(bed):
    """The upstream's URL may have a path and a password."""
    service = bed.node()
    server = start(
        bed,
        f"""
    server {{
        listen 127.0.0.1:PORT;
        location /deep/ {{ auth_basic "x"; auth_basic_user_file FOLDER/users; proxy_pass {service.url}/in/; }}
    }}""",
    )
    (server.folder / "users").write_text("me:{PLAIN}p@ss word\n")
    hub = bed.hub()
    bed.agent(hub, f"{wire.SCHEME}://me:p%40ss%20word@{server.authority}/deep/")
    equal(curl(f"{hub.url}/x/y").stdout, b"GET /in/x/y\n")
