"""Exception handlers: every error becomes a JSON response with a reason, and status 4xx for mistakes of the client."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

import requests
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelError,
    MONAILabelException,
)

from samstudent.errors import UserError, explain, status_of

logger = logging.getLogger(__name__)


def _response(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": detail}, status_code=status, headers=headers)


async def _user_error(request: Request, error: Exception) -> JSONResponse:
    after = getattr(error, "retry_after", None)
    return _response(getattr(error, "status", 400), str(error), None if after is None else {"Retry-After": str(after)})


async def _host_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, MONAILabelException)
    if isinstance(error, ImageNotFoundException | LabelNotFoundException) or "There is no" in error.msg:
        return _response(404, error.msg)
    return _response(400 if error.error == MONAILabelError.INVALID_INPUT else 500, error.msg)


async def _invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    status = 400 if any(e["type"] == "json_invalid" for e in error.errors()) else 422
    return _response(status, "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()))


async def _unreachable_server(request: Request, error: Exception) -> JSONResponse:
    logger.error("%s %s: %s", request.method, request.url.path, error)
    return _response(503, "no response from a server that this one depends on (PACS or login); see the log for details")


async def _system_error(request: Request, error: Exception) -> JSONResponse:
    """Full disk, read-only folder and the like; nothing was saved, because files are written atomically."""
    assert isinstance(error, OSError)
    status = status_of(error)
    if status == 500:
        logger.error("%s %s: %s", request.method, request.url.path, error, exc_info=error)
        return await _internal_error(request, error)
    logger.error("%s %s: %s", request.method, request.url.path, explain(error))
    full = "nothing was saved: " if status == 507 else ""
    return _response(status, full + explain(error))


async def _internal_error(request: Request, error: Exception) -> JSONResponse:
    return _response(500, f"internal error ({type(error).__name__}); see the server's log for details")


#: Handlers by exception class, for ``FastAPI(exception_handlers=...)``.
HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    UserError: _user_error,
    MONAILabelException: _host_error,
    RequestValidationError: _invalid_request,
    requests.RequestException: _unreachable_server,
    OSError: _system_error,
    Exception: _internal_error,
}
