"""Who watches: Prometheus, and the health checks of HAProxy and nginx, as the manual prints them."""

import contextlib
import signal
import threading
import time
import urllib.parse

import requests

import nginx
from harness import Upstream, check, equal, eventually, free_port, run, test
from manual import block, moved

PAGE = "operating.md"
# The defaults are Debian's, but for the log.
HAPROXY = """
global
    log stderr local0 info
defaults
    log global
    mode http
    timeout connect 5000
    timeout client 50000
    timeout server 50000
"""
ADMIN = ["--admin", "127.0.0.1:0"]
PASSWORD = "of-who-looks"


def admin(process):
    """Where it says that it can be asked."""
    return process.line(r"status page at http://(.*)/$")[1]


def asked(authority, path, password=None):
    fields = {"Authorization": f"Bearer {password}"} if password else {}
    return requests.get(f"http://{authority}{path}", headers=fields, timeout=10)


def pair(bed):
    """A hub and an agent that can be asked with a password, and a request that went through both."""
    hub = bed.hub(*ADMIN, "--admin-view-password", PASSWORD)
    agent = bed.agent(hub, bed.asgi(), *ADMIN, "--admin-view-password", PASSWORD, token=["--name", "gpu-1"])
    equal(requests.get(f"{hub.url}/work?name=x", timeout=10).text, "x")
    return hub, agent


@test
def promtool_has_nothing_to_say(bed):
    for process in pair(bed):
        text = asked(admin(process), "/metrics", PASSWORD).content
        check(b"slime_build_info" in text, text)
        done = run(["promtool", "check", "metrics"], input=text)
        equal((done.stdout, done.stderr), (b"", b""), f"what promtool says of the {process.name}'s metrics")


@test
def prometheus_of_the_manual(bed):
    """It scrapes both, and a rule fires: that of a request that waits for long, here for two seconds."""
    hub, agent = pair(bed)
    folder, port = bed.folder(), free_port()
    (folder / "password").write_text(PASSWORD)
    rules = moved(
        block("Its rules, in `slime.rules.yml`:", PAGE),
        ("oldest_wait_seconds > 60", "oldest_wait_seconds > 2"),
        ("for: 1m", "for: 1s"),
        ("for: 5m", "for: 1s"),
    )
    (folder / "rules.yml").write_text(rules)
    title = "Prometheus asks with the password of those who may only look, here in `prometheus.yml`:"
    config = moved(
        block(title, PAGE),
        ("/etc/prometheus/slime.rules.yml", folder / "rules.yml"),
        ("/etc/prometheus/slime-view-password", folder / "password"),
        ("10.0.0.1:8081", admin(hub)),
        ("10.0.0.17:8082", admin(agent)),
    )
    often = "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
    (folder / "prometheus.yml").write_text(often + config)
    run(["promtool", "check", "config", folder / "prometheus.yml"])
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    prometheus = bed.start(Upstream("prometheus", command, port=port))

    def api(path):
        return requests.get(f"http://{prometheus.authority}/api/v1/{path}", timeout=10).json()["data"]

    def healths():
        found = api("targets")["activeTargets"]
        return sorted((target["labels"]["instance"], target["health"], target["lastError"]) for target in found)

    up = sorted((admin(process), "up", "") for process in [hub, agent])
    eventually("both are scraped", lambda: prometheus_answers(healths) == up)
    for query, value in [
        ("sum(slime_hub_workers)", "1"),
        ("sum(slime_agent_upstream_up)", "1"),
        ('count by (role) (slime_build_info{role="agent"})', "1"),
    ]:
        found = api("query?query=" + urllib.parse.quote(query))["result"]
        equal([sample["value"][1] for sample in found], [value], query)

    def firing():
        found = api("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in found if alert["state"] == "firing"}

    time.sleep(3)
    equal(firing(), set(), "alerts while all is well")
    # The worker has a job, and the next request waits for it.
    for _ in range(2):
        begin(f"{hub.url}/work?ms=8000")
    eventually("the one of a long wait fires", lambda: firing() == {"SlimeWaitsLong"})
    agent.kill()
    eventually("those of an agent that is gone fire", lambda: {"SlimeGone", "SlimeWithoutAgents"} <= firing())


def prometheus_answers(question):
    try:
        return question()
    except (requests.ConnectionError, ValueError, KeyError):
        return None


def two_hubs(bed):
    """Two of them, each with an agent, which serve on for a while after they are told to end."""
    flags = [*ADMIN, "--drain-delay", "60s"]
    hubs = [bed.hub(*flags, name=f"hub{number}") for number in (1, 2)]
    for hub in hubs:
        bed.agent(hub, bed.asgi())
    return hubs


def begin(url):
    """A request whose end is of no interest."""

    def ask():
        with contextlib.suppress(requests.RequestException):
            requests.get(url, timeout=30)

    threading.Thread(target=ask, daemon=True).start()


def served(url, count=20):
    equal([requests.get(f"{url}/work?name=x", timeout=10).text for _ in range(count)], ["x"] * count)


@test
def haproxy_asks_whether_hubs_are_ready(bed):
    hubs = two_hubs(bed)
    folder, port = bed.folder(), free_port()
    text = moved(
        block("`--drain-delay 10s`; below its `defaults`:", PAGE),
        ("bind :80", f"bind 127.0.0.1:{port}"),
        (" port 8081 inter 2s", " inter 200ms"),
        ("10.0.0.1:8080", f"{hubs[0].authority} port {admin(hubs[0]).split(':')[1]}"),
        ("10.0.0.2:8080", f"{hubs[1].authority} port {admin(hubs[1]).split(':')[1]}"),
    )
    (folder / "haproxy.cfg").write_text(HAPROXY + text)
    haproxy = bed.start(Upstream("haproxy", ["haproxy", "-db", "-f", folder / "haproxy.cfg"], port=port))
    served(haproxy.url)
    served_here = lambda after=0: [line for line in hubs[0].lines[after:] if "/work" in line]
    check(served_here(), "both serve at first")
    hubs[0].signal(signal.SIGTERM)
    haproxy.line("Server hubs/hub1 is DOWN")
    check(not haproxy.says("hub2 is DOWN"), "the other one is ready")
    # Nothing is lost meanwhile, and then nothing comes any more.
    before = len(hubs[0].lines)
    served(haproxy.url)
    equal(served_here(after=before), [], "requests at the hub that is ending")
    equal(hubs[0].child.poll(), None, "the exit code of a hub that waits for balancers")
    # A second signal: the delay is over.
    hubs[0].signal(signal.SIGTERM)
    equal(hubs[0].wait(), 0, "exit code")
    served(haproxy.url)


@test
def nginx_goes_on_to_the_next_hub(bed):
    hubs = two_hubs(bed)
    text = moved(
        block("asks: `health_check uri=/readyz port=8081`.) In its `http` block:", PAGE),
        ("listen 80", "listen 127.0.0.1:PORT"),
        ("10.0.0.1:8080", hubs[0].authority),
        ("10.0.0.2:8080", hubs[1].authority),
    )
    front = nginx.start(bed, text, name="nginx in front")
    served(front.url)
    # A request that is under way keeps it ending: it refuses the others by 503.
    begin(f"{hubs[0].url}/work?ms=5000&of=slow")
    bed.asgi().saw("slow", "")
    for _ in range(2):
        hubs[0].signal(signal.SIGTERM)
        time.sleep(0.2)
    served(front.url)
    hubs[0].kill()
    served(front.url)
    posted = [requests.post(f"{front.url}/digest", data=b"x", timeout=10).status_code for _ in range(20)]
    equal(posted, [200] * 20, "posts while a hub is gone")
