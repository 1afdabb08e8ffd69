"""Bounds of a request, kept before anything of the host reads it: its address, its body, the JSON in it.

An ASGI middleware. A body that is no upload is read here, checked, and handed on; an upload is counted while it
streams. Both end with 413 where they are too long, whether or not the client told the length. What is an upload is
told by its address, too: elsewhere the host reads a body into memory, whatever its type, before it asks for a role.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.formparsers import MultiPartParser
from starlette.requests import Request

from samstudent.server.api.json_text import strict_json
from samstudent.util.environment import whole_number

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

#: JSON and plain forms; the longest that a client sends are some hundred points.
MAX_BODY = 1 << 20
#: What a viewer stores in the PACS, mostly a DICOM SEG; it is kept in memory while it is passed on.
MAX_STORED = 512 << 20
#: Path and query of an address.
MAX_ADDRESS = 16 << 10
#: Fields of an upload that are no files (each of at most 1 MiB), its files, and bytes of each that are kept in memory.
MAX_FIELDS, MAX_FILES, IN_MEMORY = 20, 1000, 64 << 10

#: Addresses that take files.
_UPLOADS = re.compile(r"/infer/[^/]+|/datastore/(image|label)?|/session/")
#: OHIF stores where it retrieves (``pacs/proxy.py``), so not ``stow`` alone.
_STORES = re.compile(r"/proxy/dicom/(?!qido/).+")


def max_upload() -> int:
    """The largest upload in bytes: environment variable ``SAMSTUDENT_MAX_UPLOAD``, else 2 GiB."""
    return whole_number("SAMSTUDENT_MAX_UPLOAD", 2 << 30, "bytes")


def bound_forms() -> None:
    """Lower what starlette keeps in memory of one upload: by default 1000 fields and 1000 files of 1 MiB each."""
    MultiPartParser.spool_max_size = IN_MEMORY
    assert Request.form.__kwdefaults__ is not None
    Request.form.__kwdefaults__.update(max_fields=MAX_FIELDS, max_files=MAX_FILES)


class _TooLong(Exception):
    """The body went over its limit while it was read."""


class Limits:
    """The middleware.

    Args:
        app: the next one.
        upload: bytes of a form with files; None: ``max_upload``.
    """

    def __init__(self, app: App, upload: int | None = None) -> None:
        self.app = app
        self.upload = max_upload() if upload is None else upload
        #: Threads of their own: those of slow endpoints may all be taken.
        self._checks = CapacityLimiter(2)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_ADDRESS:
            await _refuse(send, 414, f"the address is longer than {MAX_ADDRESS} bytes")
            return
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        streamed = self._streamed(scope, kind)
        limit = MAX_BODY if streamed is None else streamed
        told = headers.get(b"content-length", b"")
        too_long = f"the body is longer than {limit} bytes" + (
            "; SAMSTUDENT_MAX_UPLOAD allows more" if streamed == self.upload else ""
        )
        if told.isdigit() and int(told) > limit:
            await _refuse(send, 413, too_long)
            return
        try:
            if streamed is not None:
                await self._stream(scope, receive, send, limit)
            else:
                await self._whole(scope, receive, send, kind)
        except _TooLong:
            await _refuse(send, 413, too_long)

    def _streamed(self, scope: MutableMapping[str, Any], kind: bytes) -> int | None:
        """The most bytes of a body that may be long; None: it may not."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if kind == b"multipart/form-data" and _UPLOADS.fullmatch(path):
            return self.upload
        if kind == b"multipart/related" and scope["method"] == "POST" and _STORES.fullmatch(path):
            return min(self.upload, MAX_STORED)
        return None

    async def _whole(self, scope: MutableMapping[str, Any], receive: Receive, send: Send, kind: bytes) -> None:
        """Read a short body, check what it says, and pass it on."""
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client is gone
            body += message.get("body", b"")
            if len(body) > MAX_BODY:
                raise _TooLong
            if not message.get("more_body"):
                break
        # Without a type the host reads it as JSON, too.
        if body and (not kind or kind.endswith(b"json")):
            try:
                # A thread's work: on the event loop a body of 1 MiB would keep all other requests for 80 ms.
                await to_thread.run_sync(strict_json, bytes(body), limiter=self._checks)
            except ValueError as error:
                await _refuse(send, 400, f"body: not valid JSON: {error}")
                return
        first: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]
        await self.app(scope, _replay(first, receive), send)

    async def _stream(self, scope: MutableMapping[str, Any], receive: Receive, send: Send, limit: int) -> None:
        """Count an upload while the host reads it."""
        read, over, begun = 0, False, False

        async def counted() -> Message:
            nonlocal read, over
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                over = True
                raise _TooLong
            return message

        async def watched(message: Message) -> None:
            nonlocal begun
            if over and not begun:
                raise _TooLong  # the host makes another error of ours; this one is right
            begun = True
            await send(message)

        await self.app(scope, counted, watched)


def _replay(messages: list[Message], receive: Receive) -> Receive:
    async def next_message() -> Message:
        return messages.pop(0) if messages else await receive()

    return next_message


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    # What is left of the body is not read: the connection ends with the answer.
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
