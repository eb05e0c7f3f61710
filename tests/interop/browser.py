"""Chromium as the application: pages behind the password, scripts of other origins, WebSockets."""

import http.server
import json
import shutil
import threading

import requests

from harness import HERE, check, equal, plain_only, run

KEY = "the-key-of-the-application"
BEARER = {"Authorization": f"Bearer {KEY}"}
ONCE = "a browser with TLS would have to be told of our CA"


class Blank(http.server.BaseHTTPRequestHandler):
    """An empty page of another origin."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"page")

    def log_message(self, *_):
        pass


def elsewhere(bed):
    """The address of a page of another site: the hub is at an address, this one at a name."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Blank)
    bed.cleanup.callback(server.server_close)
    bed.cleanup.callback(server.shutdown)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://localhost:{server.server_address[1]}"


def browse(*todo, password=None):
    """What came of each step."""
    chromium = shutil.which("chromium")
    done = run(["node", HERE / "browser_client.js", chromium, json.dumps({"password": password, "todo": todo})])
    return json.loads(done.stdout)


@plain_only(ONCE)
def page_behind_the_password(bed):
    hub = bed.stack(bed.asgi(), "--app-password", KEY)
    (page,) = browse({"step": "open", "url": f"{hub.url}/page"}, password=KEY)
    equal(page.get("status"), 200, page)
    check("a page of the upstream" in page["text"], page)
    # Who knows no password sees why.
    (page,) = browse({"step": "open", "url": f"{hub.url}/page"}, password="wrong")
    check("error" in page or page["status"] == 401 and "app password" in page["text"], page)


@plain_only(ONCE)
def errors_are_pages(bed):
    """A person sees a page, a script the problem."""
    hub = bed.hub("--startup-grace", "0")
    (page,) = browse({"step": "open", "url": hub.url})
    equal(page.get("status"), 503, page)
    check(page["type"].startswith("text/html"), page)
    check("no agent" in page["text"], page)
    got = requests.get(hub.url, timeout=20)
    equal(got.status_code, 503)
    equal(got.headers["content-type"], "application/problem+json")
    check(got.json()["detail"] in page["text"], got.text, page)


@plain_only(ONCE)
def scripts_of_other_origins(bed):
    upstream = bed.asgi()
    foreign = elsewhere(bed)
    asked = {"method": "POST", "headers": {**BEARER, "Content-Type": "application/json"}, "body": "{}"}
    for flags, is_allowed in [([], False), (["--cors", foreign], True), (["--cors", "*"], True), (["--cors", "http://other.example"], False)]:
        hub = bed.stack(upstream, "--app-password", KEY, *flags)
        wrong = {**asked, "headers": {**asked["headers"], "Authorization": "Bearer wrong"}}
        _, served, refused = browse(
            {"step": "open", "url": foreign},
            {"step": "fetch", "url": f"{hub.url}/mirror/script", "options": asked},
            {"step": "fetch", "url": f"{hub.url}/mirror/script", "options": wrong},
        )
        if is_allowed:
            equal((served.get("status"), refused.get("status")), (200, 401), (flags, served, refused))
            for name in ("slime-agent-id", "x-request-id", "server-timing"):
                check(served["fields"].get(name), f"the script may read {name}", served)
            check("password" in json.loads(refused["text"])["detail"], refused)
        else:
            check("error" in served and "error" in refused, flags, served, refused)


@plain_only(ONCE)
def sockets_of_other_origins(bed):
    """The browser sends the password that somebody typed with whatever another site asks for: that is refused."""
    upstream = bed.asgi()
    foreign = elsewhere(bed)
    hub = bed.stack(upstream, "--app-password", KEY, workers=3)
    socket = {"step": "socket", "url": f"{hub.ws}/socket"}
    page = {"step": "open", "url": f"{hub.url}/page"}
    opened, own, _, other = browse(page, socket, {"step": "open", "url": foreign}, socket, password=KEY)
    equal(opened.get("status"), 200, opened)
    check("message" in own, "its own page may", own)
    equal(other, {"error": "refused"})
