"""Route class with limits on request bodies: strict JSON, parsed in a thread, and uploads with bounded memory.

FastAPI reads bodies by ``Request.json`` and ``Request.form``; both are overridden in a custom request class, as
documented by FastAPI.
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

#: Largest number of plain fields (at most 1 MiB each) and of files in a form, and bytes of each file in memory.
#: Starlette's defaults are 1000 fields and 1000 files of 1 MiB, all of them in memory.
MAX_FIELDS, MAX_FILES, IN_MEMORY = 20, 1000, 64 << 10


class _UploadParser(MultiPartParser):
    spool_max_size = IN_MEMORY


class BoundedRequest(Request):
    """Request with the limits above."""

    async def json(self) -> Any:
        """Parsed body; see ``strict_json``."""
        body = await self.body()
        try:
            # In a thread: on the event loop a body of 1 MiB would delay all other requests.
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
    """Route class of all routers: ``APIRouter(route_class=BoundedRoute)``."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            return await handler(BoundedRequest(request.scope, request.receive))

        return bounded
