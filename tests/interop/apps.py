"""Gradio and an MCP server as upstreams, each with its own client: a stream stays open, and requests are sent beside it."""

import asyncio
import concurrent.futures

import requests

from harness import HERE, PYTHON, Upstream, check, equal, free_port, plain_only, test

# Nothing is asked for outside of this machine.
OFFLINE = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "NO_PROXY": "*"}


def app(bed, name):
    command = [PYTHON, HERE / "upstreams" / "apps.py", name, free_port()]
    # Loading what it is made of takes a busy machine a while.
    return bed.start(Upstream(name, command, r"(?:listening on |running on http://127.0.0.1:)(\d+)", limit=60, env=OFFLINE))


# A stream holds one of three workers, or lends the only one there is.
WORKERS = [{"workers": 3}, {"workers": 1, "agent": ["--extra-streams", "4"]}]


@plain_only("its client takes no authority of its own")
def gradio_client(bed):
    import gradio_client

    upstream = app(bed, "gradio")
    for workers in WORKERS:
        hub = bed.stack(upstream, **workers)
        page = requests.get(hub.url, timeout=30)
        check(page.status_code == 200 and "gradio" in page.text, page.status_code)
        client = gradio_client.Client(hub.url, verbose=False, analytics_enabled=False)
        for name in ["you", "them"]:
            equal(client.predict(name, api_name="/greet"), f"hello hello hello {name}")
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            done = list(pool.map(lambda name: client.predict(name, api_name="/greet"), "abc"))
        equal(done, [f"hello hello hello {name}" for name in "abc"])
        client.close()


@plain_only("its server has no TLS of its own")
def mcp_client(bed):
    import mcp

    upstream = app(bed, "mcp")
    for workers in WORKERS:
        hub = bed.stack(upstream, **workers)

        async def talk():
            async with mcp.Client(f"{hub.url}/mcp") as client:
                equal([tool.name for tool in (await client.list_tools()).tools], ["add"])
                for number in range(10):
                    result = await client.call_tool("add", {"one": number, "other": 2})
                    equal(result.content[0].text, str(number + 2))

        asyncio.run(asyncio.wait_for(talk(), 60))
