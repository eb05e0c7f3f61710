"""The openai client, and a service that streams chat completions as OpenAI's does."""

import asyncio
import threading
import time

import openai

from harness import SOON, Failed, check, equal, eventually, get_json, test, uvicorn

KEY = "the password of the applications"


def client(hub, kind=openai.OpenAI, **options):
    return kind(base_url=f"{hub.url}/v1", **{"api_key": KEY, "timeout": 20, "max_retries": 0, **options})


def ask(of, words):
    return {"model": "small", "messages": [{"role": "user", "content": f"{words} {of}"}]}


def said(words):
    return "".join(f"word{number} " for number in range(words))


def stack(bed, *flags, **options):
    return bed.stack(bed.asgi(), "--app-password", KEY, *flags, **options)


@test
def completions(bed):
    upstream = bed.asgi()
    hub = stack(bed)
    with client(hub) as ai:
        equal([model.id for model in ai.models.list()], ["small"])
        for _ in range(10):
            got = ai.chat.completions.create(**ask("whole", 5))
            equal(got.choices[0].message.content, said(5).strip())
            text = "".join(
                chunk.choices[0].delta.content or ""
                for chunk in ai.chat.completions.create(**ask("stream", 30), stream=True)
            )
            equal(text, said(30))
    check("authorization: None" in upstream.events("whole"), "the password of the hub is not the upstream's to see")


@test
def both_passwords(bed):
    """The key is the upstream's; the hub has its own field."""
    upstream = bed.asgi()
    hub = stack(bed)
    with client(hub, api_key="sk-upstream", default_headers={"Slime-App-Password": KEY}) as ai:
        ai.chat.completions.create(**ask("both", 2))
    check("authorization: Bearer sk-upstream" in upstream.events("both"))


@test
def cancelling(bed):
    """Closed in mid-stream: the service stops, and the one worker serves the next request at once, a hundred times."""
    upstream = bed.asgi()
    hub = stack(bed)
    with client(hub) as ai:
        longest = 0
        for number in range(100):
            stream = ai.chat.completions.create(**ask(f"cancel_{number}", 100000), stream=True)
            equal(next(iter(stream)).choices[0].delta.content, "word0 ")
            stream.close()
            begin = time.monotonic()
            equal(ai.chat.completions.create(**ask("after", 3)).choices[0].message.content, said(3).strip())
            longest = max(longest, time.monotonic() - begin)
            eventually("the cancelled one ended", lambda: upstream.events(f"cancel_{number}")[1:] == ["begun", "cut"])
        check(longest < SOON, "the next one took", longest)
    equal(get_json(upstream.authority, "/most/after"), 1)


@test
def giving_up(bed):
    """The client's own time limit: the service stops; with its retries it is served when the worker is free."""
    upstream = bed.asgi()
    hub = stack(bed)
    stream = client(hub).chat.completions.create(**ask("busy", 100000), stream=True)
    next(iter(stream))
    try:
        client(hub, timeout=0.3).chat.completions.create(**ask("late", 3))
        raise Failed("no timeout")
    except openai.APITimeoutError:
        pass
    stream.close()
    equal(client(hub).chat.completions.create(**ask("free", 3)).choices[0].message.content, said(3).strip())
    equal(upstream.events("late"), [], "what left the queue is never sent")


@test
def many_at_once(bed):
    """Forty streams at once over three agents: each gets its own words, and no service more than one request."""
    upstream = bed.asgi()
    hub = bed.hub("--app-password", KEY)
    for number in range(3):
        bed.agent(hub, upstream, "--agent-id", f"gpu-{number}", name=f"agent {number}")

    async def scenario():
        async with client(hub, openai.AsyncOpenAI, timeout=60) as ai:

            async def one(number, of):
                stream = await ai.chat.completions.create(**ask(of, 5 + number), stream=True)
                equal("".join([chunk.choices[0].delta.content or "" async for chunk in stream]), said(5 + number))

            await asyncio.gather(*(one(number, "forty") for number in range(40)))
            # Some of many leave; the others do not notice. The service hears of that when it comes to it, so nothing is counted here.
            tasks = [asyncio.create_task(one(number, "thirty")) for number in range(30)]
            await asyncio.sleep(0.3)
            for task in tasks[::3]:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            for number, result in enumerate(done):
                check(
                    result is None or (number % 3 == 0 and isinstance(result, asyncio.CancelledError)),
                    number,
                    repr(result),
                )

    asyncio.run(scenario())
    equal(get_json(upstream.authority, "/most/forty"), 3, "requests at once in the service")


@test
def errors(bed):
    """What a user of the client sees of the hub's own answers."""
    hub = bed.hub("--app-password", KEY, "--startup-grace", "0")
    try:
        client(hub, api_key="wrong").models.list()
        raise Failed("served")
    except openai.AuthenticationError as error:
        # What the client prints is the problem's detail; the member `error` of the body is what it calls the body.
        check("app password" in str(error), error)
        equal(error.code, "unauthorized")
    try:
        client(hub).models.list()
        raise Failed("served")
    except openai.InternalServerError as error:
        equal(error.status_code, 503)
        check("no agent" in str(error), error)
        equal(error.code, "no_agent")
    # The client's own retries obey Retry-After, and find the agent that comes meanwhile.
    got = []
    thread = threading.Thread(target=lambda: got.append(client(hub, max_retries=8).models.list().data[0].id))
    thread.start()
    bed.agent(hub, bed.asgi())
    thread.join(30)
    equal(got, ["small"])


@test
def service_dies(bed):
    """The service is killed in mid-stream: the client sees an error, not an end."""
    upstream = bed.start(uvicorn(name="uvicorn of its own"))
    hub = bed.hub("--app-password", KEY, "--startup-grace", "0")
    bed.agent(hub, upstream)
    stream = iter(client(hub).chat.completions.create(**ask("dies", 100000), stream=True))
    next(stream)
    upstream.kill()
    try:
        for _ in stream:
            pass
        raise Failed("a cut stream passed for whole")
    except openai.APIConnectionError:
        pass
    try:
        client(hub).models.list()
        raise Failed("served")
    except openai.InternalServerError as error:
        check(error.status_code in (502, 503), error)
    # It comes back, and a client that waited for it is served.
    bed.start(uvicorn(port=upstream.port, name="uvicorn again"))
    equal(client(hub, max_retries=8, timeout=10).models.list().data[0].id, "small")
