"""The libraries that applications of language models use: each logs in as it does by itself, and prints the reason that the hub gave."""

import json
import os
import socketserver
import threading

# It asks the network for a list of prices unless it is told not to.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import anthropic
import ollama
import openai
import requests

from harness import HERE, Failed, check, equal, plain_only, run, test, uvicorn

KEY = "the-key-of-the-application"
WRONG = "another-key"
ASKED = [{"role": "user", "content": "hello"}]


def with_openai(url, key):
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=20) as client:
        return client.chat.completions.create(model="small", messages=ASKED).choices[0].message.content


def with_azure(url, key):
    """It sends the key as `api-key`."""
    options = {"base_url": f"{url}/v1", "api_version": "2024-10-21", "max_retries": 0, "timeout": 20}
    with openai.AzureOpenAI(api_key=key, **options) as client:
        return client.chat.completions.create(model="small", messages=ASKED).choices[0].message.content


def with_anthropic(url, key):
    """It sends a bearer token; its older versions sent `x-api-key`, and so do many other clients of that interface."""
    fields = {"x-api-key": key, "Authorization": anthropic.Omit()}
    options = {"base_url": url, "api_key": key, "max_retries": 0, "timeout": 20}
    with anthropic.Anthropic(**options) as client:
        client.messages.create(model="small", max_tokens=10, messages=ASKED)
    with anthropic.Anthropic(**options, default_headers=fields) as client:
        return client.messages.create(model="small", max_tokens=10, messages=ASKED).content[0].text


def with_ollama(url, key):
    client = ollama.Client(host=url, headers={"Authorization": f"Bearer {key}"}, timeout=20)
    return client.chat(model="small", messages=ASKED).message.content


def with_litellm(url, key):
    import litellm

    litellm.suppress_debug_info = True
    options = {"api_base": f"{url}/v1", "api_key": key, "max_retries": 0, "num_retries": 0, "timeout": 20}
    return litellm.completion(model="openai/small", messages=ASKED, **options).choices[0].message.content


def in_node(name):
    def ask(url, key):
        done = run(["node", HERE / "sdks_client.js", name, url, key], code=None)
        if done.returncode != 0:
            raise RuntimeError(done.stderr.decode())
        return done.stdout.decode()

    return ask


# How each asks, and the path that it asks for.
SDKS = {
    "openai": (with_openai, "/v1/chat/completions"),
    "azure": (with_azure, "/v1/deployments/small/chat/completions"),
    "anthropic": (with_anthropic, "/v1/messages"),
    "ollama": (with_ollama, "/api/chat"),
    "litellm": (with_litellm, "/v1/chat/completions"),
    "node_openai": (in_node("openai"), "/v1/chat/completions"),
    "node_ollama": (in_node("ollama"), "/api/chat"),
}


def models(bed):
    return bed.shared("models", lambda: uvicorn(app="models:app", name="models"))


class Hasty(socketserver.BaseRequestHandler):
    """Takes a request and ends the connection without an answer."""

    def handle(self):
        self.request.recv(65536)


def hasty(bed):
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Hasty)
    server.daemon_threads = True
    bed.cleanup.callback(server.server_close)
    bed.cleanup.callback(server.shutdown)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"127.0.0.1:{server.server_address[1]}"


def detail(url, path, key, status):
    """What the hub says to whoever reads its problem."""
    got = requests.post(f"{url}{path}", json={"model": "small"}, headers={"Slime-App-Password": key}, timeout=20)
    equal(got.status_code, status)
    return got.json()["detail"]


def scenario(name):
    ask, path = SDKS[name]

    def logs_in(bed):
        hub = bed.stack(models(bed), "--app-password", KEY)
        equal(json.loads(ask(hub.url, KEY)), {}, "the credentials that the upstream saw")

    def prints_reasons(bed):
        hub = bed.hub("--app-password", KEY, "--startup-grace", "0")
        broken = bed.stack(hasty(bed), "--app-password", KEY)
        for where, key, status in [(hub, WRONG, 401), (hub, KEY, 503), (broken, KEY, 502)]:
            reason = detail(where.url, path, key, status)
            try:
                ask(where.url, key)
            except Failed:
                raise
            except Exception as error:
                check(reason in str(error), f"{status}: {error!s} does not say {reason!r}")
            else:
                raise Failed(f"{status}: no error")

    for body in [logs_in, prints_reasons]:
        body.__module__, body.__name__ = __name__, f"{name}_{body.__name__}"
        plain_only("what it reads is the same")(body)


for name in SDKS:
    scenario(name)


@test
def another_key_beside_ours(bed):
    """The upstream has a key of its own: it gets through where the hub's stands elsewhere."""
    hub = bed.stack(models(bed), "--app-password", KEY)
    options = {"base_url": f"{hub.url}/v1", "api_key": "sk-upstream", "max_retries": 0, "timeout": 20}
    for field in ["x-api-key", "api-key", "x-goog-api-key", "Slime-App-Password"]:
        with openai.OpenAI(**options, default_headers={field: KEY}) as client:
            got = client.chat.completions.create(model="small", messages=ASKED).choices[0].message.content
            equal(json.loads(got), {"authorization": "Bearer sk-upstream"}, field)
