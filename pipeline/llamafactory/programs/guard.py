"""What a model cannot take is refused before an answer begins; an answer that nobody waits for any more ends."""

import asyncio
import json
import threading

from answering import abandoned, context_of, tokens_of
from fastapi import HTTPException
from llamafactory.api.chat import _process_request
from llamafactory.api.protocol import ChatCompletionRequest
from pydantic import ValidationError

# Tokens of an answer, where a request does not say how many.
DEFAULT_TOKENS = 1024


class RefusedError(HTTPException):
    """A request that this model cannot take; `code` is OpenAI's word for it."""

    def __init__(self, message: str, code: str | None = None):
        super().__init__(400, message)
        self.code = code


class Guard:
    """In front of LLaMA-Factory's API: the client gets a reason, not half an answer.

    That API alone would generate on for a client that has gone, and have the next one wait for it.
    """

    def __init__(self, app, engine):
        self.app = app
        self.engine = engine
        self.context = context_of(engine)

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["path"] != "/v1/chat/completions":
            return await self.app(scope, receive, send)
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        try:
            body = self.checked(body)
        except HTTPException as refusal:
            error = {"message": refusal.detail, "type": "invalid_request_error", "code": getattr(refusal, "code", None)}
            answer = json.dumps({"error": error}, ensure_ascii=False).encode()
            kind = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
            await send({"type": "http.response.start", "status": refusal.status_code, "headers": kind})
            await send({"type": "http.response.body", "body": answer})
            return None
        headers = [(k, v) for k, v in scope["headers"] if k != b"content-length"]
        scope = {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}
        unread = [{"type": "http.request", "body": body, "more_body": False}]
        left = asyncio.Event()
        nobody_waits = threading.Event()  # for the thread that generates
        abandoned.set(nobody_waits)

        async def replay():
            if unread:
                return unread.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def watch():
            while (await receive())["type"] != "http.disconnect":
                pass
            left.set()

        answer, watching = asyncio.create_task(self.app(scope, replay, send)), asyncio.create_task(watch())
        await asyncio.wait({answer, watching}, return_when=asyncio.FIRST_COMPLETED)
        watching.cancel()
        if answer.done():
            return answer.result()
        nobody_waits.set()
        answer.cancel()
        await asyncio.wait({answer})
        return None

    def checked(self, body: bytes) -> bytes:
        """The request, with a length of its answer that fits. What LLaMA-Factory itself refuses stays as it is."""
        try:
            request = json.loads(body)
            parsed = ChatCompletionRequest.model_validate(request)
        except (ValueError, ValidationError):
            return body
        contents = [message.content for message in parsed.messages]
        if any(part.type != "text" for content in contents if isinstance(content, list) for part in content):
            raise RefusedError("this model takes text only")
        if parsed.stream and parsed.tools:
            raise RefusedError("calls of tools cannot be streamed")
        if parsed.stream and parsed.n > 1:
            raise RefusedError("of several answers none can be streamed: n must be 1")
        messages, system, tools, *_ = _process_request(parsed)
        tokens = tokens_of(self.engine, messages, system, tools)
        left = self.context - tokens
        if left < 1:
            raise RefusedError(
                f"the request is longer than the model's context: {tokens} tokens of {self.context}",
                "context_length_exceeded",
            )
        # The second is OpenAI's name for it today; LLaMA-Factory knows the first only.
        asked = parsed.max_tokens or request.get("max_completion_tokens") or DEFAULT_TOKENS
        if not isinstance(asked, int):
            raise RefusedError("max_completion_tokens must be a whole number")
        return json.dumps({**request, "max_tokens": min(asked, left)}).encode()
