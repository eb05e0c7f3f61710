"""A service as people write them with Starlette, which notes what happens to it."""

import asyncio
import hashlib
import json
from collections import defaultdict

from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

EVENTS = defaultdict(list)
# Requests in progress at endpoints that do work, and the most there ever were, by name.
RUNNING = defaultdict(int)
MOST = defaultdict(int)

ANY = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


async def events(request):
    return JSONResponse(EVENTS[request.path_params["of"]])


async def most(request):
    return JSONResponse(MOST[request.path_params["of"]])


class Work:
    """Counts what runs at once under a name, and notes how it ends."""

    def __init__(self, of):
        self.of = of

    async def __aenter__(self):
        EVENTS[self.of].append("begun")
        RUNNING[self.of] += 1
        MOST[self.of] = max(MOST[self.of], RUNNING[self.of])

    async def __aexit__(self, kind, *_):
        RUNNING[self.of] -= 1
        EVENTS[self.of].append("cut" if kind else "complete")


async def echo(request):
    body = await request.body()
    return JSONResponse(
        {
            "method": request.method,
            "path": request.scope["raw_path"].decode(),
            "query": request.scope["query_string"].decode(),
            "version": request.scope["http_version"],
            "headers": [[name.decode(), value.decode("latin-1")] for name, value in request.scope["headers"]],
            "body": body[:10000].decode("latin-1"),
            "length": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        },
        headers={"X-Echo": "yes", "Slime-Forged": "by the upstream"},
    )


async def digest(request):
    """Reads the body as it comes, and says what it was."""
    of = request.query_params.get("of", "digest")
    sum, length = hashlib.sha256(), 0
    try:
        async for chunk in request.stream():
            sum.update(chunk)
            length += len(chunk)
    except Exception:
        EVENTS[of].append("cut")
        raise
    EVENTS[of].append("complete")
    return JSONResponse({"sha256": sum.hexdigest(), "length": length})


async def page(request):
    return HTMLResponse("<!DOCTYPE html><title>page</title><p>a page of the upstream</p>")


async def mirror(scope, receive, send):
    """Sends the body back while it comes. By hand, because Starlette's streaming responses read the body themselves."""
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/octet-stream")]}
    )
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message.get("more_body", False)
        await send({"type": "http.response.body", "body": message.get("body", b""), "more_body": more})


async def data(request):
    """So many bytes, with a length or chunked."""
    n = int(request.query_params["n"])
    block = bytes(range(256)) * 256

    async def blocks():
        for at in range(0, n, len(block)):
            yield block[: n - at]

    headers = {} if "chunked" in request.query_params else {"Content-Length": str(n)}
    return StreamingResponse(blocks(), headers=headers, media_type="application/octet-stream")


async def count(request):
    """Lines with numbers, `gap` milliseconds apart; for ever, unless `n` says how many."""
    of = request.query_params.get("of", "count")
    n = int(request.query_params.get("n", 10**9))
    gap = float(request.query_params.get("gap", 10)) / 1000

    async def lines():
        async with Work(of):
            for number in range(n):
                yield f"{number}\n"
                await asyncio.sleep(gap)

    return StreamingResponse(lines(), media_type="text/plain")


STEPS = defaultdict(asyncio.Semaphore)


async def step(request):
    """Lets a stream of `stepwise` send its next line."""
    STEPS[request.path_params["of"]].release()
    return Response()


async def stepwise(request):
    """Ten lines, each after a step. A semaphore begins with one."""
    of = request.query_params["of"]

    async def lines():
        for number in range(10):
            await STEPS[of].acquire()
            yield f"{number}\n"

    return StreamingResponse(lines(), media_type="text/plain")


async def sse(request):
    n = int(request.query_params.get("n", 10))

    async def messages():
        for number in range(n):
            yield f"id: {number}\nevent: tick\ndata: {json.dumps({'number': number})}\n\n"
            await asyncio.sleep(0.01)

    return StreamingResponse(messages(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


async def work(request):
    """A job that takes its time, one line in the end."""
    of = request.query_params.get("of", "work")
    async with Work(of):
        EVENTS[of].append(request.query_params.get("name", ""))
        await asyncio.sleep(float(request.query_params.get("ms", 50)) / 1000)
    return PlainTextResponse(request.query_params.get("name", "done"))


async def never(request):
    """A job without end; it notes when the client leaves."""
    of = request.query_params.get("of", "never")
    EVENTS[of].append("begun")
    while (await request.receive())["type"] != "http.disconnect":
        pass
    EVENTS[of].append("left")
    return Response()


async def redirect(request):
    return RedirectResponse(request.query_params["to"], int(request.query_params.get("status", 302)))


async def status(request):
    return Response(status_code=request.path_params["code"])


async def cookies(request):
    response = PlainTextResponse(json.dumps(request.cookies))
    response.set_cookie("one", "1")
    response.set_cookie("two", "2; no", path="/")
    return response


async def socket_echo(socket):
    of = socket.query_params.get("of", "socket")
    offered = socket.scope["subprotocols"]
    await socket.accept(subprotocol=offered[-1] if offered else None)
    EVENTS[of].append("begun")
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                EVENTS[of].append(f"closed {message.get('code')}")
                return
            if message.get("text", "") == "close me":
                await socket.close(4001, "as you wish")
                EVENTS[of].append("closed by us")
                return
            if message.get("text") is not None:
                await socket.send_text(message["text"])
            else:
                await socket.send_bytes(message["bytes"])
    except WebSocketDisconnect as gone:
        EVENTS[of].append(f"closed {gone.code}")


async def socket_refuse(socket):
    await socket.close(1008)


async def models(request):
    return JSONResponse(
        {"object": "list", "data": [{"id": "small", "object": "model", "created": 1, "owned_by": "us"}]}
    )


async def completions(request):
    """Chat completions in the shape of OpenAI's. The last message: how many words are wanted, and a name for it."""
    asked = await request.json()
    words, of = asked["messages"][-1]["content"].split()
    EVENTS[of].append(f"authorization: {request.headers.get('authorization')}")
    common = {"id": "chatcmpl-1", "created": 1, "model": asked["model"]}
    if not asked.get("stream"):
        async with Work(of):
            await asyncio.sleep(0.02)
        message = {"role": "assistant", "content": " ".join(f"word{n}" for n in range(int(words)))}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": int(words), "total_tokens": 1 + int(words)}
        return JSONResponse({**common, "object": "chat.completion", "choices": [choice], "usage": usage})

    async def chunks():
        async with Work(of):
            for n in range(int(words)):
                choice = {"index": 0, "delta": {"content": f"word{n} "}, "finish_reason": None}
                chunk = {**common, "object": "chat.completion.chunk", "choices": [choice]}
                yield f"data: {json.dumps(chunk)}\n\n"
                await asyncio.sleep(0.01)
            choice = {"index": 0, "delta": {}, "finish_reason": "stop"}
            yield f"data: {json.dumps({**common, 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"
            yield "data: [DONE]\n\n"

    return StreamingResponse(chunks(), media_type="text/event-stream")


app = Starlette(
    routes=[
        Route("/events/{of}", events),
        Route("/most/{of}", most),
        Route("/digest", digest, methods=ANY),
        Mount("/mirror", mirror),
        Route("/page", page),
        Route("/data", data),
        Route("/count", count),
        Route("/step/{of}", step),
        Route("/stepwise", stepwise),
        Route("/sse", sse),
        Route("/work", work, methods=ANY),
        Route("/never", never, methods=ANY),
        Route("/redirect", redirect, methods=ANY),
        Route("/status/{code:int}", status, methods=ANY),
        Route("/cookies", cookies),
        WebSocketRoute("/socket", socket_echo),
        WebSocketRoute("/refuse", socket_refuse),
        Route("/v1/models", models),
        Route("/v1/chat/completions", completions, methods=["POST"]),
        Route("/{rest:path}", echo, methods=ANY),
    ]
)
