"""The manual's configurations of nginx and HAProxy, as they are printed there.

Only addresses and files are this machine's.
"""

import json
from pathlib import Path

import nginx
from harness import Upstream, check, equal, free_port, pattern, sha256, test
from tls import Authority, curl

PAGES = Path(__file__).resolve().parents[2] / "src/manual"


def block(title, page="tls.md"):
    """What stands in the fence below a line."""
    _, found, rest = (PAGES / page).read_text().partition(f"\n{title}\n\n```text\n")
    check(found, f"{page} has no fence below", title)
    return rest.partition("\n```\n")[0] + "\n"


def moved(text, *pairs):
    for there, here in pairs:
        check(there in text, "nothing says", there, "in", text)
        text = text.replace(there, str(here))
    return text


def through(bed, authority, hub, front):
    bed.agent(hub, bed.asgi(), "--hub-ca", authority.file, at=f"https://{front.authority}")
    url = f"https://{front.authority}"
    sent = dict(json.loads(curl(authority, f"{url}/x", "-H", "X-Forwarded-For: 192.0.2.7").stdout)["headers"])
    equal((sent["x-forwarded-proto"], sent["x-forwarded-host"]), ("https", front.authority))
    equal(sent["x-forwarded-for"], "192.0.2.7, 127.0.0.1, 127.0.0.1")
    body = pattern(20_000_000)
    for flags in [["-T", "-"], ["--data-binary", "@-"]]:
        equal(json.loads(curl(authority, *flags, f"{url}/digest", input=body).stdout)["sha256"], sha256(body))


@test
def nginx_of_the_manual(bed):
    authority, hub = Authority(bed.folder()), bed.hub("--trusted-proxy", "127.0.0.1")
    certificate, key = authority.sign()
    text = moved(
        block("nginx, in the `http` block:"),
        ("listen 443 ssl", "listen 127.0.0.1:PORT ssl"),
        ("hub.pem", certificate),
        ("hub.key", key),
        ("127.0.0.1:8080", hub.authority),
    )
    through(bed, authority, hub, nginx.start(bed, text, name="nginx in front"))


@test
def haproxy_of_the_manual(bed):
    authority, hub = Authority(bed.folder()), bed.hub("--trusted-proxy", "127.0.0.1")
    folder, port = bed.folder(), free_port()
    (folder / "hub.pem").write_text("".join(file.read_text() for file in authority.sign()))
    text = moved(
        block("HAProxy, below its `defaults`:"),
        ("bind :443", f"bind 127.0.0.1:{port}"),
        ("/etc/haproxy/hub.pem", folder / "hub.pem"),
        ("127.0.0.1:8080", hub.authority),
    )
    # As Debian has them.
    defaults = "defaults\n    timeout connect 5000\n    timeout client 50000\n    timeout server 50000\n"
    (folder / "haproxy.cfg").write_text(defaults + text)
    command = ["haproxy", "-db", "-f", folder / "haproxy.cfg"]
    through(bed, authority, hub, bed.start(Upstream("haproxy", command, port=port)))
