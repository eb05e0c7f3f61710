"""A service of language models with the three interfaces in use. What the model says is the credentials that the service was shown."""

import json

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

CREDENTIALS = ["authorization", "x-api-key", "api-key", "x-goog-api-key", "slime-app-password"]


def seen(request):
    return json.dumps({name: request.headers[name] for name in CREDENTIALS if name in request.headers})


async def openai(request):
    message = {"role": "assistant", "content": seen(request)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    common = {"id": "chatcmpl-1", "created": 1, "model": "small", "object": "chat.completion"}
    return JSONResponse({**common, "choices": [choice], "usage": usage})


async def anthropic(request):
    content = [{"type": "text", "text": seen(request)}]
    usage = {"input_tokens": 1, "output_tokens": 1}
    common = {"id": "msg_1", "type": "message", "role": "assistant", "model": "small", "stop_reason": "end_turn"}
    return JSONResponse({**common, "stop_sequence": None, "content": content, "usage": usage})


async def ollama(request):
    message = {"role": "assistant", "content": seen(request)}
    return JSONResponse({"model": "small", "created_at": "2026-01-01T00:00:00Z", "message": message, "done": True})


app = Starlette(
    routes=[
        Route("/v1/chat/completions", openai, methods=["POST"]),
        # As Azure's clients ask.
        Route("/v1/deployments/small/chat/completions", openai, methods=["POST"]),
        Route("/v1/messages", anthropic, methods=["POST"]),
        Route("/api/chat", ollama, methods=["POST"]),
    ]
)
