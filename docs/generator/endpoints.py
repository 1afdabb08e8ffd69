"""Reference page of the endpoints, from the routers of the server."""

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

All endpoints of the server, with the minimum role if the server has a [login](../how-to/login.md), and the action in
the audit log. Behaviour of the endpoints: [HTTP](http.md). Full description of parameters, bodies and responses:
`http://127.0.0.1:8000/docs` of a running server.
"""


def page() -> str:
    """Page in Markdown."""
    parts = [_HEAD]
    for title, routers in (
        ("All servers", ROUTERS),
        ("Servers with a login", (login.router, login.openid_router, login.form_router)),
    ):
        parts += [f"## {title}\n", "| endpoint | parameters | role | audit | response |\n|---|---|---|---|---|"]
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
    """Arguments of the factories of dependencies: the role of ``require``, the action of ``audited``."""
    for part in _all(dependant):
        if inspect.isfunction(part.call):
            yield from inspect.getclosurevars(part.call).nonlocals.items()
