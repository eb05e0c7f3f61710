"""Apache and node's http-proxy in front of the hub."""

import time

import requests
import websockets.sync.client

import wire
from fronts import BEAT, TRUST, everything
from harness import HERE, PATIENCE, Upstream, check, equal, free_port, pattern, plain_only, test

APACHE = """
ServerRoot {folder}
ServerName localhost
Listen 127.0.0.1:{port}
PidFile {folder}/pid
ErrorLog /dev/stderr
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule headers_module {modules}/mod_headers.so
LoadModule proxy_module {modules}/mod_proxy.so
LoadModule proxy_http_module {modules}/mod_proxy_http.so
LoadModule proxy_wstunnel_module {modules}/mod_proxy_wstunnel.so
ProxyPreserveHost On
ProxyTimeout 2
RequestHeader set X-Forwarded-Proto https
{passed}
"""
MODULES = "/usr/lib/apache2/modules"


def with_apache(bed, hub, passed):
    folder, port = bed.folder(), free_port()
    (folder / "apache.conf").write_text(APACHE.format(folder=folder, port=port, modules=MODULES, passed=passed))
    command = ["apache2", "-D", "FOREGROUND", "-f", folder / "apache.conf"]
    return bed.start(Upstream("apache in front", command, port=port))


@plain_only("the front would speak TLS with modules of its own, and the hub would see the same")
def apache_in_front(bed):
    """What the manual says: upgrade=ANY, so that agents come through, too."""
    hub = bed.hub(*BEAT, *TRUST)
    flags = "upgrade=ANY flushpackets=on"
    front = with_apache(bed, hub, f"ProxyPass /gpu/ {hub.url}/ {flags}\nProxyPass / {hub.url}/ {flags}")
    everything(bed, hub, front, "/gpu")


@plain_only("as above")
def apache_passes_websockets_only(bed):
    """The line that most guides have. An agent says what is missing, and comes through by WebSocket."""
    hub = bed.hub(*BEAT, *TRUST)
    flags = "upgrade=websocket flushpackets=on"
    front = with_apache(bed, hub, f"ProxyPass /gpu/ {hub.url}/ {flags}\nProxyPass / {hub.url}/ {flags}")
    by_websocket(bed, hub, front)
    everything(bed, hub, front, "/gpu")


@plain_only("as above")
def node_http_proxy_in_front(bed):
    """It passes WebSockets, and ends the connection of every other upgrade."""
    hub = bed.hub(*BEAT, *TRUST)
    command = ["node", HERE / "upstreams" / "front.js", hub.url]
    front = bed.start(Upstream("http-proxy in front", command, r"listening on (\d+)"))
    by_websocket(bed, hub, front)


def by_websocket(bed, hub, front):
    """The agent finds out by itself, and both of its workers come through."""
    agent = bed.agent(hub, bed.asgi(), at=front.url, workers=2, name=f"agent behind {front.name}")
    check(agent.says("cannot join the hub.*retrying by WebSocket"), agent.lines)
    check(agent.says("passes WebSockets only: tunnels go in frames"), agent.lines)
    serves_applications(front)
    # Signs of life go in frames, too; and a front's time limit is longer than they are apart.
    lost = [line for line in agent.lines if "lost" in line]
    time.sleep(3)
    equal([line for line in agent.lines if "lost" in line], lost, "what the agent said while nothing happened")
    serves_applications(front)
    agent.kill()


def serves_applications(front):
    equal(requests.get(f"{front.url}/work?name=x", timeout=10).text, "x")
    sent = dict(requests.get(f"{front.url}/x", timeout=10).json()["headers"])
    equal(sent["x-forwarded-for"], "127.0.0.1, 127.0.0.1")
    body = pattern(1_000_000)
    equal(requests.post(f"{front.url}/digest", data=body, timeout=20).json()["length"], len(body))
    equal(len(requests.get(f"{front.url}/data?n=5000000&chunked", timeout=30).content), 5_000_000)
    ws = front.url.replace("http", "ws")
    with websockets.sync.client.connect(f"{ws}/socket?of=front", proxy=None, max_size=None) as socket:
        for message in ["hello", pattern(100_000)]:
            socket.send(message)
            equal(socket.recv(PATIENCE), message)
