"""``/logs``: end of the server's log, and state of its GPUs, as plain text."""

from __future__ import annotations

import shutil
import subprocess
from collections import deque
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse, PlainTextResponse, Response

from samstudent.errors import NotFound
from samstudent.server.api.bounded_route import BoundedRoute
from samstudent.server.auth.roles import require
from samstudent.server.context import Context

router = APIRouter(prefix="/logs", tags=["Others"], route_class=BoundedRoute)

#: Largest number of lines that are read into memory; a request with 0 lines returns the file.
MOST_LINES = 100_000


@router.get("/", summary="Last lines of the server's log", dependencies=[require("admin")])
def get_logs(
    context: Context,
    lines: Annotated[int, Query(description="number of lines; 0: the whole file")] = 300,
    html: Annotated[bool, Query(description="ignored: the response is always plain text")] = False,
    text: Annotated[bool, Query(description="ignored: the response is always plain text")] = True,
    refresh: Annotated[int, Query(description="ignored")] = 0,
) -> Response:
    if not context.log_file.is_file():
        raise NotFound(f"there is no log {context.log_file.name}")
    if lines <= 0:
        return FileResponse(context.log_file, media_type="text/plain")
    with context.log_file.open(encoding="utf-8", errors="replace") as log:
        return PlainTextResponse("".join(deque(log, min(lines, MOST_LINES))))


@router.get("/gpu", summary="Output of nvidia-smi", dependencies=[require("admin")])
def get_gpu() -> PlainTextResponse:
    program = shutil.which("nvidia-smi")
    if program is None:
        raise NotFound("nvidia-smi is not installed")
    return PlainTextResponse(subprocess.run([program], capture_output=True, text=True, timeout=60).stdout)
