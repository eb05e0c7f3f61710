"""nginx and HAProxy in front of the hub: for applications, and for agents on a path of their own."""

import json
import time

import requests
import websockets.sync.client

import nginx
import wire
from harness import (
    PATIENCE,
    SOON,
    Process,
    Upstream,
    agent_command,
    check,
    equal,
    free_port,
    gunicorn,
    pattern,
    register,
    run,
    sha256,
    test,
)

NGINX = """
    map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
    upstream hub { server HUB; keepalive 16; }
    server {
        listen 127.0.0.1:PORT;
        client_max_body_size 0; proxy_http_version 1.1; proxy_buffering off; proxy_request_buffering off;
        proxy_read_timeout 2s; proxy_send_timeout 2s;
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto https;
        proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
        location / { proxy_pass SCHEME://hub; }
        # The prefix is taken away here, and passed on there.
        location /gpu/ { proxy_pass SCHEME://hub/; }
        location /box/deep/ { proxy_pass SCHEME://hub; }
        location /locked/ { auth_basic "x"; auth_basic_user_file FOLDER/users; proxy_pass SCHEME://hub/; }
    }
"""

HAPROXY = """
global
    log stderr local0 info
    stats timeout 2s
defaults
    mode http
    option httplog
    timeout connect 2s
    timeout client 2s
    timeout server 2s
    timeout tunnel 2s
    timeout http-request 2s
    option forwardfor
    # Without it, HAProxy holds pieces of a stream back for up to 200 ms.
    option http-no-delay
frontend front
    bind 127.0.0.1:{port} {front}
    http-request set-header X-Forwarded-Proto https
    http-request replace-path /gpu(/.*)? \\1 if {{ path_beg /gpu/ }}
    default_backend hub
backend hub
    server hub {hub} {verified}
"""

# Shorter than the time limits of the proxies.
BEAT = ["--heartbeat", "500ms"]
TRUST = ["--trusted-proxy", "127.0.0.0/8"]


def with_nginx(bed, *flags):
    hub = bed.hub(*BEAT, *TRUST, *flags)
    front = nginx.start(bed, NGINX.replace("HUB", hub.authority).replace("SCHEME", wire.SCHEME), name="nginx in front")
    (front.folder / "users").write_text("me:{PLAIN}p@ss word\n")
    return hub, front


def with_haproxy(bed, *flags):
    hub = bed.hub(*BEAT, *TRUST, *flags)
    folder, port = bed.folder(), free_port()
    front, verified = "", ""
    if wire.IS_TLS:
        front = f"ssl crt {wire.AUTHORITY.folder}/both.pem alpn http/1.1"
        verified = f"ssl verify required ca-file {wire.AUTHORITY.file} sni str(localhost) verifyhost localhost"
    (folder / "haproxy.cfg").write_text(HAPROXY.format(port=port, hub=hub.authority, front=front, verified=verified))
    return hub, bed.start(Upstream("haproxy", ["haproxy", "-db", "-f", folder / "haproxy.cfg"], port=port))


def everything(bed, hub, front, prefix):
    """An application before the proxy, an agent before it, too."""
    service = bed.asgi()
    agent = bed.agent(hub, service, at=f"{wire.SCHEME}://{front.authority}{prefix}")
    of = front.name.split()[0]
    echo = requests.get(f"{front.url}/x?y", headers={"X-Forwarded-For": "192.0.2.7"}, timeout=10).json()
    sent = dict(echo["headers"])
    equal(sent["x-forwarded-for"], "192.0.2.7, 127.0.0.1, 127.0.0.1", "X-Forwarded-For")
    equal((sent["x-forwarded-proto"], sent["x-forwarded-host"]), ("https", front.authority))
    body = pattern(20_000_000)
    for flags in [["-T", "-"], ["--data-binary", "@-"]]:
        done = run(["curl", "-sS", *flags, f"{front.url}/digest"], input=body)
        equal(json.loads(done.stdout)["sha256"], sha256(body))
    equal(len(requests.get(f"{front.url}/data?n=20000000&chunked", timeout=30).content), 20_000_000)
    # Each line is sent only after the one before it has arrived.
    begin = time.monotonic()
    with requests.get(f"{front.url}/stepwise?of={of}", stream=True, timeout=10) as got:
        for number, line in enumerate(got.iter_lines(chunk_size=1)):
            equal(line, b"%d" % number)
            requests.get(f"{service.url}/step/{of}", timeout=10)
    check(time.monotonic() - begin < SOON, "nothing is held back on the way")
    run(["curl", "-sS", "--max-time", "0.5", f"{front.url}/count?of={of}_leaves"], code=28)
    check(service.saw(f"{of}_leaves", "cut") < SOON, "the service sees within a second that the application left")
    ws = front.url.replace("http", "ws")
    with websockets.sync.client.connect(f"{ws}/socket?of={of}", proxy=None, max_size=None) as socket:
        for message in ["hello", pattern(1_000_000)]:
            socket.send(message)
            equal(socket.recv(PATIENCE), message)
    connection = wire.http_connection(front.authority)
    for number in range(500):
        connection.request("POST" if number % 5 == 0 else "GET", f"/work?ms=0&name={number}")
        response = connection.getresponse()
        equal((response.status, response.read()), (200, b"%d" % number))
    # The tunnel is idle for longer than the proxy's time limit: signs of life keep it open.
    lost = [line for line in agent.lines if "lost" in line]
    time.sleep(4)
    equal([line for line in agent.lines if "lost" in line], lost, "what the agent said while nothing happened")
    equal(requests.get(f"{front.url}/work?name=after", timeout=5).text, "after")
    # A job that is silent for longer, too; the application asks the hub itself, without the proxy's time limit.
    equal(requests.get(f"{hub.url}/work?ms=4000&name=long", timeout=10).text, "long")
    check(not [line for line in agent.lines if "lost" in line][len(lost) :], "the tunnel was lost")


@test
def nginx_in_front(bed):
    hub, front = with_nginx(bed)
    everything(bed, hub, front, "/gpu")


@test
def nginx_passes_the_prefix(bed):
    hub, front = with_nginx(bed)
    for prefix in ["", "/box/deep", "/box/deep/"]:
        agent = bed.agent(hub, bed.asgi(), at=f"{wire.SCHEME}://{front.authority}{prefix}")
        equal(requests.get(f"{front.url}/work?name=x", timeout=5).text, "x")
        agent.kill()


@test
def nginx_wants_a_password_of_agents(bed):
    """With a wrong one the agent says who refuses it, and does not blame its token."""
    hub, front = with_nginx(bed)
    refused = bed.agent(
        hub, bed.asgi(), at=f"{wire.SCHEME}://me:wrong@{front.authority}/locked", wait=False, name="agent with a wrong password"
    )
    refused.line("cannot join the hub.*proxy.*401.*user:password@")
    check(not refused.says("token"), refused.lines)
    check(refused.child.poll() is None, "it tries on")
    refused.kill()
    agent = bed.agent(hub, bed.asgi(), at=f"{wire.SCHEME}://me:p%40ss%20word@{front.authority}/locked")
    equal(requests.get(f"{hub.url}/work?name=x", timeout=5).text, "x")
    # The hub's own 401 through the same proxy: that is the token.
    agent.kill()
    bad = bed.start(
        Process(
            "agent with a bad token",
            agent_command(f"{wire.SCHEME}://me:p%40ss%20word@{front.authority}/locked", bed.asgi().at),
            env={"SLIME_TOKEN": register()[:-4] + "AAAA"},
        )
    )
    equal(bad.wait(), 1, "exit code")
    check(bad.says("token"), bad.lines)


@test
def nginx_without_upgrade(bed):
    """The usual mistake: the proxy does not pass the upgrade. The agent says so, and does not give up."""
    hub = bed.hub()
    front = nginx.start(bed, f"""server {{ listen 127.0.0.1:PORT; location / {{ proxy_pass {hub.url}; }} }}""")
    agent = bed.agent(hub, bed.asgi(), at=front.url, wait=False)
    agent.line("(?i)upgrade|404|proxy")
    check(agent.child.poll() is None, "the agent lives on")


@test
def wrong_address(bed):
    """The agent is pointed at a server that is no hub at all: it says so, and tries on."""
    for server in [bed.asgi(), bed.node(), bed.start(gunicorn())]:
        agent = bed.start(Process("agent", agent_command(server.url, bed.asgi().at), env={"SLIME_TOKEN": register()}))
        agent.line("cannot join the hub")
        check(agent.child.poll() is None, "the agent lives on")


@test
def haproxy_in_front(bed):
    hub, front = with_haproxy(bed)
    everything(bed, hub, front, "/gpu")


@test
def proxies_need_trust(bed):
    """Forwarding fields of those who are not trusted are replaced."""
    hub = bed.stack(bed.asgi())
    echo = requests.get(
        f"{hub.url}/x",
        headers={"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil"},
        timeout=10,
    ).json()
    sent = dict(echo["headers"])
    equal(
        (sent["x-forwarded-for"], sent["x-forwarded-proto"], sent["x-forwarded-host"]),
        ("127.0.0.1", wire.SCHEME, hub.authority),
    )


@test
def load_balanced_applications(bed):
    """HAProxy keeps connections to the hub and uses them for many applications."""
    hub, front = with_haproxy(bed)
    bed.agent(hub, bed.node(), workers=4)
    done = run(
        [
            "curl",
            "-sS",
            "-Z",
            "--parallel-max",
            "30",
            "-w",
            "%{http_code}\n",
            "-o",
            "/dev/null",
            f"{front.url}/n/[1-2000]",
        ]
    )
    equal(done.stdout.split(), [b"200"] * 2000)
