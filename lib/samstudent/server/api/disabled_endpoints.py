"""What the host offers and this server does not: dangerous endpoints, other sites' pages, requests without a bound."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import monailabel.app as host
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from monailabel.config import settings
from monailabel.endpoints import logs, model, wsi_infer
from starlette.middleware import Middleware

from samstudent.errors import NotFound, UserError
from samstudent.server.api import limits


class Closed(UserError):
    """An endpoint of the host that this server does not offer (HTTP 403)."""

    status = 403


def restrict_origins(fastapi_app: FastAPI) -> list[str]:
    """By default the host lets every web page that a user visits read and write the study through his browser. Here no
    other site may, but those named in MONAI_LABEL_CORS_ORIGINS, which are returned."""
    # The host's own list ends each origin with a slash, so that none ever matches.
    origins = [str(origin).rstrip("/") for origin in settings.MONAI_LABEL_CORS_ORIGINS]
    for middleware in fastapi_app.user_middleware:
        if getattr(middleware.cls, "__name__", "") == CORSMiddleware.__name__:
            middleware.kwargs["allow_origins"] = origins
    return origins


def bound_requests(fastapi_app: FastAPI) -> None:
    """Let nobody send more than the limits."""
    limits.bound_forms()
    # Added first, so innermost: refusals, too, get the headers that pages of allowed origins need.
    if not any(getattr(middleware.cls, "__name__", "") == "Limits" for middleware in fastapi_app.user_middleware):
        fastapi_app.user_middleware.append(Middleware(limits.Limits))


def close_endpoints() -> None:
    """Refuse (403) what would break the server or its rounds."""

    def refuse(reason: str) -> Callable[..., Any]:
        def closed(*args: Any, **kwargs: Any) -> Any:
            raise Closed(reason)

        return closed

    rounds = "weights are replaced by promoting a round: POST /samstudent/rounds/<id>/promote"
    model.update_model = model.delete_model = refuse(rounds)
    whole_slide = refuse("whole-slide images are not supported; use POST /infer/<model>")
    wsi_infer.run_wsi_inference = whole_slide
    wsi_infer.json = SimpleNamespace(loads=whole_slide)  # what a form holds is read before, and not checked
    # After a reload the app no longer knows that it is a server, and calls itself until it hangs (E10).
    host.clear_cache = refuse("the app cannot be loaded again while it runs; restart the server")
    if not shutil.which("nvidia-smi"):
        message = "there is no nvidia-smi on this machine"

        def run(*args: Any, **kwargs: Any) -> Any:
            raise NotFound(message)

        logs.subprocess = SimpleNamespace(run=run, PIPE=None)
