"""Node: its http client with a keep-alive Agent, its fetch, and its server."""

import json
import re

from harness import HERE, check, equal, get_json, run, test

CLIENT = HERE / "node_client.js"


def scenario(name):
    """A test that runs one scenario of the client against Node's own server."""

    def body(bed):
        hub = bed.stack(bed.node())
        run(["node", CLIENT, hub.url, name])

    body.__module__, body.__name__ = __name__, f"client_{name}"
    return test(body)


for name in re.findall(r"(?m)^  async (\w+)\(\)", CLIENT.read_text()):
    scenario(name)


@test
def upstream_connections_are_kept(bed):
    upstream = bed.node()
    hub = bed.stack(upstream)
    before = get_json(upstream.authority, "/connections")
    for number in range(100):
        equal(run(["curl", "-sS", f"{hub.url}/{number}"]).stdout.decode(), f"GET /{number}\n")
    # The one that asks now, and two for what the agent keeps: one may have gone to its probe of health.
    check(get_json(upstream.authority, "/connections") - before <= 3, "connections made to the upstream")


@test
def upload_cut_short(bed):
    """A client that leaves in the middle of its upload: the upstream never takes the body for complete."""
    upstream = bed.node()
    hub = bed.stack(upstream)
    for head in [b"Content-Length: 4000000", b"Transfer-Encoding: chunked"]:
        of = f"cut_{len(head)}"
        with hub.connect() as connection:
            connection.sendall(b"POST /digest?of=%s HTTP/1.1\r\nHost: h\r\n%s\r\n\r\n" % (of.encode(), head))
            # More than the hub holds of a body whose length is known, before it takes a worker.
            connection.sendall(b"3E8\r\n" + b"x" * 1000 + b"\r\n" + b"124F80\r\n" + b"y" * 1_200_000 + b"\r\n")
            upstream.saw(of, "begun")
        upstream.saw(of, "cut", 5)
        equal(json.loads(run(["curl", "-sS", "--max-time", "5", "-d", "abc", f"{hub.url}/digest"]).stdout)["length"], 3)
        check("complete" not in upstream.events(of), "the body never looked complete")
