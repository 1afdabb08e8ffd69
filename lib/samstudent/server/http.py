"""HTTP application of one server: routers, middleware and exception handlers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from anyio import to_thread
from fastapi import APIRouter, Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from monailabel.config import settings
from starlette.middleware import Middleware

from samstudent import __version__
from samstudent.server.annotation import routes as annotation
from samstudent.server.annotation.service import AnnotationService
from samstudent.server.api import (
    active_learning,
    batch_inference,
    disabled_endpoints,
    images,
    inference,
    info,
    labels,
    login,
    logs,
    models,
    proxy,
    rounds,
    scoring,
    training,
    upload_session_routes,
)
from samstudent.server.api.exception_handlers import HANDLERS
from samstudent.server.api.limits import RequestLimits
from samstudent.server.auth.logins import OpenIdLogin
from samstudent.server.auth.middleware import Authentication
from samstudent.server.auth.roles import bearer_token
from samstudent.server.concurrency import THREADS
from samstudent.server.context import ServerContext
from samstudent.server.ohif import routes as ohif
from samstudent.server.ohif.files import STATIC
from samstudent.server.review_page import routes as review_page
from samstudent.server.review_page.service import ReviewService

#: Disabled endpoints first: ``/infer/wsi/{model}`` must match before ``/infer/{model}``.
ROUTERS: tuple[APIRouter, ...] = (
    disabled_endpoints.router,
    info.router,
    models.router,
    inference.router,
    batch_inference.router,
    training.router,
    active_learning.router,
    scoring.router,
    images.router,
    labels.router,
    logs.router,
    upload_session_routes.router,
    proxy.router,
    ohif.router,
    rounds.router,
    review_page.router,
    annotation.router,
)


def build(context: ServerContext, start: Callable[[], object] = lambda: None) -> FastAPI:
    """HTTP application of one server.

    Args:
        context: parts of the server.
        start: called before the first request.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        start()
        yield

    # pydantic appends a slash to each origin, so that none would match.
    origins = [str(origin).rstrip("/") for origin in settings.MONAI_LABEL_CORS_ORIGINS]
    app = FastAPI(
        title=context.name,
        version=__version__,
        docs_url="/",
        redoc_url="/docs",
        lifespan=lifespan,
        exception_handlers=HANDLERS,
        middleware=[
            # Only the configured sites may access the study through a user's browser. Outermost, because pages of these
            # sites need the headers on error responses, too.
            Middleware(
                CORSMiddleware,
                allow_origins=origins,
                allow_credentials=True,
                allow_methods=["*"],
                allow_headers=["*"],
            ),
            Middleware(Authentication, login=context.login, origins=origins, grants=context.grants),
            Middleware(RequestLimits),
        ],
    )
    app.state.context, app.state.review = context, ReviewService(context)
    app.state.annotation = AnnotationService(context, app.state.review)
    protected = [Depends(bearer_token)] if context.login else []
    for router in ROUTERS:
        app.include_router(router, dependencies=protected)
    if context.login is not None:
        app.include_router(login.router)
        app.include_router(login.openid_router if isinstance(context.login, OpenIdLogin) else login.form_router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/favicon.ico", include_in_schema=False)
    def get_icon() -> FileResponse:
        return FileResponse(STATIC / "favicon.ico", media_type="image/x-icon")

    return app
