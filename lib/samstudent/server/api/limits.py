"""ASGI middleware with limits on the length of a request's address and body.

The bytes of a body are counted while it is read; a body that is too long ends with 413, with or without a
Content-Length. Only endpoints for files accept long bodies: other bodies are read into memory before the role of the
user is checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from samstudent.util.environment import whole_number

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

#: Longest JSON or plain form, bytes; clients send a few hundred points at most.
MAX_BODY = 1 << 20
#: Longest body of a viewer's STOW-RS request, bytes; in memory while it is forwarded to the PACS.
MAX_STORED = 512 << 20
#: Longest path and query, bytes.
MAX_ADDRESS = 16 << 10

#: Endpoints for files.
_UPLOADS = re.compile(r"/infer/[^/]+|/datastore/(image|label)?|/session/|/samstudent/annotate/[^/]+/(draft|label)")
#: OHIF stores at the WADO-RS address (``pacs/proxy.py``), so not ``stow`` alone.
_STORES = re.compile(r"/proxy/dicom/(?!qido/).+")


def max_upload() -> int:
    """Largest upload in bytes: environment variable ``SAMSTUDENT_MAX_UPLOAD``, default 2 GiB."""
    return whole_number("SAMSTUDENT_MAX_UPLOAD", 2 << 30, "bytes")


class _TooLong(Exception):
    """The body exceeded its limit while it was read."""


class RequestLimits:
    """Middleware.

    Args:
        app: next ASGI application.
        upload: longest form with files, bytes; None: ``max_upload``.
    """

    def __init__(self, app: App, upload: int | None = None) -> None:
        self.app = app
        self.upload = max_upload() if upload is None else upload

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_ADDRESS:
            await _refuse(send, 414, f"the address is longer than {MAX_ADDRESS} bytes")
            return
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        long = self._long_limit(scope, kind)
        limit = MAX_BODY if long is None else long
        length = headers.get(b"content-length", b"")
        too_long = f"the body is longer than {limit} bytes" + (
            "; SAMSTUDENT_MAX_UPLOAD sets the limit" if long == self.upload else ""
        )
        if length.isdigit() and int(length) > limit:
            await _refuse(send, 413, too_long)
            return
        try:
            await self._counted(scope, receive, send, limit)
        except _TooLong:
            await _refuse(send, 413, too_long)

    def _long_limit(self, scope: MutableMapping[str, Any], kind: bytes) -> int | None:
        """Limit of a request to an endpoint for files, bytes; None: another endpoint."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if kind == b"multipart/form-data" and _UPLOADS.fullmatch(path):
            return self.upload
        if kind == b"multipart/related" and scope["method"] == "POST" and _STORES.fullmatch(path):
            return min(self.upload, MAX_STORED)
        return None

    async def _counted(self, scope: MutableMapping[str, Any], receive: Receive, send: Send, limit: int) -> None:
        """Run the application and count the bytes that it reads."""
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
                raise _TooLong  # in place of the error that the application made of it
            begun = True
            await send(message)

        await self.app(scope, counted, watched)


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    # The rest of the body is not read, so the connection is closed.
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
