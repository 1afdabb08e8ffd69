"""Limits of a request's address and body, as an ASGI middleware.

A body is counted while it is read, and ends with 413 where it is too long, whether or not the client says its length.
Only addresses that take files take long ones: elsewhere a body is read into memory before a role is asked for.
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

#: JSON and plain forms; the longest that a client sends are some hundred points.
MAX_BODY = 1 << 20
#: What a viewer stores in the PACS, mostly a DICOM SEG; it is kept in memory while it is passed on.
MAX_STORED = 512 << 20
#: Path and query of an address.
MAX_ADDRESS = 16 << 10

#: Addresses that take files.
_UPLOADS = re.compile(r"/infer/[^/]+|/datastore/(image|label)?|/session/")
#: OHIF stores where it retrieves (``pacs/proxy.py``), so not ``stow`` alone.
_STORES = re.compile(r"/proxy/dicom/(?!qido/).+")


def max_upload() -> int:
    """The largest upload in bytes: environment variable ``SAMSTUDENT_MAX_UPLOAD``, else 2 GiB."""
    return whole_number("SAMSTUDENT_MAX_UPLOAD", 2 << 30, "bytes")


class _TooLong(Exception):
    """The body went over its limit while it was read."""


class RequestLimits:
    """The middleware.

    Args:
        app: the next one.
        upload: bytes of a form with files; None: ``max_upload``.
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
            "; SAMSTUDENT_MAX_UPLOAD allows more" if long == self.upload else ""
        )
        if length.isdigit() and int(length) > limit:
            await _refuse(send, 413, too_long)
            return
        try:
            await self._counted(scope, receive, send, limit)
        except _TooLong:
            await _refuse(send, 413, too_long)

    def _long_limit(self, scope: MutableMapping[str, Any], kind: bytes) -> int | None:
        """The most bytes of a body that may be long; None: it may not."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if kind == b"multipart/form-data" and _UPLOADS.fullmatch(path):
            return self.upload
        if kind == b"multipart/related" and scope["method"] == "POST" and _STORES.fullmatch(path):
            return min(self.upload, MAX_STORED)
        return None

    async def _counted(self, scope: MutableMapping[str, Any], receive: Receive, send: Send, limit: int) -> None:
        """Count the body while it is read."""
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
                raise _TooLong  # the reader makes another error of ours; this one is right
            begun = True
            await send(message)

        await self.app(scope, counted, watched)


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    # What is left of the body is not read: the connection ends with the answer.
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
