"""TLS with OpenSSL on the other side: its own tools, curl, Python, nginx."""

import http.client
import http.server
import json
import ssl
import threading
import time

import requests
import websockets.sync.client

import nginx
from harness import (
    PATIENCE,
    SOON,
    SLIME,
    Failed,
    Process,
    check,
    equal,
    free_port,
    pattern,
    register,
    run,
    sha256,
    test,
)
from wire import KEYS, Authority

# What the hub answers without an agent.
OWN = b"GET /.slime/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def openssl(*arguments, **options):
    return run(["openssl", *arguments], **options)


def curl(authority, *arguments, **options):
    return run(["curl", "-sS", "--max-time", "60", "--cacert", authority.file, *arguments], **options)


def secure_hub(bed, authority, *flags, kind="ec-sec1"):
    """A hub that speaks TLS, with its URL."""
    certificate, key = authority.sign(kind)
    hub = bed.hub("--tls-cert", certificate, "--tls-key", key, *flags)
    hub.url = f"https://{hub.authority}"
    return hub


def joined(bed, hub, upstream, authority, *flags):
    flags = ["--hub-ca", authority.file, *flags]
    if isinstance(upstream, str) and upstream.startswith("https:"):
        flags += ["--upstream-ca", authority.file]
    return bed.agent(hub, upstream, *flags, at=hub.url)


@test
def keys_of_every_kind(bed):
    authority = Authority(bed.folder())
    for kind in KEYS:
        hub = secure_hub(bed, authority, kind=kind)
        for versions in [["--tls-max", "1.2"], ["--tlsv1.3"]]:
            said = curl(authority, "-i", *versions, f"{hub.url}/.slime/x").stdout
            check(said.startswith(b"HTTP/1.1 404"), kind, said)
        said = s_client(hub, authority, input=OWN)
        check("Verify return code: 0 (ok)" in said and "HTTP/1.1 404" in said, kind, said)


def s_client(hub, authority, *flags, input=b"", code=0):
    command = ["s_client", "-connect", hub.authority, "-CAfile", authority.file, "-ign_eof", *flags]
    done = openssl(*command, input=input, code=code, limit=PATIENCE)
    return (done.stdout + done.stderr).decode(errors="replace")


@test
def openssl_as_client(bed):
    authority = Authority(bed.folder())
    hub = secure_hub(bed, authority)
    for version in ["-tls1_2", "-tls1_3"]:
        said = s_client(hub, authority, version, "-alpn", "h2,http/1.1", "-servername", "localhost", input=OWN)
        check("ALPN protocol: http/1.1" in said and "HTTP/1.1 404" in said, said)
        session = authority.folder / "session"
        said = s_client(hub, authority, version, "-sess_out", session, input=OWN)
        check("New, TLSv1" in said, said)
        said = s_client(hub, authority, version, "-sess_in", session, input=OWN)
        check("Reused, TLSv1" in said and "HTTP/1.1 404" in said, said)
    for flags in [["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], ["-alpn", "h2"]]:
        said = s_client(hub, authority, *flags, code=1)
        check("HTTP/1.1 404" not in said and "alert" in said, said)
    # Its certificate and what curl makes of a plain request.
    check(b"HTTP/1.1 400" in run(["curl", "-sS", "-i", f"http://{hub.authority}/"]).stdout)
    failed = run(["curl", "-sS", f"{hub.url}/"], code=60)
    check(b"certificate" in failed.stderr, failed.stderr)
    equal(len([line for line in hub.lines if "TLS with 127.0.0.1 failed" in line]), 1, "lines about failures")


@test
def openssl_as_upstream(bed):
    authority = Authority(bed.folder())
    certificate, key = authority.sign()
    for version, works in [("-tls1_2", True), ("-tls1_3", True), ("-tls1_1", False)]:
        port = free_port()
        command = ["openssl", "s_server", "-www", "-accept", f"127.0.0.1:{port}", "-cert", certificate, "-key", key]
        flags = [] if works else ["-cipher", "ALL:@SECLEVEL=0"]
        server = bed.start(Process("s_server", [*command, version, *flags]))
        server.line("ACCEPT")
        hub = bed.hub("--startup-grace", "0")
        agent = bed.agent(hub, f"https://127.0.0.1:{port}", "--upstream-ca", authority.file, wait=works)
        if works:
            said = run(["curl", "-sS", "-i", f"{hub.url}/"]).stdout
            check(said.startswith(b"HTTP/1.1 200") and b"s_server" in said and b"</pre>" in said.lower(), said)
        else:
            agent.line(f"TLS with 127.0.0.1:{port} failed: ")
        server.kill()


@test
def curl_moves_large_bodies(bed):
    authority = Authority(bed.folder())
    hub = secure_hub(bed, authority, kind="rsa")
    joined(bed, hub, bed.asgi(), authority)
    body = pattern(30_000_000)
    for version in [["--tls-max", "1.2"], ["--tlsv1.3"]]:
        for flags in [["-T", "-"], ["--data-binary", "@-"]]:
            done = curl(authority, *version, *flags, f"{hub.url}/digest", input=body)
            equal(json.loads(done.stdout)["sha256"], sha256(body))
        equal(len(curl(authority, *version, f"{hub.url}/data?n=30000000&chunked").stdout), 30_000_000)
    # A redirection that curl follows, with its body.
    certificate, key = authority.sign()
    port = free_port()
    files = ["--tls-cert", certificate, "--tls-key", key]
    both = bed.hub(*files, "--tls-port", port, "--tls-redirect")
    both.url = f"https://127.0.0.1:{port}"
    joined(bed, both, bed.asgi(), authority)
    done = curl(authority, "-L", "--data-binary", "@-", f"http://{both.authority}/digest", input=body[:100_000])
    equal(json.loads(done.stdout)["sha256"], sha256(body[:100_000]))


@test
def python_as_client(bed):
    authority = Authority(bed.folder())
    hub = secure_hub(bed, authority)
    service = bed.asgi()
    joined(bed, hub, service, authority)
    connection = http.client.HTTPSConnection(hub.authority, timeout=PATIENCE, context=authority.context())
    for number in range(300):
        connection.request("POST" if number % 5 == 0 else "GET", f"/work?ms=0&name={number}")
        response = connection.getresponse()
        equal((response.status, response.read()), (200, b"%d" % number))
    echo = requests.get(f"{hub.url}/x?y", verify=str(authority.file), timeout=PATIENCE).json()
    equal(dict(echo["headers"])["x-forwarded-proto"], "https")
    # Each line is sent only after the one before it has arrived.
    begin = time.monotonic()
    with requests.get(f"{hub.url}/stepwise?of=tls", verify=str(authority.file), stream=True, timeout=10) as got:
        for number, line in enumerate(got.iter_lines(chunk_size=1)):
            equal(line, b"%d" % number)
            requests.get(f"{service.url}/step/tls", timeout=10)
    check(time.monotonic() - begin < SOON, "nothing is held back on the way")
    curl(authority, "--max-time", "0.5", f"{hub.url}/count?of=tls_leaves", code=28)
    check(service.saw("tls_leaves", "cut") < SOON, "the service sees within a second that the application left")
    options = {"proxy": None, "max_size": None, "ssl": authority.context()}
    with websockets.sync.client.connect(f"wss://{hub.authority}/socket?of=tls", **options) as socket:
        for message in ["hello", pattern(1_000_000)]:
            socket.send(message)
            equal(socket.recv(PATIENCE), message)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers without a length: the end of the connection ends the body."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"some of it")
        self.wfile.flush()
        if self.path == "/whole":
            self.connection.unwrap()
        # Python closes the socket without close_notify otherwise.

    def log_message(self, *_):
        pass


@test
def python_as_upstream(bed):
    authority = Authority(bed.folder())
    certificate, key = authority.sign("rsa")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    bed.cleanup.callback(server.shutdown)
    hub = bed.hub()
    bed.agent(hub, f"https://127.0.0.1:{server.server_port}", "--upstream-ca", authority.file)
    equal(requests.get(f"{hub.url}/whole", timeout=PATIENCE).content, b"some of it")
    try:
        requests.get(f"{hub.url}/cut", timeout=PATIENCE)
    except requests.exceptions.ChunkedEncodingError:
        return
    raise Failed("a body that was cut looked complete")


@test
def nginx_as_upstream(bed):
    authority = Authority(bed.folder())
    certificate, key = authority.sign()
    for version in ["TLSv1.2", "TLSv1.3"]:
        tls = f"ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols {version};"
        server = nginx.start(bed, nginx.STATIC.replace("PORT;", "PORT ssl;").replace("SETTINGS", tls))
        nginx.files(server.folder)
        hub = bed.hub()
        bed.agent(hub, f"https://{server.authority}", "--upstream-ca", authority.file, workers=2)
        equal(sha256(run(["curl", "-sS", f"{hub.url}/large.bin"]).stdout), sha256(pattern(20_000_000)))
        equal(run(["curl", "-sS", "-r", "100-199", f"{hub.url}/large.bin"]).stdout, pattern(20_000_000)[100:200])
        for number in range(100):
            equal(requests.get(f"{hub.url}/made?{number}", timeout=PATIENCE).text, f"made GET /made?{number}")


FRONT = """
    map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
    upstream hub { server HUB; keepalive 16; }
    server {
        listen 127.0.0.1:PORT ssl;
        ssl_certificate CERTIFICATE; ssl_certificate_key KEY;
        client_max_body_size 0; proxy_http_version 1.1; proxy_buffering off; proxy_request_buffering off;
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto https;
        proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
        location / { proxy_pass http://hub; }
    }
"""


@test
def nginx_in_front_of_a_plain_hub(bed):
    authority = Authority(bed.folder())
    certificate, key = authority.sign()
    hub = bed.hub("--trusted-proxy", "127.0.0.0/8", "--heartbeat", "500ms")
    body = FRONT.replace("HUB", hub.authority).replace("CERTIFICATE", str(certificate)).replace("KEY", str(key))
    front = nginx.start(bed, body, name="nginx in front")
    bed.agent(hub, bed.asgi(), "--hub-ca", authority.file, at=f"https://{front.authority}")
    url = f"https://{front.authority}"
    echo = json.loads(curl(authority, f"{url}/x").stdout)
    equal(dict(echo["headers"])["x-forwarded-proto"], "https")
    body = pattern(20_000_000)
    equal(json.loads(curl(authority, "-T", "-", f"{url}/digest", input=body).stdout)["sha256"], sha256(body))
    equal(len(curl(authority, f"{url}/data?n=20000000&chunked").stdout), 20_000_000)
    # The agent is told if it does not trust the front.
    stranger = bed.start(
        Process(
            "stranger",
            [SLIME, "agent", "--hub", url, "--upstream", bed.asgi().authority],
            env={"SLIME_TOKEN": register()},
        )
    )
    stranger.line(f"TLS with {front.authority} failed: .*issued by nobody that this agent trusts.*--hub-ca")


@test
def a_hub_with_its_own_certificate(bed):
    folder = bed.folder()
    hub = bed.hub("--tls-self-signed", folder / "tls")
    pin = hub.line(r"agents join with: .*--hub-pin (sha256:\S+)")[1]
    said = openssl("x509", "-in", folder / "tls" / "cert.pem", "-noout", "-fingerprint", "-sha256").stdout.decode()
    equal(pin, "sha256:" + said.strip().split("=")[1].replace(":", "").lower(), "the pin")
    bed.agent(hub, bed.asgi(), "--hub-pin", pin, at=f"https://{hub.authority}")
    said = run(["curl", "-sS", "--cacert", folder / "tls" / "cert.pem", f"https://localhost:{hub.port}/work?name=x"])
    equal(said.stdout, b"x")
