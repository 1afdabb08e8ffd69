"""The reference page of the endpoints, from the routers of the server."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import APIRouter
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from samstudent.server.api import login
from samstudent.server.http import ROUTERS

_HEAD = """\
# Endpoints

All endpoints of the server, with the least role that a user needs where there is a [login](../how-to/login.md), and the
action that the audit log has a line about. How they behave: [HTTP](http.md). Parameters, bodies and answers in full:
`http://127.0.0.1:8000/docs` of a running server.
"""


def page() -> str:
    """The page, as Markdown."""
    parts = [_HEAD]
    for title, routers in (
        ("Always", ROUTERS),
        ("With a login", (login.router, login.openid_router, login.form_router)),
    ):
        parts += [f"## {title}\n", "| endpoint | parameters | role | audit | answer |\n|---|---|---|---|---|"]
        parts[-1] += "".join(f"\n{_row(route)}" for route in _routes(routers)) + "\n"
    return "\n".join(parts)


def _routes(routers: Iterable[APIRouter]) -> Iterator[APIRoute]:
    for router in routers:
        yield from (route for route in router.routes if isinstance(route, APIRoute) and route.include_in_schema)


def _row(route: APIRoute) -> str:
    known = dict(_bound(route.dependant))
    parameters = [field.alias for part in _all(route.dependant) for field in (*part.query_params, *part.body_params)]
    cells = [
        f"`{' '.join(sorted(route.methods))} {route.path}`",
        ", ".join(f"`{name}`" for name in dict.fromkeys(parameters)),
        known.get("role", ""),
        known.get("action", ""),
        " ".join((route.summary or inspect.getdoc(route.endpoint) or "").split("\n\n")[0].split()),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _all(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for inner in dependant.dependencies:
        yield from _all(inner)


def _bound(dependant: Dependant) -> Iterator[tuple[str, Any]]:
    """Arguments of the functions that made the dependencies: of ``require(role)``, of ``audited(action)``."""
    for part in _all(dependant):
        if inspect.isfunction(part.call):
            yield from inspect.getclosurevars(part.call).nonlocals.items()
