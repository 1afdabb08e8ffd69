"""Routes whose bodies are read within bounds: JSON strictly and in a thread, uploads in little memory.

FastAPI reads a body by ``Request.json`` and ``Request.form``; here both are this server's own (FastAPI's documented way
of a custom request class).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from anyio import to_thread
from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser

from samstudent.server.api.json_text import strict_json

#: Fields of an upload that are no files (each of at most 1 MiB), its files, and bytes of each that are kept in memory.
#: Starlette's own bounds are 1000 fields and 1000 files of 1 MiB, all of them in memory.
MAX_FIELDS, MAX_FILES, IN_MEMORY = 20, 1000, 64 << 10


class _UploadParser(MultiPartParser):
    spool_max_size = IN_MEMORY


class BoundedRequest(Request):
    """Request whose body is read within the bounds above."""

    async def json(self) -> Any:
        """Value of the body; see ``strict_json``."""
        body = await self.body()
        try:
            # A thread's work: on the event loop a body of 1 MiB would keep all other requests waiting.
            return await to_thread.run_sync(strict_json, body)
        except ValueError as error:
            raise HTTPException(400, f"body: not valid JSON: {error}") from error

    async def form(self, **limits: Any) -> FormData:  # type: ignore[override]
        """Fields and files of the body."""
        limits = {"max_fields": MAX_FIELDS, "max_files": MAX_FILES, **limits}
        if not self.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            return await super().form(**limits)
        try:
            return await _UploadParser(self.headers, self.stream(), **limits).parse()
        except MultiPartException as error:
            raise HTTPException(400, error.message) from error


class BoundedRoute(APIRoute):
    """Route of every router here: ``APIRouter(route_class=BoundedRoute)``."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            return await handler(BoundedRequest(request.scope, request.receive))

        return bounded
